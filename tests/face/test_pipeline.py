"""One connection without its socket: its states, and what is sure about each request, whatever happens to the connection."""

from collections.abc import Callable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode import TimedOut, Unanswered, Unreachable, wire
from spoolnode.client.deadline import Deadline
from spoolnode.client.pipeline import Doubtful, Exchange, Given, Pipeline, PipelineState, Unsent
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason, Refused

ADDRESS = wire.resolve("node:3031")
STORED = answer.stored("n_1_1")
REFUSED = answer.refused(Refused(Reason.FULL, "full"))
PONG = answer.status_pong({"name": "n"})

Line = Pipeline[Exchange]


def exchange(body: bytes = b"body") -> Exchange:
    return Exchange(wire.task_message({"a": "b", "body": body}, None), Deadline(5.0))


def question() -> Exchange:
    return Exchange(wire.QUESTION, Deadline(5.0))


def begun(line: Line, given_: Given) -> Exchange:
    """A request that the kernel has taken up to this point."""
    own = exchange()
    line.begin(own)
    size = sum(map(len, line.unsent()))
    line.sent({Given.NOTHING: 0, Given.PART: 3, Given.ALL: size}[given_])
    return own


# --- the states of a connection ---


def in_state(state: PipelineState) -> Line:
    """A pipeline in that state, with one request that was sent and not answered."""
    line: Line = Pipeline(ADDRESS)
    if state is PipelineState.DOUBTFUL:
        begun(line, Given.ALL)
        begun(line, Given.ALL)
        line.receive(REFUSED)
    else:
        begun(line, Given.ALL)
    if state is PipelineState.RETIRED:
        line.retire()
    elif state is PipelineState.ENDED:
        line.end("gone")
    assert line.state is state
    return line


