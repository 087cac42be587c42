"""reader: bytes of a connection -> requests and bodies, whatever the fragmentation."""

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import FEEDINGS, HELLO_BLOCK, HELLO_WORLD, block, packet, pieces

from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.reader import Body, Request, RequestReader

HELLO = Request(17, 0, HELLO_BLOCK)
Event = Request | bytes | Reason


def collect(reader: RequestReader, lengths: Iterator[int], found: list[Event]) -> bool:
    """Adds what the reader has to say now, the pieces of a body put together; False once it has refused.

    After each request it expects the next of `lengths` bytes of body.
    """
    try:
        while (event := reader.next_event()) is not None:
            if isinstance(event, Request):
                found.append(event)
                reader.expect_body(next(lengths, 0))
            elif found and isinstance(found[-1], bytes):
                found[-1] += event.data
            else:
                found.append(event.data)
    except Refused as refusal:
        found.append(refusal.reason)
        return False
    return True


def feed(data: bytes, size: int, bodies: Iterable[int] = (), limit: int = 65535) -> list[Event]:
    """The events of a new reader for `data` that comes `size` bytes at a time, until it refuses."""
    reader = RequestReader(limit)
    lengths = iter(bodies)
    found: list[Event] = []
    for piece in pieces(data, size):
        reader.receive(piece)
        if not collect(reader, lengths, found):
            break
    return found


# --- requests, in every fragmentation ---

how = pytest.mark.parametrize("size", FEEDINGS.values(), ids=FEEDINGS)


@how
def test_hello_world_is_one_request(size: int) -> None:
    assert feed(HELLO_WORLD, size) == [HELLO]


@how
def test_a_request_with_a_second_one_for_a_tail_is_two_requests(size: int) -> None:
    assert feed(HELLO_WORLD + packet(17, b"x" * 300, 1), size) == [HELLO, Request(17, 1, b"x" * 300)]


@how
@pytest.mark.parametrize("tail", [b"\x11", HELLO_WORLD[:3], HELLO_WORLD[:4], HELLO_WORLD[:-1], b"\x64"])
def test_a_request_with_the_beginning_of_another_for_a_tail_is_one_request(size: int, tail: bytes) -> None:
    assert feed(HELLO_WORLD + tail, size) == [HELLO]


@how
def test_a_request_with_rubbish_for_a_tail_is_taken_before_the_rubbish_is_refused(size: int) -> None:
    assert feed(HELLO_WORLD + b"\0", size) == [HELLO, Reason.MALFORMED]


@how
def test_an_empty_packet_and_a_ping_are_requests(size: int) -> None:
    assert feed(packet(17) + packet(100) + packet(100, b"", 1), size) == [
        Request(17, 0, b""),
        Request(100, 0, b""),
        Request(100, 1, b""),
    ]


@how
def test_the_largest_packet_is_one_request(size: int) -> None:
    if size == 1:
        size = 999  # byte by byte it would take long and show nothing new
    assert feed(packet(17, b"x" * 65535), size) == [Request(17, 0, b"x" * 65535)]


@pytest.mark.parametrize("modifier2", range(256))
def test_modifier2_is_handed_on_as_it_is(modifier2: int) -> None:
    assert feed(packet(17, b"x", modifier2), 1) == [Request(17, modifier2, b"x")]


def test_the_block_is_not_looked_into() -> None:
    assert feed(packet(17, b"\xff" * 9), 1) == [Request(17, 0, b"\xff" * 9)]


# --- bodies ---


@how
def test_a_body_is_what_follows_its_request_and_the_next_request_what_follows_the_body(size: int) -> None:
    data = HELLO_WORLD + b"GET / HTTP" + HELLO_WORLD + HELLO_WORLD + b"\x11"
    assert feed(data, size, bodies=[10, 0, 1]) == [HELLO, b"GET / HTTP", HELLO, HELLO, b"\x11"]


@how
def test_a_body_of_no_bytes_makes_no_event(size: int) -> None:
    assert feed(HELLO_WORLD + HELLO_WORLD, size, bodies=[0, 0]) == [HELLO, HELLO]


