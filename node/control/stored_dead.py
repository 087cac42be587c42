"""The dead tasks of the common store by kind. They are read now and then, and only the first ones of very many."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from spoolnode.node.background import spawn
from spoolnode.node.commons import DEAD, CommonsAway, CommonTask, CommonTasks
from spoolnode.node.control.dead_kinds import LONGEST_REASON, KnownDead
from spoolnode.node.control.pages import error_of
from spoolnode.node.control.store_pages import AT_ONCE, listed

MOST_READ = 10_000
"""Dead tasks that are read in one look."""
LOOK_SECONDS = 2.0
"""How old a look may be, in seconds; older if it takes long."""
LOOK_REST = 20
"""The pause after a look is at least so many times as long as the look."""


class StoredKinds(NamedTuple):
    """The dead tasks of the store, as they were a moment ago."""

    known: list[KnownDead]
    has_more: bool = False
    """Whether there are more than `MOST_READ`."""
    missing: str = ""
    """Why they are not known; empty if they are."""


class StoredDead:
    """Knows the kinds of the dead tasks of the store."""

    def __init__(self, tasks: CommonTasks, clock: Callable[[], float] = time.monotonic) -> None:
        self._tasks = tasks
        self._clock = clock
        self._lock = asyncio.Lock()
        self._again_at = float("-inf")
        self._found = StoredKinds([])

    def __repr__(self) -> str:
        return f"<StoredDead: {len(self._found.known)} tasks>"

    def expire(self) -> None:
        """Notes a change: the next look asks the store."""
        self._again_at = float("-inf")

    async def look(self) -> StoredKinds:
        """The kinds as of now, or of a moment ago."""
        async with self._lock:
            if (began := self._clock()) >= self._again_at:
                rest = 0.0
                try:
                    self._found = await self._read()
                    rest = LOOK_REST * (self._clock() - began)
                except CommonsAway as error:
                    self._found = StoredKinds([], missing=f"the dead tasks of the common store are missing here: {error}")
                self._again_at = self._clock() + max(LOOK_SECONDS, rest)
            return self._found

    def last(self) -> StoredKinds:
        """The kinds as the last look found them; the next one begins in the background."""
        if not self._lock.locked() and self._clock() >= self._again_at:
            spawn(self.look())
        return self._found

    async def _read(self) -> StoredKinds:
        known: list[KnownDead] = []
        after, is_first = "", True
        while (is_first or after) and len(known) < MOST_READ:
            page = await self._tasks.list(DEAD, AT_ONCE, after)
            known += await asyncio.to_thread(_kinds, page.tasks)
            after, is_first = page.next, False
        return StoredKinds(known, has_more=bool(after))


def _kinds(tasks: Iterable[CommonTask]) -> list[KnownDead]:
    return [_kind(task) for task in tasks]


def _kind(task: CommonTask) -> KnownDead:
    row = listed(task)
    return KnownDead(task.finished, sys.intern(row.function), sys.intern(error_of(row.reason)), row.reason[:LONGEST_REASON], 0)
