"""One link to one destination, as a state machine: when to connect, the tasks under way, the meaning of answers. No I/O, no
clock.

                      begin            connected           greeted
    IDLE / WAITING  -------> CONNECTING -------> GREETING -------> OPEN
       ^      ^                  |                  |               |
       |      +---- failed ------+------------------+---------------+
       +--------------------------- rest ---------------------------+

Tasks that were sent and not answered when a link fails are in doubt: the other side may have them. They are sent again with
their numbers, which the other side knows if it has them. Answers come in the order of sending.
"""

import random
from collections import deque
from enum import Enum
from typing import Any, NamedTuple

from spoolnode.cluster.timing import Timing
from spoolnode.protocol.errors import Reason, Refused, SpoolnodeError

WINDOW = 4096
"""Tasks under way on one link..."""
WINDOW_BYTES = 4 << 20
"""...and their bytes: enough to keep a connection busy on any network that matters."""


class LinkState(Enum):
    """The state of a link."""

    IDLE = "idle"
    """Nothing to do."""
    WAITING = "waiting"
    """It has failed, and waits for its next attempt."""
    CONNECTING = "connecting"
    GREETING = "greeting"
    OPEN = "open"


class Fate(Enum):
    """The meaning of an answer for its task."""

    TAKEN = "taken"
    """The other side has it, safely."""
    LATER = "later"
    """It does not take tasks now, and does not have this one."""
    NEVER = "never"
    """It will never take this one."""


class WrongState(SpoolnodeError):
    """We erred: this is impossible in this state."""

    def __init__(self, state: LinkState, what: str) -> None:
        super().__init__(f"a link that is {state.value} cannot be {what}")


class Sent(NamedTuple):
    """A task under way."""

    source: Any
    rank: int
    ref: Any
    number: int
    size: int
    """In bytes."""
    doubtful: bool = False
    """Whether it was sent before and not answered: a refusal now does not mean that it is not there."""


_NEVER = frozenset({Reason.MALFORMED, Reason.TOO_LARGE, Reason.CONFLICT, Reason.FORBIDDEN, Reason.LENGTH_REQUIRED})


def fate_of(refusal: Refused | None) -> Fate:
    """The meaning of an answer: None is "stored"."""
    if refusal is None:
        return Fate.TAKEN
    return Fate.NEVER if refusal.reason in _NEVER else Fate.LATER


class Link:
    """The state of one link. Times are monotonic, in seconds."""

    def __init__(self, rng: random.Random, timing: Timing) -> None:
        self.state = LinkState.IDLE
        self.flight: deque[Sent] = deque()
        """Tasks sent and not answered, oldest first."""
        self.flight_bytes = 0
        self.failures = 0
        """Failures in a row."""
        self.reason = ""
        """The reason of the last failure."""
        self.retry_at = 0.0
        """When it may be tried again, if it is waiting."""
        self.closing = False
        """Whether the other side asked us to slow down: no more is sent, and when all is answered the link pauses."""
        self._rng = rng
        self._timing = timing
        self._heard_at = 0.0

    def __repr__(self) -> str:
        failed = f", failed {self.failures}x: {self.reason}" if self.failures else ""
        return f"<link {self.state.value}, {len(self.flight)} tasks under way{', closing' if self.closing else ''}{failed}>"

    def may_begin(self, now: float) -> bool:
        """Whether it may connect now."""
        return self.state is LinkState.IDLE or (self.state is LinkState.WAITING and now >= self.retry_at)

    def begin(self, now: float) -> None:
        """Notes an attempt to connect."""
        if not self.may_begin(now):
            raise WrongState(self.state, "begun")
        self.state, self.closing = LinkState.CONNECTING, False

    def connected(self, now: float) -> None:
        """Notes that it is connected, and the hello is sent."""
        self._expect(LinkState.CONNECTING, "connected")
        self.state, self._heard_at = LinkState.GREETING, now

    def greeted(self, now: float) -> None:
        """Notes that the other side is the right one."""
        self._expect(LinkState.GREETING, "greeted")
        self.state, self._heard_at, self.closing = LinkState.OPEN, now, False

    def room(self) -> int:
        """How many more tasks may be sent now."""
        if self.state is not LinkState.OPEN or self.closing or self.flight_bytes >= WINDOW_BYTES:
            return 0
        return WINDOW - len(self.flight)

    def sent(self, sent: Sent, now: float) -> None:
        """Notes a task that was sent."""
        self._expect(LinkState.OPEN, "sent on")
        if not self.flight:
            self._heard_at = now
        self.flight.append(sent)
        self.flight_bytes += sent.size

    def answered(self, refusal: Refused | None, now: float) -> tuple[Sent, Fate]:
        """Notes the answer to the oldest task in flight. Returns the task and its fate. Raises `WrongState` if none is."""
        self._expect(LinkState.OPEN, "answered")
        if not self.flight:
            raise WrongState(self.state, "answered: nothing is under way")
        self._heard_at = now
        sent = self.flight.popleft()
        self.flight_bytes -= sent.size
        fate = fate_of(refusal)
        if fate is Fate.LATER and refusal is not None:
            self.closing, self.reason = True, refusal.text
        else:
            self.failures = 0  # even if it never takes this one: others must not wait longer because of that
        return sent, fate

    def progress(self, now: float) -> None:
        """Notes that bytes of a large task were sent."""
        self._heard_at = now

    def is_stuck(self, now: float) -> bool:
        """Whether the other side has been silent for too long."""
        waits = self.state is LinkState.GREETING or (self.state is LinkState.OPEN and bool(self.flight))
        return waits and now - self._heard_at > self._timing.answer

    def rest(self) -> None:
        """Notes that all is sent, and the connection was closed."""
        self._expect(LinkState.OPEN, "rested")
        if self.flight:
            raise WrongState(self.state, "rested: tasks are under way")
        self.state = LinkState.IDLE

    def failed(self, now: float, reason: str, *, untrusted: bool = False) -> list[Sent]:
        """Notes that it failed or ended. Returns the tasks in doubt now, oldest first."""
        if self.state in (LinkState.IDLE, LinkState.WAITING):
            raise WrongState(self.state, "failed")
        doubtful, self.flight, self.flight_bytes = list(self.flight), deque(), 0
        self.failures += 1
        self.reason = reason
        bound = min(self._timing.longest_retry, self._timing.first_retry * 2.0 ** min(self.failures - 1, 10))
        self.retry_at = now + (self._timing.distrust if untrusted else bound * self._rng.random())
        self.state = LinkState.WAITING
        return doubtful

    def pause(self, now: float) -> None:
        """Notes that the other side is busy or full, all is answered, and the connection was closed: it pauses for a while."""
        self._expect(LinkState.OPEN, "paused")
        if self.flight:
            raise WrongState(self.state, "paused: tasks are under way")
        self.failed(now, self.reason)

    def nudge(self, now: float) -> None:
        """Ends its waiting: the other side has shown a sign of life, or an operator asks."""
        if self.state is LinkState.WAITING:
            self.retry_at = now
            self.failures = min(self.failures, 1)

    def _expect(self, state: LinkState, what: str) -> None:
        if self.state is not state:
            raise WrongState(self.state, what)
