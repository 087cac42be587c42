"""The state of one peer, as a state machine: the inputs that this node sees, and where they lead. No I/O, no clock.

                 answers            goodbye, or drains
    UNKNOWN ----------------> UP ----------------------> LEAVING        REJECTED
       |                     |  ^                           |
       | silent       silent |  | answers                   | silent
       |                     v  |                           |
       +-------------------> SUSPECT ---------> DOWN <------+
                                     silent, for the third time

    From every state: an answer leads to UP, or to LEAVING if the peer drains; a refused connection to DOWN;
    an answer of a wrong node to REJECTED.

Only what this node sees itself counts: its pings and its links. An announcement or a call is a hint, which can be forged. It
makes this node ask at once; the one state that it leads to is LEAVING, which the next answer ends. There is no gossip and no
quorum: with store and forward a wrong guess costs delay, never a task.
"""

from enum import Enum
from typing import NamedTuple

STRIKES = 3
"""Pings in a row without an answer after which a peer is down."""


class PeerState(Enum):
    """The state of a peer."""

    UNKNOWN = "unknown"
    """Named by a source, not reached yet."""
    UP = "up"
    SUSPECT = "suspect"
    """Did not answer, once or twice."""
    DOWN = "down"
    LEAVING = "leaving"
    """Said goodbye, or answers that it drains: it gets no new tasks."""
    REJECTED = "rejected"
    """Could not prove which node it is, or must not be contacted."""


class Failure(Enum):
    """How a ping or a link failed."""

    REFUSED = "refused"
    """Connection refused: the machine is there, the node is not."""
    TIMEOUT = "timeout"
    OTHER = "other"
    """The connection broke, or its bytes were not an answer."""
    UNTRUSTED = "untrusted"
    """TLS or identity."""


class Seen(Enum):
    """The inputs: events of a peer that this node sees."""

    ANSWERED = "answered"
    """A ping, or the hello of a link."""
    DRAINING = "draining"
    """The same, and it said that it drains."""
    TAKEN = "taken"
    """It took a task."""
    SILENT = "silent"
    """A ping failed: no answer in time, or the connection broke."""
    REFUSED = "refused"
    """A ping found it absent: the machine refuses the connection, or another node answers where it was."""
    LINK_BROKE = "link broke"
    LINK_REFUSED = "link refused"
    UNTRUSTED = "untrusted"
    """It is not the right node, or must not be contacted."""
    DISPUTED = "disputed"
    """It says an id or a name that is another node's; that may soon be over."""
    OUTSIDE = "outside"
    """It has only addresses that may not get tasks."""
    GOODBYE = "goodbye"
    """A source says that it leaves."""
    NAMED = "named"
    """A source names it, and says something new."""
    NAMED_AGAIN = "named again"
    """A source says the same as before."""
    HEARD = "heard"
    """A connection came in with its id."""


class Ask(Enum):
    """When it is pinged next."""

    AS_PLANNED = "as planned"
    AT_ONCE = "at once"
    REGARDLESS = "regardless"
    """At once, even during a pause."""
    WHEN_SILENT = "when silent"
    """When there was no exchange for a while."""
    WITH_BACKOFF = "with backoff"
    AFTER_PAUSE = "after a pause"
    AFTER_LONG_PAUSE = "after a long pause"


class Step(NamedTuple):
    """The effect of an input."""

    state: PeerState | None
    """None: the state stays."""
    ask: Ask


ALIVE = frozenset({PeerState.UP, PeerState.SUSPECT, PeerState.LEAVING})

_SAME = Step(None, Ask.AS_PLANNED)
_ASK = Step(None, Ask.AT_ONCE)
_UP = Step(PeerState.UP, Ask.WHEN_SILENT)
_BACK = Step(PeerState.UP, Ask.REGARDLESS)
_DRAINS = Step(PeerState.LEAVING, Ask.WHEN_SILENT)
_LEAVES = Step(PeerState.LEAVING, Ask.AT_ONCE)
_STRIKE = Step(PeerState.SUSPECT, Ask.AT_ONCE)
_DOWN = Step(PeerState.DOWN, Ask.WITH_BACKOFF)
_REJECT = Step(PeerState.REJECTED, Ask.AFTER_LONG_PAUSE)
_DISPUTE = Step(PeerState.REJECTED, Ask.AFTER_PAUSE)
_APART = Step(PeerState.REJECTED, Ask.AS_PLANNED)

