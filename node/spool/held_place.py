"""Where the tasks of a common store lie that this node holds: those of one take in one batch, those with bodies in files.

All of it is in tmp/ and promises nothing, because the store has the task: it is never synced, and the next start sweeps it. A
task in a batch keeps the ref that it would have as a file. Its spot is a text, too: see `layout.spot_of`.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.layout import Layout, Spot, held_batch, spot_of
from spoolnode.node.spool.place import InFiles
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.reader import Location, Marker, Reader
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import names
from spoolnode.protocol.packet import HEADER
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, MAX_ATTEMPTS


class HeldTask(NamedTuple):
    """A task that was taken, without its body."""

    id: str
    block: bytes
    """Its variables, encoded."""
    rank: int
    attempts: int
    ready_at: float
    """When it could have run first, in seconds since 1970."""

    @property
    def ref(self) -> str:
        """The path of its file below the spool."""
        return f"tmp/{names.file_name(self.id)}"


def location_at(layout: Layout, spot: str) -> Location | None:
    """Where a task's header is, from the text of its spot; None if that is the path of a file."""
    found = spot_of(spot)
    return None if found is None else Location(layout.path(found.batch), found.offset, HEADER.size)


def encode_held(number: int, tasks: Sequence[HeldTask]) -> tuple[bytes, dict[str, str]]:
    """The batch of a take: its bytes, and the spot of each task by its ref."""
    seed, now, path = batchfile.seed_of(number, 0), time.time(), held_batch(number)
    data, spots = bytearray(batchfile.encode_header(number)), {}
    for task in tasks:
        ready = min(task.ready_at, now)
        offset = len(data) + batchfile.RECORD_SIZE
        data += batchfile.encode_record(seed, task.block, b"", names.accepted_in(task.id) or ready, ready)
        data[offset + ATTEMPTS_AT] = min(task.attempts, MAX_ATTEMPTS)
        spots[task.ref] = str(Spot(path, offset, names.file_name(task.id)))
    return bytes(data), spots


@dataclass(frozen=True, slots=True)
class HeldPlace(InFiles):
    """A record of a batch, or a file. When a task has ended, where it is then is the store's business."""

    keeps_times: ClassVar = False
    spots: dict[Ref, str] = field(default_factory=dict, compare=False)
    """Of the tasks in batches. The loop alone changes it, and not for a task in flight, so that its holder may look."""

    def where(self, ref: Ref) -> str:
        return self.spots.get(ref, str(ref))

    def header(self, layout: Layout, ref: Ref) -> Location:
        return location_at(layout, self.where(ref)) or InFiles.header(self, layout, ref)

    def whole(self, reader: Reader, ref: Ref) -> Location:
        at = location_at(reader.layout, self.where(ref))
        return reader.record(at.path, at.base) if at else InFiles.whole(self, reader, ref)

    def ended(self, reader: Reader, refs: Iterable[Ref]) -> set[Ref]:
        in_batches: dict[str, dict[int, Ref]] = {}
        in_files = []
        for ref in refs:
            if at := location_at(reader.layout, self.where(ref)):
                in_batches.setdefault(at.path, {})[at.base] = ref
            else:
                in_files.append(ref)
        return InFiles.ended(self, reader, in_files).union(*(_finished(reader, path, at) for path, at in in_batches.items()))

    def set_attempts(self, marker: Marker, ref: Ref, attempts: int) -> None:
        if ref in self.spots:
            marker.set_attempts(self.header(marker.layout, ref), attempts)
        else:
            InFiles.set_attempts(self, marker, ref, attempts)

    def put_off(self, store: Store, ref: Ref, due: float) -> float:  # noqa: ARG002  # the store keeps the time
        return due

    def take_over(self, store: Store, ref: Ref) -> None:
        if ref in self.spots:
            raise PermissionError(f"{self.where(ref)} is ours already")
        InFiles.take_over(self, store, ref)

    def keep_unreadable(self, store: Store, ref: Ref) -> str:
        if ref not in self.spots:
            return InFiles.keep_unreadable(self, store, ref)
        path, offset, length = self.whole(store, ref)
        return store.keep_copy(os.path.basename(str(ref)), store.contents(path)[offset : offset + length])

    def bury(self, store: Store, ref: Ref, reason: str, attempts: int) -> None:  # noqa: ARG002  # the source tells the reason
        if ref not in self.spots:
            discard(store.disk, store.layout.path(str(ref)))

    def hand_over(self, store: Store, targets: dict[Ref, str]) -> dict[Ref, str]:  # noqa: ARG002  # none may go
        return {}


def _finished(reader: Reader, path: str, refs: dict[int, Ref]) -> set[Ref]:
    """The tasks at these offsets of a batch that have ended well."""
    try:
        found = reader.progresses(path, refs)
    except OSError:
        return set()
    return {refs[offset] for offset, progress in found.items() if progress.state == FINISHED}
