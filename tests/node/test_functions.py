"""The functions of waiting tasks are small numbers, and neighbours of one function take no more room than one task."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.spool.functions import LONGEST_NAME, MOST_NAMES, NONE, UNKNOWN, Functions, Spans


def test_each_name_has_one_number() -> None:
    functions = Functions()
    mail, pay = functions.number(b"shop:mail"), functions.number(b"shop:pay")
    assert len({mail, pay, UNKNOWN, NONE}) == 4
    assert functions.number(b"shop:mail") == functions.note("shop:mail") == mail
    assert functions.name(pay) == "shop:pay"
    assert functions.number(b"") == NONE
    assert functions.number(None) == UNKNOWN


def test_names_that_any_client_may_make_up_take_only_so_much_memory() -> None:
    functions = Functions()
    numbers = [functions.number(b"f%d" % index) for index in range(2 * MOST_NAMES)]
    assert len({*numbers}) < MOST_NAMES
    assert numbers[-1] == UNKNOWN
    assert functions.number(b"x" * (LONGEST_NAME + 1)) == UNKNOWN


def test_a_name_of_the_operator_gets_a_number_even_when_the_table_is_full() -> None:
    functions = Functions()
    for index in range(MOST_NAMES):
        functions.number(b"f%d" % index)
    paused = functions.note("shop:mail")
    assert functions.name(paused) == "shop:mail"
    assert functions.number(b"shop:mail") == paused
    assert functions.note("x" * 300) == functions.number(b"x" * 300) != UNKNOWN


def test_a_name_of_any_bytes_is_told_as_it_is() -> None:
    functions = Functions()
    assert functions.name(functions.number(b"\xff\0m")).encode("utf-8", "surrogateescape") == b"\xff\0m"


@given(st.lists(st.integers(0, 3), max_size=40), st.dictionaries(st.integers(0, 39), st.integers(0, 3), max_size=5))
def test_each_task_of_a_batch_is_for_the_function_that_was_noted_or_learnt(noted: list[int], learnt: dict[int, int]) -> None:
    spans, model = Spans(), {}
    for index, function in enumerate(noted):
        spans.note(64 + 8 * index, function)
        model[64 + 8 * index] = function
    for index, function in learnt.items():
        if index < len(noted):
            spans.learn(64 + 8 * index, function)
            model[64 + 8 * index] = function
    assert {offset: spans.at(offset) for offset in model} == model
    if spans.only is not None:
        assert set(model.values()) == {spans.only}


def test_a_batch_of_which_nothing_is_noted_has_unknown_functions() -> None:
    spans = Spans()
    assert spans.at(64) == UNKNOWN
    assert UNKNOWN in spans
    spans.note(64, NONE)
    assert UNKNOWN not in spans


def test_ten_thousand_tasks_of_one_function_take_no_more_room_than_one() -> None:
    spans = Spans()
    spans.note(64, 2)
    before = sys.getsizeof(spans._starts) + sys.getsizeof(spans._what)
    for offset in range(72, 80_000, 8):
        spans.note(offset, 2)
    assert sys.getsizeof(spans._starts) + sys.getsizeof(spans._what) == before
    assert spans.only == 2
