"""The tasks that wait, in the order in which a node runs them: those that are due by priority, the others by their time."""

from heapq import heappop, heappush
from itertools import count

from spoolnode.testing.spooled_task import SpooledTask


class InOrder:
    """A queue of tasks."""

    def __init__(self) -> None:
        self._due: list[tuple[int, float, int, SpooledTask]] = []
        self._later: list[tuple[float, int, SpooledTask]] = []
        self._numbers = count()
        """Numbers the tasks as they come, so that two of them are never compared."""

    def __repr__(self) -> str:
        return f"<InOrder: {len(self._due)} tasks are due, {len(self._later)} later>"

    def put(self, task: SpooledTask) -> None:
        """Adds a task that waits."""
        heappush(self._later, (task.due, next(self._numbers), task))

    def take(self, now: float) -> SpooledTask | None:
        """Takes out the next of those that are due; None without one."""
        while self.next_due <= now:
            _, number, task = heappop(self._later)
            heappush(self._due, (task.terms.rank, task.accepted, number, task))
        while self._due:
            if (task := heappop(self._due)[-1]).state == "waiting":  # not cancelled meanwhile
                return task
        return None

    @property
    def next_due(self) -> float:
        """When the next of the others is due, in seconds since 1970; infinity without one."""
        while self._later and self._later[0][-1].state != "waiting":
            heappop(self._later)
        return self._later[0][0] if self._later else float("inf")
