"""batch: many tasks in one file, and what recovery finds in it when it is cut, flipped or zeroed."""

import struct
import zlib
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import garbage, variables
from wire import HELLO_BLOCK, HELLO_WORLD, block, packet

from spoolnode.protocol import batch, names, spoolfile
from spoolnode.protocol.batch import Damage, Record, encode_header, encode_record, read_header, read_records
from spoolnode.protocol.errors import BadPacket

NUMBER = 7


class Task(NamedTuple):
    """The contents of a record."""

    block: bytes
    body: bytes
    accepted: float
    due: float
    rank: int
    transit: batch.Transit = batch.NO_TRANSIT
    function: bytes = b""


TASKS = [
    Task(HELLO_BLOCK, b"", 1.7e9, 0.0, names.LAST),
    Task(block({b"k": b""}), b"a body", 1.7e9 + 0.25, 1.8e9, 0),
    Task(HELLO_BLOCK, b"12", 1.7e9 + 1, 0.0, 5),
    Task(block({b"a": b"b", b"c": b"d" * 9}), b"\0" * 11, 1.7e9 + 2, 0.5, names.LAST),
    Task(
        block({b"a": b"b", b"spool_func": b"shop:mail"}), b"1", 1.7e9 + 3, 0.0, 7, batch.Transit(batch.ARRIVED, 9), b"shop:mail"
    ),
    Task(block({b"spool_func": b"pay"}), b"", 1.7e9 + 4, 0.0, 7, function=b"pay"),
]
"""Six tasks, of which the first four need 6, 1, 4 and 3 bytes to the next multiple of 8, and the last two name a function."""


def file_of(tasks: list[Task], number: int = NUMBER, allocated: int = 64) -> bytes:
    """A whole batch as it lies on disk, with `allocated` bytes that were never written."""
    return encode_header(number) + b"".join(encode_record(number, *task) for task in tasks) + bytes(allocated)


def spans(tasks: list[Task]) -> list[tuple[int, int, int]]:
    """Where each record begins, where its payload ends, where the next record begins."""
    found, position = [], batch.HEADER_SIZE
    for task in tasks:
        end = position + batch.RECORD_SIZE + 4 + len(task.block) + len(task.body)
        following = (end + 7) // 8 * 8
        found.append((position, end, following))
        position = following
    return found


def whole(data: bytes, number: int = NUMBER) -> list[Record]:
    return [item for item in read_records(data, number) if isinstance(item, Record)]


def damages(data: bytes, number: int = NUMBER) -> list[Damage]:
    return [item for item in read_records(data, number) if isinstance(item, Damage)]


FILE = file_of(TASKS)
SPANS = spans(TASKS)
RECORDS = whole(FILE)

# --- the layout ---


def test_a_header_is_laid_out_as_documented() -> None:
    front = b"SPOOLBAT" + struct.pack("<HHIQ", 3, 0, 0, NUMBER)
    assert encode_header(NUMBER) == front + struct.pack("<II", zlib.crc32(front), 0)
    assert batch.HEADER_SIZE == 32


def test_a_record_is_laid_out_as_documented() -> None:
    payload = HELLO_WORLD + b"12"
    covered = struct.pack("<IddQ", 20, 1.5, 2.5, 3)
    crc = zlib.crc32(payload, zlib.crc32(covered, NUMBER))
    expected = struct.pack("<IIQIIddQ", 0, 0, 0, 20, crc, 1.5, 2.5, 3) + payload + bytes(4)
    assert encode_record(NUMBER, HELLO_BLOCK, b"12", 1.5, 2.5, 3) == expected


def test_a_record_says_where_the_name_of_its_function_is() -> None:
    variables = block({b"a": b"b", b"spool_func": b"shop:mail"})
    payload = packet(17, variables)
    start = variables.index(b"shop:mail")
    covered = zlib.crc32(struct.pack("<IddQ", len(payload), 1.5, 2.5, 3), NUMBER)
    crc = zlib.crc32(payload, zlib.crc32(struct.pack("<IHHQ", 0, start, 9, 0), covered))
    front = struct.pack("<IHHQIIddQ", 0, start, 9, 0, len(payload), crc, 1.5, 2.5, 3)
    written = encode_record(NUMBER, variables, b"", 1.5, 2.5, 3, function=b"shop:mail")
    assert written == (front + payload).ljust(len(written), b"\0")