def test_a_body_is_handed_on_as_it_comes_and_only_its_end_is_the_last() -> None:
    reader = RequestReader()
    reader.receive(HELLO_WORLD + b"ab")
    reader.next_event()
    reader.expect_body(5)
    assert reader.next_event() == Body(b"ab", last=False)
    assert reader.next_event() is None
    reader.receive(b"c")
    assert reader.next_event() == Body(b"c", last=False)
    reader.receive(b"de" + HELLO_WORLD)
    assert reader.next_event() == Body(b"de", last=True)
    assert reader.next_event() == HELLO


def test_a_body_is_not_bound_by_the_limit_of_the_block() -> None:
    assert feed(HELLO_WORLD + b"x" * 100_000, 1 << 30, bodies=[100_000], limit=14) == [HELLO, b"x" * 100_000]


def test_a_large_body_is_not_kept() -> None:
    reader = RequestReader()
    reader.receive(HELLO_WORLD)
    reader.next_event()
    reader.expect_body(1 << 40)
    for _ in range(10):
        reader.receive(b"x" * 1000)
        assert reader.next_event() == Body(b"x" * 1000, last=False)
        assert "0 bytes buffered" in repr(reader)


# --- rubbish ---

CLIENT_HELLO = bytes.fromhex("16 03 01 00 c8 01 00 00 c4 03 03") + bytes(194)
RUBBISH = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "HTTP POST": b"POST /jobs HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": CLIENT_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "PROXY protocol 1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "PROXY protocol 2": b"\r\n\r\n\0\r\nQUIT\n" + bytes(4),
    "FastCGI": bytes.fromhex("01 01 00 01 00 08 00 00"),
    "SCGI": b"24:CONTENT_LENGTH\0000\0SCGI\0001\0,",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "JSON": b'{"hello": "world"}\n',
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "an answer": packet(255, b"", 1),
    "a finished spool file": packet(0xFD, HELLO_BLOCK),
    "a batch": b"SPOOLBAT\x01\x00",
}
RUNS_CODE_IN_UWSGI = [0, 5, 6, 7, 8, 9, 14, 15, 18, 22, 98, 99, 110, 111, 173, 224]
"""Applications in ten languages, symbols, reload, configuration, signals, cache, RPC, subscriptions."""


@how
@pytest.mark.parametrize("rubbish", RUBBISH.values(), ids=RUBBISH)
def test_rubbish_is_refused_as_malformed_whatever_the_fragmentation(rubbish: bytes, size: int) -> None:
    assert feed(rubbish, size) == [Reason.MALFORMED]


@pytest.mark.parametrize("what", [what for what in RUBBISH if what != "zeros"])
def test_rubbish_is_refused_at_its_first_byte(what: str) -> None:
    assert feed(RUBBISH[what][:1], 1) == [Reason.MALFORMED]


def test_what_may_be_a_request_for_a_web_application_is_read_whole_to_know_in_which_language_it_is_refused() -> None:
    for variables, expects_http in (({b"REQUEST_METHOD": b"GET"}, True), ({b"HTTP_HOST": b"h"}, True), ({b"a": b"b"}, False)):
        reader = RequestReader()
        data = packet(0, block(variables))
        reader.receive(data[:-1])
        assert reader.next_event() is None
        reader.receive(data[-1:])
        with pytest.raises(Refused, match="uwsgi_modifier1 17;"):
            reader.next_event()
        assert reader.expects_http is expects_http


def test_such_a_request_after_another_one_is_refused_at_its_first_byte() -> None:
    assert feed(packet(17, HELLO_BLOCK) + b"\0", 1) == [Request(17, 0, HELLO_BLOCK), Reason.MALFORMED]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD"])
def test_a_request_of_a_browser_is_refused_in_its_language(method: bytes) -> None:
    reader = RequestReader()
    reader.receive(method + b" / HTTP/1.1\r\n")
    with pytest.raises(Refused, match="uwsgi_pass"):
        reader.next_event()
    assert reader.expects_http