# fmt: off
TRANSITIONS: dict[Seen, tuple[Step, ...]] = {
    # in the state      UNKNOWN   UP        SUSPECT   DOWN      LEAVING   REJECTED
    Seen.ANSWERED:     (_UP,      _UP,      _UP,      _UP,      _UP,      _UP),
    Seen.DRAINING:     (_DRAINS,  _DRAINS,  _DRAINS,  _DRAINS,  _DRAINS,  _DRAINS),
    Seen.TAKEN:        (_BACK,    _SAME,    _BACK,    _BACK,    _SAME,    _BACK),
    Seen.SILENT:       (_STRIKE,  _STRIKE,  _STRIKE,  _DOWN,    _DOWN,    _DOWN),  # the third strike in a row: _DOWN
    Seen.REFUSED:      (_DOWN,    _DOWN,    _DOWN,    _DOWN,    _DOWN,    _DOWN),
    Seen.LINK_BROKE:   (_STRIKE,  _STRIKE,  _ASK,     _SAME,    _ASK,     _SAME),  # all links break together: one strike
    Seen.LINK_REFUSED: (_DOWN,    _DOWN,    _DOWN,    _SAME,    _DOWN,    _DOWN),  # links have a backoff of their own
    Seen.UNTRUSTED:    (_REJECT,  _REJECT,  _REJECT,  _REJECT,  _REJECT,  _REJECT),
    Seen.DISPUTED:     (_DISPUTE, _DISPUTE, _DISPUTE, _DISPUTE, _DISPUTE, _DISPUTE),
    Seen.OUTSIDE:      (_APART,   _APART,   _APART,   _APART,   _APART,   _APART),
    Seen.GOODBYE:      (_LEAVES,  _LEAVES,  _LEAVES,  _SAME,    _LEAVES,  _SAME),
    Seen.NAMED:        (_ASK,     _ASK,     _ASK,     _ASK,     _ASK,     _ASK),
    Seen.NAMED_AGAIN:  (_ASK,     _SAME,    _ASK,     _ASK,     _ASK,     _ASK),   # so the return of one that is down is noticed
    Seen.HEARD:        (_ASK,     _ASK,     _ASK,     _ASK,     _ASK,     _ASK),
}
# fmt: on

_COLUMN = {state: column for column, state in enumerate(PeerState)}


class Liveness:
    """The state of one peer. Times are monotonic, in seconds."""

    def __init__(self, now: float) -> None:
        self.state = PeerState.UNKNOWN
        self.since = now
        self.reason = ""
        """Why it failed last; empty if it has not failed since it was up."""
        self.strikes = 0
        """Pings in a row without an answer; the links that broke first count as one."""
        self.misses = 0
        """Failed pings since it went down."""
        self.rejections = 0

    def see(self, seen: Seen, now: float, reason: str = "") -> Ask:
        """Takes an input. Returns when the peer is pinged next."""
        self.reason = reason or self.reason
        step = TRANSITIONS[seen][_COLUMN[self.state]]
        if step is _STRIKE and self.strikes + 1 >= STRIKES:
            step = _DOWN
        self._count(step)
        if seen is Seen.HEARD:
            self.misses = 0
        if step.state not in (None, self.state):
            self.state, self.since = step.state, now
        return step.ask

    def _count(self, step: Step) -> None:
        if step in (_UP, _BACK, _DRAINS):
            self.strikes = self.misses = 0
            self.reason = ""
        elif step is _STRIKE:
            self.strikes += 1
        elif step is _DOWN:
            self.strikes, self.misses = 0, self.misses + 1
        elif step in (_REJECT, _DISPUTE):
            self.strikes, self.rejections = 0, self.rejections + 1


def seen_by_ping(failure: Failure) -> Seen:
    """The input for a failed ping."""
    return {Failure.REFUSED: Seen.REFUSED, Failure.UNTRUSTED: Seen.UNTRUSTED}.get(failure, Seen.SILENT)


def seen_by_link(failure: Failure) -> Seen:
    """The input for a failed link."""
    return {Failure.REFUSED: Seen.LINK_REFUSED, Failure.UNTRUSTED: Seen.UNTRUSTED}.get(failure, Seen.LINK_BROKE)
