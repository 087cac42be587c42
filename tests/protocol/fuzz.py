"""Whatever the bytes, each parser of spoolnode.protocol takes them or raises the one exception that it documents, the
same for every fragmentation, and what it has taken says exactly what the bytes say.

    python tests/protocol/fuzz.py [SECONDS] [SEED]

Random bytes and mutations of a small corpus; nothing needed but spoolnode itself. A failure prints the seed, the target
and the bytes, and leaves with the traceback.
"""

import random
import sys
import time
from collections.abc import Callable

from spoolnode.protocol import answer, batch, hello, names, packet, reader, request, spoolfile, values
from spoolnode.protocol.errors import BadPacket, Reason, Refused

Target = Callable[[bytes, random.Random], None]

NUMBER = 7
BLOCK = packet.encode_variables([(b"hello", b"world"), (b"priority", b"5"), (b"spool_values", values.pack({"n": [1, None]}))])
WEB = packet.encode_variables([(b"REQUEST_METHOD", b"POST"), (b"CONTENT_LENGTH", b"4"), (b"HTTP_HOST", b"h"), (b"at", b"1.5")])
PEER = packet.encode_variables(
    [
        (b"n", b"1"),
        (b"spool_seq", b"4294967297"),
        (b"spool_id", b"0123456789ab_7_64"),
        (b"spool_to", b"beta"),
        (b"spool_hops", b"2"),
    ]
)
FUNCTION = packet.encode_variables([(b"spool_func", b"shop:mail"), (b"n", b"1")])
HELLO = hello.encode(hello.Hello("0123456789ab", "alpha", "default", "beta", "aa55", ("10.0.0.1:3031", "[::1]:3031"), 77))
REFUSAL = Refused(Reason.BUSY, "later")
CORPUS = [
    BLOCK,
    WEB,
    packet.packet(17, BLOCK) + packet.packet(100, b"", 1) + packet.packet(17, WEB, 1) + b"body",
    packet.packet(17, BLOCK) + b"a body",
    answer.STORED + answer.stored("node_7_64") + answer.refused(REFUSAL) + answer.status_pong({"name": "alpha", "load": 0.5}),
    answer.stored("node_7_64")[4:],
    answer.refused(REFUSAL)[4:],
    answer.http_refused(REFUSAL),
    values.pack({"n": 1, "list": ["x", {"b": b"y"}], "f": 1.5}),
    batch.encode_header(NUMBER)
    + batch.encode_record(NUMBER, BLOCK, b"", 1.7e9, 0.0, names.LAST)
    + batch.encode_record(NUMBER, WEB, b"body", 1.7e9, 1.8e9, 5)
    + batch.encode_record(NUMBER, BLOCK, b"", 1.7e9, 0.0, 5, batch.Transit(batch.OUTBOUND, 4294967297))
    + batch.encode_record(NUMBER, PEER, b"b", 1.7e9, 0.0, 5, batch.Transit(batch.ARRIVED, 4294967297))
    + batch.encode_record(NUMBER, FUNCTION, b"", 1.7e9, 0.0, names.LAST, function=b"shop:mail")
    + bytes(32),
    PEER,
    HELLO,
    HELLO[4:],
    HELLO + packet.packet(17, PEER, 1),
    b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(32),
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"tag:gpu",
    b"[::1]:3031",
    b"1700000000.25",
    b"",
]

# --- targets: each states what it promises ---


def variables_are_a_bad_packet_or_encode_to_the_same_bytes(data: bytes, _: random.Random) -> None:
    try:
        found = packet.decode_variables(data)
    except BadPacket:
        return
    assert packet.encode_variables(found) == data


def terms_are_refused_or_belong_to_a_readable_block(data: bytes, _: random.Random) -> None:
    try:
        terms = request.read_terms(data, local=False)
    except Refused:
        return
    finally:
        request.looks_like_web(data)
    packet.decode_variables(data)
    assert request.read_terms(data, local=True) == terms
    assert request.read_terms(data, local=False, peer=True) == terms
    assert (terms.number, terms.hops) == (0, 0)
    assert not terms.destination or names.is_destination(terms.destination)


