"""Helpers for the tests of sources: a sink and a report that remember, waiting for conditions on the loop, mDNS on loopback."""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from support import PATIENCE
from zeroconf import DNSOutgoing, DNSPointer

from spoolnode.cluster.candidate import Candidate, Discovery, Identity
from spoolnode.cluster.discovery.announcement import SERVICE, service_name
from spoolnode.cluster.discovery.mdns import Mdns, Tuning


class Heard:
    """A sink that remembers, and a report that does."""

    def __init__(self) -> None:
        self.found_: list[Candidate] = []
        self.gone_: list[str] = []
        self.leaving_: list[str] = []
        self.reports: list[tuple[str, str]] = []

    def found(self, candidate: Candidate) -> None:
        self.found_.append(candidate)

    def gone(self, source: str, key: str) -> None:
        self.gone_.append(key)

    def leaving(self, source: str, key: str) -> None:
        self.leaving_.append(key)

    def report(self, action: str, **details: Any) -> None:
        self.reports.append((action, str(details.get("reason", ""))))

    @property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """The latest addresses of each key."""
        return {candidate.key: candidate.addresses for candidate in self.found_}

    @property
    def actions(self) -> list[str]:
        """The words of all reports."""
        return [action for action, _ in self.reports]


async def until(condition: Callable[[], Any], what: str = "the condition", patience: float = PATIENCE) -> float:
    """Waits for it, and returns how many seconds that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + patience, f"not in {patience:g} s: {what}"
        await asyncio.sleep(0.002)
    return time.monotonic() - start


def check(test: Coroutine[Any, Any, None]) -> None:
    """Runs an asynchronous test."""
    asyncio.run(asyncio.wait_for(test, PATIENCE * 2))


@contextlib.asynccontextmanager
async def running(*sources: Discovery, heard: Heard) -> AsyncIterator[None]:
    """The sources at work."""
    tasks = [asyncio.create_task(source.run(heard)) for source in sources]
    try:
        yield
        assert not [task for task in tasks if task.done()], "a source ended by itself"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for source in sources:
            await source.close()


SHORT = Tuning(announce=0.6, glance=0.9, look=0.3, retry=0.3, missing=0.5)


class Member:
    """A node on loopback, as far as mDNS is concerned."""

    def __init__(
        self,
        cluster: str,
        port: int,
        *,
        id: str = "",
        name: str = "",
        tuning: Tuning | None = None,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self.heard = Heard()
        self.id = id or secrets.token_hex(6)
        self.identity = Identity(self.id, name or f"node-{port}", cluster, addresses, tls=False)
        listen = [("127.0.0.1", port)] if port else []
        self.source = Mdns("mdns", self.identity, listen, self.heard.report, rng=random.Random(port), tuning=tuning)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.source.run(self.heard))

    async def started(self) -> None:
        """Returns when it is announced."""
        self.start()
        await until(lambda: self.is_announced, "announced")

    @property
    def is_announced(self) -> bool:
        station = self.source._station
        return station is not None and station.info is not None

    def knows(self, *others: "Member") -> bool:
        return {other.id for other in others} <= set(self.heard.addresses)

    async def crash(self) -> None:
        """Ends without a goodbye."""
        await self._cancel()
        station, self.source._station = self.source._station, None
        if station is not None:
            await station.abandon()

    async def end(self) -> None:
        """Ends as a node should."""
        await self._cancel()
        await self.source.close()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()


@contextlib.asynccontextmanager
async def members(*all_: Member) -> AsyncIterator[None]:
    """Ends all of them at the end."""
    try:
        yield
    finally:
        await asyncio.gather(*(member.end() for member in all_))


def new_cluster() -> str:
    """A cluster of this test's own: other tests share loopback with it."""
    return f"test-{secrets.token_hex(4)}"


def pointers(ids: list[str], ttl: int) -> bytes:
    """A packet that says that these nodes are there, or with `ttl` 0 that they go: anybody can make one."""
    out = DNSOutgoing(0x8400)  # an authoritative answer
    for node_id in ids:
        out.add_answer_at_time(DNSPointer(SERVICE, 12, 1, ttl, service_name(node_id)), 0)
    (packet,) = out.packets()
    return packet
