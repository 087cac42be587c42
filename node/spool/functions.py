"""The functions of waiting tasks, as small numbers: a million tasks must not hold a million names. Pure."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable

UNKNOWN = 0
"""In place of a function: only a look at the task tells (a spool file from elsewhere, a batch of an earlier version)."""
NONE = 1
"""In place of a function: the task names none."""
MOST_NAMES = 4096
"""Names of tasks that get a number; those of later ones are unknown, because any client may make names up."""
LONGEST_NAME = 255
"""Bytes of a name that gets a number."""


class Functions:
    """The numbers of names. A number is kept as long as the node runs."""

    def __init__(self) -> None:
        self._numbers: dict[bytes | None, int] = {None: UNKNOWN, b"": NONE}
        self._names: list[bytes] = [b"", b""]

    def __repr__(self) -> str:
        return f"<Functions: {len(self._names) - 2}>"

    def number(self, name: bytes | None) -> int:
        """The number of the function that a task names; None if it is not known which that is."""
        number = self._numbers.get(name)
        if number is not None:
            return number
        if name is None or len(self._names) >= MOST_NAMES or len(name) > LONGEST_NAME:
            return UNKNOWN
        return self._add(name)

    def note(self, name: str) -> int:
        """The number of a function that an operator or the application names: it always gets one."""
        key = name.encode("utf-8", "surrogateescape")
        return self._numbers[key] if self._numbers.get(key) else self._add(key)

    def name(self, number: int) -> str:
        """The name of a function."""
        return self._names[number].decode("utf-8", "surrogateescape")

    def _add(self, name: bytes) -> int:
        self._numbers[name] = len(self._names)
        self._names.append(name)
        return self._numbers[name]


class Spans:
    """Which function each task of a batch is for. Neighbours of one function take no more room than one task."""

    __slots__ = ("_starts", "_what")

    def __init__(self) -> None:
        self._starts = array("I")
        self._what = array("H")

    def __contains__(self, function: int) -> bool:
        return function in self._what or (function == UNKNOWN and not self._what)

    def note(self, offset: int, function: int) -> None:
        """The tasks from this offset on are for that function; offsets come in rising order."""
        if not self._what or self._what[-1] != function:
            self._starts.append(offset)
            self._what.append(function)

    def learn(self, offset: int, function: int) -> None:
        """One task is for that function, whatever its neighbours are for."""
        at = bisect_right(self._starts, offset)
        others = self._what[at - 1] if at else UNKNOWN
        self._starts[at:at] = array("I", (offset, offset + 1))
        self._what[at:at] = array("H", (function, others))

    def at(self, offset: int) -> int:
        """The function of the task at an offset."""
        at = bisect_right(self._starts, offset)
        return self._what[at - 1] if at else UNKNOWN

    def each(self, offsets: Iterable[int]) -> list[int]:
        """The function of the task at each of these offsets."""
        starts, what = self._starts, self._what
        return [what[at - 1] if (at := bisect_right(starts, offset)) else UNKNOWN for offset in offsets]

    @property
    def only(self) -> int | None:
        """The function of all tasks, if it is one."""
        return self._what[0] if len(self._what) == 1 else None
