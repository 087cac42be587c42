"""The backlog of a stopped spool into a common store: each task once, repeatable after any interruption.

A task is removed from the disk only after the store has acknowledged it. If that is interrupted in between, the next push
publishes it again under the same message id, and the store says that it has it (for `REMEMBERED` seconds after its end).

The directory must be locked, and its sequence numbers saved (`save_numbers`): a task from a peer proves its number by lying here.
"""

import heapq
import math
import random
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field

from spoolnode.cluster.store.interface import ANY, CHUNK, NO_BODY, CommonStore, Content, NewTask, Publication, StoredTask
from spoolnode.cluster.store.variables import kept_variables
from spoolnode.node.commons import place_in_store
from spoolnode.node.outbox.links import boot_id
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import InBatch, place_at
from spoolnode.node.spool.reader import Location
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.protocol import names, pickles, values
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.packet import HEADER, decode_variables
from spoolnode.protocol.unique import unique_key_in

SORTED = 100_000
"""Spool files that are put in order at a time. A directory with more is listed again for the next ones."""
GROUP = 100
"""Tasks that are published together..."""
GROUP_BYTES = 8 << 20
"""...unless they have more bytes."""

IN_DOUBT = "may have been sent to another node already: only a node can ask it"
PICKLED = "have pickled arguments, which stay on the machine that took them"
UNREADABLE = "cannot be read"
TOO_LARGE = "have variables that leave no room for a count of hops"
"""Why tasks stay on the disk."""

_Place = tuple[float, int, str]


@dataclass
class Pushed:
    """How a push went."""

    told: Counter[Publication] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    """The tasks that stay on the disk, by reason."""

    @property
    def gone(self) -> int:
        """How many tasks are in the store now, and not on the disk any more."""
        return self.told.total()


class FileContent(Content):
    """A part of a file."""

    def __init__(self, store: Store, path: str, start: int, size: int) -> None:
        self._store = store
        self._path = path
        self._start = start
        self.size = size

    async def chunks(self) -> AsyncIterator[bytes]:
        disk = self._store.disk
        descriptor = disk.open_to_read(self._path)
        try:
            for offset in range(0, self.size, CHUNK):
                yield disk.read(descriptor, min(CHUNK, self.size - offset), self._start + offset)
        finally:
            disk.close(descriptor)


@dataclass
class _Moving:
    """A task on its way."""

    info: inspect.Info
    new: NewTask


class _Stays(Exception):
    """A task that cannot be pushed, and why."""


async def save_numbers(store: Store) -> None:
    """Makes safe which sequence numbers were taken and given, with the node's own code."""
    policy = RetryPolicy(max_attempts=0)  # only the node, which knows its settings, gives tasks up
    journal = Journal(store.disk, store.layout, store.node_id, sync=True, report=lambda _action, **_details: None)
    storage = Storage(journal, policy, random.Random())
    storage.load(boot_id(time.time()))
    await storage.settle()
    await storage.close()


async def push(store: Store, common: CommonStore) -> Pushed:
    """Moves all that waits in a spool directory into a store."""
    pushed = Pushed()
    for group in _groups(store, pushed):
        answers = await common.publish([moving.new for moving in group])
        pushed.told.update(answers)
        _remove(store, (moving.info for moving in group))
    return pushed


def _groups(store: Store, pushed: Pushed) -> Iterator[list[_Moving]]:
    """All that can be moved, as it was accepted."""
    now = time.time()
    group: list[_Moving] = []
    size = 0
    for info in heapq.merge(inspect.all_in_batches(store, now), _files(store, now), key=_accepted):
        try:
            group.append(_moving(store, info))
        except _Stays as reason:
            pushed.left[str(reason)] += 1
            continue
        size += info.size
        if len(group) == GROUP or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _files(store: Store, now: float) -> Iterator[inspect.Info]:
    """The tasks in files of their own, as they were accepted. However many there are, a part of them is in memory."""
    last: _Place = (-math.inf, 0, "")

    def rest() -> Iterator[inspect.Info]:
        return (info for info in inspect.all_in_files(store, now) if _accepted(info) > last)

    while found := heapq.nsmallest(SORTED, rest(), key=_accepted):
        yield from found
        last = _accepted(found[-1])


def _accepted(info: inspect.Info) -> _Place:
    """The place of a task in the order of acceptance. A file from elsewhere tells only when it was put there. Of one time, the
    names decide: 80 comes before 1000."""
    return info.changed if info.accepted is None else info.accepted, len(info.where), info.where