def terms_of_a_peer_are_refused_or_harmless(data: bytes, _: random.Random) -> None:
    try:
        terms = request.read_terms(data, local=False, peer=True)
    except Refused:
        return
    said = dict(packet.decode_variables(data))
    assert 0 <= terms.number <= names.MAX_NUMBER
    assert 0 <= terms.hops < 1000
    assert {key for key in said if key.startswith(names.OURS)} <= names.FROM_PEERS
    assert b"args" not in said
    assert names.is_task_id(said.get(names.ID, b"-").decode("ascii", "replace"))
    assert not said.get(names.TO) or names.is_destination(said[names.TO].decode("ascii", "replace"))


def a_hello_is_refused_or_of_harmless_parts(data: bytes, _: random.Random) -> None:
    try:
        found = hello.read_hello(data)
    except Refused:
        return
    assert names.is_node_id(found.id)
    assert names.is_node_name(found.name)
    assert names.is_node_name(found.cluster)
    assert not found.to or names.is_destination(found.to)
    assert all(names.is_address(address) for address in found.addresses)
    assert 0 <= found.low_watermark <= names.MAX_NUMBER
    found = found._replace(instance="")  # compared, never shown: any bytes will do
    assert hello.read_hello(hello.encode(found)[4:]) == found


def a_spool_file_is_a_bad_packet_or_says_what_its_bytes_say(data: bytes, _: random.Random) -> None:
    try:
        found = spoolfile.parse(data)
    except BadPacket:
        return
    block = packet.encode_variables(found.variables)
    assert packet.packet(found.state, block, found.attempts) + found.body == data
    try:
        task = values.decode_task(found.variables, found.body, "name")
    except BadPacket:
        return
    assert values.decode_block(block, found.body, "name") == task
    assert all(isinstance(key, str) for key in task)


def a_header_is_a_bad_packet_or_tells_its_number(data: bytes, _: random.Random) -> None:
    try:
        number = batch.read_header(data)
    except BadPacket:
        return
    assert data.startswith(batch.encode_header(number)[:-4])


def records_and_damages_come_in_order_and_never_raise(data: bytes, _: random.Random) -> None:
    position = batch.HEADER_SIZE
    for item in batch.read_records(data, NUMBER):
        if isinstance(item, batch.Damage):
            assert position == item.start < item.end <= len(data)
            position = item.end
        else:
            assert item.offset == position + batch.RECORD_SIZE
            assert item.kind in (batch.HERE, batch.OUTBOUND, batch.ARRIVED)
            assert item.kind or not item.number
            assert item.offset + item.length <= len(data)
            position = (item.offset + item.length + 7) // 8 * 8


def an_answer_is_an_id_refused_or_a_bad_packet(data: bytes, chance: random.Random) -> None:
    try:
        task_id = answer.read_answer(chance.randrange(3), data)
    except (Refused, BadPacket):
        return
    assert names.is_task_id(task_id)


def a_map_is_a_bad_packet_or_has_names_for_keys(data: bytes, _: random.Random) -> None:
    for read in (answer.read_status, values.unpack):
        try:
            found = read(data)
        except BadPacket:
            continue
        assert all(isinstance(key, str) for key in found)


def a_name_is_refused_or_harmless(data: bytes, _: random.Random) -> None:
    for read in (names.read_priority, names.read_at, names.read_timeout, lambda value: names.read_length("x", value)):
        try:
            number = read(data)
        except Refused:
            continue
        assert 0 <= number <= names.LAST
    for read, most in ((names.read_number, names.MAX_NUMBER), (names.read_hops, 999)):
        try:
            number = read(data)
        except Refused:
            continue
        assert 0 <= number <= most
    try:
        destination = names.read_destination(data)
    except Refused:
        return
    assert not set(destination) & set("/\0\n ")
    assert len(destination) <= 255


