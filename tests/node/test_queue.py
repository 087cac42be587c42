"""Waiting tasks come out in order, none twice, none lost: compared with models of a few lines."""

import itertools
from array import array
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.spool import queue
from spoolnode.node.spool.queue import COMPACT_AFTER, COMPACT_AT_MOST, Later, ReadyQueue
from spoolnode.protocol.names import LAST


@dataclass(eq=False)
class Source:
    name: str
    frozen: bool = False


SOURCES = [Source("a"), Source("b")]
ranks = st.sampled_from([1, 5, LAST])
sources = st.sampled_from([0, 1])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), sources, ranks, st.integers(0, 4)),
        st.tuples(st.just("back"), sources, ranks, st.integers(0, 4)),
        st.tuples(st.just("take"), st.integers(1, 5)),
        st.tuples(st.just("remove"), sources, st.integers(0, 60)),
        st.tuples(st.just("freeze"), sources),
    ),
    max_size=60,
)


@given(steps)
def test_the_ready_queue_is_a_list_sorted_by_rank(script: list[tuple[object, ...]]) -> None:
    ages: dict[int, float] = {}
    queue = ReadyQueue(lambda _source, ref: ages[int(ref)])
    frozen = [Source("a"), Source("b")]
    model: list[tuple[int, Source, int]] = []
    fresh = 0
    for kind, *rest in script:
        if kind in ("add", "back"):
            index, rank, count = rest
            source = frozen[int(str(index))]
            items = [(int(str(rank)), source, ref) for ref in range(fresh, fresh + int(str(count)))]
            fresh += len(items)
            refs = [ref for *_, ref in items]
            # Added tasks are younger than all that were here, tasks that are given back are older.
            ages |= {ref: ref if kind == "add" else ref - len(refs) - 1000 * fresh for ref in refs}
            if kind == "add":
                queue.add(source, refs, int(str(rank)))
                model += items
            else:
                queue.give_back(source, refs, int(str(rank)))
                model = items + model
            model.sort(key=lambda item: item[0])
        elif kind == "take":
            taken = queue.take(int(str(rest[0])))
            awake = [item for item in model if item[0] == model[0][0] and not item[1].frozen]
            assert (taken is None) == (not awake)
            if taken is not None:
                source, refs_taken, rank_taken = taken
                assert 1 <= len(refs_taken) <= int(str(rest[0]))
                got = [(rank_taken, source, ref) for ref in refs_taken]
                assert got == awake[: len(got)]
                model = [item for item in model if item not in got]
        elif kind == "remove":
            source, ref = frozen[int(str(rest[0]))], int(str(rest[1]))
            there = [item for item in model if item[1] is source and item[2] == ref]
            assert queue.remove(source, ref) == (there[0][0] if there else None)
            model = [item for item in model if item not in there]
        else:
            source = frozen[int(str(rest[0]))]
            source.frozen = not source.frozen
        assert queue.size == len(model)
        firsts = {rank: ages[ref] for rank, _, ref in reversed(model)}
        assert queue.oldest() == min(firsts.values(), default=None)


def test_a_task_of_a_lower_priority_does_not_overtake_one_that_is_being_moved() -> None:
    queue, moving, others = ReadyQueue(), Source("moving", frozen=True), Source("others")
    queue.add(others, [1], 10)
    queue.add(moving, [2], 3)
    assert (queue.take(9), queue.head(), queue.first_rank) == (None, None, 3)
    queue.add(others, [3], 3)
    assert queue.take(9) == (others, array("I", [3]), 3), "of its own priority another one may run"
    moving.frozen = False
    assert [queue.take(9), queue.take(9)] == [(moving, array("I", [2]), 3), (others, array("I", [1]), 10)]


def test_the_oldest_is_found_without_a_look_at_every_rank() -> None:
    looks = 0

    def age(source: Source, ref: int) -> float:
        nonlocal looks
        looks += 1
        return float(ref)

    queue = ReadyQueue(age)
    for ref in range(10_000):
        queue.add(SOURCES[0], [ref], ref % 5_000)
    looks = 0
    assert queue.oldest() == 0.0
    for _ in range(100):
        queue.take(1)
    assert queue.oldest() == 50.0
    assert looks < 300


