"""Enqueueing: over TCP with one connection a task, in the extended dialect, with and without history, and from Python."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import proc
from load import BenchError, Load
from plan import Bench
from report import Row, Target, compare
from servers import APPS, Server

MANY = 10_000
"""Tasks in one call of `send_many`."""
TARGETS = {("always", 1): 0.5, ("always", 16): 1.0, ("always", 64): 1.5}
"""How many times as fast as uWSGI, by --sync and clients; 1.2 elsewhere."""


class Enqueue(NamedTuple):
    """One run under load."""

    rate: float
    cpu_us: float
    p99_us: float


def enqueue(bench: Bench) -> list[Row]:
    """TCP, one connection a task."""

    def uwsgi(workers: int) -> dict[int, Enqueue]:
        with bench.servers.uwsgi(bench.servers.path("spool"), "--processes", str(workers)) as server:
            return _plain(bench, server, bench.plan.clients)

    def ours(sync: str) -> dict[int, Enqueue]:
        with bench.servers.node(bench.servers.path("spool"), "--sync", sync) as server:
            return _plain(bench, server, bench.plan.clients)

    runs = bench.in_turn(
        {
            "uwsgi 1": lambda: uwsgi(1),
            "ours always": lambda: ours("always"),
            "uwsgi 2": lambda: uwsgi(2),
            "ours none": lambda: ours("none"),
        }
    )
    rows = []
    for clients in bench.plan.clients:
        by_run = {name: [run[clients] for run in results] for name, results in runs.items()}
        best = max(("uwsgi 1", "uwsgi 2"), key=lambda name: statistics.median([run.rate for run in by_run[name]] or [0]))
        note = f"uWSGI with --processes {best[-1]}, the better of 1 and 2"
        for sync in ("always", "none"):
            mine, theirs = by_run[f"ours {sync}"], by_run[best]
            target = Target("ratio", TARGETS.get((sync, clients), 1.2))
            rates = [run.rate for run in mine], [run.rate for run in theirs]
            what = f"TCP, {clients} at once, --sync {sync}"
            rows.append(compare("enqueue", what, "tasks/s", *rates, target=target, note=note))
            cpus = [run.cpu_us for run in mine], [run.cpu_us for run in theirs]
            rows.append(compare("enqueue", "  CPU, all processes", "us/task", *cpus))
            rows.append(compare("enqueue", "  p99", "us", [run.p99_us for run in mine], [run.p99_us for run in theirs]))
    return rows


def extended(bench: Bench) -> list[Row]:
    """The extended dialect, beside uWSGI's best: many clients with one connection a task."""
    plan = bench.plan

    def uwsgi() -> Enqueue:
        with bench.servers.uwsgi(bench.servers.path("spool")) as server:
            return _plain(bench, server, [max(plan.clients)])[max(plan.clients)]

    def ours(sync: str) -> Enqueue:
        with bench.servers.node(bench.servers.path("spool"), "--sync", sync) as server:
            return _extended(bench, server)

    runs = bench.in_turn({"uwsgi": uwsgi, "ours always": lambda: ours("always"), "ours none": lambda: ours("none")})
    theirs = runs["uwsgi"]
    uwsgi_rates = [run.rate for run in theirs]
    # 15 us where uWSGI makes 10,000 tasks a second: a faster machine must need less, a slower one may need more.
    budget = Target("most", 15 * 10_000 / statistics.median(uwsgi_rates or [10_000]))
    rows = []
    for sync in ("always", "none"):
        mine = runs[f"ours {sync}"]
        what = f"{plan.connections} connections, {plan.window} in flight on each, --sync {sync}"
        note = f"uWSGI: one connection a task, {max(plan.clients)} clients"
        rates = [run.rate for run in mine], uwsgi_rates
        rows.append(compare("extended", what, "tasks/s", *rates, target=Target("ratio", 6), note=note))
        cpus = [run.cpu_us for run in mine], [run.cpu_us for run in theirs]
        rows.append(compare("extended", "  CPU, all processes", "us/task", *cpus, target=budget))
        rows.append(compare("extended", "  p99", "us", [run.p99_us for run in mine]))
    return rows


