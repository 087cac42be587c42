"""What a node finds in its directory when it starts: reads it all, repairs nothing silently, forgets nothing.

Runs before the loop. A million tasks in batches take a few seconds; a line of progress is logged for each further second.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from spoolnode.node import layout as places
from spoolnode.node.disk import discard
from spoolnode.node.intake import Batch
from spoolnode.node.keeper import Keeper
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST, SPOOL_PREFIX
from spoolnode.protocol.spoolfile import WAITING

_THIS_VERSION = batchfile.MAGIC + batchfile.VERSION.to_bytes(2, "little")


@dataclass(slots=True)
class FoundBatch:
    """A batch with tasks that wait."""

    batch: Batch
    ready: dict[int, "array[int]"] = field(default_factory=dict)
    """By rank, oldest first."""
    later: list[tuple[float, int, int]] = field(default_factory=list)
    """Due time, offset, rank."""
    tried: list[tuple[int, int, int]] = field(default_factory=list)
    """Offset, rank, attempts of the tasks that were tried before."""


@dataclass(slots=True)
class FoundFile:
    """A spool file."""

    ref: str
    mtime: float
    rank: int


@dataclass(slots=True)
class Found:
    """Everything that waits."""

    batches: list[FoundBatch] = field(default_factory=list)
    files: list[FoundFile] = field(default_factory=list)
    last_number: int = 0
    """The highest number of a batch, also of one that cannot be read."""


def recover(keeper: Keeper, now: float, report: Callable[..., None]) -> Found:
    """Reads the spool. `report(action, **details)` hears what is worth a line in the log."""
    for path in keeper.layout.directories:
        keeper.disk.make_directory(path)
    for entry in keeper.disk.entries(keeper.layout.tmp):
        if not entry.is_directory:
            discard(keeper.disk, f"{keeper.layout.tmp}/{entry.name}")
    found = Found(files=list(spool_files(keeper, report)))
    settled = _settled(keeper.node_id, found.files)
    last_word = time.monotonic()
    entries = sorted(keeper.disk.entries(keeper.layout.incoming), key=lambda entry: (len(entry.name), entry.name))
    for index, entry in enumerate(entries):
        number = places.batch_number(entry.name)
        if number is None or not entry.is_file:
            continue
        found.last_number = max(found.last_number, number)
        try:
            batch = _read_batch(keeper, number, settled.get(number, set()), now, report)
        except OSError as error:
            report("move_failed", file=f"incoming/{entry.name}", reason=str(error), kept="until the next start")
            continue
        if batch is not None:
            found.batches.append(batch)
        if time.monotonic() - last_word > 1:
            last_word = time.monotonic()
            report("recovering", batches=index + 1, of=len(entries))
    found.batches.sort(key=lambda item: item.batch.accepted)
    _make_safe(keeper, report)
    return found


def _make_safe(keeper: Keeper, report: Callable[..., None]) -> None:
    """The directories may be new, and batches may have been removed: what now runs and ends relies on both."""
    if not keeper.sync:
        return
    for path in (keeper.layout.incoming, keeper.layout.root, os.path.dirname(keeper.layout.root)):
        try:
            keeper.disk.sync_directory(path)
        except OSError as error:  # the one above the spool may be closed to us
            report("sync_failed", directory=path, reason=str(error))


def spool_files(keeper: Keeper, report: Callable[..., None] | None = None) -> Iterator[FoundFile]:
    """Every spool file at the top and in the numeric directories (which may nest, as in uWSGI).

    A numeric directory that is closed to us is passed over, and reported.
    """
    pending = [("", LAST)]
    while pending:
        directory, rank = pending.pop()
        try:
            entries = keeper.disk.entries(keeper.layout.path(directory))
        except PermissionError as error:
            if not directory:
                raise
            if report is not None:
                report("not_scanned", directory=directory, reason=str(error))
            continue
        for entry in entries:
            ref = f"{directory}{entry.name}"
            if entry.is_file and places.is_spool_file(entry.name):
                yield FoundFile(ref, entry.mtime, rank)
            elif entry.is_directory and places.is_priority(entry.name):
                pending.append((f"{ref}/", places.rank_of(f"{ref}/")))


def _settled(node_id: str, files: list[FoundFile]) -> dict[int, set[int]]:
    """The records that already have a file of their own: the crash came before they were marked."""
    settled: dict[int, set[int]] = {}
    prefix = f"{SPOOL_PREFIX}{node_id}_"
    for file in files:
        name = file.ref.rpartition("/")[2]
        number, _, offset = name[len(prefix) :].partition("_")
        if name.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            settled.setdefault(int(number), set()).add(int(offset))
    return settled


def _read_batch(keeper: Keeper, number: int, settled: set[int], now: float, report: Callable[..., None]) -> FoundBatch | None:
    data = keeper.contents(keeper.layout.batch(number))
    try:
        written = batchfile.read_header(data)
        if written != number:
            raise BadPacket(f"the batch says it is number {written}")
    except BadPacket as error:
        if data.startswith(batchfile.MAGIC) and not data.startswith(_THIS_VERSION):
            report("not_scanned", file=f"incoming/{number}.batch", reason=str(error), kept="for the version that wrote it")
        elif data.strip(b"\0"):
            report("quarantined", file=f"incoming/{number}.batch", reason=str(error))
            keeper.quarantine(f"incoming/{number}.batch")
        else:
            keeper.remove_batch(number)  # made, and never written: the power went first
        return None
    found = FoundBatch(Batch(number, closed=True, closed_at=float("-inf")))
    moved: set[int] = set()
    for item in batchfile.read_records(data, number):
        if isinstance(item, batchfile.Damage):
            report("quarantined", file=f"incoming/{number}.batch", start=item.start, end=item.end, reason="damaged records")
            keeper.keep_damage(number, item.start, data[item.start : item.end])
        elif item.state != WAITING:
            continue
        elif item.offset in settled:
            moved.add(item.offset)
        else:
            _sort_in(found, item, now)
    if not found.batch.live:
        keeper.remove_batch(number)
        return None
    if moved:
        _mark_moved(keeper, found.batch, moved, report)
    return found


def _mark_moved(keeper: Keeper, batch: Batch, moved: set[int], report: Callable[..., None]) -> None:
    """Records that have files are no tasks any more; safely so before one of these files can be done and gone."""
    batch.void.update(moved)
    try:
        keeper.mark(batch.number, moved)
        if keeper.sync:
            keeper.sync_marks([batch.number], [])
    except OSError as error:
        report("move_failed", move="mark", batch=batch.number, reason=str(error))


def _sort_in(found: FoundBatch, record: batchfile.Record, now: float) -> None:
    found.batch.live += 1
    found.batch.accepted = found.batch.accepted or record.accepted
    if record.attempts:
        found.tried.append((record.offset, record.rank, record.attempts))
    elif record.due > now:
        found.later.append((record.due, record.offset, record.rank))
    else:
        if record.rank not in found.ready:
            found.ready[record.rank] = array("I")
        found.ready[record.rank].append(record.offset)
