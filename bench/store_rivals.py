"""From a call in Python to its run on another process of the machine: a node with a store in PostgreSQL, and one with a store in
NATS (three servers), beside Procrastinate with the same PostgreSQL and dramatiq with Redis. Each acknowledgement comes after a
sync, on one machine.
"""

import sys
import time
from collections.abc import Callable

from calls import LIMIT, Calls, environment, run_redis, send
from engines import Database, migrated, nats, postgres
from latency import percentile
from plan import Bench, wait_for
from report import Row, Target, compare
from servers import status

RIVALS = {"procrastinate": "Procrastinate on the same PostgreSQL", "dramatiq": "dramatiq and Redis"}
AHEAD = Target("ratio", 1)
AT_ONCE = "8"
"""Tasks that a worker of Procrastinate runs at once: as many as one of dramatiq does by default."""


def rivals(bench: Bench) -> list[Row]:
    """One Python process sends, one worker process runs."""
    if not {"ours", "postgres"} <= bench.sides:
        return []
    with postgres(bench, syncs=True) as database:
        contestants: dict[str, Callable[[], Calls]] = {
            "ours": lambda: _ours(bench, database.fresh(bench)),
            "procrastinate": lambda: _procrastinate(bench, database),
            "dramatiq": lambda: run_redis(bench),
        }
        if "nats" in bench.sides:
            contestants["ours nats"] = lambda: _ours_in_nats(bench)
        runs = bench.in_turn(contestants, pairs=bench.plan.cluster_pairs)
    rows = []
    for side, beside in RIVALS.items():
        rows += _rows(bench, "", runs["ours"], runs[side], beside)
        if "ours nats" in runs:
            rows += _rows(bench, "NATS: ", runs["ours nats"], runs[side], beside)
    return rows


def _rows(bench: Bench, store: str, ours: list[Calls], theirs: list[Calls], beside: str) -> list[Row]:
    sides, count = (ours, theirs), f"{bench.plan.calls:,}"
    figures = [
        (f"{count} sent in one call, where it has one: done", "tasks/s", [[run.many for run in each] for each in sides]),
        (f"{count} sent in a loop: done", "tasks/s", [[run.done for run in each] for each in sides]),
        ("sent in a loop: sent", "tasks/s", [[run.sent for run in each] for each in sides]),
    ]
    for share, name in ((0.50, "p50"), (0.99, "p99")):
        alone = [[percentile(run.alone, share) / 1000 for run in each] for each in sides]
        figures.append((f"one at a time, call to run: {name}", "ms", alone))
    return [
        compare("store-rivals", f"{store}{what}", unit, *runs_of, target=AHEAD, beside=beside) for what, unit, runs_of in figures
    ]


def _ours_in_nats(bench: Bench) -> Calls:
    with nats(bench) as three:
        return _ours(bench, migrated(bench, three.url))


def _ours(bench: Bench, store: str) -> Calls:
    ticks = bench.servers.path("ticks")
    variables = environment(bench, ticks)
    spool = bench.servers.path("spool")
    with bench.servers.node(spool, "--store", store, app="tick:task", environment=variables) as node:
        node.wait_ready()
        wait_for(lambda: status(node.port)["workers"] == 1, node, "the node has no worker")
        return send(sys.executable, "spoolnode", variables | {"SPOOLNODE_VIA": f"127.0.0.1:{node.port}"})


def _procrastinate(bench: Bench, database: Database) -> Calls:
    """It listens for new jobs, as by default."""
    ticks = bench.servers.path("ticks")
    variables = environment(bench, ticks) | {"BENCH_DATABASE": database.empty()}
    servers, app = bench.servers, ["-m", "procrastinate", "--app", "tick_procrastinate.app"]
    with servers.broker("procrastinate", *app, "schema", "--apply", environment=variables) as schema:
        schema.wait_end(LIMIT)
    with servers.broker("procrastinate", *app, "worker", "--concurrency", AT_ONCE, environment=variables) as worker:
        time.sleep(0.1)
        worker.check(LIMIT)
        return send(servers.command("procrastinate")[0], "procrastinate", variables)
