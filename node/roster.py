"""Whose turn it is to run a timer of the whole cluster, and for which due times. Pure: clocks and other nodes are passed in.

A due time is run by the first node in the timer's *line*: all nodes that are up and have the timer, in the order of a hash of the
timer and the node (rendezvous hashing). All nodes reckon the same line without asking each other, and when a node goes, only its
timers change hands. The others remember that the time is due until they are told that it was run, in the answers to their pings.
If that takes too long, because the first node neither runs it nor dies, the second one does, and so on. So none is missed, and
two nodes run one due time only if they do not know of each other, or the first one dies or is cut off before it has told.

The line is the timer's, not that of each due time: so one node runs its due times in their order, and the latest one that was run
says that all before it are over. That is all that nodes tell each other, and all that is kept over a restart.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from spoolnode.node.cron import following, is_fixed
from spoolnode.node.outcome import Timer
from spoolnode.node.schedule import CORRECTION_SECONDS, STEP_SECONDS
from spoolnode.protocol import names
from spoolnode.protocol.packet import encode_variables

PATIENCE = 30.0
"""Seconds after which the next node in the line runs what the one before it has not. Three times as long as it may take until a
node that is up has told what it has run (`Timing.stale`)."""
LATE = 60.0
"""Due times that are older than this, in seconds, count as one, the latest. At a start they were missed."""
FROZEN_SECONDS = 15.0
"""If more time passes between two looks, this process was stopped."""
AHEAD = 60.0
"""Seconds that a due time which was run may lie ahead of this node's clock. One further ahead is of a wrong clock. That of an
entry at a fixed hour and minute may lie ahead as far as a clock is set: it does not run again when the clock is set back."""
MOST_TIMERS = 128
"""Timers of one application that are the whole cluster's: the answers to pings tell them all."""
_KEY = re.compile("[0-9a-f]{16}")


class LastRun(NamedTuple):
    """A due time that is over, with all before it."""

    due: float
    """In seconds since 1970."""
    by: str
    """The name of the node that stored its task; empty if none did: the timer is known only since then."""


class Colleague(NamedTuple):
    """Another node, as far as timers go."""

    id: str
    works: bool
    """Whether it is up and takes tasks."""
    runs: Mapping[str, LastRun]
    """The timers that it has, and the latest due time of each that it knows to have been run."""


class Due(NamedTuple):
    """A due time that this node should run now."""

    key: str
    timer: Timer
    when: float

    @property
    def block(self) -> bytes:
        """The variables of its task."""
        return self.timer.task + encode_variables([(names.DUE, b"%d" % self.when)])


def key_of(timer: Timer) -> str:
    """A short name for a timer, the same on all nodes that have the same function at the same times."""
    said = repr((timer.name, timer.seconds, timer.cron, timer.expression, timer.zone))
    return sha256(said.encode()).hexdigest()[:16]