def history(bench: Bench) -> list[Row]:
    """A node that keeps stories, as it does by default, beside one that keeps none."""
    clients = max(bench.plan.clients)

    def ours(*options: str) -> tuple[Enqueue, Enqueue]:
        with bench.servers.node(bench.servers.path("spool"), *options) as server:
            return _extended(bench, server), _plain(bench, server, [clients])[clients]

    runs = bench.in_turn({"ours with": ours, "ours without": lambda: ours("--history", "0")})
    rows = []
    connections = f"{bench.plan.connections} connections, {bench.plan.window} in flight on each"
    for number, what in enumerate((connections, f"TCP, {clients} at once")):
        kept, told_nothing = ([run[number] for run in runs[name]] for name in ("ours with", "ours without"))
        rates = [run.rate for run in kept], [run.rate for run in told_nothing]
        rows.append(compare("history", what, "tasks/s", *rates, target=Target("ratio", 0.9), beside="--history 0"))
        cpus = [run.cpu_us for run in kept], [run.cpu_us for run in told_nothing]
        rows.append(compare("history", "  CPU, all processes", "us/task", *cpus, beside="--history 0"))
        late = [run.p99_us for run in kept], [run.p99_us for run in told_nothing]
        rows.append(compare("history", "  p99", "us", *late, beside="--history 0"))
    return rows


def _plain(bench: Bench, server: Server, numbers: Sequence[int]) -> dict[int, Enqueue]:
    """Several numbers of clients at once, one after the other, against one server."""
    server.wait_ready()
    results = {}
    for clients in numbers:
        bench.load.plain(server.port, clients=clients, seconds=0.1)
        before = proc.tree_cpu_seconds(server.pid)
        load = bench.load.plain(server.port, clients=clients, seconds=bench.plan.seconds)
        results[clients] = _result(load, proc.tree_cpu_seconds(server.pid) - before)
    return results


def _extended(bench: Bench, server: Server) -> Enqueue:
    connections, window = bench.plan.connections, bench.plan.window
    server.wait_ready()
    bench.load.extended(server.port, connections=connections, window=window, seconds=0.1)
    before = proc.tree_cpu_seconds(server.pid)
    load = bench.load.extended(server.port, connections=connections, window=window, seconds=2 * bench.plan.seconds)
    return _result(load, proc.tree_cpu_seconds(server.pid) - before)


def _result(load: Load, cpu: float) -> Enqueue:
    return Enqueue(load.rate, cpu / load.ok * 1e6, load.p99_us)


def python(bench: Bench) -> list[Row]:
    """send_to_spooler in a loop, and send_many."""
    limit = bench.plan.seconds + 30

    def uwsgi() -> float:
        result = bench.servers.path("result")
        options = [f"--mule={APPS / 'send_uwsgi.py'}"]
        environment = {"BENCH_RESULT": str(result), "BENCH_SECONDS": str(bench.plan.seconds)}
        with bench.servers.uwsgi(bench.servers.path("spool"), *options, environment=environment) as server:
            while not result.exists():
                server.check(limit)
                time.sleep(0.02)
        return _rate(result)

    def ours(sync: str, together: int = 1) -> float:
        result = bench.servers.path("result")
        with bench.servers.node(bench.servers.path("spool"), "--sync", sync) as server:
            server.wait_ready()
            environment = os.environ | {
                "BENCH_RESULT": str(result),
                "BENCH_SECONDS": str(bench.plan.seconds),
                "BENCH_TOGETHER": str(together),
                "SPOOLNODE_VIA": f"127.0.0.1:{server.port}",
            }
            command = [sys.executable, str(APPS / "send_spoolnode.py")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
            if done.returncode:
                raise BenchError(f"send_spoolnode.py: {done.stderr[-600:]}")
        return _rate(result)

    runs = bench.in_turn({
        "uwsgi": uwsgi,
        "ours always": lambda: ours("always"),
        "ours none": lambda: ours("none"),
        "ours many": lambda: ours("always", MANY),
    })  # fmt: skip
    return [
        *(
            compare("python", f"send_to_spooler in a loop, --sync {sync}", "tasks/s", runs[f"ours {sync}"], runs["uwsgi"])
            for sync in ("always", "none")
        ),
        compare(
            "python",
            f"send_many, {MANY:,} in a call, --sync always",
            "tasks/s",
            runs["ours many"],
            runs["uwsgi"],
            target=Target("least", 20_000),
        ),
    ]


def _rate(result: Path) -> float:
    content: dict[str, float] = json.loads(result.read_text())
    return content["ok"] / content["seconds"]
