"""A task that gets a file of its own: its body is too large for a batch and written as it comes, or it asks for one."""

import asyncio
import errno
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.layout import create, number_of, outbox_ref, ref_id, waiting_ref
from spoolnode.node.ingress.waiters import Arrival
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.group_commit import Waiter
from spoolnode.node.spool.tasks import WaitingFile
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.request import Terms


class Upload:
    """One task on its way into a file of its own."""

    def __init__(
        self, storage: Storage, executor: ThreadPoolExecutor, serial: int, block: bytes, terms: Terms, places: list[str],
        min_free: int = 0, arrival: Arrival | None = None,
    ) -> None:  # fmt: skip
        self._storage = storage
        self._executor = executor
        self._disk: Disk = storage.journal.store.disk
        self._terms = terms
        self._places = places
        self._arrival = arrival
        self._min_free = min_free
        self.over: Callable[[Upload], None] = lambda _upload: None
        """Called when the upload has ended, whole or not."""
        self.caller = ""
        """The address that it came from, for its story."""
        self._identity = storage.journal.new_id(serial)
        self._temporary = storage.journal.layout.path(f"tmp/upload.{serial}")
        self._descriptor = -1
        self._offset = 0
        self._pending: bytes = spoolfile.head(block)

    def __repr__(self) -> str:
        places = ", ".join(to or "here" for to in self._places)
        return f"<upload to {self._temporary}, {self._offset} bytes written, for {places}>"

    async def write(self, data: bytes) -> None:
        """Writes the next piece of the body. Raises `Refused` when the disk does not take it; nothing is left then."""
        piece, self._pending = self._pending + data, b""
        await self._do(lambda: self._write(piece))

    async def finish(self, waiter: Waiter) -> None:
        """The body is complete; `waiter` is told when the task is safe. Raises `Refused`."""
        await self._do(self._seal)
        told, copies = self._identity, 1
        try:
            if self._arrival is not None:
                await self._finish_arrival(self._arrival)
            else:
                told, copies = await self._finish_copies()
        except OSError as error:
            self.abort()
            raise _disk_refusal(error) from error
        self.over(self)
        self._storage.journal.counts.accepted += copies > 0
        waiter.stored(told, copies)

    async def _finish_copies(self) -> tuple[str, int]:
        """Returns the id to tell, and how many copies wait. Raises OSError if none was stored."""
        ids: list[str] = []
        copies = 0
        for index, to in enumerate(self._places):
            ref, is_last, first = self._target(to), index + 1 == len(self._places), ""
            try:
                if to:
                    await self._place_outbound(ref, to, is_last)
                else:
                    first = await self._place_here(ref, is_last)
            except OSError:
                if not index:
                    raise
                self.abort()
                break  # copies that are stored will run, so this is not a refusal
            ids.append(first or ref_id(ref))
            copies += not first
        return ids[0], copies

    async def _place_here(self, ref: str, is_last: bool) -> str:
        """Returns the id of the task that waits in place of this one; empty if it waits itself."""
        first = await self._storage.spool.duplicates.place(self._waiting(ref), lambda: self._publish(ref, is_last))
        if not first:
            self._tell(ref)
        return first

    async def _place_outbound(self, ref: str, to: str, is_last: bool) -> None:
        journal, outbox = self._storage.journal, self._storage.outbox
        try:
            with journal.placing():
                await journal.moves.run(lambda: self._publish(ref, is_last))
        except OSError:
            outbox.refused(to, number_of(ref))
            raise
        self._tell(ref, to=to)
        outbox.accept_file(ref, time.time())

    async def _finish_arrival(self, arrival: Arrival) -> None:
        """Stores the task where its name proves its number. It is published from there once the number itself is safe."""
        journal, ref = self._storage.journal, f"arriving/{names.file_name(self._identity)}"
        with journal.placing():
            await journal.moves.run(lambda: self._publish(ref, is_last=True))
        arrival.taken()
        self._tell(ref)
        self._storage.spool.arrivals.publish(ref, self._waiting(self._target("")))

    def _waiting(self, ref: str) -> WaitingFile:
        """The task in that file, as the spool takes it."""
        return WaitingFile(ref, self._due(), self._terms.key)

    def _tell(self, ref: str, **detail: str) -> None:
        """Begins the story of the task in that file."""
        origins = {ref: self._terms.origin_id} if self._terms.origin_id else {}
        functions = {ref: self._terms.function} if self._terms.function else {}
        self._storage.journal.story.accepted(None, [ref], [self.caller], origins, functions, **detail)

    def abort(self) -> None:
        """Removes all traces: the rest will not come."""
        self.over(self)
        if self._arrival is not None:
            self._arrival.forget()
        try:
            self._executor.submit(self._discard)
        except RuntimeError:
            self._discard()  # the admission is closed for good, and nothing is written any more

    def _target(self, to: str) -> str:
        # Copies are tasks of their own, each with an id; the first one has the id that is told.
        identity = self._identity if to == self._places[0] else self._storage.journal.new_id(0)
        if to:
            return outbox_ref(to, identity, self._storage.outbox.number(to))
        return waiting_ref(identity, self._terms.rank)

    def _due(self) -> float:
        return self._terms.due if self._terms.due > time.time() else 0.0

    async def _do(self, job: Callable[[], None]) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._executor, job)
        except RuntimeError:
            self.abort()
            raise Refused(Reason.BUSY, "this node is stopping") from None
        except OSError as error:
            self.abort()
            raise _disk_refusal(error) from error

    def _write(self, piece: bytes) -> None:
        # Looked at for each piece: many bodies may be coming at once, and each of them alone would have fitted.
        if self._min_free and self._disk.free(self._storage.journal.layout.root) < self._min_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._descriptor < 0:
            self._descriptor = create(self._disk, self._storage.journal.layout, self._temporary)
        self._disk.write(self._descriptor, piece, self._offset)
        self._offset += len(piece)

    def _seal(self) -> None:
        if self._pending:
            self._write(self._pending)
        if self._due():
            self._disk.set_mtime(self._temporary, self._due())
        if self._storage.journal.store.sync:
            self._disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        self._disk.close(descriptor)

    def _publish(self, ref: str, is_last: bool) -> None:
        layout = self._storage.journal.layout
        if "/" in ref:
            self._disk.make_directory(layout.directory_of(ref))
        self._name(ref, is_last)
        if not self._storage.journal.store.sync:
            return
        try:
            directory = layout.directory_of(ref)
            self._disk.sync_directory(directory)
            while directory != layout.root:
                directory = os.path.dirname(directory)
                self._disk.sync_directory(directory)
        except OSError:
            discard(self._disk, layout.path(ref))  # it is refused, so it must not run
            raise

    def _name(self, ref: str, is_last: bool) -> None:
        if is_last:
            self._disk.rename(self._temporary, self._storage.journal.layout.path(ref))
        else:
            self._storage.journal.store.copy_file(self._temporary, ref)

    def _discard(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)
        discard(self._disk, self._temporary)


def _disk_refusal(error: OSError) -> Refused:
    return Refused(Reason.FULL, f"the disk of this node failed ({error.strerror}); nothing was stored")
