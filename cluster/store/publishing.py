"""Publishes tasks into the common store: all that wait go together, as in the group commit of a disk.

A task with a large body goes alone, so that the others do not wait for it. When the store does not answer, it is asked again for
a moment, because most failures are a connection that broke; then those who wait hear that it is away.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property

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


class _Waiting:
    """A task, and the one that waits for its fate."""

    __slots__ = ("is_told", "new", "sharer")

    def __init__(self, new: NewTask, sharer: Sharer) -> None:
        self.new = new
        self.sharer = sharer
        self.is_told = False
        """Whether the sharer has heard that the store has it."""


class _Group:
    """Tasks that the store is just asked to take together."""

    def __init__(self, items: Sequence[_Waiting]) -> None:
        self.items = items

    @cached_property
    def by_id(self) -> dict[str, list[_Waiting]]:
        """They by their ids. One of a link may come twice at a time. Made when it is asked for: most groups are not."""
        found: dict[str, list[_Waiting]] = {}
        for item in self.items:
            found.setdefault(item.new.task.id, []).append(item)
        return found


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
        self._asked: list[_Group] = []
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
        item = _Waiting(_new(task), sharer)
        if item.new.body.size > LARGE:
            self._alone += 1
            spawn(self._publish_alone(item))
            return
        self._waiting.append(item)
        self._begin()

    def seen(self, identity: str) -> None:
        """This node has taken the task with that id from the store, which may have had no time yet to say that it has it."""
        for item in [item for group in self._asked for item in group.by_id.get(identity, ())]:
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
        waiting, group, size = self._waiting, [self._waiting.popleft()], 0
        while waiting and len(group) < TOGETHER and size < TOGETHER_BYTES:
            item = waiting.popleft()
            size += len(item.new.task.block) + item.new.body.size
            group.append(item)
        return group

    async def _publish(self, group: Sequence[_Waiting]) -> None:
        asked = _Group(group)
        self._asked.append(asked)
        try:
            outcomes = await self._published([item.new for item in group])
        except StoreBusy as error:
            await self._publish_apart(group, str(error))
        except (StoreAway, BadTask) as error:
            for item in group:
                if not item.is_told:
                    item.sharer.not_shared(str(error), may_have_it=not isinstance(error, _NotAsked))
        else:
            duplicate = Publication.DUPLICATE
            for item, outcome in zip(group, outcomes, strict=True):
                if not item.is_told:
                    item.sharer.shared(is_duplicate=outcome is duplicate)
        finally:
            self._asked.remove(asked)
            self.told()

    async def _publish_apart(self, group: Sequence[_Waiting], reason: str) -> None:
        """Publishes a group in which a task has a key that is held back: those of each key by themselves."""
        keys = list(dict.fromkeys(item.new.task.key for item in group))
        if len(keys) == 1:
            for item in group:
                if not item.is_told:
                    item.sharer.not_shared(reason, may_have_it=True)
            return
        for key in keys:
            await self._publish([item for item in group if item.new.task.key == key])

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


def _new(task: SharedTask) -> NewTask:
    identity, block, to, rank, due, key, hops, body = task
    if isinstance(body, bytes):
        content: Content = BytesContent(body) if body else NO_BODY
    else:
        content = _Shared(body)
    return NewTask(StoredTask(identity, block, to, rank, due, key, 0, hops), content)
