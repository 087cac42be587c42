"""Tries the places of an address in turn, and goes on only with tasks of which it is certain that nothing was stored.

A place is a node, or a spool directory: there its node is asked first, and while it does not listen, a task becomes a file.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from spoolnode.client.deadline import Deadline
from spoolnode.client.endpoint import ClientConnection, Endpoint
from spoolnode.errors import Unreachable
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import Reason, SpoolnodeError
from spoolnode.wire import Address, Message, refusal_reason

C = TypeVar("C", bound=ClientConnection)
Result = Answer | SpoolnodeError
EndpointOf = Callable[[Address], Endpoint[C]]
Write = Callable[[str, Message], Awaitable[Answer]]
"""Writes a task into a spool directory. Raises what `as_file.store` raises."""


async def send_in_turn(
    address: Address, message: Message, deadline: Deadline, endpoint_of: EndpointOf[C], write: Write
) -> Answer:
    """Sends one task to the first place that takes it. Returns and raises what `Endpoint.send` does."""

    async def ask(place: Address, messages: Sequence[Message]) -> list[Result]:
        return [await _caught(endpoint_of(place).send(messages[0], deadline))]

    [result] = await _in_turn(address, [message], deadline, ask, write)
    if isinstance(result, SpoolnodeError):
        raise result
    return result


async def send_all_in_turn(
    address: Address, messages: Sequence[Message], deadline: Deadline, endpoint_of: EndpointOf[C], write: Write
) -> list[Result]:
    """Sends each of these tasks to the first place that takes it. Returns what `Endpoint.send_all` does."""

    async def ask(place: Address, messages: Sequence[Message]) -> list[Result]:
        return await endpoint_of(place).send_all(messages, deadline)

    return await _in_turn(address, messages, deadline, ask, write)


async def _in_turn(
    address: Address, messages: Sequence[Message], deadline: Deadline,
    ask: Callable[[Address, Sequence[Message]], Awaitable[list[Result]]], write: Write,
) -> list[Result]:  # fmt: skip
    places = address.places or (address,)
    steps = [(place, as_file) for place in places for as_file in ([False, True] if place.spool else [False])]
    results: dict[int, Result] = {}
    left = list(range(len(messages)))
    for number, (place, as_file) in enumerate(steps):
        deadline.places = len(steps) - number
        if as_file:  # not on a disk that its node has just called full
            tried = [index for index in left if _passing_reason(results[index]) is not Reason.FULL]
            said = [await _caught(write(place.spool, messages[index])) for index in tried]
        else:
            tried, said = left, await ask(place, [messages[index] for index in left])
        for index, result in zip(tried, said, strict=True):
            results[index] = _together(results.get(index), result)
        left = [index for index in left if isinstance(results[index], Unreachable) or _passing_reason(results[index])]
        if not left:
            break
    return [results[index] for index in range(len(messages))]


async def _caught(asking: Awaitable[Answer]) -> Result:
    try:
        return await asking
    except SpoolnodeError as error:
        return error


def _together(before: Result | None, result: Result) -> Result:
    """The result after another place was tried: a refusal says more than that a place cannot be reached."""
    if before is None or not isinstance(result, Unreachable):
        return result
    return Unreachable(f"{before}; {result}") if isinstance(before, Unreachable) else before


def _passing_reason(result: Result) -> Reason | None:
    """Why a node takes no task just now; None if it took this one, or refused it for what it is."""
    reason = None if isinstance(result, SpoolnodeError) else refusal_reason(result)
    return reason if reason in (Reason.BUSY, Reason.FULL) else None
