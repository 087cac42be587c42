"""Reads a node's directory at its start: everything, without silent repairs, and without forgetting anything.

It runs before the loop. A million tasks in batches take a few seconds; each further second logs a line of progress.
"""

import contextlib
import errno
import os
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.disk import layout as places
from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.spool import group_commit
from spoolnode.node.spool.clock import correct_times
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.reader import Reader
from spoolnode.node.spool.sequence import Received
from spoolnode.node.spool.store import Store, destination_of_variables, rank_of_variables
from spoolnode.node.spool.tasks import Batch, WaitingFile
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.forward import undress
from spoolnode.protocol.names import KEY, KEYED, LAST, REASON, RETRY, SPOOL_PREFIX, is_destination
from spoolnode.protocol.packet import HEADER, decode_variables
from spoolnode.protocol.spoolfile import VOID, WAITING
from spoolnode.protocol.unique import unique_key_in


class FoundOutbound(NamedTuple):
    """A task in a batch that waits for another node."""

    to: str
    offset: int
    rank: int
    number: int
    sent: bool
    """Whether it may have been sent."""


class Tried(NamedTuple):
    """A task in a batch that was tried before."""

    offset: int
    rank: int
    attempts: int
    said: bytes
    """Its variables, if they may say something about its attempts."""


@dataclass(slots=True)
class FoundBatch:
    """A batch with waiting tasks."""

    batch: Batch
    ready: dict[int, "array[int]"] = field(default_factory=dict)
    """By rank, oldest first."""
    later: list[tuple[float, int, int]] = field(default_factory=list)
    """Due time, offset, rank."""
    tried: list[Tried] = field(default_factory=list)
    outbound: list[FoundOutbound] = field(default_factory=list)
    functions: list[tuple[int, bytes | None]] = field(default_factory=list)
    """From which offset on its tasks are for which function, by name; None if the records do not say."""
    keys: list[tuple[int, bytes]] = field(default_factory=list)
    """The tasks for this node that have a key."""


@dataclass(slots=True)
class FoundFile:
    """A spool file."""

    ref: str
    mtime: float
    rank: int

    @property
    def order(self) -> tuple[float, int, str]:
        """The key for sorting, oldest first. Of one time, the names decide: 80 comes before 1000."""
        return self.mtime, len(self.ref), self.ref

    size: int
    changed: float = 0.0
    """When anything about it last changed."""
    key: bytes = b""
    """The fingerprint of its task's key, if that was read."""
    attempts: int = 0
    """How often it was tried, if that was read."""


class FoundOutboxFile(NamedTuple):
    """A file in outbox/."""

    ref: str
    sent: bool
    mtime: float
    """When it was accepted."""


@dataclass(slots=True)
class Found:
    """Everything that waits."""

    batches: list[FoundBatch] = field(default_factory=list)
    files: list[FoundFile] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    """Directories below the spool where files of tasks are, or were."""
    outbox: list[FoundOutboxFile] = field(default_factory=list)
    arrived: dict[str, WaitingFile] = field(default_factory=dict)
    """Large tasks in arriving/: where they will wait."""
    received: Received = field(default_factory=Received)
    """Numbers taken from other nodes: from their file, and proved by the tasks themselves."""
    last_number: int = 0
    """The highest number of a batch, including batches that cannot be read."""


@dataclass(slots=True)
class Proofs:
    """The sequence numbers that the records of batches prove."""

    received: Received
    seen: set[tuple[str, str, int]] = field(default_factory=set)


