"""A conversation is a machine of eight states: each input in each state is a listed transition, or nothing happens."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linked import PEER, Station
from packets import Reports, Wire, services_of

from spoolnode.node.disk.fakes import acting_as
from spoolnode.node.ingress import admission, answers, pieces
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.conversation import (
    BODY,
    GONE,
    LEAST_PROGRESS,
    LOST,
    MAX_DROPPED,
    OVER,
    READ,
    SKIPPING,
    TAKEN_AT_ONCE,
    TRANSITIONS,
    UPLOAD,
    ConversationState,
    Flow,
    Input,
    WrongInput,
)  # fmt: skip
from spoolnode.node.ingress.services import OtherRequests
from spoolnode.node.neighbours import Greeting
from spoolnode.node.spool.group_commit import INLINE_BODY
from spoolnode.node.spool.sequence import Key
from spoolnode.protocol.answer import PONG, STORED, read_answer, read_status
from spoolnode.protocol.answer import REFUSED as PLAIN_REFUSAL
from spoolnode.protocol.cancel import CancelAnswer, CancelRequest
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.fetch import Fetched, Question
from spoolnode.protocol.hello import Hello, encode
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.packet import EXTENDED, PING, PLAIN, SPOOL_REQUEST, encode_variables, packet

FIRST = (1000 << 32) + 1
"""The first number of a link."""
KEY = NodeKey(bytes(32)).public
"""The public half of a node's key."""
SMALL, LARGE = 1000, 300_000
"""Lengths of bodies: one is gathered in memory, the other goes to a file as it comes."""
PIECE = 1500
"""Bytes of a large body that are written together in these tests."""


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def request(*, dialect: int = EXTENDED, **variables: str) -> bytes:
    """A task of its own, without a body."""
    said = {"n": "1", **variables}
    return packet(SPOOL_REQUEST, encode_variables([(key.encode(), value.encode()) for key, value in said.items()]), dialect)


def head(size: int, **variables: str) -> bytes:
    """One that is followed by a body."""
    return request(spool_body=str(size), **variables)


REFUSED = {"priority": "x"}
NONSENSE = bytes([99, 0, 0, 1])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large body is written in many pieces."""
    monkeypatch.setattr(pieces, "UPLOAD_PIECE", PIECE)


class Later(Executor):
    """Does what uploads hand to their threads when it is told to."""

    def __init__(self) -> None:
        self._todo: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Takes a job."""
        future: Future[Any] = Future()
        self._todo.append((future, lambda: fn(*args, **kwargs)))
        return future

    def work(self) -> None:
        """Does all jobs."""
        todo, self._todo = self._todo, []
        for future, job in todo:
            with acting_as("upload"):
                future.set_result(job())


class Scene:
    """One conversation with a node."""

    def __init__(
        self, caller: Caller | None = None, *, max_body: int = 1 << 20, executor: Executor | None = None, **services: Any
    ) -> None:
        self.station = Station(max_body=max_body, executor=executor)
        self.reports = Reports()
        self.services = services_of(self.station, self.reports, **services)
        self.wire = Wire(self.services, caller)
        self.talk = self.wire.talk
        self.missing = b""
        """The rest of what was begun."""

    def say(self, *data: bytes, missing: bytes = b"") -> None:
        """Bytes come; others are missing."""
        self.wire.say(b"".join(data))
        self.missing = missing

    async def settled(self) -> None:
        """Returns when the disk has done everything, and every turn was taken."""
        for _ in range(12):
            await self.station.rest()

    @property
    def outcome(self) -> str:
        """Its state, whether it is read, how it was ended."""
        flow = "" if self.talk.flow is READ else self.talk.flow.value
        return ", ".join(word for word in (self.talk.state.value, flow, self.wire.end) if word)

    @property
    def answers(self) -> list[str]:
        """Each in a word, in the extended dialect."""
        return said_by(self.wire)

    @property
    def uploads(self) -> list[str]:
        """Files of bodies that have not come whole."""
        return [name for name in self.station.files("tmp") if "upload" in name]

    def bodies(self) -> list[int]:
        """How long the bodies of the waiting tasks are. Takes them all."""
        found = []
        while (taken := self.station.spool.take(100)) is not None:
            files = [self.station.read(taken[0], ref) for ref in taken[1]]
            found += [len(file.body) for file in files if file is not None]
        return found


