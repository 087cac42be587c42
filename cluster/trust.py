"""Mutual TLS 1.3: this node's certificate, the authorities whose nodes are peers, and the name in a peer's certificate.

A certificate says which node it is for in one URI among its alternative names:

    spoolnode://node.spoolnode.internal/NAME

It is a URI because a node's name may hold upper case, `_` and dots, which a DNS name does not have, or does not tell apart. Its
host never changes and does not exist; the authority's name constraint needs it. OpenSSL checks that the certificate comes from
one of our authorities. The name is compared here, by both sides, before a byte is sent (Python's own `check_hostname` knows
only DNS names, so it is off).

An open link is closed when one of the two certificates expires or is revoked, or its authority is removed (`close_ended`).

This needs only the standard library; `cryptography` is for making certificates (`ca`) and for lists of revoked ones
(`revoked`). To check its own certificate, a node makes a handshake with itself, in memory, exactly as peers will do.
"""

import contextlib
import math
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from spoolnode.cluster.revoked import Revoked, read_revoked
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.ingress.tls import UNKNOWN_ISSUER, Untrusted, handshake_error, why_tls_failed
from spoolnode.protocol.names import is_node_name

HOST = "node.spoolnode.internal"
URI = f"spoolnode://{HOST}/"
"""The part before the name."""
WARN_SECONDS = 30 * 86400.0
"""Seconds before the end of a certificate in which the node warns about it."""
NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl.VerifyFlags` does not name."""
EXPIRED, NOT_YET_VALID, REVOKED = 10, 9, 23
FLIGHTS = 8
"""More steps than a handshake in memory takes."""


def uri_of(name: str) -> str:
    """The URI in the certificate of the node with this name."""
    return URI + name


def name_in(certificate: Any) -> str:
    """The node's name in a certificate, as `getpeercert()` gives it.

    Raises:
        Untrusted: it has none, or several.
    """
    pairs = (certificate or {}).get("subjectAltName", ())
    names: list[str] = [value[len(URI) :] for kind, value in pairs if kind == "URI" and value.startswith(URI)]
    if len(names) != 1 or not is_node_name(names[0]):
        raise Untrusted(f"its certificate names {len(names)} nodes; it must name one, as {uri_of('NAME')}")
    return names[0]


class _AlertFirst(ssl.SSLObject):
    """The server's side of a handshake. If it fails, the alert with the reason leaves before the connection ends.

    An event loop drops a connection whose handshake raised, with the alert unsent, so the client would see only a reset.
    Therefore the first failure asks for more bytes instead, which makes the loop send the alert. Then the client closes the
    connection, or the next bytes or the handshake's time limit do. The waiting coroutine finds the reason in `handshake_error`.
    """

    def do_handshake(self) -> None:
        """One step."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            failures = handshake_error.get(None)
            if failures is None or failures or "ALERT" in (error.reason or ""):
                raise  # nothing waits for it; the second time; the client has told the reason itself
            failures.append(error)
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert leaves first") from error


class _Contexts(NamedTuple):
    """All that comes from one reading of the files."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    name: str
    until: float
    """When the certificate ends, in seconds since 1970."""
    authorities: frozenset[Any]
    """The names of the authorities whose certificates are accepted, as `getpeercert()` gives them."""
    revoked: Revoked


class _Open(NamedTuple):
    """A connection that is open, and the other side's certificate."""

    transport: Any
    name: str
    until: float
    issuer: Any
    serial: tuple[str, int]


class Trust:
    """This node's certificates in force; a `node.ingress.tls.Certified`."""

    def __init__(self, certificate: str, key: str, authorities: str, name: str, revoked: str = "") -> None:
        """
        Args:
            certificate: the path of this node's certificate.
            key: the path of its key.
            authorities: the path of the authorities' certificates, one after the other. During a rotation it holds two.
            name: this node's name, which must be the certificate's.
            revoked: the path of the lists of revoked certificates; empty if there are none.

        Raises:
            BadConfig: they do not fit together, or cannot be used now.
        """
        self._paths = certificate, key, authorities, revoked
        self._name = name
        self._now = _contexts(*self._paths, name)
        self._open: list[_Open] = []

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """The certificates of a node; None if it has none. Raises BadConfig as the constructor does."""
        if not config.tls_cert:
            return None
        return cls(config.tls_cert, config.tls_key, config.tls_ca, config.name, config.tls_crl)

    def reload(self, report: Callable[..., None]) -> bool:
        """Reads the files again. If they are not in order the old ones stay in force, and the log says so.

        It takes some milliseconds; may be called in any thread.
        """
        try:
            self._now = _contexts(*self._paths, self._name)
        except BadConfig as error:
            report("tls_reload_failed", reason=str(error), kept="the old certificates stay in force")
            return False
        lists = {"revoked": len(self._now.revoked.serials)} if self._paths[3] else {}
        report("tls_reloaded", certificate=self._paths[0], until=_date(self._now.until), **lists)
        return True

    def server_context(self) -> ssl.SSLContext:
        """For connections that come."""
        return self._now.server

    def client_context(self) -> ssl.SSLContext:
        """For connections that this node opens. Its users must check `peer_name` before they send anything."""
        return self._now.client

    def peer_name(self, ssl_object: Any) -> str:
        """The node's name in the other side's certificate.

        Raises:
            Untrusted: it does not name one.
        """
        return name_in(ssl_object.getpeercert())

    def watch(self, transport: Any) -> None:
        """Watches an open connection whose `peer_name` was checked: it is closed when the certificate is no longer good."""
        ssl_object = transport.get_extra_info("ssl_object")
        certificate = ssl_object.getpeercert()
        self._open.append(
            _Open(
                transport, self.peer_name(ssl_object), ssl.cert_time_to_seconds(certificate["notAfter"]), certificate["issuer"],
                (_rfc4514(certificate["issuer"]), int(certificate["serialNumber"], 16)),
            )
        )  # fmt: skip

    def close_ended(self, now: float, report: Callable[..., None]) -> None:
        """Closes open connections on which one side's certificate is no longer good; `now`: seconds since 1970."""
        still, self._open = self._open, []
        for one in still:
            if one.transport.is_closing():
                continue
            if why := self._why_over(one, now):
                one.transport.abort()
                report("link_closed", peer=one.name, reason=why)
            else:
                self._open.append(one)

    def _why_over(self, one: _Open, now: float) -> str:
        if self.expires_in(now) <= 0:
            return f"this node's certificate ended on {_date(self._now.until)}"
        if one.until <= now:
            return f"the certificate of {one.name} ended on {_date(one.until)}"
        if one.serial in self._now.revoked.serials:
            return f"the certificate of {one.name} is revoked (--tls-crl)"
        if one.issuer not in self._now.authorities:
            return f"the authority of the certificate of {one.name} is no longer in --tls-ca"
        return ""

    def expires_in(self, now: float) -> float:
        """Seconds for which this node's certificate is still valid."""
        return self._now.until - now

    @property
    def until(self) -> float:
        """When no node is accepted any more: this node's certificate, or a list of revoked ones, expires. Since 1970."""
        return min(self._now.until, self._now.revoked.until)

    def expiry_warning(self, now: float) -> str:
        """A sentence if the certificate ends soon, or has ended; otherwise empty."""
        left = self.expires_in(now)
        if left > WARN_SECONDS:
            return ""
        ends = f"ends in {int(left // 86400)} days, on" if left > 0 else "ended on"
        return (
            f"--tls-cert {self._paths[0]} {ends} {_date(self._now.until)}: issue another with `spoolnode ca issue "
            f"{self._name}`, put it in its place and reload this node"
        )

    def lists_warning(self, now: float) -> str:
        """The same for the lists of revoked certificates."""
        until = self._now.revoked.until
        if until - now > WARN_SECONDS:
            return ""
        ends = "ends" if until > now else "has expired: no node is accepted now. It ended"
        return (
            f"--tls-crl {self._paths[3]} {ends} on {_date(until)}: write it again with `spoolnode ca revoke`, put it in its "
            "place and reload this node"
        )


