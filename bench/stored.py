"""A common store: how fast one node runs what waits there, beside the same node with the same backlog on its own disk."""

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import proc
from drain import backlog, flush, wait_loaded
from engines import Database, postgres
from plan import Bench
from report import Row, compare
from servers import Server, status

NO_STORE: list[str] = []
WORKERS = ["--app", "noop:noop", "--workers", "2"]


class Drained(NamedTuple):
    """One backlog, run by one node with two workers."""

    rate: float
    node_us: float
    """CPU of the node and its workers, a task."""


def store(bench: Bench) -> list[Row]:
    """A backlog of no-op tasks in PostgreSQL and on the disk."""
    if not {"ours", "postgres"} <= bench.sides:
        return []
    tasks = bench.plan.store_tasks
    with postgres(bench, syncs=False) as database:
        runs = bench.in_turn(
            {"ours disk": lambda: _from_disk(bench, tasks), "ours store": lambda: _from_store(bench, tasks, database)}
        )
    names = {"ours": runs["ours store"], "other": runs["ours disk"]}
    rates, costs = ([[run[at] for run in side] for side in names.values()] for at in (0, 1))
    beside = "its own disk"
    return [
        compare("store", f"{tasks:,} waiting in PostgreSQL, two workers", "tasks/s", *rates, beside=beside),
        compare("store", "  CPU of the node and its workers", "us/task", *costs, beside=beside),
    ]


def _from_disk(bench: Bench, tasks: int) -> Drained:
    spool = bench.servers.path("spool")
    shutil.copytree(backlog(bench, tasks), spool, ignore=shutil.ignore_patterns("*.sock"))
    flush(spool)
    return _drained(bench, spool, NO_STORE, tasks)


def _from_store(bench: Bench, tasks: int, database: Database) -> Drained:
    options = ["--store", database.fresh(bench)]
    spool = bench.servers.path("spool")
    with bench.servers.node(spool, *options) as server:
        server.wait_ready()
        bench.load.extended(server.port, connections=8, window=256, tasks=tasks)
    return _drained(bench, spool, options, tasks)


def _drained(bench: Bench, spool: Path, options: Sequence[str], tasks: int) -> Drained:
    """From the moment when the first worker has loaded the application until the node says that all are done."""
    stamp = bench.servers.path("stamp")
    with bench.servers.node(spool, *options, *WORKERS, environment={"BENCH_STAMP": str(stamp)}) as server:
        _, start = wait_loaded(server, stamp)
        before = proc.tree_cpu_seconds(server.pid)
        while _done(server) < tasks:
            server.check(60 + tasks / 200)
            time.sleep(0.02)
        seconds = time.monotonic() - start
        return Drained(tasks / seconds, (proc.tree_cpu_seconds(server.pid) - before) / tasks * 1e6)


def _done(server: Server) -> int:
    with contextlib.suppress(OSError):  # it does not listen yet
        return int(status(server.port)["done"])
    return 0
