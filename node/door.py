"""The one door through which every request becomes a task, or is refused with a reason."""

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from spoolnode.node.disk import Disk, discard
from spoolnode.node.intake import INLINE_BODY, Outbound, PromptWaiter, Waiter
from spoolnode.node.layout import number_of, outbox_ref
from spoolnode.node.numbers import Key, Verdict
from spoolnode.node.parcel import LINK_ROOM, RECEIVER_ROOM
from spoolnode.node.spool import Spool
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables
from spoolnode.protocol.request import Terms

Route = Callable[[Terms], list[str]]
"""Where a task should go: names of outboxes, empty is here; more than one for a copy each."""

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

    def admit(self, block: bytes, body: bytes, terms: Terms, waiter: Waiter, link: Key | None = None) -> None:
        """Takes a task whose body is at hand; `waiter` is told. `link`: who sent it, and to what, when it came over a link.

        Raises:
            Refused: it is not taken; `waiter` is not told.
        """
        self.check(terms)
        if link is not None:
            arrival = self._arrival(block, terms, waiter, link)
            if arrival is not None:
                self._spool.intake.add(arrival.block, body, terms, arrival)
            return
        places = self._places(block, terms)
        if places == [""]:
            self._spool.intake.add(block, body, terms, waiter)
            return
        copies = Copies(waiter, len(places))
        for to in places:
            self._add_copy(to, block, body, terms, copies)

    def _places(self, block: bytes, terms: Terms) -> list[str]:
        if not terms.destination:
            return [""]
        places = self._route(terms)
        if places != [""] and terms.pickled:
            raise Refused(
                Reason.FORBIDDEN,
                f"pickled arguments (`args`, `kwargs`) stay on this machine; they cannot go to {terms.destination}",
            )
        if places != [""] and len(block) > MAX_BLOCK - LINK_ROOM:
            raise Refused(
                Reason.TOO_LARGE,
                f"the variables take {len(block)} bytes; those of a task for another node may take {MAX_BLOCK - LINK_ROOM}",
            )
        return places

    def _add_copy(self, to: str, block: bytes, body: bytes, terms: Terms, copies: "Copies") -> None:
        if not to:
            self._spool.intake.add(block, body, terms, copies)
            return
        number = self._spool.outbox.number(to)
        chosen = block if to == terms.destination else block + encode_variables([(names.TO, to.encode())])
        waiter = Leaving(self._spool, to, number, copies)
        self._spool.intake.add(chosen, body, terms, waiter, outbound=Outbound(to, number))

    def _arrival(self, block: bytes, terms: Terms, waiter: Waiter, link: Key) -> "Arrival | None":
        """A task that came over a link, to be stored; None when it is stored already, and `waiter` has been told so."""
        if not terms.number:
            raise Refused(Reason.MALFORMED, "a task came over a link without its number (`spool_seq`)")
        verdict = self._spool.taken.judge(link, terms.number)
        if verdict is Verdict.TAKEN:
            waiter.stored(KNOWN)
            self._spool.repeats += 1
            return None
        if verdict is Verdict.PENDING:
            raise Refused(Reason.BUSY, f"the task of number {terms.number} is being stored right now; ask again")
        if verdict is Verdict.STALE:
            raise Refused(
                Reason.CONFLICT,
                f"the number {terms.number} is below what its sender said to be over: an old packet, or two nodes with one id",
            )
        arrival = Arrival(self._spool, link, terms.number, block, waiter)
        self._spool.taken.begin(link, terms.number)
        return arrival

    def admit_prompt(self, block: bytes, terms: Terms, waiter: PromptWaiter) -> None:
        """Takes a task for here that has no body, for a waiter in a hurry. Raises `Refused`."""
        self.check(terms)
        self._spool.intake.add_prompt(block, terms, waiter)

    def wants_upload(self, terms: Terms) -> bool:
        """Whether the body is too large to be held in memory."""
        return terms.body > INLINE_BODY

    def upload(self, block: bytes, terms: Terms, waiter: Waiter, link: Key | None = None) -> "Upload | None":
        """A task whose body is written to disk as it comes; None when it is stored already, and `waiter` has been told so.

        Raises:
            Refused: it is not taken.
        """
        self.check(terms)
        arrival, places = None, [""]
        if link is None:
            places = self._places(block, terms)
        else:
            arrival = self._arrival(block, terms, waiter, link)
            if arrival is None:
                return None
            block = arrival.block
        return Upload(self._spool, self._executor, next(self._uploads), block, terms, places, self._min_free, arrival)

    def close(self) -> None:
        """Returns when no upload is being written."""
        self._executor.shutdown()


KNOWN = "known"
"""The id told for a task that is stored already; its sender knows the real one."""


class Copies:
    """Waits for all copies of one task, then tells the waiter of the whole."""

    def __init__(self, waiter: Waiter, count: int) -> None:
        self._waiter = waiter
        self._open = count
        self._stored: list[str] = []
        self._refusal: Refused | None = None

    def stored(self, task_id: str, copies: int = 1) -> None:
        """One is safe."""
        del copies
        self._stored.append(task_id)
        self._one_less()

    def refused(self, refusal: Refused) -> None:
        """One was not taken: the disk fails."""
        self._refusal = refusal
        self._one_less()

    def _one_less(self) -> None:
        self._open -= 1
        if self._open:
            return
        if self._stored:
            self._waiter.stored(self._stored[0], len(self._stored))  # what is stored will run, so it is not refused
        elif self._refusal is not None:
            self._waiter.refused(self._refusal)