INPUTS: dict[str, Callable[[Line], object]] = {
    "a refusal": lambda line: line.receive(REFUSED),
    "another answer": lambda line: line.receive(STORED),
    "two answers where one is due": lambda line: line.receive(STORED + STORED),
    "no answer at all": lambda line: line.receive(b"HTTP/1.0 404"),
    "the end": lambda line: line.receive(b""),
    "an error": lambda line: line.end("broken"),
    "retire": lambda line: line.retire(),
    "cut": lambda line: line.cut(),
}
OPEN, DOUBTFUL, RETIRED, ENDED = PipelineState
NEXT = {
    "a refusal": (DOUBTFUL, DOUBTFUL, RETIRED, ENDED),
    "another answer": (OPEN, OPEN, RETIRED, ENDED),
    "two answers where one is due": (ENDED, ENDED, ENDED, ENDED),
    "no answer at all": (ENDED, ENDED, ENDED, ENDED),
    "the end": (ENDED, ENDED, ENDED, ENDED),
    "an error": (ENDED, ENDED, ENDED, ENDED),
    "retire": (RETIRED, RETIRED, RETIRED, ENDED),
    "cut": (RETIRED, RETIRED, RETIRED, ENDED),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("state", PipelineState)
def test_each_input_leads_from_each_state_where_the_table_says(state: PipelineState, name: str) -> None:
    line = in_state(state)
    INPUTS[name](line)
    assert line.state is NEXT[name][list(PipelineState).index(state)]


@pytest.mark.parametrize(
    ("state", "task", "asked"),
    [(OPEN, None, None), (DOUBTFUL, Doubtful, None), (RETIRED, Unsent, Unsent), (ENDED, Unsent, Unsent)],
)
def test_what_is_not_open_takes_no_task_and_what_is_doubtful_a_question(
    state: PipelineState, task: type[Exception] | None, asked: type[Exception] | None
) -> None:
    for begin, error in ((exchange, task), (question, asked)):
        line = in_state(state)
        before = line.unsent()
        if error is None:
            line.begin(begin())
            assert line.unsent() != before
        else:
            with pytest.raises(error):
                line.begin(begin())
            assert line.unsent() == before


def test_socket_is_of_no_use_when_the_last_caller_has_left_what_takes_no_more() -> None:
    line: Line = Pipeline(ADDRESS)
    first, second = begun(line, Given.ALL), begun(line, Given.ALL)
    line.retire()
    line.leave(first)
    assert not line.is_over
    line.leave(second)
    assert line.is_over


# --- what is sure about a request ---


@pytest.mark.parametrize(("given_", "error"), [(Given.NOTHING, Unsent), (Given.PART, Unsent), (Given.ALL, Unanswered)])
def test_connection_that_ends_leaves_in_doubt_only_what_was_sent_whole(given_: Given, error: type[Exception]) -> None:
    line: Line = Pipeline(ADDRESS)
    own = begun(line, given_)
    assert line.receive(b"") == [own]
    with pytest.raises(error):
        line.result(own)


@pytest.mark.parametrize(
    ("given_", "error", "said"),
    [
        (Given.NOTHING, Unreachable, "timed out while other tasks were being sent; nothing was stored"),
        (Given.PART, Unreachable, "timed out while the task was being sent; nothing was stored"),
        (Given.ALL, TimedOut, "no answer within 5 s; the task may or may not have been stored"),
    ],
)
def test_request_whose_time_is_up_is_in_doubt_only_if_it_was_sent_whole(given_: Given, error: type[Exception], said: str) -> None:
    line: Line = Pipeline(ADDRESS)
    late = line.too_late(begun(line, given_))
    assert type(late) is error
    assert str(late) == f"node:3031: {said}"


@pytest.mark.parametrize("given_", Given)
def test_answer_that_comes_before_the_request_was_sent_whole_is_its_answer(given_: Given) -> None:
    line: Line = Pipeline(ADDRESS)
    own = begun(line, given_)
    assert line.receive(REFUSED) == [own]
    line.receive(b"")
    assert line.result(own)[1] == 0


def test_cut_settles_what_was_not_begun_and_leaves_the_rest_to_be_answered() -> None:
    line: Line = Pipeline(ADDRESS)
    whole = begun(line, Given.ALL)
    part, nothing = begun(line, Given.PART), exchange()
    line.begin(nothing)
    assert line.cut() == [nothing]
    assert not line.unsent()
    assert line.receive(STORED + REFUSED) == [whole, part]
    with pytest.raises(Unsent):
        line.result(nothing)


def test_caller_that_leaves_keeps_its_place_so_that_the_others_get_their_own_answers() -> None:
    line: Line = Pipeline(ADDRESS)
    gone, own = begun(line, Given.ALL), begun(line, Given.ALL)
    line.leave(gone)
    assert line.first_waiting is own
    line.receive(answer.stored("n_1_1") + answer.stored("n_1_2"))
    assert b"n_1_2" in line.result(own)[2]


def test_request_whose_caller_leaves_before_any_of_it_was_sent_is_never_sent() -> None:
    line: Line = Pipeline(ADDRESS)
    begun(line, Given.ALL)
    own = begun(line, Given.NOTHING)
    line.leave(own)
    assert not line.unsent()
    assert line.receive(STORED)
    assert line.state is OPEN


def test_rest_of_a_request_whose_caller_leaves_follows_so_that_the_next_one_is_understood() -> None:
    line: Line = Pipeline(ADDRESS)
    own = begun(line, Given.PART)
    line.leave(own)
    assert b"".join(line.unsent()) == b"".join(own.message.pieces())[3:]


def test_leaving_without_having_begun_changes_nothing() -> None:
    line: Line = Pipeline(ADDRESS)
    begun(line, Given.ALL)
    line.leave(exchange())
    assert not line.is_idle


def test_progress_of_a_large_body_is_every_byte_that_the_kernel_takes() -> None:
    line: Line = Pipeline(ADDRESS)
    own = Exchange(wire.task_message({"body": bytes(200_000)}, None), Deadline(0.0, renews=True))
    own.deadline.seconds = 1000.0
    line.begin(own)
    assert not own.deadline.left
    line.sent(1)
    assert own.deadline.left > 900


@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=8), st.lists(st.integers(0, 30_000), max_size=30))
def test_bytes_go_out_in_order_whatever_the_kernel_takes_at_a_time(bodies: list[bytes], takes: list[int]) -> None:
    line: Line = Pipeline(ADDRESS)
    exchanges = [exchange(body) for body in bodies]
    for own in exchanges:
        line.begin(own)
    requests = [b"".join(own.message.pieces()) for own in exchanges]
    ends = list(accumulate(map(len, requests)))
    out = b""
    for take in [*takes, *[1 << 20] * len(bodies)]:
        data = b"".join(line.unsent())[:take]
        line.sent(len(data))
        out += data
        for own, start, end in zip(exchanges, [0, *ends[:-1]], ends, strict=True):
            has = Given.ALL if len(out) >= end else Given.NOTHING if len(out) <= start else Given.PART
            assert own.given is has
    assert out == b"".join(requests)


@given(st.integers(1, 6), st.integers(1, 20))
def test_answers_belong_to_the_requests_in_their_order_in_every_fragmentation(count: int, size: int) -> None:
    line: Line = Pipeline(ADDRESS)
    exchanges = [begun(line, Given.ALL) for _ in range(count)]
    stream = b"".join(answer.stored(f"n_1_{number}") for number in range(count))
    settled = [own for start in range(0, len(stream), size) for own in line.receive(stream[start : start + size])]
    assert settled == exchanges
    assert [wire.task_id(ADDRESS, line.result(own)) for own in settled] == [f"n_1_{number}" for number in range(count)]


def test_a_pipeline_and_an_exchange_say_how_far_they_are() -> None:
    line: Line = Pipeline(ADDRESS)
    own = begun(line, Given.PART)
    assert repr(line) == "<Pipeline to node:3031: open, 1 unanswered, 1 unsent>"
    assert repr(own) == "<Exchange: a part sent, unanswered>"
    line.receive(b"")
    line.leave(own)
    assert repr(own) == "<Exchange: a part sent, the connection was closed, its caller has left>"
