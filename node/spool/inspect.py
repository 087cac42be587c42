"""Looks at a spool directory: where tasks are, and one task's contents. Only reads; works with and without a running node."""

import heapq
import math
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from spoolnode.node.disk.disk import Entry
from spoolnode.node.disk.layout import batch_number, destination_of, is_spool_file, number_of, ref_id
from spoolnode.node.spool.held_place import location_at
from spoolnode.node.spool.place import IN_FILES, InBatch, place_at
from spoolnode.node.spool.reader import Location, Reader
from spoolnode.node.spool.recovery import spool_files
from spoolnode.node.spool.store import destination_of_variables
from spoolnode.protocol import names, spoolfile, values
from spoolnode.protocol.batch import OUTBOUND, RECORD_SIZE, Record, accepted_time, read_records
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST
from spoolnode.protocol.packet import HEADER, Variables, decode_variables
from spoolnode.protocol.spoolfile import WAITING

T = TypeVar("T")

WAITING_STATE, LATER, DEAD, OUTBOX = "waiting", "later", "dead", "outbox"
ENDED = "ended"
"""Of a task that has left this node; only its story is left."""
UNKNOWN = "unknown"
"""Of a task that has left this directory, and whose story there has no end: a common store may have it."""
SORTED_AT_ONCE = 2_000
"""Tasks that are sorted without a pause for other threads: about three milliseconds."""
UNREAD = -1
"""In place of the attempts of a file that was listed but not opened: of fifty thousand, people look at a hundred."""


class Info(NamedTuple):
    """One task, as `ls` shows it."""

    id: str
    state: str
    priority: int | None
    due: float | None
    """Seconds since 1970; None means at once."""
    attempts: int
    """The number of attempts; in the outbox, 1 if it may have been sent. `UNREAD` until `with_attempts`."""
    accepted: float | None
    """Seconds since 1970; None if unknown: the file is from elsewhere, and its mtime says when it is due."""
    changed: float
    """When it was put where it is, in seconds since 1970: accepted, put off, or given up."""
    size: int
    """Bytes: header, variables and body."""
    where: str
    """Path below the spool; a record of a batch as path:offset, with its name behind it if it is of a common store."""
    destination: str | None = None
    """The destination that a task in the outbox waits for..."""
    sequence_number: int | None = None
    """...and its sequence number on the link there."""


class Order(NamedTuple):
    """The place of a task among others: they run in this order. Of two tasks, one is always before the other."""

    is_later: bool
    rank: int
    when: float
    """When it is due, or was accepted or given up; seconds since 1970."""
    id: str


def waiting_tasks(reader: Reader, now: float) -> Iterator[Info]:
    """Every task that waits for this node's workers or is running, in no order."""
    yield from _waiting_files(reader, now)
    yield from batch_tasks(reader, now)


def batch_tasks(reader: Reader, now: float) -> Iterator[Info]:
    """The tasks of `waiting_tasks` that are in batches."""
    return (info for info in all_in_batches(reader, now) if info.state != OUTBOX)


def dead_tasks(reader: Reader, now: float, first: int = 0, after: Order | None = None) -> Iterator[Info]:
    """Every task that was given up. With `first`, only the first so many to be given up, without a look at the others.

    `after`: only those behind this place in their order.
    """

    def place(entry: Entry) -> tuple[float, str]:
        return entry.mtime, ref_id(entry.name)

    entries = _entries(reader, "dead")
    if after is not None:
        last = after.when, after.id
        entries = (entry for entry in entries if place(entry) > last)
    chosen = heapq.nsmallest(first, entries, key=place) if 0 < first <= SORTED_AT_ONCE else entries
    return (_info_of(reader, f"dead/{entry.name}", DEAD, now, entry.mtime, entry.size) for entry in chosen)


def dead_refs(reader: Reader) -> Iterator[str]:
    """The file of every task that was given up, without a look at it."""
    return (f"dead/{name}" for name in _names(reader, "dead"))


def outbox_tasks(reader: Reader, now: float) -> Iterator[Info]:
    """Every task that waits for a peer."""
    yield from _outbox_files(reader, now)
    for info in all_in_batches(reader, now):
        if info.state == OUTBOX:
            yield info