def said_by(wire: Wire) -> list[str]:
    """Its answers in a word each: stored, pong, or the reason of a refusal."""
    return [_word(*answer) for answer in wire.answers]


def _word(modifier1: int, modifier2: int, block: bytes) -> str:
    if modifier1 == PING:
        return "pong"
    try:
        read_answer(modifier2, block)
    except Refused as refusal:
        return refusal.reason.name.lower()
    return "stored"


async def new(scene: Scene) -> None:
    """Nothing has come."""


async def in_request(scene: Scene) -> None:
    scene.say(request()[:6], missing=request()[6:])


async def between(scene: Scene) -> None:
    scene.say(request())
    await scene.settled()


async def body(scene: Scene) -> None:
    scene.say(head(SMALL), bytes(400), missing=bytes(SMALL - 400))


async def upload(scene: Scene) -> None:
    scene.say(head(LARGE), bytes(400), missing=bytes(LARGE - 400))


async def writing(scene: Scene) -> None:
    scene.say(head(LARGE), bytes(PIECE), missing=bytes(LARGE - PIECE))


async def writing_the_end(scene: Scene) -> None:
    scene.say(head(LARGE), bytes(LARGE))


async def skipping(scene: Scene) -> None:
    scene.say(head(SMALL, **REFUSED), bytes(400), missing=bytes(SMALL - 400))


async def put_off(scene: Scene) -> None:
    scene.say(request() * (TAKEN_AT_ONCE + 1))


async def held(scene: Scene) -> None:
    await between(scene)
    scene.talk.slow(reader=True)


async def held_in_body(scene: Scene) -> None:
    await body(scene)
    scene.talk.slow(reader=True)


async def half_closed(scene: Scene) -> None:
    await put_off(scene)
    scene.talk.half_closed()


async def ending(scene: Scene) -> None:
    scene.say(request(dialect=PLAIN))


async def rude(scene: Scene) -> None:
    scene.say(request(), NONSENSE)


async def gone(scene: Scene) -> None:
    scene.say(request())
    scene.talk.lost()


Situation = Callable[[Scene], Awaitable[None]]
SITUATIONS: list[Any] = [
    new, in_request, between, body, upload, writing, writing_the_end, skipping, put_off, held, held_in_body, half_closed, ending,
    rude, gone,
]  # fmt: skip


async def situated(situation: Situation) -> Scene:
    """A conversation in that situation."""
    scene = Scene()
    await situation(scene)
    return scene


def saying(data: bytes) -> Callable[[Scene], Awaitable[None]]:
    async def say(scene: Scene) -> None:
        scene.wire.say(data)

    return say


def doing(what: Callable[[Scene], object]) -> Callable[[Scene], Awaitable[None]]:
    async def do(scene: Scene) -> None:
        what(scene)

    return do


INPUTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "a part of a request": saying(request()[:6]),
    "a request": saying(request()),
    "a plain request": saying(request(dialect=PLAIN)),
    "a small body": saying(head(SMALL)),
    "a large body": saying(head(LARGE)),
    "an unwanted body": saying(head(SMALL, **REFUSED)),
    "an unwanted large body": saying(head(MAX_DROPPED + 1, **REFUSED)),
    "nonsense": saying(NONSENSE),
    "what is missing": doing(lambda scene: scene.wire.say(scene.missing)),
    "their end": doing(lambda scene: scene.talk.half_closed()),
    "lost": doing(lambda scene: scene.talk.lost()),
    "answers are unread": doing(lambda scene: scene.talk.slow(reader=True)),
    "answers are read": doing(lambda scene: scene.talk.slow(reader=False)),
    "time": lambda scene: scene.settled(),
}

