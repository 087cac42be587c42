"""The batch: many tasks just accepted, in one file.

    file   = header, records, zeros up to the allocated size
    header = magic "SPOOLBAT" | u16 version | u16 0 | u32 salt | u64 number | u32 crc of the bytes before | u32 0
    record = u32 kind | u16 start | u16 length of the function's name | u64 sequence number |
             u32 length of the payload | u32 crc | f64 accepted | f64 due | u64 rank | payload | zeros up to 8 bytes
    payload = a spool file (see `spoolfile`): header, variables, body

All little-endian. Times are seconds since 1970. The name of the function (see `names.function_named`) lies in the variables,
`start` bytes from their beginning; both numbers are 0 if the task names none. The crc covers kind, function, sequence number,
length, times, rank and payload as they were first written, with the payload's two progress bytes at `WAITING` and 0. It is
seeded with the batch's number and salt: a record of another file never passes for one of this file, and a client cannot send
a body that passes for a record after damage.

Version 2, which is read as well, has a u32 0 in place of `start` and `length`, whatever the task names.

To change this format: raise VERSION first, keep the reader of the old version beside the new one, and let the new node
read both. A node refuses a version that it does not know and leaves the file where it is.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST
from spoolnode.protocol.packet import HEADER
from spoolnode.protocol.spoolfile import FINISHED, VOID, WAITING

VERSION = 3
_WITHOUT_FUNCTION = 2
"""The version before this one, whose records do not say where the function's name is."""
_READABLE = (_WITHOUT_FUNCTION, VERSION)
MAGIC = b"SPOOLBAT"
BEGINNINGS = tuple(MAGIC + version.to_bytes(2, "little") for version in _READABLE)
"""The first bytes of every batch that this code reads."""
_HEAD = struct.Struct("<8sHHIQ")
HEADER_SIZE = _HEAD.size + 8
_FRONT = struct.Struct("<IHHQ")
_RECORD = struct.Struct("<IHHQIIddQ")
RECORD_SIZE = _RECORD.size
"""Bytes before the payload of a record."""
_NUMBER_BEFORE, _LENGTH_BEFORE = RECORD_SIZE - 8, RECORD_SIZE - 16
"""So many bytes before its payload a record has its sequence number, and its length."""
_ACCEPTED = struct.Struct("<d")
_TIMES = struct.Struct("<dd")
_ACCEPTED_BEFORE = RECORD_SIZE - struct.calcsize("<IHHQII")
"""So many bytes before its payload a record has the time of its acceptance."""
ALIGN = 8
_COVERED = struct.Struct("<IddQ")
HERE, OUTBOUND, ARRIVED = 0, 1, 2
"""Kinds of records: a task for this node; one that waits for a peer; one that came from a peer. The last two have the
sequence number that the link gave them."""
_PADDING = [b"\0" * ((-size) % ALIGN) for size in range(ALIGN)]


class Transit(NamedTuple):
    """The part of a record about other nodes."""

    kind: int = HERE
    number: int = 0
    """The sequence number; 0 for a task that has always been for this node."""


NO_TRANSIT = Transit()


class Record(NamedTuple):
    """A record found in a batch; `offset` is where its payload begins."""

    offset: int
    length: int
    accepted: float
    due: float
    rank: int
    state: int
    attempts: int
    kind: int = HERE
    number: int = 0
    function: bytes | None = b""
    """The name of its function; empty if it names none, None if the record does not say (version 2)."""


class Damage(NamedTuple):
    """Bytes `start` to `end` of a batch hold no record, but whole records follow them."""

    start: int
    end: int


def seed_of(number: int, salt: int) -> int:
    """The seed of the crc of a batch's records."""
    return (number ^ salt) & 0xFFFFFFFF


def encode_header(number: int, salt: int = 0) -> bytes:
    """The header of batch `number`; `salt` is 32 random bits."""
    front = _HEAD.pack(MAGIC, VERSION, 0, salt, number)
    return front + zlib.crc32(front).to_bytes(4, "little") + bytes(4)


def read_header(data: bytes) -> int:
    """The number of the batch. Raises `BadPacket` if this is not a batch, or one of an unknown version."""
    if len(data) < HEADER_SIZE:
        raise BadPacket(f"the batch has {len(data)} bytes; its header alone takes {HEADER_SIZE}")
    magic, version, _, _, number = _HEAD.unpack_from(data)
    crc = int.from_bytes(data[_HEAD.size : _HEAD.size + 4], "little")
    if magic != MAGIC or crc != zlib.crc32(data[: _HEAD.size]):
        raise BadPacket("the header of the batch is damaged")
    if version not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise BadPacket(f"the batch has version {version}; this spoolnode reads versions {readable}")
    return int(number)


