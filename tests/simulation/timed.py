"""Stories about the timers of a whole cluster: which nodes run what is due while nodes die, the network fails and clocks are set.

    none missed     each due time is stored by a node, or counts together with a later one that was run more than a minute late
    doubles         two nodes store one only if one of them died about then, the network failed before, or a clock was wrong

A task that is stored has the same promises as any other; see `history`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

from spoolnode.node.outcome import Timer
from spoolnode.node.roster import LATE, PATIENCE, next_due
from spoolnode.protocol import names
from spoolnode.protocol.packet import encode_variables

from .history import History, Task, variables_of
from .loop import EPOCH, Violation
from .node import SimNode
from .scenario import Size, Story, lived
from .world import World

SETTLING = 15.0
"""Seconds after its start in which a node runs no timer."""
TOLD = 12.0
"""Seconds after which all nodes that are up have been told what was run."""
REST = PATIENCE + SETTLING + LATE
"""Seconds after the faults in which all that is due must be run."""
KNOWN = 20.0
"""Seconds after which a node has run for long enough to know that it has the timers, whatever dies in the beginning."""
SIZE = Size((1, 2, 3, 3, 4), (60.0, 240.0), 0, 0, 7)
CHANGES = (datetime(2024, 3, 31, 1, tzinfo=UTC).timestamp(), datetime(2023, 10, 29, 1, tzinfo=UTC).timestamp())
"""When the clocks of Rome were changed: in spring and in autumn."""


def of_cluster(name: str, seconds: float = 0.0, expression: str = "") -> Timer:
    """A timer of the whole cluster."""
    return Timer(name, seconds, (-1,) * 5, 0, expression, "Europe/Rome" if expression else "", _task(name))


def _task(name: str) -> bytes:
    return encode_variables([(names.FUNCTION, name.encode())])


TIMERS = (
    of_cluster("often", 7.0), of_cluster("now and then", 40.0), of_cluster("minutely", expression="* * * * *"),
    of_cluster("in the skipped hour", expression="30 2 * * *"), of_cluster("after it", expression="1 3 * * *"),
    of_cluster("twice", expression="1,3 2 * * *"), of_cluster("within it", expression="*/2 2 * * *"),
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A node has stored a due time."""

    node: str
    at: float
    """The true time."""
    wall: float
    """The time of its clock."""


@dataclass
class TimerHistory(History):
    """All due times of a run."""

    stored: dict[tuple[str, float], list[Stored]] = field(default_factory=dict)
    deaths: list[tuple[str, float]] = field(default_factory=list)
    """Which node died when."""
    apart: float = float("inf")
    """When the network failed first."""
    wrong: float = float("inf")
    """When a clock was set first."""
    outages: list[tuple[float, float]] = field(default_factory=list)
    """From when to when no node was up."""
    now: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self._of: dict[str, Task] = {}
        self._up: set[str] = set()
        self._down_since = 0.0

    def task_of(self, payload: bytes, local: str) -> tuple[Task, str]:
        """A task of its own for each that a node makes; nodes may make two of one due time."""
        return self._task(local, variables_of(payload)[names.FUNCTION].decode()), local

    def _task(self, identity: str, timer: str) -> Task:
        if identity not in self._of:
            self._of[identity] = self.new(asked=timer)
        return self._of[identity]

    def killed(self, machine: str) -> None:
        """As the base class says."""
        super().killed(machine)
        self.deaths.append((machine, self.now()))
        if self._up == {machine}:
            self._down_since = self.now()
        self._up.discard(machine)

    def came_up(self, machine: str) -> None:
        """As the base class says."""
        if not self._up:
            self.outages.append((self._down_since, self.now()))
        self._up.add(machine)

    def was_stored(self, node: SimNode, *, timer: str, due: int, id: str) -> None:
        """A node says so."""
        self._task(id, timer).acknowledged = True
        self.stored.setdefault((timer, due), []).append(Stored(node.name, self.now(), node.machine.wall()))

    def check_timers(self, timers: Iterable[Timer], began: float, last: float) -> None:
        """Looks at all due times until the last, in seconds since 1970."""
        for timer in timers:
            mine = {due: found for (name, due), found in self.stored.items() if name == timer.name}
            late = [due for due, found in mine.items() for one in found if one.wall - due >= LATE]
            when = next_due(timer, began + KNOWN)
            while when <= last:
                if when not in mine and not any(due > when for due in late) and not self._is_skipped(timer, when - began):
                    raise Violation(f"{timer.name} of {when:.0f} was missed; run: {sorted(mine)}")
                when = next_due(timer, when)
            for due, found in mine.items():
                self._check_doubles(f"{timer.name} of {due:.0f}", found)

    def _is_skipped(self, timer: Timer, when: float) -> bool:
        """Whether it was due while no node was up, or too shortly before to be stored, and is not made up for."""
        outages = [(begin - SETTLING - PATIENCE, end - LATE + 1) for begin, end in self.outages]
        return not timer.catch_up and any(begin <= when <= end for begin, end in outages)

    def _check_doubles(self, what: str, found: list[Stored]) -> None:
        for one, other in pairwise(found):
            died = any(
                node in (one.node, other.node) and one.at - PATIENCE - SETTLING <= when <= one.at + TOLD
                for node, when in self.deaths
            )
            if not died and min(self.apart, self.wrong) > other.at:
                raise Violation(f"{what} was stored by {one} and {other}")


