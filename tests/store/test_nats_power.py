"""The power of all three NATS servers fails at once. Each has a disk of its own, ext4 in an image; a cut is a copy of the images.

By default, not even the stream is there afterwards; with `sync_interval: always`, everything that was acknowledged is.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from disks import Disks
from nats_servers import NatsCluster
from store_tasks import body_of, ids, new, take

from spoolnode.cluster.store.interface import ANY, CommonStore, StoreAway, TaskState
from spoolnode.cluster.store.nats import NatsStore

NAMES = ("n1", "n2", "n3")
ENOUGH = 300
"""Tasks that are acknowledged when the power fails."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root: disks in images"),
]


@pytest.fixture
def disks(place: Path) -> Iterator[Disks]:
    made = Disks(place, NAMES)
    yield made
    made.unmount()


class Told:
    """What the store has acknowledged."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.ended: set[str] = set()

    async def work(self, store: CommonStore, name: str) -> None:
        """Publishes tasks, and runs some of them."""
        for number in range(10**6):
            tasks = [new(f"{name}_{number}_{n}", b"body" if n == 0 else b"") for n in range(10)]
            await store.publish(tasks)
            self.stored |= {task.task.id for task in tasks}
            if number % 3 == 0:
                taken = await take(store, most=5)
                await store.end([lease for lease, _ in taken])
                self.ended.update(ids(taken))


async def until_the_power_fails(cluster: NatsCluster, disks: Disks) -> Told:
    told, stores = Told(), [await NatsStore.open(cluster.url, migrates=True) for _ in range(3)]
    working = [asyncio.create_task(told.work(store, f"w{number}")) for number, store in enumerate(stores)]
    async with asyncio.timeout(120):
        while len(told.stored) < ENOUGH:
            await asyncio.sleep(0.01)
    for server in cluster.servers:  # all at once: between two lines here, nothing else runs, and nothing more is heard
        server.send_signal(signal.SIGSTOP)
    disks.copy()
    for task in working:
        task.cancel()
    cluster.end()
    ends = await asyncio.gather(*working, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError | StoreAway) for end in ends), ends
    for store in stores:
        await store.close()
    return told


async def missing(cluster: NatsCluster, told: Told) -> tuple[set[str], set[str]]:
    """The acknowledged tasks that are not there; those that ended and have not."""
    store = await NatsStore.open(cluster.url)
    try:
        listed = sorted(told.stored)
        found = dict(zip(listed, await asyncio.gather(*map(store.find, listed)), strict=True))
        for lease, task in await store.take(10, [ANY], 30):
            assert await body_of(store, lease) == (b"body" if task.size else b"")
    finally:
        await store.close()
    states = {identity: there.state for identity, there in found.items() if there}
    return told.stored - states.keys(), {identity for identity in told.ended if states[identity] != TaskState.ENDED}


def test_a_power_cut_of_all_servers_loses_nothing_acknowledged_if_they_sync_always(place: Path, disks: Disks) -> None:
    cluster = NatsCluster(place, 3, "sync_interval: always")
    try:
        cluster.start()
        told = asyncio.run(until_the_power_fails(cluster, disks))
        disks.cut()
        cluster.start()
        assert asyncio.run(missing(cluster, told)) == (set(), set())
        assert told.ended
    finally:
        cluster.end()
