"""Errors that a caller of spoolnode may have to handle, besides `BadTask` and `Refused` of the protocol.

Each message names the node's address, what happened, and whether the task may have been stored.

`GiveUp` and `Retry` are not errors: a task raises them to say what becomes of it.
"""

from collections.abc import Iterator, Sequence

from spoolnode.protocol.errors import SpoolnodeError


class Unreachable(SpoolnodeError, ConnectionError):
    """The node did not get the whole task. Nothing was stored: it is safe to send it again, or elsewhere."""


class Unanswered(SpoolnodeError, ConnectionError):
    """The node got the task, but no answer came. It may or may not have been stored: if you send it again, it may run twice."""


class TimedOut(Unanswered, TimeoutError):
    """`Unanswered`, because the answer did not come in time."""


class NotAllStored(SpoolnodeError):
    """Of tasks that were sent together, not all were stored. `stored`, `not_stored` and `in_doubt` name each by its position."""

    def __init__(self, outcomes: Sequence[str | SpoolnodeError]) -> None:
        super().__init__(outcomes)
        self.outcomes = outcomes
        """Of each task, in order, its id or the error that sending it alone would have raised."""

    def __str__(self) -> str:
        parts = [f"{len(self.stored)} of {len(self.outcomes)} tasks were stored"]
        for said, errors in (("not stored", self.not_stored), ("in doubt", self.in_doubt)):
            if errors:
                first = min(errors)
                parts.append(f"{len(errors)} {said} (the first is number {first}, counted from 0: {errors[first]})")
        return ", ".join(parts)

    @property
    def stored(self) -> dict[int, str]:
        """The ids of the tasks that were stored."""
        return {number: outcome for number, outcome in enumerate(self.outcomes) if isinstance(outcome, str)}

    @property
    def not_stored(self) -> dict[int, SpoolnodeError]:
        """Why tasks were certainly not stored: it is safe to send them again."""
        return {number: error for number, error in self._errors() if not isinstance(error, Unanswered)}

    @property
    def in_doubt(self) -> dict[int, Unanswered]:
        """Why it is not known whether tasks were stored: they may run twice if you send them again."""
        return {number: error for number, error in self._errors() if isinstance(error, Unanswered)}

    def _errors(self) -> Iterator[tuple[int, SpoolnodeError]]:
        for number, outcome in enumerate(self.outcomes):
            if not isinstance(outcome, str):
                yield number, outcome


class ResultMissing(SpoolnodeError, LookupError):
    """A task has no result to give. The text says why, and so does `kind`, for programs."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        """`given_up`, `removed`, `merged`, `not_kept`, `expired` or `unknown`; empty if the node does not say."""


class NotCancelled(SpoolnodeError):
    """A task was not cancelled, or it is not known whether it was: then `is_unsure` is True. The text says why."""

    def __init__(self, text: str, *, is_unsure: bool = False) -> None:
        super().__init__(text)
        self.is_unsure = is_unsure


class BadDecoration(SpoolnodeError, ValueError):
    """You erred: a decorator cannot work with what it got. Raised while the application is imported."""


class Unavailable(SpoolnodeError, ValueError):
    """You erred: a function of uWSGI's modules was called that cannot work in a worker of spoolnode."""


class GiveUp(Exception):
    """A task raises it with the reason: no further attempt can help, so the task goes to `dead/` at once."""


class Retry(Exception):
    """A task raises it to run again after so many seconds. This is a failed attempt, unless `counts` is False."""

    def __init__(self, after: float, *, counts: bool = True) -> None:
        if isinstance(after, bool) or not isinstance(after, int | float) or not 0 <= after < 10**8:
            raise ValueError(f"Retry(after={after!r}): it must be seconds from 0, below 100000000")
        super().__init__(after)
        self.after = float(after)
        self.counts = counts

    def __str__(self) -> str:
        said, cause = f"it asked to run again after {self.after:g} s", self.__cause__
        return said if cause is None else f"{said} because of {type(cause).__name__}: {cause}"
