"""How a node keeps to the limits of functions that hold for a whole store: in virtual time, with a store in memory."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from simulation.loop import in_virtual_time
from test_taking import OneNode, TimedStore, rest

from spoolnode.cluster.store.admitting import POLL, Admitter
from spoolnode.cluster.store.interface import Again, BytesContent, Lease, NewTask, StoredTask
from spoolnode.node.background import spawn
from spoolnode.node.outcome import Limit
from spoolnode.protocol.packet import encode_variables

A = "tmp/uwsgi_spoolfile_on_a"


def limited(identity: str, to: str = "any") -> NewTask:
    """A task of a function of which one may run."""
    return NewTask(StoredTask(identity, encode_variables([(b"spool_func", b"f")]), to))


class LimitedNode(OneNode):
    """A node that asks before it starts tasks of that function."""

    def __init__(self, store: TimedStore, *, most: int = 1, seed: int = 1) -> None:
        super().__init__(store, random.Random(seed))
        self._most = most

    async def start(self) -> None:
        self.called_back: list[str] = []
        self.station.spool.starting.throttle.limit({"f": Limit(self._most)})
        await super().start()
        self.parts.append(spawn(Admitter(self.contact, self.book, self.station.storage).run()))

    def call_back(self, refs: Any) -> None:
        self.called_back += refs


async def has_place(store: TimedStore, lease: Lease) -> bool:
    """Whether a task elsewhere may run; then it has the place."""
    return bool(await store.admit("f", 1, [lease]))


async def elsewhere(store: TimedStore) -> Lease:
    """A task that another node holds."""
    await store.publish([limited("other", "elsewhere")])
    ((lease, _),) = await store.take(1, ["elsewhere"], 3600.0)
    return lease


def story(tell: Callable[[TimedStore, LimitedNode], Awaitable[None]], make: Callable[[], TimedStore] = TimedStore) -> None:
    """Tells a story about one node."""

    async def main() -> None:
        store = make()
        node = LimitedNode(store)
        await node.start()
        await tell(store, node)
        await node.stop()

    in_virtual_time(main)


async def asked(node: LimitedNode) -> list[str]:
    """A worker has room, and the store has answered; those that start then."""
    assert node.begin() == []
    await rest(node, seconds=POLL)
    return node.begin()


def test_a_task_starts_when_the_store_has_let_it_run_and_the_next_one_as_soon_as_it_is_over() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await store.publish([limited("a"), limited("b")])
        await rest(node, seconds=2.0)
        assert await asked(node) == ["a"]
        assert not await has_place(store, await elsewhere(store))
        node.unanswered = {"end"}  # the store is still to be told of it
        node.end(A)
        assert await asked(node) == ["b"]

    story(tell)


def test_a_task_that_waits_for_a_place_starts_soon_after_one_is_free_elsewhere() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        other = await elsewhere(store)
        assert await has_place(store, other)
        await store.publish([limited("a")])
        await rest(node, seconds=2.0)
        assert await asked(node) == []
        await store.end([other])
        await rest(node, seconds=2 * POLL)
        assert node.begin() == ["a"]

    story(tell)


def test_a_node_starts_no_task_in_the_place_of_a_lease_that_it_had_before() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        other = await elsewhere(store)
        await store.publish([limited("a")])
        await rest(node, seconds=2.0)
        assert node.begin() == []
        await rest(node)
        assert not await has_place(store, other)
        (lease,) = node.book.all().values()
        await store.again([Again(lease)])  # it ran out, and this node takes the task again before it hears of that
        assert await has_place(store, other)
        await rest(node, seconds=2.0)
        assert node.book.get(A) == lease._replace(turn=2)
        assert await asked(node) == []
        await store.end([other])
        await rest(node, seconds=2 * POLL)
        assert node.begin() == ["a"]

    story(tell)


def test_what_a_worker_has_not_started_comes_back_when_its_lease_is_another_one() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await store.publish([limited("a")])
        await rest(node, seconds=2.0)
        assert await asked(node) == ["a"]
        await store.again([Again(node.book.all()[A])])
        await rest(node, seconds=2.0)
        assert node.called_back == [A]
        other = await elsewhere(store)
        assert await has_place(store, other)
        node.give_back(A)
        assert await asked(node) == []

    story(tell)


def test_an_answer_about_a_lease_that_is_over_lets_nothing_start() -> None:
    class Late(TimedStore):
        """Meanwhile the lease runs out, the node takes the task again, and another node gets the place."""

        is_late = True

        async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
            admitted = await super().admit(function, most, leases, over)
            if admitted and self.is_late:
                self.is_late = False
                await self.again([Again(lease) for lease in admitted])
                assert await has_place(self, await elsewhere(self))
                await asyncio.sleep(2.0)
            return admitted

    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await store.publish([limited("a")])
        await rest(node, seconds=2.0)
        assert node.begin() == []
        await rest(node, seconds=4.0)
        assert node.book.all()[A].turn == 2
        assert node.begin() == []

    story(tell, Late)


class Counting(TimedStore):
    """It knows how often a node took tasks, and how many it wanted at most."""

    takes = most = 0

    async def take(self, most: int, places: Any, lease: float, by: str = "") -> Any:
        self.takes, self.most = self.takes + 1, max(most, self.most)
        return await super().take(most, places, lease, by)


def test_a_few_takes_pass_a_long_backlog_for_which_there_is_no_place() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        assert await has_place(store, await elsewhere(store))
        await store.publish([limited(f"t{number}") for number in range(800)])
        await store.publish([NewTask(StoredTask("free", encode_variables([(b"spool_func", b"g")])))])
        assert isinstance(store, Counting)
        before = store.takes
        started = list[str]()
        while not started and store.takes < before + 50:
            await rest(node)
            started += node.begin()
        assert started == ["free"]
        assert store.takes - before < 25

    story(tell, Counting)


def test_the_bodies_of_tasks_for_which_there_is_no_place_are_not_all_read() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        assert await has_place(store, await elsewhere(store))
        await store.publish([limited(f"t{number}")._replace(body=BytesContent(b"body")) for number in range(100)])
        for _ in range(10):
            await rest(node, seconds=0.5)
            assert node.begin() == []
        assert isinstance(store, Counting)
        assert store.most == node.wants

    story(tell, Counting)