@pytest.mark.parametrize("length", range(20))
def test_every_record_and_so_every_payload_begins_at_a_multiple_of_8(length: int) -> None:
    assert len(encode_record(NUMBER, HELLO_BLOCK, b"x" * length, 0.0, 0.0, 0)) % 8 == 0
    assert batch.HEADER_SIZE % 8 == batch.RECORD_SIZE % 8 == 0


def test_the_payload_of_a_record_is_a_spool_file() -> None:
    for record, task in zip(RECORDS, TASKS, strict=True):
        payload = FILE[record.offset : record.offset + record.length]
        assert payload == packet(17, task.block) + task.body
        assert spoolfile.parse(payload).body == task.body


def test_the_length_of_a_payload_stands_before_it() -> None:
    for record in RECORDS:
        assert batch.payload_length(FILE, record.offset) == record.length
        assert batch.payload_length(memoryview(FILE), record.offset) == record.length


# --- whole files ---


def test_an_empty_batch_has_no_records() -> None:
    assert list(read_records(encode_header(NUMBER), NUMBER)) == []
    assert list(read_records(file_of([], allocated=4096), NUMBER)) == []


def test_every_task_is_found_in_order_with_its_times_and_its_rank() -> None:
    expected = [
        Record(
            *(start + batch.RECORD_SIZE, end - start - batch.RECORD_SIZE),
            *(task.accepted, task.due, task.rank),
            *(17, 0),
            *task.transit,
            task.function,
        )
        for task, (start, end, _) in zip(TASKS, SPANS, strict=True)
    ]
    assert list(read_records(FILE, NUMBER)) == expected


times = st.floats(0, 1e11)
tasks = st.builds(
    lambda *facts: Task(*facts, function=facts[0][2:5]),  # any bytes of its variables
    variables.map(block), st.binary(max_size=60), times, times, st.integers(0, 2**64 - 1),
)  # fmt: skip
numbers = st.integers(0, 2**64 - 1)


@given(st.lists(tasks, max_size=5), numbers, st.integers(0, 100))
def test_what_is_written_is_found_the_same_whatever_was_allocated(sent: list[Task], number: int, allocated: int) -> None:
    data = file_of(sent, number, allocated)
    assert read_header(data) == number
    found = list(read_records(data, number))
    assert all(isinstance(item, Record) for item in found)
    assert [
        Task(
            data[record.offset + 4 : record.offset + 4 + len(task.block)],
            data[record.offset + 4 + len(task.block) : record.offset + record.length],
            record.accepted,
            record.due,
            record.rank,
            function=record.function or b"",
        )
        for record, task in zip(whole(data, number), sent, strict=True)
    ] == sent


def test_a_large_record_is_found() -> None:
    sent = [Task(b"x" * 65535, b"y" * 300_000, 1.0, 2.0, 3), TASKS[0]]
    assert len(whole(file_of(sent))) == 2


def test_the_smallest_record_is_found_at_the_very_end() -> None:
    data = file_of([TASKS[0], Task(b"", b"", 1.0, 2.0, 3)], allocated=0)[:-4]  # without its padding
    assert [record.length for record in whole(data)] == [18, 4]


def test_a_record_within_the_body_of_a_whole_one_is_no_task() -> None:
    inner = encode_record(NUMBER, *TASKS[0])
    for shift in range(8):
        sent = [TASKS[1], Task(HELLO_BLOCK, b"x" * shift + inner + inner, 1.0, 0.0, 0), TASKS[2]]
        data = file_of(sent)
        assert [record.offset - batch.RECORD_SIZE for record in read_records(data, NUMBER) if isinstance(record, Record)] == [
            start for start, _, _ in spans(sent)
        ]
        assert not damages(data)


# --- the version before ---


def earlier(tasks: list[Task]) -> bytes:
    """The same batch as version 2 wrote it: without functions."""
    front = b"SPOOLBAT" + struct.pack("<HHIQ", 2, 0, 0, NUMBER)
    header = front + struct.pack("<II", zlib.crc32(front), 0)
    return header + b"".join(encode_record(NUMBER, *task._replace(function=b"")) for task in tasks) + bytes(64)


def test_a_batch_of_version_2_has_every_task_and_does_not_say_their_functions() -> None:
    data = earlier(TASKS)
    assert read_header(data) == NUMBER
    assert list(read_records(data, NUMBER)) == [record._replace(function=None) for record in RECORDS]