def encode_record(
    seed: int,
    block: bytes,
    body: bytes,
    accepted: float,
    due: float = 0.0,
    rank: int = LAST,
    transit: Transit = NO_TRANSIT,
    function: bytes = b"",
) -> bytes:
    """One task as a record; `seed` is that of the batch. Its payload begins `RECORD_SIZE` bytes in.

    `function`: the name of its function, which is somewhere in `block`.
    """
    payload = b"\x11" + len(block).to_bytes(2, "little") + b"\0" + block + body
    length = len(payload)
    crc = zlib.crc32(_COVERED.pack(length, accepted, due, rank), seed)
    kind, number = transit
    start = block.index(function) if function else 0
    if kind or function:
        crc = zlib.crc32(_FRONT.pack(kind, start, len(function), number), crc)
    crc = zlib.crc32(payload, crc)
    front = _RECORD.pack(kind, start, len(function), number, length, crc, accepted, due, rank)
    return front + payload + _PADDING[length % ALIGN]


def payload_length(data: bytes | memoryview, offset: int) -> int:
    """The length of the payload that begins at `offset`."""
    return int.from_bytes(data[offset - _LENGTH_BEFORE : offset - _LENGTH_BEFORE + 4], "little")


def sequence_number(data: bytes | memoryview, offset: int) -> int:
    """The sequence number of the record whose payload begins at `offset`."""
    return int.from_bytes(data[offset - _NUMBER_BEFORE : offset - _NUMBER_BEFORE + 8], "little")


def accepted_time(data: bytes | memoryview, offset: int) -> float:
    """When the task was accepted whose payload begins at `offset`, in seconds since 1970."""
    accepted: float = _ACCEPTED.unpack_from(data, offset - _ACCEPTED_BEFORE)[0]
    return accepted


def ready_time(data: bytes | memoryview, offset: int) -> float:
    """When that task could be run first: when it was accepted, or at its due time."""
    ready: float = max(_TIMES.unpack_from(data, offset - _ACCEPTED_BEFORE))
    return ready


def payload_after(data: bytes | memoryview, offset: int) -> int:
    """Where the payload of the next record begins; the one at `offset` is whole."""
    length = payload_length(data, offset)
    return offset + length + (-length) % ALIGN + RECORD_SIZE


def read_records(data: bytes, number: int) -> Iterator[Record | Damage]:
    """Every whole record of a batch whose header is whole, and the damage between them.

    A damaged end is a torn write that was never acknowledged: it is skipped, as are bytes that were never written.
    """
    if len(data) < HEADER_SIZE:
        return
    _, version, _, salt, _ = _HEAD.unpack_from(data)
    seed, says_function = seed_of(number, salt), version != _WITHOUT_FUNCTION
    position = HEADER_SIZE
    while position < len(data):
        record = _record_at(data, position, seed, says_function=says_function)
        if record is None:
            following = _next_whole(data, position + ALIGN, seed, says_function=says_function)
            if following is None:
                return
            yield Damage(position, following)
            position = following
        else:
            yield record
            position = record.offset + record.length + (-record.length) % ALIGN


def _record_at(data: bytes, position: int, seed: int, *, says_function: bool) -> Record | None:
    offset = position + RECORD_SIZE
    if offset + HEADER.size > len(data):
        return None
    kind, name_at, name_size, link, length, crc, accepted, due, rank = _RECORD.unpack_from(data, position)
    if length < HEADER.size or offset + length > len(data):
        return None
    if kind > ARRIVED or (link and not kind) or ((name_at or name_size) and not says_function):
        return None
    state, size, attempts = HEADER.unpack_from(data, offset)
    if HEADER.size + size > length or name_at + name_size > size or (name_at and not name_size):
        return None
    as_written = zlib.crc32(_COVERED.pack(length, accepted, due, rank), seed)
    if kind or name_size:
        as_written = zlib.crc32(_FRONT.pack(kind, name_at, name_size, link), as_written)
    as_written = zlib.crc32(HEADER.pack(WAITING, size, 0), as_written)
    if crc != zlib.crc32(memoryview(data)[offset + HEADER.size : offset + length], as_written):
        return None
    # The crc does not cover the state: a flipped bit must not end a task, so only the two values do.
    state = state if state in (FINISHED, VOID) else WAITING
    start = offset + HEADER.size + name_at
    function = data[start : start + name_size] if says_function else None
    return Record(offset, length, accepted, due, rank, state, attempts, kind, link, function)


def _next_whole(data: bytes, position: int, seed: int, *, says_function: bool) -> int | None:
    """Where the next whole record begins, if any does."""
    last = len(data.rstrip(b"\0"))
    while position < last:
        if _record_at(data, position, seed, says_function=says_function) is not None:
            return position
        position += ALIGN
    return None
