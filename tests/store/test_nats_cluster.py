"""The driver for NATS JetStream on three servers that sync each message: what one acknowledged, all have, also after kill -9."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import pytest
from engines import insist, leader_of, made
from nats_servers import NatsCluster
from postgres import short_place
from store_tasks import body_of, ids, new, take
from subjects import InNats, Subject

from spoolnode.cluster.store.interface import ANY, CommonStore, Publication, StoreAway, TaskState
from spoolnode.cluster.store.nats import NatsStore
from spoolnode.cluster.store.nats_entries import PREFIX

T = TypeVar("T")


@pytest.fixture(scope="module")
def three() -> Iterator[NatsCluster]:
    """Three servers with a stream for tasks."""
    with short_place() as directory:
        cluster = NatsCluster(directory, 3, "sync_interval: always")
        try:
            cluster.start()
            asyncio.run(made(cluster.url))
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def subject(three: NatsCluster) -> InNats:
    """A stream that is empty at first."""
    return InNats(three)


async def at_each(subject: InNats) -> list[NatsStore]:
    """The store by way of each of the servers."""
    stores = []
    for server in subject.cluster.servers:
        options = subject.cluster.url.partition("?")[2]
        stores.append(await NatsStore.open(f"nats://{server.host}:{server.port}?{options}", clock=subject.clock()))
    subject.handles.extend(stores)
    return stores


def test_what_one_server_acknowledged_is_seen_by_way_of_each(subject: InNats) -> None:
    async def story(_: Subject) -> None:
        stores = await at_each(subject)
        for number in range(30):
            first, second = stores[number % 3], stores[(number + 1) % 3]
            tasks = [new(f"{number}_{n}") for n in range(5)]
            await first.publish(tasks)
            assert await second.publish(tasks) == [Publication.REPEATED] * 5
            taken = await take(second)
            assert ids(taken) == [task.task.id for task in tasks]
            assert await first.end([lease for lease, _ in taken]) == frozenset()
            found = await second.find(f"{number}_0")
            assert found
            assert found.state == TaskState.ENDED

    subject.run(story)


def test_each_entry_has_its_mark_right_behind_it_whoever_writes_at_the_same_time(subject: InNats) -> None:
    async def story(_: Subject) -> None:
        stores = await at_each(subject)
        groups = [[new(f"{group}_{n}", key=b"%d" % n if group % 4 == 0 else b"") for n in range(7)] for group in range(24)]
        told = await asyncio.gather(*(stores[group % 3].publish(tasks) for group, tasks in enumerate(groups)))
        stored = Counter(answer for answers in told for answer in answers)[Publication.STORED]
        assert stored == 18 * 7 + 7
        numbers = {}
        for kind in ("ready", "task"):
            there = sum((await stores[0]._messages.counts(f"{PREFIX}.{kind}.>")).values())
            assert there == stored
            numbers[kind] = {got.seq for got in await stores[0]._messages.few(f"{PREFIX}.{kind}.>", 1, there)}
        assert {number + 1 for number in numbers["ready"]} == numbers["task"]

    subject.run(story)


def test_three_servers_that_sync_always_are_safe(subject: InNats) -> None:
    async def story(_: Subject) -> None:
        said = await subject.store.check()
        assert (said.survives_crash, said.survives_power_cut, said.survives_lost_disk) == (True, True, True)
        assert ("replicas", "3, of which 3 are in step") in said.facts
        assert said.advice == []

    subject.run(story)


# --- kill -9 ---


class Load:
    """Publishers and takers that go on whatever happens, and what they were told."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.ran: Counter[str] = Counter()
        self.is_over = False

    async def publish(self, store: CommonStore, name: str) -> None:
        number = 0
        while not self.is_over:
            tasks = [new(f"{name}_{number + n}", b"body" if n == 0 else b"") for n in range(10)]
            await insist(lambda tasks=tasks: store.publish(tasks))
            self.acknowledged |= {task.task.id for task in tasks}
            number += 10

    async def run(self, store: CommonStore) -> None:
        while not self.is_over:
            if not await self.run_some(store):
                await asyncio.sleep(0.05)

    async def run_some(self, store: CommonStore) -> int:
        """Takes tasks, runs and ends them. If the answer was lost, they wait for the end of their lease."""
        try:
            taken = await store.take(10, [ANY], 300)
        except StoreAway:
            return 0
        for lease, task in taken:
            if task.size:
                assert await insist(lambda lease=lease: body_of(store, lease)) == b"body"
        self.ran.update(ids(taken))
        assert await insist(lambda: store.end([lease for lease, _ in taken])) == frozenset()
        return len(taken)


@pytest.mark.slow
def test_leader_and_follower_are_killed_under_load_and_each_acknowledged_task_runs_once(subject: InNats) -> None:
    async def story(_: Subject) -> None:
        load, stores = Load(), await at_each(subject)
        working = [asyncio.create_task(load.publish(store, f"p{number}")) for number, store in enumerate(stores)]
        working += [asyncio.create_task(load.run(store)) for store in stores]
        for is_leader in (True, False):
            await more(load, 100)
            leader = await leader_of(stores[0], subject.cluster)
            follower = next(server for server in subject.cluster.servers if server is not leader)
            victim = leader if is_leader else follower
            victim.end(signal.SIGKILL)
            await more(load, 100)  # two of three go on
            victim.start()
            await asyncio.to_thread(victim.wait_until_ready)
        await more(load, 100)
        load.is_over = True
        await asyncio.gather(*working)
        subject.ahead += 301
        while await insist(lambda: stores[0].watch([ANY], 1)):
            await load.run_some(stores[0])
        assert load.acknowledged - load.ran.keys() == set()
        assert {name: times for name, times in load.ran.items() if times > 1} == {}

    subject.run(story)


async def more(load: Load, number: int) -> None:
    """Returns when so many more tasks were acknowledged."""
    enough = len(load.acknowledged) + number
    async with asyncio.timeout(120):
        while len(load.acknowledged) < enough:
            await asyncio.sleep(0.02)
