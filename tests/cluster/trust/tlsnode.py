"""Two sides of a connection in one event loop (uvloop, as nodes have it): a real listener with real conversations, whose
admission stores nothing, and a client that says requests.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from support import PATIENCE

from spoolnode.cluster.trust import Trust
from spoolnode.node.config import Config
from spoolnode.node.ingress.listener import Listener, bind_all
from spoolnode.node.ingress.services import Services
from spoolnode.protocol.packet import EXTENDED, PLAIN, SPOOL_REQUEST, encode_variables, packet

T = TypeVar("T")

ONE = packet(SPOOL_REQUEST, encode_variables([(b"n", b"1")]), PLAIN)
LINK = packet(SPOOL_REQUEST, encode_variables([(b"n", b"1")]), EXTENDED)


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine as a node would."""

    async def limited() -> T:
        async with asyncio.timeout(PATIENCE * 2):
            return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(limited())


class Admission:
    """Takes everything, keeps it in memory."""

    def __init__(self) -> None:
        self.taken: list[tuple[bytes, bytes]] = []

    def limit_uploads(self, limit: int) -> None:
        """Fine."""

    def open(self, block: bytes, terms: Any, waiter: Any, link: Any = None, caller: str = "") -> None:
        """Taken."""
        self.taken.append((block, b""))
        waiter.stored(f"id{len(self.taken)}")

    def open_prompt(self, block: bytes, terms: Any, waiter: Any, caller: str) -> None:
        """Taken, and said at once."""
        waiter.safe()
        self.open(block, terms, waiter, caller=caller)


class OpenNode:
    """A listener on a free port of 127.0.0.1, for the length of an `async with`.

    Args:
        stranger: whether plain clients count as strangers, though they are on this machine.
    """

    def __init__(self, directory: Path, trust: Trust | None, *, stranger: bool = False, **settings: Any) -> None:
        self.admission = Admission()
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self._config = Config(listen=["127.0.0.1:0"], **settings)
        self._trust = trust
        self._stranger = stranger
        self._socket = str(directory / "own.sock")

    async def __aenter__(self) -> "OpenNode":
        self.services = Services(self.admission, lambda: {"name": "it"}, self._report, self._report)  # type: ignore[arg-type] # a fake
        stranger = self._stranger

        class OneOfTwo(Listener):
            def _is_allowed(self, host: str) -> bool:
                return not stranger and super()._is_allowed(host)

        self.listener = OneOfTwo(self._config, self.services, bind_all(self._config), self._socket, self._trust)
        self.listener.open()
        return self

    async def __aexit__(self, *args: object) -> None:
        self.listener.close()
        await self.listener.close_streams()
        await until(lambda: not self.listener.connections.count, "all connections are gone")

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.listener.addresses[0]

    @property
    def names(self) -> list[str]:
        """The names in the certificates of those who are connected now."""
        return [stream.conversation.caller.certified for stream in self.listener.connections.streams]

    def failures(self) -> list[str]:
        """Why handshakes failed."""
        return [details["reason"] for action, details in self.reports if action == "handshake_failed"]

    def _report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))


class Talk(asyncio.Protocol):
    """The bytes of the other side, and how it ended."""

    def __init__(self, say: bytes = b"") -> None:
        self.said = b""
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: Any = None
        self._say = say

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self._say:
            transport.write(self._say)

    def data_received(self, data: bytes) -> None:
        self.said += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Returns when it is so; no sleep is long."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not in time: {what}"
        await asyncio.sleep(0.005)


async def plain(address: str, data: bytes = b"") -> Talk:
    """A connection without TLS."""
    host, _, port = address.rpartition(":")
    talk: Talk
    _, talk = await asyncio.get_running_loop().create_connection(lambda: Talk(data), host, int(port))
    return talk


async def over(address: str, context: ssl.SSLContext, data: bytes = b"") -> Talk:
    """A TLS connection of a client that looks at nothing."""
    host, _, port = address.rpartition(":")
    talk: Talk
    _, talk = await asyncio.get_running_loop().create_connection(
        lambda: Talk(data), host, int(port), ssl=context, server_hostname=""
    )
    return talk


def careless(certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """A client that takes any server, and shows what it is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
