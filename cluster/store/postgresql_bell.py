"""The bell of a store in PostgreSQL: LISTEN and NOTIFY, to wake those who watch for tasks.

It only saves waiting. If it is broken, watchers look for themselves all the same (`postgresql.POLL`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg

from spoolnode.cluster.store.interface import StoreAway, StoreUnfit
from spoolnode.cluster.store.postgresql_connections import ServerConnections
from spoolnode.node.background import cancel_all, spawn

PAUSE = 1.0
"""Seconds before a lost connection is made again."""
QUIET_A_TASK = 2e-4
LONGEST_QUIET = 0.025
"""Seconds without a ring after one that told of so many tasks: those who heard it have work for a while. Under load, a ring for
each group of tasks was 14 % of the CPU of a node that takes them in."""
_NOTIFY: LiteralString = "SELECT pg_notify('spoolnode', place) FROM unnest(%s::text[]) AS place"
_LOST = (psycopg.Error, StoreAway, StoreUnfit, TimeoutError)


class Bell:
    """Rings; and listens, from the first time that a watcher wants to hear it."""

    def __init__(self, connections: ServerConnections) -> None:
        self._connections = connections
        self._waiting: set[tuple[frozenset[str], asyncio.Event]] = set()
        self._listening: asyncio.Task[None] | None = None
        self._due: list[str] = []
        self._ringing: asyncio.Task[None] | None = None
        self._is_closed = False

    def ring(self, places: Iterable[str]) -> None:
        """Has all watchers told that something is there for these destinations: one for each task. No sender waits for that."""
        self._due += places
        if self._due and self._ringing is None:
            self._ringing = spawn(self._ring())

    async def _ring(self) -> None:
        try:
            while self._due:
                told, self._due = self._due, []
                with suppress(StoreAway, StoreUnfit):  # what it was about is stored, and watchers find it
                    async with self._connections.one() as connection:
                        await self._connections.run(connection, _NOTIFY, [list(set(told))])
                await asyncio.sleep(min(len(told) * QUIET_A_TASK, LONGEST_QUIET))
        finally:
            self._ringing = None

    @contextmanager
    def heard(self, places: Sequence[str]) -> Iterator[Callable[[float], Awaitable[None]]]:
        """Within, what is rung for these destinations is heard: call the value to wait for it, so many seconds at most."""
        if not self._is_closed and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._listen())
        event = asyncio.Event()
        waiting = frozenset(places), event

        async def wait(seconds: float) -> None:
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                pass

        self._waiting.add(waiting)
        try:
            yield wait
        finally:
            self._waiting.discard(waiting)

    async def close(self) -> None:
        """Rings for the last time, and listens no more."""
        self._is_closed = True
        if self._ringing is not None:
            await asyncio.wait([self._ringing])
        if self._listening is not None:
            await cancel_all([self._listening])

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except _LOST:
                await asyncio.sleep(PAUSE)

    async def _listen_once(self) -> None:
        connection = await self._connections.connect()
        try:
            await self._connections.run(connection, "LISTEN spoolnode")
            self._wake(None)
            async for notice in connection.notifies():
                self._wake(notice.payload)
        finally:
            await connection.close()

    def _wake(self, place: str | None) -> None:
        """Wakes those who wait for that destination; None: all."""
        for places, event in self._waiting:
            if place is None or place in places:
                event.set()
