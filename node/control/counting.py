"""How many files lie in the directories from which nothing runs: counted now and then, in a thread."""

import asyncio
import time
from typing import NamedTuple

from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader

COUNT_SECONDS = 1.0
"""How old the numbers may be; older when counting takes long."""
COUNT_REST = 20
"""At least so many times as long as a count took is the pause after it."""


class SetAside(NamedTuple):
    """How many files there are of each kind."""

    dead: int = 0
    corrupt: int = 0


class Counting:
    """Counts them, as often as is cheap: a directory of a hundred thousand dead tasks takes a while."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = asyncio.Lock()
        self._again_at = float("-inf")
        self.found = SetAside()
        """As of the last `recount`."""

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
        """Something there has changed: the next `recount` counts."""
        self._again_at = float("-inf")

    def _count(self) -> SetAside:
        reader = self._reader
        try:
            corrupt = len(reader.disk.entries(reader.layout.corrupt))
        except PermissionError:  # the start says so; nothing that runs needs it
            corrupt = 0
        return SetAside(dead=inspect.count_files(reader, "dead"), corrupt=corrupt)
