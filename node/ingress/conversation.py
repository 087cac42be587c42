"""One connection as a state machine: requests in, answers out, in order. No socket: bytes in, a `Connection` to write to.

                 small body                       whole
            +----------------> BODY ------------------------+
            |    large body             piece               v
    REQUEST-+----------------> UPLOAD <--------> WRITING -> REQUEST
            |                          written    |   |     ^
            |    unwanted body        refused     |   |     |
            +----------------> SKIPPING <---------+ wrong   |
            |                     +-------------------|-----+
            |    all                                  |
            +----------------> ENDING                 |
            |    wrong                                |
            +----------------> RUDE <-----------------+         from each: lost --> GONE

When all is answered, a connection that is ENDING closes. One that is RUDE lingers: its client may still be sending, and should
be able to read the reason.

In the plain dialect one request is all; the node ignores everything after it, as uWSGI does. In the extended dialect (modifier2
1) requests are pipelined, and answers come in the order of the requests. A refused request does not harm the next one: its body
is read and dropped. If it is large, the connection ends instead.

In each state the connection is read, or waits (`Flow`): for its turn, or for room. That bounds the memory of one connection and
of all: answers that are not read (`answers`), bodies that come slowly (`pieces`).
"""

from enum import Enum
from typing import Protocol

from spoolnode.node.background import spawn
from spoolnode.node.ingress.admission import InlineTask
from spoolnode.node.ingress.answers import AnswerPlace, Answers
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.incoming import LargeBody, SmallBody
from spoolnode.node.ingress.services import OTHER_REQUESTS, Services
from spoolnode.node.ingress.upload import Upload
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason, Refused, SpoolnodeError
from spoolnode.protocol.headers import without_secrets
from spoolnode.protocol.hello import read_hello
from spoolnode.protocol.packet import EXTENDED, PING
from spoolnode.protocol.reader import Body, Request, RequestReader
from spoolnode.protocol.request import length_of_body, looks_like_web, read_terms

TAKEN_AT_ONCE = 128
"""Requests of one connection that are taken before others have their turn. (To put it off costs two system calls: with 32
each request took 13 % longer.)"""
LOOK_EACH = 4
"""Requests between two looks at the clock and at the answers that are due."""
LEAST_PROGRESS = 4096
"""Bytes of a body (or its end) that must come within --request-timeout: a byte now and then does not count."""
MAX_DROPPED = 1 << 20
"""The largest body of a refused request that is read and dropped, in bytes; a larger one ends the connection."""
UNDELIMITED = Refused(
    Reason.LENGTH_REQUIRED,
    "a body came without its length: add `uwsgi_param CONTENT_LENGTH $content_length;` to nginx",
)


class ConversationState(Enum):
    """The part of a request that the next bytes belong to."""

    REQUEST = "request"
    BODY = "body"
    """A body that is gathered in memory."""
    UPLOAD = "upload"
    """A body that is written to a file, piece by piece."""
    WRITING = "writing"
    """Nothing for now: a piece of that body is being written."""
    SKIPPING = "skipping"
    """An unwanted body: its task is refused, or stored already."""
    ENDING = "ending"
    """Nothing more. The connection closes when all is answered."""
    RUDE = "rude"
    """Nothing that we want. The connection lingers when all is answered."""
    GONE = "gone"
    """Nothing more: the connection is lost."""

    __hash__ = object.__hash__  # the hash of Enum is slow, and this runs for each body


class Input(Enum):
    """An event that leads from one state to another."""

    SMALL_BODY = "small body"
    """A task is taken whose body will be gathered in memory."""
    LARGE_BODY = "large body"
    """A task is taken that gets a file of its own."""
    UNWANTED_BODY = "unwanted body"
    """A task is refused, or stored already; its body comes all the same."""
    PIECE = "piece"
    """Enough of a large body has come, or its end."""
    WRITTEN = "written"
    """That piece is written; more will come."""
    WHOLE = "whole"
    """The whole body has come, and is written if it is large."""
    ALL = "all"
    """The client will send nothing more, or may not."""
    WRONG = "wrong"
    """The next bytes cannot be understood, or are too many to be dropped."""
    LOST = "lost"

    __hash__ = object.__hash__


