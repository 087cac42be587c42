"""Seeds, one by one or on all cores."""

import gc
import json
import os
import resource
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

from .plants import planted
from .scenario import run_seed
from .stored import run_stored
from .timed import run_timers

STORIES = {"tasks": run_seed, "timers": run_timers, "store": run_stored}
"""The kinds of stories."""


def _write(now: float, who: str, what: str, details: dict[str, Any]) -> None:
    said = " ".join(f"{key}={value}" for key, value in details.items())
    print(f"{now:11.6f} {who:4} {what:13} {said}")  # noqa: T201  # the trace is for people


def print_story(seed: int, plant: str = "", kind: str = "tasks") -> int:
    """Prints what happens with that seed; 1 when a promise is broken."""
    try:
        with planted(plant):
            world = STORIES[kind](seed, _write)
    except Exception as error:  # noqa: BLE001  # whatever went wrong is the result
        traceback.print_exception(error, limit=None if not isinstance(error, AssertionError) else -1)
        return 1
    tasks = world.history.tasks.values()
    done = sum(bool(copy.done) for task in tasks for copy in task.copies.values())
    print(  # noqa: T201  # its purpose
        f"seed {seed}: {len(world.nodes)} nodes, {len(tasks)} tasks, {sum(task.acknowledged for task in tasks)} acknowledged, "
        f"{done} done; {world.loop.steps} steps, {world.loop.now:.1f} s; all promises kept"
    )
    return 0


def run_share(seeds: range, plant: str = "", stop_at_first: bool = False, kind: str = "tasks") -> list[tuple[int, str]]:
    """Runs these here; the seeds that fail, each with the reason."""
    failures = []
    gc.collect()
    gc.freeze()
    with planted(plant):
        for count, seed in enumerate(seeds):
            try:
                STORIES[kind](seed)
            except Exception as error:  # noqa: BLE001  # whatever went wrong is the result
                failures.append((seed, f"{type(error).__name__}: {error}"))
                if stop_at_first:
                    break
            if count % 10 == 9:
                gc.collect()
    gc.unfreeze()
    return failures


def run_range(first: int, last: int, plant: str = "", jobs: int = 2, kind: str = "tasks") -> int:
    """Runs seeds `first` to `last`, the last not included, in several processes; 1 when one fails."""
    began = perf_counter()
    failures = sorted(failures_of(first, last, plant, jobs, kind=kind))
    for seed, reason in failures:
        print(f"seed {seed}: {reason}")  # noqa: T201  # its purpose
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = spent.ru_utime + spent.ru_stime
    print(f"{last - first} seeds, {len(failures)} failed, {perf_counter() - began:.1f} s, {cpu:.1f} s of CPU")  # noqa: T201  # its purpose
    return int(bool(failures))


def failures_of(
    first: int, last: int, plant: str, jobs: int, *, stop_at_first: bool = False, kind: str = "tasks"
) -> list[tuple[int, str]]:
    """The seeds that fail among those, run in processes of their own, with their reasons."""
    package = __name__.rpartition(".")[0]
    code = (
        f"import sys, json; from {package}.run import run_share; "
        f"print(json.dumps(run_share(range(int(sys.argv[1]), {last}, {jobs}), {plant!r}, {stop_at_first}, {kind!r})))"
    )
    paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    env = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
    failures: list[tuple[int, str]] = []
    with ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        results = []
        for job in range(min(jobs, last - first)):
            share = subprocess.Popen([sys.executable, "-c", code, str(first + job)], env=env, stdout=subprocess.PIPE, text=True)
            stack.callback(share.kill)  # a thread of the pool then reads to the end, and waits
            results.append(pool.submit(_result_of, share))
        for result in as_completed(results):
            failures += result.result()
            if failures and stop_at_first:
                break
    return failures


def _result_of(share: "subprocess.Popen[str]") -> list[tuple[int, str]]:
    output, _ = share.communicate()
    if share.returncode:
        return [(-1, f"the process of a share ended with status {share.returncode}")]
    return [(seed, reason) for seed, reason in json.loads(output.splitlines()[-1])]
