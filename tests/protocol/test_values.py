"""values: a task as Python sees it <-> variables and body."""

import re
from collections import OrderedDict, UserDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage, variables
from wire import HELLO_BLOCK, MALFORMED_BLOCKS, block, item

from spoolnode.protocol import extension, names
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.packet import Variables, decode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.protocol.values import decode_block, decode_task, encode_task, pack, unpack

Read = Callable[[bytes], Any]


def travel(task: dict[str, Any]) -> dict[str, Any]:
    """The task as its callable receives it."""
    encoded = encode_task(task)
    received = decode_task(decode_variables(encoded.block), encoded.body, "name")
    assert received.pop("spooler_task_name") == "name"
    return received


def variables_of(task: dict[str, Any]) -> dict[bytes, bytes]:
    return dict(decode_variables(encode_task(task).block))


# --- what travels how ---


def test_the_task_of_the_uwsgi_manual_travels_as_plain_variables() -> None:
    task = {"Name": "Serena", "System": "Linux", "Tizio": "Caio"}
    assert encode_task(task).block == block({b"Name": b"Serena", b"System": b"Linux", b"Tizio": b"Caio"})
    assert travel(task) == task


class Point(NamedTuple):
    """A relative of tuple."""

    x: int
    y: int


ROME = timezone(timedelta(hours=2), "CEST")
TYPED: list[object] = [
    0,
    -1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.5,
    -0.0,
    1e300,
    float("inf"),
    True,
    False,
    None,
    b"",
    b"\0\xff",
    [],
    {},
]
TYPED += [
    [1, [2, [3]]],
    {"a": {"b": [None]}},
    {1: "x", None: 2, b"k": 3, 1.5: 4},
    ["é", "\0", ""],
    "x" * 10 + "\n",
]
TYPED += [
    (),
    (1, ("a", [2]), {"k": (3,)}),
    set(),
    {1, "a", b"b", (2, None), UUID(int=5)},
    {(1, 2): "tuple", UUID(int=1): "id", date(2026, 3, 29): "day"},
    datetime(2026, 3, 29, 3, 30, 0, 500_000, ROME),
    datetime(2026, 3, 29, 3, 30),  # noqa: DTZ001 - one without a zone stays without
    datetime.max,  # noqa: DTZ901 - as above
    datetime(1, 1, 1, tzinfo=UTC),
    date(2026, 2, 28),
    timedelta(days=-1, seconds=1, microseconds=999_999),
    timedelta.max,
    UUID("12345678-1234-5678-1234-567812345678"),
    Decimal("1.50"),
    Decimal("-1E+3"),
    Decimal("Infinity"),
]


def name_of(value: object) -> str:
    """The same in each process: the order of a set is not."""
    return f"a set of {len(value)}" if isinstance(value, set) else ascii(value)


@pytest.mark.parametrize("value", TYPED, ids=name_of)
def test_a_value_arrives_as_what_was_sent(value: object) -> None:
    received = travel({"a": "text", "value": value})
    assert received == {"a": "text", "value": value}
    assert type(received["value"]) is type(value)


@pytest.mark.parametrize(
    ("value", "arrives"),
    [(Point(1, 2), (1, 2)), (bytearray(b"x"), b"x"), (memoryview(b"x"), b"x"), (OrderedDict(a=1), {"a": 1})],
    ids=["a named tuple", "bytearray", "memoryview", "OrderedDict"],
)
def test_a_relative_of_a_type_arrives_as_that_type(value: object, arrives: object) -> None:
    assert travel({"value": value}) == {"value": arrives}


def test_all_typed_values_travel_in_one_variable_and_text_in_its_own() -> None:
    sent = variables_of({"n": 1, "text": "x", "list": ["y"]})
    assert sent == {b"text": b"x", b"spool_values": msgpack.packb({"n": 1, "list": ["y"]})}


@pytest.mark.parametrize("text", ["", "é", "日本", "\0", "\n", "a\udcffb", "=&", "\U0010ffff"], ids=ascii)
def test_any_text_arrives_also_one_with_bytes_that_are_no_utf8(text: str) -> None:
    assert travel({"a": text, text or "empty": "b"}) == {"a": text, text or "empty": "b"}


