"""A task that comes over a link is taken once: whatever repeats, whatever fails, and wherever the machine stops."""

import asyncio
import errno
import math
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from linked import LARGE, LINK, NODE, PEER, Heard, Station, task

from spoolnode.node.disk.fakes import PowerCut
from spoolnode.node.ingress import admission
from spoolnode.node.ingress.admission import WATERMARK_AHEAD
from spoolnode.node.ingress.waiters import KNOWN
from spoolnode.node.spool.sequence import RUN_BITS, Received, Verdict
from spoolnode.protocol import names
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables

FIRST = (1000 << 32) + 1


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def refusal(station: Station, block: bytes, link: Any = LINK) -> Refused:
    with pytest.raises(Refused) as caught:
        station.admit(block, link=link)
    return caught.value


# -- numbers --


def test_a_task_is_stored_once_and_its_repeat_is_answered_stored_and_does_not_run_again() -> None:
    async def story() -> None:
        station = Station()
        first = station.admit(task(1, FIRST))
        await station.rest()
        assert first.stored_as[0].startswith(f"{NODE}_")
        assert station.run_all() == [1]
        again = station.admit(task(1, FIRST))
        assert again.stored_as == [KNOWN], "answered at once: there is nothing to write"
        await station.rest()
        assert station.run_all() == []
        assert station.spool.counts.repeats == 1
        assert station.journal.counts.accepted == 1

    run(story())


def test_a_repeat_that_overtakes_the_disk_is_refused_for_a_moment_and_not_stored_twice() -> None:
    async def story() -> None:
        station = Station()
        first = station.admit(task(1, FIRST))
        found = refusal(station, task(1, FIRST))
        assert found.reason is Reason.BUSY
        assert str(FIRST) in found.text
        await station.rest()
        assert first.stored_as
        assert station.run_all() == [1]

    run(story())


def test_a_task_that_is_kept_out_is_not_stored_when_a_copy_still_comes() -> None:
    async def story() -> None:
        station = Station()
        assert station.admission.keep_out(LINK, FIRST) is Verdict.NEW
        late = station.admit(task(1, FIRST))
        assert late.stored_as == [KNOWN], "its sender hears nothing else than of one that was taken"
        station.admit(task(2, FIRST + 1))
        assert station.admission.keep_out(LINK, FIRST + 1) is Verdict.PENDING
        await station.rest()
        assert station.admission.keep_out(LINK, FIRST + 1) is Verdict.RECEIVED
        assert station.run_all() == [2]

    run(story())


def test_a_number_below_the_watermark_is_a_conflict_and_nothing_is_stored() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST + 9))
        await station.rest()
        station.admission.hear_watermark(LINK, FIRST + 10)
        found = refusal(station, task(3, FIRST + 8))
        assert found.reason is Reason.CONFLICT
        station.admit(task(2, FIRST + 10))
        await station.rest()
        assert station.run_all() == [1, 2]

    run(story())


def test_a_watermark_keeps_out_nothing_above_what_was_taken_whoever_said_it() -> None:
    async def story() -> None:
        station = Station()
        station.admission.hear_watermark(LINK, FIRST + 10)
        station.admit(task(1, FIRST + 2))
        await station.rest()
        station.admission.hear_watermark(LINK, FIRST + 10)
        assert refusal(station, task(2, FIRST + 1)).reason is Reason.CONFLICT
        station.admit(task(3, FIRST + 3))
        await station.rest()
        assert station.run_all() == [1, 3]

    run(story())


def test_whoever_only_says_hello_is_not_remembered() -> None:
    async def story() -> None:
        station = Station()
        before = station.journal.received.encode()
        for n in range(10):
            station.admission.hear_watermark((f"{n:012x}", "beta"), FIRST)
        assert len(station.journal.received) == 0
        assert station.journal.received.encode() == before

    run(story())


@pytest.mark.parametrize("ahead", [2 * WATERMARK_AHEAD, 10**9, 2 * 10**9])
def test_a_watermark_far_ahead_of_the_clock_is_not_believed(ahead: int) -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        for link in (LINK, ("bbbbbbbbbbbb", "beta")):
            station.admission.hear_watermark(link, int(time.time()) + ahead << RUN_BITS)
        station.admit(task(2, FIRST + 1))
        station.admit(task(3, FIRST + 1), link=("bbbbbbbbbbbb", "beta"))
        await station.rest()
        assert sorted(station.run_all()) == [1, 2, 3]

    run(story())


