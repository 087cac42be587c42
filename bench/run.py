"""The speed of a spoolnode node beside the real uWSGI, on this machine, in one run. See README.md."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import calls
import crowd
import drain
import grows
import hop
import latency
import network
import place
import proc
import report
import servers
import store_costs
import store_failover
import store_in
import store_rivals
import stored
from load import BenchError, Generator
from plan import FULL, QUICK, Bench, Plan

RESULTS = Path(__file__).with_name("results.json")
MEASUREMENTS = {
    "enqueue": network.enqueue,
    "extended": network.extended,
    "history": network.history,
    "python": network.python,
    "latency": latency.latency,
    "idle": drain.idle,
    "start": drain.start,
    "hop": hop.hop,
    "hop-latency": hop.hop_latency,
    "calls": calls.calls,
    "dead-peer": crowd.dead_peer,
    "crowd": crowd.crowd,
    "grows": grows.grows,
    "store": stored.store,
    "store-in": store_in.store_in,
    "store-idle": store_costs.idle,
    "store-deep": store_costs.deep,
    "store-rivals": store_rivals.rivals,
    "store-failover": store_failover.failover,
    "left": drain.left,
    "drain": drain.drain,
}
"""Measurements that only make files come first; the one that removes them by the thousand comes last: see README."""
VERSIONS = {
    "uwsgi": ["--version"],
    "nats-server": ["--version"],
    "nats": ["--version"],
    "beanstalkd": ["-v"],
    "redis-server": ["--version"],
    "postgres": ["--version"],
    "dramatiq": ["-c", "import dramatiq; print(dramatiq.__version__)"],
    "procrastinate": ["-c", "import importlib.metadata as found; print(found.version('procrastinate'))"],
}
"""The option that prints the version of each."""
GROUPS = {
    "cluster": ("hop", "hop-latency", "calls", "dead-peer", "crowd"),
    "stores": ("store", "store-in", "store-idle", "store-deep", "store-rivals", "store-failover"),
}


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two instead of ten: fewer and shorter runs")
    groups = "; ".join(f"{name} is {', '.join(several)}" for name, several in GROUPS.items())
    only = f"this one only; may be repeated: {', '.join(MEASUREMENTS)}; {groups}"
    parser.add_argument("--only", action="append", choices=[*MEASUREMENTS, *GROUPS], metavar="NAME", help=only)
    parser.add_argument("--side", choices=["both", "uwsgi", "ours"], default="both", help="measure one of the two only")
    parser.add_argument("--dir", default=None, help="where the temporary directory is made: the disk that is measured")
    parser.add_argument("--image", action="store_true", help="measure on a fresh ext4 in an image file in it (root)")
    parser.add_argument("--output", type=Path, help="write the JSON here; default, for a whole run: bench/results.json")
    parser.add_argument("--update", action="store_true", help="with --only: replace these rows in bench/results.json")
    parser.add_argument("--limit", type=int, default=3600, help="give up after so many seconds")
    return parser.parse_args()


def machine(directory: Path, found: dict[str, list[str]], plan: Plan) -> dict[str, Any]:
    """The machine that the figures hold for."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"

    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "kernel": platform.release(),
        "file_system": place.file_system(directory),
        "warning": place.warning(directory),
        "python": platform.python_version(),
        **{name: output(*found[name], *version) for name, version in VERSIONS.items() if found.get(name)},
        "commit": output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "plan": plan.__dict__,
    }


class Disturbance:
    """How much of the machine other work took since this was made: such a run proves little."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        return (*proc.machine_seconds(), proc.own_seconds(), time.monotonic())

    def percent(self) -> dict[str, float]:
        """Shares of all processors. "others" includes the kernel's own threads, which write back the contestants' data."""
        busy, stolen, own, wall = (now - start for now, start in zip(self._now(), self._start, strict=True))
        whole = wall * (os.cpu_count() or 1) / 100
        return {"others": round(max(0.0, busy - own) / whole, 1), "stolen": round(stolen / whole, 1)}


def give_up(number: int, frame: object) -> NoReturn:
    """SIGALRM and SIGTERM: leave through the ordinary door, which ends the servers and removes the files."""
    raise SystemExit(f"\nstopped by {signal.Signals(number).name}; the servers are ended")


def chosen(only: list[str] | None) -> list[str]:
    """The measurements that were asked for, in their order."""
    names = set(only or MEASUREMENTS)
    for group in names & {*GROUPS}:
        names |= {*GROUPS[group]}
    return [name for name in MEASUREMENTS if name in names]


def measure(name: str, bench: Bench) -> list[report.Row]:
    """The rows of one measurement; if it fails, one row that says why."""
    begin = time.monotonic()
    try:
        rows = MEASUREMENTS[name](bench)
    except BenchError as error:
        rows = [report.Row(name, f"failed: {error}", "", met=False, beside="")]
    print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return rows


def main() -> int:
    """Runs, prints, writes; 1 when a measurement failed or a target was missed."""
    args = arguments()
    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(args.limit)
    brokers = servers.find_brokers()
    found = {"uwsgi": servers.find_uwsgi(), "ours": servers.find_node(), **brokers}
    sides = {side for side, command in found.items() if command and args.side in ("both", side)}
    if "redis-server" not in sides:
        sides.discard("dramatiq")
    if not found["uwsgi"]:
        print(f"no uwsgi beside {sys.executable} or on PATH: pip install uwsgi==2.0.31", file=sys.stderr)
    if not found["ours"]:
        print(f"no spoolnode beside {sys.executable}, nor a module of that name: make dev", file=sys.stderr)
    if not sides:
        return 1
    plan = QUICK if args.quick else FULL
    rows: list[report.Row] = []
    with place.temporary_directory(args.dir, image=args.image) as directory:
        about = machine(directory, found, plan)
        print(json.dumps({name: value for name, value in about.items() if name != "plan"}, indent=1))
        contestants = servers.Contestants(directory, found["uwsgi"], found["ours"], brokers)
        bench = Bench(plan, contestants, Generator(directory), frozenset(sides))
        disturbance = Disturbance()
        try:
            for name in chosen(args.only):
                rows += measure(name, bench)
        finally:
            about["taken_percent"] = disturbance.percent()
            print(report.table(rows))
            print("\ntaken from the machine meanwhile, in %:", about["taken_percent"])
    whole = not args.only and args.side == "both" and found["uwsgi"] and found["ours"]
    output = args.output or (RESULTS if whole or args.update else None)
    if output:
        report.write_json(output, about, rows, update=args.update)
        print(f"written: {output}")
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
