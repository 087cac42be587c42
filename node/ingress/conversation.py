"""What is said on one connection: requests in, answers out, in order. No socket: bytes in, a `Connection` to write to.

In the plain dialect there is one request; whatever follows is ignored, as uWSGI does. In the extended dialect (modifier2
1) requests are pipelined, and an answer waits until all before it are said. A refused request spoils nothing for the next
one: its body is read and dropped, unless it is large; then the connection ends.

What one connection can take of the node's memory is bounded, and so is what all can: answers that nobody reads, requests that
wait for their commit, bodies that come slowly.
"""

import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from spoolnode.node.background import spawn
from spoolnode.node.ingress.admission import Admission, InlineTask
from spoolnode.node.ingress.pieces import Pieces
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.neighbours import Greeting
from spoolnode.node.spool.sequence import Key
from spoolnode.node.turns import Turns
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.headers import without_secrets
from spoolnode.protocol.hello import Hello, read_hello
from spoolnode.protocol.keys import NONCE_SIZE
from spoolnode.protocol.packet import EXTENDED, PING
from spoolnode.protocol.reader import Body, Request, RequestReader
from spoolnode.protocol.request import Terms, length_of_body, looks_like_web, read_terms

TAKEN_AT_ONCE = 32
"""Requests of one connection that are taken before others have their turn."""
MAX_PIPELINED = 8192
"""Unanswered requests of one connection; then it is not read until half of them are answered."""
MAX_UNANSWERED = 8 << 20
"""Bytes of the unanswered requests of one connection, likewise: they are in memory until their commit is done."""
MAX_UNSENT = 1 << 18
"""Bytes of answers made for one connection before they are sent; then its next requests wait."""
LEAST_PROGRESS = 4096
"""Bytes of a body (or its end) that must come within --request-timeout: a byte now and then is no progress."""
MAX_DROPPED = 1 << 20
"""The largest body of a refused request that is read and dropped, in bytes; a larger one ends the connection."""
UNDELIMITED = Refused(
    Reason.LENGTH_REQUIRED,
    "a body came without its length: add `uwsgi_param CONTENT_LENGTH $content_length;` to nginx",
)


class Connection(Protocol):
    """A connection, as a conversation needs it."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def linger(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def touch(self) -> None: ...


@dataclass
class Services:
    """A node, as conversations need it."""

    admission: Admission
    status: Callable[[], dict[str, Any]]
    report: Callable[..., None]
    report_rarely: Callable[..., None]
    greet: Callable[[Hello, str, str, str], Greeting] = lambda hello, _peer, _certified, _nonce: Greeting(
        hello.id, is_proved=True
    )
    """Hears who introduces itself, from where, with which name in its certificate, on a connection with which nonce.
    Raises `Refused` when it is not welcome."""
    low_watermark: Callable[[Key, int], None] = lambda _link, _watermark: None
    """Hears below which number a link will send nothing more."""
    unknown: Callable[[str], str] = lambda _destination: ""
    """What to tell who sends to a destination that nobody is known to be; empty when somebody is."""
    refusals: dict[Reason, int] = field(default_factory=dict)
    talking: set["Conversation"] = field(default_factory=set)
    """Those with answers that are ready to be sent."""
    turns: Turns = field(default_factory=Turns)
    handshake_failures: int = 0
    """TLS connections that did not become anybody's."""
    keep_headers: frozenset[bytes] = frozenset()
    """Variables of web visitors that are stored although they look like secrets."""
    _said: dict[str, Any] = field(default_factory=dict)
    _pong: bytes = b""

    def count_refusal(self, refusal: Refused) -> None:
        """One more request refused."""
        self.refusals[refusal.reason] = self.refusals.get(refusal.reason, 0) + 1

    def count_handshake_failure(self) -> None:
        """One more TLS connection that did not become anybody's."""
        self.handshake_failures += 1

    def pong(self) -> bytes:
        """The extended answer to a ping, made once for each status."""
        status = self.status()
        if status is not self._said:
            self._said, self._pong = status, answer.status_pong(status)
        return self._pong

    def flush(self) -> None:
        """Sends every answer that is ready."""
        talking, self.talking = self.talking, set()
        for conversation in talking:
            conversation.flush()