def _contexts(certificate: str, key: str, authorities: str, lists: str, name: str) -> _Contexts:
    for option, path in (("--tls-cert", certificate), ("--tls-key", key), ("--tls-ca", authorities)):
        _check_readable(option, path)
    revoked = read_revoked(lists, authorities) if lists else Revoked(frozenset(), math.inf)
    if revoked.until <= time.time():
        raise BadConfig(f"--tls-crl {lists} has expired, on {_date(revoked.until)}: write it again with `spoolnode ca revoke`")
    server = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authorities, lists)
    server.num_tickets = 0  # a resumed session would not be checked again, but an expiry or a reload counts at once
    server.sslobject_class = _AlertFirst
    client = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authorities, lists)
    own = _own(certificate, key, authorities)
    if (found := _name_in_own(own, certificate)) != name:
        raise BadConfig(f"--tls-cert {certificate} is for the node {found!r}, but this node's --name is {name!r}")
    try:
        _shake_hands(client, server)
    except ssl.SSLError as error:
        raise BadConfig(_why(error, own, certificate, authorities)) from error
    taken = frozenset(authority["subject"] for authority in client.get_ca_certs())
    return _Contexts(server, client, found, ssl.cert_time_to_seconds(own["notAfter"]), taken, revoked)


def _context(protocol: int, certificate: str, key: str, authorities: str, lists: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # see above: the name is in a URI
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise BadConfig(f"--tls-key {key} is not the key of --tls-cert {certificate}") from error
        raise BadConfig(
            f"--tls-cert {certificate} or --tls-key {key} is not in PEM form: the one must begin with BEGIN CERTIFICATE, "
            "the other with BEGIN PRIVATE KEY"
        ) from error
    try:
        context.load_verify_locations(cafile=authorities)
    except ssl.SSLError as error:
        raise BadConfig(f"--tls-ca {authorities} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from error
    if lists:
        context.load_verify_locations(cafile=lists)  # `revoked` has read it
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _no_password(key: str) -> str:
    raise BadConfig(
        f"--tls-key {key} is encrypted, and a node cannot ask for a password: store it unencrypted, readable only by its owner"
    )


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise BadConfig(f"{option} {path} cannot be read: {error.strerror}") from error


def _own(certificate: str, key: str, authorities: str) -> dict[str, Any]:
    """The contents of this node's certificate, even if it is not valid now."""
    client = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key, authorities)
    client.verify_flags |= NO_CHECK_TIME
    server = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key, authorities)
    server.verify_mode = ssl.CERT_NONE
    try:
        return _shake_hands(client, server)
    except ssl.SSLError as error:
        raise BadConfig(_why(error, {}, certificate, authorities)) from error


