"""Tasks of functions that are held back let others overtake them, and come back in their order, none twice, none lost."""

from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.spool import parking
from spoolnode.node.spool.parking import ParkingQueue
from spoolnode.node.spool.throttle import MANY
from spoolnode.protocol.names import LAST


@dataclass(eq=False)
class Source:
    functions: dict[int, int] = field(default_factory=dict)
    frozen: bool = False
    looks: int = 0

    def alike(self, refs: MutableSequence[Any], start: int, most: int) -> tuple[int, int]:
        function, count = self.functions[refs[start]], 0
        while count < most and start + count < len(refs) and self.functions[refs[start + count]] == function:
            count += 1
        self.looks += count
        return function, count


def queue_of(source: Source, functions: str) -> ParkingQueue:
    """Tasks 0, 1, ... of the functions with these letters, oldest first."""
    queue = ParkingQueue(lambda _source, ref: float(ref))
    source.functions |= {ref: ord(letter) for ref, letter in enumerate(functions)}
    queue.add(source, range(len(functions)))
    return queue


def holding(**most: int) -> parking.Allowance:
    """So many tasks of the functions with these letters may be taken, and all others."""
    return lambda function: most.get(chr(function), MANY)


def refs(taken: tuple[Any, MutableSequence[Any], int] | None) -> list[Any] | None:
    return None if taken is None else list(taken[1])


def test_tasks_of_a_function_that_is_held_back_are_overtaken_and_come_back_in_their_order() -> None:
    source = Source()
    queue = queue_of(source, "aabaab")
    assert refs(queue.take(10, holding(a=0))) == [2]
    assert refs(queue.take(10, holding(a=0))) == [5]
    assert queue.take(10, holding(a=0)) is None
    assert (queue.size, queue.oldest()) == (4, 0.0)
    queue.add(source, [6, 7])
    source.functions |= {6: ord("b"), 7: ord("a")}
    assert refs(queue.take(10)) == [0, 1, 3, 4], "they have waited longest"
    assert refs(queue.take(10)) == [6, 7]


def test_tasks_of_a_limited_function_are_taken_alone_and_no_more_than_may_be() -> None:
    queue = queue_of(Source(), "bbaaabb")
    may = holding(a=2)
    assert [refs(queue.take(10, may)) for _ in range(4)] == [[0, 1], [2, 3], [4], [5, 6]]


def test_functions_that_were_held_back_take_turns() -> None:
    queue = queue_of(Source(), "aabbaabb")
    assert queue.take(10, holding(a=0, b=0)) is None
    taken = [refs(queue.take(1, holding(a=1, b=1))) for _ in range(5)]
    assert taken == [[0], [2], [1], [3], [4]]


def test_a_better_rank_comes_before_what_was_parked() -> None:
    source = Source()
    queue = queue_of(source, "aa")
    assert queue.take(10, holding(a=0)) is None
    source.functions |= {8: ord("b"), 9: ord("a")}
    queue.add(source, [8, 9], rank=3)
    assert refs(queue.take(10)) == [8, 9]
    assert refs(queue.take(10)) == [0, 1]


def test_what_is_given_back_is_the_next_of_its_function() -> None:
    source = Source()
    queue = queue_of(source, "aaab")
    assert refs(queue.take(2, holding(a=2))) == [0, 1]
    assert refs(queue.take(5, holding(a=0))) == [3]
    queue.give_back(source, [0, 1])
    assert queue.take(5, holding(a=0)) is None
    assert refs(queue.take(5)) == [0, 1]
    assert refs(queue.take(5)) == [2]


def test_sources_whose_tasks_are_being_moved_are_passed_over_parked_or_not() -> None:
    first, second = Source(), Source()
    queue = queue_of(first, "ab")
    second.functions |= {7: ord("a"), 8: ord("b")}
    queue.add(second, [7, 8])
    assert refs(queue.take(1, holding(a=0))) == [1]
    first.frozen = True
    assert refs(queue.take(9, holding(a=0))) == [8]
    assert refs(queue.take(9)) == [7]
    assert queue.take(9) is None
    first.frozen = False
    assert refs(queue.take(9)) == [0]


