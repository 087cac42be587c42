"""What a node finds in its directory when it starts: reads it all, repairs nothing silently, forgets nothing.

Runs before the loop. A million tasks in batches take a few seconds; a line of progress is logged for each further second.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from spoolnode.node import layout as places
from spoolnode.node.disk import discard
from spoolnode.node.intake import Batch
from spoolnode.node.keeper import Keeper, destination_of_variables
from spoolnode.node.numbers import Taken
from spoolnode.node.parcel import undress
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST, SPOOL_PREFIX
from spoolnode.protocol.packet import HEADER, decode_variables
from spoolnode.protocol.spoolfile import VOID, WAITING

_KNOWN_VERSIONS = tuple(batchfile.MAGIC + version.to_bytes(2, "little") for version in batchfile.VERSIONS)


class FoundOutbound(NamedTuple):
    """A task in a batch that waits for another node."""

    to: str
    offset: int
    rank: int
    number: int
    sent: bool
    """It may have been sent."""


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
    outbound: list[FoundOutbound] = field(default_factory=list)


@dataclass(slots=True)
class FoundFile:
    """A spool file."""

    ref: str
    mtime: float
    rank: int


class FoundOutboxFile(NamedTuple):
    """A file in outbox/."""

    ref: str
    sent: bool


@dataclass(slots=True)
class Found:
    """Everything that waits."""

    batches: list[FoundBatch] = field(default_factory=list)
    files: list[FoundFile] = field(default_factory=list)
    outbox: list[FoundOutboxFile] = field(default_factory=list)
    taken: Taken = field(default_factory=Taken)
    """Numbers taken from other nodes: the file of them, and what the tasks themselves prove."""
    last_number: int = 0
    """The highest number of a batch, also of one that cannot be read."""


@dataclass(slots=True)
class Proofs:
    """What the records of batches say of link numbers."""

    taken: Taken
    seen: set[tuple[str, str, int]] = field(default_factory=set)


def recover(keeper: Keeper, now: float, report: Callable[..., None]) -> Found:
    """Reads the spool. `report(action, **details)` hears what is worth a line in the log."""
    for path in keeper.layout.directories:
        keeper.disk.make_directory(path)
    for entry in keeper.disk.entries(keeper.layout.tmp):
        if not entry.is_directory:
            discard(keeper.disk, f"{keeper.layout.tmp}/{entry.name}")
    found = Found(files=list(spool_files(keeper, report)), outbox=list(_outbox_files(keeper)), taken=_read_taken(keeper))
    _drop_second_names(keeper, found)
    refs = [file.ref for file in found.files] + [file.ref for file in found.outbox]
    refs += [f"dead/{entry.name}" for entry in keeper.disk.entries(keeper.layout.dead) if places.is_spool_file(entry.name)]
    settled = _settled(keeper.node_id, refs)
    if settled:
        # Before the records that these files came from can go.
        _make_safe(keeper, sorted({keeper.layout.directory_of(ref) for ref in refs}), report)
    proofs = Proofs(found.taken)
    last_word = time.monotonic()
    entries = sorted(keeper.disk.entries(keeper.layout.incoming), key=lambda entry: (len(entry.name), entry.name))
    for index, entry in enumerate(entries):
        number = places.batch_number(entry.name)
        if number is None or not entry.is_file:
            continue
        found.last_number = max(found.last_number, number)
        try:
            batch = _read_batch(keeper, number, settled.get(number, set()), now, report, proofs)
        except OSError as error:
            report("move_failed", file=f"incoming/{entry.name}", reason=str(error), kept="until the next start")
            continue
        if batch is not None:
            found.batches.append(batch)
        if time.monotonic() - last_word > 1:
            last_word = time.monotonic()
            report("recovering", batches=index + 1, of=len(entries))
    found.batches.sort(key=lambda item: item.batch.accepted)
    _publish_arrived(keeper, found)
    # The directories may be new, and batches may have been removed: what now runs and ends relies on both.
    _make_safe(keeper, [keeper.layout.incoming, keeper.layout.root, os.path.dirname(keeper.layout.root)], report)
    return found


def _make_safe(keeper: Keeper, directories: list[str], report: Callable[..., None]) -> None:
    if not keeper.sync:
        return
    for path in directories:
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


def _outbox_files(keeper: Keeper) -> Iterator[FoundOutboxFile]:
    for directory in keeper.disk.entries(keeper.layout.outbox):
        if not directory.is_directory:
            continue
        for entry in keeper.disk.entries(f"{keeper.layout.outbox}/{directory.name}"):
            if entry.is_file and places.is_spool_file(entry.name):
                ref = f"outbox/{directory.name}/{entry.name}"
                yield FoundOutboxFile(ref, sent=keeper.progress(None, ref).attempts > 0)


def _drop_second_names(keeper: Keeper, found: Found) -> None:
    """A power cut in the middle of a move between two directories may leave a file in both; one of them is the task."""
    seen = {places.ref_id(file.ref) for file in found.files}
    kept = []
    for file in found.outbox:
        identity = places.ref_id(file.ref)
        if identity in seen:
            keeper.disk.unlink(keeper.layout.path(file.ref))
            if keeper.sync:
                keeper.disk.sync_directory(keeper.layout.directory_of(file.ref))
        else:
            seen.add(identity)
            kept.append(file)
    found.outbox = kept


def _read_taken(keeper: Keeper) -> Taken:
    """Raises `BadPacket` when the file is there and cannot be read: without it tasks would be taken twice."""
    try:
        return Taken.decode(keeper.contents(keeper.layout.taken))
    except FileNotFoundError:
        return Taken()


def _publish_arrived(keeper: Keeper, found: Found) -> None:
    """Large tasks from peers: their numbers are taken, and safely so before they lose the place that proves it."""
    entries = [entry for entry in keeper.disk.entries(keeper.layout.arriving) if entry.is_file]
    for entry in entries:
        came = undress(keeper.block_of(f"arriving/{entry.name}"))
        if came is not None:
            found.taken.take(came[:2], came[2])
    if entries:
        keeper.replace(keeper.layout.taken, found.taken.encode())
    known = {file.ref for file in found.files}
    for entry in entries:
        ref = keeper.publish(f"arriving/{entry.name}")
        if ref in known:
            continue  # it was there under both names
        found.files.append(FoundFile(ref, keeper.disk.stat(keeper.layout.path(ref)).mtime, places.rank_of(ref)))


def _settled(node_id: str, refs: list[str]) -> dict[int, set[int]]:
    """The records that already have a file of their own, here or in dead/: the crash came before they were marked."""
    settled: dict[int, set[int]] = {}
    prefix = f"{SPOOL_PREFIX}{node_id}_"
    for ref in refs:
        name = SPOOL_PREFIX + places.ref_id(ref)
        number, _, offset = name[len(prefix) :].partition("_")
        if name.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            settled.setdefault(int(number), set()).add(int(offset))
    return settled


def _read_batch(
    keeper: Keeper, number: int, settled: set[int], now: float, report: Callable[..., None], proofs: Proofs
) -> FoundBatch | None:
    data = _batch_data(keeper, number, report)
    if data is None:
        return None
    found = FoundBatch(Batch(number, closed=True, closed_at=float("-inf")))
    moved: set[int] = set()
    again: set[int] = set()
    for item in batchfile.read_records(data, number):
        if isinstance(item, batchfile.Damage):
            report("quarantined", file=f"incoming/{number}.batch", start=item.start, end=item.end, reason="damaged records")
            keeper.keep_damage(number, item.start, data[item.start : item.end])
            continue
        found.batch.arrived |= item.kind == batchfile.ARRIVED
        if item.kind == batchfile.ARRIVED and item.state != VOID and _is_repeat(data, item, proofs):
            again.add(item.offset)
        elif item.state == WAITING and item.offset in settled:
            moved.add(item.offset)
        elif item.state == WAITING:
            _sort_in(found, item, now, data)
    if not found.batch.live:
        if found.batch.arrived:
            keeper.replace(keeper.layout.taken, proofs.taken.encode())
        keeper.remove_batch(number)
        return None
    if moved or again:
        _mark_moved(keeper, found.batch, moved, again, report)
    return found


def _batch_data(keeper: Keeper, number: int, report: Callable[..., None]) -> bytes | None:
    """The bytes of a batch; None when it is none that we can read."""
    data = keeper.contents(keeper.layout.batch(number))
    try:
        written = batchfile.read_header(data)
        if written != number:
            raise BadPacket(f"the batch says it is number {written}")
    except BadPacket as error:
        if data.startswith(batchfile.MAGIC) and not data.startswith(_KNOWN_VERSIONS):
            report("not_scanned", file=f"incoming/{number}.batch", reason=str(error), kept="for the version that wrote it")
        elif data.strip(b"\0"):
            report("quarantined", file=f"incoming/{number}.batch", reason=str(error))
            keeper.quarantine(f"incoming/{number}.batch")
        else:
            keeper.remove_batch(number)  # made, and never written: the power went first
        return None
    return data


def _is_repeat(data: bytes, record: batchfile.Record, proofs: Proofs) -> bool:
    """Whether a waiting record repeats another one.

    It was refused by a failing disk, sent again, and stored elsewhere; and the mark that disowns it was lost.
    """
    came = undress(_block_at(data, record))
    if came is None:
        return False
    number = (*came[:2], came[2])
    is_repeat = number in proofs.seen and record.state == WAITING
    proofs.seen.add(number)
    proofs.taken.take(came[:2], came[2])
    return is_repeat


def _block_at(data: bytes, record: batchfile.Record) -> bytes:
    start = record.offset + HEADER.size
    return data[start : start + HEADER.unpack_from(data, record.offset)[1]]


def _mark_moved(keeper: Keeper, batch: Batch, moved: set[int], again: set[int], report: Callable[..., None]) -> None:
    """Records that have files are no tasks any more; safely so before one of these files can be done and gone."""
    batch.void |= moved | again
    batch.refused |= again
    try:
        keeper.mark(batch.number, moved)
        keeper.mark(batch.number, again, VOID)
        if keeper.sync:
            keeper.sync_marks([batch.number], [])
    except OSError as error:
        report("move_failed", move="mark", batch=batch.number, reason=str(error))


def _sort_in(found: FoundBatch, record: batchfile.Record, now: float, data: bytes) -> None:
    found.batch.live += 1
    found.batch.accepted = found.batch.accepted or record.accepted
    if record.kind == batchfile.OUTBOUND:
        to = destination_of_variables(decode_variables(_block_at(data, record)))
        found.outbound.append(FoundOutbound(to, record.offset, record.rank, record.number, record.attempts > 0))
        found.batch.outbound.append(record.offset)
        found.batch.numbers.append(record.number)
    elif record.attempts:
        found.tried.append((record.offset, record.rank, record.attempts))
    elif record.due > now:
        found.later.append((record.due, record.offset, record.rank))
    else:
        if record.rank not in found.ready:
            found.ready[record.rank] = array("I")
        found.ready[record.rank].append(record.offset)
