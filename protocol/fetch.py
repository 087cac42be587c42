"""Asking a node about a task: the question, and the answers, which bring a large one in pieces.

A question is a spool request with `spool_result`, `spool_story` or `spool_task` (the task's id), `spool_wait` (seconds to wait
for a result if the task has not ended) and `spool_from` (the first byte wanted). A result is msgpack, a story is JSON, and a task
is msgpack (see docs/wire-format.md). No task has these variables, so a node that does not know them refuses the question.
"""

from typing import NamedTuple

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import ANSWER, EXTENDED, SPOOL_REQUEST, decode_variables, encode_variables, packet

MAX_RESULT = 1 << 20
"""The largest result that is kept, in bytes as msgpack."""
MAX_ANSWER = 1 << 22
"""More bytes than there are in any answer, in all of its pieces."""
PIECE = 60_000
"""Most bytes of a result in one answer."""
MOST_WAIT = 20.0
"""Seconds that a node lets one question wait; a longer wait takes several questions."""
RESULT, STORY, TASK = b"spool_result", b"spool_story", b"spool_task"
_WAIT, _FROM = b"spool_wait", b"spool_from"
_SIZE, _PIECE, _MISSING, _KIND = b"spool_size", b"spool_piece", b"spool_missing", b"spool_kind"
GIVEN_UP, REMOVED, MERGED, NOT_KEPT, EXPIRED, UNKNOWN = "given_up", "removed", "merged", "not_kept", "expired", "unknown"
"""Why a result is missing, for programs."""
KINDS = frozenset({GIVEN_UP, REMOVED, MERGED, NOT_KEPT, EXPIRED, UNKNOWN})
BEGINNINGS = tuple(encode_variables([(about, b"")])[:-2] for about in (RESULT, STORY, TASK))
_FOUND = 3
"""modifier2 of the answer to a question."""


class Question(NamedTuple):
    """A question about one task."""

    identity: str
    wait: float
    start: int = 0
    about: bytes = RESULT

    def encode(self) -> bytes:
        """The packet."""
        said = [(self.about, self.identity), (_WAIT, f"{self.wait:.3f}"), (_FROM, str(self.start))]
        block = encode_variables([(name, value.encode()) for name, value in said])
        return packet(SPOOL_REQUEST, block, modifier2=EXTENDED)


def is_question(block: bytes) -> bool:
    """Whether a request is a question about a task."""
    return block.startswith(BEGINNINGS)


def read_question(block: bytes) -> Question:
    """The question in a request. Raises `Refused`."""
    try:
        said = {name: value.decode("ascii") for name, value in decode_variables(block)}
        about = next(name for name in (RESULT, STORY, TASK) if name in said)
        wait = max(0.0, float(said[_WAIT]))  # in this order: not a number becomes 0
        question = Question(said[about], min(wait, MOST_WAIT), int(said[_FROM]), about)
    except (BadPacket, KeyError, StopIteration, ValueError) as error:
        raise Refused(Reason.MALFORMED, f"this question about a task cannot be read: {error}") from error
    if not names.is_task_id(question.identity) or not 0 <= question.start <= MAX_ANSWER:
        raise Refused(Reason.MALFORMED, f"{question.identity[:80]!r} is not the id of a task")
    return question


class Fetched(NamedTuple):
    """An answer: a piece of what was asked for, the reason why there is none, or neither, if the task has not ended."""

    size: int = 0
    piece: bytes = b""
    missing: str = ""
    """The reason, for people."""
    kind: str = ""
    """The same for programs: one of `KINDS`."""

    @classmethod
    def of(cls, data: bytes, start: int) -> "Fetched":
        """The piece that begins there."""
        return cls(len(data), data[start : start + PIECE])

    @property
    def is_pending(self) -> bool:
        """Whether the task has not ended."""
        return not self.size and not self.missing

    def encode(self) -> bytes:
        """The packet."""
        missing = self.missing.encode("utf-8", "backslashreplace")[:PIECE]
        said = [(_SIZE, str(self.size).encode()), (_PIECE, self.piece), (_MISSING, missing), (_KIND, self.kind.encode())]
        block = encode_variables(said)
        return packet(ANSWER, block, modifier2=_FOUND)


def read_fetched(modifier2: int, block: bytes) -> Fetched:
    """The answer to a question. Raises `BadPacket`; a refusal is read elsewhere."""
    said = dict(decode_variables(block))
    size = said.get(_SIZE, b"")
    if modifier2 != _FOUND or not said.keys() >= {_SIZE, _PIECE, _MISSING} or not size.isdigit():
        raise BadPacket("this is not an answer to a question about a task")
    if len(size) > len(str(MAX_ANSWER)) or int(size) > MAX_ANSWER:
        raise BadPacket(f"the answer is said to have {size[:20].decode('ascii')} bytes; there are at most {MAX_ANSWER}")
    kind = said.get(_KIND, b"").decode("ascii", "replace")
    return Fetched(int(size), said[_PIECE], said[_MISSING].decode("utf-8", "replace"), kind if kind in KINDS else "")
