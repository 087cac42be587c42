"""Requests of operators and their answers arrive as they were sent, in as many packets as they need, and nothing else is one."""

import pytest

from spoolnode.protocol import operate
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.operate import Operation, OperationAnswer, OperationReader, is_operation, read_operation
from spoolnode.protocol.packet import ANSWER, HEADER, encode_variables
from spoolnode.protocol.request import read_terms

ASKED = Operation("POST", "/dead/retry", "error=KeyError&limit=1", "uid 1000")


def block_of(packet: bytes) -> bytes:
    return packet[HEADER.size :]


def answers_in(packets: bytes) -> list[tuple[int, int, bytes]]:
    """The packets, as a connection hears them."""
    heard = []
    while packets:
        modifier1, size, modifier2 = HEADER.unpack_from(packets)
        heard.append((modifier1, modifier2, packets[HEADER.size : HEADER.size + size]))
        packets = packets[HEADER.size + size :]
    return heard


def piece(status: bytes, size: bytes, data: bytes) -> tuple[int, int, bytes]:
    """One packet of an answer that a node could send."""
    return ANSWER, 5, encode_variables([(b"spool_status", status), (b"spool_size", size), (b"spool_piece", data)])


def test_a_request_arrives_as_it_was_made() -> None:
    block = block_of(ASKED.encode())
    assert is_operation(block)
    assert read_operation(block) == ASKED


def test_no_task_is_such_a_request_and_no_such_request_is_a_task() -> None:
    assert not is_operation(encode_variables([(b"to", b"spool_operate")]))
    for peer in (False, True):
        with pytest.raises(Refused, match="`spool_operate` is reserved"):
            read_terms(block_of(ASKED.encode()), local=True, peer=peer)


def test_what_is_said_of_who_asks_is_short_and_can_be_printed() -> None:
    read = read_operation(block_of(ASKED._replace(by="\x1b[2J\n" + "a" * 500).encode()))
    assert read.by.isprintable()
    assert len(read.by) <= operate.MOST_BY


@pytest.mark.parametrize("long", [{"path": "/" + "a" * operate.MOST_ASKED}, {"query": "a" * (operate.MOST_ASKED + 1)}])
def test_a_path_and_a_query_have_an_end(long: dict[str, str]) -> None:
    with pytest.raises(Refused, match="at most 8192") as refused:
        read_operation(block_of(ASKED._replace(**long).encode()))
    assert refused.value.reason is Reason.MALFORMED


def test_a_request_that_was_cut_is_refused() -> None:
    whole = block_of(ASKED.encode())
    for end in range(len(whole)):
        with pytest.raises(Refused):
            read_operation(whole[:end])


@pytest.mark.parametrize("size", [0, 1, 60_000, 60_001, operate.MOST_ANSWER])
def test_an_answer_of_any_size_is_whole_after_its_last_packet_and_not_before(size: int) -> None:
    answer, reader = OperationAnswer(404, b"x" * size), OperationReader()
    *first, last = [reader.add(heard) for heard in answers_in(answer.encode())]
    assert (first, last) == ([None] * (-(-size // 60_000) - 1), answer)


@pytest.mark.parametrize(
    "wrong",
    [
        piece(b"200", b"%d" % (operate.MOST_ANSWER + 1), b"x"), piece(b"200", b"-1", b""), piece(b"200", b"\xb2", b"x"),
        piece(b"200", b"9" * 9000, b"x"), piece(b"200", b"1", b"xx"), piece(b"200", b"1", b""), piece(b"199", b"1", b"x"),
        piece(b"600", b"1", b"x"), piece(b"", b"1", b"x"), piece(b"200", b"", b"x"), (ANSWER, 5, b""), (ANSWER, 5, b"\xff"),
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_or_has_no_end_is_none(wrong: tuple[int, int, bytes]) -> None:
    with pytest.raises(BadPacket):
        OperationReader().add(wrong)
