"""Which tasks are meant: those of a function, those that died of an error, for a reason, or at a time. Pure."""

from typing import NamedTuple


class Choice(NamedTuple):
    """The facts that a task must have; without anything, every task is meant."""

    function: str | None = None
    """Only the tasks of this function; empty: only those that name none."""
    error: str | None = None
    """Only those that died of this (see `pages.error_of`)."""
    reason: str | None = None
    """Only those with this text in the first line of why they died."""
    since_at: float | None = None
    """Only those that died at this moment or later, in seconds since 1970..."""
    until_at: float | None = None
    """...and not later than this."""

    def is_narrow(self) -> bool:
        """Whether only some tasks are meant."""
        return self != Choice()

    def is_about_contents(self) -> bool:
        """Whether one must look into a task to know if it is meant."""
        return not (self.function is None and self.error is None and self.reason is None)

    def has_time(self, died: float) -> bool:
        """Whether tasks that died then may be meant."""
        return (self.since_at is None or died >= self.since_at) and (self.until_at is None or died <= self.until_at)

    def has(self, function: str, error: str, reason: str) -> bool:
        """Whether tasks that are like this may be meant."""
        is_kind = self.function in (None, function) and self.error in (None, error)
        return is_kind and (self.reason is None or self.reason in reason)
