"""Reads tasks for another node from the disk, and dresses them as packets of the extended dialect for a link.

Everything here blocks and runs in the packing thread, so that reading for a link does not wait for other work. It changes only
one byte of a task that the link has taken: that it may have been sent.
"""

import contextlib
from collections.abc import Sequence
from functools import singledispatch
from typing import Any, NamedTuple

from spoolnode.node.disk.layout import number_of, ref_id
from spoolnode.node.spool.group_commit import INLINE_BODY
from spoolnode.node.spool.place import IN_FILES, InBatch, InFiles, Place
from spoolnode.node.spool.reader import Location, Marker, Reader
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import names, pickles
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.forward import dress
from spoolnode.protocol.packet import EXTENDED, HEADER, MAX_BLOCK, SPOOL_REQUEST, decode_variables, packet
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, STATE_AT, WAITING
from spoolnode.protocol.unique import unique_key_in

_MAY_MATTER = (names.OURS, b"args", b"function_name")
"""A block without any of these asks for nothing and does not hold a pickle."""
SENT = b"\x01"
"""The attempts byte of a task that may have reached the other node. Set before sending, so a kill -9 does not hide it."""


class Envelope(NamedTuple):
    """One task, ready to send."""

    ref: int | str
    number: int
    head: bytes
    """Header and variables, and the body unless it is large."""
    body_at: int = 0
    body_end: int = 0
    """The place of a large body in the file `ref`; both 0 for other tasks."""

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.head) + self.body_end - self.body_at


BODY_PIECE = 1 << 18
"""Bytes of a large body that are read at a time."""


class Body:
    """The large body of a task, in its file."""

    def __init__(self, reader: Reader, envelope: Envelope) -> None:
        """Opens the file. Raises OSError."""
        self._disk = reader.disk
        self._descriptor = self._disk.open_to_read(reader.layout.path(str(envelope.ref)))
        self._at, self._end = envelope.body_at, envelope.body_end

    def read(self) -> bytes:
        """The next piece; empty at the end, or if the file became shorter. Raises OSError."""
        piece = self._disk.read(self._descriptor, min(BODY_PIECE, self._end - self._at), self._at)
        self._at += len(piece)
        return piece

    def close(self) -> None:
        """Closes the file."""
        self._disk.close(self._descriptor)


class Unsendable(NamedTuple):
    """A task that no link can send."""

    ref: int | str
    reason: str


@singledispatch
def pack_tasks(place: Place, marker: Marker, refs: Sequence[Any]) -> list[Envelope | Unsendable]:
    """Packs the waiting ones among these tasks. Raises OSError, or FileNotFoundError if their batch is gone."""
    raise NotImplementedError


@pack_tasks.register
def _pack_records(place: InBatch, marker: Marker, offsets: Sequence[int]) -> list[Envelope | Unsendable]:
    found: list[Envelope | Unsendable] = []
    start = min(offsets) - batchfile.RECORD_SIZE
    descriptor = marker.disk.open(marker.layout.batch(place.number))
    try:
        size = marker.disk.size(descriptor)
        there = [offset for offset in offsets if offset + HEADER.size <= size]
        found += [Unsendable(offset, "its batch was cut short") for offset in offsets if offset + HEADER.size > size]
        if not there:
            return found
        front = marker.disk.read(descriptor, batchfile.RECORD_SIZE, max(there) - batchfile.RECORD_SIZE)
        end = max(there) + batchfile.payload_length(front, len(front))
        data = marker.disk.read(descriptor, end - start, start)
        waiting = [offset for offset in there if data[offset - start + STATE_AT] == WAITING]
        unsent = [offset for offset in waiting if not data[offset - start + ATTEMPTS_AT]]
        marker.set_bytes(descriptor, data, start, unsent, ATTEMPTS_AT, SENT[0])
        for offset in waiting:
            at = offset - start
            length = batchfile.payload_length(data, at)
            if offset + length > size:
                found.append(Unsendable(offset, "its batch was cut short"))
                continue
            identity = place.id_of(offset, marker.node_id)
            found.append(_envelope(offset, batchfile.sequence_number(data, at), identity, data[at : at + length]))
    finally:
        marker.disk.close(descriptor)
    return found


