"""names: everything that comes from outside and may touch a path or a table is validated here."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import task_ids

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask, Reason, Refused

NOT_NUMBERS = [b"x", b"-1", b"+1", b" 1", b"1 ", b"1\n", b"\n1", b"1\0", b"0x1", b"1e3", b"1_0", b"nan", b"inf", b"."]
NOT_NUMBERS += [
    "\N{FULLWIDTH DIGIT ONE}".encode(),
    "\N{SUPERSCRIPT TWO}".encode(),
    b"\xff",
    b"../x",
    b"/etc",
    b"1/2",
    b"1;2",
    b"1,5",
    b".5",
    b"1.2.3",
]

PATHS = ["..", ".", "../x", "a/b", "/etc/passwd", "a\0b", ".hidden", "~root/x", "a\\b", "a b", "a\nb", "b\n", "é", ""]


def refused(reader: Callable[[bytes], object], value: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        reader(value)
    return caught.value


# --- numbers ---


@pytest.mark.parametrize(("value", "rank"), [(b"0", 0), (b"00", 0), (b"7", 7), (b"007", 7), (b"9999999999", 9999999999)])
def test_a_priority_is_1_to_10_digits(value: bytes, rank: int) -> None:
    assert names.read_priority(value) == rank


def test_an_empty_priority_is_none_and_comes_after_every_priority() -> None:
    assert names.read_priority(b"") == names.LAST > names.read_priority(b"9" * 10)
    assert names.LAST == 1 << 63  # it is on disk already


@pytest.mark.parametrize(
    ("value", "due"),
    [
        (b"", 0.0),
        (b"0", 0.0),
        (b"1700000000", 1.7e9),
        (b"1700000000.25", 1700000000.25),
        (b"5.", 5.0),
        (b"9" * 10, 9999999999.0),
    ],
)
def test_a_time_is_seconds_since_1970_and_empty_is_at_once(value: bytes, due: float) -> None:
    assert names.read_at(value) == due


@pytest.mark.parametrize(("value", "seconds"), [(b"1", 1.0), (b"0.5", 0.5), (b"99999999", 99999999.0), (b"0.000001", 1e-6)])
def test_a_timeout_is_seconds_greater_than_zero(value: bytes, seconds: float) -> None:
    assert names.read_timeout(value) == seconds


@pytest.mark.parametrize(
    ("value", "terms"),
    [
        (b"5,2,600", (5, 2.0, 600.0)),
        (b"0,,", (0, None, None)),
        (b"255,0.000001,", (255, 1e-6, None)),
        (b",,99999999.000000", (None, None, 99999999.0)),
        (b",,", (None, None, None)),
    ],
)
def test_what_a_task_says_about_its_attempts_has_three_parts_that_may_be_empty(value: bytes, terms: tuple[object, ...]) -> None:
    assert names.read_retry(value) == terms


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"5",
        b"5,2",
        b"5,2,600,",
        b"256,,",
        b"-1,,",
        b"1.0,,",
        b" 1,,",
        b",0,",
        b",,0",
        b",-1,",
        b",1e3,",
        b",,inf",
        b"\xb2,,",
    ],
)
def test_anything_else_about_attempts_is_refused_as_malformed(value: bytes) -> None:
    found = refused(names.read_retry, value)
    assert found.reason is Reason.MALFORMED
    assert "`spool_retry`" in found.text


@pytest.mark.parametrize(("value", "length"), [(b"", 0), (b"0", 0), (b"00", 0), (b"12", 12), (b"9" * 15, 10**15 - 1)])
def test_a_length_is_a_number_of_bytes_and_empty_is_0(value: bytes, length: int) -> None:
    assert names.read_length("CONTENT_LENGTH", value) == length


def read_length(value: bytes) -> int:
    return names.read_length("CONTENT_LENGTH", value)


@pytest.mark.parametrize("reader", [names.read_priority, names.read_at, names.read_timeout, read_length])
@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_plain_number_is_refused_as_malformed(reader: Callable[[bytes], float], value: bytes) -> None:
    assert refused(reader, value).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        (names.read_priority, b"1" * 11),
        (names.read_priority, b"1.0"),
        (names.read_at, b"1" * 11),
        (names.read_at, b"1." + b"0" * 10),
        (names.read_timeout, b""),
        (names.read_timeout, b"0"),
        (names.read_timeout, b"0.000000"),
        (names.read_timeout, b"1" * 9),
        (names.read_timeout, b"1."),
        (read_length, b"1" * 16),
        (read_length, b"1.0"),
    ],
)
def test_what_is_out_of_bounds_is_refused_as_malformed(reader: Callable[[bytes], float], value: bytes) -> None:
    assert refused(reader, value).reason is Reason.MALFORMED


def test_a_refusal_names_the_variable_the_value_and_what_would_be_right() -> None:
    text = refused(names.read_priority, b"../evil").text
    assert "`priority`" in text
    assert "../evil" in text
    assert "a whole number from 0 to 9999999999" in text


def test_a_refusal_shows_no_more_than_the_beginning_of_a_long_value_and_no_control_characters() -> None:
    text = refused(names.read_at, b"\r\n\x1b\xff\0" * 10_000).text
    assert len(text) < 600
    assert text.isprintable()


digits = st.binary() | st.from_regex(rb"[0-9.]{0,16}", fullmatch=True)


@pytest.mark.parametrize("reader", [names.read_priority, names.read_at, names.read_timeout, read_length])
@given(value=digits)
def test_any_bytes_are_refused_or_are_the_number_that_they_spell(reader: Callable[[bytes], float], value: bytes) -> None:
    try:
        number = reader(value)
    except Refused as refusal:
        assert refusal.reason is Reason.MALFORMED  # noqa: PT017 - the other outcome is as good
    else:
        assert number == (float(value) if value else reader(b""))
        assert 0 <= number <= names.LAST


# --- destinations and nodes ---

NODE_NAMES = ["a", "alpha", "Alpha-7.example_x", "x" * 63, "-", "_", "7"]
ADDRESSES = [
    "10.0.0.7:3031",
    "h:1",
    "h:65535",
    "node-1.example.org:3031",
    "[::1]:3031",
    "[fe80::1]:1",
    "x" * 249 + ":65535",
]
TAGS = ["tag:gpu", "tag:" + "x" * 63, "tag:a.b_c-d"]
NO_ADDRESSES = [
    "h:0",
    "h:65536",
    "h:99999",
    "h:123456",
    "h:",
    ":80",
    "h:x",
    "h:-1",
    "[]:80",
    "[x]:80",
    "::1:80",
    "h:80\n",
]
NO_ADDRESSES += ["http://h:80", "u@h:80", "h:80/x", ".:80", "..:80", ".h:80", "x" * 250 + ":65535", "[::1]", "h:٣"]
NO_TAGS = ["tag:", "tag:a/b", "tag:" + "x" * 64, "TAG:x", "tags:x", "tag:a:b", "tag:\n"]


@pytest.mark.parametrize("text", [*NODE_NAMES, *ADDRESSES, *TAGS, "any", "all"])
def test_a_destination_is_a_name_an_address_a_tag_any_or_all(text: str) -> None:
    assert names.is_destination(text)
    assert names.read_destination(text.encode()) == text


@pytest.mark.parametrize("text", [*PATHS, *NO_ADDRESSES, *NO_TAGS, "x" * 64])
def test_anything_else_is_no_destination_and_refused_as_malformed(text: str) -> None:
    assert not names.is_destination(text)
    assert refused(names.read_destination, text.encode()).reason is Reason.MALFORMED


@pytest.mark.parametrize("text", ["10.0.0.2", "0.0.0.0", "999.1.2.3"])
def test_an_ipv4_address_is_no_name_and_the_error_says_how_to_write_it(text: str) -> None:
    assert not names.is_destination(text)
    assert not names.is_node_name(text)
    assert f"write {text}:3031" in refused(names.read_destination, text.encode()).text
    assert names.is_destination(f"{text}:3031")


@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.2.5", "10.0.0.x", "ip-10.0.0.2"])
def test_a_name_may_resemble_an_ipv4_address(text: str) -> None:
    assert names.is_node_name(text)


def test_bytes_that_are_no_text_are_no_destination() -> None:
    assert refused(names.read_destination, b"n\xffde").reason is Reason.MALFORMED


@pytest.mark.parametrize("text", NODE_NAMES)
def test_a_node_name_is_1_to_63_harmless_characters(text: str) -> None:
    assert names.is_node_name(text)


@pytest.mark.parametrize("text", [*PATHS, *ADDRESSES, *TAGS, "x" * 64, ".a"])
def test_a_node_may_not_be_called_like_a_path_an_address_or_a_tag(text: str) -> None:
    assert not names.is_node_name(text)


@pytest.mark.parametrize("text", ["any", "all"])
def test_a_node_may_not_be_called_like_a_choice_of_nodes(text: str) -> None:
    assert not names.is_node_name(text)


@given(
    st.text(max_size=80)
    | st.from_regex(r"[a-z.\[\]:/0-9-]{0,12}(:[0-9]{1,6})?", fullmatch=True)
    | st.text("ab.-_:0", max_size=260)
)
def test_every_destination_is_safe_as_a_file_name(text: str) -> None:
    if names.is_destination(text):
        assert len(text.encode()) <= 255
        assert text.isascii()
        assert text.isprintable()
        assert not set(text) & set("/\0 ")
        assert not text.startswith(".")


# --- tasks ---


@pytest.mark.parametrize("text", ["a", "n1_7_40", "host-1.example_12_3_99_1700000000_5", "x" * 236, "a:b@c"])
def test_a_task_id_is_harmless_characters(text: str) -> None:
    assert names.is_task_id(text)


@pytest.mark.parametrize("text", ["", "x" * 237, "a/b", "../x", "a b", "a\0", "a\n", "\na", "é", "a\\b"])
def test_what_could_leave_its_directory_is_no_task_id(text: str) -> None:
    assert not names.is_task_id(text)


@given(task_ids)
def test_every_task_id_makes_a_file_name_that_fits_and_leads_back(identity: str) -> None:
    assert names.is_task_id(identity)
    name = names.file_name(identity)
    assert name.startswith("uwsgi_spoolfile_on_")
    assert len(name.encode()) <= 255
    assert "/" not in name
    assert names.id_of_file(name) == identity


def test_the_id_of_an_accepted_task_is_a_task_id_and_tells_node_batch_and_offset() -> None:
    identity = names.id_of_record("0123456789abcdef", 2**64 - 1, 2**32)
    assert identity == "0123456789abcdef_18446744073709551615_4294967296"
    assert names.is_task_id(identity)


def test_ids_differ_when_node_batch_or_offset_do() -> None:
    seen = [names.id_of_record(node, number, offset) for node in ("a", "b") for number in (1, 11) for offset in (1, 11)]
    assert len(set(seen)) == len(seen)


# --- variables ---


@pytest.mark.parametrize(
    "name", ["a", "spool", "spooler", "spoolx", "spool_key", "Spool_x", "_spool_", "é", " ", "at", "body", "HTTP_HOST"]
)
def test_a_caller_may_use_any_name_that_is_not_ours(name: str) -> None:
    names.check_variable_name(name)


@pytest.mark.parametrize("name", ["", "spool_", "spool_node", "spool_id", "spool_anything"])
def test_a_caller_may_not_use_an_empty_name_or_one_of_ours(name: str) -> None:
    with pytest.raises(BadTask):
        names.check_variable_name(name)


def test_our_variables_have_the_names_that_are_on_disk_and_on_the_wire_already() -> None:
    from_clients = [names.NODE, names.VALUES, names.FUNCTION, names.TIMEOUT, names.BODY_LENGTH, names.FILE, names.RETRY]
    assert from_clients == [
        b"spool_node", b"spool_values", b"spool_func", b"spool_timeout", b"spool_body", b"spool_file", b"spool_retry"
    ]  # fmt: skip
    only_nodes = [names.ID, names.ERROR, names.REASON, names.ATTEMPTS]
    assert only_nodes == [b"spool_id", b"spool_error", b"spool_reason", b"spool_attempts"]
    assert names.OURS == b"spool_"


def test_only_some_of_our_variables_come_from_clients() -> None:
    from_clients = {names.NODE, names.VALUES, names.FUNCTION, names.TIMEOUT, names.RETRY, names.KEEP, names.KEY}
    assert from_clients | {names.BODY_LENGTH, names.FILE} == names.FROM_CLIENTS


def test_the_wish_to_keep_a_result_is_said_in_one_way() -> None:
    names.check_keep(b"1")
    with pytest.raises(Refused, match="it must be 1"):
        names.check_keep(b"yes")


def test_a_key_is_any_short_text_and_an_empty_one_is_none() -> None:
    assert names.read_key(b"") == b""
    assert names.read_key("übung 7\n".encode()) == "übung 7\n".encode()
    assert len(names.read_key(b"k" * names.LONGEST_KEY)) == 255


@pytest.mark.parametrize(("key", "why"), [(b"k" * 256, "at most 255 bytes, and has 256"), (b"\xff", "it must be text in UTF-8")])
def test_a_key_that_is_too_long_or_not_text_is_refused_with_a_sentence(key: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        names.read_key(key)


# --- what nodes say to each other ---


@pytest.mark.parametrize(
    ("value", "number"), [(b"1", 1), (b"4294967297", (1 << 32) + 1), (b"18446744069414584319", names.MAX_NUMBER)]
)
def test_a_link_number_is_from_1_to_the_largest_of_64_bits_but_for_one_run(value: bytes, number: int) -> None:
    assert names.read_number(value) == number


@pytest.mark.parametrize(
    "value",
    [
        *NOT_NUMBERS,
        b"",
        b"0",
        b"01",
        b"18446744069414584320",
        b"18446744073709551615",
        b"18446744073709551616",
        b"9" * 20,
        b"1" * 21,
        b"1.0",
    ],
)
def test_what_is_no_link_number_is_refused_as_malformed(value: bytes) -> None:
    found = refused(names.read_number, value)
    assert found.reason is Reason.MALFORMED
    assert "`spool_seq`" in found.text


@pytest.mark.parametrize(("value", "hops"), [(b"", 0), (b"0", 0), (b"8", 8), (b"999", 999)])
def test_hops_are_up_to_3_digits_and_empty_is_none(value: bytes, hops: int) -> None:
    assert names.read_hops(value) == hops


@pytest.mark.parametrize("value", [*NOT_NUMBERS, b"1000", b"1.0"])
def test_what_are_no_hops_is_refused_as_malformed(value: bytes) -> None:
    found = refused(names.read_hops, value)
    assert found.reason is Reason.MALFORMED
    assert "`spool_hops`" in found.text


@pytest.mark.parametrize("text", ["0123456789ab", "f" * 12, "0" * 12])
def test_a_node_id_is_12_hexadecimal_digits(text: str) -> None:
    assert names.is_node_id(text)
    assert names.is_destination(text)  # a chosen node is addressed by it


@pytest.mark.parametrize(
    "text", ["", "0" * 11, "0" * 13, "0123456789AB", "0123456789ag", "0123456789a\n", "\N{ARABIC-INDIC DIGIT ZERO}" * 12]
)
def test_anything_else_is_no_node_id(text: str) -> None:
    assert not names.is_node_id(text)


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_is_host_and_port(text: str) -> None:
    assert names.is_address(text)


@pytest.mark.parametrize("text", [*NO_ADDRESSES, *NODE_NAMES, *TAGS, *PATHS, "any", "all", "tag:a:80"])
def test_a_name_a_tag_a_choice_or_a_path_is_no_address(text: str) -> None:
    assert not names.is_address(text)


def test_what_peers_may_say_is_what_clients_may_say_and_four_more() -> None:
    assert {b"spool_id", b"spool_to", b"spool_seq", b"spool_hops", b"spool_due"} == names.FROM_PEERS - names.FROM_CLIENTS
    assert names.FROM_CLIENTS < names.FROM_PEERS
    assert {b"spool_origin", b"spool_sender", b"spool_to", b"spool_seq"} == names.OF_LINKS
    assert not {names.ORIGIN, names.SENDER} & names.FROM_PEERS  # it is whom the receiver shook hands with