def recover(store: Store, now: float, report: Callable[..., None]) -> Found:
    """Reads the spool. `report(action, **details)` is called for everything that is worth a line in the log.

    Raises:
        BadConfig: a directory of the spool is a symbolic link.
        OSError: the spool directory itself, or a file that must not be forgotten, cannot be read.
    """
    prepare(store, report)
    try:
        store.disk.entries(store.layout.corrupt)
    except PermissionError as error:  # running tasks do not need it
        report("not_scanned", directory="corrupt", reason=error.strerror)
    for entry in store.disk.entries(store.layout.tmp):
        if not entry.is_directory:
            discard(store.disk, f"{store.layout.tmp}/{entry.name}")
    found = Found()
    found.files += spool_files(store, report, found.directories)
    found.outbox += _outbox_files(store, report)
    found.directories += [f"outbox/{entry.name}" for entry in store.disk.entries(store.layout.outbox) if entry.is_directory]
    found.directories += ["incoming", "arriving", "dead"]
    corrected = correct_times(store, found.files, now)
    for file in found.files:
        file.mtime = corrected.get(file.ref, file.mtime)
    found.received = _read_received(store, now, report)
    _drop_second_names(store, found, report)
    _read_keys(store, found.files)
    refs = [file.ref for file in found.files] + [file.ref for file in found.outbox]
    refs += [f"dead/{entry.name}" for entry in store.disk.entries(store.layout.dead) if places.is_spool_file(entry.name)]
    settled = _settled(store.node_id, refs)
    if settled:
        # Before the records that these files came from can go.
        _make_safe(store, sorted({store.layout.directory_of(ref) for ref in refs}), report)
    _find_arrived(store, found, now, report)
    _read_batches(store, found, settled, now, report)
    # The directories may be new, and batches may have been removed: tasks that now run and end rely on both.
    _make_safe(store, [store.layout.incoming, store.layout.root, os.path.dirname(store.layout.root)], report)
    return found


def prepare(store: Store, report: Callable[..., None]) -> None:
    """Makes every directory that a node needs. Anything else in such a place is moved aside."""
    layout = store.layout
    try:
        store.disk.make_directory(layout.root)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # The spool directory itself may be reached through a link: its lock is on the target.
    for path in (layout.corrupt, *layout.directories[1:]):
        try:
            make_own_directory(store.disk, path)
        except NotADirectoryError:
            name = os.path.basename(path)
            kept = f"{name}.{time.time_ns()}" if path == layout.corrupt else f"corrupt/{name}.{time.time_ns()}"
            store.disk.rename(path, layout.path(kept))
            report("quarantined", file=name, corrupt=kept, reason="it is not a directory")
            store.disk.make_directory(path)
    for name in ("control.sock", "spool.sock"):
        with contextlib.suppress(FileNotFoundError):
            entry = store.disk.stat(layout.path(name))
            if entry.is_directory or entry.is_file:
                move_aside(store, name, "it is not a socket", report)


def make_own_directory(disk: Disk, path: str) -> None:
    """Makes a directory. Raises BadConfig if a link is in its place, NotADirectoryError for anything else."""
    try:
        disk.make_directory(path)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadConfig(
            f"{path} is a symbolic link; it must be a directory (bind-mount one to have it elsewhere), "
            "because anyone who may change the link could decide what this node removes"
        ) from None


def move_aside(store: Store, ref: str, reason: str, report: Callable[..., None]) -> None:
    """Moves something to corrupt/, if the disk allows it."""
    try:
        report("quarantined", file=ref, corrupt=store.quarantine(ref), reason=reason)
    except OSError as error:
        report("move_failed", file=ref, reason=f"{reason}; it cannot be moved to corrupt/: {error}")


def _read_batches(store: Store, found: Found, settled: dict[int, set[int]], now: float, report: Callable[..., None]) -> None:
    proofs = Proofs(found.received)
    last_word = time.monotonic()
    entries = sorted(store.disk.entries(store.layout.incoming), key=lambda entry: (len(entry.name), entry.name))
    for index, entry in enumerate(entries):
        number = places.batch_number(entry.name)
        if number is None or not entry.is_file:
            continue
        found.last_number = max(found.last_number, number)
        try:
            batch = _read_batch(store, number, settled.get(number, set()), now, report, proofs)
        except OSError as error:
            report("move_failed", file=f"incoming/{entry.name}", reason=str(error), kept="until the next start")
            continue
        if batch is not None:
            found.batches.append(batch)
        if time.monotonic() - last_word > 1:
            last_word = time.monotonic()
            report("recovering", batches=index + 1, of=len(entries))
    found.batches.sort(key=lambda item: item.batch.accepted)


def _make_safe(store: Store, directories: list[str], report: Callable[..., None]) -> None:
    if not store.sync:
        return
    for path in directories:
        try:
            store.disk.sync_directory(path)
        except OSError as error:  # we may have no access to the one above the spool
            report("sync_failed", directory=path, reason=str(error))


