"""answer: the answers of a node, and how a client reads them."""

import http.client
import io
import json
from typing import IO, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage, task_ids, variables
from wire import HELLO_BLOCK, block, packet, pieces

from spoolnode.protocol import answer
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import Variables
from spoolnode.protocol.printable import printable

TASK_ID = "0123456789abcdef_7_40"
REFUSALS = [Refused(reason, f"no: {reason.name} – é") for reason in Reason]

every_refusal = pytest.mark.parametrize("refusal", REFUSALS, ids=[reason.name for reason in Reason])

# --- uwsgi answers ---


def test_plain_answers_are_uwsgis_own_four_bytes() -> None:
    assert answer.STORED.hex(" ") == "ff 00 00 01"
    assert answer.REFUSED.hex(" ") == "ff 00 00 00"
    assert answer.PONG.hex(" ") == "64 00 00 01"


def test_a_stored_task_is_answered_with_its_id() -> None:
    assert answer.stored("n_1_40") == bytes.fromhex("ff 12 00 01 08 00") + b"spool_id" + b"\x06\x00n_1_40"


@given(task_ids)
def test_the_id_of_a_stored_task_arrives(task_id: str) -> None:
    sent = answer.stored(task_id)
    assert sent == packet(255, block({b"spool_id": task_id.encode()}), 1)
    assert answer.read_answer(1, sent[4:]) == task_id


@every_refusal
def test_a_refusal_arrives_with_its_reason_and_its_text(refusal: Refused) -> None:
    sent = answer.refused(refusal)
    assert sent == packet(255, sent[4:], 0)
    with pytest.raises(Refused) as caught:
        answer.read_answer(0, sent[4:])
    assert (caught.value.reason, caught.value.text) == (refusal.reason, refusal.text)


@pytest.mark.parametrize("text", ["", "a\0b", "\udcff", "x" * 70_000, "é" * 3000], ids=lambda text: ascii(text[:9]))
def test_a_refusal_can_always_be_answered_whatever_its_text(text: str) -> None:
    sent = answer.refused(Refused(Reason.FULL, text))
    with pytest.raises(Refused) as caught:
        answer.read_answer(0, sent[4:])
    assert caught.value.reason is Reason.FULL
    assert caught.value.text[:1000] == printable(text)[:1000]
    assert len(sent) < 5000


def test_a_reason_that_this_version_does_not_know_is_still_a_refusal() -> None:
    with pytest.raises(Refused, match=r"^tea time$"):
        answer.read_answer(0, block({b"spool_error": b"tea time", b"spool_reason": b"TEAPOT"}))


def test_a_refusal_without_a_reason_is_still_a_refusal() -> None:
    with pytest.raises(Refused, match=r"^no\ufffd$"):
        answer.read_answer(0, block({b"spool_error": b"no\xff"}))


NO_ANSWERS = {
    "stored without an id": (1, b""),
    "refused without a text": (0, b""),
    "an id in a refusal": (0, block({b"spool_id": b"n_1_40"})),
    "a text in a stored": (1, block({b"spool_error": b"no"})),
    "another modifier2": (2, block({b"spool_id": b"n_1_40", b"spool_error": b"no"})),
    "other variables": (1, HELLO_BLOCK),
    "an empty id": (1, block({b"spool_id": b""})),
    "an id with a path": (1, block({b"spool_id": b"../x"})),
    "an id that is no text": (1, block({b"spool_id": b"n\xff"})),
    "an id too long": (1, block({b"spool_id": b"x" * 237})),
    "a malformed block": (1, block({b"spool_id": b"n_1_40"})[:-1]),
    "a malformed tail": (0, block({b"spool_error": b"no"}) + b"\0"),
}


