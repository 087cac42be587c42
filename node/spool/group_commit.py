"""Group commit: requests -> records in the open batch -> one fsync for all that wait -> their acknowledgements.

Ensures: a waiter hears `stored` only after the fsync that holds its task (with `sync` off: after the write).
Ensures: a task is handed to `committed` only after that, so nothing runs that might not be there after a power cut.
Ensures: when a write or an fsync fails, every request of the group is refused, its record is marked void, and the
         file takes no more: a failed fsync is final and never retried on the same file. If the disk does not even take
         the marks, this node does not run such a record, but one that starts later may: "at least once".
Assumes: one event loop calls everything but `_commit`, which runs in the disk thread.
"""

import asyncio
import contextlib
import errno
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.layout import Layout, create, make_places
from spoolnode.node.disk.threads import DiskThread
from spoolnode.node.spool.tasks import Batch, Outbound
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.names import LAST, id_of_record
from spoolnode.protocol.request import PLAIN_TERMS, Terms
from spoolnode.protocol.spoolfile import STATE_AT, VOID

BATCH_SIZE = 1 << 20
"""Bytes of a batch file, reserved when it is made: records never meet a full disk, and a mapping of it never moves."""
BATCH_SECONDS = 1.0
"""How long a batch takes tasks after its first one."""
TOLD_AT_ONCE = 512
"""Tasks of a commit that are reported in one turn of the loop, about three milliseconds: a slow disk gathers thousands."""
INLINE_BODY = 128 << 10
"""The largest body kept in a batch, in bytes; larger ones get a file of their own."""


class Waiter(Protocol):
    """Waits for the fate of one task. Exactly one of the two methods is called, on the event loop."""

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe; `copies`: how many times (`node=all`). With 0 it will not run: the task with that id waits, and has its
        key."""

    def refused(self, refusal: Refused) -> None: ...


class PromptWaiter(Waiter, Protocol):
    """A waiter that can be told in the disk thread, right after the fsync: a thread switch sooner."""

    def safe(self) -> None:
        """The task is on disk; `stored` follows on the loop. Called in the disk thread; must not raise."""


class Blank(NamedTuple):
    """A file of zeros that will be a batch."""

    path: str
    descriptor: int


@dataclass(eq=False, slots=True)
class Group:
    """Requests for one fsync, all in one batch."""

    batch: Batch
    start: int
    parts: list[bytes] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("I"))
    special: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Due time and rank of the tasks that have one."""
    outbound: dict[int, Outbound] = field(default_factory=dict)
    """The tasks for other nodes."""
    waiters: list[Waiter] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    """The sender of each task."""
    origins: dict[int, bytes] = field(default_factory=dict)
    """The ids that tasks from other nodes have there..."""
    functions: dict[int, bytes] = field(default_factory=dict)
    """...and the functions of those tasks that name one."""
    keys: dict[int, bytes] = field(default_factory=dict)
    """The keys of the tasks for this node that have one."""
    merged: dict[int, str] = field(default_factory=dict)
    """Those of them that are not run, and the ids of the tasks that wait in their place; known once the group is safe."""
    prompt: list[PromptWaiter] = field(default_factory=list)
    """The waiters that are also told in the disk thread."""
    closes: bool = False
    """Whether it is the last group of its batch."""

    def special_record(self, block: bytes, body: bytes, now: float, terms: Terms, outbound: Outbound | None) -> bytes:
        """Notes what is special about the next task. Returns its record."""
        batch = self.batch
        offset = batch.end + batchfile.RECORD_SIZE
        transit = batchfile.NO_TRANSIT
        if outbound is not None:
            transit = batchfile.Transit(batchfile.OUTBOUND, outbound.number)
            self.outbound[offset] = outbound
        elif terms.number:
            transit, batch.arrived = batchfile.Transit(batchfile.ARRIVED, terms.number), True
        if terms.origin_id:
            self.origins[offset] = terms.origin_id
        if terms.function:
            self.functions[offset] = terms.function
        if terms.key and outbound is None:
            self.keys[offset] = terms.key
        if terms.due or terms.rank != LAST:
            self.special[offset] = (terms.due, terms.rank)
        return batchfile.encode_record(batch.seed, block, body, now, terms.due, terms.rank, transit, terms.function)

    def split(self, count: int) -> "Group":
        """Takes out the first `count` requests, for the listeners to a commit. Parts that both share are not copied."""
        first = Group(
            self.batch, self.start, offsets=self.offsets[:count], waiters=self.waiters[:count],
            callers=self.callers[:count], special=self.special, outbound=self.outbound, origins=self.origins,
            functions=self.functions, keys=self.keys, merged=self.merged,
        )  # fmt: skip
        del self.offsets[:count], self.waiters[:count], self.callers[:count]
        return first

    def tell(self, node_id: str) -> None:
        """Tells all that wait that their tasks are safe."""
        number, merged = self.batch.number, self.merged
        for waiter, offset in zip(self.waiters, self.offsets, strict=True):
            if offset in merged:
                waiter.stored(merged[offset], 0)
            else:
                waiter.stored(id_of_record(node_id, number, offset))


