"""packet: the 4-byte header and the block of variables."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage, variables
from wire import HELLO_BLOCK, HELLO_WORLD, MALFORMED_BLOCKS, block, item

from spoolnode.protocol.errors import BadPacket, BadTask
from spoolnode.protocol.packet import (
    ANSWER,
    EXTENDED,
    HEADER,
    MAX_BLOCK,
    PING,
    PLAIN,
    SPOOL_REQUEST,
    Variables,
    check_variables,
    decode_variables,
    encode_variables,
    packet,
)

# --- the bytes of the documentation ---


def test_hello_world_has_the_bytes_of_the_documentation() -> None:
    assert packet(SPOOL_REQUEST, encode_variables([(b"hello", b"world")])) == HELLO_WORLD


def test_the_bytes_of_the_documentation_are_hello_world() -> None:
    assert HEADER.unpack(HELLO_WORLD[:4]) == (17, 14, 0)
    assert decode_variables(HELLO_WORLD[4:]) == [(b"hello", b"world")]


def test_the_modifiers_are_those_of_uwsgi() -> None:
    assert (SPOOL_REQUEST, PING, ANSWER) == (17, 100, 255)
    assert (PLAIN, EXTENDED) == (0, 1)


def test_a_packet_is_a_header_alone_unless_it_is_given_more() -> None:
    assert packet(ANSWER) == b"\xff\0\0\0"


@given(st.integers(0, 255), st.binary(max_size=300), st.integers(0, 255))
def test_a_header_says_modifier1_size_and_modifier2_little_endian(modifier1: int, content: bytes, modifier2: int) -> None:
    size = len(content)
    expected = bytes([modifier1, size & 0xFF, size >> 8, modifier2]) + content
    assert packet(modifier1, content, modifier2) == expected


# --- reading a block ---


def test_an_empty_block_has_no_variables() -> None:
    assert decode_variables(b"") == []


@pytest.mark.parametrize(
    "expected",
    [
        [(b"k", b"")],
        [(b"k", b"1"), (b"k", b"2"), (b"k", b"1")],
        [(b"b", b"2"), (b"a", b"1")],
        [(b"\0\xff", b"\xff\0")],
        [(b"k" * 255, b"v" * 256), (b"k" * 256, b"v" * 255)],
        [(b"k", b"v" * (MAX_BLOCK - 5))],
        [(b"k" * (MAX_BLOCK - 4), b"")],
    ],
    ids=[
        "empty value",
        "duplicates",
        "order as sent",
        "any bytes",
        "lengths of one and two bytes",
        "largest",
        "all key",
    ],
)
def test_variables_are_read_and_written_as_they_are(expected: Variables) -> None:
    assert decode_variables(block(expected)) == expected
    assert encode_variables(expected) == block(expected)


@pytest.mark.parametrize("malformed", MALFORMED_BLOCKS.values(), ids=MALFORMED_BLOCKS)
def test_a_malformed_block_is_a_bad_packet(malformed: bytes) -> None:
    with pytest.raises(BadPacket) as decoded:
        decode_variables(malformed)
    with pytest.raises(BadPacket) as checked:
        check_variables(malformed)
    assert str(checked.value) == str(decoded.value)


@given(garbage | variables.map(block))
def test_what_is_only_checked_is_refused_exactly_when_it_cannot_be_decoded(data: bytes) -> None:
    def refuses(read: Callable[[bytes], object]) -> bool:
        try:
            read(data)
        except BadPacket:
            return True
        return False

    assert refuses(check_variables) == refuses(decode_variables)


def test_a_block_cut_between_variables_is_shorter_and_cut_anywhere_else_is_a_bad_packet() -> None:
    sent = [(b"hello", b"world"), (b"k", b""), (b"a", b"bc")]
    whole = block(sent)
    boundaries = {len(block(sent[:count])): sent[:count] for count in range(4)}
    for cut in range(len(whole) + 1):
        if cut in boundaries:
            assert decode_variables(whole[:cut]) == boundaries[cut]
        else:
            with pytest.raises(BadPacket):
                decode_variables(whole[:cut])


@pytest.mark.parametrize("tail", [b"\0", b"x", b"\0\0\0\0", HELLO_BLOCK[:-1]])
def test_a_block_with_a_tail_that_is_no_variable_is_a_bad_packet(tail: bytes) -> None:
    with pytest.raises(BadPacket):
        decode_variables(HELLO_BLOCK + tail)


def test_a_block_with_a_variable_for_a_tail_has_one_more_variable() -> None:
    assert decode_variables(HELLO_BLOCK + item(b"k", b"v")) == [(b"hello", b"world"), (b"k", b"v")]


def test_a_bad_packet_says_where_the_empty_name_is() -> None:
    with pytest.raises(BadPacket, match="byte 14 has an empty name"):
        decode_variables(HELLO_BLOCK + item(b"", b"v"))


def test_a_bad_packet_says_how_large_the_block_was() -> None:
    with pytest.raises(BadPacket, match="13 bytes"):
        decode_variables(HELLO_BLOCK[:-1])


@given(variables)
def test_what_is_encoded_is_decoded_the_same(expected: Variables) -> None:
    assert decode_variables(encode_variables(expected)) == expected


@given(garbage)
def test_garbage_is_a_bad_packet_or_exactly_what_its_variables_encode_to(data: bytes) -> None:
    try:
        found = decode_variables(data)
    except BadPacket:
        return
    assert block(found) == data


# --- writing a block: nothing is ever cut ---


def test_any_iterable_of_pairs_can_be_encoded() -> None:
    assert encode_variables((key, b"v") for key in (b"a", b"b")) == block({b"a": b"v", b"b": b"v"})


def test_no_variables_make_an_empty_block() -> None:
    assert encode_variables([]) == b""


def test_an_empty_name_is_a_bad_task() -> None:
    with pytest.raises(BadTask, match="empty name"):
        encode_variables([(b"k", b"v"), (b"", b"v")])


@pytest.mark.parametrize(
    "too_large",
    [
        [(b"k", b"v" * (MAX_BLOCK - 4))],
        [(b"k", b"v" * MAX_BLOCK)],
        [(b"k", b"v" * (MAX_BLOCK + 1))],
        [(b"k", b"v" * 70_000)],
        [(b"k" * (MAX_BLOCK - 3), b"")],
        [(b"k" * (MAX_BLOCK + 1), b"")],
        [(b"k", b"v" * 1000)] * 66,
    ],
    ids=[
        "by one byte",
        "65535",
        "65536, empty in uWSGI",
        "70000, cut in uWSGI",
        "name by one",
        "name of 65536",
        "in sum",
    ],
)
def test_what_is_too_large_is_a_bad_task_and_never_cut(too_large: Variables) -> None:
    with pytest.raises(BadTask, match="at most 65535") as caught:
        encode_variables(too_large)
    assert "`body`" in str(caught.value)


def test_what_is_too_large_is_reported_with_its_sizes_and_a_short_name() -> None:
    with pytest.raises(BadTask, match="name of 300 bytes and a value of 70000 bytes") as caught:
        encode_variables([(b"\xff" * 300, b"v" * 70_000)])
    assert len(str(caught.value)) < 300