@pytest.mark.parametrize(("modifier2", "content"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_neither_an_id_nor_a_refusal_is_a_bad_packet(modifier2: int, content: bytes) -> None:
    with pytest.raises(BadPacket):
        answer.read_answer(modifier2, content)


def test_an_answer_cut_anywhere_is_a_bad_packet() -> None:
    for modifier2, sent in ((1, answer.stored(TASK_ID)), (0, answer.refused(REFUSALS[0]))):
        whole = sent[4:]
        boundary = whole.index(b"\x0c\x00spool_reason") if modifier2 == 0 else 0
        for cut in set(range(len(whole))) - {boundary or -1}:
            with pytest.raises(BadPacket):
                answer.read_answer(modifier2, whole[:cut])


answers = st.lists(st.tuples(st.sampled_from([b"spool_id", b"spool_error", b"spool_reason"]), st.binary(max_size=9)), max_size=3)


@given(st.integers(0, 2), garbage | answers.map(block) | variables.map(block))
def test_any_answer_is_an_id_a_refusal_or_a_bad_packet(modifier2: int, content: bytes) -> None:
    try:
        task_id = answer.read_answer(modifier2, content)
    except (Refused, BadPacket):
        return
    assert modifier2 == 1
    assert task_id.encode() in content


# --- status ---

STATUS = {
    "name": "alpha",
    "id": "0123456789abcdef",
    "waiting": 3,
    "load": 0.5,
    "tags": ["gpu", "x"],
    "peers": {"b": None},
}


def test_a_status_arrives_in_a_pong() -> None:
    sent = answer.status_pong(STATUS)
    assert sent == packet(100, sent[4:], 1)
    assert answer.read_status(sent[4:]) == STATUS


NO_STATUS = {
    "nothing": b"",
    "a list": msgpack.packb([1]),
    "a number": b"\x01",
    "keys that are no text": msgpack.packb({1: 2}),
    "bytes for keys": msgpack.packb({b"a": 2}),
    "a tail": msgpack.packb(STATUS) + b"\0",
    "a key that cannot be one": b"\x81\x90\x00",
    "text that is no UTF-8": b"\x81\xa1\xff\x00",
    "a reserved byte": b"\xc1",
    "too deep": b"\x81\xa1a" + b"\x91" * 5000 + b"\x00",
    "an array of 4 billion": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "a string of 4 billion": b"\x81\xa1a\xdb\xff\xff\xff\xffx",
}


@pytest.mark.parametrize("content", NO_STATUS.values(), ids=NO_STATUS)
def test_what_is_no_status_is_a_bad_packet(content: bytes) -> None:
    with pytest.raises(BadPacket, match=r"^the status in a pong "):
        answer.read_status(content)


def test_a_status_cut_anywhere_is_a_bad_packet() -> None:
    whole = answer.status_pong(STATUS)[4:]
    for cut in range(len(whole)):
        with pytest.raises(BadPacket):
            answer.read_status(whole[:cut])


@given(garbage | garbage.map(lambda data: b"\x82" + data))
def test_garbage_is_a_status_or_a_bad_packet(content: bytes) -> None:
    try:
        status = answer.read_status(content)
    except BadPacket:
        return
    assert all(isinstance(key, str) for key in status)


# --- HTTP ---


class Connection:
    """A socket from which `http.client` reads an answer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> IO[bytes]:
        return io.BytesIO(self._data)


def read_http(data: bytes) -> tuple[http.client.HTTPResponse, Any]:
    """The answer as Python's own HTTP client reads it, and the JSON in it; nothing may follow."""
    response = http.client.HTTPResponse(Connection(data))  # type: ignore[arg-type] # makefile() is all it asks for
    response.begin()
    body = response.read()
    assert int(response.headers["Content-Length"]) == len(body)
    assert data.endswith(b"\r\n\r\n" + body)
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Connection"] == "close"
    return response, json.loads(body)


def test_a_stored_task_is_202_with_its_id_in_head_and_body() -> None:
    response, content = read_http(answer.http_stored(TASK_ID))
    assert response.status == 202
    assert response.headers["X-Spool-Id"] == TASK_ID
    assert content == {"id": TASK_ID}


@every_refusal
def test_a_refusal_is_the_status_of_its_reason_with_its_text(refusal: Refused) -> None:
    response, content = read_http(answer.http_refused(refusal))
    assert response.status == refusal.reason.value
    assert content == {"error": refusal.text}


@every_refusal
def test_only_what_passes_is_to_be_tried_again(refusal: Refused) -> None:
    response, _ = read_http(answer.http_refused(refusal))
    expected = str(answer.RETRY_AFTER) if refusal.reason in (Reason.BUSY, Reason.FULL) else None
    assert response.headers["Retry-After"] == expected


@pytest.mark.parametrize("text", ["\r\nX-Evil: 1\r\n\r\n", "\0", "\udcff", '"}', "x" * 100_000], ids=lambda text: ascii(text[:9]))
def test_the_text_of_a_refusal_stays_in_the_body(text: str) -> None:
    response, content = read_http(answer.http_refused(Refused(Reason.MALFORMED, text)))
    assert content == {"error": text}
    assert "X-Evil" not in response.headers


# --- the client's half of a connection ---

PACKETS = [
    (255, 1, b""),
    (255, 0, b""),
    (100, 1, b"status"),
    (255, 1, HELLO_BLOCK),
    (255, 7, b"x" * 1000),
    (255, 1, b"y" * 65535),
]
STREAM = b"".join(packet(modifier1, content, modifier2) for modifier1, modifier2, content in PACKETS)


@pytest.mark.parametrize("size", [1, 3, 7, 4096, 1 << 30])
def test_answers_are_the_same_in_every_fragmentation(size: int) -> None:
    reader = answer.AnswerReader()
    stream = STREAM if size > 7 else STREAM[:-65539]
    found: list[answer.Answer] = []
    for piece in pieces(stream, size):
        found += reader.answers(piece)
    assert found == PACKETS[: len(found)]
    assert len(found) == (6 if size > 7 else 5)


@pytest.mark.parametrize("tail", [b"\xff", b"\x64", b"\xff\x02\x00\x01x"])
def test_an_answer_with_the_beginning_of_another_for_a_tail_is_one_answer(tail: bytes) -> None:
    assert list(answer.AnswerReader().answers(answer.STORED + tail)) == [(255, 1, b"")]


def test_answers_that_were_not_asked_for_come_with_the_next_bytes() -> None:
    reader = answer.AnswerReader()
    assert next(reader.answers(answer.STORED + answer.REFUSED)) == (255, 1, b"")
    assert list(reader.answers(answer.PONG)) == [(255, 0, b""), (100, 1, b"")]


FIRST = packet(255, b"abc", 1)
ANSWER_STATES = {"nothing has come": b"", "half a header": FIRST[:2], "a header": FIRST[:4], "half a block": FIRST[:6]}
AFTER_AN_ANSWER = {"nothing": (b"", []), "an answer": (answer.PONG, [(100, 1, b"")]), "rubbish": (b"H", [BadPacket])}


@pytest.mark.parametrize(("tail", "expected"), AFTER_AN_ANSWER.values(), ids=AFTER_AN_ANSWER)
@pytest.mark.parametrize("come", ANSWER_STATES.values(), ids=ANSWER_STATES)
def test_in_each_state_the_rest_of_an_answer_completes_it_and_what_follows_is_read_afresh(
    come: bytes, tail: bytes, expected: list[object]
) -> None:
    reader = answer.AnswerReader()
    assert not list(reader.answers(come))
    found: list[object] = []
    try:
        for item in reader.answers(FIRST[len(come) :] + tail):
            found.append(item)
    except BadPacket:
        found.append(BadPacket)
    assert found == [(255, 1, b"abc"), *expected]


@pytest.mark.parametrize("first", sorted(set(range(256)) - {100, 255}))
def test_what_no_uwsgi_server_answers_is_a_bad_packet_at_its_first_byte_and_ever_after(first: int) -> None:
    reader = answer.AnswerReader()
    for data in (bytes([first]), answer.STORED):
        with pytest.raises(BadPacket, match=f"begins with byte {first};"):
            list(reader.answers(data))


@given(
    st.lists(st.tuples(st.sampled_from([100, 255]), st.integers(0, 255), st.binary(max_size=20))),
    garbage,
    st.integers(1, 9),
)
def test_garbage_after_answers_is_answers_or_a_bad_packet_whatever_the_fragmentation(
    sent: list[tuple[int, int, bytes]], rubbish: bytes, size: int
) -> None:
    stream = b"".join(packet(modifier1, content, modifier2) for modifier1, modifier2, content in sent) + rubbish

    def read(size: int) -> list[object]:
        reader = answer.AnswerReader()
        found: list[object] = []
        try:
            for piece in pieces(stream, size):
                for item in reader.answers(piece):
                    found.append(item)
        except BadPacket:
            found.append(BadPacket)
        return found

    whole = read(1 << 30)
    assert whole[: len(sent)] == sent
    assert read(size) == whole


def test_variables_of_an_answer_may_come_in_any_order_and_with_others() -> None:
    content: Variables = [(b"x", b"y"), (b"spool_reason", b"BUSY"), (b"spool_error", b"later")]
    with pytest.raises(Refused, match="later") as caught:
        answer.read_answer(0, block(content))
    assert caught.value.reason is Reason.BUSY


# --- copies ---


def test_a_task_stored_many_times_is_answered_with_the_first_id_and_how_many() -> None:
    sent = answer.stored_copies("n_1_40", 3)
    assert sent == packet(255, block({b"spool_id": b"n_1_40", b"spool_copies": b"3"}), 1)
    assert answer.read_answer(1, sent[4:]) == "n_1_40"
    assert answer.read_copies(sent[4:]) == 3


def test_a_task_that_was_stored_once_is_one_copy() -> None:
    assert answer.read_copies(answer.stored("n_1_40")[4:]) == 1


@pytest.mark.parametrize("count", [b"", b"x", b"-1", b"1.5", b"123456", b"\xff", "\N{SUPERSCRIPT TWO}".encode()])
def test_a_number_of_copies_that_makes_no_sense_is_one(count: bytes) -> None:
    assert answer.read_copies(block({b"spool_id": b"n_1_40", b"spool_copies": count})) == 1


def test_a_web_client_hears_how_many_copies_there_are() -> None:
    head, _, body = answer.http_stored("n_1_40", 3).partition(b"\r\n\r\n")
    assert json.loads(body) == {"id": "n_1_40", "copies": 3}
    assert b"X-Spool-Id: n_1_40" in head
    assert json.loads(answer.http_stored("n_1_40").partition(b"\r\n\r\n")[2]) == {"id": "n_1_40"}


def test_a_note_travels_with_the_id_and_is_no_simple_answer() -> None:
    whole = answer.stored_noted(TASK_ID, "beta is unknown")
    content = whole[4:]
    assert whole[:4] == bytes((255, *len(content).to_bytes(2, "little"), 1))
    assert answer.read_answer(1, content) == TASK_ID
    assert answer.read_note(content) == "beta is unknown"
    assert not answer.is_stored(1, content)
    http_body = answer.http_stored(TASK_ID, note="x").partition(b"\r\n\r\n")[2]
    assert json.loads(http_body) == {"id": TASK_ID, "note": "x"}