def test_a_record_that_says_its_function_is_damage_in_a_batch_of_version_2() -> None:
    with_function, without = encode_record(NUMBER, *TASKS[5]), encode_record(NUMBER, *TASKS[0])
    data = earlier([]).rstrip(b"\0").ljust(batch.HEADER_SIZE, b"\0") + with_function + without
    assert damages(data) == [Damage(batch.HEADER_SIZE, batch.HEADER_SIZE + len(with_function))]
    assert len(whole(data)) == 1


@pytest.mark.parametrize(("start", "length"), [(0, 17), (16, 1), (65535, 1), (1, 0), (1, 65535)])
def test_a_name_that_would_lie_outside_the_variables_is_no_record(start: int, length: int) -> None:
    record = bytearray(encode_record(NUMBER, *TASKS[0]))
    size = len(TASKS[0].block)
    record[4:8] = struct.pack("<HH", start, length)
    covered = zlib.crc32(struct.pack("<IddQ", size + 4, *TASKS[0][2:5]), NUMBER)
    crc = zlib.crc32(struct.pack("<IHHQ", 0, start, length, 0), covered)
    record[20:24] = struct.pack("<I", zlib.crc32(record[batch.RECORD_SIZE : batch.RECORD_SIZE + size + 4], crc))
    assert whole(encode_header(NUMBER) + bytes(record)) == []


# --- the header ---


def test_a_header_is_read_only_when_it_is_whole() -> None:
    header = encode_header(NUMBER)
    for cut in range(len(header)):
        with pytest.raises(BadPacket, match=f"{cut} bytes; its header alone takes 32"):
            read_header(header[:cut])
    assert read_header(header) == NUMBER


@pytest.mark.parametrize("tail", [b"\0", b"x", encode_record(NUMBER, *TASKS[0]), encode_header(8)])
def test_a_tail_changes_nothing_in_a_header(tail: bytes) -> None:
    assert read_header(encode_header(NUMBER) + tail) == NUMBER


@pytest.mark.parametrize("bit", range(8))
def test_a_header_with_any_bit_flipped_is_a_bad_packet(bit: int) -> None:
    header = encode_header(NUMBER)
    for at in range(28):  # the last four are unused
        with pytest.raises(BadPacket, match="damaged"):
            read_header(flipped(header, at, 1 << bit))


@pytest.mark.parametrize("version", [0, 1, 4, 255, 65535])
def test_another_version_is_a_bad_packet_that_tells_all_versions(version: int) -> None:
    front = b"SPOOLBAT" + struct.pack("<HHIQ", version, 0, 0, NUMBER)
    with pytest.raises(BadPacket, match=f"version {version}; this spoolnode reads versions 2 and 3"):
        read_header(front + struct.pack("<II", zlib.crc32(front), 0))


@pytest.mark.parametrize(
    "data", [HELLO_WORLD * 2, bytes(64), b"\xff" * 64, b"SPOOLBAT" * 8], ids=["spool file", "0", "1", "magic"]
)
def test_another_file_is_a_bad_packet(data: bytes) -> None:
    with pytest.raises(BadPacket):
        read_header(data)


@given(garbage | garbage.map(lambda data: b"SPOOLBAT\x03\0" + data))
def test_garbage_for_a_header_is_a_bad_packet(data: bytes) -> None:
    with pytest.raises(BadPacket):
        read_header(data)


# --- damage ---


def flipped(data: bytes, at: int, bits: int = 0xFF) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


def touched(data: bytes) -> list[bool]:
    """For each record of FILE whether `data` has other bytes where its crc looks: not progress, not padding."""
    found = []
    for start, end, _ in SPANS:
        progress = (start + batch.RECORD_SIZE + spoolfile.STATE_AT, start + batch.RECORD_SIZE + spoolfile.ATTEMPTS_AT)
        found.append(any(data[at : at + 1] != FILE[at : at + 1] for at in range(start, end) if at not in progress))
    return found


def check(data: bytes) -> None:
    """Each record untouched is found, each touched one is not, and each run of those before a whole one is reported."""
    bad = touched(data)
    assert [record.offset for record in whole(data)] == [
        start + batch.RECORD_SIZE for (start, _, _), is_bad in zip(SPANS, bad, strict=True) if not is_bad
    ]
    expected: list[Damage] = []
    start: int | None = None
    for (begin, _, _), is_bad in zip(SPANS, bad, strict=True):
        if is_bad:
            start = begin if start is None else start
        elif start is not None:
            expected.append(Damage(start, begin))
            start = None
    assert damages(data) == expected


