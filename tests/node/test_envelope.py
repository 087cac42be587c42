"""Envelopes: a task on this disk as it travels, whatever its place, its size, and where it came from."""

import pytest
from linked import LARGE, PEER

from spoolnode.node.outbox.envelope import AskedPlace, Envelope, Unsendable, asked, pack_file
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.store import Store
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, BadTask
from spoolnode.protocol.forward import LINK_ROOM, RECEIVER_ROOM, dress, undress
from spoolnode.protocol.packet import HEADER, MAX_BLOCK, decode_variables, encode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, head

IDENTITY = "0123456789ab_7_64"
REF = f"outbox/beta/uwsgi_spoolfile_on_{IDENTITY}@77"


def block(**said: str) -> bytes:
    return encode_variables([(key.encode(), value.encode()) for key, value in said.items()])


def dressed(variables: bytes, body: int = 0) -> dict[bytes, bytes]:
    return dict(decode_variables(dress(variables, IDENTITY, 77, body)))


def over_a_link(**more: str) -> bytes:
    """The block of a task as it lies here after it came over a link."""
    return block(
        n="1", spool_node="any", spool_seq="5", spool_id="ffffffffffff_1_64", **more, spool_origin=PEER, spool_to="0123456789ab"
    )


# -- what a task wears --


def test_a_task_travels_with_its_number_and_its_id() -> None:
    assert dressed(block(n="1", spool_node="beta")) == {
        b"n": b"1", b"spool_node": b"beta", b"spool_seq": b"77", b"spool_id": IDENTITY.encode(),
    }  # fmt: skip


def test_a_body_travels_with_its_true_length_whatever_the_task_says_of_it() -> None:
    assert dressed(block(n="1"), 5)[b"spool_body"] == b"5"
    assert dressed(block(n="1", spool_body="9"), 5)[b"spool_body"] == b"5"
    assert dressed(block(n="1", CONTENT_LENGTH="9"), 0)[b"spool_body"] == b"0"
    assert b"spool_body" not in dressed(block(n="1"))


def test_a_task_that_is_handed_on_keeps_its_first_id_and_nothing_else_of_the_link_it_came_over() -> None:
    found = dressed(over_a_link())
    assert found == {
        b"n": b"1", b"spool_node": b"any", b"spool_hops": b"1", b"spool_seq": b"77", b"spool_id": b"ffffffffffff_1_64",
    }  # fmt: skip
    assert dressed(over_a_link(spool_hops="3"))[b"spool_hops"] == b"4"


def test_values_that_only_mention_our_variables_change_nothing() -> None:
    text = "spool_origin spool_hops spool_id spooler"
    assert dressed(block(n=text, spool_node="beta")) == {
        b"n": text.encode(), b"spool_node": b"beta", b"spool_seq": b"77", b"spool_id": IDENTITY.encode(),
    }  # fmt: skip


def test_the_directory_that_a_client_named_stays_at_home() -> None:
    assert b"spooler" not in dressed(block(n="1", spooler="/var/spool/here"))


def test_whatever_a_task_wears_a_peer_may_say() -> None:
    for variables in (
        block(n="1", spool_node="beta"),
        over_a_link(spool_hops="2"),
        block(n="1", HTTP_HOST="h", REQUEST_METHOD="POST"),
    ):
        terms = read_terms(dress(variables, IDENTITY, 77, 9), local=False, peer=True)
        assert (terms.number, terms.body) == (77, 9)


def test_the_largest_task_that_is_accepted_for_another_node_fits_there_too() -> None:
    longest = "x" * 249 + ":65535"
    sender = block(spool_origin=PEER, spool_sender="f" * 32, spool_to=longest)
    filler = MAX_BLOCK - LINK_ROOM - len(block(n="", spool_node=longest))
    largest = block(n="x" * filler, spool_node=longest)
    assert len(largest) == MAX_BLOCK - LINK_ROOM
    travels = dress(largest, "i" * 236, names.MAX_NUMBER, 10**15 - 1)
    there = travels + sender
    assert len(there) <= MAX_BLOCK
    assert len(sender) <= RECEIVER_ROOM
    # And from there to a third one, and on.
    for _ in range(names.MAX_HOPS):
        there = dress(there, "i" * 236, names.MAX_NUMBER, 10**15 - 1) + sender
        assert len(there) <= MAX_BLOCK


def test_a_task_that_leaves_no_room_is_an_error_with_the_sizes() -> None:
    with pytest.raises(BadTask, match=rf"65000 bytes.*{MAX_BLOCK - LINK_ROOM}"):
        dress(block(n="x" * (65000 - len(block(n="")))), "i" * 236, names.MAX_NUMBER, 10**15 - 1)


