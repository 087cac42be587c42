"""Tasks for one function with one key do the same work; all others differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.protocol.unique import key_of_arguments, unique_key, unique_key_in

keys = (
    st.text(max_size=80)
    .filter(lambda text: len(text.encode(errors="replace")) < 200)
    .map(lambda text: text.encode("utf-8", "replace"))
)
functions = st.binary(max_size=20)


def said(function: bytes, key: bytes) -> dict[bytes, bytes]:
    return {names.FUNCTION: function, names.KEY: key, b"n": b"1"}


@given(functions, keys, functions, keys)
def test_two_tasks_have_one_key_exactly_when_function_and_key_are_the_same(f: bytes, a: bytes, g: bytes, b: bytes) -> None:
    same = unique_key(said(f, a)) == unique_key(said(g, b))
    assert same == (not (a or b) or (f, a) == (g, b))


@given(functions, keys)
def test_a_request_and_its_block_on_disk_have_one_key(function: bytes, key: bytes) -> None:
    block = encode_variables(list(said(function, key).items()))
    assert read_terms(block, local=False).key == unique_key_in(block)
    assert bool(read_terms(block, local=True).key) == bool(key)


def test_the_name_of_uwsgidecorators_counts_as_a_function_too() -> None:
    ours = {names.FUNCTION: b"a:b", names.KEY: b"k"}
    theirs = {names.LEGACY_FUNCTION: b"a:b", names.KEY: b"k"}
    assert unique_key(ours) == unique_key(theirs) != unique_key({names.KEY: b"k"})


@pytest.mark.parametrize(
    "block",
    [
        b"",
        encode_variables([(b"a", b"spool_key")]),
        encode_variables([(names.KEY, b"k" * 300)]),
        encode_variables([(names.KEY, b"k")])[:-1],
    ],
)
def test_a_block_without_a_readable_key_has_none(block: bytes) -> None:
    assert unique_key_in(block) == b""


def test_a_request_with_a_malformed_key_is_refused() -> None:
    with pytest.raises(Refused, match="`spool_key` is"):
        read_terms(encode_variables([(names.KEY, b"k" * 300)]), local=False)


# -- keys of arguments --

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def turned(value: object) -> object:
    """The same value with each dict the other way round."""
    if isinstance(value, dict):
        return {name: turned(value[name]) for name in reversed(value)}
    return [turned(member) for member in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=3), values, max_size=3))
def test_the_order_of_a_dict_does_not_matter_to_the_key_of_a_call(arguments: dict[str, object]) -> None:
    again = turned(arguments)
    assert isinstance(again, dict)
    assert key_of_arguments(arguments) == key_of_arguments(again)


@given(values, values)
def test_other_arguments_have_another_key(a: object, b: object) -> None:
    # As msgpack tells them apart: True from 1, and the order of a list.
    same = repr(sort_of(a)) == repr(sort_of(b))
    assert (key_of_arguments({"x": a}) == key_of_arguments({"x": b})) == same


def sort_of(value: object) -> object:
    if isinstance(value, dict):
        return {name: sort_of(value[name]) for name in sorted(value)}
    return [sort_of(member) for member in value] if isinstance(value, list) else value


def test_the_key_of_a_call_is_the_same_in_every_process_and_version() -> None:
    arguments = {"number": 7, "to": {"b", "a"}, "more": {"y": (1, 2), "x": None}}
    assert key_of_arguments(arguments) == "ee3041baebd8444d1cd6dbae6e8441e1"
    assert key_of_arguments({"x": (1, 2)}) != key_of_arguments({"x": [1, 2]})


def test_arguments_that_cannot_travel_have_no_key() -> None:
    with pytest.raises(BadTask, match="nothing was sent"):
        key_of_arguments({"x": object()})
