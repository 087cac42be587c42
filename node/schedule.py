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

from spoolnode.node.cron import following, is_fixed
from spoolnode.node.outcome import Timer

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
    _last: dict[Timer, float] = field(default_factory=dict)
    """When each was due last, in seconds since 1970."""
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
        self._last = {timer: when for timer, when in self._last.items() if timer in self._next}

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
        self._last.update((timer, wall) for timer in due)
        for timer in due:
            self._next[timer] = math.inf if 0 < timer.times <= self._calls[timer] else self._after(timer)
        return due

    def listed(self, monotonic: float, wall: float) -> list[tuple[Timer, float, float]]:
        """Each timer, when it is due next and when it was called last, in seconds since 1970; 0.0 if it was not called yet."""
        ahead = wall - monotonic
        return [
            (timer, when + ahead if timer.seconds else when, self._last.get(timer, 0.0)) for timer, when in self._next.items()
        ]

    def _first(self, timer: Timer) -> float:
        return self.monotonic + timer.seconds if timer.seconds else following(timer, self.wall)

    def _after(self, timer: Timer) -> float:
        """When a due timer is due again: it keeps its beat, and missed calls are left out."""
        if not timer.seconds:
            return following(timer, self.wall)
        missed = math.floor((self.monotonic - self._next[timer]) / timer.seconds)
        return self._next[timer] + (missed + 1) * timer.seconds


def described(timer: Timer) -> str:
    """When a timer is due, for people."""
    if timer.seconds:
        return f"every {timer.seconds:g} s"
    return " ".join([timer.expression or " ".join(map(str, timer.cron)), timer.zone]).strip()