class AnswerPlace:
    """The place of one answer in the order of its connection; a `Waiter`."""

    __slots__ = ("_conversation", "_web", "data", "note", "size", "unsent")

    def __init__(self, conversation: "Conversation", web: bool, size: int = 0) -> None:
        self._conversation = conversation
        self._web = web
        self.data = b""
        self.note = ""
        """What the sender should know when it is stored."""
        self.size = size
        """Bytes of its request that are in memory until it is said."""
        self.unsent = 0
        """Bytes of it when it was ready at once: such answers could be made without end."""

    def stored(self, task_id: str, copies: int = 1) -> None:
        """The task is safe."""
        if self._web:
            self.data = answer.http_stored(task_id, copies, self.note)
        elif self._conversation.extended and self.note:
            self.data = answer.stored_noted(task_id, self.note)
        elif self._conversation.extended:
            self.data = answer.stored(task_id) if copies == 1 else answer.stored_copies(task_id, copies)
        else:
            self.data = answer.STORED
        self._conversation.services.talking.add(self._conversation)

    def refused(self, refusal: Refused) -> None:
        """The task is not taken."""
        conversation = self._conversation
        conversation.services.count_refusal(refusal)
        conversation.services.report_rarely(
            "refused", peer=conversation.peer, why=refusal.reason.name.lower(), reason=refusal.text
        )
        if self._web:
            self.data = answer.http_refused(refusal)
        elif conversation.extended:
            self.data = answer.refused(refusal)
        else:
            self.data = answer.REFUSED
        conversation.services.talking.add(conversation)


class Coming(NamedTuple):
    """A body that is coming: what it is for, where its answer goes, and what is here of it."""

    task: InlineTask | Upload
    place: AnswerPlace
    pieces: Pieces


