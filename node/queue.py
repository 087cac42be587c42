"""What waits, in which order: the ready tasks by priority and time of acceptance, the others by the time they are due.

Pure data structures. A task is a *ref* (a number or a name) in a *source* (a batch, or the directory). A backlog of a
million tasks in batches costs four bytes a task here: refs of one batch lie together in an array, called a run.
"""

import heapq
from array import array
from bisect import insort
from collections import deque
from collections.abc import Container, Iterable, MutableSequence
from dataclasses import dataclass, field
from typing import Any

from spoolnode.protocol.names import LAST

COMPACT_AFTER = 1024
"""Refs that a run may have given away before their memory is taken back."""

Ref = int | str
"""The offset of a record in its batch, or the path of a spool file below the spool."""


@dataclass(eq=False, slots=True)
class Run:
    """Refs of one source and one rank, oldest first. `start` is how many of them are gone."""

    source: Any
    refs: MutableSequence[Any]
    start: int = 0

    def __len__(self) -> int:
        return len(self.refs) - self.start

    def take(self, count: int) -> MutableSequence[Any]:
        """Removes up to `count` of the oldest."""
        taken = self.refs[self.start : self.start + count]
        self.start += len(taken)
        if self.start > COMPACT_AFTER and self.start * 2 > len(self.refs):
            del self.refs[: self.start]
            self.start = 0
        return taken


@dataclass(slots=True)
class ReadyQueue:
    """The tasks that may run now."""

    size: int = 0
    _ranks: list[int] = field(default_factory=list)
    _lanes: dict[int, deque[Run]] = field(default_factory=dict)

    def add(self, source: Any, refs: Iterable[Ref], rank: int = LAST) -> None:
        """Adds tasks behind all others of their rank."""
        items = _sequence(refs)
        if not items:
            return
        lane = self._lane(rank)
        if lane and lane[-1].source is source:
            lane[-1].refs.extend(items)
        else:
            lane.append(Run(source, items))
        self.size += len(items)

    def give_back(self, source: Any, refs: Iterable[Ref], rank: int = LAST) -> None:
        """Adds tasks before all others of their rank: they were taken and did not run."""
        items = _sequence(refs)
        if items:
            self._lane(rank).appendleft(Run(source, items))
            self.size += len(items)

    def take(self, count: int) -> tuple[Any, MutableSequence[Any], int] | None:
        """Removes up to `count` tasks of one source that are to run next, as (source, refs, rank); None when none may.

        Sources with a true `frozen` are passed over: their tasks are being moved.
        """
        for rank in self._ranks:
            for run in self._lanes[rank]:
                if run.source.frozen:
                    continue
                refs = run.take(count)
                self.size -= len(refs)
                if not len(run):
                    self._drop(rank, run)
                return run.source, refs, rank
        return None

    def remove(self, source: Any, ref: Ref) -> bool:
        """Removes one task; whether it was here. Takes time in proportion to what waits here."""
        for rank in self._ranks:
            for run in self._lanes[rank]:
                if run.source is source and ref in run.refs[run.start :]:
                    del run.refs[run.refs.index(ref, run.start)]
                    self.size -= 1
                    if not len(run):
                        self._drop(rank, run)
                    return True
        return False

    def has(self, source: Any, ref: Ref) -> bool:
        """Whether one task is here. Takes time in proportion to what waits here."""
        runs = (run for lane in self._lanes.values() for run in lane if run.source is source)
        return any(ref in run.refs[run.start :] for run in runs)

    def items(self) -> list[tuple[Any, Ref]]:
        """All tasks here."""
        runs = [run for lane in self._lanes.values() for run in lane]
        return [(run.source, ref) for run in runs for ref in run.refs[run.start :]]

    def oldest(self) -> list[tuple[Any, Ref]]:
        """The first task of each rank: the oldest of all is among them."""
        return [(lane[0].source, lane[0].refs[lane[0].start]) for lane in self._lanes.values()]

    def _lane(self, rank: int) -> "deque[Run]":
        if rank not in self._lanes:
            self._lanes[rank] = deque()
            insort(self._ranks, rank)
        return self._lanes[rank]

    def _drop(self, rank: int, run: Run) -> None:
        lane = self._lanes[rank]
        lane.remove(run)
        if not lane:
            del self._lanes[rank]
            self._ranks.remove(rank)


@dataclass(slots=True)
class Later:
    """The tasks that are due at a time to come, soonest first."""

    _heap: list[tuple[float, int, Any, Ref, int]] = field(default_factory=list)
    _count: int = 0
    stale: int = 0
    """Entries that their owner has given up and left here, because finding them would take long."""

    def __len__(self) -> int:
        return max(len(self._heap) - self.stale, 0)

    def add(self, due: float, source: Any, ref: Ref, rank: int) -> None:
        """Adds a task that is due at `due` (seconds since 1970)."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, source, ref, rank))

    def next_due(self) -> float | None:
        """When the soonest is due."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> list[tuple[float, Any, Ref, int]]:
        """Removes all that are due, as (due, source, ref, rank), soonest first."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            when, _, source, ref, rank = heapq.heappop(self._heap)
            due.append((when, source, ref, rank))
        return due

    def remove(self, source: Any, ref: Ref) -> int | None:
        """Removes one task; its rank, or None when it is not here. Takes time in proportion to what waits here."""
        for index, (_, _, held_source, held_ref, rank) in enumerate(self._heap):
            if held_source is source and held_ref == ref:
                self._heap[index] = self._heap[-1]
                self._heap.pop()
                heapq.heapify(self._heap)
                return rank
        return None

    def forget(self, source: Any, refs: Container[Ref]) -> None:
        """Removes tasks of one source. Takes time in proportion to what waits here."""
        self._heap = [entry for entry in self._heap if entry[2] is not source or entry[3] not in refs]
        heapq.heapify(self._heap)

    def of(self, source: Any) -> list[tuple[float, Ref]]:
        """The tasks of one source, as (due, ref). Takes time in proportion to what waits here."""
        return [(due, ref) for due, _, held_source, ref, _ in self._heap if held_source is source]


def _sequence(refs: Iterable[Ref]) -> MutableSequence[Any]:
    if isinstance(refs, array):
        return refs[:]
    items = list(refs)
    return array("I", items) if items and isinstance(items[0], int) else items
