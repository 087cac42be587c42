"""Of the tasks for one function with one key, one waits here at a time. The sender of another one gets the id of that one."""

import asyncio
import errno
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from linked import LARGE, NODE, Heard, Station, task

from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.spool import waiting_keys
from spoolnode.node.spool.tasks import Taken
from spoolnode.protocol import spoolfile
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.names import SPOOL_PREFIX

FIRST = (1000 << 32) + 1


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def call(n: int, key: str = "k", number: int = 0, **more: str) -> bytes:
    return task(n, number, spool_func="shop:index", spool_key=key, **more)


def admit(station: Station, *blocks: bytes) -> list[Heard]:
    return [station.admit(block, link=None) for block in blocks]


def same(first: Heard, second: Heard) -> bool:
    """Whether the second one was answered as a duplicate of the first one."""
    return (first.copies, second.copies) == (1, 0) and first.stored_as == second.stored_as != []


def take(station: Station) -> Taken:
    taken = station.spool.take(10)
    assert taken is not None
    return taken


async def begun(disk: FakeDisk, number: int = 2) -> Station:
    station = Station(disk, life=number)
    await station.rest()
    return station


def test_a_second_one_is_answered_with_the_id_of_the_first_and_does_not_run() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        (second,) = admit(station, call(2))
        await station.rest()
        assert same(first, second)
        assert station.spool.total == 1
        assert (station.journal.counts.accepted, station.spool.duplicates.count) == (1, 1)
        assert station.run_all() == [1]

    run(story())


def test_two_that_are_committed_together_are_one_and_neither_is_answered_before_the_first_is_safe() -> None:
    async def story() -> None:
        station = Station()
        heard = admit(station, call(1), call(2), call(3, "other"), call(4))
        await station.turn()
        assert not any(one.answers for one in heard)
        await station.rest()
        assert same(heard[0], heard[1])
        assert same(heard[0], heard[3])
        assert heard[2].copies == 1
        assert station.run_all() == [1, 3]

    run(story())


def test_when_the_disk_refuses_the_first_one_its_duplicate_is_refused_too() -> None:
    async def story() -> None:
        station = Station()
        station.disk.fail_at(1, errno.EIO)
        heard = admit(station, call(1), call(2))
        await station.rest()
        assert all(one.refusals and not one.stored_as for one in heard)
        station.disk.heal()
        (third,) = admit(station, call(3))
        await station.rest()
        assert third.copies == 1

    run(story())


@pytest.mark.parametrize(
    "other", [call(2, "k2"), task(2, spool_func="shop:mail", spool_key="k"), task(2, spool_key="k"), task(2), call(2, "")]
)
def test_another_key_another_function_and_no_key_are_other_tasks(other: bytes) -> None:
    async def story() -> None:
        station = Station()
        heard = admit(station, call(1), other, other if other == task(2) else call(3, "k3"))
        await station.rest()
        assert [one.copies for one in heard] == [1, 1, 1]
        assert len(station.run_all()) == 3

    run(story())


def test_a_task_that_a_worker_has_taken_waits_no_more() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        take(station)
        (second,) = admit(station, call(2))
        await station.rest()
        assert second.copies == 1
        assert second.stored_as != first.stored_as
        (third,) = admit(station, call(3))
        await station.rest()
        assert same(second, third)

    run(story())


@pytest.mark.parametrize("how", ["given back", "postponed"])
def test_a_task_that_comes_back_waits_again(how: str) -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        taken = take(station)
        if how == "given back":
            station.spool.give_back(taken)
        else:
            station.spool.postpone(taken.source, taken.refs[0], taken.rank, time.time() + 60)
        (second,) = admit(station, call(2))
        await station.rest()
        assert same(first, second)

    run(story())


def test_a_task_that_comes_back_stays_beside_one_that_came_meanwhile() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        taken = take(station)
        (second,) = admit(station, call(2))
        await station.rest()
        station.spool.give_back(taken)
        (third,) = admit(station, call(3))
        await station.rest()
        assert same(second, third)
        next_up = station.spool.take(1)
        assert next_up is not None
        assert station.journal.id_of(next_up.source, next_up.refs[0]) == first.stored_as[0]
        (fourth,) = admit(station, call(4))
        await station.rest()
        assert same(second, fourth)

    run(story())


