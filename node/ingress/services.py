"""The node, as its conversations share it: what they ask of it, what it counts, and which of them have answers to send."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.caller import Caller, Greet, HearWatermark
from spoolnode.node.neighbours import Greeting
from spoolnode.node.turns import Turns
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason, Refused


class Talker(Protocol):
    """A conversation, as its answers see it."""

    services: "Services"
    caller: Caller
    extended: bool
    """Whether it speaks the extended dialect."""

    def flush(self) -> None:
        """Sends the answers whose turn has come."""


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
    """Variables of web visitors that are stored although they look like secrets."""
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
