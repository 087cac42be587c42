"""When the application's timers are due. Pure: the times are passed in.

Timers are not tasks: they are not on disk, and calls missed while the node was down are not made up for.

Periods go by the monotonic clock. Cron entries go by the wall clock, and follow cron(8) when that is set or the hour changes:
an entry at a fixed hour and minute that falls into a skipped hour runs when that is over, and does not run again in an hour
that comes twice; others ("every n minutes") go by the new time. A step of more than three hours is a correction: nothing is
made up for.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from spoolnode.node.outcome import Timer

YEARS = 8 * 366
"""Days within which every 29th of February comes (1900 and 2100 have none); an entry that is not due by then never is."""
STEP_SECONDS = 1.0
"""Seconds by which the wall clock must move against the monotonic one to count as a step."""
CORRECTION_SECONDS = 3 * 3600.0
"""A step of more than this is a correction of a wrong clock."""


@dataclass(slots=True)
class Schedule:
    """The timers of the application. Call `due` after the seconds that `wait` returns."""

    monotonic: float
    """Now, by the monotonic clock."""
    wall: float
    """Now, in seconds since 1970."""
    _next: dict[Timer, float] = field(default_factory=dict)
    """When each is due: periods by the monotonic clock, cron entries in seconds since 1970."""
    _calls: Counter[Timer] = field(default_factory=Counter)
    """How often each timer with a limited number of calls was due."""

    @property
    def timers(self) -> list[Timer]:
        """All timers."""
        return list(self._next)

    def replace(self, timers: list[Timer], monotonic: float, wall: float) -> None:
        """Replaces the timers. One that was there before keeps its time."""
        known, self.monotonic, self.wall = self._next, monotonic, wall
        self._next = {timer: known.get(timer, self._first(timer)) for timer in timers}

    def wait(self, monotonic: float, wall: float) -> float | None:
        """Seconds until the next timer is due, if the clock is not set meanwhile; None without timers."""
        waits = (when - (monotonic if timer.seconds else wall) for timer, when in self._next.items())
        soonest = min(waits, default=None)
        return None if soonest is None else max(soonest, 0.0)

    def due(self, monotonic: float, wall: float) -> list[Timer]:
        """The timers that are due; each is then due again after its period."""
        step = (wall - self.wall) - (monotonic - self.monotonic)
        self.monotonic, self.wall = monotonic, wall
        for timer in self._next:
            if not timer.seconds and (abs(step) > CORRECTION_SECONDS or (step < -STEP_SECONDS and not is_fixed(timer))):
                self._next[timer] = following(timer, wall)
        due = [timer for timer, when in self._next.items() if when <= (monotonic if timer.seconds else wall)]
        self._calls.update(timer for timer in due if timer.times)
        for timer in due:
            self._next[timer] = math.inf if 0 < timer.times <= self._calls[timer] else self._after(timer)
        return due

    def _first(self, timer: Timer) -> float:
        return self.monotonic + timer.seconds if timer.seconds else following(timer, self.wall)

    def _after(self, timer: Timer) -> float:
        """When a due timer is due again: it keeps its beat, and missed calls are left out."""
        if not timer.seconds:
            return following(timer, self.wall)
        missed = math.floor((self.monotonic - self._next[timer]) / timer.seconds)
        return self._next[timer] + (missed + 1) * timer.seconds


def is_fixed(timer: Timer) -> bool:
    """Whether a cron entry names its hour and minute; cron(8) runs such an entry once a day even when the clocks change."""
    return timer.cron[0] >= 0 and timer.cron[1] >= 0


def following(timer: Timer, now: float) -> float:
    """When a cron entry is due next after `now`, in seconds since 1970; infinity for a day that never comes."""
    today = datetime.fromtimestamp(now).date()  # noqa: DTZ006  # cron speaks of local time
    for days in range(YEARS):
        day = today + timedelta(days=days)
        if _day_fits(timer.cron, day) and (found := _on_day(timer, day, now)) is not None:
            return found
    return float("inf")


def _on_day(timer: Timer, day: date, now: float) -> float | None:
    """The first time after `now` on a day that fits; None if there is none."""
    if is_fixed(timer):
        when = _first_time(datetime(day.year, day.month, day.day, timer.cron[1], timer.cron[0]))  # noqa: DTZ001  # local
        return when if when > now else None
    # Steps in seconds, not in local time: there an hour comes twice each autumn, and would be due while it is over.
    when = max(datetime(day.year, day.month, day.day).timestamp(), now // 60 * 60 + 60)  # noqa: DTZ001  # local
    while (local := datetime.fromtimestamp(when)).date() == day:  # noqa: DTZ006  # local
        if matches(timer.cron, local):
            return when
        when += 60 if _fits(timer.cron[1], local.hour) else (60 - local.minute) * 60
    return None


def _first_time(local: datetime) -> float:
    """When a local time comes for the first time; for a skipped time, the moment of the change."""
    when = local.timestamp()
    if datetime.fromtimestamp(when) == local:  # noqa: DTZ006  # local
        return when
    # With the offset from before the change it lies after the change, by the time that is skipped.
    offset = datetime.fromtimestamp(when).astimezone().utcoffset()
    while datetime.fromtimestamp(when - 60).astimezone().utcoffset() == offset:
        when -= 60
    return when


def matches(cron: tuple[int, int, int, int, int], when: datetime) -> bool:
    """Whether a cron entry (minute, hour, day, month, weekday; -1 any, -n every n) names this minute.

    As in cron(5): if both day and weekday are given, either is enough. Sunday is 0 and 7.
    """
    return _fits(cron[0], when.minute) and _fits(cron[1], when.hour) and _day_fits(cron, when)


def _day_fits(cron: tuple[int, int, int, int, int], when: date) -> bool:
    _, _, day, month, weekday = cron
    if not _fits(month, when.month):
        return False
    day_fits = _fits(day, when.day)
    weekday_fits = _fits(weekday % 7 if weekday > 0 else weekday, when.isoweekday() % 7)
    if day >= 0 and weekday >= 0:
        return day_fits or weekday_fits
    return day_fits and weekday_fits


def _fits(wanted: int, value: int) -> bool:
    return wanted == value if wanted >= 0 else value % -wanted == 0
