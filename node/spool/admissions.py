"""Which tasks of limited functions, of those that a node holds of a common store, the store has let run. Pure.

A task asks when a worker has room for it, so that it does not take the place of another one while it waits.
"""

from collections.abc import Callable, Collection, Sequence
from itertools import islice


class Admissions:
    """The tasks that ask the store, and those that it has admitted."""

    def __init__(self, at_once: Callable[[int], int]) -> None:
        """`at_once`: how many tasks of a function may run at once; 0 is any number."""
        self._at_once = at_once
        self._asking: dict[str, tuple[int, int]] = {}
        """Their ranks and functions."""
        self._lanes: dict[tuple[int, int], dict[str, None]] = {}
        """Those of each rank and function, in the order of their turns."""
        self._admitted: dict[str, int] = {}
        """Their functions."""
        self.asked: Callable[[], None] = lambda: None
        """Is called when more tasks ask, or one is over while others ask."""

    def __repr__(self) -> str:
        return f"<Admissions: {len(self._asking)} ask, {len(self._admitted)} admitted>"

    def __len__(self) -> int:
        return len(self._asking)

    def __contains__(self, ref: object) -> bool:
        """Whether a task asks."""
        return ref in self._asking

    def has_admitted(self, ref: str) -> bool:
        """Whether the store has let a task run that is still here."""
        return ref in self._admitted

    def sorted_out(self, refs: Sequence[str], rank: int, function_of: Callable[[str], int]) -> list[str]:
        """Of tasks whose turn has come those that may start now. The others ask from now on."""
        may, before = [], len(self._asking)
        for ref in refs:
            function = function_of(ref)
            if ref in self._admitted or not self._at_once(function):
                may.append(ref)
            else:
                self._asking[ref] = rank, function
                self._lanes.setdefault((rank, function), {})[ref] = None
        if len(self._asking) > before:
            self.asked()
        return may

    def next(self, allowance: Callable[[int], int], started: Collection[str]) -> dict[int, list[str]]:
        """The tasks of each function that ask next. With those that are admitted and wait, they are as many as may start here."""
        ready = [function for ref, function in self._admitted.items() if ref not in started]
        found: dict[int, list[str]] = {}
        for lane in sorted(self._lanes):
            first = found.setdefault(function := lane[1], [])
            room = allowance(function) - ready.count(function) - len(first)
            first += islice(self._lanes[lane], max(room, 0))
        return found

    def admit(self, ref: str) -> int | None:
        """The store has let a task run. Returns its rank; None if it does not ask any more."""
        if (lane := self._ask_no_more(ref)) is None:
            return None
        rank, self._admitted[ref] = lane
        return rank

    def has_all_places(self, function: int, started: Collection[str]) -> bool:
        """Whether as many tasks of a function as may run at once run here, so that none can start on another node."""
        return [self._admitted.get(ref) for ref in started].count(function) >= self._at_once(function)

    def revoke(self, ref: str) -> bool:
        """A task has another lease, for which the store has not let it run. Returns False if it was not admitted."""
        return self._admitted.pop(ref, None) is not None

    def forget(self, ref: str) -> None:
        """A task is not here any more."""
        self._ask_no_more(ref)
        if self._admitted.pop(ref, None) is not None and self._asking:
            self.asked()

    def _ask_no_more(self, ref: str) -> tuple[int, int] | None:
        if (lane := self._asking.pop(ref, None)) is not None:
            del self._lanes[lane][ref]
            if not self._lanes[lane]:
                del self._lanes[lane]
        return lane
