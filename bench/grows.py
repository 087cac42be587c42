"""Costs that may grow with the backlog: pauses of the node's loop, and an operator's waits, beside few tasks and beside many.

Run as a program (`grows.py PORT`) it is the pulse: it pings a node until its standard input ends, and prints how long
each answer took.
"""

import contextlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import proc
from plan import Bench, say, wait_for
from report import Row, Target, compare
from servers import Server, ping, status

from spoolnode.protocol.packet import EXTENDED, SPOOL_REQUEST, encode_variables, packet

DAY = 86_400
WINDOW = 2000
"""Requests that are sent before their answers are read."""
GHOSTS = (1_000, 5_000)
"""Made-up destinations."""
FAILING = 20_000
"""Tasks that fail."""
HELD_SECONDS = 5.0
"""Seconds in which tasks are given up and watched."""
PULSE_SECONDS = 0.002
"""Seconds between two pings."""

Task = list[tuple[bytes, bytes]]


def grows(bench: Bench) -> list[Row]:
    """Each case at each size."""
    if "ours" not in bench.sides:
        return []
    rows: list[Row] = []
    for size in bench.plan.grows:
        say(f"ours, {size:,} waiting")
        rows += _later(bench, size)
        rows += _held(bench, min(size, 100_000))
        rows += _dead(bench, min(size, 50_000))
        rows += _priorities(bench, min(size, 100_000))
    rows += _failing(bench)
    for size in GHOSTS:
        rows += _destinations(bench, size)
    return rows


