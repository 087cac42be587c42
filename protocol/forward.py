"""A task on its way from node to node: the variables that a link adds and removes, and how a task says that it
could not be delivered.

The receiver keeps the added variables, so a task tells which node had it before.
"""

import re
from collections.abc import Iterable

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables

RECEIVER_ROOM = 350
"""Bytes of a block that are left for the receiver, which notes a task's sender (28 and 48) and destination (at most 267)."""
LINK_ROOM = 700
"""Bytes of a block that are left for a link: those, and an id of at most 236 bytes, a number, a length and a count (327)."""
_SPOOLER = b"spooler"
_OF_THE_WAY = names.OF_LINKS | {names.BODY_LENGTH, _SPOOLER}
UNDELIVERED = b"not delivered to "
"""The beginning of the reason of a task that could not be delivered."""
_NUMBER, _ID, _BODY_LENGTH = (encode_variables([(name, b"")])[:-2] for name in (names.NUMBER, names.ID, names.BODY_LENGTH))
_TOLD = re.compile(b"\\0(?:" + b"|".join(map(re.escape, sorted(_OF_THE_WAY))) + b")")
"""One of these names in a block: a zero, the high byte of its length, is before it."""


def _variable(name: bytes, value: bytes) -> bytes:
    """A variable whose name is already encoded. `encode_variables` takes twice as long, and this runs for every task."""
    return name + len(value).to_bytes(2, "little") + value


def dress(block: bytes, identity: str, number: int, body: int) -> bytes:
    """A block as it travels: with the task's id and sequence number, and without the variables of an earlier link.

    Raises:
        BadTask: it becomes too large.
        BadPacket, Refused: it is malformed.
    """
    tells_length = body or names.BODY_LENGTH in block or b"CONTENT_LENGTH" in block
    if names.ORIGIN in block or _SPOOLER in block:
        block = _cleaned(block)
    extra = _variable(_NUMBER, str(number).encode())
    if names.ID not in block or names.ID not in dict(decode_variables(block)):
        extra += _variable(_ID, identity.encode())
    if tells_length:
        extra += _variable(_BODY_LENGTH, str(body).encode())  # a file from elsewhere tells it only by its size
    if len(block) + len(extra) > MAX_BLOCK - RECEIVER_ROOM:
        raise BadTask(f"the variables take {len(block)} bytes; a task for another node may have {MAX_BLOCK - LINK_ROOM}")
    return block + extra


def _cleaned(block: bytes) -> bytes:
    """A block without what holds only here: the directory that a uWSGI client named, and the variables of an earlier link."""
    variables = [(key, value) for key, value in decode_variables(block) if key != _SPOOLER]
    said = dict(variables)
    if names.ORIGIN in said:
        hops = names.read_hops(said.get(names.HOPS, b""))
        gone = names.OF_LINKS | {names.HOPS, names.BODY_LENGTH}
        variables = [(key, value) for key, value in variables if key not in gone]
        variables.append((names.HOPS, str(min(hops + 1, names.MOST_HOPS)).encode()))
    return encode_variables(variables)


def without_way(variables: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A block of variables as a common store gets it: without what means something only on a link, or on one node's disk."""
    return encode_variables(item for item in variables if item[0] not in _OF_THE_WAY)


def tells_the_way(block: bytes) -> bool:
    """Whether `without_way` may take something out of a block. It takes nothing out of most, and this is ten times as quick."""
    return _TOLD.search(block) is not None


def sender_of(node_id: str, key: str) -> str:
    """The owner of sequence numbers. Any node can claim an id, so numbers belong to the key that was proved with it.

    A node that claims the id with another key, or without one, uses up only its own numbers.
    """
    return f"{node_id}/{key}" if key else node_id


def undress(block: bytes) -> tuple[str, str, int, int] | None:
    """Sender, destination, sequence number and hops of a task that came over a link; None if it did not."""
    if names.ORIGIN not in block:
        return None
    said = dict(decode_variables(block))
    if names.ORIGIN not in said or names.NUMBER not in said:
        return None
    origin, key, to = (said.get(name, b"").decode("ascii", "replace") for name in (names.ORIGIN, names.SENDER, names.TO))
    return sender_of(origin, key), to, names.read_number(said[names.NUMBER]), names.read_hops(said.get(names.HOPS, b""))


def undeliverable(to: str, reason: str) -> str:
    """The reason that is kept with a task that could not be delivered."""
    return f"{UNDELIVERED.decode()}{to}: {reason}"


def undelivered(block: bytes) -> tuple[str, str] | None:
    """The destination that a dead task could not be delivered to, and the one that its sender had asked for.

    None if the task was for this node, and has run.
    """
    said = dict(decode_variables(block)) if UNDELIVERED in block else {}
    reason = said.get(names.REASON, b"")
    if not reason.startswith(UNDELIVERED):
        return None
    to = reason.removeprefix(UNDELIVERED).partition(b": ")[0].decode("ascii", "replace")
    return (to, said.get(names.NODE, b"").decode("ascii", "replace")) if names.is_destination(to) else None
