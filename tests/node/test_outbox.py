"""The outbox: what is sent next, what is in doubt, which numbers are owed; and that kills and power cuts change none of it."""

import asyncio
import errno
import time
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from linked import LARGE, Station, task

from spoolnode.node.commons import NoCommons
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.in_store import InStore
from spoolnode.node.disk.fakes import SteppedThread
from spoolnode.node.disk.layout import number_of
from spoolnode.node.outbox import expiry
from spoolnode.node.outbox.cancellation import Buried
from spoolnode.node.outbox.destination import ANYONE, UNSENT
from spoolnode.node.outbox.expiry import BURIED_TOGETHER, EXPIRED_AT_ONCE
from spoolnode.node.outbox.moving import Kept
from spoolnode.node.outbox.shipping import Shipment
from spoolnode.node.spool.tasks import Batch
from spoolnode.protocol.packet import HEADER, decode_variables

BETA, GAMMA = "bbbbbbbbbbbb", "cccccccccccc"


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


async def accepted(station: Station, *numbers: int, to: str = "beta", **more: str) -> None:
    """Tasks for another node, safe."""
    for number in numbers:
        station.admit(task(number, spool_node=to, **more), link=None)
    await station.rest()


async def taken(station: Station, count: int = 100, peer: str = BETA, to: str = "beta") -> Shipment | None:
    """The tasks that a link to that node would send."""
    await station.during(station.outbox.meet(to, peer))
    load: Shipment | None = await station.during(station.storage.shipping.take(to, peer, count, count))
    return load


def variables(load: Shipment | None) -> list[dict[bytes, bytes]]:
    """Those of its tasks."""
    envelopes = load.envelopes if load is not None else []
    return [dict(decode_variables(envelope.head[4 : 4 + HEADER.unpack_from(envelope.head)[1]])) for envelope in envelopes]


def tasks(load: Shipment | None) -> list[int]:
    """Their numbers `n`."""
    return [int(said[b"n"]) for said in variables(load)]


def numbers(load: Shipment | None) -> list[int]:
    """Their sequence numbers."""
    return [envelope.number for envelope in load.envelopes] if load is not None else []


def back(station: Station, load: Shipment, *, doubtful: bool, peer: str = BETA) -> None:
    """A link could not get rid of them."""
    station.storage.shipping.give_back("beta", peer if doubtful else UNSENT, load.rest(load.envelopes))


async def handed(station: Station, load: Shipment, peer: str = BETA) -> None:
    """The other node has them."""
    station.storage.shipping.handed("beta", peer, load.rest(load.envelopes), [envelope.number for envelope in load.envelopes])
    await station.rest()


def saved(station: Station) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """The numbers in doubt, as `links` would have them now."""
    doubts = station.outbox._links(clean=False).doubts
    return {to: {owner: found.pairs() for owner, found in owners.items()} for to, owners in doubts.items() if owners}


async def all_of(station: Station, peer: str = BETA) -> list[int]:
    """Everything that would be sent to that node, in order."""
    found: list[int] = []
    while (load := await taken(station, peer=peer)) is not None:
        found += tasks(load)
    return found


# -- in and out --


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_tasks_are_sent_in_the_order_of_acceptance_and_leave_when_the_other_side_has_them(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2, 3)
        if settle:
            await station.settled()
            assert len(station.files("outbox/beta")) == 3
        assert station.outbox.sizes() == {"beta": 3}
        assert station.spool.total == 0, "they are not this node's to run"
        assert station.run_all() == []
        load = await taken(station)
        assert load is not None
        assert tasks(load) == [1, 2, 3]
        assert numbers(load) == list(range(numbers(load)[0], numbers(load)[0] + 3))
        assert await taken(station) is None, "they are with a link"
        await handed(station, load)
        assert station.outbox.sizes() == {}
        assert station.outbox.forwarded == 3
        await station.tidy()
        assert station.files("outbox/beta") == []
        for later in (station.killed(), station.after_power_cut()):
            assert later.outbox.sizes() == {}

    run(story())