class Flow(Enum):
    """Whether the connection is read."""

    READ = "read"
    PUT_OFF = "put off"
    """Not before its turn: too much came for one turn of the loop."""
    HELD = "held"
    """Not before there is room: too many answers are due or unread, or a piece of a body is being written."""


# Looking a member up in its class takes longer than all that is done with it here (Python 3.11).
REQUEST, BODY, UPLOAD, WRITING, SKIPPING, ENDING, RUDE, GONE = ConversationState
SMALL_BODY, LARGE_BODY, UNWANTED_BODY, PIECE, WRITTEN, WHOLE, ALL, WRONG, LOST = Input
READ, PUT_OFF, HELD = Flow

TRANSITIONS = {
    REQUEST: {SMALL_BODY: BODY, LARGE_BODY: UPLOAD, UNWANTED_BODY: SKIPPING, ALL: ENDING, WRONG: RUDE, LOST: GONE},
    BODY: {WHOLE: REQUEST, LOST: GONE},
    UPLOAD: {PIECE: WRITING, LOST: GONE},
    WRITING: {WRITTEN: UPLOAD, WHOLE: REQUEST, UNWANTED_BODY: SKIPPING, WRONG: RUDE, LOST: GONE},
    SKIPPING: {WHOLE: REQUEST, LOST: GONE},
    ENDING: {LOST: GONE},
    RUDE: {LOST: GONE},
    GONE: {},
}
"""Where each input leads. Any other one is a mistake of ours."""
LISTENING = (REQUEST, BODY, UPLOAD, SKIPPING)
"""In these states the next bytes are looked at..."""
OVER = (ENDING, RUDE, GONE)
"""...and in these never again."""


class WrongInput(SpoolnodeError):
    """Our mistake: this cannot happen in this state."""

    def __init__(self, state: ConversationState, what: Input) -> None:
        super().__init__(f"a conversation in the state {state.value!r} got {what.value!r}")


