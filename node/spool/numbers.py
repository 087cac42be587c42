"""Link numbers: which a receiver has taken, and which a sender still owes. Pure data structures over sets of intervals.

A task that is routed to another node gets the next number of its node when it is accepted. The receiver remembers, for
each sender and each destination as that sender calls it, which numbers it has taken; a repeat is answered "stored" and
stored no second time. Numbers rise, so a set is a few intervals, not an entry a task; and the sender says from time to time
below which number (the *floor*) nothing of it is open any more, so what lies there needs no memory at all.

What is below the floor and comes all the same is neither new nor surely taken (a replayed packet; two nodes with one id):
it is refused, so that nothing runs twice and nothing is taken for stored that is not.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgpack

from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import MAX_NUMBER

RUN_BITS = 32
"""A node's numbers are (run << RUN_BITS) + n: each start of the node begins a new run, so none is given twice."""
MOST_GAPS = 1 << 16
"""Gaps that are remembered in the numbers of one link. Beyond, the lowest are closed: what lies in them is below the floor from
then on, and goes to its sender's dead/ if it ever comes, from where it can be retried."""
LAST_RUN = (MAX_NUMBER >> RUN_BITS) - 1
"""The highest run: the clock says so in the year 2106, or a clock that is wrong."""
FLOOR_AHEAD = 3600
"""Seconds that a floor may lie ahead of this node's clock (a number says in which second its run began). One further ahead is
a forgery or a clock that ran ahead, and is not believed: that costs memory, and to believe it would end the link."""


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
        """How many intervals it takes."""
        return len(self._starts)

    def __repr__(self) -> str:
        return f"Intervals({self.pairs()})"

    @property
    def first(self) -> int:
        """The lowest member; there must be one."""
        return self._starts[0]

    @property
    def end(self) -> int:
        """What follows the highest member; there must be one."""
        return self._ends[-1]

    def start_of(self, index: int) -> int:
        """The first member of the interval of that index."""
        return self._starts[index]

    def pairs(self) -> list[tuple[int, int]]:
        """The intervals, first and past the last member of each."""
        return list(zip(self._starts, self._ends, strict=True))

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
        """Removes one; removing what is not in it changes nothing."""
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

    def drop_below(self, floor: int) -> None:
        """Removes all members below `floor`."""
        at = bisect_right(self._ends, floor)
        del self._starts[:at], self._ends[:at]
        if self._starts and self._starts[0] < floor:
            self._starts[0] = floor


class Verdict(Enum):
    """What a number is to its receiver."""

    NEW = "new"
    TAKEN = "taken"
    PENDING = "pending"
    """It came before, and is being stored right now."""
    STALE = "stale"
    """It is below the floor."""


Key = tuple[str, str]
"""Whose numbers: the sender (`forward.sender_of`), and the destination as it calls it."""


@dataclass(slots=True)
class _Numbers:
    floor: int = 0
    taken: Intervals = field(default_factory=Intervals)
    pending: set[int] = field(default_factory=set)


class Taken:
    """The numbers that this node has taken from others."""

    def __init__(self) -> None:
        self._of: dict[Key, _Numbers] = {}
        self.version = 0
        """Rises with each change."""

    def __contains__(self, key: Key) -> bool:
        return key in self._of

    def __len__(self) -> int:
        """Of how many links something is remembered."""
        return len(self._of)

    def forget_idle(self) -> None:
        """Forgets the links of which nothing but a floor is known: all that they sent is over."""
        self._of = {key: known for key, known in self._of.items() if known.taken or known.pending}
        self.version += 1

    def judge(self, key: Key, number: int) -> Verdict:
        """What to do with a task of that number."""
        known = self._of.get(key)
        if known is None:
            return Verdict.NEW
        if number < known.floor:
            return Verdict.STALE
        if number in known.taken:
            return Verdict.TAKEN
        return Verdict.PENDING if number in known.pending else Verdict.NEW

    def begin(self, key: Key, number: int) -> None:
        """It is being stored."""
        self._numbers(key).pending.add(number)

    def refuse(self, key: Key, number: int) -> None:
        """It was not stored after all."""
        self._numbers(key).pending.discard(number)

    def take(self, key: Key, number: int) -> None:
        """It is stored, safely."""
        known = self._numbers(key)
        known.pending.discard(number)
        if known.floor <= number <= MAX_NUMBER:
            known.taken.add(number)
            self.version += 1
            if len(known.taken) > MOST_GAPS:
                self.raise_floor(key, known.taken.start_of(MOST_GAPS // 8))  # some at once: each closing is work

    def raise_floor(self, key: Key, floor: int) -> None:
        """The sender says that nothing below `floor` is open any more. A lower floor than before changes nothing.

        It rises no higher than past the highest number that was taken: above there is nothing to forget, and whoever says a floor
        in another node's name must not keep out what that one has not sent yet.
        """
        known = self._numbers(key)
        floor = min(floor, known.taken.end) if known.taken else known.floor
        if floor > known.floor:
            known.floor = floor
            known.taken.drop_below(floor)
            self.version += 1

    def encode(self) -> bytes:
        """What must survive, for `decode`."""
        rows = [(*key, known.floor, known.taken.pairs()) for key, known in self._of.items() if known.floor or known.taken]
        packed: bytes = msgpack.packb({"version": 1, "taken": rows})
        return packed

    @classmethod
    def decode(cls, data: bytes, now: float) -> "Taken":
        """What `encode` made. A floor that would not be believed at the time `now` is left out.

        Raises:
            BadPacket: it is something else.
        """
        taken = cls()
        try:
            content: dict[str, Any] = msgpack.unpackb(data)
            if content["version"] != 1:
                raise BadPacket(f"the file of taken numbers has version {content['version']}; this spoolnode reads 1")
            for origin, to, floor, pairs in content["taken"]:
                numbers = Intervals(_checked([(int(start), int(end)) for start, end in pairs]))
                is_wrong = int(floor) >> RUN_BITS > now + FLOOR_AHEAD
                taken._of[str(origin), str(to)] = _Numbers(0 if is_wrong else int(floor), numbers)
                if len(numbers) > MOST_GAPS:  # an earlier version had no such bound
                    taken.raise_floor((str(origin), str(to)), numbers.start_of(len(numbers) - MOST_GAPS))
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
            raise BadPacket(f"the file of taken numbers is damaged: {error!r}") from error
        return taken

    def _numbers(self, key: Key) -> _Numbers:
        if key not in self._of:
            self._of[key] = _Numbers()
        return self._of[key]


def _checked(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Raises ValueError when these are no intervals: sorted, apart, and of numbers that there are."""
    before = -1
    for start, end in pairs:
        if not before < start < end <= MAX_NUMBER + 1:
            raise ValueError(f"{start} to {end} is no interval after {before}")
        before = end
    return pairs


class Owed:
    """The numbers of one destination that are not durably ended: what its floor is made of."""

    def __init__(self) -> None:
        self._open = Intervals()

    def give(self, number: int) -> None:
        """A task got this number."""
        self._open.add(number)

    def end(self, number: int) -> None:
        """Its task has left the disk, safely: it will never be sent again."""
        self._open.remove(number)

    def floor(self, following: int) -> int:
        """The floor to tell; `following` is the number that the next task will get."""
        return self._open.first if self._open else following