class Leaving:
    """A task for another node on its way to this disk: gives its number back when it does not get there."""

    def __init__(self, spool: Spool, to: str, number: int, waiter: Waiter) -> None:
        self._spool = spool
        self._to = to
        self._number = number
        self._waiter = waiter

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe."""
        self._waiter.stored(task_id, copies)

    def refused(self, refusal: Refused) -> None:
        """Nobody will ever send it."""
        self._spool.outbox.refused(self._to, self._number)
        self._waiter.refused(refusal)


class Arrival:
    """A task that came over a link, on its way to this disk: its number is taken when it is safe there, and not before."""

    def __init__(self, spool: Spool, link: Key, number: int, block: bytes, waiter: Waiter) -> None:
        self._spool = spool
        self._link = link
        self._number = number
        self._waiter = waiter
        self.block = block + _sender(link)
        """Its variables, and who sent it."""
        if len(self.block) > MAX_BLOCK:
            raise Refused(
                Reason.TOO_LARGE, f"the variables take {len(block)} bytes; over a link they may take {MAX_BLOCK - RECEIVER_ROOM}"
            )

    def taken(self) -> None:
        """It is safe, and proves its number."""
        self._spool.taken.take(self._link, self._number)

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe."""
        self.taken()
        self._waiter.stored(task_id, copies)

    def forget(self) -> None:
        """It may come again."""
        self._spool.taken.refuse(self._link, self._number)

    def refused(self, refusal: Refused) -> None:
        """The disk did not take it."""
        self.forget()
        self._waiter.refused(refusal)


@lru_cache(maxsize=1024)
def _sender(link: Key) -> bytes:
    """The variables that say who sent a task."""
    return encode_variables([(names.ORIGIN, link[0].encode()), (names.TO, link[1].encode())])


class Upload:
    """One task on its way into a file of its own."""

    def __init__(
        self, spool: Spool, executor: ThreadPoolExecutor, serial: int, block: bytes, terms: Terms, places: list[str],
        min_free: int = 0, arrival: Arrival | None = None,
    ) -> None:  # fmt: skip
        self._spool = spool
        self._executor = executor
        self._disk: Disk = spool.keeper.disk
        self._terms = terms
        self._places = places
        self._arrival = arrival
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
        await self._do(self._seal)
        try:
            copies = 1
            if self._arrival is not None:
                await self._finish_arrival(self._arrival)
            else:
                copies = await self._finish_copies()
        except OSError as error:
            self.abort()
            raise _disk_refusal(error) from error
        self._spool.counts.accepted += 1
        waiter.stored(self._identity, copies)

    async def _finish_copies(self) -> int:
        """How many were placed; OSError when none was."""
        for index, to in enumerate(self._places):
            ref = self._target(to)
            try:
                await self._place(ref, to, is_last=index + 1 == len(self._places))
            except OSError:
                if not index:
                    raise
                self.abort()
                return index  # what is stored will run, so it cannot be called refused
        return len(self._places)

    async def _place(self, ref: str, to: str, *, is_last: bool) -> None:
        try:
            await self._spool.place_file(ref, lambda: self._publish(ref, is_last), due=self._due(), queued=not to)
        except OSError:
            if to:
                self._spool.outbox.refused(to, number_of(ref))
            raise
        if to:
            self._spool.outbox.accept_file(ref)

    async def _finish_arrival(self, arrival: Arrival) -> None:
        """The task is safe in a place that proves its number. It runs from another one, once the number itself is safe."""
        ref = f"arriving/{names.file_name(self._identity)}"
        await self._spool.place_file(ref, lambda: self._publish(ref, is_last=True), queued=False)
        arrival.taken()
        self._spool.publish(ref, self._target(""), self._due())

    def abort(self) -> None:
        """The rest will not come: leaves nothing behind."""
        if self._arrival is not None:
            self._arrival.forget()
        try:
            self._executor.submit(self._discard)
        except RuntimeError:
            self._discard()  # the door is closed for good, and nobody writes any more

    def _target(self, to: str) -> str:
        # Copies are tasks of their own, each with an id; the first one has the id that is told.
        identity = self._identity if to == self._places[0] else names.task_id(self._spool.node_id, self._spool.number(), 0)
        if to:
            return outbox_ref(to, identity, self._spool.outbox.number(to))
        name = names.file_name(identity)
        return name if self._terms.rank == names.LAST else f"{self._terms.rank}/{name}"

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

    def _seal(self) -> None:
        if self._pending:
            self._write(self._pending)
        if self._due():
            self._disk.set_mtime(self._temporary, self._due())
        if self._spool.keeper.sync:
            self._disk.sync(self._descriptor)
        descriptor, self._descriptor = self._descriptor, -1
        self._disk.close(descriptor)

    def _publish(self, ref: str, is_last: bool) -> None:
        layout = self._spool.layout
        self._disk.make_directory(layout.directory_of(ref))
        if is_last:
            self._disk.rename(self._temporary, layout.path(ref))
        else:
            self._spool.keeper.copy_file(self._temporary, ref)
        if not self._spool.keeper.sync:
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

    def _discard(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._disk.close(descriptor)
        discard(self._disk, self._temporary)


def _disk_refusal(error: OSError) -> Refused:
    return Refused(Reason.FULL, f"the disk of this node failed ({error.strerror}); nothing was stored")
