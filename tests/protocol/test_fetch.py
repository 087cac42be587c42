"""Questions about results and their answers arrive as they were sent, and nothing else is taken for one."""

import math

import pytest

from spoolnode.protocol import fetch
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.fetch import Fetched, Question
from spoolnode.protocol.packet import HEADER, encode_variables

ID = "0123456789ab_1790000000000000_64"


def block_of(packet: bytes) -> bytes:
    return packet[HEADER.size :]


def test_a_question_arrives_as_it_was_asked() -> None:
    asked = Question(ID, 12.5, 60_000)
    assert fetch.is_question(block_of(asked.encode()))
    assert fetch.read_question(block_of(asked.encode())) == asked


@pytest.mark.parametrize("about", [fetch.STORY, fetch.TASK])
def test_a_question_about_something_else_is_told_apart(about: bytes) -> None:
    asked = Question(ID, 0.0, 5, about=about)
    assert fetch.is_question(block_of(asked.encode()))
    assert fetch.read_question(block_of(asked.encode())) == asked


def test_a_task_is_not_a_question() -> None:
    assert not fetch.is_question(encode_variables([(b"to", b"spool_result")]))


@pytest.mark.parametrize(("asked", "kept"), [(1e9, fetch.MOST_WAIT), (math.inf, fetch.MOST_WAIT), (math.nan, 0.0), (-1.0, 0.0)])
def test_no_question_waits_longer_than_it_may(asked: float, kept: float) -> None:
    assert fetch.read_question(block_of(Question(ID, asked).encode())).wait == kept


@pytest.mark.parametrize("asked", [Question("../node.key", 1), Question("", 1), Question(ID, 1, -1)])
def test_a_question_that_makes_no_sense_is_refused(asked: Question) -> None:
    with pytest.raises(Refused):
        fetch.read_question(block_of(asked.encode()))


@pytest.mark.parametrize("block", [b"", b"\x0c\x00spool_result", block_of(Question(ID, 1).encode())[:-3]])
def test_a_question_that_was_cut_is_refused(block: bytes) -> None:
    with pytest.raises(Refused):
        fetch.read_question(block)


@pytest.mark.parametrize("said", [Fetched(), Fetched(5, b"abc"), Fetched(missing="it has expired", kind=fetch.EXPIRED)])
def test_an_answer_arrives_as_it_was_given(said: Fetched) -> None:
    packet = said.encode()
    assert fetch.read_fetched(packet[3], block_of(packet)) == said
    assert said.is_pending == (said == Fetched())


def test_a_kind_that_is_not_known_is_left_out() -> None:
    packet = Fetched(missing="it has expired", kind="stolen").encode()
    assert fetch.read_fetched(packet[3], block_of(packet)) == Fetched(missing="it has expired")


def test_an_answer_to_a_task_is_not_taken_for_one() -> None:
    with pytest.raises(BadPacket):
        fetch.read_fetched(1, encode_variables([(b"spool_id", ID.encode())]))


@pytest.mark.parametrize("size", ["", "x", "-1", "\u00b2", str(fetch.MAX_ANSWER + 1), "9" * 5000])
def test_an_answer_of_a_size_that_cannot_be_is_the_other_nodes_mistake(size: str) -> None:
    block = encode_variables([(b"spool_size", size.encode()), (b"spool_piece", b"x"), (b"spool_missing", b"")])
    with pytest.raises(BadPacket):
        fetch.read_fetched(3, block)
