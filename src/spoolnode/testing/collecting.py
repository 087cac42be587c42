"""Which `Spooled` gets the tasks of this process."""

from collections.abc import Iterator
from contextlib import contextmanager

from spoolnode.client.inside import INSIDE
from spoolnode.testing.spooled import Spooled

_own = Spooled(keeps_done=False)
"""Gets the tasks for `eager:` and `memory:` while nothing collects."""


@contextmanager
def collect(*, eager: bool = False) -> Iterator[Spooled]:
    """Collects every task that this process spools meanwhile, in all threads and wherever it is sent to.

    Args:
        eager: each runs at once, as with `via="eager:"`.
    """
    spooled, before = Spooled(eager=eager), INSIDE.everything
    INSIDE.everything = spooled
    try:
        yield spooled
    finally:
        INSIDE.everything = before


def collected() -> Spooled:
    """The tasks that are collected now; outside of `collect()` those that were sent to `eager:` and `memory:`."""
    now = INSIDE.everything
    return now if isinstance(now, Spooled) else _own