def is_key(text: object) -> bool:
    """Whether this can be the key of a timer."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def next_due(timer: Timer, after: float) -> float:
    """The first due time after `after`. Periods are counted from 1970, so that all nodes have the same ones."""
    return (after // timer.seconds + 1) * timer.seconds if timer.seconds else following(timer, after)


def passed(timer: Timer, after: float, now: float) -> list[float]:
    """The due times after `after`, up to now. Those older than `LATE` count as one."""
    old = _latest(timer, after, now - LATE)
    found, when = [] if old is None else [old], next_due(timer, max(after, now - LATE))
    while when <= now:
        found.append(when)
        when = next_due(timer, when)
    return found


def _latest(timer: Timer, after: float, until: float) -> float | None:
    """The last due time after `after` and up to `until`; None if there is none."""
    if until <= after or next_due(timer, after) > until:
        return None
    beyond = until
    while beyond - after > 1:  # due times are whole seconds
        middle = (after + beyond) / 2
        if next_due(timer, middle) <= until:
            after = middle
        else:
            beyond = middle
    return next_due(timer, after)


def place_in_line(key: str, own: str, others: Iterable[str]) -> int:
    """How many of the other nodes come before this one in the line of a timer."""
    return sum(_weight(key, other) > _weight(key, own) for other in others)


def _weight(key: str, node_id: str) -> bytes:
    return sha256(f"{key} {node_id}".encode()).digest()


@dataclass(slots=True)
class Roster:
    """The timers of one node that are the whole cluster's. Call `due` after the seconds that `wait` returns."""

    id: str
    """That of this node."""
    runs: dict[str, LastRun]
    """The latest due time of each that was run, here or elsewhere; kept over restarts."""
    settling: float
    """Seconds after a timer is new in which other nodes, or their having it, may not be known yet: it waits."""
    timers: dict[str, Timer] = field(default_factory=dict)
    version: int = 0
    """Rises with each change of `runs`."""
    _ready: dict[str, float] = field(default_factory=dict)
    """When each has waited long enough for news of the others, by the monotonic clock."""
    _floor: dict[str, float] = field(default_factory=dict)
    """Due times up to this one are not made up for."""
    _open: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The first due time of each that is not run yet, and since when this node has known that, by the monotonic clock."""
    _next: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Up to when the due times of each are over, and the first one after that: reckoning it takes up to 200 us."""
    _clocks: tuple[float, float] | None = None
    """Both clocks at the last look."""

    def replace(self, timers: Iterable[Timer], monotonic: float, wall: float) -> None:
        """Takes the timers of the application as it is now. One that was there before goes on."""
        before, self.timers = self.timers, {key_of(timer): timer for timer in timers}
        for key in self.timers.keys() - before.keys():
            self.wait_for_news(key, monotonic)
            self._floor[key] = -math.inf if self.timers[key].catch_up else wall - LATE
            if key not in self.runs:
                self._note(key, LastRun(wall, ""))
        for key in before.keys() - self.timers.keys():
            for times in (self._ready, self._floor):
                times.pop(key, None)
            for pairs in (self._open, self._next):
                pairs.pop(key, None)
        if gone := self.runs.keys() - self.timers.keys():
            self.runs = {key: run for key, run in self.runs.items() if key not in gone}
            self.version += 1

    def told(self) -> dict[str, LastRun]:
        """The part of it for other nodes: the timers, and the latest due time of each that was run."""
        return {key: run if run.by else LastRun(0.0, "") for key, run in self.runs.items() if key in self.timers}

    def due(self, monotonic: float, wall: float, others: Sequence[Colleague]) -> list[Due]:
        """The due times that this node should run now; call `ran` for each when its task is stored."""
        self._see_clocks(monotonic, wall)
        found = []
        for key, timer in self.timers.items():
            have = [other for other in others if key in other.runs]
            for other in have:
                self._hear(key, other.runs[key], wall)
            first = self._first(key)
            if first <= wall and monotonic >= self._ready[key]:
                since = self._open_since(key, first, monotonic)
                before = place_in_line(key, self.id, (other.id for other in have if other.works))
                if monotonic - since >= before * PATIENCE:
                    found += [Due(key, timer, when) for when in passed(timer, self._over(key), wall)]
        return found

    def ran(self, due: Due, by: str) -> None:
        """Notes that the task of a due time is stored here."""
        if due.key in self.timers and due.when > self.runs[due.key].due:
            self._note(due.key, LastRun(due.when, by))

    def wait_for_news(self, key: str, monotonic: float) -> None:
        """Runs nothing of a timer until the others have told what they have run: this node could not do so for a while."""
        self._ready[key] = monotonic + self.settling

    def wait(self, wall: float) -> float:
        """Seconds until the next due time, if the clock is not set meanwhile; less than 0 while one is open."""
        return min((self._first(key) - wall for key in self.timers), default=math.inf)

    def next_of(self, key: str, wall: float) -> float:
        """When a timer is due next."""
        first = self._first(key)
        return first if first > wall else next_due(self.timers[key], wall)

    def _over(self, key: str) -> float:
        """Due times up to this one are over."""
        return max(self.runs[key].due, self._floor[key])

    def _first(self, key: str) -> float:
        """The first due time that is not over."""
        over = self._over(key)
        if key not in self._next or self._next[key][0] != over:
            self._next[key] = over, next_due(self.timers[key], over)
        return self._next[key][1]

    def _open_since(self, key: str, first: float, monotonic: float) -> float:
        """Since when this node has known that the due time is not run yet."""
        if key not in self._open or self._open[key][0] != first:
            self._open[key] = first, monotonic
        return self._open[key][1]

    def _hear(self, key: str, run: LastRun, wall: float) -> None:
        """Takes what another node says was run."""
        if self.runs[key].due < run.due <= wall + _believed(self.timers[key]) and run.by:
            self._note(key, run)

    def _note(self, key: str, run: LastRun) -> None:
        self.runs[key] = run
        self.version += 1

    def _see_clocks(self, monotonic: float, wall: float) -> None:
        """Notes if the wall clock was set, or this process was stopped. After a correction nothing is made up for."""
        before, self._clocks = self._clocks or (monotonic, wall), (monotonic, wall)
        passed_by = monotonic - before[0]
        step = (wall - before[1]) - passed_by
        for key, timer in self.timers.items():
            if abs(step) > STEP_SECONDS or passed_by > FROZEN_SECONDS:
                self.wait_for_news(key, monotonic)  # this machine was asleep, perhaps: others may have taken over
            if step > CORRECTION_SECONDS:
                self._floor[key] = max(self._floor[key], before[1] + step)
            if self.runs[key].due > wall + _believed(timer):
                self._note(key, LastRun(wall, ""))
            if self._floor[key] > wall + _believed(timer):
                self._floor[key] = wall


def _believed(timer: Timer) -> float:
    """How many seconds a due time that was run may lie ahead of this node's clock."""
    return CORRECTION_SECONDS if _is_fixed(timer) else AHEAD


def _is_fixed(timer: Timer) -> bool:
    return not timer.seconds and is_fixed(timer)
