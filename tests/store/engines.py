"""The servers of a store in a storm: for each engine, what may befall them."""

import asyncio
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from disks import Disks
from nats_servers import NatsCluster, NatsServer
from netns import Hosts
from postgres import TASKS, Postgres, migrated
from support import eventually

from spoolnode.cluster.store.interface import CommonStore, StoreAway, TaskState
from spoolnode.cluster.store.nats import NatsStore
from spoolnode.cluster.store.nats_entries import STREAM
from spoolnode.cluster.store.postgresql import PostgresStore

T = TypeVar("T")

NODES = 3
FULL_SECONDS = 3.0
"""How long a disk is full. Until the store says so would be longer: servers have room in files that they have already."""


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, however often it takes to ask."""
    while True:
        try:
            return await ask()
        except StoreAway:
            await asyncio.sleep(0.05)


class Engine(ABC):
    """The servers of a store, which sync what they acknowledge, on disks of their own. Needs root."""

    lease: float
    """Seconds that are longer than they need to come back after all but the worst."""
    url: str
    node_url: str
    """The address of the store on the machines of the nodes."""
    hosts: Hosts | None = None
    """The machines of the nodes, if they are others."""

    def disturb(self, rng: random.Random) -> str:
        """One of these things befalls them; returns which, when they are up again."""
        kinds = self.kinds()
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        kind()
        return kind.__name__.replace("_", " ")

    def unfinished(self) -> dict[TaskState, int]:
        """How many tasks have not ended, by state."""
        return asyncio.run(self._unfinished())

    async def _unfinished(self) -> dict[TaskState, int]:
        store = await insist(self.opened)
        try:
            counted = await insist(store.count)
        finally:
            await store.close()
        return {state: tally.number for state, tally in counted.items() if tally.number and state != TaskState.ENDED}

    @abstractmethod
    def kinds(self) -> dict[Callable[[], None], int]:
        """What may befall them, each with its weight."""

    @abstractmethod
    async def opened(self) -> CommonStore:
        """The store, as a node has it."""

    @abstractmethod
    def end(self) -> None:
        """Ends the servers."""


class PostgresEngine(Engine):
    """One PostgreSQL, on a machine of its own behind those of the nodes."""

    lease = 5.0

    def __init__(self, place: Path) -> None:
        self._disks = Disks(place, ["disk"], 512)
        self.hosts = Hosts(NODES + 1).__enter__()
        trust = place / "hba.conf"
        trust.write_text("local all all trust\nhost all all 10.77.0.0/16 trust\n")
        self._server = Postgres(
            place / "disk", settings=["fsync=on", "max_wal_size=64MB", "listen_addresses=*", f"hba_file={trust}"],
            around=["nsenter", f"--net={self.hosts.namespace_file(NODES)}"],
        )  # fmt: skip
        self._server.start()
        self._server.sql(f"CREATE DATABASE {TASKS}")
        self.url = self._server.url(TASKS)
        self.node_url = f"postgresql://postgres@{self.hosts.address(NODES)}/{TASKS}"
        asyncio.run(migrated(self.url))

    def kinds(self) -> dict[Callable[[], None], int]:
        return {self.crash: 45, self.cut_the_power: 30, self.fill_the_disk: 25}

    async def opened(self) -> CommonStore:
        return await PostgresStore.open(self.url)

    def crash(self) -> None:
        """All its processes end at once."""
        self._server.restart(signal.SIGQUIT)

    def cut_the_power(self) -> None:
        """Its machine loses power."""
        self._server.freeze()
        self._disks.copy()
        self._server.kill9()
        self._disks.cut()
        self._server.start()

    def fill_the_disk(self) -> None:
        """Its disk is full for a while. It may end by that."""
        self._disks.fill("disk")
        time.sleep(FULL_SECONDS)
        self._disks.free("disk")
        eventually(lambda: self._server.answers() or not self._server.is_running, "it is up again, or has ended")
        if not self._server.is_running:
            self._server.restart(signal.SIGQUIT)

    def end(self) -> None:
        self._server.end(signal.SIGQUIT)
        self._disks.unmount()
        if self.hosts:
            self.hosts.__exit__()


class NatsEngine(Engine):
    """Three NATS servers."""

    lease = 15.0

    def __init__(self, place: Path) -> None:
        names = ["n1", "n2", "n3"]
        self._disks = Disks(place, names, 256)
        self._cluster = NatsCluster(place, len(names), "sync_interval: always")
        self._cluster.start()
        self.url = self.node_url = self._cluster.url
        asyncio.run(made(self.url))

    def kinds(self) -> dict[Callable[[], None], int]:
        kills = {self.kill_the_leader: 25, self.kill_a_follower: 25}
        return {**kills, self.stop_the_leader_for_a_while: 20, self.cut_the_power: 15, self.fill_the_disk_of_the_leader: 15}

    async def opened(self) -> CommonStore:
        return await NatsStore.open(self.url)

    def kill_the_leader(self) -> None:
        """The server that leads the stream is killed."""
        self._kill(self._leader())

    def kill_a_follower(self) -> None:
        """Another one is."""
        leader = self._leader()
        self._kill(next(server for server in self._cluster.servers if server is not leader))

    def stop_the_leader_for_a_while(self) -> None:
        """It does nothing until another one leads."""
        leader = self._leader()
        leader.send_signal(signal.SIGSTOP)
        eventually(lambda: self._leader() is not leader, "another one leads")
        leader.send_signal(signal.SIGCONT)
        leader.wait_until_ready()

    def fill_the_disk_of_the_leader(self) -> None:
        """Its disk is full for a while. Then it leads no more, and stores nothing until it is started again."""
        leader = self._leader()
        self._disks.fill(leader.name)
        time.sleep(FULL_SECONDS)
        self._disks.free(leader.name)
        self._kill(leader)

    def cut_the_power(self) -> None:
        """All three machines lose power at once."""
        for server in self._cluster.servers:
            server.send_signal(signal.SIGSTOP)
        self._disks.copy()
        self._cluster.end()
        self._disks.cut()
        self._cluster.start()

    def end(self) -> None:
        self._cluster.end()
        self._disks.unmount()

    def _kill(self, server: NatsServer) -> None:
        server.end(signal.SIGKILL)
        server.start()
        server.wait_until_ready()

    def _leader(self) -> NatsServer:
        return asyncio.run(self._asked_for_leader())

    async def _asked_for_leader(self) -> NatsServer:
        store = await insist(lambda: NatsStore.open(self.url))
        try:
            return await leader_of(store, self._cluster)
        finally:
            await store.close()


async def made(url: str) -> None:
    """Makes the stream of a store."""
    await (await NatsStore.open(url, migrates=True)).close()


async def leader_of(store: NatsStore, cluster: NatsCluster) -> NatsServer:
    """The server that leads the stream."""
    while True:
        info = await insist(lambda: store._connection.ask(f"STREAM.INFO.{STREAM}"))
        for server in cluster.servers:
            if server.name == (info or {}).get("cluster", {}).get("leader"):
                return server
        await asyncio.sleep(0.05)
