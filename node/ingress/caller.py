"""The other end of a connection: its address, its certificate, and the link that it is once a node has said hello."""

import secrets
from collections.abc import Callable
from typing import Any

from spoolnode.node.neighbours import Greeting
from spoolnode.node.spool.sequence import Key
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.hello import Hello
from spoolnode.protocol.keys import NONCE_SIZE

Greet = Callable[[Hello, str, str, str], Greeting]
"""Takes a hello, the address that it came from, the name in the certificate, and the nonce of the connection.
Raises `Refused` when that node is not welcome."""
HearWatermark = Callable[[Key, int], None]
"""Takes a link, and the number below which it will send nothing more."""


class Caller:
    """The other end of one connection."""

    __slots__ = ("_hello", "_nonce", "address", "certified", "is_allowed", "is_local", "link", "said")

    def __init__(self, address: str, *, is_local: bool, is_allowed: bool, certified: str = "") -> None:
        self.address = address
        """A host, or `unix`."""
        self.is_local = is_local
        """Whether it is a program on this machine, which may send pickled arguments; a link never is."""
        self.is_allowed = is_allowed
        """Whether its requests are taken."""
        self.certified = certified
        """The name in its certificate; empty without one."""
        self.link: Key | None = None
        """The node that sends, and the destination of this link; None when it is not a link."""
        self.said = address
        """Its name, for the stories of its tasks: its address, after its name if it is a link of a node."""
        self._hello: Hello | None = None
        self._nonce = ""
        """The nonce for the proof of its key; empty before the first hello."""

    def __repr__(self) -> str:
        return f"<caller {self.address}{f', link of {self.link[0]} to {self.link[1]}' if self.link else ''}>"

    def introduce(self, hello: Hello, greet: Greet, hear_watermark: HearWatermark) -> tuple[tuple[str, Any], ...]:
        """Takes its hello, the first one or one with a new low watermark; returns what to tell it. Raises `Refused`."""
        before = self._hello or hello
        if (hello[:4], hello.public) != (before[:4], before.public):
            raise Refused(Reason.FORBIDDEN, f"this connection is that of node {before.id} ({before.name})")
        self._nonce = self._nonce or secrets.token_hex(NONCE_SIZE)
        greeting = greet(hello, self.address, self.certified, self._nonce)
        self._hello = hello
        if hello.to and greeting.sender:
            self.link, self.is_local = (greeting.sender, hello.to), False
            self.said = f"{hello.name} ({self.address})"
            if greeting.is_proved:
                hear_watermark(self.link, hello.low_watermark)
        return greeting.said

    @property
    def node(self) -> str:
        """The name of the node that it is, once its hello was taken; else empty."""
        return self._hello.name if self._hello is not None else ""
