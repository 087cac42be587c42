"""The time from the sender's connect to the start of the callable, one task at a time on an idle server."""

import contextlib
import os
import random
import select
import socket
import time
from collections.abc import Iterator

from load import BenchError
from plan import Bench
from report import Row, compare
from servers import Server

PACKET = b"\x11\x2f\x00\x00" + b"".join(
    len(word).to_bytes(2, "little") + word for word in (b"Name", b"Serena", b"System", b"Linux", b"Tizio", b"Caio")
)


def latency(bench: Bench) -> list[Row]:
    """From the sender's connect to the start of the callable, one task at a time."""

    def uwsgi() -> list[float]:
        with _fifo(bench) as (fifo, path):
            with bench.servers.uwsgi(bench.servers.path("spool"), app="stamp_uwsgi", BENCH_FIFO=path) as server:
                return _latencies(server, fifo, bench.plan.samples)

    def ours(sync: str) -> list[float]:
        with _fifo(bench) as (fifo, path):
            spool = bench.servers.path("spool")
            with bench.servers.node(spool, "--sync", sync, app="stamp:stamp", BENCH_FIFO=path) as server:
                return _latencies(server, fifo, bench.plan.samples)

    runs = bench.in_turn({"uwsgi": uwsgi, "ours always": lambda: ours("always"), "ours none": lambda: ours("none")})
    rows = []
    for sync in ("always", "none"):
        for share, name in ((0.50, "p50"), (0.99, "p99")):
            mine, theirs = (
                [sorted(run)[int(share * (len(run) - 1))] * 1e6 for run in runs[side]] for side in (f"ours {sync}", "uwsgi")
            )
            rows.append(compare("latency", f"connect to start of the callable, --sync {sync}: {name}", "us", mine, theirs))
    return rows


@contextlib.contextmanager
def _fifo(bench: Bench) -> Iterator[tuple[int, str]]:
    path = bench.servers.path("fifo")
    os.mkfifo(path)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fifo, str(path)
    finally:
        os.close(fifo)


def _latencies(server: Server, fifo: int, samples: int) -> list[float]:
    server.wait_ready()
    results = []
    for number in range(samples + 5):
        begin = time.clock_gettime(time.CLOCK_MONOTONIC)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(PACKET)
            if connection.recv(4) != b"\xff\x00\x00\x01":
                raise BenchError(f"a task was not taken: {server.last_words()}")
        if not select.select([fifo], [], [], 10)[0]:
            raise BenchError(f"a task was not run within 10 s: {server.last_words()}")
        if number >= 5:  # the first ones find cold code
            results.append(float(os.read(fifo, 100)) - begin)
        else:
            os.read(fifo, 100)
        time.sleep(random.uniform(0.005, 0.015))  # idle again: uWSGI's spooler has gone back to sleep
    return results