WRONG = "wrong"
OUTCOMES = {
    "new": {
        "a plain request": "ending", "a small body": "body", "a large body": "upload", "an unwanted body": "skipping",
        "an unwanted large body": "rude, lingers", "nonsense": "rude, lingers", "their end": "ending", "lost": "gone",
        "answers are unread": "request, held",
    },
    "in_request": {  # all of these bytes belong to what was begun
        "a part of a request": "rude, lingers", "a request": "rude, lingers", "a plain request": "rude, lingers",
        "a small body": "rude, lingers", "a large body": "rude, lingers", "an unwanted body": "rude, lingers",
        "an unwanted large body": "rude, lingers", "nonsense": "rude, lingers", "lost": "gone",
        "answers are unread": "request, held",
    },
    "between": {
        "a plain request": "rude, lingers", "a small body": "body", "a large body": "upload", "an unwanted body": "skipping",
        "an unwanted large body": "rude, lingers", "nonsense": "rude, lingers", "their end": "ending", "lost": "gone",
        "answers are unread": "request, held",
    },
    "body": {"what is missing": "request", "lost": "gone", "answers are unread": "body, held"},
    "upload": {"what is missing": "writing, held", "lost": "gone", "answers are unread": "upload, held"},
    "writing": {"lost": "gone, held", "time": "upload"},
    "writing_the_end": {"lost": "gone, held", "time": "request"},
    "skipping": {"what is missing": "request", "lost": "gone", "answers are unread": "skipping, held"},
    "put_off": {"lost": "gone, put off", "time": "request"},
    "held": {"lost": "gone, held", "answers are read": "request"},
    "held_in_body": {"lost": "gone, held", "answers are read": "body"},
    "half_closed": {"lost": "gone, put off", "time": "ending, closed"},
    "ending": {"lost": "gone", "answers are unread": "ending, held", "time": "ending, closed"},
    "rude": {"lost": "gone", "time": "rude, lingers"},
    "gone": {"lost": WRONG},
}  # fmt: skip
"""What leads where; all else leaves it as it is."""


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
@pytest.mark.parametrize("what", INPUTS)
def test_each_input_in_each_situation_leads_where_the_table_says(situation: Situation, what: str) -> None:
    async def story() -> None:
        scene = await situated(situation)
        before = scene.outcome
        expected = OUTCOMES[situation.__name__].get(what, before)
        if expected == WRONG:
            with pytest.raises(WrongInput, match="state 'gone' got 'lost'"):
                await INPUTS[what](scene)
            expected = before
        else:
            await INPUTS[what](scene)
        assert scene.outcome == expected

    run(story())


def test_the_situations_are_in_every_state_and_flow_that_there_is() -> None:
    async def story() -> None:
        talks = [(await situated(situation)).talk for situation in SITUATIONS]
        assert {talk.state for talk in talks} == set(ConversationState)
        assert {talk.flow for talk in talks} == set(Flow)

    run(story())


@pytest.mark.parametrize("state", ConversationState)
@pytest.mark.parametrize("what", Input)
def test_a_step_that_the_table_does_not_list_is_our_mistake_and_changes_nothing(state: ConversationState, what: Input) -> None:
    async def story() -> None:
        talk = Scene().talk
        talk.state = state
        if what in TRANSITIONS[state]:
            talk._step(what)
            assert talk.state is TRANSITIONS[state][what]
        else:
            with pytest.raises(WrongInput):
                talk._step(what)
            assert talk.state is state

    run(story())


def test_a_lost_connection_is_the_one_way_out_of_what_is_over() -> None:
    assert all(steps[LOST] is GONE for state, steps in TRANSITIONS.items() if state is not GONE)
    assert all(set(TRANSITIONS[state]) <= {LOST} for state in OVER)


# -- who waits for whom --

KEPT = {"writing", "writing_the_end", "put_off", "held", "held_in_body", "half_closed", "ending", "rude"}
"""Answers are due, or will be: a client that sends no more is kept for them."""
OWES = {"new", "in_request", "body", "upload", "skipping"}
"""The client owes bytes."""
WAITS = KEPT | {"body", "upload"}
"""The client has not heard everything."""


@pytest.mark.parametrize("situation", SITUATIONS[:-1], ids=lambda situation: situation.__name__)
def test_it_is_known_of_each_situation_who_waits_for_whom(situation: Situation) -> None:
    async def story() -> None:
        scene, name = await situated(situation), situation.__name__
        assert scene.talk.is_incomplete == (name in OWES)
        assert scene.talk.waits_for_us == (name in WAITS)
        assert scene.talk.half_closed() == (name in KEPT)

    run(story())


