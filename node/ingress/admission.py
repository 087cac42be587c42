"""Admission: the one place where every request becomes a task, or is refused with a reason."""

import itertools
import os
import time
from collections.abc import Callable

from spoolnode.node.commons import COMMONS
from spoolnode.node.disk.threads import UploadThreads
from spoolnode.node.ingress.pieces import LEAST_PIECE, Gathered
from spoolnode.node.ingress.shared import Sharing
from spoolnode.node.ingress.shared_upload import SharedUpload
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.ingress.waiters import KNOWN, Arrival, Copies, Leaving
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.group_commit import INLINE_BODY, PromptWaiter, Waiter
from spoolnode.node.spool.sequence import RUN_BITS, WATERMARK_AHEAD, Key, Verdict
from spoolnode.node.spool.tasks import Outbound
from spoolnode.node.spool.waiting_keys import MOST_KEYS
from spoolnode.protocol import names
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.forward import LINK_ROOM
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables
from spoolnode.protocol.request import Terms

Route = Callable[[Terms], list[str]]
"""Where a task goes: the names of outboxes, or an empty name for this node. Each gets a copy."""
Take = Callable[[bytes, bytes, Terms, Waiter, Key | None, str], None]
"""Takes a whole task: its variables, its body, its terms, its waiter, the link that it came over, and who sent it."""

MOST_LINKS = 4096
"""Links whose numbers are remembered: enough for 1,024 peers, each under every name by which it knows this node."""

MAX_UPLOADS = 1024
"""Large bodies that may arrive at once; each has an open file."""

UPLOAD_THREADS = 4
"""Large bodies that are written at once; the others wait in the kernel's socket buffers."""


class InlineTask:
    """A task whose body is gathered in memory; both become a record."""

    __slots__ = ("_block", "_caller", "_link", "_take", "_terms", "_waiter")

    def __init__(self, take: Take, block: bytes, terms: Terms, waiter: Waiter, link: Key | None, caller: str) -> None:
        self._take = take
        self._block = block
        self._terms = terms
        self._waiter = waiter
        self._link = link
        self._caller = caller

    def __repr__(self) -> str:
        return f"<inline task with a body of {self._terms.body} bytes>"

    def take(self, body: bytes) -> None:
        """Enters the task with its body. Raises `Refused`: the node may have stopped, or its disk filled, meanwhile."""
        self._take(self._block, body, self._terms, self._waiter, self._link, self._caller)


