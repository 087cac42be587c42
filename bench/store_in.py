"""Tasks into a common store: how fast one node acknowledges them, beside a client that publishes each by itself, and beside the
same node with its disk alone. Each acknowledgement comes after a sync.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import proc
from engines import Database, migrated, nats, postgres
from load import BenchError
from plan import Bench
from report import Row, Target, compare
from servers import APPS, Server

CLIENTS = (1, 64)
"""That wait for an answer at once, each on a connection that it keeps."""
PIPELINED = "pipelined"
DISK = "the same node without a store"


class Taken(NamedTuple):
    """One run under load."""

    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float = 0.0
    """Of the node, a task."""


Runs = dict[object, Taken]
"""By how many clients waited, or `PIPELINED`."""
Opened = Callable[[], AbstractContextManager[str]]
"""Gives the address of something new within."""


class Engine(NamedTuple):
    """An engine, and how it is measured."""

    side: str
    name: str
    client: str
    store: Opened
    raw: Opened
    """Without a store in it, for the client alone."""


def store_in(bench: Bench) -> list[Row]:
    """Both engines."""
    rows = []
    if "postgres" in bench.sides:
        with postgres(bench, syncs=True) as database:
            rows += _measured(bench, Engine("postgres", "PostgreSQL", "psycopg", *_databases(bench, database)))
    if "nats" in bench.sides:
        rows += _measured(bench, Engine("nats", "NATS", "nats-py", lambda: _servers(bench, made=True), lambda: _servers(bench)))
    return rows


def _databases(bench: Bench, server: Database) -> tuple[Opened, Opened]:
    return lambda: contextlib.nullcontext(server.fresh(bench)), lambda: contextlib.nullcontext(server.empty())


@contextlib.contextmanager
def _servers(bench: Bench, *, made: bool = False) -> Iterator[str]:
    with nats(bench) as three:
        yield migrated(bench, three.url) if made else three.addresses


def _measured(bench: Bench, engine: Engine) -> list[Row]:
    runs = bench.in_turn(
        {
            "ours store": lambda: _with_store(bench, engine),
            f"{engine.side} raw": lambda: _raw(bench, engine),
            "ours disk": lambda: _node(bench),
        },
        pairs=bench.plan.cluster_pairs,
    )
    mine, raw, disk = runs["ours store"], runs[f"{engine.side} raw"], runs["ours disk"]
    return [
        *_rows(engine.name, mine, raw, f"{engine.client}, a message or a commit for each task", {64: 3.0, PIPELINED: 10.0}),
        *_rows(engine.name, mine, disk, DISK, {}),
    ]


def _rows(name: str, mine: list[Runs], other: list[Runs], beside: str, targets: dict[object, float]) -> list[Row]:
    rows = []
    for kind in (*CLIENTS, PIPELINED):
        theirs = kind if other and kind in other[0] else CLIENTS[-1]  # a client that does not pipeline, at its best
        target = Target("ratio", targets[kind]) if kind in targets else None
        what = f"{name}, acknowledged: {kind} waiting" if kind in CLIENTS else f"{name}, acknowledged: {kind}"
        note = "" if theirs == kind else f"the other: {theirs} waiting"
        sides = [run[kind] for run in mine], [run[theirs] for run in other]
        rates, p50s, p99s, cpus = ([[run[at] for run in side] for side in sides] for at in range(4))
        rows += [
            compare("store-in", what, "tasks/s", *rates, target=target, beside=beside, note=note),
            compare("store-in", "  until the answer: p50", "us", *p50s, beside=beside),
            compare("store-in", "  until the answer: p99", "us", *p99s, beside=beside),
        ]
        if beside == DISK:
            rows.append(compare("store-in", "  CPU of the node", "us/task", *cpus, beside=beside))
    return rows


def _with_store(bench: Bench, engine: Engine) -> Runs:
    with engine.store() as url:
        return _node(bench, "--store", url)


def _node(bench: Bench, *options: str) -> Runs:
    """A node without workers."""
    plan = bench.plan
    with bench.servers.node(bench.servers.path("spool"), *options) as server:
        server.wait_ready()
        runs: Runs = {clients: _taken(bench, server, clients, 1, plan.seconds) for clients in CLIENTS}
        runs[PIPELINED] = _taken(bench, server, plan.connections, plan.window, 2 * plan.seconds)
        return runs


def _taken(bench: Bench, server: Server, connections: int, window: int, seconds: float) -> Taken:
    bench.load.extended(server.port, connections=connections, window=window, seconds=0.1)
    before = proc.tree_cpu_seconds(server.pid)
    load = bench.load.extended(server.port, connections=connections, window=window, seconds=seconds)
    return Taken(load.rate, load.p50_us, load.p99_us, (proc.tree_cpu_seconds(server.pid) - before) / load.ok * 1e6)


def _raw(bench: Bench, engine: Engine) -> Runs:
    with engine.raw() as url:
        return {clients: _raw_client(engine.side, url, clients, bench.plan.seconds) for clients in CLIENTS}


def _raw_client(side: str, url: str, clients: int, seconds: float) -> Taken:
    command = [sys.executable, str(APPS / "raw.py"), side, url, str(clients), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
    if done.returncode:
        raise BenchError(f"raw.py {side}: {done.stderr[-600:]}")
    return Taken(**json.loads(done.stdout))
