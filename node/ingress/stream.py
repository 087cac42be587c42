"""A conversation over a stream: the bytes of one connection, for any client that is not served at once (see `listener`)."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import Conversation

LINGER_SECONDS = 5.0
"""How long a refused client's bytes are read and thrown away, so that it gets to read the reason."""
STUCK_SECONDS = 300.0
"""How long a client may leave its answers unread: it is held back at once, but it may have something else to do."""


class Stream(asyncio.Protocol):
    """One connection of a client; to its conversation it is a `Connection`, to the room a `Guest`."""

    def __init__(
        self, connections: Connections, conversation_of: Callable[["Stream"], Conversation], first: bytes, *, stranger: bool,
        own: bool = False,
    ) -> None:  # fmt: skip
        self._connections = connections
        self._first = first
        self._stranger = stranger
        self._own = own
        self._counted = True
        self.conversation = conversation_of(self)
        self.since = time.monotonic()
        self._closing = False
        self._stuck_since = math.inf
        self._transport: Any = None
        self._is_tls = False
        self._is_paused = False

    def __repr__(self) -> str:
        return f"<stream{', closing' if self._closing else ''}{', paused' if self._is_paused else ''}: {self.conversation!r}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self._connections.enter(self, stranger=self._stranger, own=self._own)
        if self._first:
            self.data_received(self._first)
            if self._is_paused:  # a loop begins to read after this, whatever was asked meanwhile (uvloop)
                asyncio.get_running_loop().call_soon(self._pause_again)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return  # lingering: what comes now is thrown away
        self.conversation.receive(data)
        self.touch()

    def eof_received(self) -> bool:
        if self._closing:
            return False
        # TLS has no half of a connection: what has not been said yet is lost with the whole.
        return self.conversation.half_closed() and not self._is_tls

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.leave(self, stranger=self._stranger)
        self._uncount()
        self.conversation.lost()

    def _uncount(self) -> None:
        if self._counted:
            self._counted = False
            self._connections.gone()

    @property
    def is_incomplete(self) -> bool:
        """Whether the client owes us bytes; one that has been refused does not, and is not waited for."""
        return self._closing or self.conversation.is_incomplete

    @property
    def waits_for_us(self) -> bool:
        """Whether the client can do nothing but wait."""
        return not self._closing and self.conversation.waits_for_us

    def give_way(self) -> None:
        """Somebody else gets its place."""
        self._uncount()
        self._transport.abort()

    def pause_writing(self) -> None:
        self._stuck_since = time.monotonic()
        self.conversation.slow(reader=True)

    def resume_writing(self) -> None:
        self._stuck_since = math.inf
        self.conversation.slow(reader=False)

    # -- what a conversation asks of its link --

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        self._transport.write(data)

    def close(self) -> None:
        """Everything is said; the connection ends when it is sent."""
        self._transport.close()

    def linger(self) -> None:
        """Like `close`, but the other side is still sending: closing now would reset the connection and lose the answer."""
        if self._closing:
            return
        self._closing = True
        self._is_paused = False
        self.since = time.monotonic()
        with contextlib.suppress(OSError, NotImplementedError):
            self._transport.write_eof()
        self._transport.resume_reading()

    def pause(self) -> None:
        """No more bytes for now."""
        self._is_paused = True
        self._transport.pause_reading()

    def _pause_again(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Bytes again."""
        self._is_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def touch(self) -> None:
        """The client has done something; its time starts anew when the conversation says so."""
        if self.conversation.made_progress():
            self.since = time.monotonic()
            self._connections.room.progressed(self)

    def sweep(self, now: float, limit: float) -> None:
        """Ends a connection that took too long."""
        if self._closing:
            if now - self.since > LINGER_SECONDS:
                self._transport.abort()
        elif (self.conversation.is_incomplete and now - self.since > limit) or now - self._stuck_since > STUCK_SECONDS:
            self._transport.abort()  # it does not send what it began, or does not read what it asked for
