"""Whether the common store is there. It is found away by whatever asks it for something, and back by looking again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from spoolnode.cluster.store.interface import CommonStore, Safety, StoreAway, StoreBusy, StoreUnfit
from spoolnode.node.background import cancel_all, spawn
from spoolnode.node.log import Report

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks for a store that is away: the first, and the longest."""
CHECK_SECONDS = 30.0
"""Seconds between two questions what an acknowledgement is worth."""

Open = Callable[[], Awaitable[CommonStore]]
"""Connects to the store. Raises `StoreAway`, `StoreUnfit`."""


class Contact:
    """The store, as long as it is there."""

    def __init__(self, connect: Open, report: Report) -> None:
        self._connect = connect
        self._report = report
        self._store: CommonStore | None = None
        self._there = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self.reason = "it has not answered yet"
        """Why it is away; empty while it is there."""
        self.safety: Safety | None = None
        """The worth of an acknowledgement, as it said last."""
        self._checked = float("-inf")

    def __repr__(self) -> str:
        return f"<Contact: {self.reason or 'there'}>"

    @property
    def is_there(self) -> bool:
        """Whether it answered last."""
        return not self.reason

    @property
    def publications(self) -> int:
        """How many publications may be under way at a time (see `CommonStore`)."""
        return self._store.publications if self._store is not None else 1

    async def open(self) -> None:
        """Looks for it once, and then for as long as it is away. Raises `StoreUnfit`."""
        try:
            await self._look()
        except StoreAway as error:
            self._away(error)

    async def ask(self, question: Callable[[CommonStore], Awaitable[T]]) -> T:
        """Asks it for something. Raises `StoreAway`, also when it cannot be used any more; after `StoreBusy` it is there."""
        if self._store is None:
            raise StoreAway(self.reason)
        try:
            answer = await question(self._store)
        except StoreBusy:
            raise
        except (StoreAway, StoreUnfit) as error:
            self._away(error)
            raise StoreAway(str(error)) from error
        return answer

    async def ask_aside(self, question: Callable[[CommonStore], Awaitable[T]]) -> T:
        """Asks it for something that tasks can do without: if that fails, the store still counts as there.

        Raises `StoreAway`, `StoreUnfit`.
        """
        if self._store is None or self.reason:
            raise StoreAway(self.reason)
        return await question(self._store)

    async def there(self) -> None:
        """Returns when it is there."""
        await self._there.wait()

    async def check(self) -> None:
        """Asks what an acknowledgement is worth, if the last answer is old."""
        now = asyncio.get_running_loop().time()
        if self.is_there and now - self._checked > CHECK_SECONDS:
            self._checked = now
            with suppress(StoreAway):  # that is reported
                self.safety = await self.ask(lambda store: store.check())

    async def close(self) -> None:
        """Ends all connections."""
        if self._looking is not None:
            await cancel_all([self._looking])
        if self._store is not None:
            await self._store.close()

    def _away(self, error: Exception) -> None:
        if self.reason and self._looking is not None:
            return
        self._there.clear()
        self._say(error)
        self._looking = spawn(self._look_again())

    def _say(self, error: Exception) -> None:
        """Reports why it is away. One that is unfit stays so until a person mends it."""
        self.reason = str(error)
        self._report("store_unfit" if isinstance(error, StoreUnfit) else "store_away", reason=self.reason)

    async def _look_again(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                await self._look()
            except StoreAway as error:
                self.reason = str(error)
            except StoreUnfit as error:
                if self.reason != str(error):
                    self._say(error)
            else:
                self._looking = None
                self._report("store_back")
                return

    async def _look(self) -> None:
        if self._store is None:
            self._store = await self._connect()
        self.safety = await self._store.check()
        self._checked = asyncio.get_running_loop().time()
        self.reason = ""
        self._there.set()