@pack_tasks.register
def _pack_files(_place: InFiles, marker: Marker, refs: Sequence[str]) -> list[Envelope | Unsendable]:
    packed = []
    for ref in refs:
        with contextlib.suppress(FileNotFoundError):  # it was removed
            envelope = pack_file(marker, ref)
            if envelope is not None:
                packed.append(envelope)
    return packed


def pack_file(marker: Marker, ref: str) -> Envelope | Unsendable | None:
    """A task in a file of its own; None if it has ended. Raises OSError, or FileNotFoundError if the file is gone."""
    number, identity = number_of(ref), ref_id(ref)
    descriptor = marker.disk.open(marker.layout.path(ref))
    try:
        size = marker.disk.size(descriptor)
        data = marker.disk.read(descriptor, min(size, HEADER.size + MAX_BLOCK), 0)
        if len(data) < HEADER.size or data[STATE_AT] != WAITING:
            return None if len(data) >= HEADER.size else Unsendable(ref, "the file is not a spool file")
        body_at = HEADER.size + HEADER.unpack_from(data)[1]
        if size < body_at:
            return Unsendable(ref, "the file ends before its variables do")
        if not data[ATTEMPTS_AT]:
            IN_FILES.set_attempts(marker, ref, SENT[0])
        if size - body_at > INLINE_BODY:
            return _large(ref, number, identity, data[HEADER.size : body_at], body_at, size)
        data += marker.disk.read(descriptor, size - len(data), len(data))
    finally:
        marker.disk.close(descriptor)
    return _envelope(ref, number, identity, data)


class AskedPlace(NamedTuple):
    """Where a task asks to be."""

    destination: str
    """The destination that its sender asked for; empty if none."""
    hops: int
    """How many times it was handed on."""
    key: bytes = b""
    """The fingerprint of its key; empty if it has none."""
    is_dropped: bool = False
    """Whether it is a file that someone else wrote here, or that its sender may remove."""


def asked(reader: Reader, place: Place, refs: Sequence[int | str]) -> dict[int | str, AskedPlace]:
    """Where these tasks ask to be; without those that are gone, malformed, or may not leave. Raises OSError."""
    found: dict[int | str, AskedPlace] = {}
    for ref in refs:
        try:
            whole = place.whole(reader, ref)
            block = reader.block_at(whole)
            said = dict(decode_variables(block)) if any(mark in block for mark in _MAY_MATTER) else {}
            if names.PICKLED in said or _is_pickled(reader, whole, said, len(block)):
                continue  # other nodes do not take pickles
            destination = said.get(names.NODE, b"").decode("ascii", "replace")
            hops = names.read_hops(said.get(names.HOPS, b"")) + (names.ORIGIN in said)
            # One that has hops came from a store, with whatever name it has there.
            is_dropped = names.FILE in said or (_is_from_elsewhere(ref) and names.HOPS not in said)
            found[ref] = AskedPlace(destination, hops, unique_key_in(block), is_dropped)
        except (FileNotFoundError, BadPacket, Refused):
            continue
    return found


def _is_from_elsewhere(ref: int | str) -> bool:
    """Whether no node made the name of a file."""
    return isinstance(ref, str) and names.accepted_in(ref_id(ref)) is None


def _is_pickled(reader: Reader, place: Location, said: dict[bytes, bytes], size: int) -> bool:
    """Whether a library would unpickle a part of it. The admission marks such a task; one from a uWSGI has no mark."""
    if pickles.are_pickled(said, body=False):
        return True
    return pickles.are_pickled(said, body=True) and reader.has_body(place, size)


def _envelope(ref: int | str, number: int, identity: str, payload: bytes) -> Envelope | Unsendable:
    body_at = HEADER.size + (payload[1] | payload[2] << 8)
    body = payload[body_at:]
    try:
        block = dress(payload[HEADER.size : body_at], identity, number, len(body))
    except (BadTask, BadPacket, Refused) as error:
        return Unsendable(ref, str(error))
    return Envelope(ref, number, packet(SPOOL_REQUEST, block, EXTENDED) + body)


def _large(ref: str, number: int, identity: str, block: bytes, start: int, end: int) -> Envelope | Unsendable:
    try:
        dressed = dress(block, identity, number, end - start)
    except (BadTask, BadPacket, Refused) as error:
        return Unsendable(ref, str(error))
    return Envelope(ref, number, packet(SPOOL_REQUEST, dressed, EXTENDED), start, end)
