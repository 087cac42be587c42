"""Sequence numbers: interval sets are sets, each number is received once, low watermarks forget without forgetting too much."""

import itertools

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.spool import sequence
from spoolnode.node.spool.sequence import MOST_GAPS, RUN_BITS, Intervals, Outstanding, Received, Verdict
from spoolnode.protocol.errors import BadPacket

NOW = 1.8e9
KEY = ("0123456789ab", "alpha")
SMALL = st.integers(0, 40)


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "below"]), SMALL)))
def test_intervals_are_a_set(steps: list[tuple[str, int]]) -> None:
    intervals, model = Intervals(), set()
    for step, number in steps:
        if step == "add":
            intervals.add(number)
            model.add(number)
        elif step == "remove":
            intervals.remove(number)
            model.discard(number)
        else:
            intervals.drop_below(number)
            model = {member for member in model if member >= number}
        assert {member for member in range(42) if member in intervals} == model
        pairs = intervals.pairs()
        assert all(start < end for start, end in pairs)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(pairs))
        assert bool(intervals) == bool(model)
        if model:
            assert intervals.first == min(model)


def test_a_million_numbers_in_order_are_one_interval() -> None:
    intervals = Intervals()
    for number in range(1_000_000):
        intervals.add(number)
    assert intervals.pairs() == [(0, 1_000_000)]


def test_a_number_is_new_then_pending_then_taken() -> None:
    received = Received()
    assert received.judge(KEY, 5) is Verdict.NEW
    received.begin(KEY, 5)
    assert received.judge(KEY, 5) is Verdict.PENDING
    received.take(KEY, 5)
    assert received.judge(KEY, 5) is Verdict.RECEIVED
    assert received.judge(KEY, 6) is Verdict.NEW
    assert received.judge(("0123456789ab", "other"), 5) is Verdict.NEW


def test_a_refused_number_is_new_again() -> None:
    received = Received()
    received.begin(KEY, 5)
    received.refuse(KEY, 5)
    assert received.judge(KEY, 5) is Verdict.NEW


def test_below_the_watermark_is_stale_and_a_watermark_never_sinks() -> None:
    received = Received()
    received.take(KEY, 5)
    received.take(KEY, 9)
    received.raise_watermark(KEY, 7)
    received.raise_watermark(KEY, 3)
    assert [received.judge(KEY, number) for number in (5, 6, 7, 9)] == [
        Verdict.STALE,
        Verdict.STALE,
        Verdict.NEW,
        Verdict.RECEIVED,
    ]


@given(st.lists(st.tuples(st.sampled_from(["take", "floor"]), SMALL)))
def test_what_was_taken_survives_the_disk(steps: list[tuple[str, int]]) -> None:
    received = Received()
    for step, number in steps:
        (received.take if step == "take" else received.raise_watermark)(KEY, number)
    again = Received.decode(received.encode(), NOW)
    assert [again.judge(KEY, number) for number in range(42)] == [received.judge(KEY, number) for number in range(42)]


def test_gaps_are_remembered_up_to_a_bound_and_then_the_lowest_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "MOST_GAPS", 16)
    received = Received()
    for number in range(1, 101, 2):
        received.take(KEY, number)
        assert len(received._of[KEY].received) <= 16
    assert received.judge(KEY, 99) is Verdict.RECEIVED
    assert received.judge(KEY, 98) is Verdict.NEW
    assert received.judge(KEY, 2) is Verdict.STALE
    assert received.judge(KEY, 1) is Verdict.STALE


def test_what_is_being_stored_does_not_go_to_the_disk() -> None:
    received = Received()
    received.begin(KEY, 5)
    assert Received.decode(received.encode(), NOW).judge(KEY, 5) is Verdict.NEW


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x80", b"\x93\x01\x02\x03", Received().encode()[:-1]])
def test_a_damaged_file_is_one_clear_error(data: bytes) -> None:
    with pytest.raises(BadPacket, match="taken numbers"):
        Received.decode(data, NOW)


def test_a_watermark_is_the_first_open_number() -> None:
    outstanding = Outstanding()
    assert outstanding.low_watermark(100) == 100
    for number in (100, 101, 103):
        outstanding.give(number)
    outstanding.end(101)
    assert outstanding.low_watermark(104) == 100
    outstanding.end(100)
    assert outstanding.low_watermark(104) == 103
    outstanding.end(103)
    assert outstanding.low_watermark(104) == 104


def test_a_watermark_far_ahead_of_the_clock_is_forgotten_with_the_next_start() -> None:
    received = Received()
    ahead = int(NOW + 1500 * 86400) << RUN_BITS
    received.take(KEY, ahead + 1)
    received.raise_watermark(KEY, ahead)
    now = int(NOW) << RUN_BITS
    assert received.judge(KEY, now) is Verdict.STALE
    assert Received.decode(received.encode(), NOW).judge(KEY, now) is Verdict.NEW


def test_a_watermark_that_the_clock_allows_survives_a_start() -> None:
    received = Received()
    received.take(KEY, (int(NOW) << RUN_BITS) + 1)
    received.raise_watermark(KEY, int(NOW) << RUN_BITS)
    assert Received.decode(received.encode(), NOW).judge(KEY, 5) is Verdict.STALE


def test_of_more_gaps_than_are_kept_the_lowest_are_closed_when_they_are_read() -> None:
    pairs = [(2 * n + 1, 2 * n + 2) for n in range(MOST_GAPS + 10)]
    data = msgpack.packb({"version": 1, "taken": [(*KEY, 0, pairs)]})
    again = Received.decode(data, NOW)
    assert again.judge(KEY, 2) is Verdict.STALE
    assert again.judge(KEY, pairs[-1][0]) is Verdict.RECEIVED
    assert len(again.encode()) < len(data)


@pytest.mark.parametrize("pairs", [[(5, 5)], [(5, 3)], [(5, 9), (7, 12)], [(5, 9), (9, 12)], [(5, 2**64 - 1)], [(-1, 3)]])
def test_what_are_no_intervals_is_one_clear_error(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(BadPacket, match="damaged"):
        Received.decode(msgpack.packb({"version": 1, "taken": [(*KEY, 0, pairs)]}), NOW)
