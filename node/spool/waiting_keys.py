"""The keys of tasks: which of them wait, and with which key. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source

MOST_KEYS = 100_000
"""Tasks with a key that may be here at once. Each takes about 400 bytes, where a task without one may take 4."""


class KeyedTask(NamedTuple):
    """A task with a key."""

    source: Source
    ref: Ref


class WaitingKeys:
    """The tasks with a key on this node, until they end. A key here is its fingerprint (see `protocol.unique`)."""

    def __init__(self) -> None:
        self._keys: dict[KeyedTask, bytes] = {}
        self._waiting: dict[bytes, list[KeyedTask]] = {}
        """The tasks of each key that wait, in the order in which they began to. Usually one: see `wait_again`."""

    def __repr__(self) -> str:
        return f"<WaitingKeys: {len(self._keys)} tasks, {len(self._waiting)} keys that wait>"

    def __len__(self) -> int:
        return len(self._keys)

    def first(self, key: bytes) -> KeyedTask | None:
        """The task that waits with this key, if one does."""
        tasks = self._waiting.get(key)
        return tasks[0] if tasks else None

    def add(self, source: Source, ref: Ref, key: bytes) -> None:
        """A task with this key waits."""
        task = KeyedTask(source, ref)
        self._keys[task] = key
        self._waiting.setdefault(key, []).append(task)

    def take(self, source: Source, refs: Iterable[Ref]) -> None:
        """Tasks wait no more, but may again."""
        for ref in refs if self._keys else ():
            task = KeyedTask(source, ref)
            if (key := self._keys.get(task)) is not None:
                self._leave(key, task)

    def wait_again(self, source: Source, refs: Iterable[Ref]) -> None:
        """Tasks that were taken wait again. If another one of the same key has begun to wait meanwhile, both do."""
        for ref in refs if self._keys else ():
            task = KeyedTask(source, ref)
            if (key := self._keys.get(task)) is not None and task not in self._waiting.setdefault(key, []):
                self._waiting[key].append(task)

    def move(self, source: Source, ref: Ref, to: Source, new: Ref) -> None:
        """A task that waits has another place."""
        task, moved = KeyedTask(source, ref), KeyedTask(to, new)
        if (key := self._keys.pop(task, None)) is not None:
            self._keys[moved] = key
            tasks = self._waiting.get(key, [])
            tasks[:] = [moved if other == task else other for other in tasks]

    def forget(self, source: Source, refs: Iterable[Ref]) -> None:
        """Tasks have ended, or left."""
        for ref in refs if self._keys else ():
            task = KeyedTask(source, ref)
            if (key := self._keys.pop(task, None)) is not None:
                self._leave(key, task)

    def _leave(self, key: bytes, task: KeyedTask) -> None:
        tasks = self._waiting.get(key, [])
        if task in tasks:
            tasks.remove(task)
            if not tasks:
                del self._waiting[key]
