"""The stores that the conformance tests run over: one subject for each driver."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from nats_servers import NatsCluster
from postgres import TASKS, Postgres, empty_store

from spoolnode.cluster.store import nats_roll
from spoolnode.cluster.store.interface import CommonStore
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.cluster.store.nats import NatsStore
from spoolnode.cluster.store.nats_clock import Clock
from spoolnode.cluster.store.nats_entries import STREAM
from spoolnode.cluster.store.postgresql import PostgresStore

Story = Callable[["Subject"], Awaitable[None]]


class Subject(ABC):
    """A store under test, and what only its test may do to it. Everything is for the inside of `run`."""

    store: CommonStore

    def run(self, story: Story) -> None:
        """Runs a story with the store open."""
        asyncio.run(self._run(story))

    async def _run(self, story: Story) -> None:
        self.handles: list[CommonStore] = []
        try:
            self.store = await self.another()
            await story(self)
        finally:
            for handle in self.handles:
                await handle.close()

    async def another(self) -> CommonStore:
        """The same store as another node has it."""
        self.handles.append(await self.opened())
        return self.handles[-1]

    @abstractmethod
    async def opened(self) -> CommonStore: ...

    @abstractmethod
    def now(self) -> float:
        """The time of the store."""

    @abstractmethod
    async def pass_time(self, seconds: float) -> CommonStore:
        """Lets time pass. Returns the store as a node sees it that comes then."""

    @abstractmethod
    async def cut(self, away: bool) -> None:
        """Takes the store away, or brings it back."""


class InMemory(Subject):
    def __init__(self) -> None:
        self._memory = MemoryStore(rng=random.Random(1))

    async def opened(self) -> CommonStore:
        return self._memory

    def now(self) -> float:
        return self._memory.now

    async def pass_time(self, seconds: float) -> CommonStore:
        self._memory.advance(seconds)
        return self._memory

    async def cut(self, away: bool) -> None:
        self._memory.is_away = away


class InPostgres(Subject):
    """A database that is empty at first. Time passes by moving everything in it into the past."""

    database = TASKS

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.url = server.url(self.database)
        empty_store(server)

    async def opened(self) -> CommonStore:
        return await PostgresStore.open(self.url)

    def now(self) -> float:
        return time.time()

    async def pass_time(self, seconds: float) -> CommonStore:
        moved = ", ".join(f"{name} = {name} - interval '{seconds} s'" for name in ("due", "until", "ended", "accepted"))
        self.server.sql(f"UPDATE spoolnode.task SET {moved}", self.database)
        self.server.sql(f"UPDATE spoolnode.node SET until = until - interval '{seconds} s'", self.database)
        return await self.another()

    async def cut(self, away: bool) -> None:
        self.server.sql(f"ALTER DATABASE {self.database} ALLOW_CONNECTIONS {not away}")
        self.server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.database}'")


class Skewed(Clock):
    """A clock that a test can put forward."""

    def __init__(self, subject: "InNats") -> None:
        super().__init__()
        self._subject = subject

    def now(self) -> float:
        return super().now() + self._subject.ahead


class InNats(Subject):
    """A stream that is empty at first. Time passes by putting the clock of the store forward: all times are taken from there."""

    def __init__(self, cluster: NatsCluster) -> None:
        self.cluster = cluster
        self.ahead = 0.0
        asyncio.run(self._emptied())

    async def _emptied(self) -> None:
        store = await NatsStore.open(self.cluster.url)
        for stream in (STREAM, nats_roll.STREAM):
            await store._connection.ask(f"STREAM.PURGE.{stream}")
        await store.close()

    async def opened(self) -> CommonStore:
        return await NatsStore.open(self.cluster.url, clock=self.clock())

    def clock(self) -> Clock:
        """The clock of a store that another node has."""
        return Skewed(self)

    def now(self) -> float:
        return time.time() + self.ahead

    async def pass_time(self, seconds: float) -> CommonStore:
        self.ahead += seconds
        return await self.another()

    async def cut(self, away: bool) -> None:
        if away:
            self.cluster.end()
        else:
            self.cluster.start()