def test_a_file_cut_at_any_byte_has_the_records_before_the_cut_and_no_damage() -> None:
    for cut in range(batch.HEADER_SIZE, len(FILE) + 1):
        data = FILE[:cut]
        assert list(read_records(data, NUMBER)) == [
            record for record, (_, end, _) in zip(RECORDS, SPANS, strict=True) if end <= cut
        ]


def test_a_file_torn_at_any_byte_and_zeros_after_it_has_the_records_before_the_tear_and_no_damage() -> None:
    for cut in range(batch.HEADER_SIZE, len(FILE) + 1):
        data = FILE[:cut] + bytes(len(FILE) - cut)
        check(data)
        assert not damages(data)


@pytest.mark.parametrize("bits", [1 << bit for bit in range(8)] + [0xFF])
def test_with_any_byte_flipped_every_other_record_is_found_and_the_damage_is_reported(bits: int) -> None:
    for at in range(batch.HEADER_SIZE, SPANS[-1][2]):
        check(flipped(FILE, at, bits))


@pytest.mark.parametrize("size", [1, 2, 4, 7, 8, 16, 33, 64, 100, 200])
@pytest.mark.parametrize("value", [b"\0", b"\xff"], ids=["zeros", "ones"])
def test_with_any_range_overwritten_every_other_record_is_found_and_the_damage_is_reported(size: int, value: bytes) -> None:
    for start in range(batch.HEADER_SIZE, SPANS[-1][2]):
        end = min(start + size, SPANS[-1][2])
        check(FILE[:start] + value * (end - start) + FILE[end:])


@given(st.lists(st.tuples(st.integers(batch.HEADER_SIZE, len(FILE) - 65), st.binary(min_size=1, max_size=40)), max_size=4))
def test_with_anything_written_anywhere_every_other_record_is_found_and_the_damage_is_reported(
    writes: list[tuple[int, bytes]],
) -> None:
    data = bytearray(FILE)
    for at, junk in writes:
        data[at : at + len(junk)] = junk
    data[SPANS[-1][2] :] = bytes(64)
    check(bytes(data[: len(FILE)]))


def test_the_report_of_damage_covers_the_record_and_nothing_whole() -> None:
    data = flipped(FILE, SPANS[1][0])
    assert list(read_records(data, NUMBER)) == [
        RECORDS[0],
        Damage(SPANS[1][0], SPANS[2][0]),
        *RECORDS[2:],
    ]


def test_records_damaged_one_after_the_other_are_one_damage() -> None:
    data = flipped(flipped(FILE, SPANS[1][0] + 40), SPANS[2][0] + 40)
    assert damages(data) == [Damage(SPANS[1][0], SPANS[3][0])]


def test_records_damaged_apart_are_two_damages() -> None:
    data = flipped(flipped(FILE, SPANS[0][0]), SPANS[2][0])
    assert damages(data) == [Damage(SPANS[0][0], SPANS[1][0]), Damage(SPANS[2][0], SPANS[3][0])]


def test_a_damaged_end_is_passed_over_since_it_was_never_acknowledged() -> None:
    for junk in (b"\xff" * 64, HELLO_WORLD * 4, encode_record(NUMBER, *TASKS[0])[:-8], encode_header(NUMBER) * 2):
        data = file_of(TASKS, allocated=0) + junk
        assert list(read_records(data, NUMBER)) == RECORDS
        assert list(read_records(data + bytes(64), NUMBER)) == RECORDS


def test_a_length_that_lies_leads_nowhere() -> None:
    start = SPANS[1][0]
    for length in [0, 1, 3, 4, 10, 38, 40, 41, 80, 200, len(FILE), 2**31, 2**32 - 1]:
        check(FILE[:start] + struct.pack("<I", length) + FILE[start + 4 :])


@given(garbage, numbers)
def test_garbage_after_a_header_has_no_records(data: bytes, number: int) -> None:
    assert list(read_records(encode_header(number) + data, number)) == []


# --- progress ---


@pytest.mark.parametrize("value", range(256))
def test_progress_changed_in_place_keeps_every_record_and_only_the_finished_mark_ends_a_task(value: int) -> None:
    data = bytearray(FILE)
    for record in RECORDS:
        data[record.offset + spoolfile.STATE_AT] = value
        data[record.offset + spoolfile.ATTEMPTS_AT] = 255 - value
    state = value if value in (spoolfile.FINISHED, spoolfile.VOID) else spoolfile.WAITING
    assert list(read_records(bytes(data), NUMBER)) == [record._replace(state=state, attempts=255 - value) for record in RECORDS]


