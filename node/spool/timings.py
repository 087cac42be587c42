"""How long tasks waited and ran, by function, as histograms for metrics. Pure.

A function costs some thirty time series, and any client may make names up. So the first `MOST_FUNCTIONS` that end a task are
told apart, and all others count together.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

from spoolnode.node.spool.functions import UNKNOWN, Functions
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""The upper bounds of the buckets, in seconds: from a counter in memory to a report that takes the night."""
MOST_FUNCTIONS = 100
"""Functions that are told apart."""
OTHER = "other"
"""In place of a function: one of the others, or one that is not known (of a file that was found in the spool)."""
NO_FUNCTION = "none"
"""In place of a function: the task names none."""
DONE, FAILED, AGAIN, DEAD, CANCELLED = "done", "failed", "again", "dead", "cancelled"
"""Outcomes: it ended well; it will be tried again, because it failed or because it asked for that; it was given up; it was
cancelled."""


class Histogram:
    """How many values lie in each bucket, and their sum."""

    __slots__ = ("counts", "total")

    def __init__(self, counts: Sequence[int] = (0,) * (len(BOUNDS) + 1), total: float = 0.0) -> None:
        """`counts`: of each bucket; the last has what is above all bounds."""
        self.counts = [*counts]
        self.total = total

    def __repr__(self) -> str:
        return f"<Histogram: {sum(self.counts)} values, {self.total:g} s>"

    def add(self, value: float, count: int = 1) -> None:
        """Counts a value, so many times."""
        self.counts[bisect_left(BOUNDS, value)] += count
        self.total += value * count

    def add_all(self, values: Sequence[float]) -> None:
        """Counts many values, in less time than one by one."""
        if len(values) == 1:
            self.add(values[0])
            return
        self.total += sum(values)
        ordered, start = sorted(values), 0
        for bucket, bound in enumerate(BOUNDS):
            end = bisect_right(ordered, bound, start)
            self.counts[bucket] += end - start
            if end == len(ordered):
                return
            start = end
        self.counts[-1] += len(ordered) - start

    def copy(self) -> "Histogram":
        """One that does not change."""
        return Histogram(self.counts, self.total)


@dataclass(slots=True)
class OfFunction:
    """The histograms of one function."""

    ran: dict[str, Histogram] = field(default_factory=dict)
    """How long it ran, by the outcome."""
    waited: Histogram = field(default_factory=Histogram)
    """How long tasks were ready before their first attempt started."""
    unmeasured: Counter[str] = field(default_factory=Counter)
    """How many more runs ended, by the outcome: how long they ran is unknown, because their worker ended with them."""

    def copy(self) -> "OfFunction":
        """One that does not change."""
        ran = {outcome: found.copy() for outcome, found in self.ran.items()}
        return OfFunction(ran, self.waited.copy(), self.unmeasured.copy())

    def outcome(self, outcome: str) -> Histogram:
        """That of one outcome."""
        found = self.ran.get(outcome)
        if found is None:
            found = self.ran[outcome] = Histogram()
        return found


class Timings:
    """The histograms of one node, since its start."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._found: dict[str, OfFunction] = {}

    def __repr__(self) -> str:
        return f"<Timings of {len(self._found)} functions>"

    def done(self, source: Source, refs: MutableSequence[Any], seconds: Sequence[float], waited: float) -> None:
        """Tasks of one source ended well.

        Args:
            seconds: how long each ran.
            waited: how long the first of them was ready before it started; below zero if that is unknown.
        """
        for number, values in _by_function(source, refs, seconds).items():
            found = self._of(self._name(number))
            found.outcome(DONE).add_all(values)
            if waited >= 0.0:
                found.waited.add(waited, len(values))

    def ended(self, source: Source, ref: Ref, outcome: str, seconds: float, function: str) -> None:
        """A run ended otherwise, or with a result.

        Args:
            seconds: how long it ran; below zero if that is unknown.
            function: empty if the worker has not named it.
        """
        found = self._of(function or self._name(source.alike([ref], 0, 1)[0]))
        if seconds >= 0.0:
            found.outcome(outcome).add(seconds)
        else:
            found.unmeasured[outcome] += 1

    def started(self, source: Source, ref: Ref, waited: float, function: str) -> None:
        """Such a task had been ready for so many seconds before; below zero if that is unknown."""
        if waited >= 0.0:
            self._of(function or self._name(source.alike([ref], 0, 1)[0])).waited.add(waited)

    def told(self) -> dict[str, OfFunction]:
        """All of them by function, for another thread."""
        return {name: found.copy() for name, found in self._found.items()}

    def _name(self, number: int) -> str:
        return OTHER if number == UNKNOWN else self._functions.name(number)

    def _of(self, function: str) -> OfFunction:
        name = function or NO_FUNCTION
        found = self._found.get(name)
        if found is None:
            if len(self._found) >= MOST_FUNCTIONS:
                name = OTHER
            found = self._found.setdefault(name, OfFunction())
        return found


def _by_function(source: Source, refs: MutableSequence[Any], values: Sequence[float]) -> Mapping[int, Sequence[float]]:
    """The values of each function; most often all tasks are of one."""
    number, alike = source.alike(refs, 0, len(refs))
    if alike == len(refs):
        return {number: values}
    found: defaultdict[int, list[float]] = defaultdict(list)
    for each, value in zip(source.functions_of(refs), values, strict=True):
        found[each].append(value)
    return found
