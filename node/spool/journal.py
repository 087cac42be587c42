"""The journal: the batches of incoming/ with the numbers they prove, and the disk threads that all moves go through.

It lies under the spool (tasks that wait here) and the outbox (tasks that wait for others), which have tasks in the same
batches. A batch whose tasks have ended is removed; one with few left is *settled*: they get files of their own. The ends of
tasks are made safe against a power cut within a second. The owners of queues register as a `Tenant`, and are asked and told.

ARCHITECTURE.md, "Threads", says which thread may touch what, and why that is safe.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from typing import Any, Protocol

from spoolnode.node.disk.disk import Disk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.disk.threads import DiskThread
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.reader import Marker, Reader
from spoolnode.node.spool.recovery import Found
from spoolnode.node.spool.sequence import Received
from spoolnode.node.spool.store import Store
from spoolnode.node.spool.tasks import Batch, Counts, Source
from spoolnode.node.story.keeper import Story, Untold
from spoolnode.node.story.watchers import Watchers
from spoolnode.protocol.names import id_of_record

SETTLE_AT_MOST = 64
"""Most unfinished tasks that a closed batch may have when it is settled: this bounds the cost of settling."""
SETTLE_AFTER = 1.0
"""Seconds between closing and settling a batch: most of its tasks end in this time, and need no file."""
DISK_REST_SECONDS = 60.0
"""Seconds of pause after a move that a full or failing disk did not take."""


class Tenant(Protocol):
    """Has queues with tasks of batches."""

    def due(self, batch: Batch) -> dict[int, float]:
        """The due times of its tasks that wait for a time."""

    def settled(self, batch: Batch, moved: dict[int, str], due: dict[int, float]) -> None:
        """These records have their own files now; some belong to another tenant. `due`: the due times before the move."""

    def thawed(self, batch: Batch) -> None:
        """Its tasks, which could not be taken for a moment, can be taken again."""

    def dropped(self, batch: Batch) -> None:
        """All its tasks have ended."""

    def syncing(self) -> Callable[[bool], None]:
        """The ends of tasks so far are made safe now. The returned function is called with whether that succeeded."""


class Journal:
    """The part that the spool and the outbox of one directory share."""

    def __init__(
        self, disk: Disk, layout: Layout, node_id: str, *, sync: bool, report: Callable[..., None],
        trace: Callable[..., None] | None = None, story: Story | None = None, thread: Callable[[str], DiskThread] = DiskThread,
    ) -> None:  # fmt: skip
        """
        Args:
            report: called for everything that is worth a line in the log. trace: called for each task that comes or ends well;
            None if no such lines are wanted: a line costs more than a task.
            story: is told what happens to tasks.
        """
        self.disk = disk
        self.layout = layout
        self.node_id = node_id
        self.sync = sync
        self.report = report
        self.trace = trace
        self.story = story or Untold()
        self.watchers = Watchers()
        self.store = Store(disk, layout, node_id, sync)
        """For the thread `moves` alone."""
        self.commits = thread("commit")
        self.moves = thread("store")
        self.packing = thread("packing")
        self.tenants: list[Tenant] = []
        self.batches: dict[int, Batch] = {}
        self.counts = Counts()
        self.received = Received()
        self.placed: Callable[[], None] = lambda: None
        self._placing = 0
        self._received_safe = 0
        """The version of `received` that is on the medium."""
        self._received_written = False
        """Whether its file was ever written."""
        self._last_number = 0
        self._dirty: set[int] = set()
        self._dirty_directories: set[str] = set()

    @property
    def marker(self) -> Marker:
        """Also for the thread `packing`."""
        return self.store

    @property
    def reader(self) -> Reader:
        """For any thread."""
        return self.store

    def when_placed(self, call: Callable[[], None]) -> None:
        """`call` is called when no move that gives files their names is under way (see `placing`)."""
        self.placed = call

    def __repr__(self) -> str:
        unsynced = len(self._dirty) + len(self._dirty_directories)
        return f"<journal {self.layout.root}: {len(self.batches)} batches, {unsynced} places to sync>"

    def adopt(self, found: Found) -> None:
        """Takes the findings of a start: the numbers, and the places that the last process may have left unsynced."""
        self._last_number = max(self._last_number, found.last_number)
        self.received = found.received
        self._received_written = not self.reader.is_gone("taken")
        self._dirty.update(item.batch.number for item in found.batches)
        self.touch_directories(*found.directories)

    async def close(self) -> None:
        """Ends the disk threads, after all their work."""
        await self.packing.close()
        await self.commits.close()
        await self.moves.close()
        await self.story.close()

    def number(self) -> int:
        """A number that no batch of this node has ever had: microseconds since 1970, always rising."""
        self._last_number = max(self._last_number + 1, int(time.time() * 1_000_000))
        return self._last_number

    def new_id(self, serial: int) -> str:
        """An id for a task that gets a file of its own."""
        return id_of_record(self.node_id, self.number(), serial)

    def id_of(self, source: Source, ref: Ref) -> str:
        """The id of a task."""
        return source.place.id_of(ref, self.node_id)

    def note(self, kind: str, source: Source, refs: MutableSequence[Any], seconds: Sequence[float] = (), **detail: Any) -> None:
        """Notes in their stories that the same happened to all these tasks."""
        self.story.note(kind, source.number, refs, seconds, **detail)
        if self.watchers:
            for ref in refs:
                self.watchers.tell(self.id_of(source, ref))

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Marks the time of a move that names files: meanwhile `inbox` does not take such names for new files."""
        self._placing += 1
        try:
            yield
        finally:
            self._placing -= 1
            if not self._placing:
                self.placed()

    @property
    def is_placing(self) -> bool:
        """Whether such a move is under way."""
        return self._placing > 0

    # -- numbers taken from other nodes --

    async def save_received(self) -> None:
        """Returns when the numbers taken from other nodes so far are safe. Raises OSError."""
        version = self.received.version
        if version > self._received_safe:
            # Not left to a save under way: if that fails, only its own caller hears of it.
            data = self.received.encode()
            await self.moves.run(lambda: self.store.replace(self.layout.taken, data))
            self._note_received(version)

    async def save_missing(self) -> bool:
        """Saves the numbers again if their file was removed. Returns whether it was. Raises OSError.

        A file that never existed is written, too, but does not count as removed.
        """
        is_first = not self._received_written
        if not len(self.received) or not await self.moves.run(lambda: self.reader.is_gone("taken")):
            return False
        self._received_safe = -1
        await self.save_received()
        return not is_first

    def _note_received(self, version: int) -> None:
        self._received_safe = max(self._received_safe, version)
        self._received_written = True

    # -- what ended --

    def touch(self, batch: Batch) -> None:
        """Has the marks in a batch synced within a second."""
        self._dirty.add(batch.number)

    def touch_directories(self, *directories: str) -> None:
        """Has the names in these directories below the spool synced within a second."""
        self._dirty_directories.update(map(self.layout.path, directories))

    def leave(self, batch: Batch, count: int) -> None:
        """Notes that tasks have left a batch."""
        batch.live -= count
        self._dirty.add(batch.number)
        if not batch.live:
            self.drop_if_finished(batch)

    def drop_if_finished(self, batch: Batch) -> None:
        """Removes a batch without unfinished tasks."""
        if not batch.closed or batch.live or batch.frozen:
            return
        version = self.received.version
        proofs = self.received.encode() if batch.arrived and version > self._received_safe else None

        def remove() -> None:
            if proofs is not None:
                self.store.replace(self.layout.taken, proofs)
            self.store.remove_batch(batch.number)

        def removed(result: None, error: BaseException | None) -> None:
            self.reported("remove", batch, 0)(result, error)
            if error is not None:
                batch.closed_at = time.monotonic() + DISK_REST_SECONDS
                self.batches[batch.number] = batch  # housekeeping tries again
            elif proofs is not None:
                self._note_received(version)

        # It stays dirty: until it is gone, only its marks say that its tasks have ended.
        self.batches.pop(batch.number, None)
        for tenant in self.tenants:
            tenant.dropped(batch)
        self._dirty_directories.add(self.layout.incoming)
        self.moves.submit(remove, removed)

    def reported(self, move: str, source: Source, ref: Ref) -> Callable[[Any, BaseException | None], None]:
        """A callback for the end of a move, which reports a failure."""

        def done(result: Any, error: BaseException | None) -> None:
            del result
            if error is not None and not isinstance(error, FileNotFoundError):
                self.report("move_failed", move=move, id=self.id_of(source, ref), reason=str(error))

        return done

    async def sync_marks(self) -> None:
        """Makes the ends of tasks safe against a power cut; called once a second."""
        numbers, self._dirty = self._dirty, set()
        directories, self._dirty_directories = self._dirty_directories, set()
        synced = [tenant.syncing() for tenant in self.tenants]
        is_safe = True
        if (numbers or directories) and self.sync:
            try:
                await self.moves.run(lambda: self.store.sync_marks(numbers, directories))
            except OSError as error:
                self.report("sync_failed", reason=str(error))
                is_safe = False
            except asyncio.CancelledError:  # a stop: nothing waits for the result
                for tell in synced:
                    tell(False)
                raise
        for tell in synced:
            tell(is_safe)

    # -- batches that settle --

    async def settle(self) -> None:
        """Gives the last few tasks of old batches files of their own."""
        now = time.monotonic()
        for batch in list(self.batches.values()):
            if batch.closed and not batch.live:
                if now > batch.closed_at:
                    self.drop_if_finished(batch)
                continue
            waiting = batch.live - len(batch.in_flight)
            old = batch.closed and now - batch.closed_at > SETTLE_AFTER
            if old and not batch.frozen and 0 < waiting <= SETTLE_AT_MOST:
                await self._settle(batch)

    async def settle_all(self, goes_on: Callable[[], bool]) -> None:
        """Gives each waiting task of a closed batch a file of its own, as long as `goes_on` returns true and the disk has room.

        This includes tasks that failed or were given back just before: they wait as soon as the moves that judge them are over.
        """
        await self.moves.run(lambda: None)
        for batch in sorted(self.batches.values(), key=lambda batch: batch.number):
            while batch.frozen:
                await self.moves.run(lambda: None)  # after another move of its tasks, which may have left some out
            if goes_on() and batch.closed and batch.live > len(batch.in_flight):
                await self._settle(batch)

    async def _settle(self, batch: Batch) -> None:
        in_flight, void, refused = set(batch.in_flight), set(batch.void), set(batch.refused)
        due = {offset: when for tenant in self.tenants for offset, when in tenant.due(batch).items()}
        batch.frozen = True
        try:
            with self.placing():
                if batch.arrived:
                    await self.save_received()  # a file does not prove the number that its record proved
                moved = await self.moves.run(lambda: batch.place.settle(self.store, in_flight, void, due, refused))
                batch.moved.update(moved)
                batch.void.update(moved)
                batch.live -= len(moved)
                self._dirty.add(batch.number)
                for tenant in self.tenants:
                    tenant.settled(batch, moved, due)
        except OSError as error:
            # A batch that was removed by hand never settles; its tasks end as gone when their turn comes.
            is_gone = isinstance(error, FileNotFoundError) and error.filename == self.layout.batch(batch.number)
            batch.closed_at = math.inf if is_gone else time.monotonic() + DISK_REST_SECONDS
            self.report("move_failed", move="settle", batch=batch.number, reason=str(error))
        finally:
            batch.frozen = False
        self.drop_if_finished(batch)
        for tenant in self.tenants:
            tenant.thawed(batch)

    # -- looking --

    @property
    def in_batches(self) -> int:
        """Tasks that wait in batches, for this node and for others."""
        return sum(batch.live - len(batch.in_flight) for batch in self.batches.values())

    @property
    def is_busy(self) -> bool:
        """Whether there is work for the next second."""
        to_sync = self._dirty or self._dirty_directories
        return bool(to_sync) or any(batch.live - len(batch.in_flight) <= SETTLE_AT_MOST for batch in self.batches.values())

    def is_finished(self, source: Source, refs: Iterable[Ref]) -> set[Ref]:
        """The tasks among these that have ended well, from the disk. They are few and just written, so the loop may read them.

        Used only after the death of a worker, when nothing else can tell. A worker finds out about tasks that cannot be read
        now.
        """
        return source.place.ended(self.reader, refs)
