"""A call that was sent as plain variables: they are keyword arguments, as text."""

from typing import Any

import pytest
from smallnode import context

from spoolnode import spool
from spoolnode.calls.arguments import arguments_of
from spoolnode.node.outcome import DONE, Call
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.values import pack
from spoolnode.runtime.handler import Dispatcher

calls: list[dict[str, Any]] = []


def run(*variables: tuple[bytes, bytes], body: bytes = b"") -> None:
    """Runs a call of `tasks:f` with these variables, as a worker would."""
    calls.clear()
    call = Call.of([(names.FUNCTION, b"tasks:f"), *variables], body, "uwsgi_spoolfile_on_x")
    assert Dispatcher(context(), None)(call) == DONE


def test_plain_variables_are_keyword_arguments_as_text() -> None:
    @spool(name="tasks:f")
    def f(number: str, to: str) -> None:
        calls.append({"number": number, "to": to})

    run((b"number", b"1"), (b"to", "Zoë".encode()))
    assert calls == [{"number": "1", "to": "Zoë"}]


def test_what_belongs_to_the_spooler_is_not_an_argument() -> None:
    @spool(name="tasks:f")
    def f(**kwargs: Any) -> None:
        calls.append(kwargs)

    run((b"at", b"1"), (b"priority", b"5"), (names.NODE, b"any"), (names.ID, b"a_1_1"), (b"n", b"1"), (b"n", b"2"))
    assert calls == [{"n": "2"}]


def test_a_body_beside_them_is_the_argument_body() -> None:
    @spool(name="tasks:f")
    def f(name: str, body: bytes) -> None:
        calls.append({name: body})

    run((b"name", b"a.png"), body=b"\x89PNG")
    assert calls == [{"a.png": b"\x89PNG"}]


def test_variables_of_a_web_server_reach_only_those_who_ask_for_them() -> None:
    @spool(name="tasks:f")
    def f(to: str, HTTP_USER_AGENT: str) -> None:
        calls.append({"to": to, "agent": HTTP_USER_AGENT})

    run((b"to", b"ada"), (b"HTTP_HOST", b"x"), (b"HTTP_USER_AGENT", b"curl"), (b"QUERY_STRING", b""))
    assert calls == [{"to": "ada", "agent": "curl"}]


def test_a_function_without_parameters_can_be_called_by_a_web_server() -> None:
    @spool(name="tasks:f")
    def f() -> None:
        calls.append({})

    run((b"HTTP_HOST", b"x"), (b"REQUEST_METHOD", b"GET"))
    assert calls == [{}]


def test_a_variable_that_the_function_does_not_take_is_a_failure() -> None:
    @spool(name="tasks:f")
    def f() -> None: ...

    with pytest.raises(TypeError, match="unexpected keyword argument 'to'"):
        run((b"to", b"ada"))


def test_packed_arguments_are_told_from_a_body_by_the_other_variables() -> None:
    packed = pack({"args": [1], "kwargs": {"to": "ada"}})
    for variables, body in (([(names.VALUES, packed)], b""), ([], packed), ([(b"at", b"1"), (names.BODY_LENGTH, b"9")], packed)):
        assert arguments_of(Call.of(variables, body, "x")) == ([1], {"to": "ada"})
    assert arguments_of(Call.of([(b"n", b"1")], packed, "x")) == ([], {"n": "1", "body": packed})
    assert arguments_of(Call.of([(names.VALUES, packed), (b"n", b"1")], b"", "x")) == ([1], {"to": "ada"})
    with pytest.raises(BadPacket, match="must be"):
        arguments_of(Call.of([], pack({"args": 1}), "x"))