def test_the_largest_number_is_stored_and_the_numbers_after_a_restart_are_read_again() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, names.MAX_NUMBER))
        await station.rest()
        assert station.run_all() == [1]
        again = Received.decode(station.journal.received.encode(), time.time())
        assert again.judge(LINK, names.MAX_NUMBER) is Verdict.RECEIVED

    run(story())


def test_no_more_links_are_remembered_than_there_is_room_for_and_those_that_are_over_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "MOST_LINKS", 2)

    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        station.admit(task(2, FIRST), link=("bbbbbbbbbbbb", "beta"))
        await station.rest()
        with pytest.raises(Refused) as caught:
            station.admit(task(3, FIRST), link=("cccccccccccc", "beta"))
        assert caught.value.reason is Reason.BUSY
        station.admission.hear_watermark(LINK, FIRST + 1)
        station.admit(task(3, FIRST), link=("cccccccccccc", "beta"))
        await station.rest()
        assert sorted(station.run_all()) == [1, 2, 3]

    run(story())


def test_a_task_without_a_number_is_malformed_over_a_link() -> None:
    async def story() -> None:
        station = Station()
        assert refusal(station, task(1)).reason is Reason.MALFORMED
        upload, heard = None, Heard()
        with pytest.raises(Refused, match="spool_seq"):
            upload, heard = station.begin_upload(task(1))
        assert upload is None
        assert not heard.answers

    run(story())


def test_the_same_number_of_another_sender_or_of_another_destination_is_another_task() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        station.admit(task(2, FIRST), link=("bbbbbbbbbbbb", "beta"))
        station.admit(task(3, FIRST), link=(PEER, "127.0.0.1:3031"))
        await station.rest()
        assert sorted(station.run_all()) == [1, 2, 3]

    run(story())


def test_a_task_says_who_sent_it_whatever_it_said_itself() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST, spool_to="gamma", spool_id="bbbbbbbbbbbb_1_64"))
        await station.rest()
        (variables,) = station.waiting()
        assert variables[b"spool_origin"] == PEER.encode()
        assert variables[b"spool_to"] == b"beta"
        assert variables[b"spool_seq"] == str(FIRST).encode()
        assert variables[b"spool_id"] == b"bbbbbbbbbbbb_1_64"

    run(story())


def test_a_task_from_a_peer_runs_here_whatever_destination_it_names() -> None:
    async def story() -> None:
        def route(terms: object) -> list[str]:
            raise AssertionError("it was routed once, by its sender")

        station = Station(route=route)
        station.admit(task(1, FIRST, spool_node="gamma"))
        await station.upload(task(2, FIRST + 1, spool_node="all"))
        assert sorted(station.run_all()) == [1, 2]

    run(story())


def test_variables_that_leave_no_room_for_the_sender_are_refused_and_the_number_stays_free() -> None:
    async def story() -> None:
        station = Station()
        small = len(task(1, FIRST, filler=""))
        found = refusal(station, task(1, FIRST, filler="x" * (MAX_BLOCK - small)))
        assert found.reason is Reason.TOO_LARGE
        assert station.journal.received.judge(LINK, FIRST) is Verdict.NEW
        with pytest.raises(Refused, match="variables"):
            station.begin_upload(task(1, FIRST, filler="x" * (MAX_BLOCK - small)))
        station.admit(task(1, FIRST, filler="x" * (MAX_BLOCK - small - 300)), link=(PEER, "x" * 249 + ":65535"))
        await station.rest()
        assert station.run_all() == [1]

    run(story())


# -- the disk fails --


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_task_that_the_disk_refused_may_come_again(code: int) -> None:
    async def story() -> None:
        station = Station()
        for call in range(1, 8):
            station.disk.fail_at(call, code)
            heard = station.admit(task(call, FIRST + call))
            await station.rest()
            station.disk.heal()
            assert heard.answers == 1
            if heard.refusals:
                assert station.journal.received.judge(LINK, FIRST + call) is Verdict.NEW
                again = station.admit(task(call, FIRST + call))
                await station.rest()
                assert again.stored_as
        assert sorted(station.run_all()) == list(range(1, 8))

    run(story())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", range(1, 25))
