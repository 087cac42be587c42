"""How long acknowledgements pause when the server that has the tasks of a common store is killed."""

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from engines import migrated, nats, postgres
from latency import PACKET, STORED
from load import BenchError
from plan import Bench
from report import Row, compare

STREAM = "spoolnode"
BEFORE_SECONDS, AFTER_SECONDS = 2.0, 15.0
"""How long tasks are sent before the kill, and at least after it: the others choose a leader in less."""
LIMIT = 60.0
AGAIN_SECONDS = 0.02
"""The pause of a sender that was refused."""

Engine = Callable[[Bench], AbstractContextManager[tuple[str, Callable[[], None]]]]
"""Starts servers. Gives the address of a store, and a function that kills the first server."""


def failover(bench: Bench) -> list[Row]:
    """A client sends one task after the other to one node."""
    engines: dict[str, tuple[str, Engine]] = {
        "nats": ("NATS, its leader is killed", _nats),
        "postgres": ("PostgreSQL, it is killed and its standby promoted at once", _postgres),
    }
    rows = []
    for name in [name for name in engines if name in bench.sides]:
        what, engine = engines[name]
        runs = bench.in_turn(
            {f"ours {away}": lambda away=away, engine=engine: _pause(bench, engine, away) for away in ("refuse", "accept")},
            pairs=bench.plan.cluster_pairs,
        )
        for side, seconds in runs.items():
            told = f"{what}: longest time without an acknowledgement, --store-away {side.split()[1]}"
            rows.append(compare("store-failover", told, "s", seconds, beside=""))
    return rows


@contextlib.contextmanager
def _nats(bench: Bench) -> Iterator[tuple[str, Callable[[], None]]]:
    with nats(bench) as three:
        yield migrated(bench, three.url), lambda: three.leader(STREAM).crash()


@contextlib.contextmanager
def _postgres(bench: Bench) -> Iterator[tuple[str, Callable[[], None]]]:
    """What decides to promote, such as Patroni, is not measured."""
    with postgres(bench, syncs=True) as primary, primary.standby(bench) as standby:

        def kill() -> None:
            primary.server.crash()
            standby.promote()

        yield primary.url_with(standby, primary.fresh(bench)), kill


def _pause(bench: Bench, engine: Engine, away: str) -> float:
    """The longest time between two acknowledgements."""
    spool = bench.servers.path("spool")
    with engine(bench) as (url, kill), bench.servers.node(spool, "--store", url, "--store-away", away) as node:
        node.wait_ready()
        acknowledged = _sent(node.port, time.monotonic() + BEFORE_SECONDS)
        kill()
        acknowledged += _sent(node.port, time.monotonic() + AFTER_SECONDS)
    return max(later - earlier for earlier, later in itertools.pairwise(acknowledged))


def _sent(port: int, until: float) -> list[float]:
    """When tasks were acknowledged: until then, and the last one after that."""
    times: list[float] = []
    while not times or times[-1] < until:
        if time.monotonic() > until + LIMIT:
            raise BenchError(f"no acknowledgement for {LIMIT:.0f} s")
        if _is_taken(port):
            times.append(time.monotonic())
        else:
            time.sleep(AGAIN_SECONDS)
    return times


def _is_taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(PACKET)
        return connection.recv(4) == STORED
    return False