def test_a_client_makes_progress_with_a_request_and_with_a_good_part_of_a_body_but_not_with_crumbs() -> None:
    async def story() -> None:
        scene = Scene()
        progress = scene.talk.made_progress
        scene.say(request()[:6])
        assert not progress()
        scene.say(request()[6:], head(INLINE_BODY))
        assert progress()
        assert not progress(), "only since the last time"
        for _ in range(LEAST_PROGRESS // 100):
            scene.say(bytes(100))
            assert not progress()
        scene.say(bytes(100))
        assert progress()

    run(story())


# -- the end, in every state --


@pytest.mark.parametrize("situation", SITUATIONS[:-1], ids=lambda situation: situation.__name__)
def test_a_connection_that_is_lost_leaves_nothing_behind_and_hears_nothing_more(situation: Situation) -> None:
    async def story() -> None:
        scene = await situated(situation)
        told = scene.wire.told
        scene.talk.lost()
        scene.wire.say(scene.missing + request())
        await scene.settled()
        assert scene.wire.told == told
        assert not scene.wire.end
        assert scene.station.admission.gathered.size == 0
        assert not scene.station.admission.uploading
        assert not [name for name in scene.station.files("tmp") if "upload" in name]
        assert len(scene.station.run_all()) == scene.station.journal.counts.accepted, "what was taken stays"

    run(story())


@pytest.mark.parametrize("situation", SITUATIONS[:-1], ids=lambda situation: situation.__name__)
def test_a_client_that_gets_what_it_waits_for_is_told_everything_and_closed(situation: Situation) -> None:
    async def story() -> None:
        scene = await situated(situation)
        scene.say(scene.missing)
        await scene.settled()
        scene.talk.slow(reader=False)
        if not scene.talk.half_closed():
            scene.wire.end = scene.wire.end or "closed"  # by the stream
        await scene.settled()
        assert scene.wire.end == ("lingers" if situation is rude else "closed")
        assert not scene.talk.waits_for_us

    run(story())


def test_a_body_is_whole_on_disk_although_its_client_left_in_the_turn_in_which_its_last_piece_came() -> None:
    async def story() -> None:
        scene = await situated(writing_the_end)
        scene.talk.lost()
        await scene.settled()
        assert scene.bodies() == [LARGE]

    run(story())


def test_half_a_body_is_nothing_when_its_client_leaves_while_a_thread_writes_it() -> None:
    async def story() -> None:
        disk = Later()
        scene = Scene(executor=disk)
        await writing(scene)
        await scene.settled()
        scene.talk.lost()
        assert scene.station.admission.gathered.size == PIECE, "it is in memory until it is written"
        disk.work()
        await scene.settled()
        assert scene.station.admission.gathered.size == 0
        assert not scene.station.admission.uploading
        disk.work()
        assert scene.uploads == []

    run(story())


# -- requests --


SPOKEN = {
    "task": request(n="7"),
    "ping": packet(PING, b"", EXTENDED),
    "body": head(SMALL) + bytes(SMALL),
    "large body": head(LARGE) + bytes(LARGE),
    "own file": request(spool_file="1"),
    "refused": request(**REFUSED),
    "refused with a body": head(SMALL, **REFUSED) + bytes(SMALL),
    "another spool": request(spooler="/etc"),
}
ANSWERED = {"ping": "pong", "refused": "malformed", "refused with a body": "malformed", "another spool": "malformed"}


@settings(max_examples=30)
@given(st.lists(st.sampled_from(sorted(SPOKEN)), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_requests_in_a_row_are_answered_in_their_order_however_they_are_cut(said: list[str], chance: random.Random) -> None:
    async def story() -> None:
        scene = Scene()
        left = b"".join(SPOKEN[what] for what in said)
        while left:
            size = chance.choice([1, 3, 50, SMALL, PIECE, LARGE, len(left)])
            while not scene.wire.is_read:
                await scene.station.rest()
            scene.wire.say(left[:size])
            left = left[size:]
        await scene.settled()
        assert scene.answers == [ANSWERED.get(what, "stored") for what in said]
        assert scene.station.journal.counts.accepted == scene.answers.count("stored")
        assert not scene.wire.end

    run(story())


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_in_the_plain_dialect_one_request_is_all_and_what_follows_is_ignored(size: int) -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(request(dialect=PLAIN, CONTENT_LENGTH=str(size)), bytes(size), request(dialect=PLAIN), NONSENSE)
        await scene.settled()
        assert (scene.wire.told, scene.wire.end) == (STORED, "closed")
        assert scene.bodies() == [size]

    run(story())


def test_a_plain_ping_is_answered_and_is_all() -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(packet(PING))
        assert (scene.wire.told, scene.wire.end) == (PONG, "closed")

    run(story())


# -- bodies --


@pytest.mark.parametrize("size", [1, SMALL, INLINE_BODY, INLINE_BODY + 1, LARGE])
def test_a_body_is_stored_with_its_task_whether_memory_or_a_file_takes_it(size: int) -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(head(size))
        left = size
        while left:
            scene.say(bytes(min(left, PIECE)))
            left -= min(left, PIECE)
            assert scene.station.admission.gathered.size <= min(size, INLINE_BODY)
            await scene.settled()
        assert scene.answers == ["stored"]
        assert scene.bodies() == [size]
        assert scene.station.admission.gathered.size == 0
        assert not scene.station.admission.uploading

    run(story())


def test_when_many_bodies_lie_in_memory_the_next_ones_are_written_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_GATHERED", SMALL)
    monkeypatch.setattr(pieces, "LEAST_PIECE", 100)
    monkeypatch.setattr(admission, "LEAST_PIECE", 100)

    async def story() -> None:
        scene = Scene()
        waiting = [Wire(scene.services) for _ in range(4)]
        for wire in waiting:
            wire.say(head(SMALL) + bytes(SMALL - 1))
            await scene.settled()
        assert [wire.talk.state for wire in waiting] == [BODY, BODY, UPLOAD, UPLOAD]
        tiny = Wire(scene.services)
        tiny.say(head(100))
        assert tiny.talk.state is BODY, "it takes no more than the piece of another one"
        for wire in waiting:
            wire.say(b"x")
        await scene.settled()
        assert scene.bodies() == [SMALL] * 4

    run(story())


def test_more_large_bodies_than_the_node_has_files_for_are_refused_for_a_while() -> None:
    async def story() -> None:
        scene = Scene()
        scene.station.admission.limit_uploads(1)
        await upload(scene)
        other = Wire(scene.services)
        other.say(head(LARGE) + bytes(LARGE))
        scene.say(scene.missing)
        await scene.settled()
        other.say(head(LARGE) + bytes(LARGE))
        await scene.settled()
        assert said_by(other) == ["busy", "stored"]

    run(story())


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_node_that_closes_while_a_body_comes_takes_no_small_one_any_more_and_a_large_one_that_it_has_begun(size: int) -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(head(size), bytes(size - 1))
        await scene.settled()
        scene.station.admission.pause("this node is stopping")
        scene.say(b"x")
        await scene.settled()
        assert scene.answers == (["busy"] if size == SMALL else ["stored"])
        assert not scene.wire.end

    run(story())


@pytest.mark.parametrize("left", [MAX_DROPPED, MAX_DROPPED + 1])
def test_after_a_disk_has_refused_a_piece_the_rest_is_dropped_unless_it_is_long(left: int) -> None:
    async def story() -> None:
        scene = Scene(max_body=1 << 30)
        scene.say(head(PIECE + left))
        scene.station.disk.fail_at(1, errno.EIO)
        scene.say(bytes(PIECE))
        await scene.settled()
        if left > MAX_DROPPED:
            assert scene.outcome == "rude, held, lingers"
        else:
            scene.say(bytes(left), request())
            await scene.settled()
            assert scene.answers == ["full", "stored"]
        assert scene.uploads == []
        assert not scene.station.admission.uploading

    run(story())


# -- refusals --


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (request(**REFUSED), "malformed"),
        (request(spool_seq="1"), "forbidden"),
        (request(spooler="/etc"), "malformed"),
        (packet(SPOOL_REQUEST, b"", EXTENDED), "malformed"),
        (head(SMALL, **REFUSED) + bytes(SMALL), "malformed"),
        (head(MAX_DROPPED, **REFUSED) + bytes(MAX_DROPPED), "malformed"),
    ],
)
def test_a_refused_request_spoils_nothing_for_the_next_one(said: bytes, reason: str) -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(said, request())
        await scene.settled()
        assert scene.answers == [reason, "stored"]
        assert not scene.wire.end

    run(story())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NONSENSE, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (head(MAX_DROPPED + 1), "too_large"),
        (request(spool_body="many"), "malformed"),
        (request(HTTP_TRANSFER_ENCODING="chunked"), "length_required"),
        (request(dialect=PLAIN), "malformed"),
    ],
)
def test_a_refusal_after_which_the_next_request_cannot_be_found_is_the_last_answer(said: bytes, reason: str) -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(request(), said, request())
        assert not scene.wire.end, "the answer before it is due"
        await scene.settled()
        assert scene.answers == ["stored", reason]
        assert scene.wire.end == "lingers"

    run(story())