def spool_files(
    reader: Reader, report: Callable[..., None] | None = None, directories: list[str] | None = None
) -> Iterator[FoundFile]:
    """Every spool file at the top and in the numeric directories (which may nest, as in uWSGI).

    A numeric directory that cannot be read is skipped and reported. Those that were read are added to `directories`.
    """
    pending = [("", LAST)]
    while pending:
        directory, rank = pending.pop()
        try:
            entries = reader.disk.entries(reader.layout.path(directory))
        except OSError as error:  # not readable, failing, or nested too deep for a path
            if not directory:
                raise
            if report is not None:
                report("not_scanned", directory=shown(directory), reason=error.strerror)
            continue
        if directories is not None:
            directories.append(directory.rstrip("/"))
        for entry in entries:
            ref = f"{directory}{entry.name}"
            if entry.is_file and places.is_spool_file(entry.name):
                yield FoundFile(ref, entry.mtime, rank, entry.size, entry.changed)
            elif entry.is_directory and places.is_priority(entry.name):
                pending.append((f"{ref}/", places.rank_of(f"{ref}/")))


def shown(name: str) -> str:
    """A name from outside, fit for a line of the log."""
    return ascii(name)[1:-1][:200]


def _outbox_files(reader: Reader, report: Callable[..., None]) -> Iterator[FoundOutboxFile]:
    for directory in reader.disk.entries(reader.layout.outbox):
        name = f"outbox/{directory.name}"
        if not directory.is_directory or not is_destination(directory.name):
            report("not_scanned", directory=shown(name), reason="it is not a directory with the name of a destination")
            continue
        try:
            entries = reader.disk.entries(reader.layout.path(name))
        except OSError as error:
            report("not_scanned", directory=name, reason=error.strerror)
            continue
        for entry in entries:
            if entry.is_file and places.is_spool_file(entry.name):
                ref = f"{name}/{entry.name}"
                try:
                    yield FoundOutboxFile(ref, IN_FILES.progress(reader, ref).attempts > 0, entry.mtime)
                except OSError as error:
                    report("unreadable", file=shown(ref), reason=error.strerror, kept="until the next start")


def _drop_second_names(store: Store, found: Found, report: Callable[..., None]) -> None:
    """A power cut in the middle of a move between two directories may leave a file in both; one of them is the task.

    A task that is both dead and waiting is dead: it was given up, and the removal of the other file was not yet safe (or a
    retry was asked for, and can be asked for again). But a file that was copied out of dead/ by hand runs.
    """
    dead = {places.ref_id(f"dead/{entry.name}"): f"dead/{entry.name}" for entry in store.disk.entries(store.layout.dead)}
    seen: set[str] = set()
    found.files = [file for file in found.files if not _is_second(store, file.ref, dead, seen, report)]
    seen = {places.ref_id(file.ref) for file in found.files}
    found.outbox = [file for file in found.outbox if not _is_second(store, file.ref, dead, seen, report)]


def _is_second(store: Store, ref: str, dead: dict[str, str], seen: set[str], report: Callable[..., None]) -> bool:
    """Whether a file is the second one of a task. If so, removes it."""
    identity = places.ref_id(ref)
    is_dead = identity in dead and _has_reason(store, dead[identity]) and not _has_reason(store, ref)
    if not is_dead and identity not in seen:
        if places.is_outbound(ref):
            seen.add(identity)
        return False
    try:
        store.disk.unlink(store.layout.path(ref))
        if store.sync:
            store.disk.sync_directory(store.layout.directory_of(ref))
    except OSError as error:
        report("move_failed", move="drop a second name", file=shown(ref), reason=str(error))
    return True


def _has_reason(store: Store, ref: str) -> bool:
    """Whether a file says why it is dead; one that was copied out of dead/ by hand does so, too."""
    try:
        return REASON in dict(decode_variables(store.block_of(ref))) or (places.is_dead(ref) and bool(store.reason_beside(ref)))
    except (OSError, BadPacket):
        return False


def _read_keys(reader: Reader, files: list[FoundFile]) -> None:
    """Reads the keys and the attempts of this node's own tasks, and of those whose names say that they have a key.

    To read every file of a large directory that a uWSGI left would take as long as all the rest.
    """
    for file in files:
        identity = places.ref_id(file.ref)
        if identity.startswith(f"{reader.node_id}_") or identity.endswith(KEYED):
            with contextlib.suppress(OSError, BadPacket):  # a worker will judge it
                progress, block = reader.front_of(file.ref)
                file.key, file.attempts = unique_key_in(block), progress.attempts


