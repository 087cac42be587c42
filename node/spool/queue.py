"""The order of waiting tasks: ready ones by priority and time of acceptance, the others by their due time.

Pure data structures. A task is a *ref* (a number or a name) in a *source* (a batch, or the directory). A backlog of a million
tasks in batches costs four bytes a task: refs of one batch lie together in an array, called a run.
"""

import heapq
import math
from array import array
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, MutableSequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from spoolnode.protocol.names import LAST

COMPACT_AFTER = 1024
"""Refs that a run may have given away before their memory is freed..."""
COMPACT_AT_MOST = 1 << 16
"""...and at most this many, even in a long run: freeing a million names at once takes 20 ms."""
TIDY_AFTER = 1024
"""Dead entries that do not matter, however few live."""
TIDY_AT_ONCE = 8
"""Entries of an old heap that each call looks at: more than a call can leave dead."""

Ref = int | str
"""The offset of a record in its batch, or the path of a spool file below the spool."""


@dataclass(eq=False, slots=True)
class Run:
    """Refs of one source and one rank, oldest first. The first `start` of them are taken already."""

    source: Any
    refs: MutableSequence[Any]
    start: int = 0

    def __len__(self) -> int:
        return len(self.refs) - self.start

    def index(self, ref: Ref) -> int:
        """The index of a ref in `refs`; -1 if it is not here."""
        try:
            return self.refs.index(ref, self.start)
        except ValueError:
            return -1

    def take(self, count: int) -> MutableSequence[Any]:
        """Removes up to `count` of the oldest."""
        taken = self.refs[self.start : self.start + count]
        self.start += len(taken)
        if self.start > COMPACT_AT_MOST or (self.start > COMPACT_AFTER and self.start * 2 > len(self.refs)):
            del self.refs[: self.start]
            self.start = 0
        return taken


@dataclass(slots=True)
class ReadyQueue:
    """The tasks that may run now."""

    age: Callable[[Any, Ref], float] = lambda _source, _ref: 0.0
    """Tells when a task was accepted, for `oldest`."""
    size: int = 0
    _ranks: list[int] = field(default_factory=list)
    _lanes: dict[int, deque[Run]] = field(default_factory=dict)
    _bounds: dict[int, float] = field(default_factory=dict)
    """A bound for each rank: the task at its head was not accepted before this."""
    _oldest: list[tuple[float, int]] = field(default_factory=list)
    """A heap of these bounds and ranks; a pair that is no longer in `_bounds` does not count."""

    def add(self, source: Any, refs: Iterable[Ref], rank: int = LAST) -> None:
        """Adds tasks behind all others of their rank."""
        items = _sequence(refs)
        if not items:
            return
        lane = self._lane(rank)
        if not lane:
            self._bound(rank, self.age(source, items[0]))
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
            self._bound(rank, self.age(source, items[0]))
            self.size += len(items)

    def take(self, count: int) -> tuple[Any, MutableSequence[Any], int] | None:
        """Removes up to `count` tasks of one source that run next, as (source, refs, rank); None if there are none.

        Sources with a true `frozen` are skipped: their tasks are being moved. That is soon over, so tasks of a lower priority
        do not overtake them: one of an hour could.
        """
        for run in self._lanes[self._ranks[0]] if self._ranks else ():
            if run.source.frozen:
                continue
            rank, refs = self._ranks[0], run.take(count)
            self.size -= len(refs)
            if run.start == len(run.refs):  # `not len(run)`, at half its price
                self._drop(rank, run)
            return run.source, refs, rank
        return None

    def head(self) -> tuple[int, Run] | None:
        """The rank and the run of the task that `take` takes next; None if it takes none."""
        lane = self._lanes[self._ranks[0]] if self._ranks else ()
        return next(((self._ranks[0], run) for run in lane if not run.source.frozen), None)

    @property
    def first_rank(self) -> float:
        """The rank of the tasks that run first, also if they are being moved; beyond all ranks if there are none."""
        return self._ranks[0] if self._ranks else math.inf

    def take_old(self, is_old: Callable[[Any, Ref], bool], count: int) -> list[tuple[Any, Ref]]:
        """Removes up to `count` old tasks: in each rank, those before the first that is not old."""
        taken: list[tuple[Any, Ref]] = []
        for rank in [*self._ranks]:
            lane = self._lanes[rank]
            while lane and len(taken) < count:
                run = lane[0]
                if run.source.frozen or not is_old(run.source, run.refs[run.start]):
                    break
                taken.append((run.source, *run.take(1)))
                self.size -= 1
                if not len(run):
                    self._drop(rank, run)
        return taken

    def remove(self, source: Any, ref: Ref) -> int | None:
        """Removes one task. Returns its rank, or None if it is not here. Takes time in proportion to what waits here."""
        for rank in self._ranks:
            for run in self._lanes[rank]:
                if run.source is source and (index := run.index(ref)) >= 0:
                    del run.refs[index]
                    self.size -= 1
                    if not len(run):
                        self._drop(rank, run)
                    return rank
        return None

    def has(self, source: Any, ref: Ref) -> bool:
        """Whether one task is here. Takes time in proportion to the tasks here."""
        runs = (run for lane in self._lanes.values() for run in lane if run.source is source)
        return any(run.index(ref) >= 0 for run in runs)

    def items(self) -> list[tuple[Any, Ref]]:
        """All tasks here."""
        runs = [run for lane in self._lanes.values() for run in lane]
        return [(run.source, ref) for run in runs for ref in run.refs[run.start :]]

    def oldest(self) -> float | None:
        """When the oldest of the tasks at the heads of the ranks was accepted; None if there are none.

        Fast with any number of ranks: it looks only at those whose head may be the oldest and has changed.
        """
        looked_at = set()
        while self._oldest:
            bound, rank = self._oldest[0]
            lane = self._lanes.get(rank)
            if lane is None or self._bounds.get(rank) != bound:
                heapq.heappop(self._oldest)
                if lane is None:
                    self._bounds.pop(rank, None)
                continue
            if rank in looked_at:
                return bound  # the age of a file that is gone is unknown; `age` then returns the present time
            looked_at.add(rank)
            accepted = self.age(lane[0].source, lane[0].refs[lane[0].start])
            if accepted <= bound:
                return bound
            self._bounds[rank] = accepted
            heapq.heapreplace(self._oldest, (accepted, rank))
        return None

    def _bound(self, rank: int, accepted: float) -> None:
        if accepted < self._bounds.get(rank, math.inf):
            self._bounds[rank] = accepted
            heapq.heappush(self._oldest, (accepted, rank))

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