@how
@pytest.mark.parametrize("modifier1", RUNS_CODE_IN_UWSGI)
def test_a_packet_that_would_run_code_in_uwsgi_is_refused(modifier1: int, size: int) -> None:
    assert feed(packet(modifier1, HELLO_BLOCK), size) == [Reason.MALFORMED]


@pytest.mark.parametrize("modifier1", range(256))
def test_only_spool_requests_and_pings_are_taken(modifier1: int) -> None:
    expected = [Request(modifier1, 0, HELLO_BLOCK)] if modifier1 in (17, 100) else [Reason.MALFORMED]
    assert feed(packet(modifier1, HELLO_BLOCK), 1) == expected


def test_a_refusal_names_the_modifier_and_what_is_taken() -> None:
    reader = RequestReader()
    reader.receive(packet(18))
    with pytest.raises(Refused, match=r"modifier1 18; a node takes only 17 \(spool\) and 100 \(ping\)"):
        reader.next_event()


@how
@pytest.mark.parametrize("limit", [0, 1, 13, 4096, 65535])
def test_a_block_of_the_limit_is_taken_and_one_byte_more_is_too_large(limit: int, size: int) -> None:
    if limit > 13:
        size = max(size, 1000)
    assert feed(packet(17, b"x" * limit), size, limit=limit) == [Request(17, 0, b"x" * limit)]
    if limit < 65535:
        assert feed(packet(17, b"x" * (limit + 1)), size, limit=limit) == [Reason.TOO_LARGE]


def test_what_is_too_large_is_refused_before_its_block_has_come_with_the_sizes() -> None:
    reader = RequestReader(4096)
    reader.receive(b"\x11\x01\x10\x00")
    with pytest.raises(Refused, match="4097 bytes; this node takes at most 4096") as caught:
        reader.next_event()
    assert caught.value.reason is Reason.TOO_LARGE


# --- each state × each input ---

LIMIT = 64
PING = packet(100)
REST = {  # state -> what has come, the body expected, what it lacks
    "between requests": (b"", 0, HELLO_WORLD),
    "1 byte of a header": (HELLO_WORLD[:1], 0, HELLO_WORLD[1:]),
    "2 bytes of a header": (HELLO_WORLD[:2], 0, HELLO_WORLD[2:]),
    "3 bytes of a header": (HELLO_WORLD[:3], 0, HELLO_WORLD[3:]),
    "a header": (HELLO_WORLD[:4], 0, HELLO_WORLD[4:]),
    "all but a byte": (HELLO_WORLD[:-1], 0, HELLO_WORLD[-1:]),
    "a body due": (HELLO_WORLD, 4, b"body"),
    "half a body": (HELLO_WORLD + b"bo", 4, b"dy"),
    "after a body": (HELLO_WORLD + b"body", 4, HELLO_WORLD),
    "refused: modifier": (b"G", 0, b""),
    "refused: too large": (b"\x11\xff\xff\x00", 0, b""),
}
INPUTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda rest: b"",
    "the rest": lambda rest: rest,
    "rest + request": lambda rest: rest + HELLO_WORLD,
    "a ping": lambda rest: PING,
    "HTTP": lambda rest: b"GET / HTTP/1.1\r\n\r\n",
    "too large": lambda rest: b"\x11\xff\xff\x00",
}
# R request, P ping, B body, M refused as malformed, L refused as too large, - more bytes needed. What looks odd
# is right: inside a packet the next bytes are its own, whatever they resemble.
TABLE = """
                     nothing  the rest  rest + request  a ping  HTTP  too large
between requests     -        R         RR              P       M     L
1 byte of a header   -        R         RR              L       L     L
2 bytes of a header  -        R         RR              L       L     L
3 bytes of a header  -        R         RR              -       RM    -
a header             -        R         RR              -       RM    -
all but a byte       -        R         RR              RM      RM    RM
a body due           -        B         BR              B       BM    B
half a body          -        B         BR              BM      BM    BM
after a body         -        R         RR              P       M     L
refused: modifier    M        M         M               M       M     M
refused: too large   L        L         L               L       L     L
"""
CELLS = [
    (line[:21].strip(), label, outcome)
    for line in TABLE.splitlines()[2:]
    for label, outcome in zip(INPUTS, line[21:].split(), strict=True)
]


