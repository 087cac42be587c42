"""Moves within the spool: a task is in one place, whatever happens at whatever moment, and is not seen before it has arrived."""

import asyncio
import copy
import errno
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from linked import Station, said, task

from spoolnode.node.disk.fakes import PowerCut
from spoolnode.node.outbox.envelope import AskedPlace
from spoolnode.node.outbox.moving import Kept
from spoolnode.protocol.packet import HEADER

BETA = "bbbbbbbbbbbb"
FIRST = 7 << 32

settled = pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def station_with(*numbers: int, settle: bool = False, to: str = "", **more: str) -> Station:
    """One with these tasks; for another node, if one is named."""
    station = Station()
    for number in numbers:
        station.admit(task(number, **({"spool_node": to} if to else {}), **more), link=None)
    await station.rest()
    if settle:
        await station.settled()
    return station


def choices(*places: str | None) -> Callable[[AskedPlace], str | None]:
    """Sends one task after another to these places."""
    left = iter(places)
    return lambda _asked: next(left)


async def sent(station: Station, to: str) -> list[int]:
    """The numbers of the tasks that a link to that node would send; takes them."""
    peer = {"beta": BETA}.get(to, to)
    await station.during(station.outbox.meet(to, peer))
    found: list[int] = []
    while (load := await station.during(station.storage.shipping.take(to, peer, 100, 100))) is not None:
        blocks = [envelope.head[4 : 4 + HEADER.unpack_from(envelope.head)[1]] for envelope in load.envelopes]
        found += [int(said(block)[b"n"]) for block in blocks]
    return found


# --- from here to others ---


@settled
def test_what_is_chosen_for_another_node_goes_and_the_rest_runs_here_in_its_order(*, settle: bool) -> None:
    async def story() -> None:
        station = await station_with(1, 2, 3, 4, 5, settle=settle)
        aside: list[Kept] = []
        assert await station.during(station.moving.give_away(3, choices(None, "beta", None), aside)) == 1
        assert await station.during(station.moving.give_away(9, choices("gamma", None), aside)) == 1
        assert await station.during(station.moving.give_away(9, choices(), aside)) is None, "each is looked at once"
        assert station.run_all() == [], "what was looked at is not run meanwhile"
        station.moving.put_back(aside)
        assert station.spool.waiting.ready.size == station.spool.total == 3
        assert station.run_all() == [1, 3, 5]
        assert await sent(station, "beta") == [2]
        assert await sent(station, "gamma") == [4]

    run(story())


def test_choice_is_told_what_the_sender_asked_for_and_how_often_the_task_was_handed_on() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1), link=None)
        station.admit(task(2, FIRST, spool_node="tag:gpu", spool_hops="3"))
        await station.rest()
        asked: list[AskedPlace] = []

        def notes(place: AskedPlace) -> None:
            asked.append(place)

        await station.during(station.moving.give_away(9, notes, []))
        await station.during(station.moving.re_place("tag:gpu", 9, notes))
        assert asked == [AskedPlace("", 0), AskedPlace("tag:gpu", 4)]

    run(story())


@settled
def test_choice_that_fails_leaves_all_where_it_was(*, settle: bool) -> None:
    async def story() -> None:
        station = await station_with(1, 2, settle=settle)
        aside: list[Kept] = []

        def fails(_asked: AskedPlace) -> str:
            raise LookupError

        with pytest.raises(LookupError):
            await station.during(station.moving.give_away(9, fails, aside))
        station.moving.put_back(aside)
        assert station.run_all() == [1, 2]

    run(story())


@pytest.mark.parametrize("is_old", [False, True])
def test_what_came_over_a_link_and_moved_on_is_not_taken_a_second_time(*, is_old: bool) -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        await station.rest()
        assert await station.during(station.moving.give_away(9, choices("beta"), [])) == 1
        if is_old:
            await station.settled()
        for again in (station, station.killed(), station.after_power_cut()):
            again.admit(task(1, FIRST))
            await again.rest()
            assert again.run_all() == []
            assert again.outbox.sizes() == {"beta": 1}

    run(story())


