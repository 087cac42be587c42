"""Running: how fast one worker drains a backlog, and the costs of a start with a backlog and of an idle server."""

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import proc
from plan import Bench, say
from report import Row, Target, compare
from servers import Server


class Drain(NamedTuple):
    """One backlog, run by one worker."""

    rate: float
    node_us: float
    worker_us: float


def drain(bench: Bench) -> list[Row]:
    """A backlog of no-op tasks and one worker."""
    rows, curve = [], []
    uwsgi_rate: list[float] = []
    for tasks in bench.plan.drain:
        pairs = bench.plan.pairs
        spools: list[Path] = []
        if "uwsgi" in bench.sides and tasks <= bench.plan.drain_uwsgi_most:
            spools = [_fill_uwsgi(bench, tasks) for _ in range(pairs)]  # all before any is drained: see README
        if "ours" in bench.sides:
            backlog(bench, tasks)
        runs = bench.in_turn(
            {
                **({"uwsgi": lambda: _drain_uwsgi(bench, spools.pop(), tasks)} if spools else {}),  # noqa: B023  # run within this turn
                "ours": lambda: _drain_ours(bench, tasks),  # noqa: B023  # as above
            }
        )
        theirs, mine = runs.get("uwsgi", []), runs["ours"]
        note = ""
        if theirs:
            uwsgi_rate = [run.rate for run in theirs]
        elif uwsgi_rate:
            note = f"uWSGI: its rate at {bench.plan.drain_uwsgi_most:,}"
        target, rates = Target("ratio", 4), [run.rate for run in mine]
        rows.append(compare("drain", f"{tasks:,} waiting", "tasks/s", rates, uwsgi_rate, target=target, note=note))
        whole = [run.node_us + run.worker_us for run in mine], [run.node_us + run.worker_us for run in theirs]
        rows.append(compare("drain", "  CPU, all processes", "us/task", *whole))
        workers = [run.worker_us for run in mine], [run.worker_us for run in theirs]
        rows.append(compare("drain", "  CPU of the worker (uWSGI: the spooler)", "us/task", *workers))
        curve += [statistics.median(rates)] if rates else []
    if len(curve) > 1:
        # A short drain is slowed by its start (windows grow, code is cold); a deep one must not be slower than that.
        flat = curve[-1] / curve[0]
        rows.append(compare("drain", "flat: rate at the deepest / at the shallowest", "", [flat], target=Target("least", 0.75)))
    return rows


def left(bench: Bench) -> list[Row]:
    """A directory that a uWSGI left, drained by one worker of either; both get the same files."""
    tasks = bench.plan.left_tasks
    spools = {side: [_fill_uwsgi(bench, tasks) for _ in range(bench.plan.pairs)] for side in ("uwsgi", "ours")}
    runs = bench.in_turn(
        {
            "uwsgi": lambda: _drain_uwsgi(bench, spools["uwsgi"].pop(), tasks),
            "ours": lambda: _drain_node(bench, spools["ours"].pop(), tasks),
        }
    )
    theirs, mine = runs["uwsgi"], runs["ours"]
    what = f"{tasks:,} spool files that a uWSGI left"
    whole = [run.node_us + run.worker_us for run in mine], [run.node_us + run.worker_us for run in theirs]
    workers = [run.worker_us for run in mine], [run.worker_us for run in theirs]
    return [
        compare("left", what, "tasks/s", [run.rate for run in mine], [run.rate for run in theirs], target=Target("ratio", 1)),
        compare("left", "  CPU, all processes", "us/task", *whole, target=Target("ratio", 1 / 1.5)),
        compare("left", "  CPU of the worker (uWSGI: the spooler)", "us/task", *workers),
    ]


def backlog(bench: Bench, tasks: int) -> Path:
    """A spool with so many waiting tasks, whose node was killed after it acknowledged the last. Made once for each size."""
    if tasks not in bench.backlogs:
        say(f"ours, filling {tasks:,}")
        spool = bench.servers.path("backlog")
        with bench.servers.node(spool) as server:
            server.wait_ready()
            bench.load.extended(server.port, connections=8, window=256, tasks=tasks)
            server.crash()
        flush(spool)
        bench.backlogs[tasks] = spool
    return bench.backlogs[tasks]


def _fill_uwsgi(bench: Bench, tasks: int) -> Path:
    say(f"uwsgi, filling {tasks:,}")
    spool = bench.servers.path("spool")
    spool.mkdir()
    bench.load.fill(spool, tasks)
    flush(spool)
    return spool


def flush(spool: Path) -> None:
    """Syncs, so that earlier writes do not reach the disk during the measurement."""
    subprocess.run(["sync", "--file-system", str(spool)], check=True)


