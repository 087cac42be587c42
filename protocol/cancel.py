"""Asking a node to cancel a task, wherever that is: the request, and the answer.

It is a spool request that begins with `spool_cancel` (the task's id). `spool_by` says who cancels, `spool_grace` how many seconds
the task gets to end if it runs, `spool_wait` how long the caller waits for the answer, `spool_follow` how many nodes may still be
asked one after the other. No task has these variables, so a node that does not know them refuses the request.

A node that has perhaps sent the task asks over the link of that task, with `spool_seq`, its sequence number there. Then a copy of
the task that is still on its way is not stored when it comes.
"""

from enum import Enum
from typing import NamedTuple

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.forward import UNDELIVERED
from spoolnode.protocol.packet import ANSWER, EXTENDED, SPOOL_REQUEST, decode_variables, encode_variables, packet
from spoolnode.protocol.printable import printable

MOST_NODES = 8
"""Nodes that are asked one after the other: a task that was handed on more often is not followed further."""
LONGEST_GRACE = 86_400.0
"""The most seconds that a running task may get to end."""
ANSWER_SECONDS = 15.0
"""Seconds that an answer may take besides the grace, with all nodes that are asked."""
MOST_BY = 200
"""Characters of the text that says who cancels."""
_CANCEL, _BY, _GRACE, _WAIT, _FOLLOW = b"spool_cancel", b"spool_by", b"spool_grace", b"spool_wait", b"spool_follow"
_OUTCOME, _TEXT = b"spool_outcome", b"spool_text"
BEGINNING = encode_variables([(_CANCEL, b"")])[:-2]
_ANSWERED = 4
"""modifier2 of the answer."""


class CancelRequest(NamedTuple):
    """A request to cancel one task."""

    identity: str
    by: str
    grace: float
    wait: float
    follow: int = MOST_NODES
    number: int = 0
    """The sequence number of the task on the link that asks; 0: it is not a link that asks."""

    def encode(self) -> bytes:
        """The packet."""
        said = [(_CANCEL, self.identity), (_BY, self.by), (_GRACE, f"{self.grace:.3f}"), (_WAIT, f"{self.wait:.3f}")]
        said += [(_FOLLOW, str(self.follow)), *([(names.NUMBER, str(self.number))] if self.number else [])]
        block = encode_variables([(name, value.encode("utf-8", "backslashreplace")) for name, value in said])
        return packet(SPOOL_REQUEST, block, modifier2=EXTENDED)


def is_cancel(block: bytes) -> bool:
    """Whether a request asks to cancel a task."""
    return block.startswith(BEGINNING)


def read_cancel(block: bytes) -> CancelRequest:
    """The request in a block. Raises `Refused`."""
    try:
        said = {name: value.decode("utf-8", "replace") for name, value in decode_variables(block)}
        grace, wait = (max(0.0, float(said[name])) for name in (_GRACE, _WAIT))
        number = names.read_number(said[names.NUMBER].encode()) if names.NUMBER in said else 0
        request = CancelRequest(
            said[_CANCEL], printable(said[_BY])[:MOST_BY], min(grace, LONGEST_GRACE), min(wait, LONGEST_GRACE + ANSWER_SECONDS),
            min(max(int(said[_FOLLOW]), 0), MOST_NODES), number,
        )  # fmt: skip
    except (BadPacket, KeyError, ValueError) as error:
        raise Refused(Reason.MALFORMED, f"this request to cancel a task cannot be read: {error}") from error
    if not names.is_task_id(request.identity):
        raise Refused(Reason.MALFORMED, f"{request.identity[:80]!r} is not the id of a task")
    return request


class CancelOutcome(Enum):
    """The outcome of a request to cancel a task."""

    CANCELLED = "cancelled"
    """It is in dead/ as cancelled, and never runs again."""
    KEPT_OUT = "kept out"
    """It had not come over the link that asks, and is not taken any more."""
    DONE = "done"
    """It had ended well before."""
    NOT_CANCELLED = "not cancelled"
    """It had ended otherwise, or cannot be cancelled now."""
    UNKNOWN = "unknown"
    """No such task is known."""
    UNSURE = "unsure"
    """It is not known what becomes of it: the node that has it, or may have it, cannot be asked."""


class CancelAnswer(NamedTuple):
    """The answer."""

    outcome: CancelOutcome
    text: str = ""
    """A sentence about every outcome but `CANCELLED` and `KEPT_OUT`."""

    def encode(self) -> bytes:
        """The packet."""
        text = self.text.encode("utf-8", "backslashreplace")[:4096]
        return packet(ANSWER, encode_variables([(_OUTCOME, self.outcome.value.encode()), (_TEXT, text)]), modifier2=_ANSWERED)


def read_cancel_answer(modifier2: int, block: bytes) -> CancelAnswer:
    """The answer to a request to cancel a task. Raises `BadPacket`; a refusal is read elsewhere."""
    said = dict(decode_variables(block))
    try:
        outcome = CancelOutcome(said[_OUTCOME].decode("ascii", "replace"))
    except (KeyError, ValueError):
        outcome = None
    if modifier2 != _ANSWERED or outcome is None:
        raise BadPacket("this is not an answer to a request to cancel a task")
    return CancelAnswer(outcome, printable(said.get(_TEXT, b"").decode("utf-8", "replace")))


def is_of_older_version(refusal: Refused) -> bool:
    """Whether a node refused such a request because it does not know it."""
    return _CANCEL.decode() in refusal.text


_CANCELLED_BY = "cancelled by "
_PERHAPS_TAKEN = "; it may have been taken there before, as number "


def cancelled_by(who: str, perhaps_taken: int = 0) -> str:
    """The reason that is kept with a cancelled task. `perhaps_taken`: its sequence number, if it was perhaps sent before."""
    return f"{_CANCELLED_BY}{who}" + (f"{_PERHAPS_TAKEN}{perhaps_taken}" if perhaps_taken else "")


def is_cancelled(reason: str) -> bool:
    """Whether this is the reason of a cancelled task, which may have waited for another node."""
    said = reason.partition(": ")[2] if reason.startswith(UNDELIVERED.decode()) else reason
    return said.startswith(_CANCELLED_BY)


def number_in(reason: str) -> int:
    """The sequence number of a cancelled task that was perhaps sent before; 0 if it was not."""
    number = reason.rpartition(_PERHAPS_TAKEN)[2]
    return int(number) if _PERHAPS_TAKEN in reason and number.isdecimal() else 0