class Connection(Protocol):
    """A connection, as a conversation uses it."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def linger(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def touch(self) -> None: ...


class Conversation:
    """One connection, from its first byte to its last."""

    def __init__(self, services: Services, link: Connection, caller: Caller, *, max_block: int) -> None:
        self.services = services
        self.caller = caller
        self.extended = False
        self.state = REQUEST
        self.flow = READ
        self._link = link
        self._reader = RequestReader(max_block)
        self._answers = Answers(self)
        self._body: SmallBody | LargeBody | None = None
        """In the states BODY, UPLOAD and WRITING."""
        self._is_looking = False
        """Whether bytes are being looked at now: then nothing needs to begin that again."""
        self._half_closed = False
        """Whether the client has ended its half, and bytes from before are not looked at yet."""
        self._progress = False
        self._since_progress = 0
        """Bytes of a body since the last progress."""

    def __repr__(self) -> str:
        dialect = "extended" if self.extended else "plain"
        return f"<conversation with {self.caller.address}, {dialect}: {self.state.value}, {self.flow.value}, {self._answers!r}>"

    # -- bytes in --

    def receive(self, data: bytes) -> None:
        """Takes bytes from the client."""
        if self.state not in OVER:
            self._reader.receive(data)
            self._look()

    def half_closed(self) -> bool:
        """The client has ended its half; returns whether to keep the connection, because answers are due."""
        if self.state not in OVER:
            if self.flow is not READ:
                self._half_closed = True
                return True
            if not self._reader.is_empty:
                return False
            self._step(ALL)
        return len(self._answers) > 0

    def lost(self) -> None:
        """The connection is gone. Tasks that were taken stay; half a body is dropped."""
        was_writing = self.state is WRITING
        self._step(LOST)
        if self._body is not None and not was_writing:
            self._body.abort()

    @property
    def is_incomplete(self) -> bool:
        """Whether the client owes us bytes: the rest of a request, a body, or (in the plain dialect) any request at all."""
        if self.state in OVER or self.flow is not READ:
            return False  # we do not read
        return not (self._reader.is_empty and self.extended)

    @property
    def waits_for_us(self) -> bool:
        """Whether the client can only wait: answers are due, or its bytes are not read."""
        return len(self._answers) > 0 or self.flow is not READ

    def made_progress(self) -> bool:
        """Whether a whole request, or a good part of a body, has come since the last call: then its time starts again."""
        progress, self._progress = self._progress, False
        return progress

    def slow(self, *, reader: bool) -> None:
        """The client does not read its answers (or does again). Until then its requests wait."""
        self._answers.are_unread = reader
        self._balance()

    # -- requests --

    def _step(self, what: Input) -> None:
        try:
            self.state = TRANSITIONS[self.state][what]
        except KeyError:
            raise WrongInput(self.state, what) from None

    def _look(self) -> None:
        """Looks at the bytes that came, unless that is under way, or it is not this connection's turn."""
        if self._is_looking or self.flow is PUT_OFF:
            return
        self._is_looking = True
        try:
            while self._take_events():
                self.services.flush()
        finally:
            self._is_looking = False
        self.services.flush()
        self._balance()
        if self._half_closed and self.flow is READ:
            self._half_closed = False
            if not self.half_closed():
                self._link.close()

    def _take_events(self) -> bool:
        """Takes requests and bodies; returns whether sending the answers would make room for more."""
        turns, answers, taken = self.services.turns, self._answers, 0
        while self.state in LISTENING:
            if not taken % LOOK_EACH:
                if answers.are_full(1 if self.flow is READ else 2):
                    return answers.can_be_said
                if (taken >= TAKEN_AT_ONCE or turns.is_over) and not self._reader.is_empty:
                    self._wait(PUT_OFF)
                    turns.put_off(self._go_on)
                    break
            taken += 1
            try:
                event = self._reader.next_event()
                if event is None:
                    break
                if isinstance(event, Request):
                    self._progress = True
                    self._on_request(event)
                else:
                    self._on_body(event)
            except Refused as refusal:
                self._refuse_all(refusal)
        return False

    def _go_on(self) -> None:
        """Goes on: it is this connection's turn."""
        self.flow = HELD
        self._look()

    def _on_request(self, request: Request) -> None:
        if request.modifier2 == EXTENDED:
            self.extended = True
        elif self.extended:
            raise Refused(Reason.MALFORMED, f"modifier2 {request.modifier2} on a connection that began with {EXTENDED}")
        if not self.caller.is_allowed:
            text = f"requests from {self.caller.address} are not taken: the node's owner can name its network with --allow"
            self._refuse_all(Refused(Reason.FORBIDDEN, text), web=looks_like_web(request.block))
            return
        if request.modifier1 == PING:
            self._on_ping(request.block)
        else:
            self._on_task(request.block)
        if not self.extended and self.state is REQUEST:
            self._step(ALL)

    def _on_ping(self, block: bytes) -> None:
        services = self.services
        if not self.extended:
            self._answers.say(answer.PONG)
            return
        said = self.caller.introduce(read_hello(block), services.greet, services.low_watermark) if block else ()
        self._answers.say(answer.status_pong({**services.status(), **dict(said)}) if said else services.pong())

    def _on_task(self, block: bytes) -> None:
        services, caller = self.services, self.caller
        if block.startswith(OTHER_REQUESTS):
            spawn(services.answer(block, caller, self._answers.place(len(block))))
            return
        try:
            terms = read_terms(block, local=caller.is_local, peer=caller.link is not None)
        except Refused as refusal:
            self._answers.refuse(refusal, is_web=looks_like_web(block))
            self._pass_over(length_of_body(block))
            return
        place = self._answers.place(len(block))
        # In the extended dialect variables like HTTP_HOST are those of a task that is passed on, or of its sender.
        if terms.web and not self.extended:
            place.is_web = True
            if not (terms.body or self._reader.is_empty):
                # nginx sends such bodies for HTTP/2, without a header for the length. The body would be lost.
                place.refused(UNDELIMITED)
                self._step(WRONG)
                return
            block = without_secrets(block, services.keep_headers)
        if terms.destination and caller.link is None:
            place.note = services.unknown(terms.destination)
        try:
            task = services.admission.open(block, terms, place, caller.link, caller.said)
        except Refused as refusal:
            place.refused(refusal)
            self._pass_over(terms.body)
            return
        if task is not None:
            self._expect(task, place, terms.body)
        elif terms.body:
            self._skip(terms.body)

    def _pass_over(self, length: int | None) -> None:
        """Drops the body of a refused request, so that the next one is understood; ends the connection if that is too much."""
        if length is None or (length and (not self.extended or length > MAX_DROPPED)):
            self._step(WRONG)
        elif length:
            self._skip(length)

    def _skip(self, length: int) -> None:
        self._step(UNWANTED_BODY)
        self._reader.expect_body(length)

    def _refuse_all(self, refusal: Refused, *, web: bool = False) -> None:
        """Takes nothing more from this connection: says the reason, and ends it."""
        self.extended = self.extended or self._reader.dialect == EXTENDED
        self._answers.refuse(refusal, is_web=web or self._reader.expects_http)
        self._step(WRONG)

    # -- bodies --

    def _expect(self, task: InlineTask | Upload, place: AnswerPlace, length: int) -> None:
        """Waits for the body of a task that is taken."""
        gathered = self.services.admission.gathered
        if isinstance(task, InlineTask):
            self._body = SmallBody(task, place, gathered)
            self._step(SMALL_BODY)
        else:
            self._body = LargeBody(task, place, gathered)
            self._step(LARGE_BODY)
        if length:
            self._reader.expect_body(length)
        else:
            self._on_body(Body(b"", last=True))

    def _on_body(self, piece: Body) -> None:
        self._since_progress += len(piece.data)
        if piece.last or self._since_progress >= LEAST_PROGRESS:
            self._progress, self._since_progress = True, 0
        body = self._body
        if isinstance(body, SmallBody):
            if piece.last:
                self._answers.grow(body.place, body.take(piece.data))
                self._whole()
            else:
                body.add(piece.data)
        elif isinstance(body, LargeBody):
            if body.add(piece.data) or piece.last:
                self._step(PIECE)
                spawn(self._write_piece(body, last=piece.last))
        elif piece.last:  # of an unwanted one
            self._whole()

    def _whole(self) -> None:
        self._body = None
        self._step(WHOLE)
        if not self.extended:
            self._step(ALL)

    async def _write_piece(self, body: LargeBody, *, last: bool) -> None:
        """Writes what was gathered of a large body. The connection is not read meanwhile, but it may be lost."""
        is_written = await body.write(last=last)
        if self.state is GONE:
            if is_written and not last:
                body.abort()
        elif last:
            self._whole()
        elif is_written:
            self._step(WRITTEN)
        else:
            self._body = None
            self._pass_over(self._reader.body_left)
        self._link.touch()
        self._look()

    # -- answers --

    def flush(self) -> None:
        """Sends the answers whose turn has come."""
        due = self._answers.due()
        if self.state is GONE:
            return
        if due:
            self._link.write(due[0] if len(due) == 1 else b"".join(due))
        if (self.state in OVER and not len(self._answers)) or self._answers.are_over:
            if self.state is RUDE:
                self._link.linger()
            else:
                self._link.close()
        else:
            self._balance()

    # -- backpressure, in both directions --

    def _balance(self) -> None:
        """Reads on, or waits for room."""
        flow = self.flow
        if flow is PUT_OFF or self.state in (RUDE, GONE):
            return
        if self.state is WRITING or self._answers.are_full(2 if flow is HELD else 1):
            self._wait(HELD)
        elif flow is HELD:
            self.flow = READ
            self._progress = True  # its time starts when we read it again
            self._link.touch()
            self._link.resume()
            self._look()  # at the bytes that came before the pause

    def _wait(self, flow: Flow) -> None:
        """Stops reading."""
        if self.flow is READ:
            self._link.pause()
        self.flow = flow
