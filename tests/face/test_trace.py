"""The headers of tracers on their way through a task, without a tracer."""

from collections.abc import Iterator

import pytest
from smallnode import StartNode

from spoolnode import send_to_spooler, spool, trace, wire
from spoolnode.calls.arguments import arguments_of
from spoolnode.node.outcome import Call
from spoolnode.protocol import names
from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables
from spoolnode.protocol.values import Encoded, pack

W3C = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def tracing() -> Iterator[None]:
    """Two tracers in this process."""
    trace.SOURCES.extend([
        lambda: {"traceparent": W3C, "baggage": "a=1", "x-unknown": "1"},
        lambda: {"sentry-trace": "1-2-1", "baggage": "b=2"},
    ])  # fmt: skip
    yield
    trace.SOURCES.clear()


def test_a_task_carries_the_headers_of_the_senders_trace(tracing: None, start_node: StartNode) -> None:
    node = start_node()
    send_to_spooler({"a": "b"}, via=node.address)
    variables, _ = node.tasks[0]
    assert variables == [(b"a", b"b"), (b"traceparent", W3C.encode()), (b"baggage", b"a=1,b=2"), (b"sentry-trace", b"1-2-1")]
    assert trace.trace_of(variables) == {"traceparent": W3C, "baggage": "a=1,b=2", "sentry-trace": "1-2-1"}


def test_a_trace_that_has_no_room_is_left_out_and_the_task_is_sent(tracing: None) -> None:
    block = encode_variables([(b"a", bytes(MAX_BLOCK - 50))])
    assert wire.message(Encoded(block, b"")).head[4:] == block


def test_a_call_that_a_node_makes_by_itself_belongs_to_no_trace(tracing: None) -> None:
    assert b"traceparent" not in spool(name="tasks:f")(lambda: None).variables()


def test_headers_are_not_arguments_and_do_not_hide_those_in_the_body() -> None:
    header = (b"traceparent", W3C.encode())
    assert arguments_of(Call.of([header, (b"n", b"1")], b"", "x")) == ([], {"n": "1"})
    assert arguments_of(Call.of([header, (names.BODY_LENGTH, b"1")], pack({"args": [1]}), "x")) == ([1], {})


def test_headers_of_a_web_request_count_unless_the_task_has_its_own() -> None:
    web = [(b"HTTP_TRACEPARENT", b"web"), (b"HTTP_SENTRY_TRACE", b"w"), (b"HTTP_HOST", b"x")]
    assert trace.trace_of(web) == {"traceparent": "web", "sentry-trace": "w"}
    assert trace.trace_of([*web, (b"traceparent", b"own")]) == {"traceparent": "own"}
    assert trace.trace_of([]) == {}
    assert trace.current_trace() == {}


def test_a_trace_does_not_change_what_a_task_says(tracing: None) -> None:
    (_, plain), *added = decode_variables(wire.task_message({"traceparent": "mine"}, None).head[4:])
    assert plain == b"mine"
    assert added[0] == (b"baggage", b"a=1,b=2")
