"""A task with a large body on its way into the common store: its file here is read once it is whole, and then goes."""

import asyncio
from collections.abc import AsyncIterator

from spoolnode.node.commons import COMMONS, SharedTask
from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.layout import outbox_ref, ref_id
from spoolnode.node.ingress.shared import ALL, Sharing, asked_now, shared_block
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.ingress.waiters import Copies
from spoolnode.node.spool.group_commit import Waiter
from spoolnode.node.spool.reader import Location
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.packet import HEADER

PIECE = 256 << 10
"""Bytes that are read at a time."""


class SharedUpload(Upload):
    """One such task. What of it the store did not take is kept, under the ids that it had there, as any other upload is."""

    sharing: Sharing
    block: bytes
    """Its variables, as they lie in its file."""
    _kept: dict[str, str]
    """The ids of what is kept, with their destinations."""
    _asked: list[tuple[bytes, bytes]]

    async def finish(self, waiter: Waiter) -> None:
        """The body is complete; `waiter` is told when the task is safe. Raises `Refused`."""
        await self._do(self._write_rest)
        is_linked = self._arrival is not None
        try:
            tasks = self._tasks(is_linked=is_linked)
        except Refused:
            self.abort()
            raise
        fates = [_Fate() for _ in tasks]
        for task, fate in zip(tasks, fates, strict=True):
            self.sharing.begin(task, fate)
        await asyncio.gather(*(fate.known.wait() for fate in fates))
        stored = [(task, fate) for task, fate in zip(tasks, fates, strict=True) if not fate.reason]
        for task, fate in stored:
            if not fate.is_duplicate:
                self.sharing.tell(task, self._terms.function, self.caller)
        count = sum(not fate.is_duplicate for _, fate in stored)
        if missing := [(task, fate) for task, fate in zip(tasks, fates, strict=True) if fate.reason]:
            refusal = self.sharing.refusal(missing[0][1].reason, is_linked=is_linked, may_have_it=missing[0][1].may_have_it)
            if refusal is None:
                self._asked = asked_now(any(fate.may_have_it for _, fate in missing))
                await self._keep([task for task, _ in missing], waiter, stored[0][0].id if stored else "", count)
                return
            if not stored:
                self.abort()
                raise refusal
        self._let_go()
        waiter.stored(stored[0][0].id, count)

    def _tasks(self, *, is_linked: bool) -> list[SharedTask]:
        """The copies of the task that go into the store. Raises `Refused`."""
        cleaned, sharing, terms = shared_block(self.block), self.sharing, self._terms
        body = _UploadedBody(self, HEADER.size + len(self.block), terms.body)
        first, *others = sharing.places(terms, is_linked=is_linked)
        identity = sharing.new_id(terms) if is_linked else self._identity
        return [
            sharing.task(cleaned, body, terms, first, identity),
            *(sharing.task(cleaned, body, terms, to, sharing.new_id(terms)) for to in others),
        ]

    async def _keep(self, missing: list[SharedTask], waiter: Waiter, stored: str, count: int) -> None:
        """Keeps what the store did not take. `stored`: the id of a copy that it has; `count`: of so many. Raises `Refused`."""
        self._kept, self._places = {task.id: task.to for task in missing}, [COMMONS] * len(missing)
        self._unnamed = [*self._kept]
        if not stored:
            await super().finish(waiter)
            return
        copies = Copies(waiter, 2)
        copies.stored(stored, count)
        try:
            await super().finish(copies)
        except Refused as refusal:
            copies.refused(refusal)

    def _target(self, to: str) -> str:
        return outbox_ref(to, self._unnamed.pop(0), self._storage.outbox.number(to))

    def _name(self, ref: str, is_last: bool) -> None:
        node = [(names.TO, self._kept[ref_id(ref)].encode())] if self._terms.destination == ALL else []
        if not node and not self._asked:
            super()._name(ref, is_last)
            return
        store = self._storage.journal.store
        mtime = self._disk.stat(self._temporary).mtime
        store.copy(Location(self._temporary), ref, attempts=0, mtime=mtime, extra=[*node, *self._asked])
        if is_last:
            discard(self._disk, self._temporary)

    def _let_go(self) -> None:
        """The store has the task: its file goes, and the number of its link is taken."""
        arrival, self._arrival = self._arrival, None
        self.abort()
        if arrival is not None:
            arrival.taken()

    def _write_rest(self) -> None:
        if self._pending:
            self._write(self._pending)
            self._pending = b""

    async def read(self, size: int, offset: int) -> bytes:
        """Bytes of its file. Raises BadTask."""
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._disk.read, self._descriptor, size, offset
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: the node stops
            raise BadTask(f"the body cannot be read: {error}") from error


class _UploadedBody:
    """The body in the file of an upload."""

    def __init__(self, upload: SharedUpload, start: int, size: int) -> None:
        self._upload = upload
        self._start = start
        self.size = size

    async def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes in order. Raises BadTask."""
        for offset in range(0, self.size, PIECE):
            yield await self._upload.read(min(PIECE, self.size - offset), self._start + offset)


class _Fate:
    """The word of the store about one copy."""

    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.is_duplicate = False
        self.reason = ""
        """Why the store does not have it; empty if it has."""
        self.may_have_it = False

    def shared(self, *, is_duplicate: bool) -> None:
        """The store has it."""
        self.is_duplicate = is_duplicate
        self.known.set()

    def not_shared(self, reason: str, *, may_have_it: bool) -> None:
        """The store is away."""
        self.reason = reason or "it does not answer"
        self.may_have_it = may_have_it
        self.known.set()