class Admission:
    """Checks what every request must pass, and hands it to the group commit, to a file of its own, or to an outbox."""

    def __init__(
        self, storage: Storage, route: Route, threads: UploadThreads | None = None, *, max_body: int, min_free: int,
        sharing: Sharing | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            threads: write large bodies; tests bring their own.
            sharing: the way into a common store.
        """
        self._storage = storage
        self._route = route
        self._sharing = sharing
        self._max_body = max_body
        self._min_free = min_free
        # As it was named, and without symbolic links: /var/run is one, to /run.
        self._roots = [os.fsencode(os.path.realpath(storage.journal.layout.root)), os.fsencode(storage.journal.layout.root)]
        self._executor = threads or UploadThreads(UPLOAD_THREADS)
        self._serials = itertools.count(1)
        self.uploading: set[Upload] = set()
        """Large bodies on their way."""
        self._max_uploads = MAX_UPLOADS
        self.gathered = Gathered()
        """Bodies on their way, in memory."""
        self.free = 1 << 62
        """Free bytes on the disk, as last told."""
        self.closed = ""
        """Why no task is taken; empty while tasks are taken."""
        self._is_over = False
        """Whether it is closed for good."""

    def __repr__(self) -> str:
        state = f"closed: {self.closed}" if self.closed else "open"
        return f"<admission, {state}, {self.free} bytes free, {len(self.uploading)} uploads, {self.gathered!r}>"

    def pause(self, reason: str) -> None:
        """Takes no tasks, for a reason; an empty reason: takes tasks again, unless the node stops."""
        if not self._is_over:
            self.closed = reason

    def stop(self, reason: str) -> None:
        """Takes no tasks any more."""
        self._is_over, self.closed = True, reason

    def note_free(self, free: int) -> None:
        """Notes how many bytes the disk has left."""
        self.free = free

    @property
    def is_low(self) -> bool:
        """Whether the disk has too little left for any task."""
        return self.free < self._min_free

    def limit_uploads(self, limit: int) -> None:
        """Lowers the number of large bodies that may be on their way at once; each has a file open."""
        self._max_uploads = min(self._max_uploads, limit)

    def open(
        self, block: bytes, terms: Terms, waiter: Waiter, link: Key | None = None, caller: str = ""
    ) -> InlineTask | Upload | None:
        """Decides about a request, and takes its task if it has no body.

        Args:
            block: its variables.
            terms: the terms that these variables state.
            waiter: hears what becomes of the task.
            link: the sender and the destination of a task that came over a link.
            caller: the address that it came from, for its story.

        Returns:
            A task that waits for its body, in memory or in a file. None for a task that does not: it has none, or it is
            stored already.

        Raises:
            Refused: it is not taken; `waiter` does not hear this.
        """
        if terms.body or terms.own_file:
            return self._with_body(block, terms, waiter, link, caller)
        self._take(block, b"", terms, waiter, link, caller)
        return None

    def open_prompt(self, block: bytes, terms: Terms, waiter: PromptWaiter, caller: str) -> None:
        """Takes a task for this node without a body and without pickles, for a waiter in a hurry.

        Most requests pass here, so nothing is asked that the listener has asked. Raises `Refused`, as `open` does.
        """
        self._check(terms)
        if self._sharing is not None:
            self._sharing.share(COMMONS, block, b"", terms, waiter, caller, prompt=waiter)
        else:
            self._storage.spool.group_commit.add(block, b"", terms, waiter, caller, waiter)

    def _with_body(
        self, block: bytes, terms: Terms, waiter: Waiter, link: Key | None, caller: str
    ) -> InlineTask | Upload | None:  # fmt: skip
        self._check(terms)
        is_crowded = self.gathered.is_crowded and terms.body > LEAST_PIECE
        if not (terms.body > INLINE_BODY or terms.own_file or is_crowded):
            return InlineTask(self._take, block, terms, waiter, link, caller)
        if terms.body and len(self.uploading) >= self._max_uploads:
            raise Refused(Reason.BUSY, f"this node is taking {len(self.uploading)} large bodies already; ask again")
        return self._upload(block, terms, waiter, link, caller)

    def _check(self, terms: Terms) -> None:
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
        if terms.key and len(self._storage.spool.keys) >= MOST_KEYS:
            raise Refused(
                Reason.BUSY, f"{len(self._storage.spool.keys)} tasks with a `spool_key` are here already; ask again later"
            )
        if terms.spooler and terms.spooler not in self._roots:
            shown = terms.spooler[:200].decode("utf-8", "backslashreplace")
            ours = self._roots[0].decode("utf-8", "backslashreplace")
            raise Refused(Reason.MALFORMED, f"`spooler` is {shown!r}; the spool of this node is {ours!r}")

    def _take(self, block: bytes, body: bytes, terms: Terms, waiter: Waiter, link: Key | None, caller: str) -> None:
        """Enters a whole task: as a record of a batch, or as several. Raises `Refused`."""
        self._check(terms)
        if terms.pickled:
            block = _told_apart(block)
        if self._sharing is not None and self._sharing.takes(terms):
            self._share(self._sharing, block, body, terms, waiter, link, caller)
            return
        if link is not None:
            arrival = self._arrival(block, terms, waiter, link)
            if arrival is not None:
                self._storage.spool.group_commit.add(arrival.block, body, terms, arrival, caller)
            return
        places = self._places(block, terms)
        if places == [""]:
            self._storage.spool.group_commit.add(block, body, terms, waiter, caller)
            return
        copies = Copies(waiter, len(places))
        for to in places:
            self._add_copy(to, block, body, terms, copies, caller)

    def _share(
        self, sharing: Sharing, block: bytes, body: bytes, terms: Terms, waiter: Waiter, link: Key | None, caller: str
    ) -> None:  # fmt: skip
        """Enters a whole task: into the common store. Raises `Refused`."""
        told = waiter if link is None else self._arrival(block, terms, waiter, link)
        if told is None:
            return
        is_linked = link is not None
        places = sharing.places(terms, is_linked=is_linked)
        if len(places) > 1:
            told = Copies(told, len(places))
        for to in places:
            if sharing.is_apart(to):
                self._add_copy(to, block, body, terms, told, caller)
            else:
                sharing.share(to, block, body, terms, told, caller, is_linked=is_linked)

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

    def _add_copy(self, to: str, block: bytes, body: bytes, terms: Terms, copies: Waiter, caller: str) -> None:
        if not to:
            self._storage.spool.group_commit.add(block, body, terms, copies, caller)
            return
        number = self._storage.outbox.number(to)
        chosen = block if to == terms.destination else block + encode_variables([(names.TO, to.encode())])
        waiter = Leaving(self._storage, to, number, copies)
        self._storage.spool.group_commit.add(chosen, body, terms, waiter, caller, outbound=Outbound(to, number))

    def hear_watermark(self, link: Key, low_watermark: int) -> None:
        """Forgets the numbers of a link below its sender's `low_watermark`.

        A link that has sent no task has no numbers to forget: a hello alone costs no memory.
        """
        if link in self._storage.journal.received and low_watermark >> RUN_BITS <= time.time() + WATERMARK_AHEAD:
            self._storage.journal.received.raise_watermark(link, low_watermark)

    def _meet(self, link: Key) -> None:
        """Notes the first task of a link. Raises `Refused` if there is no room to remember its numbers."""
        received = self._storage.journal.received
        if len(received) >= MOST_LINKS:
            received.forget_idle()
        if len(received) >= MOST_LINKS:
            raise Refused(
                Reason.BUSY,
                f"this node remembers the numbers of {len(received)} links already, and takes no tasks from another "
                "sender. Its operator can stop it and remove `taken` in the spool: then a task whose answer was lost may run "
                "twice",
            )
        received.raise_watermark(link, 0)

    def _arrival(self, block: bytes, terms: Terms, waiter: Waiter, link: Key) -> "Arrival | None":
        """A task that came over a link, to be stored; None when it is stored already, and `waiter` has been told so."""
        if not terms.number:
            raise Refused(Reason.MALFORMED, "a task came over a link without its number (`spool_seq`)")
        if link not in self._storage.journal.received:
            self._meet(link)
        verdict = self._storage.journal.received.judge(link, terms.number)
        if verdict is Verdict.RECEIVED:
            waiter.stored(KNOWN)
            self._storage.journal.counts.repeats += 1
            return None
        if verdict is Verdict.PENDING:
            raise Refused(Reason.BUSY, f"the task of number {terms.number} is being stored right now; ask again")
        if verdict is Verdict.STALE:
            raise Refused(
                Reason.CONFLICT,
                f"the number {terms.number} is below what its sender said to be over: an old packet, or two nodes with one id",
            )
        arrival = Arrival(self._storage, link, terms.number, block, waiter)
        self._storage.journal.received.begin(link, terms.number)
        return arrival

    def keep_out(self, link: Key, number: int) -> Verdict:
        """Has a new number count as taken, so that its task is not stored if it still comes. Returns the judgement of it before.

        This needs no disk: a task on its way is on a connection of this process. Raises `Refused`.
        """
        received = self._storage.journal.received
        if link not in received:
            self._meet(link)
        verdict = received.judge(link, number)
        if verdict is Verdict.NEW:
            received.take(link, number)
        return verdict

    def _upload(self, block: bytes, terms: Terms, waiter: Waiter, link: Key | None, caller: str) -> Upload | None:
        """A task that is written to a file of its own as it comes; None when it is stored already, and `waiter` was told so."""
        if terms.pickled:
            block = _told_apart(block)
        arrival, places = None, [""]
        if link is None:
            places = self._places(block, terms)
        else:
            arrival = self._arrival(block, terms, waiter, link)
            if arrival is None:
                return None
            block = arrival.block
        upload = self._new_upload(block, terms, places, arrival)
        upload.caller = caller
        self.uploading.add(upload)
        upload.over = self.uploading.discard
        return upload

    def _new_upload(self, block: bytes, terms: Terms, places: list[str], arrival: Arrival | None) -> Upload:
        sharing, serial = self._sharing, next(self._serials)
        if sharing is None or not sharing.takes(terms) or any(map(sharing.is_apart, places)):
            return Upload(self._storage, self._executor, serial, block, terms, places, self._min_free, arrival)
        upload = SharedUpload(self._storage, self._executor, serial, block, terms, [COMMONS], self._min_free, arrival)
        upload.sharing, upload.block = sharing, block
        return upload

    async def close(self) -> None:
        """Returns when no upload is being written."""
        await self._executor.close()


_PICKLED = encode_variables([(names.PICKLED, b"1")])


def _told_apart(block: bytes) -> bytes:
    """Pickled variables with a mark. Such a request can only come from this machine."""
    if len(block) + len(_PICKLED) > MAX_BLOCK:
        raise Refused(
            Reason.TOO_LARGE,
            f"the variables take {len(block)} bytes; with pickled arguments they may take {MAX_BLOCK - len(_PICKLED)}",
        )
    return block + _PICKLED