def _drain_uwsgi(bench: Bench, spool: Path, tasks: int) -> Drain:
    stamp = bench.servers.path("stamp")
    with bench.servers.uwsgi(spool, app="noop_uwsgi", environment={"BENCH_STAMP": str(stamp)}) as server:
        return _watch_drain(server, spool, stamp, tasks)


def _drain_ours(bench: Bench, tasks: int) -> Drain:
    spool = bench.servers.path("spool")
    shutil.copytree(backlog(bench, tasks), spool, ignore=shutil.ignore_patterns("*.sock"))
    flush(spool)
    return _drain_node(bench, spool, tasks)


def _drain_node(bench: Bench, spool: Path, tasks: int) -> Drain:
    stamp = bench.servers.path("stamp")
    with bench.servers.node(spool, app="noop:noop", environment={"BENCH_STAMP": str(stamp)}) as server:
        return _watch_drain(server, spool, stamp, tasks)


def _watch_drain(server: Server, spool: Path, stamp: Path, tasks: int) -> Drain:
    """From the moment when the worker has loaded the application until no task is left on disk."""
    worker, start = wait_loaded(server, stamp)
    node_before, worker_before = proc.tree_cpu_seconds(server.pid), proc.cpu_seconds(worker)
    while True:
        looked = time.monotonic()
        if not _is_waiting(spool):
            break
        server.check(60 + tasks / 2000)
        cost = time.monotonic() - looked
        time.sleep(max(0.002, 20 * cost))  # listing a large directory is work, too
    seconds = looked - start
    worker_cpu = proc.cpu_seconds(worker) - worker_before
    node_cpu = proc.tree_cpu_seconds(server.pid) - node_before - worker_cpu
    return Drain(tasks / seconds, node_cpu / tasks * 1e6, worker_cpu / tasks * 1e6)


def wait_loaded(server: Server, stamp: Path) -> tuple[int, float]:
    """The pid of the first process besides the node itself that has loaded the application, and when."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            for line in stamp.read_text().splitlines(keepends=True):
                if line.endswith("\n") and int(line.split()[0]) != server.pid:
                    return int(line.split()[0]), float(line.split()[1])
        server.check(60)
        time.sleep(0.001)


def _is_waiting(spool: Path) -> bool:
    """Whether any task is left: a spool file of its own, or a file of many in incoming/."""
    with os.scandir(spool) as entries:
        if any(entry.name.startswith("uwsgi_spoolfile_on_") for entry in entries):
            return True
    with contextlib.suppress(FileNotFoundError), os.scandir(spool / "incoming") as entries:
        return any(True for _ in entries)
    return False


def start(bench: Bench) -> list[Row]:
    """The start after a crash, with many tasks waiting."""
    tasks = bench.plan.crash_tasks
    if "ours" not in bench.sides:
        return []

    def ours() -> tuple[float, float]:
        with bench.servers.node(backlog(bench, tasks)) as server:
            seconds = server.wait_ready(60)
            time.sleep(0.5)
            peak = proc.peak_rss_mb(server.pid)
            server.crash()
        return seconds, peak

    runs = bench.in_turn({"ours": ours})["ours"]
    what = f"start after kill -9, {tasks:,} waiting"
    return [
        compare("start", f"{what}: first answer", "s", [run[0] for run in runs], target=Target("most", 10)),
        compare("start", f"{what}: peak RSS of the node", "MB", [run[1] for run in runs], target=Target("most", 400)),
    ]


def idle(bench: Bench) -> list[Row]:
    """Memory of a server with one worker and nothing to do."""

    def uwsgi() -> tuple[float, float]:
        stamp, spool = bench.servers.path("stamp"), bench.servers.path("spool")
        with bench.servers.uwsgi(spool, app="noop_uwsgi", environment={"BENCH_STAMP": str(stamp)}) as server:
            return settled(server, stamp)

    def ours() -> tuple[float, float]:
        stamp, spool = bench.servers.path("stamp"), bench.servers.path("spool")
        with bench.servers.node(spool, app="noop:noop", environment={"BENCH_STAMP": str(stamp)}) as server:
            return settled(server, stamp)

    def settled(server: Server, stamp: Path) -> tuple[float, float]:
        server.wait_ready()
        wait_loaded(server, stamp)
        time.sleep(1)
        return proc.tree_memory_mb(server.pid)

    runs = bench.in_turn({"uwsgi": uwsgi, "ours": ours}, pairs=1)
    return [
        compare("idle", f"idle, one worker, all processes: {what}", "MB", [run[i] for run in runs["ours"]],
                [run[i] for run in runs["uwsgi"]], target=Target("most", 80))
        for i, what in enumerate(("RSS", "PSS"))
    ]  # fmt: skip