DueTask = tuple[float, int, Any, Ref, int, bool]
"""A task that is due later: its time, a count that keeps the order of equal times, source, ref, rank, whether it pauses."""


@dataclass(slots=True)
class Later:
    """The tasks that are due later, soonest first.

    With any number of tasks, a call takes time in proportion to the tasks that it is about. A removed entry stays in the heap,
    dead, until it comes up. When more than half of a heap is dead, the living entries move to a new one, a few with each call.
    """

    _heap: list[DueTask] = field(default_factory=list)
    _old: list[DueTask] = field(default_factory=list)
    """The old heap, whose entries move to the new one."""
    _held: dict[Any, dict[Ref, DueTask]] = field(default_factory=dict)
    """The living entries, by source and ref."""
    _size: int = 0
    _count: int = 0

    def __len__(self) -> int:
        return self._size

    def add(self, due: float, source: Any, ref: Ref, rank: int, *, pauses: bool = False) -> None:
        """Adds a task that is due at `due` (seconds since 1970), or gives it another time.

        Args:
            pauses: it waits for a length of time, not for that time of the clock.
        """
        self._count += 1
        entry = (due, self._count, source, ref, rank, pauses)
        held = self._held.setdefault(source, {})
        self._size += ref not in held
        held[ref] = entry
        heapq.heappush(self._heap, entry)
        self._tidy()

    def next_due(self) -> float | None:
        """When the next task is due; None without tasks."""
        heap = self._soonest()
        return heap[0][0] if heap else None

    def pop_due(self, now: float, limit: int) -> list[tuple[float, Any, Ref, int]]:
        """Removes up to `limit` due tasks, as (due, source, ref, rank), soonest first."""
        due: list[tuple[float, Any, Ref, int]] = []
        while len(due) < limit and (heap := self._soonest()) and heap[0][0] <= now:
            when, _, source, ref, rank, _ = heapq.heappop(heap)
            self._forget(source, ref)
            due.append((when, source, ref, rank))
        return due

    def take(self, count: int) -> list[DueTask]:
        """Removes up to `count` tasks of one source and one rank, whenever they are due.

        Sources with a true `frozen` are skipped: their tasks are being moved.
        """
        for source, held in self._held.items():
            if not source.frozen:
                rank = next(iter(held.values()))[4]
                taken = list(islice((entry for entry in held.values() if entry[4] == rank), count))
                for entry in taken:
                    self.remove(source, entry[3])
                return taken
        return []

    def remove(self, source: Any, ref: Ref) -> DueTask | None:
        """Removes one task. Returns its entry, or None if it is not here."""
        entry = self._held.get(source, {}).get(ref)
        if entry is None:
            return None
        self._forget(source, ref)
        self._tidy()
        return entry

    def has(self, source: Any, ref: Ref) -> bool:
        """Whether one task is here."""
        return ref in self._held.get(source, {})

    def of(self, source: Any) -> dict[Ref, float]:
        """When each task of one source is due."""
        return {ref: entry[0] for ref, entry in self._held.get(source, {}).items()}

    def pausing(self) -> list[DueTask]:
        """All tasks that pause. Takes time in proportion to the tasks here; for after the clock was set."""
        return [entry for held in self._held.values() for entry in held.values() if entry[5]]

    def shift(self, entry: DueTask, step: float) -> None:
        """Moves one of `pausing`, if it is still here."""
        due, _, source, ref, rank, pauses = entry
        if not self._is_dead(entry):
            self.add(due + step, source, ref, rank, pauses=pauses)

    def _forget(self, source: Any, ref: Ref) -> None:
        held = self._held[source]
        del held[ref]
        if not held:
            del self._held[source]
        self._size -= 1

    def _is_dead(self, entry: DueTask) -> bool:
        return self._held.get(entry[2], {}).get(entry[3]) is not entry

    def _soonest(self) -> list[DueTask]:
        """The heap whose first entry is the soonest of all living ones; an empty heap if none lives."""
        for heap in (self._heap, self._old):
            while heap and self._is_dead(heap[0]):
                heapq.heappop(heap)
        if self._heap and self._old:
            return min(self._heap, self._old, key=lambda heap: heap[0][:2])
        return self._heap or self._old

    def _tidy(self) -> None:
        if not self._old and len(self._heap) > 2 * self._size + TIDY_AFTER:
            self._heap, self._old = [], self._heap
        for _ in range(min(TIDY_AT_ONCE, len(self._old))):
            entry = self._old.pop()  # a heap without its last entry is still a heap
            if not self._is_dead(entry):
                heapq.heappush(self._heap, entry)


def _sequence(refs: Iterable[Ref]) -> MutableSequence[Any]:
    if isinstance(refs, array):
        return refs[:]
    items = list(refs)
    return array("I", items) if items and isinstance(items[0], int) else items
