"""The one door through which every request becomes a task, or is refused with a reason."""

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from spoolnode.node.background import spawn
from spoolnode.node.disk import Disk, discard
from spoolnode.node.intake import INLINE_BODY, PromptWaiter, Waiter
from spoolnode.node.spool import Spool
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.request import Terms

Route = Callable[[Terms], str]
"""Where a task should go: empty is here, anything else is the name of its outbox."""

UPLOAD_THREADS = 4
"""Large bodies written at once; the others wait their turn, in the kernel's socket buffers."""


class Door:
    """Checks what every request must pass, and hands it to the intake, to a file of its own, or to an outbox."""

    def __init__(self, spool: Spool, route: Route, *, max_body: int, min_free: int) -> None:
        self._spool = spool
        self._route = route
        self._max_body = max_body
        self._min_free = min_free
        self._real_root = os.path.realpath(spool.layout.root).encode()
        self._executor = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        self._uploads = itertools.count(1)
        self.free = 1 << 62
        """Bytes free, as last looked at."""
        self.closed = ""
        """Why nothing is taken in; empty while the door is open."""

    def check(self, terms: Terms) -> None:
        """Raises `Refused` when a request with these terms is not taken, whatever its variables and body."""
        if self.closed:
            raise Refused(Reason.BUSY, self.closed)
        if terms.body > self._max_body:
            raise Refused(
                Reason.TOO_LARGE, f"the body has {terms.body} bytes, this node takes at most {self._max_body} (--max-body)"
            )
        if self.free - terms.body < self._min_free:
            body = f" after a body of {terms.body}" if terms.body else ""
            raise Refused(
                Reason.FULL,
                f"the disk of this node has {self.free} bytes free; it takes tasks as long as {self._min_free} remain"
                f"{body} (--min-free)",
            )
        if terms.spooler and terms.spooler != self._real_root:
            shown = terms.spooler[:200].decode("utf-8", "backslashreplace")
            raise Refused(Reason.MALFORMED, f"`spooler` is {shown!r}; the spool of this node is {self._real_root.decode()!r}")

    def admit(self, block: bytes, body: bytes, terms: Terms, waiter: Waiter) -> None:
        """Takes a task whose body is at hand; `waiter` is told.

        Raises:
            Refused: it is not taken; `waiter` is not told.
        """
        self.check(terms)
        if terms.destination and self._route(terms):
            upload = self.upload(block, terms)
            spawn(upload.all_of(body, waiter))
        else:
            self._spool.intake.add(block, body, terms, waiter)

    def admit_prompt(self, block: bytes, terms: Terms, waiter: PromptWaiter) -> None:
        """Takes a task for here that has no body, for a waiter in a hurry. Raises `Refused`."""
        self.check(terms)
        self._spool.intake.add_prompt(block, terms, waiter)

    def wants_upload(self, terms: Terms) -> bool:
        """Whether the body is too large to be held in memory."""
        return terms.body > INLINE_BODY

    def upload(self, block: bytes, terms: Terms) -> "Upload":
        """A task whose body is written to disk as it comes. Raises `Refused`."""
        self.check(terms)
        destination = self._route(terms) if terms.destination else ""
        return Upload(self._spool, self._executor, next(self._uploads), block, terms, destination, self._min_free)

    def close(self) -> None:
        """Returns when no upload is being written."""
        self._executor.shutdown()


class Upload:
    """One task on its way into a file of its own."""

    def __init__(
        self, spool: Spool, executor: ThreadPoolExecutor, serial: int, block: bytes, terms: Terms, destination: str,
        min_free: int = 0,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._executor = executor
        self._disk: Disk = spool.keeper.disk
        self._terms = terms
        self._destination = destination
        self._min_free = min_free
        self._identity = names.task_id(spool.node_id, spool.number(), serial)
        self._temporary = spool.layout.path(f"tmp/upload.{serial}")
        self._descriptor = -1
        self._offset = 0
        self._pending: bytes = spoolfile.head(block)

    async def write(self, data: bytes) -> None:
        """Writes the next piece of the body. Raises `Refused` when the disk does not take it; nothing is left then."""
        piece, self._pending = self._pending + data, b""
        await self._do(lambda: self._write(piece))

    async def finish(self, waiter: Waiter) -> None:
        """The body is complete; `waiter` is told when the task is safe. Raises `Refused`."""
        ref, directory = self._target()
        await self._do(lambda: self._seal(directory))
        try:
            await self._spool.place_file(ref, lambda: self._publish(ref), due=self._due(), queued=not self._destination)
        except OSError as error:
            self.abort()
            raise _disk_refusal(error) from error
        self._spool.counts.accepted += 1
        waiter.stored(self._identity)

    async def all_of(self, body: bytes, waiter: Waiter) -> None:
        """Writes and finishes in one go; `waiter` is told in any case."""
        try:
            await self.write(body)
            await self.finish(waiter)
        except Refused as refusal:
            waiter.refused(refusal)
        self._spool.intake.flushed()

    def abort(self) -> None:
        """The rest will not come: leaves nothing behind."""
        try:
            self._executor.submit(self._discard)
        except RuntimeError:
            self._discard()  # the door is closed for good, and nobody writes any more

    def _target(self) -> tuple[str, str]:
        name = names.file_name(self._identity)
        if self._destination:
            return f"outbox/{self._destination}/{name}", f"outbox/{self._destination}"
        if self._terms.rank != names.LAST:
            return f"{self._terms.rank}/{name}", str(self._terms.rank)
        return name, ""

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
        if self._min_free and self._disk.free(self._spool.layout.root) < self._min_free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._descriptor < 0:
            self._descriptor = self._disk.create(self._temporary)
        self._disk.write(self._descriptor, piece, self._offset)
        self._offset += len(piece)

    def _seal(self, directory: str) -> None:
        if self._pending:
            self._write(self._pending)
        if self._due():
            self._disk.set_mtime(self._temporary, self._due())
        if self._spool.keeper.sync:
            self._disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        self._disk.close(descriptor)
        if directory:
            self._disk.make_directory(self._spool.layout.path(directory))

    def _publish(self, ref: str) -> None:
        layout = self._spool.layout
        self._disk.rename(self._temporary, layout.path(ref))
        if not self._spool.keeper.sync:
            return
        try:
            self._disk.sync_directory(layout.directory_of(ref))
            if "/" in ref:
                self._disk.sync_directory(os.path.dirname(layout.directory_of(ref)))
        except OSError:
            discard(self._disk, layout.path(ref))  # it is refused, so it must not run
            raise

    def _discard(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)
        discard(self._disk, self._temporary)


def _disk_refusal(error: OSError) -> Refused:
    return Refused(Reason.FULL, f"the disk of this node failed ({error.strerror}); nothing was stored")
