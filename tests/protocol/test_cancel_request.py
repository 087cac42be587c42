"""Requests to cancel a task and their answers arrive as they were sent; a node that does not know them refuses them."""

import pytest

from spoolnode.protocol import cancel
from spoolnode.protocol.cancel import CancelAnswer, CancelOutcome, CancelRequest
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.fetch import is_question
from spoolnode.protocol.forward import undeliverable
from spoolnode.protocol.packet import HEADER, encode_variables
from spoolnode.protocol.request import read_terms

ID = "0123456789ab_1790000000000000_64"


def block_of(packet: bytes) -> bytes:
    return packet[HEADER.size :]


@pytest.mark.parametrize("number", [0, 17 << 32])
def test_a_request_arrives_as_it_was_made(number: int) -> None:
    asked = CancelRequest(ID, "ada (process 7)", 2.5, 12.0, 3, number)
    block = block_of(asked.encode())
    assert cancel.is_cancel(block)
    assert not is_question(block)
    assert cancel.read_cancel(block) == asked


def test_a_task_is_not_such_a_request() -> None:
    assert not cancel.is_cancel(encode_variables([(b"to", b"spool_cancel")]))


def test_nothing_is_longer_than_it_may_be() -> None:
    for much in (1e12, float("inf"), float("nan"), -1.0):
        read = cancel.read_cancel(block_of(CancelRequest(ID, "\x1b" * 500, much, much, 1 << 40).encode()))
        assert 0 <= read.grace <= cancel.LONGEST_GRACE
        assert 0 <= read.wait <= cancel.LONGEST_GRACE + cancel.ANSWER_SECONDS
        assert (read.follow, len(read.by)) == (cancel.MOST_NODES, cancel.MOST_BY)
        assert read.by.isprintable()


@pytest.mark.parametrize("identity", ["../node.key", "", "a" * 300])
def test_a_request_about_no_task_is_refused(identity: str) -> None:
    with pytest.raises(Refused, match="is not the id of a task"):
        cancel.read_cancel(block_of(CancelRequest(identity, "ada", 1, 1).encode()))


@pytest.mark.parametrize("number", [-1, 1 << 80])
def test_a_request_with_a_number_that_cannot_be_is_refused(number: int) -> None:
    with pytest.raises(Refused, match="spool_seq"):
        cancel.read_cancel(block_of(CancelRequest(ID, "ada", 1, 1, number=number).encode()))


def test_a_request_that_was_cut_is_refused() -> None:
    whole = block_of(CancelRequest(ID, "ada", 1, 1).encode())
    for end in range(len(whole)):
        with pytest.raises(Refused):
            cancel.read_cancel(whole[:end])


@pytest.mark.parametrize("outcome", CancelOutcome)
def test_an_answer_arrives_as_it_was_given(outcome: CancelOutcome) -> None:
    packet = CancelAnswer(outcome, "why").encode()
    assert cancel.read_cancel_answer(packet[3], block_of(packet)) == CancelAnswer(outcome, "why")


@pytest.mark.parametrize("said", [[(b"spool_id", ID.encode())], [(b"spool_outcome", b"eaten"), (b"spool_text", b"")]])
def test_something_else_is_not_taken_for_an_answer(said: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadPacket):
        cancel.read_cancel_answer(4, encode_variables(said))
    with pytest.raises(BadPacket):
        cancel.read_cancel_answer(1, block_of(CancelAnswer(CancelOutcome.DONE).encode()))


def test_a_node_that_takes_the_request_for_a_task_refuses_it_and_that_tells_its_version() -> None:
    with pytest.raises(Refused) as caught:
        read_terms(block_of(CancelRequest(ID, "ada", 1, 1).encode()), local=True, peer=False)
    assert cancel.is_of_older_version(caught.value)


def test_the_reason_of_a_cancelled_task_tells_whether_it_was_perhaps_taken_elsewhere() -> None:
    for reason, number in (
        (cancel.cancelled_by("ada"), 0),
        (undeliverable("10.0.0.7:3031", cancel.cancelled_by("ada")), 0),
        (undeliverable("10.0.0.7:3031", cancel.cancelled_by("ada", 17)), 17),
    ):
        assert cancel.is_cancelled(reason)
        assert cancel.number_in(reason) == number
    assert not cancel.is_cancelled(undeliverable("beta", "it is refused"))
    assert not cancel.is_cancelled("ValueError: cancelled by ada")
