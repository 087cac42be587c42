"""From a call in Python on one node to its run on another, beside dramatiq with Redis."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from latency import percentile
from load import BenchError
from pair import BETA, pair
from plan import Bench, wait_for
from report import Row, compare
from servers import APPS, free_port, status

LIMIT = 180.0
OTHER = "Redis and dramatiq"


class Calls(NamedTuple):
    """One run."""

    sent: float
    done: float
    many: float
    """Done, of those that were sent at once."""
    alone: list[float]


def calls(bench: Bench) -> list[Row]:
    """One Python process sends, one call after the other; one worker process runs the tasks."""
    runs = bench.in_turn({"ours": lambda: _ours(bench), "dramatiq": lambda: run_redis(bench)}, pairs=bench.plan.cluster_pairs)
    mine, theirs = runs["ours"], runs["dramatiq"]
    note = "" if theirs else "not measured: tests/install.sh bench, make bench"
    count = f"{bench.plan.calls:,}"
    rows = [
        compare("calls", f"{count} sent in a loop on one node, run on the other: done", "tasks/s",
                [run.done for run in mine], [run.done for run in theirs], note=note, beside=OTHER),
        compare("calls", "  sent", "tasks/s", [run.sent for run in mine], [run.sent for run in theirs], beside=OTHER),
    ]  # fmt: skip
    for share, name in ((0.50, "p50"), (0.99, "p99")):
        figures = [[percentile(run.alone, share) / 1000 for run in side] for side in (mine, theirs)]
        rows.append(compare("calls", f"one at a time, call to run: {name}", "ms", *figures, beside=OTHER))
    return rows


def environment(bench: Bench, ticks: Path) -> dict[str, str]:
    """The variables of who sends and who runs."""
    return {"BENCH_TICKS": str(ticks), "BENCH_CALLS": str(bench.plan.calls), "BENCH_SAMPLES": str(bench.plan.samples)}


def send(python: str, side: str, variables: dict[str, str]) -> Calls:
    """Sends, and returns when all have run."""
    command = [python, str(APPS / "calls.py"), side]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise BenchError(f"calls.py {side}: {done.stderr[-600:]}")
    return Calls(**json.loads(done.stdout))


def _ours(bench: Bench) -> Calls:
    ticks = bench.servers.path("ticks")
    variables = environment(bench, ticks)
    with pair(bench, app="tick:task", environment=variables) as two:
        wait_for(lambda: status(two.beta_port)["workers"] == 1, two.beta, "beta has no worker")
        via = {"SPOOLNODE_VIA": f"127.0.0.1:{two.alpha.port}", "BENCH_NODE": BETA}
        return send(sys.executable, "spoolnode", variables | via)


def run_redis(bench: Bench) -> Calls:
    """dramatiq and Redis with its log fsynced before each answer; one worker process with the default threads."""
    port, store, ticks = free_port(), bench.servers.path("redis"), bench.servers.path("ticks")
    store.mkdir()
    variables = environment(bench, ticks) | {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0"}
    options = [
        "--port", str(port), "--bind", "127.0.0.1", "--dir", str(store), "--save", "", "--appendonly", "yes",
        "--appendfsync", "always",
    ]  # fmt: skip
    servers = bench.servers
    with servers.broker("redis-server", *options, port=port) as redis:
        redis.wait_ready(broker=True)
        python = servers.command("dramatiq")[0]
        worker = ["-m", "dramatiq", "--processes", "1", "tick_dramatiq"]
        with servers.broker("dramatiq", *worker, environment=variables) as process:
            time.sleep(0.1)
            process.check(LIMIT)
            return send(python, "dramatiq", variables)
