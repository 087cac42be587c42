"""The tasks of a common store that this node holds: the same workers run them, through the same kind of files, in tmp/.

Such a file promises nothing, because the store has the task: it is never synced, and the next start sweeps it. What became
of a task is told to the `LeaseHolder`, who tells the store. A task that is to run again goes back there, with its new time.
"""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, MutableSequence, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.layout import Layout, create
from spoolnode.node.spool.functions import Functions
from spoolnode.node.spool.journal import DISK_REST_SECONDS, Journal
from spoolnode.node.spool.place import InFiles
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.store import Store
from spoolnode.node.spool.tasks import Files, Ledger
from spoolnode.node.spool.waiting import Waiting
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.spoolfile import MAX_ATTEMPTS, head

KEPT_REASONS = 100
"""Reasons of tasks that were given up that are kept in memory."""


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


class LeaseHolder(Protocol):
    """Hears what became of the tasks."""

    def ended(self, refs: Sequence[str]) -> None:
        """They have ended well."""

    def again(self, ref: str, due: float = 0.0, attempts: int | None = None) -> None:
        """It is to run again, not before `due` (seconds since 1970). None: it has not been tried."""

    def buried(self, ref: str, reason: str) -> None:
        """It is given up."""


class HeldPlace(InFiles):
    """A file in tmp/. It goes when its task ends; where the task is then is the store's business."""

    keeps_times: ClassVar = False

    def put_off(self, store: Store, ref: Ref, due: float) -> float:  # noqa: ARG002  # the store keeps the time
        return due

    def bury(self, store: Store, ref: Ref, reason: str, attempts: int) -> None:  # noqa: ARG002  # the source tells the reason
        discard(store.disk, store.layout.path(str(ref)))

    def hand_over(self, store: Store, targets: dict[Ref, str]) -> dict[Ref, str]:  # noqa: ARG002  # none may go
        return {}