def queued_tasks(reader: Reader, now: float) -> Iterator[tuple[Info, bytes | None]]:
    """Every task that waits, here or for a peer, with the name of its function; None: only its variables tell.

    Batches come first: a task that gets a file of its own meanwhile is not missed, and is told once.
    """
    told = set[str]()
    for number in _batch_numbers(reader):
        for record, data in _waiting_records(reader, number):
            info = _record_info(reader.node_id, number, record, data, now)
            told.add(info.id)
            yield info, record.function
    for info in all_in_files(reader, now):
        if info.id not in told:
            yield info, None


def all_in_batches(reader: Reader, now: float, containing: bytes = b"") -> Iterator[Info]:
    """Every task in a batch, here or for a peer, as they were accepted; one batch at a time is in memory.

    `containing`: without a look at the tasks of batches that have not these bytes.
    """
    for number in sorted(_batch_numbers(reader)):
        yield from _batch_tasks(reader, number, now, containing)


def all_in_files(reader: Reader, now: float) -> Iterator[Info]:
    """Every task that waits in a file of its own, here or for a peer, in no order."""
    yield from _waiting_files(reader, now)
    yield from _outbox_files(reader, now)


def order(info: Info) -> Order:
    """The place of a task."""
    return Order(info.due is not None, LAST if info.priority is None else info.priority, info.due or info.changed, info.id)


def in_order(tasks: Iterator[Info], limit: int = 0) -> Iterator[Info]:
    """The first `limit` tasks in the order in which they run; 0 is all of them."""
    if 0 < limit <= SORTED_AT_ONCE:
        return iter(heapq.nsmallest(limit, tasks, key=order))
    return islice(_sorted(tasks), limit or None)


def _sorted(tasks: Iterator[Info]) -> Iterator[Info]:
    """All tasks, in order. It sorts a few at a time: one long sort would block the event loop for seconds."""
    pieces = []
    while piece := sorted(islice(tasks, SORTED_AT_ONCE), key=order):
        pieces.append(piece)
    return heapq.merge(*map(_used_up, pieces), key=order)


def count_files(reader: Reader, directory: str) -> int:
    """The number of spool files in a directory below the spool."""
    return sum(1 for _ in _names(reader, directory))


def find_place(reader: Reader, identity: str, now: float = 0.0) -> tuple[Info, Location] | None:
    """The task with that id, wherever it is; None if it is nowhere. The caller validates `identity`.

    Without `now` the result does not say whether it is due.
    """
    prefix = f"{reader.node_id}_"
    number, _, offset = identity[len(prefix) :].partition("_")
    if identity.startswith(prefix) and number.isdecimal() and offset.isdecimal():
        for info in _batch_tasks(reader, int(number), now):
            if info.id == identity:
                return info, reader.record(reader.layout.batch(int(number)), int(offset))
    name = names.file_name(identity)
    for state, ref in ((WAITING_STATE, name), (DEAD, f"dead/{name}")):  # most are found here without a search
        place_info = _file_info(reader, ref, state, now)
        if place_info is not None:
            return place_info, Location(reader.layout.path(ref))
    oddly_called = dead_tasks(reader, now) if "%" in identity else iter(())
    for tasks in (_named(reader, identity, now), _outbox_files(reader, now), oddly_called):
        for listed in tasks:
            if listed.id == identity and (read := with_attempts(reader, listed)) is not None:
                return read, Location(reader.layout.path(read.where))
    return None


def find_held(reader: Reader, spot: str, now: float = 0.0) -> tuple[Info, Location] | None:
    """The task of a common store in that spot; None if it is gone."""
    at = location_at(reader.layout, spot)
    if at is None:
        info = _file_info(reader, spot, WAITING_STATE, now)
        return None if info is None else (info, Location(reader.layout.path(spot)))
    try:
        front, place = reader.front_of_record(at.path, at.base)
    except OSError:
        return None  # its batch has gone
    if len(front) < RECORD_SIZE + HEADER.size:
        return None
    state, _, attempts = HEADER.unpack_from(front, RECORD_SIZE)
    accepted = accepted_time(front, RECORD_SIZE)
    info = Info(ref_id(spot), WAITING_STATE, None, None, attempts, accepted, accepted, place.length, spot)
    return (info, place) if state == WAITING else None


