"""TLS on `--http`: the certificate in force, and connections whose handshake is under way.

Browsers and programs come here, not nodes: this certificate is for host names, of any authority, and clients show none. Links
between nodes have certificates of their own (`cluster.trust`).
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Self

from spoolnode.node.background import spawn
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config

HANDSHAKE_SECONDS = 5.0
"""Limit on a handshake; an honest one takes milliseconds."""


class HttpCertificate:
    """The certificate of `--http`, which can be replaced while the node runs."""

    def __init__(self, certificate: str, key: str) -> None:
        """
        Args:
            certificate: the path of the certificate, with those of the authorities between it and a known one.
            key: the path of its key.

        Raises:
            BadConfig: they cannot be used.
        """
        self._paths = certificate, key
        self._now = _context(certificate, key)
        self.context = _context(certificate, key)
        """For the server: each handshake takes the newest certificate."""
        self.context.sni_callback = self._give_newest

    def __repr__(self) -> str:
        return f"<HttpCertificate {self._paths[0]}>"

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """That of a node; None if it has none. Raises BadConfig as the constructor does."""
        return cls(config.http_tls_cert, config.http_tls_key) if config.http_tls_cert else None

    def reload(self, report: Callable[..., None]) -> None:
        """Reads the files again; may be called in any thread. If they cannot be used, the old certificate stays in force."""
        try:
            self._now = _context(*self._paths)
        except BadConfig as error:
            report("tls_reload_failed", reason=str(error), kept="the old certificate stays in force")
        else:
            report("tls_reloaded", certificate=self._paths[0])

    def _give_newest(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """OpenSSL calls it in each handshake, also without a name in the hello."""
        del name, context
        connection.context = self._now


def _context(certificate: str, key: str) -> ssl.SSLContext:
    for option, path in (("--http-tls-cert", certificate), ("--http-tls-key", key)):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise BadConfig(f"{option} {path} cannot be read: {error.strerror}") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        is_other = error.reason == "KEY_VALUES_MISMATCH"
        why = "is not the key of" if is_other else "is not in PEM form with a private key, or not"
        raise BadConfig(f"--http-tls-key {key} {why} --http-tls-cert {certificate}") from error
    return context


def _no_password(key: str) -> str:
    raise BadConfig(f"--http-tls-key {key} is encrypted, and a node cannot ask for a password: store it unencrypted")


class Securing(asyncio.Protocol):
    """A connection whose handshake is under way. It then belongs to a protocol of HTTP."""

    def __init__(self, certificate: HttpCertificate, make: Callable[[], asyncio.Protocol]) -> None:
        """
        Args:
            make: makes the protocol of HTTP.
        """
        self._certificate = certificate
        self._make = make
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Securing, {'under way' if self.is_under_way else 'done'}>"

    @property
    def has_begun(self) -> bool:
        """Whether the handshake has begun."""
        return self._task is not None

    @property
    def is_under_way(self) -> bool:
        """Whether the handshake has begun, and is not done."""
        return self._task is not None and not self._task.done()

    def connection_made(self, transport: Any) -> None:
        """Shakes hands on a duplicate of the socket: the loop may have read from a transport before TLS could begin on it."""
        try:
            sock = transport.get_extra_info("socket").dup()
        except OSError:
            return  # out of descriptors
        finally:
            transport.abort()
        self._task = spawn(self._shake_hands(sock))

    async def _shake_hands(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # of TLS, too: the client has gone, is too slow, or does not speak it
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make, sock, ssl=self._certificate.context, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )

    def abort(self) -> None:
        """Ends the connection."""
        if self._task is not None:
            self._task.cancel()