def requests_are_the_same_in_every_fragmentation(data: bytes, chance: random.Random) -> None:
    limit = chance.choice([0, 14, 100, 65535])
    body = chance.choice([0, 0, 1, 5, 40])
    assert _requests(_cut(data, chance), limit, body) == _requests([data], limit, body)


def _requests(come: list[bytes], limit: int, body: int) -> list[object]:
    connection = reader.RequestReader(limit)
    found: list[object] = []
    collected = b""
    try:
        for piece in come:
            connection.receive(piece)
            while (event := connection.next_event()) is not None:
                if isinstance(event, reader.Request):
                    found += [collected, event]
                    collected = b""
                    connection.expect_body(body)
                else:
                    collected += event.data
    except Refused as refusal:
        found.append(refusal.text)
    return [*found, collected]


def answers_are_the_same_in_every_fragmentation(data: bytes, chance: random.Random) -> None:
    assert _answers(_cut(data, chance)) == _answers([data])


def _answers(come: list[bytes]) -> list[object]:
    connection = answer.AnswerReader()
    found: list[object] = []
    try:
        for piece in come:
            for item in connection.answers(piece):
                found.append(item)
    except BadPacket as error:
        found.append(str(error))
    return found


TARGETS: list[Target] = [
    variables_are_a_bad_packet_or_encode_to_the_same_bytes,
    terms_are_refused_or_belong_to_a_readable_block,
    terms_of_a_peer_are_refused_or_harmless,
    a_hello_is_refused_or_of_harmless_parts,
    a_spool_file_is_a_bad_packet_or_says_what_its_bytes_say,
    a_header_is_a_bad_packet_or_tells_its_number,
    records_and_damages_come_in_order_and_never_raise,
    an_answer_is_an_id_refused_or_a_bad_packet,
    a_map_is_a_bad_packet_or_has_names_for_keys,
    a_name_is_refused_or_harmless,
    requests_are_the_same_in_every_fragmentation,
    answers_are_the_same_in_every_fragmentation,
]

# --- input ---


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    """`data` in pieces: byte by byte, or cut in a few places."""
    if chance.random() < 0.3:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(chance.choices(range(len(data) + 1), k=4))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """`data` with something wrong in it."""
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice([1, 1, 2, 4, 8, 32]))
    junk = chance.choice(
        [
            chance.randbytes(to - at),
            bytes(to - at),
            b"\xff" * (to - at),
            chance.choice([b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\x00\x80", b"\x11", b"\x64"]),
            chance.choice(CORPUS),
            data[at:to] * 2,
            b"",
        ]
    )
    return data[:at] + junk + data[chance.choice([at, to]) :]


def draw(chance: random.Random) -> bytes:
    """Pure chance one time in four, else a piece of the corpus with a few things wrong."""
    if chance.random() < 0.25:
        return chance.randbytes(chance.choice([1, 2, 4, 8, 20, 60, 200]))
    data = chance.choice(CORPUS)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3, 8])):
        data = mutated(data, chance)[:4096]
    return data


def run(seconds: float, seed: int) -> int:
    """Feeds the targets for so long; the number of inputs. The same seed draws the same inputs."""
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = draw(chance)
        for target in TARGETS:
            try:
                target(data, chance)
            except BaseException:
                sys.stderr.write(f"seed {seed}, input {count}, {target.__name__}: {data!r}\n")
                raise
        count += 1
    return count


def main(arguments: list[str]) -> None:
    seconds = float(arguments[0]) if arguments else 10.0
    seed = int(arguments[1]) if len(arguments) > 1 else random.SystemRandom().randrange(1 << 32)
    count = run(seconds, seed)
    sys.stdout.write(f"{count} inputs to {len(TARGETS)} targets in {seconds:g} s, seed {seed}: all well\n")


if __name__ == "__main__":
    main(sys.argv[1:])