def test_undress_reads_what_a_link_has_added() -> None:
    assert undress(over_a_link(spool_hops="3")) == (PEER, "0123456789ab", 5, 3)
    assert undress(over_a_link(spool_sender="ff")) == (f"{PEER}/ff", "0123456789ab", 5, 0)
    assert undress(block(n="1")) is None
    assert undress(block(n="spool_origin")) is None
    assert undress(block(n="1", spool_origin=PEER)) is None
    with pytest.raises(BadPacket):
        undress(b"spool_origin")


# -- from a file --


def put(store: Store, data: bytes, ref: str = REF) -> None:
    store.disk.make_directory(store.layout.path("outbox/beta"))
    descriptor = store.disk.create(store.layout.path(ref))
    store.disk.write(descriptor, data, 0)
    store.disk.close(descriptor)


def test_a_small_file_is_one_packet_and_is_marked_as_sent_before_it_is(store: Store) -> None:
    put(store, head(block(n="1")) + b"body")
    envelope = pack_file(store, REF)
    assert isinstance(envelope, Envelope)
    assert (envelope.ref, envelope.number, envelope.body_at, envelope.body_end) == (REF, 77, 0, 0)
    assert envelope.head[0] == 17
    assert envelope.head[3] == 1
    assert envelope.head.endswith(b"body")
    assert envelope.size == len(envelope.head)
    assert dict(decode_variables(envelope.head[4:-4]))[b"spool_body"] == b"4"
    assert store.contents(store.layout.path(REF))[ATTEMPTS_AT] == 1
    assert pack_file(store, REF) == envelope


def test_a_large_file_is_a_head_and_a_place(store: Store) -> None:
    put(store, head(block(n="1")) + LARGE)
    envelope = pack_file(store, REF)
    assert isinstance(envelope, Envelope)
    assert envelope.body_at == HEADER.size + len(block(n="1"))
    assert envelope.body_end - envelope.body_at == len(LARGE)
    assert envelope.size == len(envelope.head) + len(LARGE)
    assert dict(decode_variables(envelope.head[4:]))[b"spool_body"] == str(len(LARGE)).encode()


def test_a_file_that_has_ended_is_nothing_and_one_that_is_none_is_unsendable(store: Store) -> None:
    put(store, bytes([FINISHED]) + head(block(n="1"))[1:])
    assert pack_file(store, REF) is None
    for index, data in enumerate((b"", b"\x11", b"\x11\xff\x00\x00short")):
        ref = f"{REF}{index}"
        put(store, data, ref)
        found = pack_file(store, ref)
        assert isinstance(found, Unsendable)
        assert "file" in found.reason
    with pytest.raises(FileNotFoundError):
        pack_file(store, REF.replace("64", "65"))


def test_a_file_with_malformed_variables_is_unsendable_with_the_reason(store: Store) -> None:
    put(store, head(b"spooler\xff\xff") + b"")
    assert isinstance(pack_file(store, REF), Unsendable)


# -- what tasks ask for --


def test_asked_tells_destination_and_hops_and_leaves_out_what_is_gone_or_unreadable(store: Store) -> None:
    refs = ["a", "b", "c", "d", "gone"]
    for ref, content in zip(
        refs, (block(n="1"), block(n="1", spool_node="any"), over_a_link(spool_hops="2"), b"spool_\xff"), strict=False
    ):
        put(store, head(content), ref)
    assert asked(store, IN_FILES, refs) == {
        "a": AskedPlace("", 0, is_dropped=True), "b": AskedPlace("any", 0, is_dropped=True),
        "c": AskedPlace("any", 3),
    }  # fmt: skip


def test_a_file_that_a_node_made_is_not_a_dropped_one_unless_its_sender_may_remove_it(store: Store) -> None:
    made, removable = "0123456789ab_1790000000000000_80", "0123456789ab_1790000000000000_90"
    put(store, head(block(n="1")), f"uwsgi_spoolfile_on_{made}")
    put(store, head(block(n="1", spool_file="1")), f"uwsgi_spoolfile_on_{removable}")
    found = asked(store, IN_FILES, [f"uwsgi_spoolfile_on_{identity}" for identity in (made, removable)])
    assert [place.is_dropped for place in found.values()] == [False, True]


@pytest.mark.parametrize(
    ("variables", "body", "may_leave"),
    [
        (block(function_name="m.f"), b"", True),
        (block(function_name="m.f"), b"x", False),
        (block(function_name="m.f", body="x"), b"", False),
        (block(function_name="m.f", setup="x"), b"", False),
        (block(ud_spool_func="f", kwargs="x"), b"", False),
        (block(ud_spool_func="f", body="x"), b"x", True),
    ],
)
def test_a_task_of_a_uwsgi_that_no_other_node_would_take_stays(
    store: Store, variables: bytes, body: bytes, may_leave: bool
) -> None:
    put(store, head(variables) + body, "a")
    assert asked(store, IN_FILES, ["a"]) == ({"a": AskedPlace("", 0, is_dropped=True)} if may_leave else {})
