"""From what a callable returns or raises to the outcome of its task."""

from collections.abc import Awaitable, Callable
from types import AsyncGeneratorType, GeneratorType

from spoolnode.api import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, SpoolResult
from spoolnode.context import DEFAULT_FREQUENCY
from spoolnode.errors import GiveUp, Retry
from spoolnode.node.outcome import DONE, FAILED, Ending, Outcome, class_path
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.fetch import MAX_RESULT
from spoolnode.protocol.values import pack

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


def outcome_of_function(result: object, frequency: float, *, keeps: bool = False) -> Outcome:
    """The rules for a function that is called by its name: it may return any number, and can still ask to be called again.

    `keeps`: its result is kept.
    """
    if isinstance(result, SpoolResult) or (type(result) is int and result == SPOOL_RETRY and not keeps):
        return outcome_of(result, frequency)
    return kept(result) if keeps else DONE


def kept(result: object, **more: object) -> Outcome:
    """A good end with a result to keep. One that cannot be kept is lost, with the reason: its task has done its work.

    `more`: what is kept with it.
    """
    try:
        packed = pack({"result": result, **more})
    except BadTask as error:
        return Outcome(Ending.DONE, f"its result cannot be kept: {error}".removesuffix("; nothing was sent"))
    if len(packed) > MAX_RESULT:
        return Outcome(Ending.DONE, f"its result cannot be kept: it takes {len(packed)} bytes, of at most {MAX_RESULT}")
    return Outcome(Ending.DONE, value=packed)


def outcome_of_error(error: BaseException, give_up_on: tuple[type[BaseException], ...] = ()) -> Outcome:
    """The rules for what a callable raises. `give_up_on`: the exceptions after which its task is not tried again."""
    if isinstance(error, Retry):
        kind = Ending.RETRY_AFTER if error.counts else Ending.RETRY_UNCOUNTED
        return Outcome(kind, str(error), error.after, error=class_path(error.__cause__ or error))
    if isinstance(error, GiveUp):
        return Outcome(Ending.GIVE_UP, str(error), error=class_path(error.__cause__ or error))
    return Outcome(Ending.GIVE_UP) if isinstance(error, give_up_on) else FAILED


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
