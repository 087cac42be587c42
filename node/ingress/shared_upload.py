"""A task with a large body on its way into the common store: its file here is read once it is whole, and then goes."""

import asyncio
from collections.abc import AsyncIterator

from spoolnode.node.commons import SharedTask
from spoolnode.node.ingress.shared import Sharing, shared_block
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.spool.group_commit import Waiter
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.packet import HEADER

PIECE = 256 << 10
"""Bytes that are read at a time."""


class SharedUpload(Upload):
    """One such task. With the store away, it is kept as any other upload is."""

    sharing: Sharing
    block: bytes
    """Its variables, as they lie in its file."""

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
        if not stored:
            await self._keep(waiter, fates[0].reason, is_linked=is_linked)
            return
        self._let_go()
        for task, fate in stored:
            if not fate.is_duplicate:
                self.sharing.tell(task, self._terms.function, self.caller)
        waiter.stored(stored[0][0].id, sum(not fate.is_duplicate for _, fate in stored))

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

    async def _keep(self, waiter: Waiter, reason: str, *, is_linked: bool) -> None:
        refusal = self.sharing.refusal(reason, is_linked=is_linked)
        if refusal is not None:
            self.abort()
            raise refusal
        await super().finish(waiter)

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

    def shared(self, *, is_duplicate: bool) -> None:
        """The store has it."""
        self.is_duplicate = is_duplicate
        self.known.set()

    def not_shared(self, reason: str) -> None:
        """The store is away."""
        self.reason = reason or "it does not answer"
        self.known.set()
