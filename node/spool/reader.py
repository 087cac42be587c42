"""Reading a spool directory, and marking tasks that the caller holds. Moves are in `store`.

Three steps, each with the disk that it needs: the type says what a thread may do (ARCHITECTURE.md, "Threads"):

    Reader            any thread: changes nothing
    Marker(Reader)    the store and the packing thread: sets a byte of a task that its caller holds
    Store(Marker)     only the store thread: gives a task another place, or an end

Everything here blocks.
"""

import errno
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spoolnode.node.disk.disk import MarkingDisk, ReadingDisk
from spoolnode.node.disk.layout import Layout, reason_ref
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import spoolfile
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import HEADER, Variables, decode_variables
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT, WAITING

FRONT = 8 << 10
"""Bytes of a spool file that are read at first: the variables of most, with a reason and its traceback."""
LARGEST_OWN = 64 << 20
"""The largest file of our own, in bytes, that is read whole: a batch has 1 MiB, `taken` and `links` some 100 for each peer."""


class Location(NamedTuple):
    """The place of a task's bytes: a whole spool file, or a record of a batch."""

    path: str
    base: int = 0
    length: int = -1
    """-1: to the end of the file."""


class Progress(NamedTuple):
    """The two bytes in a task's header."""

    state: int
    attempts: int


@dataclass
class Reader:
    """Reads one spool directory on one disk."""

    disk: ReadingDisk
    layout: Layout
    node_id: str

    def record(self, path: str, offset: int) -> Location:
        """The location of a record of a batch."""
        return self.front_of_record(path, offset)[1]

    def front_of_record(self, path: str, offset: int) -> tuple[bytes, Location]:
        """The bytes before the variables of a record of a batch, and its location."""
        descriptor = self.disk.open_to_read(path)
        try:
            front = self.disk.read(descriptor, batchfile.RECORD_SIZE + HEADER.size, offset - batchfile.RECORD_SIZE)
        finally:
            self.disk.close(descriptor)
        return front, Location(path, offset, batchfile.payload_length(front, batchfile.RECORD_SIZE))

    def progress(self, header: Location) -> Progress:
        """State and attempts of the task with this header. Raises FileNotFoundError if it is gone."""
        descriptor = self.disk.open_to_read(header.path)
        try:
            front = self.disk.read(descriptor, HEADER.size, header.base)
        finally:
            self.disk.close(descriptor)
        return Progress(front[STATE_AT], front[ATTEMPTS_AT]) if len(front) == HEADER.size else Progress(WAITING, 0)

    def progresses(self, path: str, offsets: Iterable[int]) -> dict[int, Progress]:
        """State and attempts of many tasks of one batch."""
        descriptor = self.disk.open_to_read(path)
        try:
            headers = {offset: self.disk.read(descriptor, HEADER.size, offset) for offset in offsets}
        finally:
            self.disk.close(descriptor)
        return {offset: Progress(header[STATE_AT], header[ATTEMPTS_AT]) for offset, header in headers.items()}

    def records(self, number: int) -> list[batchfile.Record]:
        """The whole records of a batch."""
        data = self.contents(self.layout.batch(number))
        return [item for item in batchfile.read_records(data, number) if isinstance(item, batchfile.Record)]

    def contents(self, path: str) -> bytes:
        """All bytes of a file of our own. Raises OSError (EFBIG) if it has more than such a file ever has."""
        descriptor = self.disk.open_to_read(path)
        try:
            size = self.disk.size(descriptor)
            if size > LARGEST_OWN:
                raise OSError(errno.EFBIG, f"it has {size} bytes; a sound one has at most {LARGEST_OWN}", path)
            return self.disk.read(descriptor, size, 0)
        finally:
            self.disk.close(descriptor)

    def reason_beside(self, ref: str) -> Variables:
        """The reason and the attempts of a dead task, if they are in a file of their own; else empty."""
        try:
            return decode_variables(self.contents(self.layout.path(reason_ref(ref))))
        except (OSError, BadPacket):
            return []

    def block_of(self, ref: str) -> bytes:
        """The variables of a spool file, encoded. Raises `Short` if they are not all there."""
        return self.block_at(Location(self.layout.path(ref)))

    def dated_block_of(self, ref: str) -> tuple[float, bytes]:
        """When a spool file was last changed (mtime), and its variables, encoded. Raises `Short` if they are not all there."""
        changed, front = self.disk.front(self.layout.path(ref), FRONT)
        return changed, self._block_in(ref, front)

    def front_of(self, ref: str) -> tuple[Progress, bytes]:
        """State, attempts and encoded variables of a spool file. Raises `Short` if they are not all there."""
        _, front = self.disk.front(self.layout.path(ref), FRONT)
        block = self._block_in(ref, front)  # if there is one, there is a header
        return Progress(front[STATE_AT], front[ATTEMPTS_AT]), block

    def _block_in(self, ref: str, front: bytes) -> bytes:
        end = HEADER.size + HEADER.unpack_from(front)[1] if len(front) >= HEADER.size else sys.maxsize
        return front[HEADER.size : end] if end <= len(front) else self.block_of(ref)

    def block_at(self, place: Location) -> bytes:
        """The variables of a task, encoded. Raises `Short` if they are not all there."""
        descriptor = self.disk.open_to_read(place.path)
        try:
            return self._block(descriptor, place)
        finally:
            self.disk.close(descriptor)

    def has_body(self, place: Location, size: int) -> bool:
        """Whether a body follows the variables of a task, which take `size` bytes."""
        length = place.length
        if length < 0:
            descriptor = self.disk.open_to_read(place.path)
            try:
                length = self.disk.size(descriptor) - place.base
            finally:
                self.disk.close(descriptor)
        return length > HEADER.size + size

    def variables_at(self, place: Location) -> Variables:
        """The variables of a task. Raises BadPacket if they cannot be read."""
        return decode_variables(self.block_at(place))

    def is_gone(self, ref: str) -> bool:
        """Whether a file below the spool is missing. One that we cannot look at may exist."""
        try:
            self.disk.stat(self.layout.path(ref))
        except FileNotFoundError:
            return True
        except OSError:
            pass
        return False

    def _block(self, descriptor: int, place: Location) -> bytes:
        header = self.disk.read(descriptor, HEADER.size, place.base)
        if len(header) < HEADER.size:
            raise spoolfile.Short(f"the file has {len(header)} bytes; a spool file has at least {HEADER.size}")
        size = HEADER.unpack(header)[1]
        block = self.disk.read(descriptor, size, place.base + HEADER.size)
        if len(block) < size:
            raise spoolfile.Short(f"the file ends after {len(block)} of {size} bytes of variables")
        return block


