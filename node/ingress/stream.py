"""A conversation over a stream: the bytes of a connection that is not served at once (see `listener`)."""

import asyncio
import contextlib
import fcntl
import math
import termios
import time
from collections.abc import Callable
from struct import Struct
from typing import Any

from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import PUT_OFF, Conversation

LINGER_SECONDS = 5.0
"""For how long a refused client's bytes are read and dropped, so that it can read the reason."""
STUCK_SECONDS = 300.0
"""For how long a client may leave its answers unread. No requests are read meanwhile."""
COUNT = Struct("i")
"""The number of bytes that the kernel tells."""


class Stream(asyncio.Protocol):
    """One connection of a client: a `Connection` for its conversation, a `Guest` for the room."""

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
            return  # lingering: bytes that come now are dropped
        self.conversation.receive(data)
        self.touch()

    def eof_received(self) -> bool:
        if self._closing:
            return False
        # TLS cannot close one half: answers that were not sent yet are lost.
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
        """Whether the client owes us bytes. A refused client does not."""
        return self._closing or self.conversation.is_incomplete

    @property
    def has_unread(self) -> bool:
        """Whether bytes wait in the kernel, or requests that have come for their turn."""
        if self._transport.is_closing() or (sock := self._transport.get_extra_info("socket")) is None:
            return False
        (count,) = COUNT.unpack(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(COUNT.size)))
        return bool(count) or self.conversation.flow is PUT_OFF

    @property
    def waits_for_us(self) -> bool:
        """Whether the client can only wait."""
        return not self._closing and self.conversation.waits_for_us

    def give_way(self) -> None:
        """Closes the connection, so that another can have its place."""
        self._uncount()
        self._transport.abort()

    def pause_writing(self) -> None:
        self._stuck_since = time.monotonic()
        self.conversation.slow(reader=True)

    def resume_writing(self) -> None:
        self._stuck_since = math.inf
        self.conversation.slow(reader=False)

    # -- used by the conversation --

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        self._transport.write(data)

    def close(self) -> None:
        """Closes the connection when all answers are sent."""
        self._transport.close()

    def linger(self) -> None:
        """Like `close`, for a client that is still sending: closing now would reset the connection and lose the answer."""
        if self._closing:
            return
        self._closing = True
        self._is_paused = False
        self.since = time.monotonic()
        with contextlib.suppress(OSError, NotImplementedError):
            self._transport.write_eof()
        self._transport.resume_reading()

    def pause(self) -> None:
        """Stops reading for now."""
        self._is_paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _pause_again(self) -> None:
        if self._is_paused and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Reads again."""
        self._is_paused = False
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def touch(self) -> None:
        """Notes that the client has done something. Its time starts again if the conversation counts that as progress."""
        if self.conversation.made_progress():
            self.since = time.monotonic()
            self._connections.room.progressed(self)

    def sweep(self, now: float, limit: float) -> None:
        """Ends the connection if it took too long."""
        if self._closing:
            if now - self.since > LINGER_SECONDS:
                self._transport.abort()
        elif (self.conversation.is_incomplete and now - self.since > limit) or now - self._stuck_since > STUCK_SECONDS:
            self._transport.abort()  # it does not finish its request, or does not read its answers
