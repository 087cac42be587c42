"""Counts the files in directories from which no task runs, from time to time, in a thread."""

import asyncio
import time
from typing import NamedTuple

from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader

COUNT_SECONDS = 1.0
"""How old the numbers may be, in seconds; older if counting takes long."""
COUNT_REST = 20
"""The pause after a count is at least this many times as long as the count."""


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
        self.found = SetAside()
        """From the last `recount`."""

    def __repr__(self) -> str:
        return f"<Counting: {self.found.dead} dead, {self.found.corrupt} corrupt>"

    async def recount(self) -> None:
        """Brings `found` up to date."""
        async with self._lock:
            if time.monotonic() < self._again_at:
                return
            began = time.monotonic()
            self.found = await asyncio.get_running_loop().run_in_executor(None, self._count)
            now = time.monotonic()
            self._again_at = now + max(COUNT_SECONDS, COUNT_REST * (now - began))

    def expire(self) -> None:
        """Notes a change there: the next `recount` counts."""
        self._again_at = float("-inf")

    def _count(self) -> SetAside:
        reader = self._reader
        try:
            corrupt = len(reader.disk.entries(reader.layout.corrupt))
        except PermissionError:  # the start has reported it; running tasks do not need it
            corrupt = 0
        return SetAside(dead=inspect.count_files(reader, "dead"), corrupt=corrupt)