def test_priorities_go_first_and_large_bodies_go_too() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        await accepted(station, 2, priority="5")
        await station.upload(task(3, spool_node="beta"), link=None)
        assert sorted(await all_of(station)) == [1, 2, 3]

    run(story())


def test_no_more_than_asked_for_is_taken_and_the_rest_follows() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, *range(5))
        assert tasks(await taken(station, 2)) == [0, 1]
        assert tasks(await taken(station, 2)) == [2, 3]
        assert tasks(await taken(station, 2)) == [4]

    run(story())


def test_a_task_that_the_disk_refused_owes_no_number() -> None:
    async def story() -> None:
        station = Station()
        first = station.outbox.low_watermark("beta")
        station.disk.fail_at(2, errno.EIO)
        heard = station.admit(task(1, spool_node="beta"), link=None)
        await station.rest()
        assert heard.refusals
        assert station.outbox.sizes() == {}
        assert station.outbox.destination("beta").outstanding.low_watermark(1 << 63) == 1 << 63
        assert first <= station.outbox.low_watermark("beta")

    run(story())


# -- doubt --


def test_what_is_in_doubt_is_sent_first_and_with_its_number() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2)
        load = await taken(station)
        assert load is not None
        assert not load.doubtful
        assert station.storage.outbox.in_doubt("beta") == 0
        back(station, load, doubtful=True)
        await accepted(station, 3)
        assert station.storage.outbox.in_doubt("beta") == 2
        again = await taken(station)
        assert again is not None
        assert again.doubtful
        assert tasks(again) == [1, 2]
        assert numbers(again) == numbers(load)
        assert tasks(await taken(station)) == [3]

    run(story())


def test_what_is_in_doubt_is_given_to_no_other_node() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        load = await taken(station)
        assert load is not None
        back(station, load, doubtful=True)
        outbox = station.outbox
        assert not outbox.has_work("beta", GAMMA)
        assert outbox.has_work("beta", BETA)
        assert outbox.has_work("beta", ANYONE)
        assert await taken(station, peer=GAMMA) is None
        assert await station.during(station.moving.re_place("beta", 10, lambda _asked: "")) == 0
        assert tasks(await taken(station, peer=BETA)) == [1]

    run(story())