@given(st.binary(max_size=30))
def test_no_byte_of_a_plain_variable_is_lost(data: bytes) -> None:
    received = decode_task([(b"k", data)], b"", "name")
    assert encode_task({"k": received["k"]}).block == block({b"k": data})


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
keys = text.filter(lambda key: key and not key.startswith("spool") and key not in ("at", "priority", "body"))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.binary(max_size=9) | text
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))


@given(st.dictionaries(keys, anything, min_size=1, max_size=5))
def test_a_task_arrives_as_it_was_sent(task: dict[str, Any]) -> None:
    assert travel(task) == task


@pytest.mark.parametrize("task", [UserDict(a="b"), MappingProxyType({"a": "b"}), OrderedDict(a="b")], ids=type)
def test_any_mapping_is_a_task_and_is_left_as_it_was(task: Any) -> None:
    before = dict(task)
    assert encode_task(task).block == block({b"a": b"b"})
    assert dict(task) == before


def test_the_node_may_add_variables_of_its_own() -> None:
    extra = [(b"spool_node", b"alpha"), (b"spool_func", b"mail")]
    assert encode_task({"a": "b"}, extra).block == block([(b"a", b"b"), *extra])
    assert encode_task({}, extra).block == block(extra)


# --- body ---


@pytest.mark.parametrize("body", [b"x", b"\0\xff" * 50_000, bytearray(b"x"), memoryview(b"xy"), "é", "a\udcffb"], ids=type)
def test_a_body_travels_outside_the_variables_which_tell_its_length(body: Any) -> None:
    expected = body.encode("utf-8", "surrogateescape") if isinstance(body, str) else bytes(body)
    encoded = encode_task({"a": "b", "body": body})
    assert encoded == (block({b"a": b"b", b"spool_body": str(len(expected)).encode()}), expected)
    assert read_terms(encoded.block, local=False).body == len(expected)
    assert travel({"body": body}) == {"body": expected}


def test_an_empty_body_is_none() -> None:
    assert encode_task({"a": "b", "body": b""}) == (block({b"a": b"b"}), b"")


@pytest.mark.parametrize("body", [1, None, ["x"], {"a": "b"}], ids=ascii)
def test_a_body_that_is_no_bytes_is_a_bad_task(body: object) -> None:
    with pytest.raises(BadTask, match="`body` is a "):
        encode_task({"a": "b", "body": body})


@pytest.mark.parametrize("name", ["CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"])
@pytest.mark.parametrize("body", [b"", b"xyz"])
def test_a_task_from_the_web_that_is_sent_on_announces_the_body_that_it_has_now(name: str, body: bytes) -> None:
    encoded = encode_task({name: "chunked" if "ENCODING" in name else "12", "body": body})
    assert read_terms(encoded.block, local=False).body == len(body)


def test_a_variable_named_body_is_bytes_and_a_body_comes_before_it() -> None:
    assert decode_task([(b"body", b"plain")], b"", "name")["body"] == b"plain"
    assert decode_task([(b"body", b"plain")], b"real", "name")["body"] == b"real"


# --- at, priority, spooler ---


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (1_700_000_000, 1.7e9),
        (1_700_000_000.25, 1_700_000_000.25),
        ("1700000000", 1.7e9),
        ("", 0.0),
        (0, 0.0),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 1.7e9),
        (datetime(2023, 11, 15, 0, 13, 20, 500_000, tzinfo=timezone(timedelta(hours=2))), 1_700_000_000.5),
    ],
    ids=ascii,
)
def test_at_is_a_number_or_a_datetime(at: object, due: float) -> None:
    assert read_terms(encode_task({"at": at}).block, local=False).due == due


@pytest.mark.parametrize(("priority", "rank"), [(5, 5), ("5", 5), (0, 0), (Level.HIGH, 3), ("", names.LAST)], ids=ascii)
def test_priority_is_a_number(priority: object, rank: int) -> None:
    assert read_terms(encode_task({"priority": priority}).block, local=False).rank == rank


