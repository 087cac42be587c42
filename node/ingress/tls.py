"""TLS on the same port as plain requests: which connections begin with a ClientHello, and whose certificate they show.

The cluster supplies the certificates (`Certified`). This module peeks at the first byte of a connection. A ClientHello gets a
limited time to become a connection with a name; everything else is handled as a plain request.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from spoolnode.node.background import spawn
from spoolnode.node.ingress.services import Services
from spoolnode.protocol.errors import SpoolnodeError

CLIENT_HELLO = b"\x16"
"""The first byte of a TLS connection: modifier1 22 of uwsgi (code to be run), which is never taken."""
NO_TLS = bytes.fromhex("15 03 03 00 02 02 28")
"""A fatal alert, handshake_failure: the answer of a node without a certificate to a ClientHello."""
HANDSHAKE_SECONDS = 5.0
"""Limit on a handshake; an honest one takes milliseconds."""
SHUTDOWN_SECONDS = 5.0
"""Limit on the other side's confirmation that the connection ends."""
AT_ONCE = 128
"""Handshakes at once. One more ends the oldest one of the address that has the most: honest handshakes do not grow old."""
WAITING = 1024
"""The same limit for connections that have not sent a whole ClientHello. Each costs one descriptor, and they do not keep others
from shaking hands: an honest hello arrives whole, with the connection."""
MAX_HELLO = 5 + (1 << 14)
"""Size of the largest record that can hold a ClientHello, in bytes (RFC 8446, section 5.1)."""

handshake_error: ContextVar[list[ssl.SSLError]] = ContextVar("handshake_error")
"""`Certified.server_context` leaves the reason for a failed handshake here when it cannot raise it at once, because the alert
must leave first. The event loop offers no other way from its handshake to the coroutine that waits for it."""


class Untrusted(SpoolnodeError):
    """The other side erred: it showed no identity, or the wrong one. It got no answer."""


class Certified(Protocol):
    """This node's certificate, and the certificates that it accepts."""

    def server_context(self) -> ssl.SSLContext:
        """The context for incoming connections, with the newest certificates."""
        ...

    def peer_name(self, ssl_object: Any) -> str:
        """The node's name in the other side's certificate. Raises `Untrusted` if it has none."""
        ...

    def watch(self, transport: Any) -> None:
        """Closes the connection when one of the two certificates is no longer valid."""
        ...


def is_client_hello(data: bytes) -> bool:
    """Whether this begins with a whole ClientHello: a handshake record of any version that holds one."""
    return data[:2] == CLIENT_HELLO + b"\x03" and data[5:6] == b"\x01" and len(data) >= 5 + int.from_bytes(data[3:5], "big")


def why_tls_failed(error: BaseException) -> str:
    """The reason for a failed handshake, as a sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == LIST_EXPIRED:
            return "its certificate is not accepted: --tls-crl of this node has expired, so none can be"
        unknown = error.verify_code in UNKNOWN_ISSUER
        why = "it is signed by an authority that is not in --tls-ca" if unknown else error.verify_message
        return f"its certificate is not accepted: {why}"
    if isinstance(error, ssl.SSLError):
        words = (error.reason or str(error)).lower().replace("_", " ")
        for alert, meaning in ALERTS.items():
            if words.endswith(f"alert {alert}"):
                return f"it does not accept this node's certificate: {meaning}"
        return "it did not speak TLS" if words in RUBBISH else words
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "it did not finish the handshake in time"
    if isinstance(error, ConnectionError):
        return "it ended the connection during the handshake: it has no certificate, or does not accept this node's"
    return str(error)


LIST_EXPIRED = 12
"""X509_V_ERR_CRL_HAS_EXPIRED."""
UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
"""Codes of OpenSSL's verification (X509_V_ERR_...): no issuer found, self-signed, signature of another."""

RUBBISH = frozenset(
    {"bad record type", "data length too long", "decode error", "http request", "length mismatch", "length too short"}
    | {"packet length too long", "unexpected message", "wrong version number"}
)
"""OpenSSL's messages for bytes that are not a handshake."""

ALERTS = {
    "certificate required": "none was shown",
    "unknown ca": "it is of a CA that it does not know",
    "certificate expired": "it has expired",
    "certificate revoked": "it is revoked",
    "certificate unknown": "it cannot be used",
    "bad certificate": "it cannot be used",
    "unsupported certificate": "it is not for this use",
    "access denied": "access denied",
}
"""Alerts of a side that rejects a certificate (RFC 8446, section 6.2)."""


Named = Callable[[str], asyncio.Protocol]