def test_what_surely_did_not_arrive_may_go_to_any_node() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        load = await taken(station)
        assert load is not None
        back(station, load, doubtful=False)
        assert tasks(await taken(station, peer=GAMMA)) == [1]

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_a_start_knows_what_may_have_been_sent_and_to_whom(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        if settle:
            await station.settled()
        load = await taken(station)
        assert load is not None
        await accepted(station, 2)
        later = station.killed()
        assert later.outbox.sizes() == {"beta": 2}
        assert await all_of(later, GAMMA) == [2]
        again = await taken(later)
        assert again is not None
        assert again.doubtful
        assert numbers(again) == numbers(load)

    run(story())


@pytest.mark.parametrize("seed", range(6))
def test_after_a_power_cut_marks_may_be_lost_so_everything_counts_as_doubtful(seed: int) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2)
        load = await taken(station, 1)
        assert load is not None
        later = station.after_power_cut(seed)
        assert await taken(later, peer=GAMMA) is None
        assert sorted(await all_of(later, BETA)) == [1, 2]

    run(story())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_after_an_orderly_stop_a_power_cut_leaves_what_was_never_sent_undoubted(seed: int, *, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await station.upload(task(1, spool_node="beta"), link=None)
        gone = await taken(station)
        assert gone is not None
        await handed(station, gone)
        await station.upload(task(2, spool_node="beta"), link=None)
        sent = await taken(station)
        assert sent is not None
        back(station, sent, doubtful=True)
        await accepted(station, 3, 4)
        if settle:
            await station.settled()
        await station.during(station.storage.close())
        later = station.after_power_cut(seed)
        assert later.outbox.in_doubt("beta") == 1
        assert await all_of(later, GAMMA) == [3, 4]
        assert await all_of(later, BETA) == [2]

    run(story())


@pytest.mark.parametrize("seed", range(6))
def test_a_mark_of_a_process_that_was_killed_is_safe_after_the_orderly_stop_of_the_next_one(seed: int) -> None:
    async def story() -> None:
        station = Station()
        await station.upload(task(1, spool_node="beta"), link=None)
        assert await taken(station) is not None
        later = station.killed()
        await later.during(later.storage.close())
        assert await taken(later.after_power_cut(seed), peer=GAMMA) is None

    run(story())


@pytest.mark.parametrize("end", ["killed", "stopped"])
@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_what_is_in_doubt_after_a_power_cut_is_so_after_every_later_start(end: str, *, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2)
        if settle:
            await station.settled()
        assert await taken(station, 1) is not None
        later = station.after_power_cut()
        for _ in range(3):
            if end == "stopped":
                await later.during(later.storage.close())
            later = later.after_power_cut() if end == "stopped" else later.killed()
            assert later.outbox.in_doubt("beta") == 2
            assert await taken(later, peer=GAMMA) is None

    run(story())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_a_start_on_a_full_disk_makes_no_mark_that_the_next_power_cut_could_take_with_it(seed: int, *, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 0, 1)
        assert await taken(station, 1) is not None, "so `links` knows who answers"
        if settle:
            await station.settled()
        await station.during(station.storage.close())
        station.disk.space = -(1 << 40)  # so much that what a start frees does not help
        full = station.after_power_cut(seed)
        with pytest.raises(OSError, match="No space"):
            await taken(full)
        full.disk.space = 1 << 40
        assert await taken(full) is not None
        later = full.after_power_cut(seed)
        assert later.outbox.in_doubt("beta") == 2
        assert await taken(later, peer=GAMMA) is None

    run(story())


def test_numbers_in_doubt_are_saved_with_their_owners_while_a_link_has_them_and_until_they_are_gone_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2, 3)
        load = await taken(station)
        assert load is not None
        back(station, load, doubtful=True)
        outbox, first = station.outbox, numbers(load)[0]
        again = await taken(station, 1)
        assert again is not None
        with monkeypatch.context() as no_look:
            no_look.setattr(Batch, "sequence_number", None)  # at each task: there may be a hundred thousand
            assert saved(station) == {"beta": {BETA: [(first, first + 3)]}}, "one is with a link, and in doubt all the same"
        await handed(station, again)
        assert saved(station) == {"beta": {BETA: [(first, first + 3)]}}, "its removal is not safe yet"
        await station.tidy()
        assert saved(station) == {"beta": {BETA: [(first + 1, first + 3)]}}
        source, ref = load.source, load.envelopes[1].ref
        assert outbox.destination("beta").owner_of(source, ref) == BETA
        await station.during(outbox.remove(source, ref))
        await station.tidy()
        assert saved(station) == {"beta": {BETA: [(first + 2, first + 3)]}}

    run(story())


# -- numbers --


def test_numbers_rise_over_restarts_and_none_is_given_twice() -> None:
    async def story() -> None:
        station, seen = Station(), []
        for start in range(4):
            await accepted(station, start)
            seen.append(station.outbox.destination("beta").outstanding._open.pairs()[-1][1] - 1)
            station = station.killed() if start % 2 else station.after_power_cut(start)
        assert seen == sorted(set(seen))
        assert station.outbox.sizes() == {"beta": 4}

    run(story())


def test_the_watermark_rises_only_when_what_left_the_disk_has_left_it_for_good() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2)
        load = await taken(station, 1)
        assert load is not None
        outbox = station.outbox
        before = outbox.destination("beta").outstanding.low_watermark(0)
        await handed(station, load)
        assert outbox.destination("beta").outstanding.low_watermark(0) == before == numbers(load)[0]
        assert outbox.has_ended
        await station.tidy()
        assert outbox.destination("beta").outstanding.low_watermark(0) == before + 1

    run(story())


