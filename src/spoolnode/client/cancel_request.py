"""`cancel` and `acancel`: end a task for good, through any node of its story."""

import getpass
import os

from spoolnode.client.asking import PIECE_READ, SILENCE, aconnect, connect, first
from spoolnode.client.inside import INSIDE
from spoolnode.errors import NotCancelled, TimedOut, Unanswered
from spoolnode.protocol.answer import Answer, AnswerReader, read_answer
from spoolnode.protocol.cancel import ANSWER_SECONDS, CancelOutcome, CancelRequest, read_cancel_answer
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.names import is_task_id
from spoolnode.wire import Address, resolve


def cancel(task_id: str, *, grace: float = 5.0, via: str | None = None) -> bool:
    """Ends a task for good, on whatever node it is: it goes to `dead/` as cancelled, and is not tried again.

    An `async def` function gets `asyncio.CancelledError`; others get an exception in their thread. A function that goes on all
    the same is ended with its worker after the grace; the other tasks there lose nothing.

    Args:
        task_id: its id, as `spool` returned it.
        grace: seconds that it gets to end, if it runs.
        via: the node to ask: any that has had the task. Without it, the environment's SPOOLNODE_VIA.

    Returns:
        Whether it was cancelled. False: it had ended well before.

    Raises:
        NotCancelled: it is unknown, or has ended otherwise, or may be on a node that cannot be asked; the text says which.
        Unreachable: the node cannot be asked.
        Unanswered: it was asked, and no answer came: the task may have been cancelled (`TimedOut`: for lack of time).
        Refused: it declined.
    """
    address, request = resolve(via), _request(task_id, grace)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.cancel(task_id)
    with connect(address) as connected:
        connected.settimeout(request.wait + SILENCE)
        try:
            connected.sendall(request.encode())
            reader = AnswerReader()
            while (answer := first(reader, connected.recv(PIECE_READ))) is None:
                pass
        except (OSError, BadPacket) as error:
            raise _unanswered(address, task_id, error) from error
    return _was_cancelled(address, answer)


async def acancel(task_id: str, *, grace: float = 5.0, via: str | None = None) -> bool:
    """As `cancel`, without blocking the loop."""
    import asyncio

    address, request = resolve(via), _request(task_id, grace)
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.cancel(task_id)
    incoming, outgoing = await aconnect(address)
    try:
        outgoing.write(request.encode())
        reader = AnswerReader()
        async with asyncio.timeout(request.wait + SILENCE):
            while (answer := first(reader, await incoming.read(PIECE_READ))) is None:
                pass
    except (OSError, BadPacket) as error:
        raise _unanswered(address, task_id, error) from error
    finally:
        outgoing.close()
    return _was_cancelled(address, answer)


def _request(task_id: str, grace: float) -> CancelRequest:
    if not is_task_id(task_id):
        raise NotCancelled(f"{task_id[:80]!r} is not the id of a task")
    return CancelRequest(task_id, f"{user()} (process {os.getpid()})", grace, grace + ANSWER_SECONDS)


def _unanswered(address: Address, task_id: str, error: Exception) -> Unanswered:
    kind = TimedOut if isinstance(error, TimeoutError) else Unanswered
    return kind(f"{address}: no answer about the task {task_id}, which may have been cancelled: {error}")


def _was_cancelled(address: Address, answer: Answer) -> bool:
    """The meaning of the answer. Raises as `cancel` does."""
    _, modifier2, block = answer
    try:
        if modifier2 == 0:
            read_answer(modifier2, block)  # raises the refusal
        outcome, text = read_cancel_answer(modifier2, block)
    except Refused as refusal:
        raise Refused(refusal.reason, f"{address}: declined to cancel the task: {refusal.text}") from None
    except BadPacket as error:
        raise Unanswered(f"{address}: {error}") from error
    if outcome in (CancelOutcome.CANCELLED, CancelOutcome.DONE):
        return outcome is CancelOutcome.CANCELLED
    raise NotCancelled(text, is_unsure=outcome is CancelOutcome.UNSURE)


def user() -> str:
    """The name of the user of this process, or its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
