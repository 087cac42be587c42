"""One connection without its socket: the requests under way on it, in order. The shells `blocking` and `aio` move the bytes.

A server acts only on a whole request. So what is certain about a task follows from how much of its request was given to the
kernel:

    given      the connection ends       time is up                its caller goes away
    nothing    not stored, sent again    not stored                it is never sent
    a part     not stored, sent again    not stored                the rest may follow
    all        in doubt: `Unanswered`    in doubt: `TimedOut`      in doubt

`Endpoint` sends a task again on another connection, but never one that is in doubt. Answers come in the order of the
requests. A connection is in one of four states:

    OPEN      takes requests
    DOUBTFUL  has just refused one, and some refusals end a connection: it takes only `QUESTION`
    RETIRED   takes no requests; those under way still get their answers
    ENDED     no more answers come

    OPEN      -- a refusal -->         DOUBTFUL
    DOUBTFUL  -- any other answer -->  OPEN
    both      -- retire, cut -->       RETIRED
    all       -- end -->               ENDED
"""

from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Generic, TypeVar

from spoolnode.client.deadline import Deadline
from spoolnode.errors import TimedOut, Unanswered, Unreachable
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.errors import BadPacket
from spoolnode.wire import MAY_BE_STORED, NOT_STORED, QUESTION, Address, Message, is_refusal

MOST_PIECES = 256
"""Buffers that are given to the kernel together; it takes up to 1,024."""


class Unsent(Exception):
    """The connection ended before the request was sent whole: nothing was stored, and another connection may be tried."""


class Doubtful(Exception):
    """Nothing was sent: the connection has just refused something, and that may have been its end."""


class Given(Enum):
    """How much of a request the kernel has."""

    NOTHING = "nothing"
    PART = "a part"
    ALL = "all"


class PipelineState(Enum):
    """See the top of this file."""

    OPEN = "open"
    DOUBTFUL = "doubtful"
    RETIRED = "retired"
    ENDED = "ended"


class Exchange:
    """One request and its result."""

    __slots__ = ("answer", "deadline", "failure", "given", "has_left", "is_settled", "message", "rest")

    def __init__(self, message: Message, deadline: Deadline) -> None:
        self.message = message
        self.deadline = deadline
        self.given = Given.NOTHING
        self.rest: list[bytes | memoryview] = [*message.pieces()]
        """The pieces that the kernel has not taken yet."""
        self.answer: Answer | None = None
        self.failure = ""
        """The reason why no answer will come."""
        self.is_settled = False
        """Whether its answer has come, or certainly never will."""
        self.has_left = False
        """Whether its caller has gone away."""

    def __repr__(self) -> str:
        end = "answered" if self.answer is not None else self.failure or "unanswered"
        return f"<Exchange: {self.given.value} sent, {end}{', its caller has left' if self.has_left else ''}>"

    def settle(self, answer: Answer | None, failure: str = "") -> None:
        """Notes that its answer has come, or never will."""
        self.answer = answer
        self.failure = failure
        self.is_settled = True


E = TypeVar("E", bound=Exchange)
Result = Answer | Unsent | Unreachable | Unanswered
"""Of one of many requests: the answer, or why there is none. What is `Unsent` may be sent on another connection."""