def test_a_stranger_hears_why_in_the_words_that_he_understands_and_is_cut_off() -> None:
    async def story() -> None:
        scene = Scene()
        for said, told in (
            (request(dialect=PLAIN), PLAIN_REFUSAL),
            (request(dialect=PLAIN, REQUEST_METHOD="POST"), b"HTTP/1.1 403"),
            (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        ):
            wire = Wire(scene.services, Caller("10.9.9.9", is_local=False, is_allowed=False))
            wire.say(said)
            assert wire.told.startswith(told)
            assert wire.end == "lingers"
        wire = Wire(scene.services, Caller("10.9.9.9", is_local=False, is_allowed=False))
        wire.say(request() * 2)
        assert said_by(wire) == ["forbidden"]
        wire = Wire(scene.services, Caller("10.9.9.9", is_local=False, is_allowed=False))
        wire.say(CancelRequest("0123456789ab_1790000000000000_64", "a stranger", 1.0, 1.0).encode())
        assert said_by(wire) == ["forbidden"], "who may not enqueue may not cancel"
        assert scene.services.refusals == {Reason.FORBIDDEN: 4, Reason.MALFORMED: 1}
        assert {details["peer"] for _, details in scene.reports.lines} == {"10.9.9.9"}

    run(story())


def test_a_question_that_the_disk_cannot_answer_is_refused_and_holds_up_no_other_answer() -> None:
    async def fail(_question: Question) -> Fetched:
        raise OSError(errno.EIO, "Input/output error")

    async def never(_request: CancelRequest, _caller: Caller) -> CancelAnswer:
        raise AssertionError("nothing is cancelled")

    async def story() -> None:
        scene = Scene(other_requests=OtherRequests(fail, never, never))
        scene.say(Question("0123456789ab_1790000000000000_64", 0.0).encode(), request())
        await scene.settled()
        assert scene.answers == ["busy", "stored"]

    run(story())


# -- web requests --


def test_a_web_server_gets_http_and_the_secrets_of_its_visitors_are_not_stored() -> None:
    async def story() -> None:
        scene = Scene()
        web = {"REQUEST_METHOD": "POST", "HTTP_COOKIE": "secret", "HTTP_HOST": "x"}
        scene.say(request(dialect=PLAIN, CONTENT_LENGTH="3", **web), b"abc")
        await scene.settled()
        assert scene.wire.told.startswith(b"HTTP/1.1 202 ")
        assert scene.wire.end == "closed"
        (variables,) = scene.station.waiting()
        assert b"HTTP_COOKIE" not in variables
        assert variables[b"HTTP_HOST"] == b"x"

    run(story())


def test_a_web_request_in_the_extended_dialect_is_a_task_that_is_passed_on_and_keeps_everything() -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(request(REQUEST_METHOD="POST", HTTP_COOKIE="secret"), request(REQUEST_METHOD="POST", **REFUSED))
        await scene.settled()
        assert scene.answers == ["stored", "malformed"]
        (variables,) = scene.station.waiting()
        assert variables[b"HTTP_COOKIE"] == b"secret"

    run(story())


def test_a_body_that_a_web_server_sends_without_its_length_is_refused_and_not_lost() -> None:
    async def story() -> None:
        scene = Scene()
        scene.say(request(dialect=PLAIN, REQUEST_METHOD="POST"), b"a body")
        assert scene.wire.told.startswith(b"HTTP/1.1 411 ")
        assert scene.wire.end == "lingers"

    run(story())


# -- hello --


def hello(**changes: Any) -> bytes:
    """That of another node."""
    said: dict[str, Any] = {"id": PEER, "name": "gamma", "cluster": "default", "to": "beta", "low_watermark": FIRST}
    return encode(Hello(**{**said, **changes}))


class Greeter:
    """Greets as it is told, and remembers those who said hello."""

    def __init__(self, greeting: Greeting | Refused) -> None:
        self.greeting = greeting
        self.heard: list[tuple[str, str, str]] = []
        self.nonces: set[str] = set()
        self.watermarks: list[tuple[Key, int]] = []

    def __call__(self, hello: Hello, address: str, certified: str, nonce: str) -> Greeting:
        self.heard.append((hello.id, address, certified))
        self.nonces.add(nonce)
        if isinstance(self.greeting, Refused):
            raise self.greeting
        return self.greeting

    def hear_watermark(self, link: Key, low_watermark: int) -> None:
        """The watermark of a link that is proved."""
        self.watermarks.append((link, low_watermark))


def linked(greeting: Greeting | Refused, *, is_local: bool = False) -> tuple[Scene, Greeter]:
    """A conversation with a node that is greeted so."""
    greeter = Greeter(greeting)
    caller = Caller("10.0.0.3", is_local=is_local, is_allowed=True, certified="gamma")
    return Scene(caller, greet=greeter, low_watermark=greeter.hear_watermark), greeter


PROVED = Greeting(PEER, is_proved=True, said=(("nonce", "abc"),))


def test_a_node_that_says_hello_is_greeted_and_told_what_the_greeting_says_beside_the_status() -> None:
    async def story() -> None:
        scene, greeter = linked(PROVED)
        scene.say(hello(), hello(low_watermark=FIRST + 9))
        (first, second) = scene.wire.answers
        assert read_status(first[2]) == read_status(second[2]) == {"name": "it", "nonce": "abc"}
        assert greeter.heard == [(PEER, "10.0.0.3", "gamma")] * 2
        assert len(greeter.nonces) == 1, "one for each connection"
        assert greeter.watermarks == [((PEER, "beta"), FIRST), ((PEER, "beta"), FIRST + 9)]

    run(story())


@pytest.mark.parametrize("greeting", [Greeting(), Greeting(PEER)])
def test_the_watermark_of_a_node_that_has_not_proved_itself_is_not_believed(greeting: Greeting) -> None:
    async def story() -> None:
        scene, greeter = linked(greeting)
        scene.say(hello())
        assert greeter.watermarks == []
        assert scene.talk.caller.link == ((PEER, "beta") if greeting.sender else None)

    run(story())


def test_a_hello_that_only_pings_makes_no_link() -> None:
    async def story() -> None:
        scene, _ = linked(PROVED)
        scene.say(hello(to=""), request(spool_seq=str(FIRST)))
        assert scene.answers == ["pong", "forbidden"]

    run(story())


@pytest.mark.parametrize("changes", [{"id": "b" * 12}, {"name": "delta"}, {"to": "alpha"}, {"public": KEY, "nonce": "0" * 32}])
def test_a_connection_belongs_to_the_node_that_said_hello_first(changes: dict[str, str]) -> None:
    async def story() -> None:
        scene, _ = linked(PROVED)
        scene.say(hello(), hello(**changes))
        assert scene.answers == ["pong", "forbidden"]
        assert scene.wire.end == "lingers"

    run(story())


def test_a_node_that_is_not_welcome_hears_why_and_is_cut_off() -> None:
    async def story() -> None:
        scene, _ = linked(Refused(Reason.FORBIDDEN, "not you"))
        scene.say(hello(), request())
        assert scene.answers == ["forbidden"]
        assert scene.wire.end == "lingers"

    run(story())


def test_a_link_is_no_program_of_this_machine_even_through_its_own_socket() -> None:
    async def story() -> None:
        scene, _ = linked(PROVED, is_local=True)
        pickled = {"ud_spool_func": "f", "args": "x"}
        scene.say(request(**pickled), hello(), request(spool_seq=str(FIRST), **pickled))
        await scene.settled()
        assert scene.answers == ["stored", "pong", "forbidden"]

    run(story())


def test_a_task_of_a_link_that_is_stored_already_is_answered_at_once_and_its_body_dropped() -> None:
    async def story() -> None:
        scene, _ = linked(PROVED)
        numbered = {"spool_seq": str(FIRST)}
        scene.say(hello(), request(**numbered))
        await scene.settled()
        scene.say(head(LARGE, **numbered), bytes(LARGE - 1))
        assert scene.talk.state is SKIPPING
        scene.say(b"x", request(spool_seq=str(FIRST + 1)))
        await scene.settled()
        assert scene.answers == ["pong", "stored", "stored", "stored"]
        assert scene.station.journal.counts.accepted == 2

    run(story())


# -- answers that are not read, and too many that are due --


def test_a_client_that_reads_no_answers_is_not_read_either_and_goes_on_when_it_does() -> None:
    async def story() -> None:
        scene = Scene()
        scene.talk.slow(reader=True)
        assert not scene.wire.is_read
        scene.say(request())  # a loop may have had it already
        await scene.settled()
        assert scene.answers == []
        scene.talk.slow(reader=False)
        assert scene.wire.is_read
        await scene.settled()
        assert scene.answers == ["stored"]

    run(story())


@pytest.mark.parametrize(("limit", "most"), [("MAX_PIPELINED", 20), ("MAX_UNANSWERED", 20 * len(request()[4:]))])
def test_with_too_many_answers_due_a_connection_waits_until_half_of_them_are_said(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int
) -> None:
    monkeypatch.setattr(answers, limit, most)

    async def story() -> None:
        scene = Scene()
        scene.say(request() * 30)
        assert not scene.wire.is_read
        await scene.station.turn()
        assert scene.answers == []
        await scene.settled()
        assert scene.answers == ["stored"] * 30
        assert scene.wire.is_read
        assert scene.wire.pauses == 1

    run(story())


def test_answers_that_are_ready_at_once_are_sent_as_they_come_and_held_back_behind_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "MAX_UNSENT", 100)
    ping = packet(PING, b"", EXTENDED)

    async def story() -> None:
        scene = Scene()
        scene.say(ping * 30)
        assert scene.answers == ["pong"] * 30
        assert not scene.wire.pauses
        scene.say(request(), ping * 30)
        assert not scene.wire.is_read
        await scene.settled()
        assert scene.answers == ["pong"] * 30 + ["stored"] + ["pong"] * 30
        assert scene.wire.is_read

    run(story())


