"""How much is measured, and the tools of a measurement."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from load import BenchError, Generator
from servers import Contestants, Server

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pairs: int
    """runs of each contestant, in turn"""
    seconds: float
    """of one run under load"""
    drain: tuple[int, ...]
    """sizes of the backlogs"""
    drain_uwsgi_most: int
    """uWSGI gets no larger backlog than this: its million files take minutes to make and to remove"""
    crash_tasks: int
    """waiting at the start after a crash"""
    samples: int
    """of the latency, in one run"""
    clients: tuple[int, ...] = (1, 16, 64)
    """at once, one connection a task"""
    connections: int = 8
    """of the extended dialect"""
    window: int = 128
    """requests in flight on each of them"""
    cluster_pairs: int = 3
    """runs of each contestant where several nodes are measured"""
    hop_tasks: int = 80_000
    """sent from one node to another in one run, and once more as a backlog"""
    dead_tasks: int = 100_000
    """waiting for a dead peer"""
    calls: int = 3_000
    """from Python, one after the other, sent here and run there"""
    grows: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """waiting, beside what is done"""
    left_tasks: int = 15_000
    """spool files that a uWSGI left"""
    store_tasks: int = 20_000
    """waiting in a common store"""
    deep: tuple[int, int] = (10_000, 1_000_000)
    """waiting in PostgreSQL, beside what is done"""
    deep_nats: tuple[int, int] = (10_000, 100_000)
    """the same in NATS"""
    watch_seconds: float = 20.0
    """of idle nodes; half of it of one with a dead peer"""


FULL = Plan(5, 1.5, (10_000, 100_000, 1_000_000), 100_000, 1_000_000, 200)
QUICK = Plan(
    3,
    0.4,
    (10_000,),
    10_000,
    100_000,
    40,
    cluster_pairs=1,
    hop_tasks=20_000,
    dead_tasks=20_000,
    calls=500,
    grows=(10_000,),
    left_tasks=5_000,
    store_tasks=5_000,
    deep=(5_000, 50_000),
    deep_nats=(5_000, 20_000),
    watch_seconds=6.0,
)


@dataclass
class Bench:
    """The tools of a measurement."""

    plan: Plan
    servers: Contestants
    load: Generator
    sides: frozenset[str]
    """`uwsgi`, `ours` and the brokers that are installed"""
    backlogs: dict[int, Path] = field(default_factory=dict)
    """spools of ours with so many tasks waiting, made once"""

    def in_turn(self, runs: dict[str, Callable[[], T]], pairs: int = 0) -> dict[str, list[T]]:
        """Runs A B A B ...; names begin with their side. A contestant that is not installed has no results."""
        results: dict[str, list[T]] = {name: [] for name in runs}
        for turn in range(pairs or self.plan.pairs):
            for name, run in runs.items():
                if name.split()[0] in self.sides:
                    say(f"{name}, run {turn + 1}")
                    results[name].append(run())
        return results


def wait_for(condition: Callable[[], bool], server: Server, what: str, limit: float = 30.0) -> float:
    """Waits for the condition. Returns the monotonic time; raises BenchError if the server ends, or after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        server.check(float("inf"))
        if time.monotonic() > end:
            raise BenchError(f"not within {limit:g} s: {what}; the log: {server.last_words()}")
        time.sleep(0.005)
    return time.monotonic()


def say(text: str) -> None:
    """Progress, on one line of the terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {text}", end="", file=sys.stderr, flush=True)