class GroupCommit:
    """The only way into a batch."""

    def __init__(
        self, disk: Disk, layout: Layout, thread: DiskThread, node_id: str, number: Callable[[], int],
        committed: Callable[[Group], None], *, sync: bool,
    ) -> None:  # fmt: skip
        self._disk = disk
        self._layout = layout
        self._thread = thread
        self._node_id = node_id
        self._number = number
        self._committed = committed
        self._sync = sync
        self._open: Group | None = None
        self._ready: list[Group] = []
        self._busy = False
        self._untold: deque[tuple[Group, BaseException | None]] = deque()
        """Finished commits with their errors, that are not reported yet."""
        self._tells_on = False
        """Whether the next turn of the loop goes on with them."""
        self._soon = False
        self._loop = asyncio.get_running_loop()
        self._has_spare = False
        """Whether the disk thread has a blank file for the next batch, or is making one."""
        self._blank: Blank | None = None
        """That file; only for the disk thread."""
        self.told: Callable[[], None] = lambda: None

    def when_told(self, call: Callable[[], None]) -> None:
        """`call` is called after the waiters of a commit were told: the time to send the gathered answers."""
        self.told = call

    def add(
        self, block: bytes, body: bytes, terms: Terms, waiter: Waiter, caller: str = "",
        prompt: PromptWaiter | None = None, outbound: Outbound | None = None,
    ) -> None:  # fmt: skip
        """Takes one task, for this node or (`outbound`) for another one. `waiter` is told later. Never raises.

        `caller`: who sent the task. `prompt` is the same waiter, if it is in a hurry.
        """
        now = time.time()
        group = self._open
        size = batchfile.RECORD_SIZE + 4 + len(block) + len(body) + batchfile.ALIGN
        if group is None or group.batch.end + size > BATCH_SIZE:
            group = self._next_batch(now)
        batch = group.batch
        if terms is PLAIN_TERMS and outbound is None:  # most: the record's defaults say it all
            record = batchfile.encode_record(batch.seed, block, body, now)
        else:
            record = group.special_record(block, body, now, terms, outbound)
        offset = batch.end + batchfile.RECORD_SIZE
        batch.end += len(record)
        group.parts.append(record)
        group.offsets.append(offset)
        group.waiters.append(waiter)
        group.callers.append(caller)
        if prompt is not None:
            group.prompt.append(prompt)
        if not self._busy and not self._soon:
            # Not at once: other requests of this turn of the loop share the fsync.
            self._soon = True
            self._loop.call_soon(self._start_if_idle)

    def _start_if_idle(self) -> None:
        self._soon = False
        if not self._busy:
            self._start()

    def close_batch(self) -> None:
        """Closes the open batch; the next task opens another."""
        group, self._open = self._open, None
        if group is not None:
            group.closes = True
            self._ready.append(group)
            if not self._busy:
                self._start()

    def close_old(self) -> None:
        """Closes the open batch once it has been open for its time."""
        since = self.open_since
        if since is not None and not 0 <= time.time() - since < BATCH_SECONDS:  # the clock may be set back
            self.close_batch()

    async def finish(self) -> None:
        """Closes the open batch. Returns when all earlier tasks are acknowledged."""
        self.close_batch()
        while not self.is_idle:
            await self._thread.run(lambda: None)

    @property
    def open_since(self) -> float | None:
        """When the open batch got its first task; None if no batch is open."""
        return self._open.batch.accepted if self._open is not None else None

    @property
    def is_idle(self) -> bool:
        """Whether no request waits for a commit."""
        is_told = not self._untold
        return is_told and not self._busy and not self._ready and (self._open is None or not self._open.waiters)

    def _next_batch(self, now: float) -> Group:
        self.close_batch()
        batch = Batch(self._number(), accepted=now)
        self._has_spare = False
        self._open = Group(batch, batch.end)
        return self._open

    def _start(self) -> None:
        groups, self._ready = self._ready, []
        if self._open is not None and self._open.waiters:
            groups.append(self._open)
            self._open = Group(self._open.batch, self._open.batch.end)
        if groups:
            self._busy = True
            self._thread.submit(lambda: self._commit(groups), lambda errors, problem: self._done(groups, errors, problem))
        elif not self._has_spare and self._open is not None:
            self._busy = self._has_spare = True
            self._thread.submit(self._make_spare, lambda _, problem: self._spare_made(problem))

    def _done(self, groups: list[Group], errors: Sequence[BaseException | None] | None, problem: BaseException | None) -> None:
        self._busy = False
        for group, error in zip(groups, errors or [problem] * len(groups), strict=True):
            if error is not None:
                self._give_up(group)
            self._untold.append((group, error))
        self._start()  # before the answers are sent: the disk works meanwhile
        if not self._tells_on:
            self._tell_some()

    def _tell_some(self) -> None:
        left = TOLD_AT_ONCE
        try:
            while self._untold and left > 0:
                group, error = self._untold[0]
                count = min(left, len(group.waiters))
                part = group.split(count) if count < len(group.waiters) else self._untold.popleft()[0]
                left -= max(count, 1)
                if error is None:
                    self._tell(part)
                else:
                    self._refuse(part, error)
        finally:
            if self._untold:
                self._tells_on = True
                self._loop.call_soon(self._tell_on)
            self.told()

    def _tell_on(self) -> None:
        self._tells_on = False
        self._tell_some()

    def _tell(self, group: Group) -> None:
        group.batch.live += len(group.offsets)
        self._committed(group)
        group.tell(self._node_id)

    def _give_up(self, group: Group) -> None:
        """Ends a group whose commit failed."""
        if self._open is not None and self._open.batch is group.batch:
            # Requests that gathered meanwhile for the same file are refused with the others.
            group.waiters += self._open.waiters
            self._open = None
        group.batch.void.update(group.offsets)
        group.batch.refused.update(group.offsets)
        group.closes = True

    def _refuse(self, group: Group, error: BaseException) -> None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        refusal = Refused(
            Reason.FULL if full else Reason.BUSY,
            f"the disk of this node {'is full' if full else 'failed'} ({reason}); nothing was stored",
        )
        if group.closes:
            self._committed(Group(group.batch, group.start, closes=True))
        for waiter in group.waiters:
            waiter.refused(refusal)

    def _spare_made(self, problem: BaseException | None) -> None:
        self._busy = False
        del problem  # without a spare the next batch is made when it is needed, and its waiters hear the reason
        if self._ready or (self._open is not None and self._open.waiters):
            self._start()

    # -- in the disk thread --

    def _commit(self, groups: list[Group]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        for group in groups:
            try:
                self._write(group)
            except Exception as error:  # noqa: BLE001  # whatever it is: the waiters must hear of it
                self._disown(group)
                errors.append(error)
                continue
            errors.append(None)
            for waiter in group.prompt:
                waiter.safe()
        return errors

    def _write(self, group: Group) -> None:
        batch = group.batch
        data = b"".join(group.parts)
        if batch.descriptor < 0:
            if group.start != batchfile.HEADER_SIZE:
                raise OSError(errno.EIO, "an earlier write to the same batch failed")
            self._begin(batch, data)
        elif data:
            self._disk.write(batch.descriptor, data, group.start)
            if self._sync:
                self._disk.sync(batch.descriptor)
        if data and not self._disk.leads_to(self._layout.batch(batch.number), batch.descriptor):
            raise OSError(errno.ENOENT, "the file was removed under the running node")
        if group.closes:
            self._close(batch)

    def _begin(self, batch: Batch, data: bytes) -> None:
        """Writes the first records of a batch: gives a blank file its header, the records and its name."""
        blank, self._blank = self._blank, None
        if blank is None or not self._disk.leads_to(blank.path, blank.descriptor):
            if blank is not None:
                self._disk.close(blank.descriptor)
            blank = self._make_blank()
        path = self._layout.batch(batch.number)
        batch.descriptor = blank.descriptor  # from here on a failure disowns its records
        try:
            self._disk.write(blank.descriptor, batchfile.encode_header(batch.number, batch.salt) + data, 0)
            if self._sync:
                self._disk.sync(blank.descriptor)
            try:
                self._disk.rename(blank.path, path)
            except FileNotFoundError:  # incoming/ was removed
                make_places(self._disk, self._layout)
                self._disk.rename(blank.path, path)
            if self._sync:
                self._disk.sync_directory(self._layout.incoming)
        except OSError:
            discard(self._disk, blank.path)
            discard(self._disk, path)
            raise

    def _disown(self, group: Group) -> None:
        """Marks the records of a failed group void, as far as a failing disk allows, and gives up the file.

        It does not mark them finished: a finished record that came over a link proves that its number is taken.
        """
        batch = group.batch
        if batch.descriptor < 0:
            return
        try:
            for offset in group.offsets:
                self._disk.write(batch.descriptor, bytes([VOID]), offset + STATE_AT)
            self._disk.sync(batch.descriptor)
        except OSError:
            pass  # the error that brought us here is reported; the records were never acknowledged
        self._close(batch)

    def _close(self, batch: Batch) -> None:
        descriptor, batch.descriptor = batch.descriptor, -1
        # Network file systems report earlier writes here; what we promise was synced before.
        with contextlib.suppress(OSError):
            self._disk.close(descriptor)

    def _make_spare(self) -> None:
        self._blank = self._blank or self._make_blank()

    def _make_blank(self) -> "Blank":
        path = self._layout.path(f"tmp/{time.monotonic_ns()}.batch")
        descriptor = create(self._disk, self._layout, path)
        try:
            self._disk.allocate(descriptor, BATCH_SIZE)
            if self._sync:
                self._disk.sync(descriptor)  # so that the first commit has less to do
        except OSError:
            self._disk.close(descriptor)
            discard(self._disk, path)
            raise
        return Blank(path, descriptor)

    def close(self) -> None:
        """Ends the group commit if it is idle; in the disk thread."""
        blank, self._blank = self._blank, None
        if blank is not None:
            self._disk.close(blank.descriptor)
            discard(self._disk, blank.path)
