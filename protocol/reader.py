"""Bytes of a connection -> requests and bodies, whatever the fragmentation. It has no socket: feed it and ask it.

    reader.receive(data)
    while (event := reader.next_event()) is not None: ...

After a `Request` whose body follows, the owner calls `expect_body(length)` before it asks for more.
"""

from typing import NamedTuple

from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import HEADER, MAX_BLOCK, PING, SPOOL_REQUEST, WEB_REQUEST
from spoolnode.protocol.request import looks_like_web

_TAKEN = (SPOOL_REQUEST, PING)
_READ_FIRST = (*_TAKEN, WEB_REQUEST)
"""Packets that are read whole if they come first on a connection. A web request is refused, but its variables tell in which
language."""
_METHODS = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ")
_FIRST_OF_METHODS = frozenset(method[:1] for method in _METHODS)


class Request(NamedTuple):
    """A whole packet: its modifiers and its block of variables, not decoded."""

    modifier1: int
    modifier2: int
    block: bytes


class Body(NamedTuple):
    """The next piece of the expected body; `last` if it is the end."""

    data: bytes
    last: bool


class RequestReader:
    """The receiving half of one connection.

    Memory: at most one block (`max_block`) plus what one `receive` brought.
    """

    def __init__(self, max_block: int = MAX_BLOCK) -> None:
        self._max_block = max_block
        self._buffer = b""
        self._position = 0
        self._body_left = 0
        self._readable: tuple[int, ...] = _READ_FIRST
        self._is_web = False

    def __repr__(self) -> str:
        buffered = len(self._buffer) - self._position
        return f"<RequestReader {buffered} bytes buffered, {self._body_left} of a body to come>"

    @property
    def is_empty(self) -> bool:
        """Whether the connection stands between two requests."""
        return self._position == len(self._buffer) and not self._body_left

    @property
    def dialect(self) -> int | None:
        """modifier2 of the packet that is coming; None if a node does not take it, or its header is not there yet."""
        packet = self._buffer[self._position : self._position + HEADER.size]
        if self._body_left or len(packet) < HEADER.size or packet[0] not in (SPOOL_REQUEST, PING):
            return None
        return packet[3]

    @property
    def expects_http(self) -> bool:
        """Whether the refused request came from a web server, or is HTTP itself, as a browser sends it."""
        return self._is_web or (not self._body_left and self._buffer.startswith(_METHODS, self._position))

    @property
    def body_left(self) -> int:
        """Bytes of the expected body that are still to come."""
        return self._body_left

    def receive(self, data: bytes) -> None:
        """Takes bytes from the connection; stores them, nothing more."""
        if self._position < len(self._buffer):
            data = self._buffer[self._position :] + data
        self._buffer = data
        self._position = 0

    def expect_body(self, length: int) -> None:
        """The next `length` bytes are the body of the request just returned."""
        self._body_left = length

    def next_event(self) -> Request | Body | None:
        """The next event, or None when more bytes are needed.

        Raises:
            Refused: a node does not take this packet. The connection is of no further use.
        """
        if self._body_left:
            return self._next_body()
        buffer, start = self._buffer, self._position
        if len(buffer) - start < 4:
            # The first byte alone tells a packet that no node takes (HTTP, TLS, code-running modifiers).
            if len(buffer) > start and buffer[start] not in self._readable:
                raise _unknown_modifier(buffer[start])
            return None
        modifier1, size, modifier2 = HEADER.unpack_from(buffer, start)
        if modifier1 not in self._readable:
            raise _unknown_modifier(modifier1)
        if size > self._max_block:
            raise _too_large(size, self._max_block)
        end = start + 4 + size
        if end > len(buffer):
            return None
        if modifier1 == WEB_REQUEST:
            self._is_web = looks_like_web(buffer[start + 4 : end])
            raise _web_request()
        self._position = end
        self._readable = _TAKEN
        return Request(modifier1, modifier2, buffer[start + 4 : end])

    def _next_body(self) -> Body | None:
        data = self._buffer[self._position : self._position + self._body_left]
        if not data:
            return None
        self._position += len(data)
        self._body_left -= len(data)
        return Body(data, last=not self._body_left)


def _web_request() -> Refused:
    return Refused(
        Reason.MALFORMED,
        f"this is a web request (modifier1 {WEB_REQUEST}); to store a task add `uwsgi_modifier1 {SPOOL_REQUEST};` "
        "beside `uwsgi_pass` in nginx",
    )


def _unknown_modifier(modifier1: int) -> Refused:
    if bytes([modifier1]) in _FIRST_OF_METHODS:
        return Refused(Reason.MALFORMED, "this port speaks uwsgi, not HTTP; in nginx use `uwsgi_pass` instead of `proxy_pass`")
    return Refused(
        Reason.MALFORMED,
        f"the packet has modifier1 {modifier1}; a node takes only {SPOOL_REQUEST} (spool) and {PING} (ping)",
    )


def _too_large(size: int, limit: int) -> Refused:
    return Refused(Reason.TOO_LARGE, f"the variables take {size} bytes; this node takes at most {limit} (--buffer-size)")