def test_one_that_is_due_later_waits_too_and_stays_as_it_is() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1, at=str(int(time.time()) + 1000)))
        await station.rest()
        (second,) = admit(station, call(2, priority="1"))
        await station.rest()
        assert same(first, second)
        assert station.spool.take(1) is None, "it is not due sooner for it"

    run(story())


def test_after_it_has_ended_or_was_removed_the_key_is_free() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        assert station.run_all() == [1]
        assert len(station.spool.keys) == 0
        (second,) = admit(station, call(2))
        await station.rest()
        found = station.spool.find(second.stored_as[0])
        assert found is not None
        assert await station.during(station.spool.remove(*found))
        (third,) = admit(station, call(3))
        await station.rest()
        assert len({first.stored_as[0], second.stored_as[0], third.stored_as[0]}) == 3
        assert station.run_all() == [3]

    run(story())


def test_nothing_relies_on_a_task_that_is_just_being_removed() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        found = station.spool.find(first.stored_as[0])
        assert found is not None
        removal = asyncio.get_running_loop().create_task(station.spool.remove(*found))
        await station.turn()
        (second,) = admit(station, call(2))
        await station.rest()
        assert await removal
        assert second.copies == 1
        assert station.run_all() == [2]

    run(story())


# -- files --


def test_a_large_body_is_a_duplicate_of_a_small_one_and_the_other_way_round() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        large = await station.upload(call(2), link=None)
        await station.rest()
        assert same(first, large)
        assert station.run_all() == [1]
        large = await station.upload(call(3), link=None)
        (small,) = admit(station, call(4))
        await station.rest()
        assert same(large, small)
        assert station.spool.total == 1
        assert station.run_all() == [3]
        assert not [name for name in station.disk.names("/var/spool") if name.startswith(SPOOL_PREFIX)]

    run(story())


def test_two_large_bodies_that_are_stored_at_once_are_one() -> None:
    async def story() -> None:
        station = Station()
        ones = [station.begin_upload(call(n), link=None) for n in (1, 2)]
        jobs = []
        for upload, heard in ones:
            assert upload is not None
            await upload.write(LARGE)
            jobs.append(asyncio.get_running_loop().create_task(upload.finish(heard)))
        await station.turn()
        await station.rest()
        await asyncio.gather(*jobs)
        await station.rest()
        first, second = (heard for _, heard in ones)
        assert same(first, second)
        assert len(station.run_all()) == 1

    run(story())


def test_a_task_keeps_its_key_in_a_file_of_its_own() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        await station.settled()
        (second,) = admit(station, call(2))
        await station.rest()
        assert same(first, second)
        taken = take(station)
        assert taken.source.number is None
        (third,) = admit(station, call(3))
        await station.rest()
        assert third.copies == 1

    run(story())


def test_the_key_of_a_file_that_was_removed_by_hand_is_free() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        await station.settled()
        (ref,) = station.spool.files.known
        station.by_hand.disk.unlink(station.journal.layout.path(ref))
        station.spool.files.forget(ref)
        (second,) = admit(station, call(2))
        await station.rest()
        assert second.copies == 1
        assert second.stored_as != first.stored_as

    run(story())


# -- after a start --


@pytest.mark.parametrize("settles", [False, True])
def test_after_a_kill_the_key_still_holds(settles: bool) -> None:
    async def story() -> None:
        station = Station()
        first, _ = admit(station, call(1), call(3, "later", at=str(int(time.time()) + 1000)))
        await station.rest()
        if settles:
            await station.settled()
        again = await begun(station.disk)
        second, fourth = admit(again, call(2), call(4, "later"))
        await again.rest()
        assert second.stored_as == first.stored_as
        assert (second.copies, fourth.copies) == (0, 0)
        assert again.run_all() == [1, 3]

    run(story())


def test_a_duplicate_is_gone_after_a_kill_too() -> None:
    async def story() -> None:
        station = Station()
        admit(station, call(1), call(2))
        await station.rest()
        again = await begun(station.disk)
        assert again.run_all() == [1]

    run(story())