def test_what_was_taken_from_a_long_run_takes_no_memory() -> None:
    queue = ReadyQueue()
    queue.add(SOURCES[0], array("I", range(10 * COMPACT_AFTER)))
    seen: list[int] = []
    while (taken := queue.take(100)) is not None:
        seen.extend(taken[1])
        run = next((run for lane in queue._lanes.values() for run in lane), None)
        assert run is None or run.start <= max(len(run), COMPACT_AFTER)
    assert seen == list(range(10 * COMPACT_AFTER))
    assert queue.take(1) is None


def test_a_long_run_gives_its_memory_back_in_pieces() -> None:
    queue = ReadyQueue()
    queue.add(SOURCES[0], range(20 * COMPACT_AT_MOST))
    held = [20 * COMPACT_AT_MOST]
    while queue.size:
        queue.take(100)
        run = next((run for lane in queue._lanes.values() for run in lane), None)
        held.append(len(run.refs) if run is not None else 0)
    assert max(before - after for before, after in pairwise(held)) <= COMPACT_AT_MOST + 100


def test_the_callers_array_stays_the_callers() -> None:
    queue = ReadyQueue()
    refs = array("I", [1, 2])
    queue.add(SOURCES[0], refs)
    queue.add(SOURCES[0], [3])
    assert list(refs) == [1, 2]
    assert queue.take(9) == (SOURCES[0], array("I", [1, 2, 3]), LAST)


later_steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.floats(0, 50), sources),
        st.tuples(st.just("again"), st.floats(0, 50), sources),
        st.tuples(st.just("pop"), st.floats(0, 50), sources),
        st.tuples(st.just("remove"), st.integers(0, 20).map(float), sources),
        st.tuples(st.just("take"), st.integers(1, 5).map(float), sources),
    ),
    max_size=60,
)


@given(later_steps, st.integers(0, 10))
def test_later_is_a_list_sorted_by_time_and_then_by_arrival(script: list[tuple[str, float, int]], tidy_after: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue, "TIDY_AFTER", tidy_after)
        _compare_later_with_a_list(script)


def _compare_later_with_a_list(script: list[tuple[str, float, int]]) -> None:
    later = Later()
    model: list[tuple[float, Source, int, int]] = []
    for count, (kind, number, index) in enumerate(script):
        source = SOURCES[index]
        if kind in ("add", "again"):
            ref = count if kind == "add" else int(number) % 7
            later.add(number, source, ref, index)
            model = [item for item in model if (item[1], item[2]) != (source, ref)]
            model.append((number, source, ref, index))
            model.sort(key=lambda item: item[0])
        elif kind == "pop":
            due = [item for item in model if item[0] <= number][:3]
            assert later.pop_due(number, 3) == due
            model = [item for item in model if item not in due]
        elif kind == "take":
            frozen = Source("frozen", frozen=True)
            later.add(0.0, frozen, 0, index)
            taken = [(due, held, ref, rank) for due, _, held, ref, rank, _ in later.take(int(number))]
            assert later.has(frozen, 0), "what is moved is not taken"
            later.remove(frozen, 0)
            alike = [item for item in model if taken and (item[1], item[3]) == (taken[0][1], taken[0][3])]
            assert set(taken) <= set(alike), "of one source and one rank"
            assert len(taken) == min(int(number), len(alike))
            assert taken or not model
            model = [item for item in model if item not in taken]
        else:
            there = [item for item in model if item[1] is source and item[2] == int(number)]
            assert later.has(source, int(number)) == bool(there)
            entry = later.remove(source, int(number))
            assert (entry and (entry[0], *entry[2:5])) == (there[0] if there else None)
            model = [item for item in model if item not in there]
        assert len(later) == len(model)
        assert later.next_due() == (model[0][0] if model else None)
        assert later.of(source) == {ref: due for due, held, ref, _ in model if held is source}


def test_what_was_removed_from_later_does_not_keep_its_memory() -> None:
    later = Later()
    for number in range(50_000):
        later.add(1e9 + number, SOURCES[0], number, LAST)
        if number >= 100:
            later.remove(SOURCES[0], number - 100)
    assert len(later) == 100
    assert len(later._heap) + len(later._old) < 5_000


def test_the_oldest_is_told_also_when_nobody_knows_when_the_first_came() -> None:
    ticks = itertools.count(1.0)
    queue = ReadyQueue(age=lambda source, ref: next(ticks))  # of a file that is gone we are told the time
    queue.add("files", ["a", "b"])
    assert queue.oldest() is not None
