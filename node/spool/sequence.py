"""Sequence numbers: those that a receiver has taken, and those that a sender still owes. Pure: sets of intervals.

A task that is routed to another node gets the next number of its node when it is accepted. For
each sender, and each destination as that sender calls it, the receiver remembers which numbers it has taken. It answers
"stored" to a repeat without storing it again. Numbers rise, so a set is a few intervals, not an entry for each task. From time
to time the sender tells its *low watermark*: no task with a lower number is open, so numbers below it need no memory.

A number below the low watermark that comes nevertheless is neither new nor certainly taken (a replayed packet; two nodes with
one id). It is refused, so that no task runs twice, or counts as stored although it is not.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgpack

from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import MAX_NUMBER

RUN_BITS = 32
"""A node's numbers are (run << RUN_BITS) + n: each start of the node begins a new run, so no number is given twice."""
MOST_GAPS = 1 << 16
"""Most gaps that are remembered in the numbers of one link. Beyond this, the lowest are closed: their tasks are then below the
low watermark, and go to their sender's dead/ if they ever come, from where they can be retried."""
LAST_RUN = (MAX_NUMBER >> RUN_BITS) - 1
"""The highest run: reached in the year 2106, or by a wrong clock."""
WATERMARK_AHEAD = 3600
"""Seconds that a low watermark may lie ahead of this node's clock (a number says in which second its run began). One
further ahead is a forgery, or from a clock that ran ahead, and is not believed: this costs memory, but believing it would end
the link."""


class Intervals:
    """A set of whole numbers that lie close together: sorted, disjoint, half-open intervals."""

    def __init__(self, pairs: list[tuple[int, int]] | None = None) -> None:
        self._starts = [start for start, _ in pairs or []]
        self._ends = [end for _, end in pairs or []]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number < self._ends[at]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        """The number of intervals."""
        return len(self._starts)

    def __repr__(self) -> str:
        return f"Intervals({self.pairs()})"

    @property
    def first(self) -> int:
        """The lowest member; there must be one."""
        return self._starts[0]

    @property
    def end(self) -> int:
        """The number after the highest member; there must be one."""
        return self._ends[-1]

    def start_of(self, index: int) -> int:
        """The first member of the interval of that index."""
        return self._starts[index]

    def pairs(self) -> list[tuple[int, int]]:
        """The intervals, first and past the last member of each."""
        return list(zip(self._starts, self._ends, strict=True))

    def copy(self) -> "Intervals":
        """One that does not change."""
        found = Intervals()
        found._starts, found._ends = self._starts[:], self._ends[:]
        return found

    def add(self, number: int) -> None:
        """Adds one; adding it again changes nothing."""
        if self._ends and self._ends[-1] == number:  # the common case: numbers come in order
            self._ends[-1] = number + 1
            return
        at = bisect_right(self._starts, number) - 1
        if at >= 0 and number < self._ends[at]:
            return
        joins_left = at >= 0 and self._ends[at] == number
        joins_right = at + 1 < len(self._starts) and self._starts[at + 1] == number + 1
        if joins_left and joins_right:
            self._ends[at] = self._ends.pop(at + 1)
            del self._starts[at + 1]
        elif joins_left:
            self._ends[at] = number + 1
        elif joins_right:
            self._starts[at + 1] = number
        else:
            self._starts.insert(at + 1, number)
            self._ends.insert(at + 1, number + 1)

    def remove(self, number: int) -> None:
        """Removes one; removing a number that is not in it changes nothing."""
        at = bisect_right(self._starts, number) - 1
        if at < 0 or number >= self._ends[at]:
            return
        start, end = self._starts[at], self._ends[at]
        if start + 1 == end:
            del self._starts[at], self._ends[at]
        elif number == start:
            self._starts[at] = number + 1
        elif number + 1 == end:
            self._ends[at] = number
        else:
            self._ends[at] = number
            self._starts.insert(at + 1, number + 1)
            self._ends.insert(at + 1, end)

    def drop_below(self, low_watermark: int) -> None:
        """Removes all members below `low_watermark`."""
        at = bisect_right(self._ends, low_watermark)
        del self._starts[:at], self._ends[:at]
        if self._starts and self._starts[0] < low_watermark:
            self._starts[0] = low_watermark


class Verdict(Enum):
    """A receiver's judgement of a number."""

    NEW = "new"
    RECEIVED = "received"
    PENDING = "pending"
    """It came before, and is being stored right now."""
    STALE = "stale"
    """It is below the low watermark."""


Key = tuple[str, str]
"""The owner of numbers: the sender (`forward.sender_of`), and the destination as it calls it."""


