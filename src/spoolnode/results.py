"""What a callable returned -> how its task ended."""

from collections.abc import Awaitable, Callable

from spoolnode.api import SPOOL_IGNORE, SPOOL_OK
from spoolnode.node.outcome import DONE, Kind, Outcome

Rule = Callable[[object], Outcome]


def outcome_of(result: object) -> Outcome:
    """uWSGI's rules for int, and ours for the rest: a callable that ended well has ended, whatever else it returned.

    None and -2 are done, 0 and False "not mine", -1 and every other int (True among them) ask for a retry.
    """
    if not isinstance(result, int):
        return DONE
    if result == SPOOL_OK:
        return DONE
    if result == SPOOL_IGNORE:
        return Outcome(Kind.IGNORED, f"the callable said that this task is not its own: it returned {result}")
    return Outcome(Kind.RETRY, f"the callable asked for a retry: it returned {result}")


def again(frequency: float) -> Outcome:
    """It ended well and runs again after the spooler's frequency, in seconds."""
    return Outcome(Kind.AGAIN, delay=frequency)


def conclude(result: object, rule: Rule) -> Outcome | Awaitable[Outcome]:
    """The outcome of a call; of an awaitable when the function was asynchronous."""
    if result is not None and isinstance(result, Awaitable):
        return _conclude_later(result, rule)
    return rule(result)


async def _conclude_later(result: Awaitable[object], rule: Rule) -> Outcome:
    return rule(await result)