_NO_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ESPIPE, errno.ENODEV, errno.EFBIG)
"""Errors of opening or reading something that is not a regular file, or much larger than any of ours."""


def read_small(store: Store, path: str, report: Callable[..., None]) -> bytes | None:
    """The contents of one of our own small files; None if it does not exist. Anything that is not such a file is moved aside.

    Raises OSError if it cannot be read now: its contents must not be forgotten.
    """
    try:
        return store.contents(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NO_FILE:
            raise
        move_aside(store, os.path.basename(path), f"it is not a file of ours: {error.strerror}", report)
        return None


def _read_received(store: Store, now: float, report: Callable[..., None]) -> Received:
    """The numbers taken. Without them a task whose answer was under way may be taken twice, so a loss is reported."""
    data = read_small(store, store.layout.taken, report)
    if data is None:
        return Received()
    try:
        return Received.decode(data, now)
    except BadPacket as error:
        move_aside(store, "taken", f"{error}; a task that was on its way here may be taken twice", report)
        return Received()


def _find_arrived(store: Store, found: Found, now: float, report: Callable[..., None]) -> None:
    """Finds large tasks from peers. Their numbers are taken, and safe before the tasks leave the place that proves them."""
    known = {places.ref_id(file.ref) for file in found.files}
    for entry in store.disk.entries(store.layout.arriving):
        ref = f"arriving/{entry.name}"
        if not entry.is_file or not places.is_spool_file(entry.name):
            report("not_scanned", file=shown(ref), reason="it is not a spool file")
            continue
        try:
            block = store.block_of(ref)
            came = _came(block)
            rank = rank_of_variables(decode_variables(block))
        except BadPacket as error:
            move_aside(store, ref, str(error), report)
            continue
        except OSError as error:
            report("unreadable", file=shown(ref), reason=error.strerror, kept="until the next start")
            continue
        if came is not None:
            found.received.take(came[:2], came[2])
        if places.ref_id(ref) in known:
            _drop_arrived(store, ref, found.received, report)  # it was under both names
        else:
            final = places.waiting_ref(places.ref_id(ref), rank)
            due = entry.mtime if entry.mtime > now else 0.0
            found.arrived[ref] = WaitingFile(final, due, unique_key_in(block))


def _drop_arrived(store: Store, ref: str, received: Received, report: Callable[..., None]) -> None:
    try:
        store.replace(store.layout.taken, received.encode())
        store.disk.unlink(store.layout.path(ref))
    except OSError as error:
        report("move_failed", move="drop a second name", file=shown(ref), reason=str(error))


def _came(block: bytes) -> tuple[str, str, int, int] | None:
    """Where a task came from; None if it does not say so in a link's way."""
    try:
        return undress(block)
    except Refused:
        return None


def _settled(node_id: str, refs: list[str]) -> dict[int, set[int]]:
    """The records that already have a file of their own, here or in dead/: a crash came before they were marked."""
    settled: dict[int, set[int]] = {}
    prefix = f"{SPOOL_PREFIX}{node_id}_"
    for ref in refs:
        name = SPOOL_PREFIX + places.ref_id(ref)
        number, _, offset = name[len(prefix) :].partition("_")
        if name.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            settled.setdefault(int(number), set()).add(int(offset))
    return settled


def _read_batch(
    store: Store, number: int, settled: set[int], now: float, report: Callable[..., None], proofs: Proofs
) -> FoundBatch | None:
    data = _batch_data(store, number, report)
    if data is None:
        return None
    if len(data) < group_commit.BATCH_SIZE:
        reason = f"it was cut short: it has {len(data)} of {group_commit.BATCH_SIZE} bytes"
        report("quarantined", file=f"incoming/{number}.batch", reason=reason, kept="a copy; the whole tasks in it go on")
        store.keep_damage(number, len(data), data)
    found = FoundBatch(Batch(number, closed=True, closed_at=float("-inf")))
    moved: set[int] = set()
    again: set[int] = set()
    has_keys = KEY in data
    for item in batchfile.read_records(data, number):
        if isinstance(item, batchfile.Damage) or _is_odd(data, item):
            start, end = item if isinstance(item, batchfile.Damage) else (item.offset, item.offset + item.length)
            report("quarantined", file=f"incoming/{number}.batch", start=start, end=end, reason="damaged records")
            store.keep_damage(number, start, data[start:end])
            continue
        found.batch.arrived |= item.kind == batchfile.ARRIVED
        if item.kind == batchfile.ARRIVED and item.state != VOID and _is_repeat(data, item, proofs):
            again.add(item.offset)
        elif item.state == WAITING and item.offset in settled:
            moved.add(item.offset)
        elif item.state == WAITING:
            _sort_in(found, item, now, data)
            if has_keys and item.kind != batchfile.OUTBOUND and (key := unique_key_in(_block_at(data, item))):
                found.keys.append((item.offset, key))
    if not found.batch.live:
        if found.batch.arrived:
            store.replace(store.layout.taken, proofs.received.encode())
        store.remove_batch(number)
        return None
    if moved or again:
        _mark_moved(store, found.batch, moved, again, report)
    return found


def _batch_data(store: Store, number: int, report: Callable[..., None]) -> bytes | None:
    """The bytes of a batch; None if we cannot read it."""
    try:
        data = store.contents(store.layout.batch(number))
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        move_aside(store, f"incoming/{number}.batch", f"it is not a batch: {error.strerror}", report)
        return None
    try:
        written = batchfile.read_header(data)
        if written != number:
            raise BadPacket(f"the batch says it is number {written}")
    except BadPacket as error:
        if data.startswith(batchfile.MAGIC) and not data.startswith(batchfile.BEGINNINGS):
            report("not_scanned", file=f"incoming/{number}.batch", reason=str(error), kept="for the version that wrote it")
        elif data.strip(b"\0") or len(data) < group_commit.BATCH_SIZE:
            report("quarantined", file=f"incoming/{number}.batch", reason=str(error))
            store.quarantine(f"incoming/{number}.batch")
        else:
            store.remove_batch(number)  # an earlier version made it ahead of its tasks
        return None
    return data


def _is_odd(data: bytes, record: batchfile.Record) -> bool:
    """Whether a whole record does not hold a task: no node wrote it."""
    if record.kind == batchfile.HERE:
        return False  # a worker will judge it
    try:
        said = decode_variables(_block_at(data, record))
    except BadPacket:
        return True
    return record.kind == batchfile.OUTBOUND and not is_destination(destination_of_variables(said))


def _is_repeat(data: bytes, record: batchfile.Record, proofs: Proofs) -> bool:
    """Whether a waiting record repeats another one.

    A failing disk refused it, it was sent again and stored elsewhere, and the mark that disowns the first one was lost.
    """
    came = _came(_block_at(data, record))
    if came is None:
        return False
    number = (*came[:2], came[2])
    is_repeat = number in proofs.seen and record.state == WAITING
    proofs.seen.add(number)
    proofs.received.take(came[:2], came[2])
    return is_repeat


def _block_at(data: bytes, record: batchfile.Record) -> bytes:
    start = record.offset + HEADER.size
    return data[start : start + HEADER.unpack_from(data, record.offset)[1]]


def _mark_moved(store: Store, batch: Batch, moved: set[int], again: set[int], report: Callable[..., None]) -> None:
    """Marks records that have files of their own, and makes that safe before one of these files can be done and gone."""
    batch.void |= moved | again
    batch.refused |= again
    try:
        store.mark(batch.number, moved)
        store.mark(batch.number, again, VOID)
        if store.sync:
            store.sync_marks([batch.number], [])
    except OSError as error:
        report("move_failed", move="mark", batch=batch.number, reason=str(error))


def _sort_in(found: FoundBatch, record: batchfile.Record, now: float, data: bytes) -> None:
    found.batch.live += 1
    found.batch.accepted = found.batch.accepted or record.accepted
    if not found.functions or found.functions[-1][1] != record.function:
        found.functions.append((record.offset, record.function))
    if record.kind == batchfile.OUTBOUND:
        to = destination_of_variables(decode_variables(_block_at(data, record)))
        found.outbound.append(FoundOutbound(to, record.offset, record.rank, record.number, record.attempts > 0))
        found.batch.outbound.append(record.offset)
        found.batch.numbers.append(record.number)
    elif record.attempts:
        block = _block_at(data, record)
        found.tried.append(Tried(record.offset, record.rank, record.attempts, block if RETRY in block else b""))
    elif record.due > now:
        found.later.append((record.due, record.offset, record.rank))
    else:
        if record.rank not in found.ready:
            found.ready[record.rank] = array("I")
        found.ready[record.rank].append(record.offset)