@dataclass(slots=True)
class _Numbers:
    low_watermark: int = 0
    received: Intervals = field(default_factory=Intervals)
    pending: set[int] = field(default_factory=set)


class Received:
    """The numbers that this node has taken from others."""

    def __init__(self) -> None:
        self._of: dict[Key, _Numbers] = {}
        self.version = 0
        """Rises with each change."""

    def __contains__(self, key: Key) -> bool:
        return key in self._of

    def __len__(self) -> int:
        """The number of links that are remembered."""
        return len(self._of)

    def forget_idle(self) -> None:
        """Forgets links with nothing but a low watermark: all their tasks are over."""
        self._of = {key: known for key, known in self._of.items() if known.received or known.pending}
        self.version += 1

    def judge(self, key: Key, number: int) -> Verdict:
        """The judgement of a task with that number."""
        known = self._of.get(key)
        if known is None:
            return Verdict.NEW
        if number < known.low_watermark:
            return Verdict.STALE
        if number in known.received:
            return Verdict.RECEIVED
        return Verdict.PENDING if number in known.pending else Verdict.NEW

    def begin(self, key: Key, number: int) -> None:
        """Notes that it is being stored."""
        self._numbers(key).pending.add(number)

    def refuse(self, key: Key, number: int) -> None:
        """Notes that it was not stored after all."""
        self._numbers(key).pending.discard(number)

    def take(self, key: Key, number: int) -> None:
        """Notes that it is stored safely."""
        known = self._numbers(key)
        known.pending.discard(number)
        if known.low_watermark <= number <= MAX_NUMBER:
            known.received.add(number)
            self.version += 1
            if len(known.received) > MOST_GAPS:
                self.raise_watermark(key, known.received.start_of(MOST_GAPS // 8))  # some at once, because each closing is work

    def raise_watermark(self, key: Key, low_watermark: int) -> None:
        """Takes a low watermark from the sender: no task below it is open. One lower than before changes nothing.

        It does not rise above the highest number that was received. There is nothing to forget above it, and a watermark that
        was said in another node's name must not keep out tasks that that node has not sent yet.
        """
        known = self._numbers(key)
        low_watermark = min(low_watermark, known.received.end) if known.received else known.low_watermark
        if low_watermark > known.low_watermark:
            known.low_watermark = low_watermark
            known.received.drop_below(low_watermark)
            self.version += 1

    def encode(self) -> bytes:
        """The state that must survive, for `decode`."""
        rows = [
            (*key, known.low_watermark, known.received.pairs())
            for key, known in self._of.items()
            if known.low_watermark or known.received
        ]
        packed: bytes = msgpack.packb({"version": 1, "taken": rows})
        return packed

    @classmethod
    def decode(cls, data: bytes, now: float) -> "Received":
        """The state that `encode` made. A low watermark that is not credible at the time `now` is left out.

        Raises:
            BadPacket: it is anything else.
        """
        received = cls()
        try:
            content: dict[str, Any] = msgpack.unpackb(data)
            if content["version"] != 1:
                raise BadPacket(f"the file of taken numbers has version {content['version']}; this spoolnode reads 1")
            for origin, to, low_watermark, pairs in content["taken"]:
                numbers = Intervals(_checked([(int(start), int(end)) for start, end in pairs]))
                is_wrong = int(low_watermark) >> RUN_BITS > now + WATERMARK_AHEAD
                received._of[str(origin), str(to)] = _Numbers(0 if is_wrong else int(low_watermark), numbers)
                if len(numbers) > MOST_GAPS:  # an earlier version had no such bound
                    received.raise_watermark((str(origin), str(to)), numbers.start_of(len(numbers) - MOST_GAPS))
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
            raise BadPacket(f"the file of taken numbers is damaged: {error!r}") from error
        return received

    def _numbers(self, key: Key) -> _Numbers:
        if key not in self._of:
            self._of[key] = _Numbers()
        return self._of[key]


def _checked(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Checks that these are intervals: sorted, disjoint, of valid numbers. Raises ValueError if not."""
    before = -1
    for start, end in pairs:
        if not before < start < end <= MAX_NUMBER + 1:
            raise ValueError(f"{start} to {end} is not an interval after {before}")
        before = end
    return pairs


class Outstanding:
    """The numbers of one destination whose tasks have not ended durably; its low watermark follows from them."""

    def __init__(self) -> None:
        self._open = Intervals()

    def give(self, number: int) -> None:
        """Notes that a task got this number."""
        self._open.add(number)

    def end(self, number: int) -> None:
        """Notes that its task has left the disk safely, and will never be sent again."""
        self._open.remove(number)

    def low_watermark(self, following: int) -> int:
        """The low watermark to tell; `following` is the number that the next task will get."""
        return self._open.first if self._open else following