@dataclass
class Marker(Reader):
    """Sets bytes in the headers of tasks that its caller holds, which nothing else touches meanwhile."""

    disk: MarkingDisk

    def mark_own(self, number: int, offsets: Sequence[int], at: int = STATE_AT, value: int = FINISHED) -> None:
        """Sets a byte of many tasks of a batch that are with a link, so that nothing else, not even a worker, touches them."""
        descriptor = self.disk.open(self.layout.batch(number))
        try:
            start = min(offsets) - batchfile.RECORD_SIZE
            data = self.disk.read(descriptor, max(offsets) + HEADER.size - start, start)
            self.set_bytes(descriptor, data, start, offsets, at, value)
        finally:
            self.disk.close(descriptor)

    def set_bytes(self, descriptor: int, data: bytes, start: int, offsets: Iterable[int], at: int, value: int) -> None:
        """Sets byte `at` of tasks of a batch. `data` holds their payloads and the bytes before them, read from `start` on.

        Neighbours share one write: a call for each would be a quarter of the cost of sending.
        """
        changed = bytearray(data)
        first = last = following = -1
        for offset in sorted(offsets):
            place = offset - start
            if place != following and first >= 0:
                self.disk.write(descriptor, bytes(changed[first : last + 1]), start + first)
                first = -1
            last = place + at
            first = last if first < 0 else first
            changed[last] = value
            following = batchfile.payload_after(data, place)
        if first >= 0:
            self.disk.write(descriptor, bytes(changed[first : last + 1]), start + first)

    def set_attempts(self, header: Location, attempts: int) -> None:
        """Writes the number of attempts into this header."""
        self._poke([(header.path, header.base + ATTEMPTS_AT, min(attempts, spoolfile.MAX_ATTEMPTS))])

    def _poke(self, bytes_to_write: list[tuple[str, int, int]]) -> None:
        path, descriptor = "", -1
        try:
            for target, offset, value in bytes_to_write:
                if target != path:
                    if descriptor >= 0:
                        self.disk.close(descriptor)
                    path, descriptor = target, self.disk.open(target)
                self.disk.write(descriptor, bytes([value]), offset)
        finally:
            if descriptor >= 0:
                self.disk.close(descriptor)
