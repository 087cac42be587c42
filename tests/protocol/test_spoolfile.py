"""spoolfile: one task on disk, in uWSGI's own format."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage, variables
from wire import HELLO_BLOCK, HELLO_WORLD, MALFORMED_BLOCKS, block, packet

from spoolnode.protocol import spoolfile
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import Variables
from spoolnode.protocol.spoolfile import FINISHED, WAITING, Short, SpoolFile, head, parse

HELLO = SpoolFile(WAITING, 0, [(b"hello", b"world")], b"")


def test_a_waiting_task_lies_on_disk_as_the_packet_that_brought_it() -> None:
    assert head(HELLO_BLOCK) == HELLO_WORLD
    assert parse(HELLO_WORLD) == HELLO


def test_whatever_follows_the_variables_is_the_body() -> None:
    assert parse(HELLO_WORLD + b"a body\0\xff") == HELLO._replace(body=b"a body\0\xff")
    assert parse(HELLO_WORLD + HELLO_WORLD) == HELLO._replace(body=HELLO_WORLD)


def test_a_file_is_short_byte_by_byte_until_its_variables_are_there() -> None:
    for cut in range(len(HELLO_WORLD)):
        with pytest.raises(Short, match=f"the file has {cut} bytes"):
            parse(HELLO_WORLD[:cut])
    assert parse(HELLO_WORLD) == HELLO


def test_a_short_file_says_how_much_it_should_have() -> None:
    with pytest.raises(Short, match="at least 4"):
        parse(b"\x11")
    with pytest.raises(Short, match="14 bytes of variables announced it has at least 18"):
        parse(HELLO_WORLD[:-1])


def test_a_short_file_is_a_bad_packet_of_its_own_kind() -> None:
    assert issubclass(Short, BadPacket)


def test_a_file_of_a_header_alone_is_a_task_without_variables_as_in_uwsgi() -> None:
    assert parse(packet(17)) == SpoolFile(WAITING, 0, [], b"")


@pytest.mark.parametrize("malformed", MALFORMED_BLOCKS.values(), ids=MALFORMED_BLOCKS)
@pytest.mark.parametrize("body", [b"", b"body"])
def test_malformed_variables_are_a_bad_packet_and_not_short(malformed: bytes, body: bytes) -> None:
    with pytest.raises(BadPacket) as caught:
        parse(packet(17, malformed) + body)
    assert not isinstance(caught.value, Short)


def test_variables_do_not_run_on_into_the_body() -> None:
    with pytest.raises(BadPacket):
        parse(packet(17, HELLO_BLOCK[:-1]) + b"d")


@pytest.mark.parametrize("modifier1", range(256))
def test_any_modifier_is_read_as_uwsgi_does_and_told_as_the_state(modifier1: int) -> None:
    assert parse(packet(modifier1, HELLO_BLOCK, 9)) == HELLO._replace(state=modifier1, attempts=9)


def test_progress_is_two_bytes_in_place() -> None:
    data = bytearray(HELLO_WORLD + b"body")
    data[spoolfile.STATE_AT] = FINISHED
    data[spoolfile.ATTEMPTS_AT] = spoolfile.MAX_ATTEMPTS
    assert parse(bytes(data)) == HELLO._replace(state=FINISHED, attempts=255, body=b"body")


def test_the_states_have_the_values_that_are_on_disk_already() -> None:
    assert (WAITING, FINISHED) == (17, 0xFD)


@given(variables, st.integers(0, 255), st.binary(max_size=50))
def test_what_is_written_is_read_the_same(sent: Variables, attempts: int, body: bytes) -> None:
    assert parse(head(block(sent), attempts) + body) == SpoolFile(WAITING, attempts, sent, body)


@given(garbage | st.tuples(st.integers(0, 255), garbage, st.integers(0, 255)).map(lambda parts: packet(*parts)))
def test_garbage_is_a_bad_packet_or_exactly_what_it_says(data: bytes) -> None:
    try:
        found = parse(data)
    except BadPacket:
        return
    assert packet(found.state, block(found.variables), found.attempts) + found.body == data