def held_tasks(reader: Reader, spots: Iterable[str], now: float) -> Iterator[Info]:
    """The tasks of a common store in these spots."""
    for spot in spots:
        if (found := find_held(reader, spot, now)) is not None:
            yield found[0]


def find_arrived(reader: Reader, identity: str, now: float = 0.0) -> tuple[Info, Location] | None:
    """The task that came over a link with that id from its first node; None if it is not here. Looks into every task."""
    wanted = identity.encode()
    files = chain(
        (_file_info(reader, file.ref, WAITING_STATE, now) for file in spool_files(reader)),
        dead_tasks(reader, now),
        _outbox_files(reader, now),
    )
    for info in chain(all_in_batches(reader, now, wanted), filter(None, files)):
        try:
            place = place_of(reader, info)
            block = reader.block_at(place)
            is_it = wanted in block and dict(decode_variables(block)).get(names.ID) == wanted
            if is_it and (read := with_attempts(reader, info)) is not None:
                return read, place
        except (OSError, BadPacket):  # it has gone, or cannot be read
            continue
    return None


def place_of(reader: Reader, info: Info) -> Location:
    """The location of a task. Raises OSError."""
    if (at := location_at(reader.layout, info.where)) is not None:
        return reader.record(at.path, at.base)
    place, ref = place_at(info.where)
    return place.whole(reader, ref)


def contents(reader: Reader, place: Location) -> dict[str, Any]:
    """The contents of a task, fit for JSON: variables, typed values, the size and the beginning of the body.

    Raises:
        BadPacket: it cannot be read.
    """
    file = read_file(reader, place)
    beside = reader.reason_beside(place.path) if os.path.dirname(place.path) == reader.layout.dead else []
    return contents_of(file.variables, file.body, beside)


def contents_of(variables: Variables, body: bytes, beside: Variables) -> dict[str, Any]:
    """The same from the variables of a task, its body, and what is kept beside it. Raises `BadPacket`."""
    task = values.decode_task(variables, b"", "")
    task.pop("spooler_task_name", None)
    shown: dict[str, Any] = {"variables": {key: _jsonable(value) for key, value in task.items()}, "body_size": len(body)}
    if body:
        shown["body_begins"] = body[:200].decode("utf-8", "backslashreplace")
    for key, value in [*variables, *beside]:
        if key.startswith(names.OURS) and key not in (names.VALUES, names.BODY_LENGTH):
            shown[key.decode("ascii", "replace")] = value.decode("utf-8", "backslashreplace")
    return shown