NO_NUMBERS: dict[str, object] = {
    "negative": -1,
    "bool": True,
    "None": None,
    "word": "high",
    "path": "../x",
    "bytes": b"5",
    "list": [5],
    "Decimal": Decimal(5),
    "nan": float("nan"),
    "infinity": float("inf"),
    "11 digits": 10**10,
    "more digits than str writes": 10**5000,
    "lone surrogate": "\ud800",
    "Arabic digit": "٣",
    "negative float": -0.5,
    "date": date(2024, 1, 1),
    "timedelta": timedelta(1),
    "year 1": datetime(1, 1, 1),  # noqa: DTZ001 - a caller's naive time is local time
    "year 9999": datetime(9999, 12, 31, tzinfo=UTC),
}


@pytest.mark.parametrize("value", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_at_that_is_no_time_is_a_bad_task(value: object) -> None:
    with pytest.raises(BadTask):
        encode_task({"at": value})


@pytest.mark.parametrize("value", [*NO_NUMBERS.values(), 1.0, 5.5], ids=[*NO_NUMBERS, "1.0", "5.5"])
def test_a_priority_that_is_no_number_is_a_bad_task(value: object) -> None:
    with pytest.raises(BadTask):
        encode_task({"priority": value})


@pytest.mark.parametrize("name", ["at", "priority"])
@pytest.mark.parametrize("value", [-1, None, "x", 10**5000], ids=["negative", "None", "word", "long"])
def test_the_mistake_names_the_variable(name: str, value: object) -> None:
    with pytest.raises(BadTask, match=f"`{name}`"):
        encode_task({name: value})


def test_spooler_is_text_or_a_bad_task_and_never_overlooked() -> None:
    assert read_terms(encode_task({"spooler": "/var/spool/x"}).block, local=False).spooler == b"/var/spool/x"
    with pytest.raises(BadTask, match="`spooler`"):
        encode_task({"spooler": b"/var/spool/x"})


def test_a_received_task_can_be_sent_again() -> None:
    received = decode_task(
        [
            (b"at", b"5"),
            (b"priority", b"1"),
            (b"CONTENT_LENGTH", b"4"),
            (b"spool_values", pack({"n": 1})),
            (b"spool_id", b"x"),
        ],
        b"body",
        "uwsgi_spoolfile_on_x",
    )
    terms = read_terms(encode_task(received).block, local=False)
    assert (terms.due, terms.rank, terms.body) == (5.0, 1, 4)


def ext(code: int, data: bytes) -> bytes:
    return bytes(msgpack.packb({"a": msgpack.ExtType(code, data)}))


BAD_EXTENSIONS = {
    "text that is not a time": ext(1, b"yesterday"),
    "bytes that are not text": ext(1, b"\xff"),
    "text that is not a date": ext(2, b"2026-13-01"),
    "more days than there are": ext(3, msgpack.packb([10**12, 0, 0])),
    "a timedelta of text": ext(3, msgpack.packb(["a", 0, 0])),
    "a timedelta of two numbers": ext(3, msgpack.packb([1, 2])),
    "a UUID of 15 bytes": ext(4, bytes(15)),
    "text that is not a number": ext(5, b"1.2.3"),
    "an exponent that is too large": ext(5, b"1e99999999999999999999"),
    "a set of a map": ext(6, msgpack.packb({"a": 1})),
    "half a tuple": ext(7, b"\x92\x01"),
    "an unknown type": ext(8, b""),
}


@pytest.mark.parametrize("data", BAD_EXTENSIONS.values(), ids=BAD_EXTENSIONS)
@pytest.mark.parametrize("read", [extension.unpackb, extension.check])
def test_an_extension_type_that_cannot_be_read_is_one_error_for_a_node_and_a_worker(read: Read, data: bytes) -> None:
    with pytest.raises(BadPacket, match="cannot be read as msgpack"):
        unpack(data, read=read)


def test_sets_and_tuples_in_one_another_are_read_down_to_a_depth() -> None:
    data = extension.packb(1)
    for depth in range(extension.MOST_NESTED + 1):
        assert extension.check(data) is not None
        if depth < extension.MOST_NESTED:
            data = bytes(msgpack.packb(msgpack.ExtType(extension.TUPLE, msgpack.packb([msgpack.unpackb(data)]))))
    too_deep = bytes(msgpack.packb(msgpack.ExtType(extension.TUPLE, msgpack.packb([msgpack.unpackb(data)]))))
    for read in (extension.unpackb, extension.check):
        with pytest.raises(ValueError, match="nested deeper than 64"):
            read(too_deep)


def test_a_node_hashes_nothing_that_a_stranger_can_give_one_hash() -> None:
    packed = extension.packb({"set": {UUID(int=1)}, "map": {(1, 2): 3}, "tuple": (-1, -2)})
    checked = extension.check(packed)
    assert isinstance(checked["set"], msgpack.ExtType)
    assert isinstance(next(iter(checked["map"])), msgpack.ExtType)
    assert isinstance(checked["tuple"], msgpack.ExtType)
    block_of_a_task = encode_task({"set": {UUID(int=1)}, "map": {(1, 2): 3}}).block
    assert read_terms(block_of_a_task, local=False).due == 0.0


# --- what cannot travel ---

in_itself: list[object] = []
in_itself.append(in_itself)


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def nested_tuples(depth: int) -> tuple[object, ...]:
    value: tuple[object, ...] = ()
    for _ in range(depth):
        value = (value,)
    return value


TYPES = "send str, bytes, int, float, bool, None, list, dict, tuple, set, datetime, date, timedelta, Decimal or UUID"
DEEP = "`value` is nested too deep, or contains itself"
CANNOT: dict[str, tuple[object, str]] = {
    "an object": (object(), f"`value` is of type object, which cannot travel: {TYPES}"),
    "a frozenset": (frozenset([1]), "`value` is of type frozenset, which cannot travel: send set(value)"),
    "a complex number in a set": ({1j}, "`value (its member complex)` is of type complex, which cannot travel"),
    "a list that holds itself, in a tuple": ((in_itself,), DEEP),
    "tuples 100 deep": (nested_tuples(100), DEEP),
    "a complex number": (1j, "`value` is of type complex, which cannot travel: send [value.real, value.imag]"),
    "a time": ({"at": [time(1)]}, "`value['at'][0]` is of type time, which cannot travel: send value.isoformat()"),
    "a function": (len, f"`value` is of type builtin_function_or_method, which cannot travel: {TYPES}"),
    "an int of 65 bits": (2**64, "`value` is a number of 65 bits, outside -2**63 to 2**64-1: send str(value)"),
    "an int below 64 bits": (-(2**63) - 1, "`value` is a number of 64 bits"),
    "a list in itself": (in_itself, DEEP),
    "a list 5000 deep": (nested(5000), DEEP),
    "a list so deep that it packs but does not unpack": (nested(1023), DEEP),
    "a frozenset for a key": ({frozenset(): 3}, "`value` has a key, frozenset, that is of type frozenset"),
    "a large int for a key": ({2**70: 3}, f"`value` has a key, {2**70}, that is a number of 71 bits"),
    "text with a lone surrogate, in a list": (["\ud800"], "`value[0]` is a text that is not UTF-8: send it as bytes"),
    "a memoryview with gaps": (memoryview(b"abcd")[::2], "`value` is a memoryview that cannot be read in one piece"),
    "an object in a list in a dict": ({"a": [1, object()]}, "`value['a'][1]` is of type object, which cannot travel"),
}


@pytest.mark.parametrize(("value", "said"), CANNOT.values(), ids=CANNOT)
def test_a_value_that_cannot_travel_is_named_with_where_it_lies_and_what_to_send(value: object, said: str) -> None:
    with pytest.raises(BadTask, match=f"^{re.escape(said)}.*; nothing was sent$"):
        encode_task({"a": "b", "good": [1], "value": value})


@pytest.mark.parametrize("task", [None, "a=b", b"a", 1, [("a", "b")], {"a"}], ids=ascii)
def test_what_is_no_mapping_is_a_bad_task(task: Any) -> None:
    with pytest.raises(BadTask, match=f"this is a {type(task).__name__}"):
        encode_task(task)


@pytest.mark.parametrize("task", [{}, {"body": b""}])
def test_an_empty_task_is_a_bad_task(task: dict[str, Any]) -> None:
    with pytest.raises(BadTask, match="empty"):
        encode_task(task)


@pytest.mark.parametrize("key", [b"a", 1, None, ("a",)], ids=ascii)
def test_a_key_that_is_no_text_is_a_bad_task(key: Any) -> None:
    with pytest.raises(BadTask, match=re.escape(repr(key))):
        encode_task({key: "b"})


@pytest.mark.parametrize("key", ["", "spool_id", "spool_node", "spool_x"])
def test_a_reserved_name_is_a_bad_task(key: str) -> None:
    with pytest.raises(BadTask):
        encode_task({key: "b"})


@pytest.mark.parametrize("task", [{"a": "\ud800"}, {"\ud800": "a"}, {"body": "\udfff"}, {"spooler": "\ud800"}], ids=ascii)
def test_text_that_utf8_does_not_have_is_a_bad_task(task: dict[str, Any]) -> None:
    with pytest.raises(BadTask, match="cannot travel as UTF-8"):
        encode_task(task)


@pytest.mark.parametrize("value", ["x" * 70_000, b"x" * 70_000, ["x"] * 70_000], ids=type)
def test_what_is_too_large_is_a_bad_task_that_points_to_the_body(value: object) -> None:
    too_large = r"the value of 'large' alone takes \d+\); the uwsgi protocol carries at most 65535 .*`body`"
    with pytest.raises(BadTask, match=too_large):
        encode_task({"a": "x", "b": [1, 2], "large": value})


objects = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.datetimes()
wild = st.recursive(
    objects | st.integers(-(10**12), 10**12).map(str),
    lambda inner: st.lists(inner, max_size=2) | st.tuples(inner, inner) | st.dictionaries(objects, inner, max_size=2),
)
wild_keys = st.sampled_from(["at", "priority", "body", "spooler", "CONTENT_LENGTH", "spool_x", ""]) | st.text(max_size=4)


@given(st.dictionaries(wild_keys | st.integers() | st.binary(max_size=3), wild, max_size=4))
def test_any_dict_is_a_bad_task_or_arrives(task: dict[str, Any]) -> None:
    try:
        encoded = encode_task(task)
    except BadTask:
        return
    received = decode_task(decode_variables(encoded.block), encoded.body, "name")
    assert {key for key in task if key != "body" or encoded.body} <= set(received)
    read_terms(encoded.block, local=True)


# --- what arrives ---


def test_a_callable_gets_the_name_of_its_task_and_none_of_our_variables() -> None:
    sent: Variables = [(b"a", b"b"), (b"spool_node", b"alpha"), (b"spool_id", b"x"), (b"spooler_task_name", b"forged")]
    assert decode_task(sent, b"", "real") == {"a": "b", "spooler_task_name": "real"}


def test_a_variable_that_comes_twice_counts_as_it_came_last_as_in_uwsgi() -> None:
    sent = [(b"a", b"1"), (b"a", b"2"), (b"spool_values", b"\xc1"), (b"spool_values", pack({"n": 2}))]
    assert decode_task(sent, b"", "name") == {"a": "2", "n": 2, "spooler_task_name": "name"}


NO_VALUES = {
    "nothing": b"",
    "a list": msgpack.packb([1]),
    "nil": b"\xc0",
    "a reserved byte": b"\xc1",
    "a map cut": msgpack.packb({"a": 1})[:-1],
    "a tail": msgpack.packb({"a": 1}) + b"\0",
    "a number for a name": msgpack.packb({1: 2}),
    "bytes for a name": msgpack.packb({b"a": 2}),
    "a list for a key": b"\x81\x90\x00",
    "a map for a key, deep inside": b"\x81\xa1a\x81\x80\x00",
    "text that is no UTF-8": b"\x81\xa1\xff\x00",
    "a timestamp of 3 bytes": b"\x81\xa1a\xc7\x03\xff\x00\x00\x00",
    "an extension below 0": b"\x81\xa1a\xd4\x80\x00",
    "too deep": b"\x81\xa1a" + b"\x91" * 5000 + b"\x00",
    "an array of 4 billion": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
}


@pytest.mark.parametrize("data", NO_VALUES.values(), ids=NO_VALUES)
def test_values_that_are_no_map_of_names_are_a_bad_packet(data: bytes) -> None:
    with pytest.raises(BadPacket, match=r"^`spool_values` "):
        unpack(data)
    with pytest.raises(BadPacket):
        decode_task([(b"a", b"b"), (b"spool_values", data)], b"", "name")


def test_values_cut_anywhere_or_with_a_tail_are_a_bad_packet() -> None:
    whole = pack({"n": 1, "list": ["a", {"b": None}], "f": 1.5})
    for cut in range(len(whole)):
        with pytest.raises(BadPacket):
            unpack(whole[:cut])
    with pytest.raises(BadPacket):
        unpack(whole + b"\xc0")


@given(garbage | garbage.map(lambda data: b"\x82\xa1a" + data))
def test_garbage_is_a_map_of_names_or_a_bad_packet(data: bytes) -> None:
    try:
        found = unpack(data)
    except BadPacket:
        return
    assert all(isinstance(key, str) for key in found)


@given(variables, garbage, st.none() | garbage | st.dictionaries(text, anything, max_size=2).map(msgpack.packb))
def test_any_variables_make_a_task_with_text_for_keys_or_a_bad_packet(sent: Variables, body: bytes, values: bytes | None) -> None:
    if values is not None:
        sent = [*sent, (names.VALUES, values)]
    try:
        task = decode_task(sent, body, "name")
    except BadPacket:
        assert names.VALUES in dict(sent)  # hypothesis knows this name: it collects the constants of our code
        return
    assert all(isinstance(key, str) for key in task)
    assert task["spooler_task_name"] == "name"
    assert not body or task["body"] == body


# --- blocks: the quick way and the general one ---


def general_way(content: bytes, body: bytes = b"") -> dict[str, Any] | type[BadPacket]:
    try:
        return decode_task(decode_variables(content), body, "name")
    except BadPacket:
        return BadPacket


def block_way(content: bytes, body: bytes = b"") -> dict[str, Any] | type[BadPacket]:
    try:
        return decode_block(content, body, "name")
    except BadPacket:
        return BadPacket


BLOCKS = {
    "nothing": b"",
    "plain": HELLO_BLOCK,
    "an empty value": item(b"k", b""),
    "duplicates": item(b"k", b"1") + item(b"k", b"2"),
    "no ASCII": item("é".encode(), b"\xff"),
    "127 bytes": item(b"k", b"v" * 127),
    "128 bytes": item(b"k", b"v" * 128),
    "256 bytes": item(b"k", b"v" * 256) + item(b"x" * 256, b""),
    "257 bytes, all lengths ASCII": item(b"k", b"v" * 257) + item(b"x" * 513, b"y"),
    "body": item(b"body", b"plain"),
    "body within another name and a value": item(b"somebody", b"nobody"),
    "ours": item(b"spool_node", b"alpha") + HELLO_BLOCK,
    "ours in a value": item(b"k", b"spool_node"),
    "typed": item(b"spool_values", pack({"n": 1})) + HELLO_BLOCK,
    "typed and broken": item(b"spool_values", b"\xc1"),
    "a forged name": item(b"spooler_task_name", b"forged"),
    **MALFORMED_BLOCKS,
}


@pytest.mark.parametrize("body", [b"", b"body"])
@pytest.mark.parametrize("content", BLOCKS.values(), ids=BLOCKS)
def test_a_block_makes_the_task_that_its_variables_make(content: bytes, body: bytes) -> None:
    assert block_way(content, body) == general_way(content, body)


def test_a_block_cut_anywhere_makes_what_its_variables_make() -> None:
    whole = block({b"k": b"v" * 20, b"a": b"", b"long": b"x" * 300})
    for cut in range(len(whole) + 1):
        assert block_way(whole[:cut]) == general_way(whole[:cut])


ascii_bytes = st.text(st.characters(max_codepoint=127), max_size=20).map(str.encode)
ascii_blocks = st.lists(st.tuples(ascii_bytes, ascii_bytes), max_size=4).map(block)


@given(st.tuples(ascii_blocks | variables.map(block), ascii_bytes | st.just(b"")).map(b"".join), garbage)
def test_any_block_makes_the_task_that_its_variables_make(content: bytes, body: bytes) -> None:
    assert block_way(content, body) == general_way(content, body)


# --- both ends ---


def test_what_the_client_encodes_no_node_refuses() -> None:
    for task in ({"a": value} for value in TYPED):
        try:
            read_terms(encode_task(task).block, local=False)
        except Refused as refusal:
            pytest.fail(f"{task} was refused: {refusal}")
