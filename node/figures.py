"""The numbers by which people compare nodes: of this one, and of others as they tell them in their answers to pings. Pure.

A status may come from the network: what is missing or impossible in it is unknown.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

CLOCK_SECONDS = 5.0
"""A clock that is further off than this is warned of: `at` times come from the sender's clock."""
MOST = 10**15
"""The largest number that is believed."""


class Figures(NamedTuple):
    """The numbers of one node; None where they are unknown."""

    workers: int | None = None
    running: int | None = None
    waiting: int | None = None
    later: int | None = None
    retrying: int | None = None
    dead: int | None = None
    given_up: int | None = None
    """Since its start..."""
    undelivered: int | None = None
    """...and those of them that waited for another node."""
    free: int | None = None
    """Bytes on the disk of its spool."""
    min_free: int | None = None
    """Bytes below which it takes nothing in."""
    oldest_waiting: float | None = None
    """Seconds; also None if nothing waits."""
    in_per_second: float | None = None
    """Over the last minute, as the next two."""
    done_per_second: float | None = None
    failed_per_second: float | None = None

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        """Those that a status has."""
        said = status.get("rates")
        rates = said if isinstance(said, Mapping) else {}
        came = [_number(rates, "accepted"), _number(rates, "found")]
        return cls(
            workers=_count(status, "workers"), running=_count(status, "running"), waiting=_count(status, "waiting"),
            later=_count(status, "later"), retrying=_count(status, "retrying"), dead=_count(status, "dead"),
            given_up=_count(status, "given_up"), undelivered=_count(status, "undelivered"),
            free=_count(status, "free"), min_free=_count(status, "min_free"),
            oldest_waiting=_number(status, "oldest_waiting"),
            in_per_second=round(sum(rate or 0.0 for rate in came), 3) if came[0] is not None else None,
            done_per_second=_number(rates, "done"), failed_per_second=_number(rates, "failed"),
        )  # fmt: skip


def _count(said: Mapping[str, Any], name: str) -> int | None:
    value = said.get(name)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
    return value if is_count else None


def _number(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= MOST else None  # NaN is none, too


UNKNOWN = Figures()
"""Of a node that does not answer."""
