"""When the application's timers are due. Pure: the time is passed in.

Timers are no tasks: nothing of them is on disk, and what was missed while the node was down is not made up for.
"""

from dataclasses import dataclass, field
from datetime import datetime

from spoolnode.node.outcome import Timer

YEARS = 8 * 366 * 86400.0
"""Seconds within which every 29th of February comes (1900 and 2100 have none); what is not due by then never is."""


@dataclass(slots=True)
class Schedule:
    """The timers of the application; `due` is asked at the times that `next_at` gives."""

    timers: list[Timer]
    now: float
    """Seconds since 1970."""
    _next: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = [following(timer, self.now) for timer in self.timers]

    def next_at(self) -> float | None:
        """When the next timer is due; None without timers."""
        return min(self._next, default=None)

    def due(self, now: float) -> list[int]:
        """The timers that are due, by index; each is then due again after its period."""
        indexes = [index for index, when in enumerate(self._next) if when <= now]
        for index in indexes:
            self._next[index] = following(self.timers[index], now)
        return indexes


def following(timer: Timer, now: float) -> float:
    """When a timer is due next after `now`."""
    if timer.seconds:
        return now + timer.seconds
    # Steps in seconds, not in local time: there an hour comes twice each autumn, and would be due while it is over.
    when = now // 60 * 60 + 60
    while when < now + YEARS:
        local = datetime.fromtimestamp(when)  # noqa: DTZ006  # cron speaks of local time
        if matches(timer.cron, local):
            return when
        possible = matches((local.minute, *timer.cron[1:]), local)
        when += 60 if possible else (60 - local.minute) * 60
    return float("inf")


def matches(cron: tuple[int, int, int, int, int], when: datetime) -> bool:
    """Whether a cron entry (minute, hour, day, month, weekday; -1 any, -n every n) names this minute.

    As in cron(5): when both day and weekday are given, either of them is enough. Sunday is 0 and 7.
    """
    minute, hour, day, month, weekday = cron
    if not (_fits(minute, when.minute) and _fits(hour, when.hour) and _fits(month, when.month)):
        return False
    day_fits = _fits(day, when.day)
    weekday_fits = _fits(weekday % 7 if weekday > 0 else weekday, when.isoweekday() % 7)
    if day >= 0 and weekday >= 0:
        return day_fits or weekday_fits
    return day_fits and weekday_fits


def _fits(wanted: int, value: int) -> bool:
    return wanted == value if wanted >= 0 else value % -wanted == 0
