"""Publishes tasks into the common store: all that wait go together, as in the group commit of a disk.

A task with a large body goes alone, so that the others do not wait for it. When the store does not answer, it is asked again for
a moment, because most failures are a connection that broke; then those who wait hear that it is away.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import (
    CHUNK,
    NO_BODY,
    TOGETHER,
    BytesContent,
    CommonStore,
    Content,
    NewTask,
    Publication,
    StoreAway,
    StoreBusy,
    StoredTask,
)
from spoolnode.node.background import spawn
from spoolnode.node.commons import SharedBody, SharedTask, Sharer
from spoolnode.protocol.errors import BadTask

TOGETHER_BYTES = 4 << 20
"""A group of tasks that is published as one has no more bytes than this, and at most `TOGETHER` tasks."""
LARGE = 128 << 10
"""A body with more bytes is published alone."""
ALONE_AT_ONCE = 4
"""Large bodies that are published at the same time. The connections of a store are few, and leases are extended by them, too."""
PATIENCE = 2.0
"""Seconds for which a publication is repeated before its store counts as away."""
PAUSE = 0.1
"""Seconds between two tries."""


class _NotAsked(StoreAway):
    """The store was known to be away, so nothing was published."""


@dataclass(eq=False, slots=True)
class _Waiting:
    task: SharedTask
    sharer: Sharer
    is_told: bool = False
    """Whether the sharer has heard that the store has it."""

    @property
    def size(self) -> int:
        return len(self.task.block) + _size(self.task)


class _Shared(Content):
    """The body of a task that is shared."""

    def __init__(self, body: SharedBody) -> None:
        self._body = body
        self.size = body.size

    async def chunks(self) -> AsyncIterator[bytes]:
        async for piece in self._body.chunks():
            for part in pieces(piece):
                yield part


class Publisher:
    """The way of new tasks into the store."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact
        self._waiting: deque[_Waiting] = deque()
        self._asked: dict[str, list[_Waiting]] = {}
        """Those that the store is just asked to take, by their ids; one of a link may come twice at a time."""
        self._under_way = 0
        """Of the publications of groups, those that have begun, or will in the next turn of the loop."""
        self._is_beginning = False
        self._alone = 0
        self._room = asyncio.Semaphore(ALONE_AT_ONCE)
        self._over = asyncio.Event()
        self.told: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<Publisher: {len(self._waiting)} wait>"

    def add(self, task: SharedTask, sharer: Sharer) -> None:
        """Publishes a task with the next group."""
        item = _Waiting(task, sharer)
        if _size(task) > LARGE:
            self._alone += 1
            spawn(self._publish_alone(item))
            return
        self._waiting.append(item)
        self._begin()

    def seen(self, identity: str) -> None:
        """This node has taken the task with that id from the store, which may have had no time yet to say that it has it."""
        for item in self._asked.get(identity, ()):
            if not item.is_told:
                item.is_told = True
                item.sharer.shared(is_duplicate=False)
                self.told()

    async def finish(self) -> None:
        """Returns when all that was added has been told its fate."""
        while self._under_way or self._alone:
            self._over.clear()
            await self._over.wait()

    def _begin(self) -> None:
        if self._waiting and not self._is_beginning and self._under_way < self._contact.publications:
            self._is_beginning = True
            self._under_way += 1
            spawn(self._publish_all())  # in the next turn of the loop: what comes in this one goes along

    async def _publish_all(self) -> None:
        self._is_beginning = False
        try:
            while self._waiting:
                group = self._next_group()
                self._begin()
                await self._publish(group)
        finally:
            self._under_way -= 1
            self._over.set()

    async def _publish_alone(self, item: _Waiting) -> None:
        try:
            async with self._room:
                await self._publish([item])
        finally:
            self._alone -= 1
            self._over.set()

    def _next_group(self) -> list[_Waiting]:
        group, size = [self._waiting.popleft()], 0
        while self._waiting and len(group) < TOGETHER and size < TOGETHER_BYTES:
            size += self._waiting[0].size
            group.append(self._waiting.popleft())
        return group

    async def _publish(self, group: Sequence[_Waiting]) -> None:
        for item in group:
            self._asked.setdefault(item.task.id, []).append(item)
        try:
            outcomes = await self._published([_new(item.task) for item in group])
        except StoreBusy as error:
            await self._publish_apart(group, str(error))
        except (StoreAway, BadTask) as error:
            for item in group:
                if not item.is_told:
                    item.sharer.not_shared(str(error), may_have_it=not isinstance(error, _NotAsked))
        else:
            for item, outcome in zip(group, outcomes, strict=True):
                if not item.is_told:
                    item.sharer.shared(is_duplicate=outcome == Publication.DUPLICATE)
        finally:
            for item in group:
                self._answered(item)
            self.told()

    def _answered(self, item: _Waiting) -> None:
        asked = self._asked[item.task.id]
        asked.remove(item)
        if not asked:
            del self._asked[item.task.id]

    async def _publish_apart(self, group: Sequence[_Waiting], reason: str) -> None:
        """Publishes a group in which a task has a key that is held back: those of each key by themselves."""
        keys = list(dict.fromkeys(item.task.key for item in group))
        if len(keys) == 1:
            for item in group:
                if not item.is_told:
                    item.sharer.not_shared(reason, may_have_it=True)
            return
        for key in keys:
            await self._publish([item for item in group if item.task.key == key])

    async def _published(self, tasks: Sequence[NewTask]) -> list[Publication]:
        """The outcomes. Raises `StoreAway`, at once if the store was away before; BadTask."""
        loop = asyncio.get_running_loop()
        if not self._contact.is_there:
            raise _NotAsked(self._contact.reason)
        until = loop.time() + PATIENCE

        async def publish(store: CommonStore) -> list[Publication]:
            return await store.publish(tasks)

        while True:
            try:
                return await self._contact.ask(publish)
            except StoreBusy:
                raise
            except StoreAway:
                if loop.time() + PAUSE > until:
                    raise
                await asyncio.sleep(PAUSE)


def pieces(data: bytes) -> Iterator[bytes]:
    """Bytes as a store takes them."""
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def _size(task: SharedTask) -> int:
    return len(task.body) if isinstance(task.body, bytes) else task.body.size


def _new(task: SharedTask) -> NewTask:
    if isinstance(task.body, bytes):
        content: Content = BytesContent(task.body) if task.body else NO_BODY
    else:
        content = _Shared(task.body)
    return NewTask(StoredTask(task.id, task.block, task.to, task.rank, task.due, task.key, 0, task.hops), content)