def test_a_record_of_the_same_number_with_another_salt_never_passes() -> None:
    other = batch.encode_header(NUMBER, salt=1) + FILE[batch.HEADER_SIZE :]
    assert list(read_records(other, NUMBER)) == []


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), min_size=6, max_size=6), st.integers(0, 5))
def test_a_damaged_record_is_not_saved_by_its_progress(progress: list[tuple[int, int]], which: int) -> None:
    data = bytearray(FILE)
    for record, (state, attempts) in zip(RECORDS, progress, strict=True):
        data[record.offset + spoolfile.STATE_AT] = state
        data[record.offset + spoolfile.ATTEMPTS_AT] = attempts
    data[RECORDS[which].offset + 5] ^= 1
    check(bytes(data))


# --- other batches ---


@given(st.lists(tasks, min_size=1, max_size=3), numbers, numbers)
def test_a_record_of_another_batch_never_passes(sent: list[Task], number: int, other: int) -> None:
    assume(number % 2**32 != other % 2**32)  # as far as the seed of a crc can tell
    assert list(read_records(file_of(sent, number), other)) == []


def test_what_another_batch_left_in_the_space_of_this_one_is_not_found() -> None:
    reused = encode_header(NUMBER) + encode_record(NUMBER, *TASKS[0]) + file_of(TASKS[1:], NUMBER - 1)[batch.HEADER_SIZE :]
    assert list(read_records(reused, NUMBER)) == RECORDS[:1]


def test_a_record_of_another_batch_between_ours_is_damage() -> None:
    foreign = encode_record(NUMBER + 1, *TASKS[0])
    data = encode_header(NUMBER) + foreign + encode_record(NUMBER, *TASKS[1])
    assert damages(data) == [Damage(batch.HEADER_SIZE, batch.HEADER_SIZE + len(foreign))]
    assert len(whole(data)) == 1


# --- laws ---


@given(
    st.lists(
        st.one_of(tasks.map(lambda task: encode_record(NUMBER, *task)), st.binary(max_size=48), st.just(bytes(24))),
        max_size=6,
    ).map(b"".join)
)
def test_whatever_lies_in_a_file_records_and_damages_come_in_order_and_do_not_overlap(content: bytes) -> None:
    data = encode_header(NUMBER) + content
    position = batch.HEADER_SIZE
    for item in read_records(data, NUMBER):
        if isinstance(item, Damage):
            assert position == item.start < item.end
            position = item.end
        else:
            assert item.offset == position + batch.RECORD_SIZE
            assert item.length >= 4
            position = (item.offset + item.length + 7) // 8 * 8
    assert position <= len(data) + 7


def test_a_payload_found_is_never_a_short_spool_file() -> None:
    forged = Task(b"", b"", 0.0, 0.0, 0)
    record = bytearray(encode_record(NUMBER, *forged))
    record[batch.RECORD_SIZE + 1] = 1  # announces a byte of variables that is not there
    covered = struct.pack("<IddQ", 4, 0.0, 0.0, 0)
    as_written = record[batch.RECORD_SIZE : batch.RECORD_SIZE + 4]
    record[20:24] = struct.pack("<I", zlib.crc32(as_written, zlib.crc32(covered, NUMBER)))
    assert whole(encode_header(NUMBER) + bytes(record)) == []


# --- links ---

NUMBERED = [
    *(batch.Transit(batch.HERE, 0), batch.Transit(batch.OUTBOUND, 1), batch.Transit(batch.OUTBOUND, (7 << 32) + 1)),
    *(batch.Transit(batch.ARRIVED, 2**64 - 1), batch.Transit(batch.OUTBOUND, 5), batch.Transit(batch.ARRIVED, 6)),
]


def numbered_file() -> bytes:
    """The tasks of all kinds, with and without a function."""
    records = [encode_record(NUMBER, *task._replace(transit=link)) for task, link in zip(TASKS, NUMBERED, strict=True)]
    return encode_header(NUMBER) + b"".join(records) + bytes(64)