def test_the_watermark_does_not_rise_when_the_disk_does_not_confirm() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        load = await taken(station)
        assert load is not None
        await handed(station, load)
        before = station.outbox.destination("beta").outstanding.low_watermark(0)
        for call in range(1, 5):
            station.disk.fail_at(call, errno.EIO)
        await station.tidy()
        station.disk.heal()
        assert station.outbox.destination("beta").outstanding.low_watermark(0) == before

    run(story())


# -- giving up, removing, moving --


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_what_cannot_be_delivered_goes_to_dead_with_the_reason(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        if settle:
            await station.settled()
        load = await taken(station)
        assert load is not None
        envelope = load.envelopes[0]
        station.storage.shipping.give_up("beta", UNSENT, load.rest([envelope]), "never")
        await station.rest()
        (name,) = station.files("dead")
        assert b"not delivered to beta: never" in (station.disk.peek(station.journal.layout.path(f"dead/{name}")) or b"")
        assert station.outbox.sizes() == {}
        assert (station.journal.counts.died, station.journal.counts.undelivered) == (0, 1)
        await station.tidy()
        for later in (station.killed(), station.after_power_cut()):
            assert later.outbox.sizes() == {}
            assert len(later.files("dead")) == 1

    run(story())


async def undelivered(station: Station) -> TaskAdmin:
    """One task for beta is dead. Returns the hands of an operator."""
    await accepted(station, 1)
    load = await taken(station)
    assert load is not None
    station.storage.shipping.give_up("beta", UNSENT, load.rest(load.envelopes), "never")
    await station.rest()
    await station.tidy()
    neighbours: Any = SimpleNamespace(route=lambda terms: [terms.destination])
    unused: Any = None
    in_store = InStore(NoCommons(), station.journal, station._report)
    aside = Counting(station.journal.reader)
    return TaskAdmin(station.storage, neighbours, unused, unused, unused, aside, in_store, station._report)


async def asked_of(thread: SteppedThread) -> None:
    """Returns when a thread has something to do."""
    while not thread.todo:
        await asyncio.sleep(0)


@pytest.mark.parametrize("fate", ["cancelled", "refused by the disk"])
def test_the_number_of_a_dead_task_that_goes_again_is_owed_unless_it_is_certain_that_it_stays(fate: str) -> None:
    async def story() -> None:
        station = Station()
        admin = await undelivered(station)
        retry = asyncio.get_running_loop().create_task(admin.retry_dead(Choice()))
        await asked_of(moves := station._stepped(station.journal.moves))
        moves.work()  # it reads where the task goes
        moves.answer()
        await asked_of(moves)  # to move it there
        if fate == "cancelled":
            retry.cancel()
            await station.turn()
        else:
            station.disk.fail_at(1, errno.EIO)
        await station.rest()
        with pytest.raises(asyncio.CancelledError if fate == "cancelled" else OSError):
            await retry
        lowest = station.outbox.destination("beta").outstanding.low_watermark(1 << 63)
        stored = [number_of(f"outbox/beta/{name}") for name in station.files("outbox/beta")]
        assert [lowest] == (stored if fate == "cancelled" else [1 << 63])

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_a_task_that_waits_is_removed_and_one_that_is_with_a_link_is_not(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2)
        if settle:
            await station.settled()
        load = await taken(station, 1)
        assert load is not None
        outbox, source = station.outbox, load.source
        assert not await station.during(outbox.remove(source, load.envelopes[0].ref))
        other = await taken(station, 1)
        assert other is not None
        back(station, other, doubtful=False)
        assert await station.during(station.storage.remove(other.source, other.envelopes[0].ref))
        assert outbox.sizes() == {"beta": 1}
        back(station, load, doubtful=False)
        assert await all_of(station) == [1]

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
@pytest.mark.parametrize("doubtful", [False, True])
def test_a_cancelled_task_that_is_in_doubt_tells_who_may_have_it(*, settle: bool, doubtful: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        load = await taken(station, 1)
        assert load is not None
        back(station, load, doubtful=doubtful)
        if settle:
            await station.settled()
        found = await station.during(station.storage.find(station.journal.id_of(load.source, load.envelopes[0].ref)))
        assert found is not None
        buried = await station.during(station.storage.cancellation.cancel(*found, "a test"))
        assert buried == Buried("beta", BETA if doubtful else UNSENT, load.envelopes[0].number), "it was marked as sent"

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_what_is_due_later_and_not_handed_over_keeps_its_time(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        spool, moving = station.spool, station.moving
        at = int(time.time()) + 3600
        for number in range(5):
            station.admit(task(number, at=str(at + number)), link=None)
        await station.rest()
        if settle:
            await station.settled()
        aside: list[Kept] = []
        assert await station.during(moving.give_away(2, lambda _asked: GAMMA, aside)) is None, "none is ready"
        assert await station.during(moving.give_away(2, lambda _asked: GAMMA, aside, later=True)) == 2
        assert await station.during(moving.give_away(9, lambda _asked: None, aside, later=True)) == 0
        assert await station.during(moving.give_away(9, lambda _asked: GAMMA, aside, later=True)) is None, "all were looked at"
        await station.settled()  # a round in the midst of it
        moving.put_back(aside)
        await station.settled()
        due = {str(ref): when for ref, when in spool.waiting.later.of(spool.files).items()}
        assert sorted(due.values()) == [at + 2, at + 3, at + 4]
        assert {ref: station.disk.stat(station.journal.layout.path(ref)).mtime for ref in due} == due
        assert station.outbox.sizes() == {GAMMA: 2}
        assert station.killed().spool.waiting.later.next_due() == at + 2

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_what_moves_here_from_the_outbox_waits_for_its_time(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        at = int(time.time()) + 3600
        await accepted(station, 1, at=str(at))
        if settle:
            await station.settled()
        assert await station.during(station.moving.re_place("beta", 9, lambda _asked: "")) == 1
        assert station.spool.waiting.later.next_due() == at
        assert station.spool.waiting.ready.size == 0

    run(story())


@pytest.mark.parametrize("settle", [False, True], ids=["in a batch", "in files"])
def test_what_was_never_sent_moves_to_another_destination_or_here_with_another_number(*, settle: bool) -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2, 3)
        if settle:
            await station.settled()
        places = iter([GAMMA, "", None])
        moved = await station.during(station.moving.re_place("beta", 10, lambda _asked: next(places)))
        assert moved == 2
        assert station.outbox.sizes() == {"beta": 1, GAMMA: 1}
        assert station.run_all() == [2]
        assert tasks(await taken(station)) == [3]
        assert tasks(await taken(station, peer=GAMMA, to=GAMMA)) == [1]
        await station.tidy()
        for later in (station.killed(), station.after_power_cut(2)):
            assert later.outbox.sizes() == {"beta": 1, GAMMA: 1}
            assert later.run_all() == []

    run(story())


def test_what_has_waited_too_long_is_told_oldest_first_and_no_more_than_asked_for() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2, 3)
        outbox = station.outbox
        assert outbox.take_old(0.0, 10) == []
        found = outbox.take_old(float("inf"), 2)
        assert [(to, owner, len(taken.refs)) for to, owner, taken in found] == [("beta", UNSENT, 2)]
        assert await all_of(station) == [3]

    run(story())


def test_all_that_has_waited_too_long_is_given_up_in_time_however_much_it_is() -> None:
    async def story() -> None:
        station = Station()
        count = 3 * EXPIRED_AT_ONCE + 7
        await accepted(station, *range(count))
        await station.during(station.storage.expiry.give_up(1e6))
        assert station.outbox.sizes() == {"beta": count}
        await station.during(station.storage.expiry.give_up(-1e6))
        assert station.outbox.sizes() == {}
        assert len(station.files("dead")) == count

    run(story())


def test_what_is_given_up_together_shares_what_its_directory_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        costs = []
        for together in (1, BURIED_TOGETHER):
            monkeypatch.setattr(expiry, "BURIED_TOGETHER", together)
            station = Station()
            await accepted(station, *range(BURIED_TOGETHER))
            await station.settled()
            before = station.disk.calls
            await station.during(station.storage.expiry.give_up(-1e6))
            assert len(station.files("dead")) == BURIED_TOGETHER
            costs.append(station.disk.calls - before)
        assert costs[1] < costs[0] - BURIED_TOGETHER, "at least one sync less for each"

    run(story())


def test_of_tasks_given_up_together_those_that_the_disk_keeps_stay_and_the_others_go() -> None:
    async def story() -> None:
        calls = 1
        while True:
            station = Station()
            await accepted(station, 1, 2, 3)
            await station.settled()
            station.disk.fail_at(calls, errno.EIO)
            first = station.disk.calls
            await station.during(station.storage.expiry.give_up(-1e6))
            failed = station.disk.calls - first >= calls
            station.disk.heal()
            assert station.outbox.sizes().get("beta", 0) + len(station.files("dead")) == 3
            await station.during(station.storage.expiry.give_up(-1e6))
            assert station.outbox.sizes() == {}
            assert len(station.files("dead")) == 3
            if not failed:
                break
            calls += 1
        assert calls > 10

    run(story())


def test_thousands_of_destinations_are_looked_at_in_many_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "DESTINATIONS_AT_ONCE", 10)

    async def story() -> None:
        station = Station()
        for n in range(100):
            station.outbox.number(f"ghost-{n}")
        job = asyncio.create_task(station.storage.expiry.give_up(1.0))
        turns = 0
        while not job.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns >= 10

    run(story())


def test_what_cannot_be_given_up_now_is_not_tried_again_and_again() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1, 2, 3)
        room, station.disk.space = station.disk.space, 0
        await station.during(station.storage.expiry.give_up(-1e6))
        assert station.outbox.sizes() == {"beta": 3}
        station.disk.space = room
        await station.during(station.storage.expiry.give_up(-1e6))
        assert len(station.files("dead")) == 3

    run(story())