def test_a_large_task_that_the_disk_failed_at_any_call_runs_once_and_its_number_tells_whether(call: int, code: int) -> None:
    async def story() -> None:
        station = Station()
        station.disk.fail_at(call, code)
        heard = await station.upload(task(1, FIRST))
        station.disk.heal()
        assert heard.answers == 1
        again = await station.upload(task(1, FIRST))
        assert again.stored_as, again.refusals
        await station.settled()  # a second passes: writes that the disk did not take are tried again
        await station.rest()
        assert station.run_all() == [1]
        assert not station.files("arriving")
        assert not station.files("tmp")
        assert not station.killed().run_all()

    run(story())


# -- large bodies --


def test_a_large_task_has_its_number_saved_before_it_may_run() -> None:
    async def story() -> None:
        station = Station()
        heard = await station.upload(task(1, FIRST))
        assert heard.stored_as
        data = station.disk.peek(station.journal.layout.taken)
        assert data is not None
        assert Received.decode(data, time.time()).judge(LINK, FIRST) is Verdict.RECEIVED
        assert station.run_all() == [1]
        assert (await station.upload(task(1, FIRST))).stored_as == [KNOWN]
        for later in (station.killed(), station.after_power_cut()):
            assert (await later.upload(task(1, FIRST))).stored_as == [KNOWN]

    run(story())