class Conversation:
    """One connection, from its first byte to its last."""

    def __init__(
        self, services: Services, link: Connection, peer: str, *, local: bool, allowed: bool, max_block: int, certified: str = ""
    ) -> None:
        self.services = services
        self.peer = peer
        self.certified = certified
        """The node's name in the certificate of the other side; empty when it has shown none."""
        self.extended = False
        self._link = link
        self._local = local
        self._allowed = allowed
        self._reader = RequestReader(max_block)
        self._answers: deque[AnswerPlace] = deque()
        self._unanswered = 0
        """Bytes of the requests of these."""
        self._over = False
        """Nothing more is read: one request is all, or something went wrong."""
        self._rude = False
        """The other side is still sending something that we do not want."""
        self._blocked = False
        """A piece of a body is being written; the rest waits."""
        self._put_off = False
        """What came is more than one turn of the loop has time for."""
        self._paused = False
        self._slow_reader = False
        self._gone = False
        self._half_closed = False
        """The other side sends no more, and what came before is not looked at yet."""
        self._pumping = False
        self._unsent = 0
        """Bytes of pongs that are made and not sent."""
        self._coming: Coming | None = None
        """The body that is coming."""
        self._skipping = False
        """Or a body that is not wanted is coming: its task is refused, or stored already."""
        self._progress = False
        self._since_progress = 0
        """Bytes of a body that came since the last time it counted."""
        self._hello: Hello | None = None
        """Who is at the other end, when it is a node."""
        self._nonce = ""
        """What it has to prove its key with, as soon as it has said hello."""
        self._link_key: Key | None = None
        """The link that this connection is, when it is one."""

    # -- bytes in --

    def receive(self, data: bytes) -> None:
        """Bytes came."""
        if not self._over:
            self._reader.receive(data)
            self._pump()

    def half_closed(self) -> bool:
        """The other side sends no more; whether it should be kept, because answers are still due."""
        if self._paused and not self._over:
            self._half_closed = True
            return True
        if not self._over and (self._coming is not None or not self._reader.is_empty):
            return False
        self._over = True
        return bool(self._answers)

    def lost(self) -> None:
        """The connection is gone. What was taken stays; a body that did not come whole is nothing."""
        self._gone = self._over = True
        if self._coming is not None and not self._blocked:
            if isinstance(self._coming.task, Upload):
                self._coming.task.abort()
            self._drop_body()

    @property
    def is_incomplete(self) -> bool:
        """Whether the client owes us bytes: a request begun, a body, or (in the plain dialect) any request at all."""
        if self._over or self._paused:
            return False  # what we do not read cannot come
        return self._coming is not None or not self._reader.is_empty or not self.extended

    @property
    def waits_for_us(self) -> bool:
        """Whether the client can do nothing but wait: answers are due, or its bytes are not read."""
        return bool(self._answers) or self._paused

    def made_progress(self) -> bool:
        """Whether the client's time starts anew: a whole request, or a piece of a body, has come since the last call."""
        progress, self._progress = self._progress, False
        return progress

    def slow(self, *, reader: bool) -> None:
        """The other side does not read its answers (or does again): then its requests wait."""
        self._slow_reader = reader
        self._balance()

    # -- requests --

    def _pump(self) -> None:
        if self._pumping or self._put_off:
            return  # it goes on as soon as what brought us here is done, or in its turn
        self._pumping = True
        try:
            while self._take_events():
                self.services.flush()
        finally:
            self._pumping = False
        self.services.flush()
        self._balance()
        if self._half_closed and not self._paused:
            self._half_closed = False
            if not self.half_closed():
                self._link.close()

    def _take_events(self) -> bool:
        """Looks at what has come; whether there may be more of it once the answers are sent."""
        turns, taken = self.services.turns, 0
        while not self._over and not self._blocked:
            if self._is_full:
                return bool(self._answers and self._answers[0].data) and not self._slow_reader  # else sending changes nothing
            if (taken >= TAKEN_AT_ONCE or turns.is_over) and not self._reader.is_empty:
                self._put_off = True
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
                break
        return False

    def _go_on(self) -> None:
        """It is this connection's turn again."""
        self._put_off = False
        self._pump()

    def _on_request(self, request: Request) -> None:
        if request.modifier2 == EXTENDED:
            self.extended = True
        elif self.extended:
            raise Refused(Reason.MALFORMED, f"modifier2 {request.modifier2} on a connection that began with {EXTENDED}")
        if not self._allowed:
            text = f"requests from {self.peer} are not taken: the node's owner can name its network with --allow"
            self._refuse_all(Refused(Reason.FORBIDDEN, text), web=looks_like_web(request.block))
            return
        if request.modifier1 == PING:
            self._on_ping(request.block)
        else:
            self._on_task(request.block)
        if not self.extended and self._coming is None:
            self._over = True

    def _on_ping(self, block: bytes) -> None:
        said = self._on_hello(read_hello(block)) if block and self.extended else ()
        place = AnswerPlace(self, web=False)
        if said:
            place.data = answer.status_pong({**self.services.status(), **dict(said)})
        else:
            place.data = self.services.pong() if self.extended else answer.PONG
        place.unsent = len(place.data)
        self._unsent += place.unsent
        self._answers.append(place)
        self.services.talking.add(self)

    def _on_hello(self, hello: Hello) -> tuple[tuple[str, str], ...]:
        """A node says who it is, or says it again with a new low watermark; what to tell it. Raises `Refused`."""
        before = self._hello or hello
        if (hello[:4], hello.public) != (before[:4], before.public):
            raise Refused(Reason.FORBIDDEN, f"this connection is that of node {before.id} ({before.name})")
        self._nonce = self._nonce or secrets.token_hex(NONCE_SIZE)
        greeting = self.services.greet(hello, self.peer, self.certified, self._nonce)
        self._hello = hello
        if hello.to and greeting.sender:
            self._link_key = greeting.sender, hello.to
            if greeting.is_proved:
                self.services.low_watermark(self._link_key, hello.low_watermark)
        return greeting.said

    def _on_task(self, block: bytes) -> None:
        try:
            terms = read_terms(block, local=self._local and self._link_key is None, peer=self._link_key is not None)
        except Refused as refusal:
            self._place(looks_like_web(block)).refused(refusal)
            self._pass_over(length_of_body(block))
            return
        if terms.web and not self.extended:
            block = without_secrets(block, self.services.keep_headers)
        place = self._place(terms.web, len(block))
        if terms.web and not (terms.body or self.extended or self._reader.is_empty):
            # As nginx does it for HTTP/2: a body, and no header that says so. It would be lost.
            place.refused(UNDELIMITED)
            self._end_rudely()
            return
        try:
            self._begin(block, terms, place)
        except Refused as refusal:
            place.refused(refusal)
            self._pass_over(terms.body)

    def _begin(self, block: bytes, terms: Terms, place: AnswerPlace) -> None:
        """Takes a task whose body, if it has one, is still to come. Raises `Refused`."""
        admission = self.services.admission
        if terms.destination and self._link_key is None:
            place.note = self.services.unknown(terms.destination)
        task = admission.open(block, terms, place, self._link_key)
        if terms.body:
            self._reader.expect_body(terms.body)
        if task is None:
            self._skipping = bool(terms.body)
            return
        self._coming = Coming(task, place, Pieces(admission.gathered))
        if not terms.body:
            self._on_body(Body(b"", last=True))

    def _pass_over(self, length: int | None) -> None:
        """A request was refused: what follows it on the connection is understood when its body has been dropped."""
        if length == 0:
            return
        if not self.extended or length is None or length > MAX_DROPPED:
            self._end_rudely()
            return
        self._skipping = True
        self._reader.expect_body(length)

    def _place(self, web: bool, size: int = 0) -> AnswerPlace:
        # In the extended dialect variables like HTTP_HOST are those of a task that is passed on, or of its sender.
        place = AnswerPlace(self, web and not self.extended, size)
        self._answers.append(place)
        self._unanswered += size
        return place

    def _on_body(self, body: Body) -> None:
        self._since_progress += len(body.data)
        if body.last or self._since_progress >= LEAST_PROGRESS:
            self._progress, self._since_progress = True, 0
        if self._skipping:
            self._skipping = not body.last
            return
        coming = self._coming
        assert coming is not None  # noqa: S101  # for the type checker
        coming.pieces.add(body.data)
        if isinstance(coming.task, Upload):
            if body.last or coming.pieces.are_enough:
                self._blocked = True
                spawn(self._write_piece(coming.task, coming, last=body.last))
        elif body.last:
            self._take_whole(coming.task, coming)

    def _take_whole(self, task: InlineTask, coming: Coming) -> None:
        body, place = coming.pieces.joined(), coming.place
        self._drop_body()
        place.size += len(body)
        self._unanswered += len(body)
        try:
            task.take(body)
        except Refused as refusal:
            place.refused(refusal)
        if not self.extended:
            self._over = True

    def _drop_body(self) -> None:
        """It is whole, or nothing."""
        if self._coming is not None:
            self._coming.pieces.drop()
            self._coming = None

    async def _write_piece(self, upload: Upload, coming: Coming, *, last: bool) -> None:
        """Writes what was gathered of a large body; the connection is not read meanwhile."""
        try:
            try:
                await upload.write(coming.pieces.joined())
            finally:
                coming.pieces.drop()
            if last:
                await upload.finish(coming.place)
        except Refused as refusal:
            coming.place.refused(refusal)
            self._coming = None
            if not last:
                self._pass_over(self._reader.body_left)
        if last:
            self._coming = None
            self._over = self._over or not self.extended
        elif self._gone and self._coming is not None:
            upload.abort()
            self._coming = None
        self._blocked = False
        self._link.touch()
        self._pump()

    def _refuse_all(self, refusal: Refused, *, web: bool = False) -> None:
        """Nothing more is taken from this connection: the reason is said once, and it ends."""
        self.extended = self.extended or self._reader.dialect == EXTENDED
        self._place(web or self._reader.expects_http).refused(refusal)
        self._end_rudely()

    def _end_rudely(self) -> None:
        self._over = self._rude = True

    # -- answers --

    def flush(self) -> None:
        """Sends the answers whose turn has come."""
        ready = []
        while self._answers and self._answers[0].data:
            said = self._answers.popleft()
            self._unanswered -= said.size
            self._unsent -= said.unsent
            ready.append(said.data)
        if self._gone:
            return
        if ready:
            self._link.write(ready[0] if len(ready) == 1 else b"".join(ready))
        if self._over and not self._answers:
            if self._rude:
                self._link.linger()
            else:
                self._link.close()
        else:
            self._balance()

    def _balance(self) -> None:
        """Reads on, or does not: backpressure in both directions."""
        if self._gone or self._rude:
            return
        wanted = self._blocked or self._put_off or self._is_full
        if wanted != self._paused:
            self._paused = wanted
            if wanted:
                self._link.pause()
            else:
                self._progress = True  # its time begins when we read it again
                self._link.touch()
                self._link.resume()
                self._pump()  # what came before it was paused

    @property
    def _is_full(self) -> bool:
        """Whether nothing more is to be taken before some of it is answered, and read."""
        share = 2 if self._paused else 1
        return (
            self._slow_reader
            or len(self._answers) > MAX_PIPELINED // share
            or self._unanswered > MAX_UNANSWERED // share
            or self._unsent > MAX_UNSENT // share
        )
