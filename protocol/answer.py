"""The answers of a node, and how a client reads them: four bytes, a packet of variables, or HTTP for web servers."""

import json
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import msgpack

from spoolnode.protocol import names, values
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import ANSWER, EXTENDED, HEADER, PING, decode_variables, encode_variables, packet
from spoolnode.protocol.printable import printable_lines

Answer = tuple[int, int, bytes]
"""modifier1, modifier2 and block of an answer, as they came."""

STORED = packet(ANSWER, modifier2=1)
"""The plain answer to a stored task, exactly uWSGI's `ff 00 00 01`."""
REFUSED = packet(ANSWER, modifier2=0)
"""The plain answer to a refused task, exactly uWSGI's `ff 00 00 00`."""
PONG = packet(PING, modifier2=1)
"""The plain answer to a ping, exactly uWSGI's `64 00 00 01`."""

RETRY_AFTER = 5
"""Seconds that a web client is asked to wait when the node is busy or full."""

_MAX_TEXT = 4096
"""The longest text of a refusal in an answer, in bytes."""

_ID_ITEM = encode_variables([(names.ID, b"")])[:-2]
_ID_SIZE = len(_ID_ITEM) + 2
"""Bytes in the block of an answer besides the id."""
_ID_HEAD = b"\x01" + _ID_ITEM


def stored(task_id: str) -> bytes:
    """The extended answer to a stored task."""
    value = task_id.encode()
    size = len(value)
    return b"\xff" + (_ID_SIZE + size).to_bytes(2, "little") + _ID_HEAD + size.to_bytes(2, "little") + value


def stored_noted(task_id: str, note: str) -> bytes:
    """The extended answer to a stored task, with a sentence about it."""
    text = note.encode("utf-8", "backslashreplace")[:_MAX_TEXT]
    return packet(ANSWER, encode_variables([(names.ID, task_id.encode()), (names.NOTE, text)]), modifier2=1)


def stored_copies(task_id: str, copies: int) -> bytes:
    """The extended answer to a task that was stored `copies` times (`node=all`); the id is that of the first copy."""
    block = encode_variables([(names.ID, task_id.encode()), (names.COPIES, str(copies).encode())])
    return packet(ANSWER, block, modifier2=1)


def refused(refusal: Refused) -> bytes:
    """The extended answer to a refused task, with the reason; a text beyond `_MAX_TEXT` is cut, so that it fits."""
    text = refusal.text.encode("utf-8", "backslashreplace")[:_MAX_TEXT]
    block = encode_variables([(names.ERROR, text), (names.REASON, refusal.reason.name.encode())])
    return packet(ANSWER, block, modifier2=0)


def read_answer(modifier2: int, block: bytes) -> str:
    """The id in an extended answer.

    Raises:
        Refused: the node declined, with its reason.
        BadPacket: this is not an answer.
    """
    variables = dict(decode_variables(block))
    if modifier2 == 1 and names.ID in variables:
        task_id = variables[names.ID].decode("ascii", "replace")
        if not names.is_task_id(task_id):
            raise BadPacket(f"the answer has the id {task_id[:60]!r}, which cannot be the id of a task")
        return task_id
    if modifier2 == 0 and names.ERROR in variables:
        name = variables.get(names.REASON, b"").decode("ascii", "replace")
        reason = Reason[name] if name in Reason.__members__ else Reason.MALFORMED
        raise Refused(reason, printable_lines(variables[names.ERROR][:_MAX_TEXT].decode("utf-8", "replace")))
    raise BadPacket(f"an answer carries neither an id nor a reason: modifier2 {modifier2}, {len(block)} bytes")


def is_stored(modifier2: int, block: bytes) -> bool:
    """Whether an answer says "stored" and nothing more. A quick check: `read_answer` decides about every other answer."""
    return (
        modifier2 == 1
        and block.startswith(_ID_ITEM)
        and len(block) == _ID_SIZE + int.from_bytes(block[len(_ID_ITEM) : _ID_SIZE], "little")
    )


def read_copies(block: bytes) -> int:
    """How many copies of the task were stored, from a good answer."""
    text = dict(decode_variables(block)).get(names.COPIES, b"1")
    return int(text) if text.isdigit() and len(text) < 6 else 1


def read_note(block: bytes) -> str:
    """The sentence about a stored task in a good answer; usually empty."""
    return dict(decode_variables(block)).get(names.NOTE, b"").decode("utf-8", "replace")


def status_pong(status: dict[str, Any]) -> bytes:
    """The extended answer to a ping: the node's status, msgpack."""
    return packet(PING, msgpack.packb(status), modifier2=EXTENDED)


def read_status(block: bytes) -> dict[str, Any]:
    """The status in an extended pong. Raises `BadPacket` if the block does not hold one."""
    return values.unpack(block, "the status in a pong", partial(msgpack.unpackb, strict_map_key=False))


def http_stored(task_id: str, copies: int = 1, note: str = "") -> bytes:
    """202 with the id, for a request that came through a web server."""
    content: dict[str, Any] = {"id": task_id}
    content |= {"copies": copies} if copies != 1 else {}
    content |= {"note": note} if note else {}
    return _http(HTTPStatus.ACCEPTED, content, [f"X-Spool-Id: {task_id}"])


def http_refused(refusal: Refused) -> bytes:
    """The HTTP answer to a refused request, with the reason."""
    extra = [f"Retry-After: {RETRY_AFTER}"] if refusal.reason in (Reason.BUSY, Reason.FULL) else []
    return _http(HTTPStatus(refusal.reason.value), {"error": refusal.text}, extra)


def _http(status: HTTPStatus, content: dict[str, Any], extra: list[str]) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *extra,
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class AnswerReader:
    """The client's half of a connection in the extended dialect: bytes in, whole answers out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def answers(self, data: bytes) -> Iterator[Answer]:
        """Yields the answers that these bytes complete. Answers that are not taken come again with the next bytes.

        Raises:
            BadPacket: after the last good answer, if the bytes that follow are not an answer of a uwsgi server.
        """
        buffer = self._buffer
        buffer += data
        while buffer:
            if buffer[0] not in (ANSWER, PING):
                raise BadPacket(f"the answer begins with byte {buffer[0]}; a uwsgi server answers {ANSWER} or {PING}")
            if len(buffer) < 4:
                return
            modifier1, size, modifier2 = HEADER.unpack_from(buffer)
            if len(buffer) < 4 + size:
                return
            block = bytes(buffer[4 : 4 + size])
            del buffer[: 4 + size]
            yield modifier1, modifier2, block