def test_a_record_of_a_link_is_laid_out_as_documented() -> None:
    payload = HELLO_WORLD + b"12"
    covered = struct.pack("<IddQ", 20, 1.5, 2.5, 3) + struct.pack("<IIQ", 1, 0, 77)
    crc = zlib.crc32(payload, zlib.crc32(covered, NUMBER))
    expected = struct.pack("<IIQIIddQ", 1, 0, 77, 20, crc, 1.5, 2.5, 3) + payload + bytes(4)
    assert encode_record(NUMBER, HELLO_BLOCK, b"12", 1.5, 2.5, 3, batch.Transit(batch.OUTBOUND, 77)) == expected


def test_version_2_is_read_from_its_bytes_for_ever() -> None:
    data = bytes.fromhex(
        "53504f4f4c42415402000000000000000700000000000000"  # SPOOLBAT, version 2, number 7
        "3dc6273600000000"
        "02000000000000004d00000000000000"  # it came over a link, number 77
        "12000000a5a905c600000040fc54d94100000000000000000000000000000080"  # 18 bytes, crc, 1.7e9, 0.0, 1 << 63
        "110e0000050068656c6c6f0500776f726c64000000000000"  # {hello: world}
    )
    assert read_header(data) == 7
    assert list(read_records(data, 7)) == [Record(80, 18, 1.7e9, 0.0, 1 << 63, 17, 0, batch.ARRIVED, 77, None)]


def test_version_3_is_read_from_its_bytes_for_ever() -> None:
    data = bytes.fromhex(
        "53504f4f4c42415403000000000000000700000000000000"  # SPOOLBAT, version 3, number 7
        "ac574f9800000000"
        "000000000e0004000000000000000000"  # a function of 4 bytes, 14 bytes into the variables
        "16000000e30df96c00000040fc54d94100000000000000000000000000000080"  # 22 bytes, crc, 1.7e9, 0.0, 1 << 63
        "111200000a0073706f6f6c5f66756e6304006d61696c0000"  # {spool_func: mail}
    )
    assert read_header(data) == 7
    assert list(read_records(data, 7)) == [Record(80, 22, 1.7e9, 0.0, 1 << 63, 17, 0, function=b"mail")]


def test_kinds_and_link_numbers_are_found_as_they_were_written() -> None:
    data = numbered_file()
    found = whole(data)
    assert [(record.kind, record.number) for record in found] == NUMBERED
    assert [batch.sequence_number(data, record.offset) for record in found] == [link for _, link in NUMBERED]
    assert [batch.payload_length(data, record.offset) for record in found] == [record.length for record in found]


@given(st.sampled_from([batch.OUTBOUND, batch.ARRIVED]), numbers)
def test_every_link_number_is_found(kind: int, link: int) -> None:
    data = encode_header(NUMBER) + encode_record(NUMBER, *TASKS[0]._replace(transit=batch.Transit(kind, link)))
    assert [(record.kind, record.number) for record in whole(data)] == [(kind, link)]


@pytest.mark.parametrize("bits", [1 << bit for bit in range(8)] + [0xFF])
def test_with_any_bit_of_kind_or_number_flipped_the_record_is_damage_and_no_task_of_another_link(bits: int) -> None:
    data = numbered_file()
    expected = whole(data)
    for which, (start, _, _) in enumerate(SPANS):
        for at in range(start, start + 16):
            found = whole(flipped(data, at, bits))
            assert found == expected[:which] + expected[which + 1 :]


def test_a_kind_that_nobody_knows_is_no_record_however_well_it_sums_up() -> None:
    for kind, link in ((3, 1), (2**32 - 1, 1), (batch.HERE, 5)):
        record = bytearray(encode_record(NUMBER, *TASKS[0]._replace(transit=batch.Transit(kind, link))))
        if not kind:
            record[8:16] = struct.pack("<Q", link)
        assert whole(encode_header(NUMBER) + bytes(record)) == []


@pytest.mark.parametrize("value", [spoolfile.VOID, spoolfile.FINISHED])
def test_what_is_void_or_finished_keeps_its_kind_and_its_number(value: int) -> None:
    data = bytearray(numbered_file())
    before = whole(bytes(data))
    for record in before:
        data[record.offset + spoolfile.STATE_AT] = value
    assert whole(bytes(data)) == [record._replace(state=value) for record in before]


def test_void_finished_and_waiting_are_three_different_marks() -> None:
    assert len({spoolfile.VOID, spoolfile.FINISHED, spoolfile.WAITING}) == 3