class Pipeline(Generic[E]):
    """The requests under way on one connection. The shell tells the callers of those that are returned as settled."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self.state = PipelineState.OPEN
        self.is_open = True
        """Whether it takes requests; a doubtful one takes `QUESTION`."""
        self.is_doubtful = False
        """Whether `QUESTION` has to be asked first."""
        self._unsent: deque[E] = deque()
        """Requests that the kernel has not taken whole."""
        self._unanswered: deque[E] = deque()
        self._callers = 0
        self._reader = AnswerReader()

    def __repr__(self) -> str:
        return (
            f"<Pipeline to {self._address}: {self.state.value}, {len(self._unanswered)} unanswered, {len(self._unsent)} unsent>"
        )

    def _enter(self, state: PipelineState) -> None:
        self.state = state
        self.is_open = state in (PipelineState.OPEN, PipelineState.DOUBTFUL)
        self.is_doubtful = state is PipelineState.DOUBTFUL

    @property
    def is_idle(self) -> bool:
        """Whether it has no callers."""
        return not self._callers

    @property
    def has_unsent(self) -> bool:
        """Whether the kernel has not taken everything."""
        return bool(self._unsent)

    @property
    def first_waiting(self) -> E | None:
        """The first in the line whose caller is still there."""
        for exchange in self._unanswered:
            if not exchange.has_left:
                return exchange
        return None

    @property
    def is_over(self) -> bool:
        """Whether the socket is of no further use."""
        return not self._callers and not self.is_open

    # --- sending ---

    def begin(self, exchange: E) -> None:
        """Takes a request. It has a caller until `leave`.

        Raises:
            Unsent: this connection takes no further requests.
            Doubtful: ask `QUESTION` first.
        """
        if not self.is_open:
            raise Unsent
        if self.is_doubtful and exchange.message is not QUESTION:
            raise Doubtful
        self._callers += 1
        self._unsent.append(exchange)
        self._unanswered.append(exchange)

    def unsent(self) -> list[bytes | memoryview]:
        """The pieces to give to the kernel next, in this order; none after the end."""
        if self.state is PipelineState.ENDED:
            return []
        if len(self._unsent) == 1:
            return self._unsent[0].rest
        pieces: list[bytes | memoryview] = []
        for exchange in self._unsent:
            pieces += exchange.rest
            if len(pieces) >= MOST_PIECES:
                break
        return pieces

    def sent(self, count: int) -> None:
        """Notes that the kernel has taken `count` bytes."""
        while count:
            exchange = self._unsent[0]
            piece = exchange.rest[0]
            if count < len(piece):
                exchange.rest[0] = memoryview(piece)[count:]
                count = 0
            else:
                del exchange.rest[0]
                count -= len(piece)
            if exchange.rest:
                exchange.given = Given.PART
            else:
                exchange.given = Given.ALL
                self._unsent.popleft()
            exchange.deadline.progress()

    def cut(self) -> list[E]:
        """Ends sending. Returns the requests that this settles: nothing of them was sent. Others may still be answered."""
        self.retire()
        unsent: list[E] = []
        self._unsent.clear()
        while self._unanswered and self._unanswered[-1].given is Given.NOTHING:  # both lines have the same order
            exchange = self._unanswered.pop()
            exchange.settle(None, "the connection broke")
            unsent.append(exchange)
        return unsent

    # --- receiving ---

    def receive(self, data: bytes) -> list[E]:
        """Takes bytes from the node; none if it has closed the connection. Returns the requests that they settle."""
        if not data:
            return self.end("the connection was closed")
        settled: list[E] = []
        try:
            for answer in self._reader.answers(data):
                if not self._unanswered:
                    return [*settled, *self.end("sent an unexpected answer")]
                exchange = self._unanswered.popleft()
                exchange.settle(answer)
                exchange.deadline.progress()
                settled.append(exchange)
                if self.is_open and is_refusal(answer) is not self.is_doubtful:
                    self._enter(PipelineState.OPEN if self.is_doubtful else PipelineState.DOUBTFUL)
        except BadPacket as error:
            settled += self.end(f"sent bytes that are not an answer ({error})")
        return settled

    def end(self, failure: str) -> list[E]:
        """Ends the connection: no more answers come. Returns the requests that still waited for one."""
        self._enter(PipelineState.ENDED)
        settled = [*self._unanswered]
        self._unanswered.clear()
        for exchange in settled:
            exchange.settle(None, failure)
        return settled

    # --- going away ---

    def retire(self) -> None:
        """Takes no further requests."""
        if self.is_open:
            self._enter(PipelineState.RETIRED)

    def leave(self, exchange: E) -> None:
        """Its caller goes, with or without an answer. Without one, its place in the line stays, to keep the order."""
        if not exchange.is_settled and exchange not in self._unanswered:
            return  # it has not begun
        self._callers -= 1
        exchange.has_left = True
        if exchange.given is Given.NOTHING and not exchange.is_settled:
            self._unsent.remove(exchange)
            self._unanswered.remove(exchange)

    def result(self, exchange: E) -> Answer:
        """The answer to a settled request.

        Raises:
            Unsent: the request was not sent whole.
            Unanswered: it was sent whole.
        """
        if exchange.answer is not None:
            return exchange.answer
        if exchange.given is not Given.ALL:
            raise Unsent(exchange.failure)
        raise Unanswered(f"{self._address}: {exchange.failure} before it answered; {MAY_BE_STORED}")

    def results(self, exchanges: Iterable[E]) -> "list[Result]":
        """Of each request the answer, or the reason why there is none."""
        results: list[Result] = []
        for exchange in exchanges:
            if not exchange.is_settled:
                results.append(self.too_late(exchange))
                continue
            try:
                results.append(self.result(exchange))
            except (Unsent, Unanswered) as error:
                results.append(error)
        return results

    def too_late(self, exchange: E) -> Unreachable | TimedOut:
        """The error for an unsettled request whose time is up."""
        if exchange.given is Given.ALL:
            return TimedOut(f"{self._address}: no answer within {exchange.deadline.seconds:g} s; {MAY_BE_STORED}")
        what = "the task was" if exchange.given is Given.PART else "other tasks were"
        return Unreachable(f"{self._address}: timed out while {what} being sent; {NOT_STORED}")


def broken(error: OSError) -> str:
    """Why a connection ended with an error."""
    return f"the connection broke ({error.strerror or error})"
