"""Opens connections to other nodes: within a time limit, and with the certificate checked before a byte is sent.

It cannot find out whether the other side takes *our* certificate. In TLS 1.3 the handshake is over for the client before the
server has checked it; a refusal comes with the first read, as the end of the connection (`refusal_of`).
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from spoolnode.cluster.lookup import look_up
from spoolnode.cluster.reasons import why
from spoolnode.cluster.timing import Timing
from spoolnode.cluster.trust import Trust
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import parse_address
from spoolnode.node.ingress.tls import SHUTDOWN_SECONDS, Untrusted, why_tls_failed
from spoolnode.protocol.errors import SpoolnodeError

P = TypeVar("P", bound=asyncio.BaseProtocol)

UNACKNOWLEDGED_MS = 15_000
"""Milliseconds that sent bytes may stay unacknowledged before the connection is given up (TCP_USER_TIMEOUT). The kernel also
counts the time in which the other side's buffer is full, even if it is alive. So this must be longer than a node under load may
stop reading, which is as long as an answer may take (10 s, while its disk syncs)."""
KEEPALIVE = (10, 5, 3)
"""Seconds of silence, seconds between probes, probes: for a connection on which nothing is under way."""


NO_TLS = ("SSLV3_ALERT_HANDSHAKE_FAILURE", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
"""OpenSSL's names for the answer of a node without a certificate, or of something else that is not TLS."""


class DialFailure(Enum):
    """The reason why the attempt failed."""

    REFUSED = "refused"
    """Nothing listens: the machine is up, the node is not."""
    UNREACHABLE = "unreachable"
    """No answer in time, no route, an unknown name; or it went away during the handshake."""
    UNTRUSTED = "untrusted"
    """It is not the node that it should be, or does not accept us."""


class DialError(SpoolnodeError):
    """The other side could not be reached, or not trusted. Nothing was sent to it."""

    def __init__(self, kind: DialFailure, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return self.text


class Dialed(NamedTuple, Generic[P]):
    """A connection."""

    transport: Any
    protocol: P
    name: str
    """The node's name in the other side's certificate; empty without TLS."""


async def dial(
    address: str, protocol_factory: Callable[[], P], trust: Trust | None, expected_name: str = "", limit: float = Timing.connect
) -> Dialed[P]:
    """Connects to a node. With `trust` its certificate is checked before the protocol exists.

    Args:
        address: host:port or [v6]:port; the addresses of a host name are tried one after the other.
        protocol_factory: makes the protocol, once, when all is well.
        trust: this node's certificates; None for a plain connection.
        expected_name: the name that the certificate must have; empty: any node's.
        limit: seconds for all of it.

    Raises:
        DialError: the connection failed; nothing was sent.
    """
    try:
        async with asyncio.timeout(limit):
            sock = await _connect(address, limit)
            if trust is None:
                transport, protocol = await asyncio.get_running_loop().create_connection(protocol_factory, sock=sock)
                return Dialed(transport, protocol, "")
            return await _shake_hands(sock, address, protocol_factory, trust, expected_name, limit)
    except TimeoutError:
        raise DialError(DialFailure.UNREACHABLE, f"{address} did not answer within {limit:g} s") from None


def refusal_of(error: BaseException | None, address: str) -> DialError | None:
    """The meaning of a connection's end (`connection_lost`) if the other side did not accept our certificate; else None."""
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return DialError(DialFailure.UNTRUSTED, f"{address}: {why_tls_failed(error)}")
    return None


class _Stranger(asyncio.Protocol, Generic[P]):
    """The protocol of a TLS connection until the other side's name has been checked."""

    def __init__(self, address: str, protocol_factory: Callable[[], P], trust: Trust, expected_name: str) -> None:
        self._address = address
        self._protocol_factory = protocol_factory
        self._trust = trust
        self._expected = expected_name
        self.known: Dialed[P] | None = None
        self.reason = ""

    def connection_made(self, transport: Any) -> None:
        try:
            name = self._trust.peer_name(transport.get_extra_info("ssl_object"))
        except Untrusted as error:
            self.reason = f"{self._address}: {error}"
        else:
            if self._expected in ("", name):
                self.known = Dialed(transport, self._protocol_factory(), name)
                self._trust.watch(transport)
                transport.set_protocol(self.known.protocol)
                self.known.protocol.connection_made(transport)
                return
            self.reason = f"the certificate at {self._address} is of the node {name!r}, not of {self._expected!r}"
        transport.abort()


async def _shake_hands(
    sock: socket.socket, address: str, protocol_factory: Callable[[], P], trust: Trust, expected_name: str, limit: float
) -> Dialed[P]:
    stranger: _Stranger[P] = _Stranger(address, protocol_factory, trust, expected_name)
    try:
        await asyncio.get_running_loop().create_connection(
            lambda: stranger, sock=sock, ssl=trust.client_context(), server_hostname="", ssl_handshake_timeout=limit,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )  # fmt: skip
    except ssl.SSLError as error:
        if error.reason in NO_TLS:
            raise DialError(DialFailure.UNTRUSTED, f"{address} does not speak TLS: that node has no certificate") from error
        raise DialError(DialFailure.UNTRUSTED, f"{address}: {why_tls_failed(error)}") from error
    except OSError as error:
        raise DialError(DialFailure.UNREACHABLE, f"{address}: {why_tls_failed(error)}") from error
    if stranger.known is None:
        raise DialError(DialFailure.UNTRUSTED, stranger.reason)
    return stranger.known


async def _connect(address: str, limit: float) -> socket.socket:
    """A connected socket, to the first address that answers. Each gets a share of the time that is left."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit
    places = await _resolve(address)
    errors: list[OSError] = []
    for number, (family, _, _, _, place) in enumerate(places):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _prepare(sock)
            async with asyncio.timeout((end - loop.time()) / (len(places) - number)):
                await loop.sock_connect(sock, place)
            return sock
        except OSError as error:  # a TimeoutError is one
            errors.append(error)
            sock.close()
        except BaseException:  # also when it is cancelled
            sock.close()
            raise
    if all(error.errno == errno.ECONNREFUSED for error in errors):
        raise DialError(DialFailure.REFUSED, f"nothing listens on {address}")
    worst = next(error for error in errors if error.errno != errno.ECONNREFUSED)
    reason = "it did not answer" if worst.errno is None else why(worst)
    raise DialError(DialFailure.UNREACHABLE, f"{address} cannot be reached: {reason}") from worst


async def _resolve(address: str) -> list[Any]:
    try:
        parsed = parse_address(address)
    except BadConfig as error:
        raise DialError(DialFailure.UNREACHABLE, str(error)) from error
    if isinstance(parsed, str):
        raise DialError(DialFailure.UNREACHABLE, f"{address} is not host:port")
    host, port = parsed
    try:
        return [place for found in await look_up(host) for place in _numeric(found, port)]
    except OSError as error:
        raise DialError(DialFailure.UNREACHABLE, f"the host of {address} has no address: {why(error)}") from error


def _numeric(address: str, port: int) -> list[Any]:
    """An IP address as a socket takes it, without a look-up."""
    return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)


def _prepare(sock: socket.socket) -> None:
    idle, pause, probes = KEEPALIVE
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
