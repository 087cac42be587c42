"""hello: how a node introduces itself, and everything that such a packet may try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage
from wire import HELLO_BLOCK, MALFORMED_BLOCKS, block, packet

from spoolnode.protocol import hello as hellos
from spoolnode.protocol import names
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.hello import MOST_ADDRESSES, PROTOCOL, Hello, encode, read_hello

SAID = {
    b"spool_hello": b"1",
    b"spool_origin": b"0123456789ab",
    b"spool_name": b"alpha",
    b"spool_cluster": b"default",
    b"spool_to": b"beta",
    b"spool_instance": b"aa55",
    b"spool_addresses": b"10.0.0.1:3031,[::1]:3031",
    b"spool_floor": b"77",
}
MEANT = Hello("0123456789ab", "alpha", "default", "beta", "aa55", ("10.0.0.1:3031", "[::1]:3031"), 77, 1)


def said(**changes: bytes) -> bytes:
    """The block above with other values; None is left out."""
    return block({**SAID, **{f"spool_{name}".encode(): value for name, value in changes.items()}})


def without(*keys: str) -> bytes:
    return block({key: value for key, value in SAID.items() if key.removeprefix(b"spool_").decode() not in keys})


def refusal(content: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        read_hello(content)
    return caught.value


# --- what is said ---


def test_a_hello_is_an_extended_ping_with_the_documented_variables() -> None:
    assert encode(MEANT) == packet(100, block(SAID), 1)


def test_a_hello_is_read_as_it_was_meant() -> None:
    assert read_hello(block(SAID)) == MEANT


def test_the_version_that_nodes_speak_is_on_the_wire_already() -> None:
    assert PROTOCOL == 1
    assert Hello("0123456789ab", "a", "c").protocol == PROTOCOL


def test_what_a_ping_may_leave_out_is_empty() -> None:
    assert read_hello(without("to", "instance", "addresses", "floor")) == Hello("0123456789ab", "alpha", "default")


node_ids = st.text("0123456789abcdef", min_size=12, max_size=12)
node_names = st.text("abzAZ09._-", min_size=1, max_size=63).filter(names.is_node_name)
addresses = st.sampled_from(["10.0.0.1:1", "[::]:3031", "0.0.0.0:65535", "host.example:80"])
digits = "0123456789abcdef"
proofs = st.tuples(
    st.text(digits, min_size=64, max_size=64), st.text(digits, min_size=32, max_size=32), st.text(digits, max_size=64)
)
hello_packets = st.builds(
    lambda proof, *said: Hello(*said, *proof), proofs | st.just(("", "", "")),
    node_ids, node_names, node_names, node_names | addresses | node_ids | st.just(""),
    st.text("0123456789abcdef", max_size=40), st.lists(addresses, max_size=MOST_ADDRESSES).map(tuple),
    st.integers(0, names.MAX_NUMBER), st.just(PROTOCOL),
)  # fmt: skip


@given(hello_packets)
def test_every_hello_arrives_as_it_was_sent(hello: Hello) -> None:
    assert read_hello(encode(hello)[4:]) == hello


@given(hello_packets)
def test_a_hello_with_variables_that_this_version_does_not_know_is_read_all_the_same(hello: Hello) -> None:
    assert read_hello(encode(hello)[4:] + block({b"spool_future": b"\xff", b"x": b""})) == hello


# --- what is refused ---


@pytest.mark.parametrize("malformed", MALFORMED_BLOCKS.values(), ids=MALFORMED_BLOCKS)
def test_a_malformed_block_is_refused(malformed: bytes) -> None:
    assert refusal(malformed).reason is Reason.MALFORMED
    assert refusal(block(SAID) + malformed).reason is Reason.MALFORMED


@pytest.mark.parametrize(
    "wrong",
    [{"public": b"x" * 64}, {"nonce": b"12"}, {"public": b""}, {"nonce": b""}, {"public": b"", "nonce": b"", "proof": b"1"}],
)
def test_a_key_that_is_none_is_malformed(wrong: dict[str, bytes]) -> None:
    found = refusal(said(**{"public": b"0" * 64, "nonce": b"0" * 32, **wrong}))
    assert found.reason is Reason.MALFORMED
    assert "hexadecimal digits" in found.text


def test_a_block_of_something_else_is_no_hello() -> None:
    assert "`spool_hello`" in refusal(HELLO_BLOCK).text


@pytest.mark.parametrize("version", [b"0", b"2", b"99999"])
def test_another_version_is_a_conflict_that_tells_both(version: bytes) -> None:
    found = refusal(said(hello=version))
    assert found.reason is Reason.CONFLICT
    assert f"version {int(version)}" in found.text
    assert f"speaks {PROTOCOL}" in found.text


@pytest.mark.parametrize("version", [b"", b"x", b"-1", b"1.0", b" 1", b"1\n", b"123456", b"\xb2", "\N{SUPERSCRIPT TWO}".encode()])
def test_a_version_that_is_no_number_is_malformed(version: bytes) -> None:
    assert refusal(said(hello=version)).reason is Reason.MALFORMED


def test_a_version_is_looked_at_before_anything_that_it_might_have_changed() -> None:
    assert refusal(block({b"spool_hello": b"2"})).reason is Reason.CONFLICT


@pytest.mark.parametrize("floor", [b"-1", b"x", b"1e3", b"0x1", b"1" * 21, b" 1", b"\xff", b""])
def test_a_watermark_that_is_no_number_is_malformed(floor: bytes) -> None:
    found = refusal(said(floor=floor))
    assert found.reason is Reason.MALFORMED
    assert "`spool_floor`" in found.text


@pytest.mark.parametrize("floor", [names.MAX_NUMBER + 1, 10**20 - 1])
def test_a_watermark_beyond_every_number_is_malformed(floor: int) -> None:
    # It would go into a file of numbers with 64 bits.
    assert refusal(said(floor=str(floor).encode())).reason is Reason.MALFORMED


@pytest.mark.parametrize("identity", [b"", b"0123456789a", b"0123456789abc", b"0123456789AB", b"../456789abc", b"0123456789a\n"])
def test_an_id_is_12_hexadecimal_digits(identity: bytes) -> None:
    found = refusal(said(origin=identity))
    assert found.reason is Reason.MALFORMED
    assert "`spool_origin`" in found.text


@pytest.mark.parametrize("name", [b"", b"..", b"a/b", b"a b", b"x" * 64, b"any", b"all", b"h:1", b"tag:x", b"a\0", b"\xff"])
@pytest.mark.parametrize("what", ["name", "cluster"])
def test_names_of_nodes_and_clusters_are_harmless(what: str, name: bytes) -> None:
    found = refusal(said(**{what: name}))
    assert found.reason is Reason.MALFORMED
    assert f"`spool_{what}`" in found.text


@pytest.mark.parametrize("to", [b"../x", b"a/b", b"a b", b"x" * 300, b"h:0", b"tag:", b"\xff", b"a\n"])
def test_the_destination_of_a_link_is_a_destination(to: bytes) -> None:
    found = refusal(said(to=to))
    assert found.reason is Reason.MALFORMED
    assert "`spool_to`" in found.text


@pytest.mark.parametrize("key", ["hello", "origin", "name", "cluster"])
def test_what_must_be_said_must_be_said(key: str) -> None:
    found = refusal(without(key))
    assert found.reason is Reason.MALFORMED
    assert f"`spool_{key}`" in found.text


def test_addresses_that_are_none_are_left_out_and_many_are_too_many() -> None:
    assert read_hello(said(addresses=b"/run/x.sock,10.0.0.1:1,h:0,,../x:1,\xff:1")).addresses == ("10.0.0.1:1",)
    many = b",".join(b"10.0.0.%d:1" % number for number in range(100))
    assert len(read_hello(said(addresses=many)).addresses) == MOST_ADDRESSES


def test_a_long_instance_is_cut_and_a_long_value_is_not_shown_whole() -> None:
    assert len(read_hello(said(instance=b"a" * 60_000)).instance) <= 40
    assert len(refusal(said(name=b"\r\n\x1b" * 10_000)).text) < 600
    assert refusal(said(name=b"\r\n\x1b")).text.isprintable()


@given(garbage | st.lists(st.tuples(st.sampled_from(sorted(SAID)), st.binary(max_size=20)), max_size=9).map(block))
def test_any_block_is_refused_or_a_hello_of_harmless_parts(content: bytes) -> None:
    try:
        found = read_hello(content)
    except Refused:
        return
    assert found.protocol == PROTOCOL
    assert names.is_node_id(found.id)
    assert names.is_node_name(found.name)
    assert names.is_node_name(found.cluster)
    assert not found.to or names.is_destination(found.to)
    assert all(names.is_address(address) for address in found.addresses)
    assert 0 <= found.low_watermark <= names.MAX_NUMBER


def test_the_longest_hello_fits_into_the_smallest_buffer_of_a_real_uwsgi() -> None:
    # With its default -b 4096 it would close the connection, and never be a destination.
    longest = Hello(
        "f" * 12, "n" * 63, "c" * 63, "x" * 249 + ":65535", "i" * 40, ("h" * 249 + ":65535",) * MOST_ADDRESSES, names.MAX_NUMBER
    )
    assert len(encode(longest)) < 4096
    assert hellos.read_hello(encode(longest)[4:]) == longest
