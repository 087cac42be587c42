"""One request of `/api/v1` that a node passes on to another one for its operator, and the answer.

It is a spool request that begins with `spool_operate` (the method, a space, and the path below `/api/v1`). `spool_query` is the
query of the URL, and `spool_by` says who asks. No task has these variables, so a node that does not know them refuses it.

The answer comes in as many packets as it needs, one after the other. Each has the HTTP status, the size of the whole, and a
piece of it.
"""

from typing import NamedTuple

from spoolnode.protocol.answer import Answer, read_answer
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import ANSWER, EXTENDED, SPOOL_REQUEST, decode_variables, encode_variables, packet
from spoolnode.protocol.printable import printable

MOST_ANSWER = 1 << 22
"""The largest answer, in bytes."""
MOST_ASKED = 8192
"""The longest path or query, in bytes: as long as HTTP lets one be."""
MOST_BY = 200
"""Characters of the text that says who asks."""
ANSWER_SECONDS = 25.0
"""Seconds within which a node answers; the other one waits a little longer."""
INVITES, INVITED = "operators", "welcome"
"""An item of the answer to a hello: operators of the node that said it may do here what they may there."""
_PIECE_SIZE = 60_000
_OPERATE, _QUERY, _BY = b"spool_operate", b"spool_query", b"spool_by"
_STATUS, _SIZE, _PIECE = b"spool_status", b"spool_size", b"spool_piece"
BEGINNING = encode_variables([(_OPERATE, b"")])[:-2]
_OPERATED = 5
"""modifier2 of the answer."""


class Operation(NamedTuple):
    """One request."""

    method: str
    path: str
    """Below `/api/v1`."""
    query: str
    by: str

    def encode(self) -> bytes:
        """The packet."""
        said = [(_OPERATE, f"{self.method} {self.path}"), (_QUERY, self.query), (_BY, self.by[:MOST_BY])]
        block = encode_variables([(name, value.encode("utf-8", "backslashreplace")) for name, value in said])
        return packet(SPOOL_REQUEST, block, modifier2=EXTENDED)


def is_operation(block: bytes) -> bool:
    """Whether a request is passed on for an operator."""
    return block.startswith(BEGINNING)


def read_operation(block: bytes) -> Operation:
    """The request in a block. Raises `Refused`."""
    try:
        said = {name: value.decode("utf-8", "replace") for name, value in decode_variables(block)}
        method, _, path = said[_OPERATE].partition(" ")
        operation = Operation(method, path, said[_QUERY], printable(said[_BY])[:MOST_BY])
    except (BadPacket, KeyError) as error:
        raise Refused(Reason.MALFORMED, f"this request of an operator cannot be read: {error}") from error
    if max(len(path), len(operation.query)) > MOST_ASKED:
        raise Refused(Reason.MALFORMED, f"the path and the query of an operator's request have at most {MOST_ASKED} characters")
    return operation


class OperationAnswer(NamedTuple):
    """The answer: that of HTTP to the same request."""

    status: int
    body: bytes

    def encode(self) -> bytes:
        """The packets."""
        head = [(_STATUS, str(self.status).encode()), (_SIZE, str(len(self.body)).encode())]
        starts = range(0, max(len(self.body), 1), _PIECE_SIZE)
        pieces = (self.body[start : start + _PIECE_SIZE] for start in starts)
        return b"".join(packet(ANSWER, encode_variables([*head, (_PIECE, piece)]), modifier2=_OPERATED) for piece in pieces)


class OperationReader:
    """Puts an answer together from its packets."""

    def __init__(self) -> None:
        self._body = bytearray()

    def __repr__(self) -> str:
        return f"<OperationReader, {len(self._body)} bytes>"

    def add(self, answer: Answer) -> OperationAnswer | None:
        """Takes the next packet; returns the answer once it is whole.

        Raises:
            Refused: the node declines such requests, or this one.
            BadPacket: it is not such an answer.
        """
        _, modifier2, block = answer
        if modifier2 != _OPERATED:
            raise BadPacket(f"an operator's request was answered as if it were the task {read_answer(modifier2, block)}")
        said = dict(decode_variables(block))
        status, size, piece = (said.get(name, b"") for name in (_STATUS, _SIZE, _PIECE))
        if not (_is_number(status, 599) and int(status) >= 200 and _is_number(size, MOST_ANSWER)):
            raise BadPacket(f"the answer has the status {status[:20]!r} and the size {size[:20]!r}")
        self._body += piece
        if len(self._body) > int(size) or (not piece and int(size)):
            raise BadPacket(f"the answer was to have {int(size)} bytes, and has {len(self._body)}")
        return OperationAnswer(int(status), bytes(self._body)) if len(self._body) == int(size) else None


def _is_number(text: bytes, most: int) -> bool:
    return text.isdigit() and len(text) <= len(str(most)) and int(text) <= most
