"""request: the terms of a spool request; nothing is believed before it is validated."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbage
from wire import HELLO_BLOCK, MALFORMED_BLOCKS, block, item

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.request import PLAIN_TERMS, Terms, looks_like_web, read_terms
from spoolnode.protocol.values import pack


def terms(variables: dict[bytes, bytes], *, local: bool = False) -> Terms:
    return read_terms(block({b"ToGroup": b"customers", **variables}), local=local)


def refusal(content: bytes, *, local: bool = False) -> Refused:
    with pytest.raises(Refused) as caught:
        read_terms(content, local=local)
    return caught.value


# --- plain requests ---


def test_the_terms_of_hello_world_are_plain() -> None:
    assert read_terms(HELLO_BLOCK, local=False) is PLAIN_TERMS


def test_plain_terms_are_here_at_once_last_without_body_and_not_from_the_web() -> None:
    assert Terms(rank=names.LAST, due=0.0, destination="", body=0, web=False, spooler=b"") == PLAIN_TERMS


@pytest.mark.parametrize("key", [b"AT", b"at ", b"att", b"Priority", b"HTTP", b"HTTPS", b"spool", b"Body", b"content_length"])
def test_a_variable_that_only_resembles_a_special_one_is_plain(key: bytes) -> None:
    assert terms({key: b"../x"}) is PLAIN_TERMS


@pytest.mark.parametrize("value", [b"priority", item(b"priority", b"../x"), item(b"spool_id", b"x"), b"HTTP_HOST"])
def test_a_value_that_looks_like_a_special_variable_is_plain(value: bytes) -> None:
    assert terms({b"x": value}) is PLAIN_TERMS


def test_an_empty_request_is_refused() -> None:
    assert refusal(b"").reason is Reason.MALFORMED


@pytest.mark.parametrize("malformed", MALFORMED_BLOCKS.values(), ids=MALFORMED_BLOCKS)
@pytest.mark.parametrize("before", [b"", item(b"priority", b"1"), item(b"HTTP_HOST", b"h")], ids=["", "special", "web"])
def test_a_malformed_block_is_refused(malformed: bytes, before: bytes) -> None:
    assert refusal(before + malformed).reason is Reason.MALFORMED


def test_a_block_cut_anywhere_but_between_variables_is_refused() -> None:
    whole = item(b"priority", b"1") + item(b"at", b"2") + HELLO_BLOCK
    boundaries = {len(item(b"priority", b"1")): 0.0, len(item(b"priority", b"1") + item(b"at", b"2")): 2.0}
    for cut in range(len(whole)):
        if cut in boundaries:
            assert read_terms(whole[:cut], local=False) == Terms(rank=1, due=boundaries[cut])
        else:
            assert refusal(whole[:cut]).reason is Reason.MALFORMED


def test_a_tail_that_is_no_variable_is_refused() -> None:
    assert refusal(HELLO_BLOCK + b"\0").reason is Reason.MALFORMED


def test_lengths_of_two_bytes_are_read_in_names_and_values() -> None:
    long = block({b"k" * 300: b"v" * 700, b"spooler": b"/" + b"x" * 600, b"z" * 256: b"", b"priority": b"3"})
    assert read_terms(long, local=False) == Terms(rank=3, spooler=b"/" + b"x" * 600)


def test_a_refusal_says_where_the_empty_name_is() -> None:
    assert "byte 14 has an empty name" in refusal(HELLO_BLOCK + item(b"", b"v")).text


# --- each special variable ---


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({b"priority": b"5"}, Terms(rank=5)),
        ({b"priority": b""}, Terms()),
        ({b"at": b"1700000000"}, Terms(due=1.7e9)),
        ({b"at": b""}, Terms()),
        ({b"spooler": b"/var/spool/x"}, Terms(spooler=b"/var/spool/x")),
        ({b"spooler": b"\xff\0"}, Terms(spooler=b"\xff\0")),
        ({b"spool_node": b"alpha"}, Terms(destination="alpha")),
        ({b"spool_node": b"10.0.0.7:3031"}, Terms(destination="10.0.0.7:3031")),
        ({b"spool_node": b""}, Terms()),
        ({b"spool_body": b"12"}, Terms(body=12)),
        ({b"spool_timeout": b"2.5"}, Terms()),
        ({b"spool_retry": b"5,2,600"}, Terms()),
        ({b"spool_file": b"1"}, Terms(own_file=True)),
        ({b"spool_func": b"mail"}, Terms(function=b"mail")),
        ({b"spool_values": msgpack.packb({"n": [1, {2: 3}]})}, Terms()),
        ({b"CONTENT_LENGTH": b"12"}, Terms(body=12)),
        ({b"CONTENT_LENGTH": b""}, Terms()),
        ({b"REQUEST_METHOD": b"GET"}, Terms(web=True)),
        ({b"SERVER_PROTOCOL": b"HTTP/1.1"}, Terms(web=True)),
        ({b"HTTP_HOST": b"example.org"}, Terms(web=True)),
        ({b"HTTP_": b""}, Terms(web=True)),
        ({b"HTTP_CONTENT_LENGTH": b"12"}, Terms(body=12, web=True)),
        ({b"HTTP_PRIORITY": b"../x", b"HTTP_SPOOL_ID": b"x"}, Terms(web=True)),
        ({b"priority": b"1", b"at": b"2", b"spool_node": b"any", b"spool_body": b"3"}, Terms(1, 2.0, "any", 3)),
    ],
)
def test_each_special_variable_has_its_term(variables: dict[bytes, bytes], expected: Terms) -> None:
    assert terms(variables) == expected


def test_the_order_of_variables_is_of_no_account() -> None:
    variables = [(b"priority", b"1"), (b"x", b"y"), (b"at", b"2"), (b"HTTP_HOST", b"h"), (b"spool_body", b"3")]
    expected = Terms(rank=1, due=2.0, body=3, web=True)
    assert {read_terms(block(order), local=False) for order in (variables, variables[::-1])} == {expected}


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (b"priority", b"../evil"),
        (b"priority", b"high"),
        (b"at", b"tomorrow"),
        (b"at", b"-1"),
        (b"spool_node", b"../evil"),
        (b"spool_node", b"a/b"),
        (b"spool_body", b"-1"),
        (b"spool_timeout", b"0"),
        (b"spool_timeout", b""),
        (b"spool_retry", b"5"),
        (b"spool_values", b""),
        (b"spool_values", b"\xc1"),
        (b"spool_values", msgpack.packb([1])),
        (b"spool_values", msgpack.packb({1: 2})),
        (b"spool_values", b"\x81\xa1a\x81\x90\x00"),
        (b"spool_values", msgpack.packb({"a": 1}) + b"\0"),
        (b"CONTENT_LENGTH", b"12, 12"),
        (b"CONTENT_LENGTH", b"0x10"),
        (b"HTTP_CONTENT_LENGTH", b"many"),
    ],
)
def test_a_special_variable_that_is_not_what_it_must_be_is_refused(variable: bytes, value: bytes, local: bool) -> None:
    found = refusal(block({variable: value}), local=local)
    assert found.reason is Reason.MALFORMED
    assert variable.decode() in found.text


def test_a_variable_that_comes_twice_counts_as_it_came_last_as_in_uwsgi() -> None:
    assert read_terms(item(b"priority", b"x") + item(b"priority", b"3"), local=False) == Terms(rank=3)
    assert refusal(item(b"priority", b"3") + item(b"priority", b"x")).reason is Reason.MALFORMED


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        "spool_id",
        "spool_origin",
        "spool_seq",
        "spool_hops",
        "spool_attempts",
        "spool_reason",
        "spool_error",
        "spool_",
        "spool_new",
    ],
)
def test_a_variable_that_only_nodes_set_is_forbidden(key: str, local: bool) -> None:
    found = refusal(HELLO_BLOCK + item(key.encode(), b"1"), local=local)
    assert found.reason is Reason.FORBIDDEN
    assert f"`{key}`" in found.text


def test_a_long_reserved_name_is_shown_only_in_part() -> None:
    assert len(refusal(item(b"spool_" + b"\xff" * 60_000, b"")).text) < 400


# --- bodies ---


@pytest.mark.parametrize(
    ("variables", "length"),
    [
        ({b"spool_body": b"1", b"CONTENT_LENGTH": b"2", b"HTTP_CONTENT_LENGTH": b"3"}, 1),
        ({b"CONTENT_LENGTH": b"2", b"HTTP_CONTENT_LENGTH": b"3"}, 2),
        ({b"CONTENT_LENGTH": b"", b"HTTP_CONTENT_LENGTH": b"3"}, 3),
        ({b"spool_body": b"0", b"CONTENT_LENGTH": b"2", b"HTTP_TRANSFER_ENCODING": b"chunked"}, 0),
        ({b"spool_body": b"", b"CONTENT_LENGTH": b"2"}, 2),
        ({b"CONTENT_LENGTH": b"2", b"HTTP_TRANSFER_ENCODING": b"chunked"}, 2),
        ({b"CONTENT_LENGTH": b"", b"HTTP_TRANSFER_ENCODING": b"identity"}, 0),
    ],
)
def test_the_length_of_the_body_is_what_the_nearest_said(variables: dict[bytes, bytes], length: int) -> None:
    assert terms(variables).body == length


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"CHUNKED"])
@pytest.mark.parametrize("length", [{}, {b"CONTENT_LENGTH": b""}])
def test_a_chunked_body_without_its_length_is_refused_with_the_remedy(coding: bytes, length: dict[bytes, bytes]) -> None:
    found = refusal(block({**length, b"HTTP_TRANSFER_ENCODING": coding}))
    assert found.reason is Reason.LENGTH_REQUIRED
    assert "uwsgi_param CONTENT_LENGTH $content_length;" in found.text


# --- pickles ---

PICKLED = {b"ud_spool_func": b"f", b"args": b"\x80\x04)."}
FROM_THE_WEB = {b"REQUEST_METHOD": b"POST"}


@pytest.mark.parametrize("argument", [b"args", b"kwargs"])
@pytest.mark.parametrize("web", [{}, FROM_THE_WEB])
def test_pickled_arguments_from_the_network_are_forbidden(argument: bytes, web: dict[bytes, bytes]) -> None:
    assert refusal(block({b"ud_spool_func": b"f", argument: b"x", **web})).reason is Reason.FORBIDDEN


def test_pickled_arguments_through_a_web_server_are_forbidden_even_on_the_local_socket() -> None:
    assert refusal(block({**PICKLED, **FROM_THE_WEB}), local=True).reason is Reason.FORBIDDEN
    assert refusal(block({**PICKLED, b"HTTP_X": b""}), local=True).reason is Reason.FORBIDDEN


def test_pickled_arguments_are_taken_from_the_local_socket() -> None:
    assert terms(PICKLED, local=True) == Terms(pickled=True, function=b"f")


@pytest.mark.parametrize("variables", [{b"ud_spool_func": b"f"}, {b"kwargs": b"x"}])
def test_what_uwsgidecorators_does_not_unpickle_is_ordinary(variables: dict[bytes, bytes]) -> None:
    assert terms(variables) == Terms(function=variables.get(b"ud_spool_func", b""))


def test_args_alone_are_forbidden_because_a_uwsgi_on_the_same_directory_unpickles_them() -> None:
    assert refusal(block({b"args": b"a=1"})).reason is Reason.FORBIDDEN


@pytest.mark.parametrize("value", [b"\x80\x04).", "cos\nsystem\n(S'true'\ntR."])
@pytest.mark.parametrize(
    ("plain", "typed"),
    [
        ({}, ["args"]),
        ({b"ud_spool_func": b"f"}, ["kwargs"]),
        ({b"kwargs": b"x"}, ["ud_spool_func"]),
        ({}, ["ud_spool_func", "kwargs"]),
        ({b"function_name": b"f"}, ["setup"]),
        ({b"setup": b"x"}, ["function_name"]),
        ({b"args": b"x"}, ["args"]),
    ],
)
def test_what_is_forbidden_as_a_plain_variable_is_so_as_a_typed_value(
    plain: dict[bytes, bytes], typed: list[str], value: bytes | str
) -> None:
    request = {**plain, b"spool_values": pack(dict.fromkeys(typed, value))}
    assert refusal(block({b"a": b"b", **request})).reason is Reason.FORBIDDEN
    with pytest.raises(Refused, match="pickled"):
        from_peer({**OVER_A_LINK, **request})
    assert terms(request, local=True).pickled


@pytest.mark.parametrize(
    "more", [{b"setup": b"x"}, {b"kwargs": b"x"}, {b"CONTENT_LENGTH": b"3"}, {b"args": b"x"}, {b"body": b"x"}]
)
def test_what_uwsgi_tasks_unpickles_is_forbidden_too(more: dict[bytes, bytes]) -> None:
    assert refusal(block({b"function_name": b"m.f", **more})).reason is Reason.FORBIDDEN
    assert refused_of_peer({**OVER_A_LINK, b"function_name": b"m.f", **more}).reason is Reason.FORBIDDEN
    assert terms({b"function_name": b"m.f", **more}, local=True).pickled
    assert terms({b"function_name": b"m.f"}) == Terms()


def test_a_variable_called_body_is_ordinary_where_nothing_unpickles_it() -> None:
    assert terms({b"body": b"x"}) == Terms()
    assert terms({b"body": b"x", b"ud_spool_func": b"f"}) == Terms(function=b"f")


@pytest.mark.parametrize("value", [5, True, None, ["m.f"], {"m": "f"}, b"m.f"])
@pytest.mark.parametrize("more", [{b"setup": b"x"}, {b"body": b"x"}, {b"kwargs": b"x"}, {b"CONTENT_LENGTH": b"3"}])
def test_a_typed_function_name_of_any_type_stands_for_a_call(value: Any, more: dict[bytes, bytes]) -> None:
    request = {b"spool_values": pack({"function_name": value}), **more}
    assert refusal(block({b"a": b"b", **request})).reason is Reason.FORBIDDEN


@pytest.mark.parametrize("value", [[1, "a"], {"a": b"b"}, 5, None, True])
def test_a_typed_value_of_which_no_pickle_can_be_made_is_ordinary(value: Any) -> None:
    assert terms({b"spool_values": pack({"args": value})}) == Terms()


def test_the_arguments_of_our_own_functions_are_no_pickles() -> None:
    values = pack({"args": [b"\x80\x04)."], "kwargs": {"a": b"b"}})
    assert not terms({b"spool_func": b"m:f", b"spool_values": values}).pickled
    assert refusal(block({b"spool_func": b"m:f", b"spool_values": values, b"args": b"x"})).reason is Reason.FORBIDDEN


def test_typed_values_come_once_so_that_nobody_reads_others_than_the_door() -> None:
    clean, evil = pack({"n": 1}), pack({"args": b"x"})
    for first, second in ((clean, evil), (evil, clean), (clean, clean)):
        found = refusal(item(b"spool_values", first) + item(b"spool_values", second))
        assert found.reason is Reason.MALFORMED
        assert "twice" in found.text


@pytest.mark.parametrize("twice", [(b"x", b""), (b"", b"x")])
def test_a_pickle_is_seen_among_variables_that_come_twice(twice: tuple[bytes, bytes]) -> None:
    content = b"".join(item(b"args", value) for value in twice) + item(b"a", b"b")
    assert refusal(content).reason is Reason.FORBIDDEN


@pytest.mark.parametrize(
    "name", ["at", "priority", "spooler", "body", "spooler_task_name", "spool_node", "spool_values", "spool_"]
)
@pytest.mark.parametrize("local", [True, False])
def test_no_typed_value_has_a_name_that_the_spooler_keeps_for_itself(name: str, local: bool) -> None:
    found = refusal(block({b"spool_values": msgpack.packb({name: 1})}), local=local)
    assert found.reason is Reason.MALFORMED
    assert repr(name) in found.text


@pytest.mark.parametrize(
    "packed",
    [
        b"\x81\xa1x\xd4\x05\x01",  # an extension
        b"\x81\xa1x\x91\xd6\xff\x00\x00\x00\x01",  # a timestamp, in a list
        b"\x81\xa1x\x81\xd6\xff\x00\x00\x00\x01\xc0",  # one as the key of a map
        b"\x81\xa1x" + b"\x91" * 65 + b"\xc0",
        b"\x81\xa1x" + b"\x81\xa1y" * 65 + b"\xc0",
    ],
)
def test_typed_values_that_could_not_be_shown_or_written_are_refused(packed: bytes) -> None:
    assert refusal(block({b"spool_values": packed})).reason is Reason.MALFORMED


def test_typed_values_may_be_nested_a_good_deal() -> None:
    assert terms({b"spool_values": b"\x81\xa1x" + b"\x91" * 60 + b"\xc0"}) == Terms()


# --- web servers ---


def test_the_variables_of_a_common_nginx_are_taken() -> None:
    variables = {
        b"QUERY_STRING": b"",
        b"REQUEST_METHOD": b"POST",
        b"CONTENT_TYPE": b"application/json",
        b"CONTENT_LENGTH": b"17",
        b"REQUEST_URI": b"/jobs",
        b"SERVER_PROTOCOL": b"HTTP/1.1",
        b"REMOTE_ADDR": b"192.0.2.1",
        b"HTTP_HOST": b"example.org",
        b"HTTP_CONTENT_LENGTH": b"17",
        b"spool_node": b"alpha",
    }
    assert read_terms(block(variables), local=False) == Terms(destination="alpha", body=17, web=True)


@pytest.mark.parametrize("key", [b"REQUEST_METHOD", b"SERVER_PROTOCOL", b"HTTP_HOST"])
def test_a_cut_block_of_a_web_server_still_looks_like_web(key: bytes) -> None:
    whole = block({b"a": b"b", key: b"x"})
    assert looks_like_web(whole)
    assert looks_like_web(whole[:-1])


def test_a_block_of_another_client_does_not_look_like_web() -> None:
    assert not looks_like_web(HELLO_BLOCK)
    assert not looks_like_web(b"")


# --- laws ---

SPECIAL = [b"at", b"priority", b"spooler", b"CONTENT_LENGTH", b"REQUEST_METHOD", b"HTTP_CONTENT_LENGTH", b"HTTP_X"]
SPECIAL += [b"HTTP_TRANSFER_ENCODING", b"ud_spool_func", b"args", *sorted(names.FROM_CLIENTS), names.ID, b"x", b""]
values = st.sampled_from([b"", b"1", b"1.5", b"chunked", b"alpha", b"../x", b"\x80"]) | st.binary(max_size=8)
almost_valid = st.lists(st.tuples(st.sampled_from(SPECIAL), values), max_size=5).map(block)


@given(garbage | almost_valid | st.tuples(almost_valid, st.binary(max_size=6)).map(b"".join), st.booleans())
def test_any_block_has_terms_or_is_refused_and_one_that_is_no_block_is_malformed(content: bytes, local: bool) -> None:
    try:
        variables: dict[bytes, bytes] | None = dict(decode_variables(content))
    except BadPacket:
        variables = None
    try:
        found = read_terms(content, local=local)
    except Refused as caught:
        assert variables or caught.reason is Reason.MALFORMED  # noqa: PT017 - the other outcome is as good
        return
    assert variables
    assert found.due >= 0
    assert 0 <= found.rank <= names.LAST
    assert found.body >= 0
    assert not found.destination or names.is_destination(found.destination)
    assert found.spooler == variables.get(b"spooler", b"")
    assert not found.web or looks_like_web(content)
    assert all(key in names.FROM_CLIENTS for key in variables if key.startswith(b"spool_"))


@given(garbage | almost_valid)
def test_what_the_network_may_ask_this_machine_may_ask_too(content: bytes) -> None:
    try:
        remote = read_terms(content, local=False)
    except Refused:
        return
    assert read_terms(content, local=True) == remote


# --- over a link ---

OVER_A_LINK = {
    b"spool_seq": b"4294967297", b"spool_id": b"0123456789ab_7_64", b"spool_to": b"beta", b"spool_hops": b"2",
    b"spool_due": b"1795859211",
}  # fmt: skip


def from_peer(variables: dict[bytes, bytes]) -> Terms:
    return read_terms(block({b"ToGroup": b"customers", **variables}), local=False, peer=True)


def refused_of_peer(variables: dict[bytes, bytes]) -> Refused:
    with pytest.raises(Refused) as caught:
        from_peer(variables)
    return caught.value


def test_a_peer_says_number_hops_id_destination_and_due_time() -> None:
    assert from_peer(OVER_A_LINK) == Terms(number=4294967297, hops=2, origin_id=b"0123456789ab_7_64")
    assert from_peer({b"spool_seq": b"1", b"spool_node": b"any", b"spool_body": b"3"}) == Terms(
        number=1, destination="any", body=3
    )


@pytest.mark.parametrize("key", sorted(OVER_A_LINK))
@pytest.mark.parametrize("local", [True, False])
def test_what_a_peer_may_say_a_client_may_not(key: bytes, local: bool) -> None:
    assert refusal(block({b"a": b"b", key: OVER_A_LINK[key]}), local=local).reason is Reason.FORBIDDEN


@pytest.mark.parametrize("key", ["spool_origin", "spool_attempts", "spool_reason", "spool_error", "spool_copies", "spool_"])
def test_what_only_the_receiver_may_set_is_forbidden_to_peers(key: str) -> None:
    found = refused_of_peer({b"spool_seq": b"1", key.encode(): b"0123456789ab"})
    assert found.reason is Reason.FORBIDDEN
    assert f"`{key}`" in found.text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (b"spool_seq", b"0"),
        (b"spool_seq", b""),
        (b"spool_seq", b"../1"),
        (b"spool_seq", b"18446744073709551616"),
        (b"spool_hops", b"-1"),
        (b"spool_hops", b"1000"),
        (b"priority", b"../x"),
        (b"at", b"tomorrow"),
        (b"spool_node", b"../x"),
        (b"spool_values", b"\xc1"),
        (b"spool_id", b"../x"),
        (b"spool_id", b"a/b"),
        (b"spool_id", b""),
        (b"spool_id", b"x" * 237),
        (b"spool_due", b""),
        (b"spool_due", b"-1"),
        (b"spool_due", b"1.5"),
        (b"spool_due", b"123456789012"),
        (b"spool_to", b"../x"),
        (b"spool_to", b"a/b"),
    ],
)
def test_what_a_peer_says_must_be_what_it_must_be(variable: bytes, value: bytes) -> None:
    found = refused_of_peer({**OVER_A_LINK, variable: value})
    assert found.reason is Reason.MALFORMED
    assert variable.decode() in found.text


@pytest.mark.parametrize("variables", [{b"args": b"x"}, PICKLED, {b"ud_spool_func": b"f", b"kwargs": b"x"}])
def test_a_peer_cannot_send_pickle(variables: dict[bytes, bytes]) -> None:
    assert refused_of_peer({**OVER_A_LINK, **variables}).reason is Reason.FORBIDDEN


@given(garbage | almost_valid, st.booleans())
def test_what_a_client_may_ask_a_peer_may_ask_too(content: bytes, local: bool) -> None:
    try:
        client = read_terms(content, local=local)
    except Refused:
        return
    assert read_terms(content, local=local, peer=True) == client
