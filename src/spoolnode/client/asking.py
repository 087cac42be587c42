"""Connections for questions about tasks: one node after the other is tried, until one listens."""

import socket
from collections.abc import Iterator

from spoolnode.errors import Unreachable
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.wire import Address, SocketAddress

TYPE_CHECKING = False  # as in the package itself: an application imports this
if TYPE_CHECKING:
    import asyncio

SILENCE = 5.0
"""Seconds that a connection may take, and an answer beyond the time that the node was told to wait."""
PIECE_READ = 1 << 16


def first(reader: AnswerReader, data: bytes) -> Answer | None:
    """The answer, once these bytes complete it. Raises ConnectionError after the last of them, and `BadPacket`."""
    if not data:
        raise ConnectionError("the connection ended")
    return next(reader.answers(data), None)


def _places(address: Address) -> Iterator[tuple[Address, SocketAddress]]:
    for place in address.places or (address,):
        for target in place.targets:
            yield place, target


def connect(address: Address) -> socket.socket:
    """A connection to a node. Raises `Unreachable`."""
    problem: Exception = Unreachable(f"{address}: no node can be asked there")
    for place, target in _places(address):
        try:
            return socket.create_connection(target, SILENCE) if isinstance(target, tuple) else _connected_unix(target)
        except OSError as error:
            problem = Unreachable(f"{place}: cannot connect: {error.strerror or error}{place.hint}")
    raise problem


def _connected_unix(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(SILENCE)
    try:
        connected.connect(path)
    except OSError:
        connected.close()
        raise
    return connected


async def aconnect(address: Address) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
    """As `connect`, without blocking the loop."""
    import asyncio

    problem: Exception = Unreachable(f"{address}: no node can be asked there")
    for place, target in _places(address):
        try:
            async with asyncio.timeout(SILENCE):
                if isinstance(target, tuple):
                    return await asyncio.open_connection(*target)
                return await asyncio.open_unix_connection(target)
        except OSError as error:
            problem = Unreachable(f"{place}: cannot connect: {error.strerror or error}{place.hint}")
    raise problem