class Handshakes:
    """Connections whose first byte or certificate is still awaited."""

    def __init__(self, trust: Certified, services: Services, patience: float, gone: Callable[[], None]) -> None:
        """
        Args:
            patience: seconds that a client may take for its first byte.
            gone: called when a connection ends here.
        """
        self.trust = trust
        self._services = services
        self._patience = patience
        self._gone = gone
        self._waiting: dict[Handshake, asyncio.Task[None]] = {}
        self._shaking: dict[Handshake, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<handshakes, {len(self._waiting)} waiting, {len(self._shaking)} under way>"

    def begin(self, sock: socket.socket, who: str, plain: Callable[[socket.socket], None], named: Named) -> None:
        """Finds out whether a new connection speaks TLS.

        Args:
            plain: gets a connection that does not speak TLS, with all its bytes still unread.
            named: makes the protocol of a TLS connection from the name in its certificate.
        """
        self._keep_below(self._waiting, WAITING)
        greeting = Handshake(self, sock, who, plain, named)
        task = spawn(greeting.run(self._patience))
        self._waiting[greeting] = task
        task.add_done_callback(lambda task: self._ended(task, greeting))

    def shakes(self, greeting: "Handshake") -> None:
        """Counts a connection whose hello has come: it costs CPU from now on."""
        self._keep_below(self._shaking, AT_ONCE)
        self._shaking[greeting] = self._waiting.pop(greeting)

    def drop_oldest(self) -> bool:
        """Ends the oldest connection that has not sent its hello, to free its place. Returns whether there was one."""
        if not self._waiting:
            return False
        self._drop(self._waiting, next(iter(self._waiting)))
        return True

    def _keep_below(self, group: "dict[Handshake, asyncio.Task[None]]", limit: int) -> None:
        if len(group) >= limit:
            ((most, _),) = Counter(greeting.who for greeting in group).most_common(1)
            self._drop(group, next(greeting for greeting in group if greeting.who == most))

    def _drop(self, group: "dict[Handshake, asyncio.Task[None]]", greeting: "Handshake") -> None:
        self.failed(greeting.who, f"it was the oldest of {len(group)} that were not done")
        group.pop(greeting).cancel()

    def close(self) -> None:
        """Ends all handshakes."""
        for task in [*self._waiting.values(), *self._shaking.values()]:
            task.cancel()

    def failed(self, who: str, reason: str) -> None:
        """Counts and logs a failed handshake."""
        self._services.count_handshake_failure()
        self._services.report_rarely("handshake_failed", peer=who, reason=reason)

    def _ended(self, task: "asyncio.Task[None]", greeting: "Handshake") -> None:
        self._waiting.pop(greeting, None)
        self._shaking.pop(greeting, None)
        if greeting.sock is not None:
            greeting.sock.close()
        if not greeting.handed_over:
            self._gone()
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failed(greeting.who, why_tls_failed(error))


class Handshake(asyncio.Protocol):
    """One handshake. It is also the connection's protocol until the name is checked; it receives no bytes."""

    def __init__(
        self, handshakes: Handshakes, sock: socket.socket, who: str, plain: Callable[[socket.socket], None], named: Named
    ) -> None:
        self.who = who
        self.sock: socket.socket | None = sock
        """The connection, while this object has to close it."""
        self.handed_over = False
        """Whether another object has the connection now."""
        self._handshakes = handshakes
        self._plain = plain
        self._named = named

    def __repr__(self) -> str:
        return f"<handshake with {self.who}{', handed over' if self.handed_over else ''}>"

    async def run(self, patience: float) -> None:
        """Runs it, from the first byte to the certificate. An exception is the reason why it failed."""
        assert self.sock is not None  # noqa: S101  # for the type checker
        try:
            async with asyncio.timeout(patience):
                first = await _beginning(self.sock)
        except TimeoutError:
            if not _has_begun(self.sock):
                return  # it sent nothing, so nothing was refused
            raise
        except OSError:
            return  # gone
        if first == CLIENT_HELLO:
            self._handshakes.shakes(self)
            await self._shake_hands()
        elif first:
            sock, self.sock, self.handed_over = self.sock, None, True
            self._plain(sock)

    async def _shake_hands(self) -> None:
        assert self.sock is not None  # noqa: S101  # for the type checker
        sock, self.sock = self.sock, None  # the loop closes it from now on
        failures: list[ssl.SSLError] = []
        handshake_error.set(failures)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self,
                sock,
                ssl=self._handshakes.trust.server_context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        except OSError as error:
            raise failures[0] if failures else error from None

    def connection_made(self, transport: Any) -> None:
        try:
            name = self._handshakes.trust.peer_name(transport.get_extra_info("ssl_object"))
        except Untrusted as error:
            self._handshakes.failed(self.who, str(error))
            transport.abort()
            return
        self.handed_over = True
        self._handshakes.trust.watch(transport)
        protocol = self._named(name)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


async def _beginning(sock: socket.socket) -> bytes:
    """Peeks at the first byte, once the next step has all it needs: the whole record of a ClientHello.

    Returns nothing if the other side is gone.
    """
    needed = 1
    while True:
        with contextlib.suppress(BlockingIOError):
            begun = sock.recv(MAX_HELLO, socket.MSG_PEEK)
            if len(begun) < needed and needed > 1:
                return b""  # the end of the connection woke it
            if len(begun) >= (needed := _needed(begun)):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return begun[:1]
            # The kernel wakes us once, when the rest is there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
        await _readable(sock)


def _has_begun(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def _needed(begun: bytes) -> int:
    """How many bytes a connection that begins like this must have before it is handed on; 0 if it is not TLS."""
    if begun[:1] != CLIENT_HELLO or begun[1:2] not in (b"", b"\x03") or begun[5:6] not in (b"", b"\x01"):
        return 0
    if len(begun) < 5:
        return 5
    size = 5 + int.from_bytes(begun[3:5], "big")
    return size if size <= MAX_HELLO else 0


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock)
