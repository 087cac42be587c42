"""How long acknowledgements pause when the server that leads the tasks of a common store is killed."""

import contextlib
import itertools
import socket
import time

from engines import migrated, nats
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


def failover(bench: Bench) -> list[Row]:
    """A client sends one task after the other to one node."""
    if "nats" not in bench.sides:
        return []
    runs = bench.in_turn(
        {"ours refuse": lambda: _pause(bench, "refuse"), "ours accept": lambda: _pause(bench, "accept")},
        pairs=bench.plan.cluster_pairs,
    )
    what = "NATS, its leader is killed: longest time without an acknowledgement"
    return [
        compare("store-failover", f"{what}, --store-away {side.split()[1]}", "s", seconds, beside="")
        for side, seconds in runs.items()
    ]


def _pause(bench: Bench, away: str) -> float:
    """The longest time between two acknowledgements."""
    with nats(bench) as three:
        options = ["--store", migrated(bench, three.url), "--store-away", away]
        with bench.servers.node(bench.servers.path("spool"), *options) as node:
            node.wait_ready()
            acknowledged = _sent(node.port, time.monotonic() + BEFORE_SECONDS)
            three.leader(STREAM).crash()
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
