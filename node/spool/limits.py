"""Counts how many tasks of limited functions run and have started lately, and how many more may start. Pure."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping

from spoolnode.node.outcome import Limit


class Limits:
    """The limits of functions, by their numbers (see `functions`). Times are monotonic seconds."""

    def __init__(self) -> None:
        self._limits: dict[int, Limit] = {}
        self._running: Counter[int] = Counter()
        self._started: dict[int, deque[float]] = {}
        """When the last tasks of each function with a rate started, as many as its rate lets start in its time."""

    def __contains__(self, function: int) -> bool:
        return function in self._limits

    def __iter__(self) -> Iterator[int]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def declare(self, limits: Mapping[int, Limit]) -> None:
        """From now on these functions are limited. Tasks that run go on to count, and so do those that started lately."""
        self._limits = dict(limits)
        self._started = {
            function: deque(self._started.get(function, ()), limit.starts) for function, limit in limits.items() if limit.starts
        }

    def told(self, function: int) -> dict[str, float]:
        """The limits of a function, those that it has, and how many of its tasks run."""
        at_once, starts, seconds = self._limits[function]
        said = {"running": self._running[function], "at_once": at_once, "starts_per_second": starts and starts / seconds}
        return {name: value for name, value in said.items() if value or name == "running"}

    def at_once(self, function: int) -> int:
        """How many tasks of a function may run at once; 0 is any number."""
        return self._limits[function].at_once if function in self._limits else 0

    def allowance(self, function: int, now: float) -> int:
        """How many more tasks of a limited function may start."""
        limit = self._limits[function]
        free = []
        if limit.at_once:
            free.append(limit.at_once - self._running[function])
        if limit.starts:
            started = self._started[function]
            while started and started[0] + limit.seconds - now <= 0:  # as `opens_in` computes it
                started.popleft()
            free.append(limit.starts - len(started))
        return max(min(free), 0)

    def start(self, function: int, count: int, now: float) -> None:
        """So many tasks of it start."""
        self._running[function] += count
        if function in self._started:
            self._started[function].extend([now] * count)

    def end(self, function: int) -> None:
        """One task of it has ended."""
        self._running[function] -= 1

    def undo(self, function: int) -> None:
        """One task of it did not start after all."""
        self.end(function)
        if self._started.get(function):
            self._started[function].pop()

    def opens_in(self, now: float) -> float | None:
        """Seconds until a function may start tasks again whose rate is used up; None if there is none."""
        waits = [
            self._started[function][0] + limit.seconds - now
            for function, limit in self._limits.items()
            if limit.starts and len(self._started[function]) == limit.starts
        ]
        return min((wait for wait in waits if wait > 0), default=None)