class HeldFiles(Files):
    """The source of all tasks that are held; `known` says since when each waits here."""

    __slots__ = ("_functions", "_given_up", "_journal", "_lost", "_waiting", "holder", "is_open")

    is_leased: ClassVar = True

    def __init__(self, journal: Journal, waiting: Waiting, functions: Functions) -> None:
        super().__init__(place=HeldPlace())
        self._journal = journal
        self._waiting = waiting
        self._functions = functions
        self._lost: set[str] = set()
        """Those with workers whose leases are lost: they do not wait here again."""
        self._given_up: OrderedDict[str, str] = OrderedDict()
        self.holder: LeaseHolder | None = None
        self.is_open = True
        """Whether tasks may wait here. If not, one that comes back from a worker goes back to the store."""

    # -- in --

    async def put(self, tasks: Sequence[HeldTask]) -> None:
        """Has tasks without bodies run here, in this order."""
        written = await self._journal.moves.run(lambda: self._write_all(tasks))
        self._enter([task for task in tasks if task.ref in written])
        for task in tasks:
            if task.ref not in written:
                self._send_back(task)

    async def put_with_body(self, task: HeldTask, body: AsyncIterator[bytes]) -> None:
        """Has a task run here when its body has come. Raises what `body` raises; then no file is left."""
        run, disk = self._journal.moves.run, self._journal.disk
        descriptor = -1
        try:
            descriptor = await run(lambda: _create(disk, self._journal.layout, task))
            offset = len(head(task.block))
            async for chunk in body:
                await run(partial(disk.write, descriptor, chunk, offset))
                offset += len(chunk)
            await run(lambda: _finish(disk, self._journal.layout, task, descriptor))
        except OSError as error:
            self._report(error)
            self._abandon(task, descriptor)
            self._send_back(task)
        except BaseException:
            self._abandon(task, descriptor)
            raise
        else:
            self._enter([task])

    def _write_all(self, tasks: Sequence[HeldTask]) -> set[str]:
        """Writes files, in the store thread. Returns the refs of those that the disk took."""
        disk, layout, written = self._journal.disk, self._journal.layout, set[str]()
        try:
            for task in tasks:
                _finish(disk, layout, task, _create(disk, layout, task))
                written.add(task.ref)
        except OSError as error:
            self._report(error)
        return written

    def _report(self, error: OSError) -> None:
        self._journal.report("move_failed", move="take from the store", reason=str(error))

    def _abandon(self, task: HeldTask, descriptor: int) -> None:
        disk, path = self._journal.disk, self._journal.layout.path(task.ref)

        def remove() -> None:
            if descriptor >= 0:
                disk.close(descriptor)
            discard(disk, path)

        self._journal.moves.submit(remove, lambda _result, _error: None)

    def _send_back(self, task: HeldTask) -> None:
        self._told.again(task.ref, time.time() + DISK_REST_SECONDS)

    def _enter(self, tasks: Sequence[HeldTask]) -> None:
        now = time.time()
        for task in tasks:
            self.known[task.ref] = now
            self.functions[task.ref] = self._functions.number(_function_in(task.block))
            self._waiting.ready.add(self, [task.ref], task.rank)
        if not self.is_open:
            self.give_back()
        self._waiting.changed()

    # -- back --

    @property
    def waiting(self) -> list[str]:
        """Those that no worker has."""
        return [ref for ref in self.known if ref not in self.in_flight]

    def close(self) -> None:
        """From now on no task waits here. Those that wait now go back to the store."""
        self.is_open = False
        self.give_back()

    def give_back(self, refs: Iterable[str] | None = None, due: float = 0.0) -> None:
        """Gives tasks that wait here back to the store; by default all of them."""
        for ref in self.waiting if refs is None else list(refs):
            self._forget(ref)
            self._waiting.ready.remove(self, ref)
            self._remove(ref)
            self._told.again(ref, due)

    def lose(self, refs: Iterable[str]) -> list[str]:
        """The leases of tasks are lost. Returns those that workers have, which go on."""
        here = [ref for ref in refs if ref in self.known]
        self.give_back(ref for ref in here if ref not in self.in_flight)
        self._lost.update(held := [ref for ref in here if ref in self.in_flight])
        return held

    def _remove(self, ref: str) -> None:
        disk, path = self._journal.disk, self._journal.layout.path(ref)
        self._journal.moves.submit(lambda: discard(disk, path), lambda _result, _error: None)

    def _forget(self, ref: str) -> bool:
        self.functions.pop(ref, None)
        self._lost.discard(ref)
        return self.known.pop(ref, None) is not None

    @property
    def _told(self) -> LeaseHolder:
        assert self.holder is not None  # noqa: S101  # without a store nothing is taken
        return self.holder

    def find(self, identity: str) -> str | None:
        """The file of the task of that id."""
        ref = f"tmp/{names.file_name(identity)}"
        return ref if ref in self.known else None

    def why_given_up(self, identity: str) -> str:
        """Why a task was given up here, of the last few; else empty. Only the store has it then."""
        return self._given_up.get(f"tmp/{names.file_name(identity)}", "")

    # -- as a source --

    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        # One that was given back, and taken again, may have several places in the queue.
        return [ref for ref in dict.fromkeys(refs) if ref in self.known and ref not in self.in_flight], []

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        here = [ref for ref in refs if ref in self.known]
        leaving = [ref for ref in here if ref in self._lost or not self.is_open]
        self.give_back(leaving)
        return [ref for ref in here if ref in self.known]

    def sequence_number(self, ref: Ref) -> int:  # noqa: ARG002  # they never have any
        return 0

    def accepted_at(self, ref: Ref) -> float:
        return self.known.get(str(ref), time.time())

    def withdraw(self, queue: Any, ref: Ref) -> int | None:  # noqa: ARG002  # only the store can end one that waits
        return None

    def put_off(self, ref: Ref, due: float) -> bool:
        if self._forget(str(ref)):
            self._journal.moves.submit(
                lambda: self._attempts_of_removed(str(ref)), lambda found, _error: self._told.again(str(ref), due, found)
            )
        return False

    def _attempts_of_removed(self, ref: str) -> int | None:
        """Removes a file, in the store thread. Returns how often its task was tried; None if that is unknown."""
        attempts = None
        with suppress(OSError):
            attempts = self.place.progress(self._journal.reader, ref).attempts
        discard(self._journal.disk, self._journal.layout.path(ref))
        return attempts

    def succeeded(self, refs: Sequence[Any]) -> None:
        if ended := [ref for ref in refs if self._forget(ref)]:
            self._told.ended(ended)

    def gave_up(self, ref: Ref, reason: str) -> None:
        if self._forget(str(ref)):
            self._given_up[str(ref)] = reason
            if len(self._given_up) > KEPT_REASONS:
                self._given_up.popitem(last=False)
            self._told.buried(str(ref), reason)

    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:  # noqa: ARG002  # nothing is to be made safe
        for ref in refs:
            if self._forget(ref):  # its file was removed by hand before it ran
                self._told.again(ref)


def _create(disk: Disk, layout: Layout, task: HeldTask) -> int:
    """A new file with the variables of a task; its descriptor."""
    descriptor = create(disk, layout, layout.path(task.ref))
    try:
        disk.write(descriptor, head(task.block, min(task.attempts, MAX_ATTEMPTS)), 0)
    except OSError:
        disk.close(descriptor)
        discard(disk, layout.path(task.ref))
        raise
    return descriptor


def _finish(disk: Disk, layout: Layout, task: HeldTask, descriptor: int) -> None:
    disk.close(descriptor)
    disk.set_mtime(layout.path(task.ref), min(task.ready_at, time.time()))


def _function_in(block: bytes) -> bytes | None:
    """The function that a task is for; None if its variables are malformed."""
    if names.FUNCTION not in block and names.LEGACY_FUNCTION not in block:
        return b""
    try:
        return names.function_named(dict(decode_variables(block)))
    except BadPacket:
        return None