def reader_in(state: str) -> RequestReader:
    come, body, _ = REST[state]
    reader = RequestReader(LIMIT)
    reader.receive(come)
    collect(reader, iter([body]), [])
    return reader


def letters(found: list[Event]) -> str:
    signs = {Reason.MALFORMED: "M", Reason.TOO_LARGE: "L"}
    kinds = [
        signs[event] if isinstance(event, Reason) else "B" if isinstance(event, bytes) else "RP"[event.modifier1 == 100]
        for event in found
    ]
    return "".join(kinds) or "-"


def test_the_table_has_every_state_and_every_input() -> None:
    assert {(state, label) for state, label, _ in CELLS} == {(state, label) for state in REST for label in INPUTS}
    assert TABLE.splitlines()[1].split() == " ".join(INPUTS).split()


@pytest.mark.parametrize("size", [1, 2, 1 << 30], ids=["byte by byte", "in twos", "whole"])
@pytest.mark.parametrize(("state", "label", "outcome"), CELLS)
def test_each_state_meets_each_input_as_the_table_says(state: str, label: str, outcome: str, size: int) -> None:
    reader = reader_in(state)
    found: list[Event] = []
    for piece in [b"", *pieces(INPUTS[label](REST[state][2]), size)]:
        reader.receive(piece)
        if not collect(reader, iter(()), found):
            break
    assert letters(found) == outcome


@pytest.mark.parametrize("state", REST)
def test_a_reader_is_empty_only_between_requests(state: str) -> None:
    assert reader_in(state).is_empty == (state in ("between requests", "after a body"))


def test_a_new_reader_is_empty_before_anything_has_come() -> None:
    assert RequestReader().is_empty
    assert RequestReader().next_event() is None


def test_a_refused_reader_stays_refused_whatever_comes() -> None:
    reader = reader_in("refused: modifier")
    for _ in range(3):
        reader.receive(HELLO_WORLD)
        found: list[Event] = []
        collect(reader, iter(()), found)
        assert found == [Reason.MALFORMED]


# --- laws ---

requests = st.builds(
    packet,
    st.sampled_from([17, 100]),
    st.binary(max_size=40),
    st.integers(0, 255),
)
streams = st.lists(st.tuples(requests, st.binary(max_size=30)), max_size=5)


@given(streams, st.data())
def test_however_a_stream_is_cut_its_requests_and_bodies_are_the_same(
    stream: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    whole = b"".join(request + body for request, body in stream)
    expected: list[Event] = []
    for request, body in stream:
        expected += [Request(request[0], request[3], request[4:]), *([body] if body else [])]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    reader = RequestReader()
    lengths = iter([len(body) for _, body in stream])
    found: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        reader.receive(whole[start:end])
        assert collect(reader, lengths, found)
    assert found == expected
    assert reader.is_empty


first_bytes = st.sampled_from([b"", b"\x11", b"\x64", b"\x11\x02\x00", HELLO_WORLD])


@given(st.tuples(first_bytes, st.binary(max_size=60)).map(b"".join), st.integers(1, 9), st.sampled_from([0, 10, 65535]))
def test_garbage_is_requests_or_refused_and_the_fragmentation_changes_nothing(data: bytes, size: int, limit: int) -> None:
    whole = feed(data, 1 << 30, limit=limit)
    assert feed(data, size, limit=limit) == whole
    assert not [event for event in whole[:-1] if isinstance(event, Reason)]
    requests = [event for event in whole if isinstance(event, Request)]
    assert data.startswith(b"".join(packet(*found[::2], found[1]) for found in requests))


def test_the_repr_tells_where_the_connection_stands() -> None:
    assert repr(reader_in("half a body")) == "<RequestReader 0 bytes buffered, 2 of a body to come>"
    assert repr(reader_in("a header")) == "<RequestReader 4 bytes buffered, 0 of a body to come>"