def _jsonable(value: Any, depth: int = 0) -> Any:
    if depth > values.MAX_DEPTH:
        return "..."  # the admission takes none that is deeper, but a file from elsewhere may be
    if isinstance(value, dict):
        return {str(key): _jsonable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_jsonable(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    is_json = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)


def read_file(reader: Reader, place: Location) -> spoolfile.SpoolFile:
    """The task at a place. Raises `BadPacket` if it cannot be read, FileNotFoundError if it is gone."""
    descriptor = reader.disk.open_to_read(place.path)
    try:
        length = place.length if place.length >= 0 else reader.disk.size(descriptor)
        return spoolfile.parse(reader.disk.read(descriptor, length, place.base))
    finally:
        reader.disk.close(descriptor)


def _named(reader: Reader, identity: str, now: float) -> Iterator[Info]:
    for file in spool_files(reader):
        if ref_id(file.ref) == identity:
            info = _file_info(reader, file.ref, WAITING_STATE, now)
            if info is not None:
                yield info


def _names(reader: Reader, directory: str) -> Iterator[str]:
    """The names of all spool files in a directory below the spool."""
    return filter(is_spool_file, reader.disk.files(reader.layout.path(directory)))


def _entries(reader: Reader, directory: str) -> Iterator[Entry]:
    """All spool files in a directory below the spool."""
    entries = reader.disk.entries(reader.layout.path(directory))
    return (entry for entry in _used_up(entries) if entry.is_file and is_spool_file(entry.name))


def _used_up(items: list[T]) -> Iterator[T]:
    """Yields the items and frees each: to free a hundred thousand at once would hold up every thread."""
    items.reverse()
    try:
        while items:
            yield items.pop()
    finally:
        while items:
            items.pop()


def _waiting_files(reader: Reader, now: float) -> Iterator[Info]:
    for file in spool_files(reader):
        yield _info_of(reader, file.ref, WAITING_STATE, now, file.mtime, file.size, file.changed)


def _outbox_files(reader: Reader, now: float) -> Iterator[Info]:
    for entry in reader.disk.entries(reader.layout.outbox):
        if entry.is_directory:
            yield from _tasks_in(reader, f"outbox/{entry.name}", OUTBOX, now)


def _tasks_in(reader: Reader, directory: str, state: str, now: float) -> Iterator[Info]:
    for entry in _entries(reader, directory):
        yield _info_of(reader, f"{directory}/{entry.name}", state, now, entry.mtime, entry.size)


def _file_info(reader: Reader, ref: str, state: str, now: float) -> Info | None:
    try:
        found = reader.disk.stat(reader.layout.path(ref))
    except OSError:
        return None  # it has gone
    return with_attempts(reader, _info_of(reader, ref, state, now, found.mtime, found.size, found.changed))


def with_attempts(reader: Reader, info: Info) -> Info | None:
    """The same, with its attempts; None if it has gone, or we may not read it: then we cannot run it either."""
    if info.attempts != UNREAD:
        return info
    try:
        return info._replace(attempts=IN_FILES.progress(reader, info.where).attempts)
    except OSError:
        return None


def _info_of(reader: Reader, ref: str, state: str, now: float, mtime: float, size: int, ctime: float = 0.0) -> Info:
    """The facts about a spool file from its listing. `ctime` is only of interest for one that is due later; 0.0: unknown."""
    due = mtime if state == WAITING_STATE and now and mtime > now else None
    directory, slash, _ = ref.partition("/")
    priority = int(directory) if slash and directory.isdecimal() else None
    identity = ref_id(ref)
    accepted = mtime if state == OUTBOX else _accepted(reader, identity)
    if accepted is None and state != DEAD and not mtime > now > 0:
        accepted = mtime
    destination, number = (destination_of(ref), number_of(ref) or None) if state == OUTBOX else (None, None)
    return Info(
        identity, LATER if due else state, priority, due, UNREAD, accepted, ctime or mtime if due else mtime, size, ref,
        destination, number,
    )  # fmt: skip


def _accepted(reader: Reader, identity: str) -> float | None:
    """When this node accepted the task with that id; None for one from elsewhere."""
    return names.accepted_in(identity) if identity.startswith(f"{reader.node_id}_") else None


def _batch_numbers(reader: Reader) -> Iterator[int]:
    numbers = (batch_number(entry.name) for entry in reader.disk.entries(reader.layout.incoming))
    return (number for number in numbers if number is not None)


def _batch_tasks(reader: Reader, number: int, now: float, containing: bytes = b"") -> Iterator[Info]:
    """The tasks of a batch, unless its file does not contain the bytes `containing`."""
    for record, data in _waiting_records(reader, number, containing):
        yield _record_info(reader.node_id, number, record, data, now)


def _waiting_records(reader: Reader, number: int, containing: bytes = b"") -> Iterator[tuple[Record, bytes]]:
    """The records of those tasks, with the bytes of the batch."""
    try:
        data = reader.contents(reader.layout.batch(number))
    except FileNotFoundError:
        return
    if containing in data:
        for record in read_records(data, number):
            if isinstance(record, Record) and record.state == WAITING:
                yield record, data


def _record_info(node_id: str, number: int, record: Record, data: bytes, now: float) -> Info:
    is_outbound = record.kind == OUTBOUND
    due = record.due if record.due > now > 0 and not is_outbound else None
    state = OUTBOX if is_outbound else LATER if due else WAITING_STATE
    start = record.offset + HEADER.size
    block = data[start : start + HEADER.unpack_from(data, record.offset)[1]] if is_outbound else b""
    return Info(
        names.id_of_record(node_id, number, record.offset), state, None if record.rank == LAST else record.rank, due,
        record.attempts, record.accepted, record.accepted, record.length, InBatch(number).where(record.offset),
        destination_of_variables(decode_variables(block)) if is_outbound else None, record.number if is_outbound else None,
    )  # fmt: skip
