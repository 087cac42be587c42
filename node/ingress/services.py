"""Shared by all conversations of a node: questions to the node, counters, and the list of those with answers to send."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.caller import Caller, Greet, HearWatermark
from spoolnode.node.neighbours import Greeting
from spoolnode.node.turns import Turns
from spoolnode.protocol import answer, cancel, fetch, operate
from spoolnode.protocol.cancel import CancelAnswer, CancelRequest, is_cancel, read_cancel
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.fetch import Fetched, Question, read_question
from spoolnode.protocol.operate import Operation, OperationAnswer, is_operation, read_operation

OTHER_REQUESTS = (*fetch.BEGINNINGS, cancel.BEGINNING, operate.BEGINNING)
"""Beginnings of the requests that are not tasks. (One look: every request is looked at.)"""


class Asker(Protocol):
    """The place of one answer in the order of its connection."""

    def say(self, data: bytes) -> None:
        """Notes the answer."""

    def refused(self, refusal: Refused) -> None:
        """Notes that the request is refused."""


class Talker(Protocol):
    """A conversation, as its answers see it."""

    services: "Services"
    caller: Caller
    extended: bool
    """Whether it speaks the extended dialect."""

    def flush(self) -> None:
        """Sends the answers whose turn has come."""


class OtherRequests(NamedTuple):
    """Requests that are not tasks. All may wait."""

    fetch: Callable[[Question], Awaitable[Fetched]]
    """Answers a question about a result or a story."""
    cancel: Callable[[CancelRequest, Caller], Awaitable[CancelAnswer]]
    """Cancels a task."""
    operate: Callable[[Operation, Caller], Awaitable[OperationAnswer]]
    """Does what an operator of another node asks for."""


@dataclass(repr=False)
class Services:
    """The node, as conversations use it."""

    admission: Admission
    status: Callable[[], dict[str, Any]]
    report: Callable[..., None]
    report_rarely: Callable[..., None]
    greet: Greet = lambda hello, _address, _certified, _nonce: Greeting(hello.id, is_proved=True)
    low_watermark: HearWatermark = lambda _link, _watermark: None
    unknown: Callable[[str], str] = lambda _destination: ""
    """A sentence for the sender of a task to a destination that is not known; empty when it is."""
    refusals: dict[Reason, int] = field(default_factory=dict)
    talking: set[Talker] = field(default_factory=set)
    """Conversations with answers to send."""
    turns: Turns = field(default_factory=Turns)
    handshake_failures: int = 0
    """TLS connections that failed before a node or a client was known."""
    keep_headers: frozenset[bytes] = frozenset()
    """Headers of web visitors that are stored although they may be secrets (`--keep-header`)."""
    other_requests: OtherRequests | None = None
    _said: dict[str, Any] = field(default_factory=dict)
    _pong: bytes = b""

    def __repr__(self) -> str:
        return f"<services, {len(self.talking)} conversations with answers, refusals {self.refusals}, {self.admission!r}>"

    def count_refusal(self, refusal: Refused) -> None:
        """Counts a refused request."""
        self.refusals[refusal.reason] = self.refusals.get(refusal.reason, 0) + 1

    def count_handshake_failure(self) -> None:
        """Counts a TLS connection that failed before a node or a client was known."""
        self.handshake_failures += 1

    async def answer(self, block: bytes, caller: Caller, asker: Asker) -> None:
        """Answers one of `OTHER_REQUESTS` when the answer is known."""
        try:
            requests = self.other_requests
            if requests is None:
                raise Refused(Reason.BUSY, "this node does not answer yet")
            if is_cancel(block):
                asker.say((await requests.cancel(read_cancel(block), caller)).encode())
            elif is_operation(block):
                asker.say((await requests.operate(read_operation(block), caller)).encode())
            else:
                asker.say((await requests.fetch(read_question(block))).encode())
        except Refused as refusal:
            asker.refused(refusal)
        except OSError as error:
            asker.refused(Refused(Reason.BUSY, f"this node cannot read its disk: {error.strerror or error}; ask again later"))
        self.flush()

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
