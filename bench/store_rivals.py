"""From a call in Python to its run on another process of the machine: a node with a store in PostgreSQL, Procrastinate with the
same server, dramatiq with Redis. Each acknowledgement comes after a sync, on one machine.
"""

import sys
import time
from collections.abc import Callable

from calls import LIMIT, Calls, environment, run_redis, send
from engines import Database, postgres
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
            "ours": lambda: _ours(bench, database),
            "procrastinate": lambda: _procrastinate(bench, database),
            "dramatiq": lambda: run_redis(bench),
        }
        runs = bench.in_turn(contestants, pairs=bench.plan.cluster_pairs)
    rows = []
    for side, beside in RIVALS.items():
        sides = runs["ours"], runs[side]
        count = f"{bench.plan.calls:,}"
        figures = [
            (f"{count} sent in one call, where it has one: done", "tasks/s", [[run.many for run in each] for each in sides]),
            (f"{count} sent in a loop: done", "tasks/s", [[run.done for run in each] for each in sides]),
            ("  sent", "tasks/s", [[run.sent for run in each] for each in sides]),
        ]
        for share, name in ((0.50, "p50"), (0.99, "p99")):
            alone = [[percentile(run.alone, share) / 1000 for run in each] for each in sides]
            figures.append((f"one at a time, call to run: {name}", "ms", alone))
        rows += [compare("store-rivals", what, unit, *runs_of, target=AHEAD, beside=beside) for what, unit, runs_of in figures]
    return rows


def _ours(bench: Bench, database: Database) -> Calls:
    ticks = bench.servers.path("ticks")
    variables = environment(bench, ticks)
    options = ["--store", database.fresh(bench)]
    with bench.servers.node(bench.servers.path("spool"), *options, app="tick:task", environment=variables) as node:
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