class TimerStory(Story):
    """Fills a world with nodes that have timers, and with faults."""

    def __init__(self, world: World, size: Size = SIZE) -> None:
        super().__init__(world, size)
        assert isinstance(world.history, TimerHistory)
        self.history: TimerHistory = world.history

    def run(self) -> None:
        """Plans it all, and lets it happen."""
        world, random = self.world, self.random
        self.history.now = world.loop.time
        if random.random() < 0.6:
            world.ahead = random.choice(CHANGES) - random.choice((30.0, 90.0, 150.0)) - EPOCH
        for _ in range(random.choice(self.size.nodes)):
            self._add_node(random.random() ** 2)
        timers = [timer._replace(catch_up=random.random() < 0.5) for timer in random.sample(TIMERS, random.randint(1, 4))]
        for node in world.nodes:
            node.timers = list(timers)
            node.stored_due = self.history.was_stored
        for _ in range(random.randint(0, self.size.faults)):
            world.later(self._when(), random.choice(self.KINDS[world.seed % len(self.KINDS)]), self)
        world.run(self.seconds, REST)
        began = EPOCH + world.ahead
        self.history.check_timers(timers, began, began + world.loop.now - REST / 2)

    def outage(self) -> None:
        """The power of all machines is off for minutes."""
        seconds = self.random.choice((50.0, 100.0, 200.0))
        before, self.world.restart_after = self.world.restart_after, (seconds, seconds + 5)
        self.world.say("outage", seconds=seconds)
        for node in self.world.nodes:
            node.machine.cut_power()
        self.world.restart_after = before

    def partition(self) -> None:
        """As the base class says."""
        self.history.apart = min(self.history.apart, self.world.loop.now)
        super().partition()

    def bad_way(self) -> None:
        """As the base class says."""
        if len(self.world.nodes) > 1:
            self.history.apart = min(self.history.apart, self.world.loop.now)
            super().bad_way()

    def step_clock(self) -> None:
        """As the base class says."""
        self.history.wrong = min(self.history.wrong, self.world.loop.now)
        super().step_clock()

    KINDS = (
        (
            Story.kill,
            Story.kill,
            outage,
            Story.cut_power,
            Story.doom,
            Story.stop,
            Story.blackout,
            Story.slow_disk,
            Story.fill_disk,
        ),
        (Story.kill, Story.cut_power, partition, partition, bad_way),
        (Story.kill, Story.cut_power, step_clock, step_clock, Story.fill_disk),
        (outage, outage, Story.kill),
    )
    """The faults of a story: deaths and bad disks; with a bad network; with clocks that are set; with times without any node."""


def run_timers(seed: int, trace: Callable[..., None] | None = None) -> World:
    """The story of one seed. Raises `Violation` if it breaks a promise."""
    return lived(World(seed, history=TimerHistory()), TimerStory, trace)