def test_a_file_put_into_an_outbox_by_hand_is_sent_with_a_number_of_its_own() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        await station.settled()
        (name,) = station.files("outbox/beta")
        root = station.journal.layout.path("outbox/beta")
        station.disk.rename(f"{root}/{name}", f"{root}/uwsgi_spoolfile_on_elsewhere")
        later = station.killed()
        load = await taken(later)
        assert tasks(load) == [1]
        assert numbers(load)[0] > 0
        assert later.files("outbox/beta")[0].startswith("uwsgi_spoolfile_on_elsewhere@")

    run(story())


def test_a_disk_that_cannot_be_read_keeps_the_tasks() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        await station.during(station.outbox.meet("beta", BETA))
        station.disk.fail_at(1, errno.EIO)
        with pytest.raises(OSError, match="put"):
            await station.during(station.storage.shipping.take("beta", BETA, 10, 10))
        assert tasks(await taken(station)) == [1]

    run(story())


def test_a_meeting_that_the_disk_does_not_note_did_not_take_place() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        station.disk.fail_at(1, errno.ENOSPC)
        with pytest.raises(OSError, match="space"):
            await station.during(station.outbox.meet("beta", BETA))
        assert station.outbox.destination("beta").peer == ANYONE
        assert tasks(await taken(station)) == [1]

    run(story())


def test_a_destination_is_forgotten_only_when_nothing_of_it_is_owed() -> None:
    async def story() -> None:
        station = Station()
        await accepted(station, 1)
        outbox = station.outbox
        outbox.prune("beta")
        assert "beta" in outbox.destinations
        load = await taken(station)
        assert load is not None
        await handed(station, load)
        outbox.prune("beta")
        assert "beta" in outbox.destinations, "its number is not ended for good"
        await station.tidy()
        outbox.prune("beta")
        assert "beta" not in outbox.destinations

    run(story())


def test_a_large_body_is_read_from_its_place() -> None:
    async def story() -> None:
        station = Station()
        await station.upload(task(1, spool_node="beta"), link=None)
        load = await taken(station)
        assert load is not None
        (envelope,) = load.envelopes
        data = station.disk.peek(station.journal.layout.path(str(envelope.ref)))
        assert data is not None
        assert data[envelope.body_at : envelope.body_end] == LARGE

    run(story())