def test_a_large_task_counts_as_waiting_from_its_answer_on_also_while_its_number_cannot_be_saved() -> None:
    async def story() -> None:
        station = Station()
        real = station.journal.store.replace

        def full(path: str, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        station.journal.store.replace = full  # type: ignore[method-assign] # the disk is full for this file only
        heard = await station.upload(task(1, FIRST))
        assert heard.stored_as
        assert station.files("arriving")
        assert station.spool.total == 1
        assert station.spool.is_busy
        station.journal.store.replace = real  # type: ignore[method-assign] # and has room again
        await station.settled()
        assert not station.files("arriving")
        assert station.spool.total == 1
        assert station.run_all() == [1]

    run(story())


def test_a_body_that_did_not_come_whole_leaves_its_number_free() -> None:
    async def story() -> None:
        station = Station()
        upload, heard = station.begin_upload(task(1, FIRST))
        assert upload is not None
        await upload.write(LARGE[:1000])
        with pytest.raises(Refused, match="stored right now"):
            station.begin_upload(task(1, FIRST))
        upload.abort()
        assert not heard.answers
        assert not station.files("tmp")
        assert (await station.upload(task(1, FIRST))).stored_as
        assert station.run_all() == [1]

    run(story())


def test_a_large_task_keeps_its_priority_and_its_time() -> None:
    async def story() -> None:
        station = Station()
        await station.upload(task(1, FIRST, priority="7"))
        await station.upload(task(2, FIRST + 1, at="4000000000"))
        await station.rest()
        assert len(station.files("7")) == 1
        assert len(station.spool.waiting.later) == 1
        assert sorted(station.run_all()) == [1, 2]

    run(story())


def test_of_two_priorities_the_last_counts_also_for_a_large_task() -> None:
    async def story() -> None:
        station = Station()
        block = encode_variables([(b"priority", b"3")]) + task(1, FIRST, priority="7")
        await station.upload(block)
        assert station.files("3") == []
        assert len(station.files("7")) == 1
        assert station.run_all() == [1]

    run(story())


# -- proofs --


def test_a_batch_that_proves_numbers_goes_only_when_they_are_saved() -> None:
    async def story() -> None:
        station = Station()
        for number in range(3):
            station.admit(task(number, FIRST + number))
        await station.rest()
        station.spool.group_commit.close_batch()
        await station.rest()
        assert station.run_all() == [0, 1, 2]
        await station.tidy()
        await station.rest()
        assert not [name for name in station.files("incoming") if int(name.split(".")[0]) in station.journal.batches]
        data = station.disk.peek(station.journal.layout.taken)
        assert data is not None
        assert [Received.decode(data, time.time()).judge(LINK, FIRST + number) for number in range(4)] == [
            Verdict.RECEIVED
        ] * 3 + [Verdict.NEW]
        for later in (station.killed(), station.after_power_cut()):
            for number in range(3):
                assert later.admit(task(number, FIRST + number)).stored_as == [KNOWN]
            assert later.run_all() == []

    run(story())


def test_a_task_that_was_settled_has_its_number_saved_and_is_known_after_it_ran() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        await station.rest()
        await station.settled()
        assert station.run_all() == [1]
        await station.tidy()
        for later in (station.killed(), station.after_power_cut(3)):
            assert later.admit(task(1, FIRST)).stored_as == [KNOWN]
            assert later.run_all() == []

    run(story())


def test_when_the_numbers_cannot_be_saved_the_batch_that_proves_them_stays() -> None:
    async def story() -> None:
        station = Station()
        station.admit(task(1, FIRST))
        await station.rest()
        station.spool.group_commit.close_batch()
        await station.rest()
        real = station.journal.store.replace

        def full(path: str, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        station.journal.store.replace = full  # type: ignore[method-assign] # the disk is full for this file only
        assert station.run_all() == [1]
        await station.rest()
        assert station.killed().admit(task(1, FIRST)).stored_as == [KNOWN]
        station.journal.store.replace = real  # type: ignore[method-assign] # and has room again
        for batch in station.journal.batches.values():
            batch.closed_at = -math.inf  # time has passed
        await station.during(station.storage.settle())
        await station.rest()
        assert not station.journal.batches
        assert station.killed().admit(task(1, FIRST)).stored_as == [KNOWN]

    run(story())


# -- the machine stops at any call --


async def one_life(call: int, *, large: bool, seed: int) -> bool:
    """A task comes, is settled and runs; the power goes at the `call`-th call. Whether there were fewer."""
    station = Station()
    disk = station.disk
    heard = Heard()
    ran: list[int] = []
    disk.cut_power_at(call)
    try:
        heard = await station.upload(task(1, FIRST)) if large else station.admit(task(1, FIRST))
        await station.rest()
        await station.settled()
        ran = station.run_all()
        await station.tidy()
        await station.rest()
    except (PowerCut, OSError):
        pass
    alive = not disk.is_off
    safe = bool(ran) and alive
    later = station.after_power_cut(seed)
    # The sender has no answer, or has one that it forgot: it sends everything again.
    try:
        again = await later.upload(task(1, FIRST)) if large else later.admit(task(1, FIRST))
    except Refused as refusal:
        raise AssertionError(f"after {call} calls: {refusal}") from None
    await later.rest()
    assert again.stored_as, (call, again.refusals)
    if heard.stored_as:
        assert again.stored_as == [KNOWN], f"after {call} calls: it was acknowledged, and its number is forgotten"
    await later.settled()
    rerun = later.run_all()
    assert len(rerun) <= 1, f"after {call} calls it is there twice"
    if safe:
        assert not rerun, f"after {call} calls it runs again"
    if not ran:
        assert rerun == [1], f"after {call} calls it is lost"
    for pending in asyncio.all_tasks() - {asyncio.current_task()}:
        pending.cancel()
    return alive


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("seed", range(4))
def test_power_cut_at_any_call_between_the_places_of_a_task_leaves_it_taken_once(seed: int, *, large: bool) -> None:
    for call in range(1, 200):
        if asyncio.run(one_life(call, large=large, seed=seed)):
            assert call > 10
            return
    raise AssertionError("a life has fewer calls than that")


# -- copies that leave --


def test_copies_for_peers_have_numbers_of_their_own_and_one_answer() -> None:
    async def story() -> None:
        station = Station(route=lambda _terms: ["aaaaaaaaaaaa", "", "bbbbbbbbbbbb"])
        heard = station.admit(task(1, spool_node="all"), link=None)
        await station.rest()
        assert heard.copies == 3
        assert heard.answers == 1
        assert station.outbox.sizes() == {"aaaaaaaaaaaa": 1, "bbbbbbbbbbbb": 1}
        assert station.run_all() == [1]
        large = await station.upload(task(2, spool_node="all"), link=None)
        assert large.copies == 3
        assert station.outbox.sizes() == {"aaaaaaaaaaaa": 2, "bbbbbbbbbbbb": 2}
        assert station.run_all() == [2]
        for later in (station.killed(), station.after_power_cut()):
            assert later.outbox.sizes() == {"aaaaaaaaaaaa": 2, "bbbbbbbbbbbb": 2}

    run(story())


def test_a_client_cannot_send_pickled_arguments_to_another_node_not_even_from_here() -> None:
    async def story() -> None:
        station = Station()
        block = task(1, spool_node="beta", ud_spool_func="f", args="x")
        with pytest.raises(Refused, match="pickled") as caught:
            station.admission.open(block, _local_terms(block), Heard())
        assert caught.value.reason is Reason.FORBIDDEN
        assert station.outbox.total == 0

    run(story())


def _local_terms(block: bytes) -> Any:
    from spoolnode.protocol.request import read_terms

    return read_terms(block, local=True)
