"""The variables of the way of a task, which mean nothing in a common store."""

from hypothesis import given
from hypothesis import strategies as st

from spoolnode.protocol import names
from spoolnode.protocol.forward import tells_the_way, without_way
from spoolnode.protocol.packet import encode_variables

OF_THE_WAY = [*names.OF_LINKS, names.BODY_LENGTH, b"spooler"]
KEPT = [names.FUNCTION, names.LEGACY_FUNCTION, names.NODE, names.VALUES, b"n", b"spool", b"my_spooler"]


@given(st.lists(st.tuples(st.sampled_from(OF_THE_WAY + KEPT), st.sampled_from([b"", b"1", *OF_THE_WAY])), max_size=5))
def test_whatever_has_to_go_is_seen(variables: list[tuple[bytes, bytes]]) -> None:
    block = encode_variables(variables)
    assert tells_the_way(block) or without_way(variables) == block


@given(st.lists(st.tuples(st.sampled_from(KEPT), st.binary(max_size=3)), max_size=5))
def test_what_most_tasks_say_is_not_taken_for_it(variables: list[tuple[bytes, bytes]]) -> None:
    assert not tells_the_way(encode_variables(variables))
