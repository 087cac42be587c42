"""The time from the sender's connect to the start of the callable, one task at a time on an idle server."""

import os
import random
import select
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from load import BenchError
from plan import Bench
from report import Row, compare
from servers import Server

WORDS = [b"Name", b"Serena", b"System", b"Linux", b"Tizio", b"Caio"]


def block_of(words: Sequence[bytes]) -> bytes:
    """Names and values in turn, as a block of variables."""
    return b"".join(len(word).to_bytes(2, "little") + word for word in words)


BLOCK = block_of(WORDS)
PACKET = b"\x11" + len(BLOCK).to_bytes(2, "little") + b"\x00" + BLOCK
STORED = b"\xff\x00\x00\x01"
WARM_UP = 5
"""Tasks at the beginning that do not count: code is cold."""


def latency(bench: Bench) -> list[Row]:
    """From the sender's connect to the start of the callable, one task at a time."""

    def uwsgi() -> list[float]:
        spool, fifo = bench.servers.path("spool"), Fifo(bench.servers.path("fifo"))
        with fifo, bench.servers.uwsgi(spool, app="stamp_uwsgi", environment=fifo.environment) as server:
            return _latencies(server, fifo, bench.plan.samples)

    def ours(sync: str) -> list[float]:
        spool, fifo = bench.servers.path("spool"), Fifo(bench.servers.path("fifo"))
        options = ["--sync", sync]
        with fifo, bench.servers.node(spool, *options, app="stamp:stamp", environment=fifo.environment) as server:
            return _latencies(server, fifo, bench.plan.samples)

    runs = bench.in_turn({"uwsgi": uwsgi, "ours always": lambda: ours("always"), "ours none": lambda: ours("none")})
    rows = []
    for sync in ("always", "none"):
        for share, name in ((0.50, "p50"), (0.99, "p99")):
            mine = [percentile(run, share) for run in runs[f"ours {sync}"]]
            theirs = [percentile(run, share) for run in runs["uwsgi"]]
            what = f"connect to start of the callable, --sync {sync}: {name}"
            rows.append(compare("latency", what, "us", mine, theirs))
    return rows


def percentile(seconds: list[float], share: float) -> float:
    """Seconds as microseconds."""
    return sorted(seconds)[int(share * (len(seconds) - 1))] * 1e6


class Fifo:
    """The time stamps that the application writes when it is called."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.environment = {"BENCH_FIFO": str(path)}
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def __enter__(self) -> "Fifo":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def read(self, limit: float) -> float | None:
        """The time of its call; None if it was not called within `limit` seconds."""
        if not select.select([self._handle], [], [], limit)[0]:
            return None
        return float(os.read(self._handle, 100))


def _latencies(server: Server, fifo: Fifo, samples: int) -> list[float]:
    server.wait_ready()
    results = []
    for _ in range(samples + WARM_UP):
        begin = time.clock_gettime(time.CLOCK_MONOTONIC)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(PACKET)
            if connection.recv(4) != STORED:
                raise BenchError(f"a task was not taken: {server.last_words()}")
        called = fifo.read(10)
        if called is None:
            raise BenchError(f"a task was not run within 10 s: {server.last_words()}")
        results.append(called - begin)
        time.sleep(random.uniform(0.005, 0.015))  # until uWSGI's spooler sleeps again: before that it takes no wake-up
    return results[WARM_UP:]
