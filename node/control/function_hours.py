"""How the runs of each function went in the last hour. Pure: the time is passed in.

The histograms count since the start of the node; a minute is the difference of two looks at them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple, Self

from spoolnode.node.control.last_hour import LastHour
from spoolnode.node.spool.timings import AGAIN, BOUNDS, DEAD, DONE, FAILED, OfFunction

_NO_VALUES = (0,) * (len(BOUNDS) + 1)


class Runs(NamedTuple):
    """The runs of one function that ended within some time."""

    done: int = 0
    failed: int = 0
    """They will be tried again."""
    again: int = 0
    """They asked for another run."""
    dead: int = 0
    """They were given up."""
    ran: Sequence[int] = _NO_VALUES
    """How many ran for how long, in the buckets of the histograms."""
    waited: Sequence[int] = _NO_VALUES
    """How many had been ready for how long."""

    @classmethod
    def of(cls, found: OfFunction) -> Self:
        """Those that the histograms have counted."""
        by_outcome = {outcome: histogram.counts for outcome, histogram in found.ran.items()}
        done, failed, again, dead = (
            sum(by_outcome.get(outcome, ())) + found.unmeasured[outcome] for outcome in (DONE, FAILED, AGAIN, DEAD)
        )
        return cls(done, failed, again, dead, _sums(_NO_VALUES, *by_outcome.values()), (*found.waited.counts,))

    def plus(self, other: "Runs") -> "Runs":
        """Both together."""
        return Runs(
            self.done + other.done, self.failed + other.failed, self.again + other.again, self.dead + other.dead,
            _sums(self.ran, other.ran), _sums(self.waited, other.waited),
        )  # fmt: skip

    def since(self, before: "Runs") -> "Runs":
        """Those that were not counted before."""
        return self.plus(
            Runs(
                -before.done, -before.failed, -before.again, -before.dead,
                [-count for count in before.ran], [-count for count in before.waited],
            )
        )  # fmt: skip


_NONE = Runs()


@dataclass(slots=True)
class FunctionHours:
    """The last hour of each function."""

    _minutes: LastHour[Runs] = field(default_factory=LastHour)
    _before: Mapping[str, Runs] = field(default_factory=dict)
    """The counts when the minute began."""

    def sample(self, now: float, told: Callable[[], Mapping[str, OfFunction]]) -> None:
        """Notes a minute when it is over; called from time to time. `now` is monotonic, in seconds."""

        def advance() -> Mapping[str, Runs]:
            counted = _counted(told())
            minute, self._before = self._since(counted), counted
            return minute

        self._minutes.sample(now, advance)

    def series(self, now: float, told: Mapping[str, OfFunction]) -> dict[str, list[Runs | None]]:
        """The minutes of each function of which a run ended in the last hour, as `LastHour.series`."""
        return self._minutes.series(now, self._since(_counted(told)))

    def _since(self, counted: Mapping[str, Runs]) -> dict[str, Runs]:
        """The runs since the minute began."""
        news = {name: runs.since(self._before.get(name, _NONE)) for name, runs in counted.items()}
        return {name: runs for name, runs in news.items() if runs != _NONE}


def _counted(told: Mapping[str, OfFunction]) -> dict[str, Runs]:
    return {name: Runs.of(found) for name, found in told.items()}


def together(minutes: Sequence[Runs | None]) -> Runs:
    """The runs of several minutes."""
    found = _NONE
    for runs in minutes:
        found = found if runs is None else found.plus(runs)
    return found


def quantile(counts: Sequence[int], part: float) -> float | None:
    """The length that this part of the values does not exceed, estimated within its bucket; None without values."""
    wanted = part * sum(counts)
    if not wanted:
        return None
    ends = [*accumulate(counts)]
    bucket = next(index for index, end in enumerate(ends) if end >= wanted)
    if bucket == len(BOUNDS):
        return BOUNDS[-1]  # or more
    lower = BOUNDS[bucket - 1] if bucket else 0.0
    return lower + (BOUNDS[bucket] - lower) * (1 - (ends[bucket] - wanted) / counts[bucket])


def _sums(*rows: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))
