"""The ready tasks of a node in their order, when some functions are held back: tasks of others overtake them.

A task of such a function is *parked* when its turn comes: it moves to the queue of its function, and every task moves at most
once. Parked tasks have waited longest, so once their function may run they come before all others of their rank.
"""

from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

from spoolnode.node.spool.queue import ReadyQueue, Ref, Run
from spoolnode.node.spool.throttle import MANY
from spoolnode.protocol.names import LAST

PARKED_AT_ONCE = 10_000
"""Tasks that one call parks: about five milliseconds. `is_behind` tells that more are to be parked."""

Allowance = Callable[[int], int]
"""How many tasks of a function may be taken now."""


class ParkingQueue:
    """The ready tasks, and those of them that are parked. Sources tell which function a task is for (`Source.alike`)."""

    def __init__(self, age: Callable[[Any, Ref], float]) -> None:
        self._age = age
        self._main = ReadyQueue(age)
        self._parked: dict[int, ReadyQueue] = {}
        """By function, in the order in which they take turns."""
        self.is_behind = False
        """Whether the last call of `take` gave up before it had looked at all tasks."""

    @property
    def size(self) -> int:
        """All tasks here."""
        return self._main.size + sum(queue.size for queue in self._parked.values())

    def parked(self) -> dict[int, int]:
        """The number of parked tasks, by function."""
        return {function: queue.size for function, queue in self._parked.items()}

    def count(self, allowance: Allowance) -> int:
        """The tasks that may be taken now, as far as that is known without looking at each."""
        return self._main.size + sum(min(queue.size, allowance(function)) for function, queue in self._parked.items())

    def add(self, source: Any, refs: Iterable[Ref], rank: int = LAST) -> None:
        """Adds tasks behind all others of their rank."""
        self._main.add(source, refs, rank)

    def give_back(self, source: Any, refs: MutableSequence[Any], rank: int = LAST) -> None:
        """Adds tasks before all others of their rank: they were taken and did not run."""
        queue = self._main
        if refs and self._parked:
            function, alike = source.alike(refs, 0, len(refs))
            if alike == len(refs):
                queue = self._parked.get(function, queue)
        queue.give_back(source, refs, rank)

    def take(self, count: int, allowance: Allowance | None = None) -> tuple[Any, MutableSequence[Any], int] | None:
        """Removes up to `count` tasks of one source that run next, as (source, refs, rank); None if there are none.

        Args:
            allowance: without it, tasks of all functions are taken. Tasks of a function that is held back are taken alone.
        """
        if not self._parked and allowance is None:
            return self._main.take(count)
        self.is_behind = False
        may = allowance or _all
        self._park(may)
        found = self._first_parked(may)
        head = None if self.is_behind else self._main.head()
        if found is not None and (self.is_behind or found[0] <= self._main.first_rank):
            return self._take_parked(found[1], min(count, may(found[1])))
        return None if head is None else self._main.take(_together(head[1], count, may))

    def remove(self, source: Any, ref: Ref) -> int | None:
        """Removes one task. Returns its rank, or None if it is not here. Takes time in proportion to what waits here."""
        for queue in (self._main, *self._parked.values()):
            if (rank := queue.remove(source, ref)) is not None:
                self._forget_empty()
                return rank
        return None

    def oldest(self) -> float | None:
        """When the oldest of the tasks at the heads of the ranks was accepted; None if there are none."""
        ages = [age for queue in (self._main, *self._parked.values()) if (age := queue.oldest()) is not None]
        return min(ages, default=None)

    def _park(self, may: Allowance) -> None:
        """Parks the tasks whose turn it is and that may not run, until the turn is one's that may."""
        left = PARKED_AT_ONCE
        while (head := self._main.head()) is not None:
            run = head[1]
            function, alike = run.source.alike(run.refs, run.start, left)
            if may(function) > 0:
                return
            if function not in self._parked:
                self._parked[function] = ReadyQueue(self._age)
            source, refs, rank = self._main.take(alike) or (None, [], LAST)
            self._parked[function].add(source, refs, rank)
            left -= alike
            if left <= 0:
                self.is_behind = True
                return

    def _first_parked(self, may: Allowance) -> tuple[int, int] | None:
        """The rank and the function of the parked tasks that run next."""
        found = None
        for function, queue in self._parked.items():
            head = queue.head() if may(function) > 0 else None
            if head is not None and (found is None or head[0] < found[0]):
                found = head[0], function
        return found

    def _take_parked(self, function: int, count: int) -> tuple[Any, MutableSequence[Any], int] | None:
        queue = self._parked.pop(function)
        taken = queue.take(count)
        if queue.size:
            self._parked[function] = queue  # behind the others: they take turns
        return taken

    def _forget_empty(self) -> None:
        self._parked = {function: queue for function, queue in self._parked.items() if queue.size}


def _all(_function: int) -> int:
    return MANY


def _together(run: Run, count: int, may: Allowance) -> int:
    """How many of the first tasks of a run are taken together: those of one function that is held back, or of all others."""
    alike: int
    function, alike = run.source.alike(run.refs, run.start, count)
    if (most := may(function)) < MANY:
        return min(alike, most)
    while alike < count and run.start + alike < len(run.refs):
        function, more = run.source.alike(run.refs, run.start + alike, count - alike)
        if may(function) < MANY:
            break
        alike += more
    return alike
