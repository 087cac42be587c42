"""What a node keeps of tasks for which a limit has no place: in virtual time, with a store in memory."""

import asyncio

import pytest
from simulation.loop import in_virtual_time
from test_admitting import LimitedNode, elsewhere, has_place, limited, story
from test_taking import LEASE, TimedStore, rest

from spoolnode.cluster.store.admitting import POLL, REST, TURN
from spoolnode.cluster.store.interface import NewTask, StoredTask, TaskState
from spoolnode.protocol.packet import encode_variables

FREE = NewTask(StoredTask("free", encode_variables([(b"spool_func", b"g")])))


async def work(*nodes: LimitedNode, task: float, seconds: float = 1.0) -> list[str]:
    """Workers take what they can, for some seconds, each task for so long. Returns what has started."""
    started = []
    for _ in range(round(seconds)):
        for _ in range(20):
            now = asyncio.get_running_loop().time()
            for node in nodes:
                for ref in [ref for ref, since in node.running.items() if now - since >= task and node.id_of(ref) != "free"]:
                    node.end(ref)
                started += node.begin()
            await rest(*nodes)
        for node in nodes:
            node.taker.tick()
    return started


async def states(store: TimedStore) -> dict[TaskState, int]:
    """How many tasks are in each state that is in use."""
    return {state: tally.number for state, tally in (await store.count()).items() if tally.number}


async def waiting_long(store: TimedStore, node: LimitedNode, *tasks: NewTask) -> None:
    """Another node has the one place, and these tasks have waited for it for ten seconds."""
    assert await has_place(store, await elsewhere(store))
    await store.publish(tasks)
    assert await work(node, task=1.0, seconds=10) == []


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("seconds", "count"), [(0.2, 40), (1.0, 16), (3.0, 8)])
def test_places_of_a_function_are_not_empty_while_its_tasks_wait(workers: int, seconds: float, count: int) -> None:
    async def main() -> None:
        store = TimedStore()
        nodes = [LimitedNode(store, most=2, seed=seed) for seed in range(2)]
        for node in nodes:
            node.wants = workers
            await node.start()
        await store.publish([limited(f"t{number}") for number in range(count)])
        assert len(await work(*nodes, task=seconds, seconds=10)) == count
        for node in nodes:
            await node.stop()

    in_virtual_time(main)


def test_as_many_as_there_are_places_wait_under_their_leases_and_the_rest_comes_and_goes() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        node.wants = 100
        await waiting_long(store, node, *(limited(f"t{number:02}") for number in range(40)))
        turns = {ref: lease.turn for ref, lease in node.book.all().items()}
        await work(node, task=1.0, seconds=2 * LEASE)
        kept = [ref for ref, lease in node.book.all().items() if turns.get(ref) == lease.turn]
        assert len(kept) == 1

    story(tell)


def test_one_that_is_kept_starts_soon_after_a_place_is_free_elsewhere() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        other = await elsewhere(store)
        assert await has_place(store, other)
        await store.publish([limited("a")])
        for _ in range(12):
            assert await work(node, task=1.0) == []
            assert (await states(store)) == {TaskState.HELD: 2}
        await store.end([other])
        await rest(node, seconds=2 * POLL)
        assert node.begin() == ["a"]

    story(tell)


def test_what_is_behind_a_backlog_of_which_some_is_kept_starts() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await waiting_long(store, node, *(limited(f"t{number:02}") for number in range(40)))
        await store.publish([FREE])
        assert await work(node, task=1.0, seconds=2) == ["free"]

    story(tell)


def test_one_of_a_higher_priority_is_kept_in_place_of_others() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await waiting_long(store, node, *(limited(f"t{number:02}") for number in range(40)))
        await store.publish([NewTask(limited("urgent").task._replace(rank=1))])
        for _ in range(12):
            await work(node, task=1.0)
            assert "urgent" in {lease.id for lease in node.book.all().values()}

    story(tell)


def test_where_no_worker_has_room_the_next_ones_go_back_for_a_node_that_has() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await waiting_long(store, node, limited("a"))
        node.wants = 0
        node.taker.tick()
        await rest(node)
        assert await states(store) == {TaskState.HELD: 1, TaskState.READY: 1}

    story(tell)


def test_tasks_of_a_paused_function_are_not_kept() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await waiting_long(store, node, limited("a"), limited("b"))
        node.station.spool.starting.throttle.pause(frozenset({"f"}), everything=False)
        await work(node, task=1.0, seconds=4)
        assert await states(store) == {TaskState.HELD: 1, TaskState.LATER: 2}

    story(tell)


def test_a_node_that_leaves_keeps_none() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await waiting_long(store, node, limited("a"), limited("b"))
        node.taker.leave()
        await rest(node)
        assert await states(store) == {TaskState.HELD: 1, TaskState.READY: 2}

    story(tell)


@pytest.mark.parametrize("seconds", [0.2, 20.0])
def test_a_node_with_a_long_backlog_lets_the_other_one_have_a_place_at_times(seconds: float) -> None:
    class Elsewhere(LimitedNode):
        places = ("there",)

    async def main() -> None:
        store = TimedStore()
        here, there = LimitedNode(store, seed=1), Elsewhere(store, seed=2)
        await here.start()
        await store.publish([limited(f"t{number}") for number in range(400)])
        started = await work(here, task=seconds, seconds=5)
        await there.start()
        await store.publish([limited("alone", "there")])
        started += await work(here, there, task=seconds, seconds=2 * max(TURN, seconds))
        assert "alone" in started
        assert len(started) < 400
        for node in (here, there):
            await node.stop()

    in_virtual_time(main)


def test_a_node_alone_lets_others_ask_first_for_a_small_part_of_the_time() -> None:
    async def tell(store: TimedStore, node: LimitedNode) -> None:
        await store.publish([limited(f"t{number:03}") for number in range(400)])
        started = await work(node, task=0.2, seconds=3 * TURN)
        assert len(started) >= (TURN - REST) / TURN * 3 * TURN / 0.3

    story(tell)