def test_a_file_that_our_client_wrote_while_the_node_was_down_has_its_key_and_that_of_another_program_has_none() -> None:
    async def story() -> None:
        disk = Station().disk
        for identity, key in (("host_1_1_1_1_1_key", "ours"), ("host_1_1_1_1_1", "theirs")):
            block = call(1, key)
            descriptor = disk.create(f"/var/spool/{SPOOL_PREFIX}{identity}")
            disk.write(descriptor, spoolfile.head(block), 0)
        station = await begun(disk)
        ours, theirs = admit(station, call(2, "ours"), call(3, "theirs"))
        await station.rest()
        assert (ours.copies, ours.stored_as) == (0, ["host_1_1_1_1_1_key"])
        assert theirs.copies == 1

    run(story())


def test_a_task_that_moves_back_here_has_its_key() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1, spool_node="beta"))
        await station.rest()
        assert await station.during(station.moving.re_place("beta", 10, lambda _: "")) == 1
        (second,) = admit(station, call(2))
        await station.rest()
        assert (second.copies, second.stored_as) == (0, first.stored_as)

    run(story())


# -- over a link, and to other nodes --


def test_one_that_came_over_a_link_is_stored_for_its_sender_and_its_repeat_does_not_run() -> None:
    async def story() -> None:
        station = Station()
        (first,) = admit(station, call(1))
        await station.rest()
        second = station.admit(call(2, number=FIRST))
        await station.rest()
        assert second.stored_as == first.stored_as
        assert station.run_all() == [1]
        station.admit(call(2, number=FIRST))
        await station.rest()
        assert station.run_all() == []
        again = await begun(station.disk)
        repeat = again.admit(call(2, number=FIRST))
        await again.rest()
        assert repeat.stored_as == ["known"], "its number is proved although it did not run"

    run(story())


def test_a_large_one_that_came_over_a_link_does_not_run_either() -> None:
    async def story() -> None:
        station = Station()
        admit(station, call(1))
        await station.rest()
        heard = await station.upload(call(2, number=FIRST))
        await station.rest()
        assert heard.stored_as[0].startswith(NODE)
        assert station.spool.duplicates.count == 1
        assert station.run_all() == [1]
        assert station.spool.total == 0

    run(story())


def test_a_task_for_another_node_is_compared_there_and_not_here() -> None:
    async def story() -> None:
        station = Station()
        heard = admit(station, call(1, spool_node="beta"), call(2, spool_node="beta"), call(3))
        await station.rest()
        assert [one.copies for one in heard] == [1, 1, 1]
        assert station.outbox.total == 2
        assert len(station.spool.keys) == 1

    run(story())


def test_the_copies_that_a_node_keeps_for_itself_are_compared() -> None:
    async def story() -> None:
        station = Station(route=lambda terms: ["", "beta"] if terms.destination == "all" else [terms.destination])
        first, second = admit(station, call(1, spool_node="all"), call(2, spool_node="all"))
        await station.rest()
        assert (first.copies, second.copies) == (2, 1)
        assert second.stored_as == first.stored_as
        large = await station.upload(call(3, spool_node="all"), link=None)
        assert (large.copies, large.stored_as) == (1, first.stored_as)
        assert station.run_all() == [1]

    run(story())


# -- bounds --


def test_beyond_the_limit_of_keys_only_tasks_with_a_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        station = Station()
        admit(station, call(1), call(2, "b"))
        await station.rest()
        with pytest.raises(Refused, match="2 tasks with a `spool_key` are here already; ask again later") as caught:
            admit(station, call(3, "c"))
        assert caught.value.reason is Reason.BUSY
        (plain,) = admit(station, task(4))
        await station.rest()
        assert plain.copies == 1
        assert station.run_all() == [1, 2, 4]
        (third,) = admit(station, call(3, "c"))
        await station.rest()
        assert third.copies == 1

    monkeypatch.setattr("spoolnode.node.ingress.admission.MOST_KEYS", 2)
    assert waiting_keys.MOST_KEYS > 2
    run(story())


def test_nothing_is_remembered_of_tasks_without_a_key() -> None:
    async def story() -> None:
        station = Station()
        admit(station, *[task(n) for n in range(100)])
        await station.rest()
        assert len(station.spool.keys) == 0

    run(story())