# --- between others, and back here ---


@settled
def test_what_stays_in_its_outbox_keeps_its_turn_and_wakes_its_link(*, settle: bool) -> None:
    async def story() -> None:
        station = await station_with(1, 2, 3, 4, settle=settle, to="beta")
        woken: list[str] = []
        station.outbox.when_woken(woken.append)
        assert await station.during(station.moving.re_place("beta", 2, choices(None, "gamma", "", None))) == 2
        assert woken[-1] == "beta", "it saw no work meanwhile, and may sleep"
        assert await sent(station, "beta") == [1, 4]
        assert await sent(station, "gamma") == [2]
        assert station.run_all() == [3]

    run(story())


@settled
def test_task_is_seen_by_nobody_while_it_moves(*, settle: bool) -> None:
    async def story() -> None:
        station = await station_with(1, settle=settle)
        move = asyncio.get_running_loop().create_task(station.moving.give_away(9, choices("beta"), []))
        steps = 0
        await station.turn()
        while not move.done():
            assert station.spool.take(9) is None
            assert not station.outbox.has_work("beta", BETA), "the old place is not gone yet"
            steps += 1
            thread = next(thread for thread in station.threads if thread.todo or thread.results)
            thread.answer() if thread.results else thread.work()
            await station.turn()
        assert steps > 3
        assert await sent(station, "beta") == [1]

    run(story())


# --- disks that fail, machines that die ---


def places(station: Station) -> list[str]:
    """Where tasks are, found by a new start: the destination of each, or empty for this node."""
    return [*[""] * len(station.run_all()), *(to for to, count in station.outbox.sizes().items() for _ in range(count))]


WAYS = [("", "beta"), ("beta", "gamma"), ("beta", "")]
ways = pytest.mark.parametrize(("come", "go"), WAYS, ids=["away", "elsewhere", "home"])


@settled
@ways
def test_task_that_moves_is_in_one_place_at_whatever_call_its_node_or_its_machine_dies(
    come: str, go: str, *, settle: bool
) -> None:
    async def story() -> None:
        station = await station_with(1, settle=settle, to=come)
        found = set()
        for call in range(1, 100):
            dying = Station(copy.deepcopy(station.disk))
            dying.disk.cut_power_at(call)
            with suppress(PowerCut):
                await moved(dying, come, go)
            is_over = not dying.disk.is_off
            dying.disk.is_off = False
            dying.disk.cut_power_at(1 << 32)
            for again in (dying.killed(), dying.after_power_cut()):
                (place,) = places(again)
                found.add(place)
            if is_over:
                break
        assert is_over
        assert place == go
        assert found == {come, go}

    run(story())


@settled
@ways
def test_task_that_the_disk_does_not_let_go_stays_and_owes_no_number(come: str, go: str, *, settle: bool) -> None:
    async def story() -> None:
        station = await station_with(1, settle=settle, to=come)
        for call in range(1, 100):
            failing = Station(copy.deepcopy(station.disk))
            last = failing.disk.calls + call
            failing.disk.fail_at(call, errno.EIO)
            await moved(failing, come, go)
            if failing.disk.calls < last:
                break
            failing.disk.heal()
            (place,) = places(failing)
            assert place in (come, go)
            if go and place != go:
                assert failing.outbox.destination(go).outstanding.low_watermark(1 << 63) == 1 << 63
        assert call > 3

    run(story())


async def moved(station: Station, come: str, go: str) -> None:
    if come:
        await station.during(station.moving.re_place(come, 9, choices(go)))
    else:
        aside: list[Kept] = []
        await station.during(station.moving.give_away(9, choices(go), aside, later=True))
        station.moving.put_back(aside)
