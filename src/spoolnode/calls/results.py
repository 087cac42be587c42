"""From the return value of a callable to the outcome of its task."""

from collections.abc import Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType

from spoolnode.api import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, SpoolResult
from spoolnode.context import DEFAULT_FREQUENCY
from spoolnode.node.outcome import DONE, Ending, Outcome

Rule = Callable[[object], Outcome]


def outcome_of(result: object, frequency: float = DEFAULT_FREQUENCY) -> Outcome:
    """uWSGI's rules for int, and ours for the rest: any other return value means that the task is done.

    None and -2 are done, -1 asks to be called again, after at most `frequency` seconds. 0 and False are "not mine", and every
    other int (True among them) is a mistake: both count as failed attempts.
    """
    if not isinstance(result, int) or result == SPOOL_OK:
        return DONE
    if result == SPOOL_RETRY:
        return Outcome(Ending.RETRY, f"the callable asked to be called again: it returned {result}", frequency)
    if result == SPOOL_IGNORE:
        return Outcome(Ending.IGNORED, f"the callable said that this task is not its own: it returned {result}")
    shown = f"{result}" if abs(result) < 10**9 else "a large number"  # Python does not show very many digits
    return Outcome(Ending.FAILED, f"the callable returned {shown}, which says nothing about the task (-2 is done, -1 is again)")


def outcome_of_function(result: object, frequency: float) -> Outcome:
    """The rules for a function that is called by its name: it may return any number, and can still ask to be called again."""
    if isinstance(result, SpoolResult) or (type(result) is int and result == SPOOL_RETRY):
        return outcome_of(result, frequency)
    return DONE


def again(frequency: float) -> Outcome:
    """It ended well and runs again after the spooler's frequency, in seconds."""
    return Outcome(Ending.AGAIN, delay=frequency)


def conclude(result: object, rule: Rule) -> Outcome | Awaitable[Outcome]:
    """The outcome of a call; an awaitable of it if the function is asynchronous."""
    if isinstance(result, GeneratorType | AsyncGeneratorType):
        return Outcome(Ending.FAILED, "the callable contains a `yield`: it returned a generator, and none of it has run")
    if result is not None and isinstance(result, Awaitable):
        return _conclude_later(result, rule)
    return rule(result)


async def _conclude_later(result: Awaitable[object], rule: Rule) -> Outcome:
    outcome = conclude(await result, rule)
    return await outcome if isinstance(outcome, Awaitable) else outcome