# -- words --


def test_each_part_of_a_conversation_says_how_it_stands() -> None:
    async def story() -> None:
        scene = await situated(upload)
        (running,) = scene.station.admission.uploading
        assert repr(scene.talk) == "<conversation with here, extended: upload, read, <answers, 1 due>>"
        assert repr(running) == "<upload to /var/spool/tmp/upload.1, 0 bytes written, for here>"
        assert repr(scene.talk._body) == f"<large body, <1 pieces, 400 bytes> gathered for {running!r}>"
        assert repr(scene.station.admission) == (
            f"<admission, open, {1 << 62} bytes free, 1 uploads, <gathered bodies, 400 bytes>>"
        )
        scene.station.admission.stop("this node is stopping")
        assert repr(scene.station.admission).startswith("<admission, closed: this node is stopping, ")
        scene.talk.slow(reader=True)
        assert repr(scene.talk).endswith(": upload, held, <answers, 1 due, unread>>")
        scene.talk.lost()
        assert ": gone, " in repr(scene.talk)
        small = await situated(body)
        assert (
            repr(small.talk._body) == "<small body, <1 pieces, 400 bytes> gathered for <inline task with a body of 1000 bytes>>"
        )

    run(story())


def test_the_place_of_an_answer_says_in_which_words_it_will_be_and_whether_it_is_known() -> None:
    async def story() -> None:
        scene = Scene()
        places = answers.Answers(scene.talk)
        of_the_web = places.place()
        of_the_web.is_web = True
        assert repr(of_the_web) == "<answer place, HTTP, waiting>"
        plain = places.place()
        plain.stored("id")
        assert repr(plain) == "<answer place, plain, 4 bytes ready>"
        assert repr(places) == "<answers, 2 due>"
        scene.say(request())
        assert repr(places.place()) == "<answer place, extended, waiting>"

    run(story())


def test_a_caller_says_which_link_it_is() -> None:
    async def story() -> None:
        scene, _ = linked(PROVED)
        assert repr(scene.talk.caller) == "<caller 10.0.0.3>"
        scene.say(hello())
        assert repr(scene.talk.caller) == f"<caller 10.0.0.3, link of {PEER} to beta>"

    run(story())