def _later(bench: Bench, size: int) -> list[Row]:
    """Tasks that are due tomorrow; then batches settle beside them, one is hurried and one removed."""
    spool = bench.servers.path("spool")
    with bench.servers.node(spool) as node:
        node.wait_ready()
        base = proc.tree_memory_mb(node.pid)[0]
        tomorrow = b"%d" % (time.time() + DAY)
        _send(node.port, ([(b"n", b"%d" % n), (b"at", tomorrow)] for n in range(size)))
        each = (proc.tree_memory_mb(node.pid)[0] - base) * 2**20 / size
        time.sleep(2.5)  # the last batch is closed: new tasks go into another one
        with _pulse(node) as pulse:
            for _ in range(3):
                _send(node.port, [[(b"n", b"x"), (b"at", tomorrow)]] * 50)
                wait_for(lambda: len(_files(spool)) >= 50, node, "a batch settles")
                for path in _files(spool):
                    path.unlink()
        ids = _send(node.port, [[(b"n", b"y"), (b"at", tomorrow)]] * 2)
        hurried = timed(spool, "POST", f"/tasks/{ids[0]}/retry")
        removed = timed(spool, "DELETE", f"/tasks/{ids[1]}")
    what = f"{size:,} tasks due tomorrow"
    return [
        _row(f"{what}: memory of each", "B", each),
        _row("  a batch settles: the loop's longest pause", "ms", pulse[-1], 20),
        _row("  and the 99th percentile", "ms", pulse[len(pulse) * 99 // 100], 20),
        _row("  retry of one", "ms", hurried, 5),
        _row("  rm of one", "ms", removed, 5),
    ]


def _held(bench: Bench, size: int) -> list[Row]:
    """Tasks for a node that never comes, with their hold over: they are given up as fast as the disk allows."""
    spool = bench.servers.path("spool")
    ghost = spool / "outbox" / "ghost"
    with bench.servers.node(spool) as node:
        node.wait_ready()  # the directory is made
    ghost.mkdir()
    content = packet(SPOOL_REQUEST, encode_variables([(b"n", b"1"), (b"spool_node", b"ghost")]))
    moment, node_id = int((time.time() - DAY) * 1e6), (spool / "node.id").read_text().strip()
    first = int(time.time() - DAY) << 32  # the numbers of an earlier start
    for n in range(size):
        file = ghost / f"uwsgi_spoolfile_on_{node_id}_{moment}_{n * 8 + 16}@{first + n}"
        file.write_bytes(content)
        os.utime(file, (time.time() - DAY,) * 2)  # when it was accepted
    with bench.servers.node(spool, "--hold", "60") as node:
        node.wait_ready(600)
        before, begin = status(node.port)["outbox_total"], time.monotonic()
        with _pulse(node) as pulse:
            time.sleep(HELD_SECONDS)
        given_up = before - status(node.port)["outbox_total"]
        rate = given_up / (time.monotonic() - begin)
    what = f"{size:,} tasks in files of outbox/ whose --hold is over"
    return [_row(f"{what}: given up", "tasks/s", rate), _row("  the loop's longest pause", "ms", pulse[-1], 20)]


def _dead(bench: Bench, size: int) -> list[Row]:
    """Many dead tasks; an operator looks at the first hundred."""
    spool = bench.servers.path("spool")
    with bench.servers.node(spool) as node:
        node.wait_ready()
        content = packet(SPOOL_REQUEST, encode_variables([(b"n", b"1"), (b"spool_reason", b"it failed")]))
        for n in range(size):
            (spool / "dead" / f"uwsgi_spoolfile_on_bench_{secrets.token_hex(4)}_{n}").write_bytes(content)
        with _pulse(node) as pulse:
            took = timed(spool, "GET", "/tasks?state=dead&limit=100")
            first = timed(spool, "GET", "/dead")
            again = timed(spool, "GET", "/dead")
    return [
        _row(f"{size:,} dead tasks: the first hundred", "ms", took, 300),
        _row("  counted by kind, for the first time", "ms", first),
        _row("  and again", "ms", again, 1000),
        _row("  the loop's longest pause", "ms", pulse[-1], 20),
    ]


def _failing(bench: Bench) -> list[Row]:
    """Tasks that fail with long reasons, and wait for their next attempt."""
    options = "--retry-base", "1h", "--log-level", "error"
    with bench.servers.node(bench.servers.path("spool"), *options, app="failing:fail") as node:
        node.wait_ready()
        _send(node.port, [[(b"n", b"x")]] * 100)
        wait_for(lambda: status(node.port)["retrying"] == 100, node, "the first have failed", 60)
        base = proc.rss_mb(node.pid)
        _send(node.port, [[(b"n", b"x")]] * FAILING)
        wait_for(lambda: status(node.port)["retrying"] == FAILING + 100, node, "all have failed", 300)
        each = (proc.rss_mb(node.pid) - base) * 2**20 / FAILING
    return [_row(f"{FAILING:,} tasks that failed with reasons of 12 KB: memory of each", "B", each, 1000)]


def _priorities(bench: Bench, size: int) -> list[Row]:
    """Every task has a priority of its own."""
    spool = bench.servers.path("spool")
    with bench.servers.node(spool) as node:
        node.wait_ready()
        _send(node.port, ([(b"n", b"1"), (b"priority", b"%d" % n)] for n in range(size)))
        timed(spool, "GET", "/node")
        with _pulse(node) as pulse:
            took = min(timed(spool, "GET", "/node") for _ in range(10))
    return [
        _row(f"{size:,} tasks, each with a priority of its own: status", "ms", took, 5),
        _row("  the loop's longest pause", "ms", pulse[-1], 20),
    ]


def _destinations(bench: Bench, size: int) -> list[Row]:
    """A task for each of many nodes that do not exist."""
    with bench.servers.node(bench.servers.path("spool")) as node:
        node.wait_ready()
        with _pulse(node) as burst:
            _send(node.port, ([(b"n", b"1"), (b"spool_node", b"ghost-%d" % n)] for n in range(size)))
        with _pulse(node) as pulse:
            time.sleep(5.0)  # a few rounds of housekeeping
    return [
        _row(f"tasks for {size:,} made-up destinations: the loop's longest pause", "ms", pulse[-1], 50),
        _row(f"  while they came, {WINDOW:,} at once", "ms", burst[-1]),
    ]


def _row(what: str, unit: str, figure: float, most: float = 0) -> Row:
    return compare("grows", what, unit, [figure], target=Target("most", most) if most else None, beside="")


def _send(port: int, tasks: Iterable[Task]) -> list[str]:
    """Pipelines tasks. Returns their ids."""
    ids: list[str] = []
    waiting = iter(tasks)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as answers:
        while block := [
            packet(SPOOL_REQUEST, encode_variables(task), EXTENDED) for _, task in zip(range(WINDOW), waiting, strict=False)
        ]:
            connection.sendall(b"".join(block))
            for _ in block:
                size = int.from_bytes(answers.read(4)[1:3], "little")
                ids.append(answers.read(size).partition(b"spool_id")[2][2:].decode())
    return ids


def timed(spool: Path, method: str, path: str) -> float:
    """Sends a request to the control socket. Returns the milliseconds until its answer."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(spool / "control.sock"))
    with contextlib.closing(connection):
        begin = time.perf_counter()
        connection.request(method, f"/api/v1{path}")
        answer = connection.getresponse()
        content = answer.read()
        took = (time.perf_counter() - begin) * 1000
    if answer.status >= 400:
        raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]!r}")
    return took


def _files(spool: Path) -> list[Path]:
    return [path for path in spool.iterdir() if path.name.startswith("uwsgi_spoolfile_on_")]


@contextlib.contextmanager
def _pulse(node: Server) -> Iterator[list[float]]:
    """Milliseconds that each ping took meanwhile, sorted."""
    taken: list[float] = []
    beating = subprocess.Popen([sys.executable, __file__, str(node.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield taken
    finally:
        said, _ = beating.communicate()
        answer: Any = json.loads(said)
        taken += answer


def main() -> None:
    """Runs the code within, and returns the pulse."""
    os.set_blocking(0, False)
    taken = []
    while True:
        begin = time.perf_counter()
        ping(int(sys.argv[1]))
        taken.append((time.perf_counter() - begin) * 1000)
        with contextlib.suppress(BlockingIOError):
            if os.read(0, 1) == b"":
                break
        time.sleep(PULSE_SECONDS)
    print(json.dumps(sorted(taken)))


if __name__ == "__main__":
    main()