def _moving(store: Store, listed: inspect.Info) -> _Moving:
    """A task on disk as one for the store. Raises `_Stays`."""
    info = inspect.with_attempts(store, listed)
    if info is None:
        raise _Stays(UNREADABLE)
    if info.state == inspect.OUTBOX and info.attempts:
        raise _Stays(IN_DOUBT)
    try:
        location = inspect.place_of(store, info)
        block = store.block_at(location)
        said = dict(decode_variables(block))
        body = _body(store, location, len(block))
        if _is_pickled(said, body.size):
            raise _Stays(PICKLED)
        rank, due = _order(info, said)
        task = StoredTask(
            _message(store, info, block, said), kept_variables(block), _destination(store, info, said), rank, due,
            unique_key_in(block),
            int(said.get(names.ATTEMPTS, b"0")) if info.state == inspect.OUTBOX else info.attempts,
            names.read_hops(said.get(names.HOPS, b"")),
        )  # fmt: skip
    except (OSError, BadPacket, Refused) as error:
        raise _Stays(UNREADABLE) from error
    except BadTask as error:
        raise _Stays(TOO_LARGE) from error
    return _Moving(info, NewTask(task, body))


def _order(info: inspect.Info, said: dict[bytes, bytes]) -> tuple[int, float]:
    """The rank of a task, and when it is due. In outbox/ only its variables tell: it is sent before it is due."""
    if info.state == inspect.OUTBOX:
        return names.read_priority(said.get(b"priority", b"")), names.read_at(said.get(b"at", b""))
    return names.LAST if info.priority is None else info.priority, info.due or 0.0


def _body(store: Store, location: Location, block: int) -> Content:
    length = location.length
    if length < 0:
        length = store.disk.stat(location.path).size - location.base
    size = length - HEADER.size - block
    return FileContent(store, location.path, location.base + HEADER.size + block, size) if size > 0 else NO_BODY


def _is_pickled(said: dict[bytes, bytes], body: int) -> bool:
    present = set(said)
    if names.VALUES in said and names.FUNCTION not in said:
        present |= pickles.typed_names(values.unpack(said[names.VALUES]))
    return names.PICKLED in said or pickles.are_pickled(present, body=body > 0)


def _message(store: Store, info: inspect.Info, block: bytes, said: dict[bytes, bytes]) -> str:
    """The id of a task in the store. One that a node made is unique; the name of a file that was dropped here may come again, in
    another directory or later, and its time and contents tell it apart. It leaves room for a number, as names in
    outbox/ have. One that a node keeps until the store is back says its id: the store may have it already.
    """
    if info.state == inspect.OUTBOX and names.ID in said:
        return said[names.ID].decode("ascii", "replace")
    of_node = names.is_node_id(info.id.partition("_")[0]) and names.accepted_in(info.id) is not None
    if of_node or names.HOPS in said:
        return info.id
    mtime = info.due or info.changed  # the same before and after it is due
    seen = zlib.crc32(f"{store.node_id} {info.where} {mtime} {info.size}".encode(), zlib.crc32(block))
    return f"{names.shortened(info.id, names.LONGEST_ID - 30)}%{seen:08x}"


def _destination(store: Store, info: inspect.Info, said: dict[bytes, bytes]) -> str:
    """Where it waits in the store: where its sender asked for, as a choice, or the node that it waits for now."""
    asked = said.get(names.NODE, b"").decode("ascii", "replace")
    if asked in ("", ANY) or asked.startswith("tag:"):
        return asked or ANY
    if info.state == inspect.OUTBOX and info.destination != ANY:
        return info.destination or ANY
    if info.state == inspect.OUTBOX:  # a node has kept it until the store is back
        return place_in_store(said, store.node_id)
    return store.node_id if asked == "all" else asked  # of `all`, this is the copy for this node


def _remove(store: Store, infos: Iterable[inspect.Info]) -> None:
    """Removes tasks that the store has, and makes that safe."""
    batches: dict[int, list[int]] = defaultdict(list)
    directories = set()
    for info in infos:
        place, ref = place_at(info.where)
        if isinstance(place, InBatch):
            batches[place.number].append(int(ref))
        else:
            store.remove(info.where)
            directories.add(store.layout.directory_of(info.where))
    for number, offsets in batches.items():
        store.mark(number, offsets)
    store.sync_marks(batches, directories)
