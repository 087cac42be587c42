"""Checks what an application wrote about its own runs against the promises to the clients.

The application appends one line to a file for each event, with one write(2), so the file is a total order:

    up    0 WORKER -         a worker has loaded the application
    start N WORKER LANE      task N starts
    end   N WORKER LANE      its callable has done its work; the next thing that happens is the record of that on disk
    bad   N WORKER LANE      what arrived is not what was sent

WORKER is parent.pid.random; LANE is the thread. In one lane nothing happens between an `end` and its record on disk,
so a task whose end may be unrecorded is the last line of its lane. That is all the doubt there is, and `check` allows
no more.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


@dataclass
class Ledger:
    """The clients' knowledge of each task, by number."""

    sent: set[int] = field(default_factory=set)
    """At least a byte of it has left."""
    acknowledged: dict[int, float] = field(default_factory=dict)
    """When the node said that it is stored."""
    refused: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    """The connection broke before an answer came."""

    @property
    def settled(self) -> int:
        """How many tasks have an answer, or will never have one."""
        return len(self.acknowledged) + len(self.refused) + len(self.unknown)


@dataclass
class Killed:
    """Whom we killed."""

    nodes: set[int] = field(default_factory=set)
    workers: set[int] = field(default_factory=set)

    def includes(self, worker: str) -> bool:
        """Whether this worker, or the node above it, was killed."""
        parent, pid, _ = worker.split(".")
        return int(parent) in self.nodes or int(pid) in self.workers


class Line(NamedTuple):
    """One line of the file; `at` is its number."""

    at: int
    what: str
    task: int
    worker: str
    lane: str


@dataclass
class Run:
    """One run of one task."""

    task: int
    start: Line
    end: Line | None = None


@dataclass
class Summary:
    """The history in numbers."""

    acknowledged: int
    refused: int
    unknown: int
    runs: int
    run_again: int
    """Tasks that started more than once."""
    ended_again: int
    """Tasks of those whose end was written and not recorded."""

    def __str__(self) -> str:
        return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in self.__dict__.items())


def read_lines(text: str) -> list[Line]:
    """The lines of the file; one whose end is not there yet is still being written."""
    lines = []
    for at, line in enumerate(text[: text.rfind("\n") + 1].splitlines()):
        what, task, worker, lane = line.split()
        lines.append(Line(at, what, int(task), worker, lane))
    return lines


def ended_tasks(lines: Iterable[Line]) -> set[int]:
    """The tasks that have ended at least once."""
    return {line.task for line in lines if line.what == "end"}


def check(lines: list[Line], ledger: Ledger, killed: Killed, kept: set[int]) -> tuple[Summary, list[str]]:
    """The history in numbers, and everything in it that breaks a promise.

    Args:
        lines: the application's lines, after everything has come to rest.
        ledger: the answers to the clients.
        killed: every process that was killed.
        kept: tasks that are still on disk, waiting or dead.
    """
    last = {(line.worker, line.lane): line.at for line in lines}
    runs, problems = _runs(lines)
    ended = ended_tasks(lines)
    problems += [f"task {task} was acknowledged and is lost" for task in sorted(ledger.acknowledged.keys() - ended - kept)]
    problems += [f"task {task} was refused and ran" for task in sorted(ledger.refused & runs.keys())]
    problems += [f"task {task} ran and was never sent" for task in sorted(runs.keys() - ledger.sent)]
    problems += [f"task {line.task} arrived damaged" for line in lines if line.what == "bad"]
    for task, of_task in sorted(runs.items()):
        problems += _judge(task, of_task, last, killed)
    summary = Summary(
        acknowledged=len(ledger.acknowledged),
        refused=len(ledger.refused),
        unknown=len(ledger.unknown),
        runs=sum(map(len, runs.values())),
        run_again=sum(len(of_task) > 1 for of_task in runs.values()),
        ended_again=sum(sum(run.end is not None for run in of_task) > 1 for of_task in runs.values()),
    )
    return summary, problems


def _runs(lines: list[Line]) -> tuple[dict[int, list[Run]], list[str]]:
    """The runs of each task, in the order of their starts."""
    runs: dict[int, list[Run]] = defaultdict(list)
    open_runs: dict[tuple[str, str, int], Run] = {}
    problems = []
    for line in lines:
        key = line.worker, line.lane, line.task
        if line.what == "start":
            if key in open_runs:
                problems.append(f"task {line.task} started twice at once in {line.worker}")
            run = open_runs[key] = Run(line.task, line)
            runs[line.task].append(run)
        elif line.what == "end":
            begun = open_runs.pop(key, None)
            if begun is None:
                problems.append(f"task {line.task} ended in {line.worker} without a start")
            else:
                begun.end = line
    main_lane = Counter(run.start.worker for run in open_runs.values() if run.start.lane == "main")
    problems += [f"worker {worker} left {count} tasks open in one thread" for worker, count in main_lane.items() if count > 1]
    return runs, problems


def _judge(task: int, runs: list[Run], last: dict[tuple[str, str], int], killed: Killed) -> list[str]:
    """The faults in the runs of one task: each run but the last must have been cut by a kill before its record."""
    problems = []
    for index, run in enumerate(runs):
        worker = run.start.worker
        if run.end is None:
            if not killed.includes(worker):
                problems.append(f"task {task} never ended in worker {worker}, which nobody killed")
        elif index < len(runs) - 1:
            if not killed.includes(worker):
                problems.append(f"task {task} ended in worker {worker}, which nobody killed, and ran again")
            elif run.end.at != last[worker, run.end.lane]:
                problems.append(f"task {task} ran again, although worker {worker} went on after its end")
    for earlier, later in pairwise(runs):
        until = earlier.end.at if earlier.end else earlier.start.at
        if later.start.at < until:
            problems.append(f"task {task} ran in two workers at once")
    return problems
