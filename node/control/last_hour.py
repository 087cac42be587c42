"""The last hour, minute by minute, for plots. Pure: the time is passed in."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

MINUTES = 60
"""Points of a series."""

T = TypeVar("T")


class LastHour(Generic[T]):
    """One value a minute for each of several names. A name that is gone takes no room after an hour."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, Mapping[str, T]]] = deque(maxlen=MINUTES - 1)
        self._minute: int | None = None
        """The one that has begun."""

    def __repr__(self) -> str:
        return f"<LastHour of {len(self._minutes)} minutes>"

    def sample(self, now: float, values: Callable[[], Mapping[str, T]]) -> None:
        """Notes the values of a minute when it is over; called from time to time. `now` is monotonic, in seconds."""
        minute = int(now // 60)
        if self._minute is not None and minute > self._minute:
            self._minutes.append((self._minute, values()))
        self._minute = minute

    def series(self, now: float, values: Mapping[str, T]) -> dict[str, list[T | None]]:
        """The values of each name, oldest first, one a minute; None where none was noted. The last are those of now."""
        minute = int(now // 60)
        noted = [*self._minutes, (minute, values)]
        found: dict[str, list[T | None]] = {}
        for noted_in, row in noted:
            if (position := MINUTES - 1 - (minute - noted_in)) >= 0:
                for name, value in row.items():
                    found.setdefault(name, [None] * MINUTES)[position] = value
        return found