def test_a_parked_task_does_not_overtake_one_of_a_higher_priority_that_is_being_moved() -> None:
    moving, parked = Source(), Source()
    queue = queue_of(parked, "a")
    assert queue.take(9, holding(a=0)) is None
    moving.frozen, moving.functions = True, {7: ord("b")}
    queue.add(moving, [7], 3)
    assert queue.take(9) is None
    moving.frozen = False
    assert [refs(queue.take(9)), refs(queue.take(9))] == [[7], [0]]


def test_a_task_is_removed_wherever_it_waits() -> None:
    source = Source()
    queue = queue_of(source, "aab")
    assert refs(queue.take(9, holding(a=0))) == [2]
    assert queue.remove(source, 0) == LAST
    assert queue.remove(source, 0) is None
    assert queue.remove(source, 1) == LAST
    assert (queue.size, queue.oldest(), queue.count(holding())) == (0, None, 0)


def test_the_count_leaves_out_what_is_parked_and_may_not_run() -> None:
    queue = queue_of(Source(), "aaaab")
    assert queue.count(holding(a=0)) == 5, "no task was looked at yet"
    assert refs(queue.take(9, holding(a=0))) == [4]
    assert queue.count(holding(a=0)) == 0
    assert queue.count(holding(a=3)) == 3
    assert queue.count(holding()) == 4


def test_each_task_is_parked_once_however_often_the_queue_is_asked() -> None:
    source = Source()
    queue = queue_of(source, "a" * 1000)
    for _ in range(100):
        assert queue.take(9, holding(a=0)) is None
    assert source.looks == 1000


def test_one_call_parks_only_so_many_and_says_that_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_AT_ONCE", 10)
    queue = queue_of(Source(), "a" * 25 + "b")
    assert queue.take(9, holding(a=0)) is None
    assert queue.is_behind
    assert refs(queue.take(9, holding(a=3))) == [0, 1, 2], "those that are parked can be taken"
    assert queue.take(9, holding(a=0)) is None
    assert refs(queue.take(9, holding(a=0))) == [25]
    assert not queue.is_behind


letters = st.sampled_from("abc")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.text("abc", min_size=1, max_size=6), st.sampled_from([1, LAST])),
        st.tuples(st.just("take"), st.integers(1, 4), st.just(0)),
        st.tuples(st.just("back"), st.just(""), st.just(0)),
        st.tuples(st.just("hold"), letters, st.sampled_from([0, 1, 2, MANY])),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_is_held_back_when_the_first_task_of_the_best_rank_that_may_run_runs(script: list[tuple[Any, ...]]) -> None:
    source = Source()
    queue = ParkingQueue(lambda _source, ref: float(ref))
    most: dict[str, int] = {}
    waiting: dict[int, int] = {}
    given: list[int] = []
    last: tuple[list[int], int] | None = None
    for kind, what, more in script:
        if kind == "add":
            new = range(len(source.functions), len(source.functions) + len(what))
            source.functions |= {ref: ord(letter) for ref, letter in zip(new, what, strict=True)}
            waiting |= dict.fromkeys(new, more)
            queue.add(source, new, more)
        elif kind == "hold":
            most[what] = more
        elif kind == "back" and last is not None:
            queue.give_back(source, last[0], last[1])
            waiting |= dict.fromkeys(last[0], last[1])
            given = given[: len(given) - len(last[0])]
            last = None
        elif kind == "take":
            may = holding(**most)
            free = {ref: rank for ref, rank in waiting.items() if may(source.functions[ref]) > 0}
            taken = queue.take(what, may)
            assert (taken is None) == (not free)
            if taken is None:
                continue
            _, got, rank = taken
            assert rank == min(free.values())
            allowed = {may(source.functions[ref]) for ref in got}
            assert allowed == {MANY} or (len({source.functions[ref] for ref in got}) == 1 and len(got) <= min(allowed))
            for ref in got:
                older = [other for other in free if free[other] == rank and source.functions[other] == source.functions[ref]]
                assert ref == min(older), "the tasks of one function keep their order"
                del free[ref], waiting[ref]
            given += got
            last = list(got), rank
        assert queue.size == len(waiting)
    assert sorted(given + list(waiting)) == sorted(source.functions)
