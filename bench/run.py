"""The speed of a spoolnode node beside the real uWSGI, on this machine, in one run. See README.md."""

import argparse
import array
import contextlib
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import measures
import report
import servers
from load import BenchError, Generator

RESULTS = Path(__file__).with_name("results.json")
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, EXT4_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute instead of ten: fewer and shorter runs")
    parser.add_argument("--only", action="append", choices=list(measures.ALL), help="this measurement only; may be repeated")
    parser.add_argument("--side", choices=["both", "uwsgi", "ours"], default="both", help="measure one of the two only")
    parser.add_argument("--dir", default=None, help="where the temporary directory is made: the disk that is measured")
    parser.add_argument("--output", type=Path, help="write the JSON here; default, for a whole run: bench/results.json")
    parser.add_argument("--limit", type=int, default=1500, help="give up after so many seconds")
    return parser.parse_args()


@contextlib.contextmanager
def temporary_directory(parent: str | None) -> Iterator[Path]:
    """Removed at the end with all that was spooled.

    It gets ext4's "top of a directory hierarchy" flag where there is one: each spool in it begins in another part of the disk,
    and none pays for the inodes that another has just freed. See README.
    """
    path = Path(tempfile.mkdtemp(prefix="spoolnode-bench-", dir=parent))
    try:
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                flags = array.array("i", [0])
                fcntl.ioctl(handle, FS_IOC_GETFLAGS, flags, True)
                flags[0] |= EXT4_TOPDIR_FL
                fcntl.ioctl(handle, FS_IOC_SETFLAGS, flags)
            finally:
                os.close(handle)
        yield path
    finally:
        print("removing the temporary directory", file=sys.stderr)
        shutil.rmtree(path, ignore_errors=True)


def machine(directory: Path, uwsgi: list[str], plan: measures.Plan) -> dict[str, Any]:
    """What the figures hold for."""

    def output(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return "unknown"

    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": os.getloadavg()[0],
        "kernel": platform.release(),
        "file_system": output("findmnt", "--noheadings", "--output", "FSTYPE,SOURCE,OPTIONS", "--target", str(directory)),
        "python": platform.python_version(),
        "uwsgi": output(*uwsgi, "--version") if uwsgi else None,
        "commit": output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "plan": plan.__dict__,
    }


def give_up(number: int, frame: object) -> NoReturn:
    """SIGALRM and SIGTERM: leave through the ordinary door, which ends the servers and removes the files."""
    raise SystemExit(f"\nstopped by {signal.Signals(number).name}; the servers are ended")


def main() -> int:
    """Runs, prints, writes; 1 when a measurement failed or a target was missed."""
    args = arguments()
    signal.signal(signal.SIGTERM, give_up)
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(args.limit)
    found = {"uwsgi": servers.find_uwsgi(), "ours": servers.find_node()}
    sides = {side for side, command in found.items() if command and args.side in ("both", side)}
    for side, hint in (("uwsgi", "pip install uwsgi==2.0.31"), ("ours", "make dev")):
        if not found[side]:
            print(f"no {'uwsgi' if side == 'uwsgi' else 'spoolnode'} beside {sys.executable} or on PATH: {hint}", file=sys.stderr)
    if not sides:
        return 1
    plan = measures.QUICK if args.quick else measures.FULL
    rows: list[report.Row] = []
    failed = False
    with temporary_directory(args.dir) as directory:
        about = machine(directory, found["uwsgi"], plan)
        print(json.dumps({name: value for name, value in about.items() if name != "plan"}, indent=1))
        bench = measures.Bench(
            plan, servers.Contestants(directory, found["uwsgi"], found["ours"]), Generator(directory), frozenset(sides)
        )
        try:
            for name in args.only or measures.ALL:
                begin = time.monotonic()
                try:
                    rows += measures.ALL[name](bench)
                    print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
                except BenchError as error:
                    failed = True
                    rows.append(report.Row(name, f"failed: {error}", ""))
                    print(f"\n{name}: {error}", file=sys.stderr)
        finally:
            print(report.table(rows))
    output = args.output or (RESULTS if not args.only and len(sides) == 2 else None)
    if output:
        report.write_json(output, about, rows)
        print(f"written: {output}")
    return 1 if failed or any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