def _name_in_own(own: dict[str, Any], certificate: str) -> str:
    try:
        return name_in(own)
    except Untrusted:
        raise BadConfig(
            f"--tls-cert {certificate} names no node: among its alternative names must be one URI {uri_of('NAME')}, "
            "as `spoolnode ca issue NAME` makes it"
        ) from None


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """Makes a handshake in memory. Returns what the client learns about the server's certificate."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = client.wrap_bio(to_client, to_server)
    called = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (caller, called) * FLIGHTS:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    found: dict[str, Any] = caller.getpeercert() or {}
    return found


def _why(error: ssl.SSLError, own: dict[str, Any], certificate: str, authorities: str) -> str:
    """Why peers would not take this node's certificate."""
    code = getattr(error, "verify_code", 0)
    until = ssl.cert_time_to_seconds(own["notAfter"]) if own else math.inf
    if code in UNKNOWN_ISSUER:
        return f"--tls-cert {certificate} is not signed by any authority of --tls-ca {authorities}"
    if code == EXPIRED and until <= time.time():
        return f"--tls-cert {certificate} ended on {_date(until)}: issue another with `spoolnode ca issue`"
    if code == EXPIRED:
        return f"--tls-ca {authorities}: the authority that signed --tls-cert {certificate} has expired; make another"
    if code == REVOKED:
        return f"--tls-cert {certificate} is revoked: issue another with `spoolnode ca issue`"
    if code == NOT_YET_VALID and own:
        since = _date(ssl.cert_time_to_seconds(own["notBefore"]))
        return f"--tls-cert {certificate} is valid only from {since}: is the clock of this machine right?"
    return f"--tls-cert {certificate} would not be accepted by peers: {why_tls_failed(error)}"


_SHORT = {"commonName": "CN", "userId": "UID", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}


def _rfc4514(name: Any) -> str:
    """A name from `getpeercert()` in the form of RFC 4514. Our authorities have only a common name."""
    return ",".join("+".join(f"{_SHORT.get(key, key)}={value}" for key, value in part) for part in reversed(name))


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
