"""Bodies in the stream of a store in NATS: in chunks, which are all there before their task is.

While a body is being uploaded, a message on a subject of its own says so. The task is stored on condition that this message is
still there. So what a process that died has left behind can be removed: first the message, and then, if no task has that body,
its chunks. If the process was only slow, its task is refused.
"""

import secrets
from collections.abc import AsyncIterator

from spoolnode.cluster.store.interface import Lease, NewTask, StoreAway, TaskState, wrong_size
from spoolnode.cluster.store.nats_changes import StreamTasks
from spoolnode.cluster.store.nats_entries import PREFIX, TaskEntry, body_subject, mark_subject, upload_subject
from spoolnode.cluster.store.nats_messages import Messages, NewMessage

ABANDONED = 3600.0
"""Seconds after which an upload that is not finished counts as left behind."""
AT_ONCE = 100
"""Uploads that are looked at in one go."""


class BodyUpload:
    """The body of one new task on its way into the stream."""

    def __init__(self, messages: Messages, new: NewTask) -> None:
        self._messages = messages
        self.new = new
        self.name = secrets.token_hex(6) if new.body.size else ""
        """The name under which it is uploaded; empty: there is nothing to upload."""
        self.number = 0
        """The number of the message that says that it is being uploaded."""

    async def run(self) -> None:
        """Stores the chunks. Raises `BadTask` if they are too many or too few."""
        task, body = self.new
        if not self.name:
            return
        begun = NewMessage(upload_subject(task.id, task.hops, self.name))
        self.number = await self._messages.store(begun)
        number = found = 0
        async for chunk in body.chunks():
            await self._messages.store(NewMessage(body_subject(task.id, task.hops, self.name, number), chunk))
            number, found = number + 1, found + len(chunk)
        if found != body.size:
            raise wrong_size(self.new, found)


class Bodies:
    """The bodies in the stream."""

    def __init__(self, messages: Messages, tasks: StreamTasks) -> None:
        self._messages = messages
        self._tasks = tasks

    async def read(self, lease: Lease) -> AsyncIterator[bytes]:
        """The chunks of the body of a task that is held. Raises `StoreAway` when the lease is lost."""
        mark = number = found = 0
        while True:
            held = (await self._tasks.held([lease])).get(lease)
            if held is None or held.entry.state != TaskState.HELD:
                raise StoreAway(f"the lease of the task {lease.id} is lost: its body is read no further")
            if found >= held.entry.task.size:
                return
            got = await self._messages.last(body_subject(lease.id, lease.hops, held.entry.upload, number))
            if got is not None:
                yield got.data
                number, found = number + 1, found + len(got.data)
            elif mark == held.mark:  # the task is as it was, so no lease was lost meanwhile
                raise StoreAway(f"the body of the task {lease.id} ends after {found} of {held.entry.task.size} bytes")
            mark = held.mark

    async def peek(self, entry: TaskEntry) -> bytes:
        """The whole body of a task, whether it is held or not; empty if it has gone."""
        pieces, task = list[bytes](), entry.task
        while sum(map(len, pieces)) < task.size:
            got = await self._messages.last(body_subject(task.id, task.hops, entry.upload, len(pieces)))
            if got is None:
                return b""
            pieces.append(got.data)
        return b"".join(pieces)

    async def abandon(self, upload: BodyUpload) -> None:
        """Removes what was uploaded, unless its task was stored after all: whether it was may be unknown."""
        if upload.number:
            task = upload.new.task
            await self._remove(upload.number, mark_subject(task.id, task.hops), upload.name)

    async def clear(self) -> None:
        """Removes what processes that died have left behind."""
        subjects = f"{PREFIX}.upload.>"
        there = sum((await self._messages.counts(subjects)).values())
        for got in await self._messages.few(subjects, 1, min(there, AT_ONCE)):
            if got.stored + ABANDONED <= self._messages.clock.now():
                identity, hops, name = got.subject.split(".")[2:]
                await self._remove(got.seq, f"{PREFIX}.task.{identity}.{hops}", name)

    async def _remove(self, number: int, mark: str, name: str) -> None:
        if await self._messages.delete(number):  # from now on, its task cannot be stored
            placed, _ = await self._tasks.of_mark(mark)
            if placed is None or placed.entry.upload != name:
                await self._messages.purge(f"{mark.replace('.task.', '.body.', 1)}.{name}.>")
