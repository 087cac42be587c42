"""What a common store costs while nothing happens, and what a deep backlog in it costs those who look or take."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import proc
from drain import wait_loaded
from engines import migrated, nats, postgres
from grows import timed
from load import BenchError
from plan import Bench, say
from report import Row, Target, compare
from servers import APPS

SETTLE_SECONDS = 5.0
"""Seconds after its start in which a node still has something to do."""
LOOKS = 20
"""Takes, and questions of an operator, in one run."""
FLAT = Target("ratio", 0.5)
"""Among so many more tasks, nothing takes more than twice as long."""
TAKEN = (1, 100)


class Opened(NamedTuple):
    """A store that is empty at first."""

    url: str
    pids: list[int]
    """Its servers."""


def idle(bench: Bench) -> list[Row]:
    """A node with one worker and nothing to do, which knows the other nodes through its store: there are none."""
    if "ours" not in bench.sides:
        return []
    rows = []
    seconds = bench.plan.watch_seconds
    for name in _engines(bench):
        with _opened(bench, name) as store:
            stamp = bench.servers.path("stamp")
            options, environment = ["--store", store.url], {"BENCH_STAMP": str(stamp)}
            spool = bench.servers.path("spool")
            with bench.servers.node(spool, *options, app="noop:noop", environment=environment, discover="store") as node:
                node.wait_ready()
                wait_loaded(node, stamp)
                time.sleep(SETTLE_SECONDS)
                say(f"ours, idle with {name}")
                trees = [[node.pid], store.pids]
                before = [_cpu(pids) for pids in trees]
                time.sleep(seconds)
                used, server_used = ((_cpu(pids) - cpu) / seconds * 100 for pids, cpu in zip(trees, before, strict=True))
        what = f"idle, a store in {name}: CPU of node and worker, {seconds:g} s"
        rows += [
            compare("store-idle", what, "% of a core", [used], target=Target("most", 1), beside=""),
            compare("store-idle", f"  CPU of {name}", "% of a core", [server_used], beside=""),
        ]
    return rows


def deep(bench: Bench) -> list[Row]:
    """A backlog that is much deeper than another one."""
    if "ours" not in bench.sides:
        return []
    rows = []
    for name in _engines(bench):
        few, many = bench.plan.deep if name == "PostgreSQL" else bench.plan.deep_nats
        shallow, deepest = (_looked(bench, name, tasks) for tasks in (few, many))
        beside = f"{few:,} waiting"
        for what in shallow:
            figures = deepest[what], shallow[what]
            rows.append(compare("store-deep", f"{many:,} in {name}: {what}", "ms", *figures, target=FLAT, beside=beside))
    return rows


def _looked(bench: Bench, name: str, tasks: int) -> dict[str, list[float]]:
    """Milliseconds of each thing, with so many tasks waiting."""
    say(f"ours, {tasks:,} in {name}")
    spool = bench.servers.path("spool")
    with _opened(bench, name) as store, bench.servers.node(spool, "--store", store.url) as node:
        node.wait_ready()
        bench.load.extended(node.port, connections=8, window=256, tasks=tasks)
        time.sleep(SETTLE_SECONDS)
        asked = {"`status`": "/node", "`ls`, the first hundred": "/tasks?limit=100"}
        found = {what: [timed(spool, "GET", path) for _ in range(LOOKS)] for what, path in asked.items()}
        for together in TAKEN:
            took = _takes(store.url, together)
            found[f"a take of {together}"], found[f"the end of {together}"] = took["take"], took["end"]
    return found


def _takes(url: str, together: int) -> dict[str, list[float]]:
    command = [sys.executable, str(APPS / "take.py"), url, str(together), str(LOOKS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise BenchError(f"take.py: {done.stderr[-600:]}")
    answer: dict[str, list[float]] = json.loads(done.stdout)
    return answer


def _engines(bench: Bench) -> list[str]:
    return [name for side, name in (("postgres", "PostgreSQL"), ("nats", "NATS")) if side in bench.sides]


@contextlib.contextmanager
def _opened(bench: Bench, name: str) -> Iterator[Opened]:
    if name == "NATS":
        with nats(bench) as three:
            yield Opened(migrated(bench, three.url), [server.pid for server in three.servers])
    else:
        with postgres(bench, syncs=True) as database:
            yield Opened(database.fresh(bench), [database.server.pid])


def _cpu(pids: list[int]) -> float:
    return sum(proc.tree_cpu_seconds(pid) for pid in pids)
