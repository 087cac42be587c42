"""Two nodes on loopback that know each other: alpha takes tasks for beta."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plan import Bench, wait_for
from servers import Server, free_port, status

ALPHA, BETA = "alpha", "beta"


@dataclass
class Pair:
    """The two nodes. Beta can stop and come back, on the same port and spool."""

    bench: Bench
    alpha: Server
    beta_port: int
    beta_options: list[str]
    app: str
    environment: dict[str, str]
    spool: Path
    _beta: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start_beta(self) -> Server:
        """Starts it, and returns before it is ready."""
        servers = self.bench.servers
        node = servers.node(
            self.spool, *self.beta_options, app=self.app, environment=self.environment, port=self.beta_port,
            discover=f"static://127.0.0.1:{self.alpha.port}",
        )  # fmt: skip
        self.beta = self._beta.enter_context(node)
        return self.beta

    def stop_beta(self) -> None:
        """Stops it in the ordinary way."""
        self._beta.close()

    def wait_known(self) -> None:
        """Returns when alpha knows that beta is up."""
        self.beta.wait_ready()
        wait_for(lambda: status(self.alpha.port)["peers"].get("up") == 1, self.alpha, "alpha has not found beta")

    def accepted(self) -> int:
        """Tasks that are safe on beta's disk, since its start."""
        return int(status(self.beta_port)["accepted"])


@contextlib.contextmanager
def pair(bench: Bench, *, app: str = "", environment: dict[str, str] | None = None, tls: bool = False) -> Iterator[Pair]:
    """Two fresh nodes that have found each other. `app` is beta's, with one worker; alpha has none."""
    servers, port = bench.servers, free_port()
    trust = servers.certificates(ALPHA, BETA) if tls else {ALPHA: [], BETA: []}
    options = [*trust[ALPHA], "--name", ALPHA]
    with servers.node(servers.path("alpha"), *options, discover=f"static://127.0.0.1:{port}") as alpha:
        alpha.wait_ready()
        two = Pair(bench, alpha, port, [*trust[BETA], "--name", BETA], app, environment or {}, servers.path("beta"))
        try:
            two.start_beta()
            two.wait_known()
            yield two
        finally:
            two.stop_beta()
