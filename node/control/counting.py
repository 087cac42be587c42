"""Counts the files in directories from which no task runs, and knows the dead ones by kind, in a thread."""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeVar

from spoolnode.node.control.choice import Choice
from spoolnode.node.control.dead_kinds import DeadCount, DeadKinds, KnownDead, Part
from spoolnode.node.control.pages import CANCELLED
from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader

T = TypeVar("T")

COUNT_SECONDS = 1.0
"""How old the numbers may be, in seconds; older if counting takes long."""
COUNT_REST = 20
"""The pause after a count is at least this many times as long as the count."""
READ_AT_ONCE = 1000
"""Dead tasks; about 20 ms."""


class SetAside(NamedTuple):
    """The number of files of each kind."""

    dead: int = 0
    corrupt: int = 0


class Counting:
    """Counts the files, as often as is cheap: a directory with 100,000 dead tasks takes a while."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = asyncio.Lock()
        self._again_at = float("-inf")
        self._kinds, self._kinds_lock = DeadKinds(reader), asyncio.Lock()
        self.found = SetAside()
        """From the last `recount`."""
        self._cancelled, self._cancelled_again_at = 0, float("-inf")

    def __repr__(self) -> str:
        return f"<Counting: {self.found.dead} dead, {self.found.corrupt} corrupt>"

    async def recount(self) -> None:
        """Brings `found` up to date."""
        async with self._lock:
            if time.monotonic() < self._again_at:
                return
            began = time.monotonic()
            self.found = await _in_thread(self._count)
            now = time.monotonic()
            self._again_at = now + max(COUNT_SECONDS, COUNT_REST * (now - began))

    def expire(self) -> None:
        """Notes a change there: the next `recount` counts."""
        self._again_at = float("-inf")

    async def read_dead(self) -> None:
        """Reads each dead task once: of a hundred thousand this takes seconds, for which the first to ask should not wait.

        A part at a time, so that a node which stops does not wait for it either.
        """
        files = await _in_thread(lambda: list(inspect.dead_refs(self._reader)))
        for start in range(0, len(files), READ_AT_ONCE):
            async with self._kinds_lock:
                await _in_thread(partial(self._kinds.read, files[start : start + READ_AT_ONCE]))

    async def dead_by(self, by: str, choice: Choice, more: Iterable[KnownDead] = ()) -> DeadCount:
        """Counts the dead tasks that are meant. `by`: what those of a group share, a key of `dead_kinds.BY`; `more`: others."""
        async with self._kinds_lock:
            return await _in_thread(lambda: self._kinds.count(choice, by, more))

    async def cancelled(self) -> int:
        """How many of the dead tasks were cancelled, as of now or of a moment ago if to count them takes long."""
        began = time.monotonic()
        if began >= self._cancelled_again_at:
            self._cancelled = (await self.dead_by("kind", Choice(error=CANCELLED))).tasks
            ended = time.monotonic()
            self._cancelled_again_at = ended + COUNT_REST * (ended - began)
        return self._cancelled

    async def take_dead(self, choice: Choice, limit: int | None) -> Part:
        """The files of the dead tasks that are meant, or the first so many; see `DeadKinds.take`."""
        async with self._kinds_lock:
            return await _in_thread(lambda: self._kinds.take(choice, limit))

    def _count(self) -> SetAside:
        reader = self._reader
        try:
            corrupt = len(reader.disk.entries(reader.layout.corrupt))
        except PermissionError:  # the start has reported it; running tasks do not need it
            corrupt = 0
        return SetAside(dead=inspect.count_files(reader, "dead"), corrupt=corrupt)


async def _in_thread(job: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(None, job)
