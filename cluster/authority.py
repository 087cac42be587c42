"""A small certificate authority: a file with a key, a certificate, and one certificate for each node.

It is for setting nodes up, and may be on another machine; nodes need only the files that it writes. It is restricted to its
purpose: its certificates name nodes (`trust.uri_of`) and nothing else, so a stolen key opens no web site.
Needs the package `cryptography` (the extra `tls`), which is imported with this module.
"""

import contextlib
import ipaddress
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from spoolnode.cluster.revoked import END, lists_in, serials_of
from spoolnode.cluster.trust import HOST, URI, uri_of
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.protocol.names import RIGHT_NODE_NAME, is_node_name

CA_DAYS = 1825
NODE_DAYS = 365
ISSUED = "issued"
"""The file with a line for each certificate that was issued: serial number, name, last day."""
SUFFIX = HOST.partition(".")[2]
CLOCKS = timedelta(hours=1)
"""Certificates are dated back by this: clocks of other machines may be behind."""


class CaError(SpoolnodeError):
    """You erred: nothing was written."""


class Issued(NamedTuple):
    """The files that were written."""

    certificate: Path
    key: Path
    authority: Path
    """The authority's certificate: the node's --tls-ca."""
    until: datetime


class Revocation(NamedTuple):
    """The result of a revocation."""

    revoked: Path
    """The list: every node's --tls-crl."""
    certificates: int
    """Certificates that were added to it."""
    until: datetime


class Shown(NamedTuple):
    """A certificate, for people."""

    file: str
    subject: str
    name: str
    """The node's name; empty for an authority, or in a foreign certificate."""
    authority: bool
    until: datetime
    fingerprint: str
    """SHA-256 of the whole certificate."""
    revoked: bool
    """Whether the list beside it (ca.crl) revokes it."""

    def days_left(self, now: float) -> int:
        """Whole days until its end; below zero if it has passed."""
        return int((self.until.timestamp() - now) // 86400)


def init(directory: Path, days: int = CA_DAYS) -> Issued:
    """Makes an authority: `ca.crt` and `ca.key` in a directory, which is made if it does not exist.

    Raises:
        CaError: the directory has one already.
    """
    paths = directory / "ca.crt", directory / "ca.key"
    _check_free(*paths)
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own: during a rotation two authorities are trusted, and they are found by their names.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"spoolnode CA {secrets.token_hex(4)}")])
    builder = _builder(subject, subject, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(_constraints(), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(*paths, certificate, key)
    return Issued(*paths, paths[0], certificate.not_valid_after_utc)


def issue(directory: Path, name: str, days: int = NODE_DAYS, out: Path | None = None) -> Issued:
    """Makes `NAME.crt` and `NAME.key` for a node, in the authority's directory or in `out`.

    The certificate does not outlive its authority. For tests `days` may be below zero.

    Raises:
        CaError: the name cannot be a node's, the authority is missing, or the files exist already.
    """
    if not is_node_name(name):
        raise CaError(f"{name!r} cannot be a node's name; it must be {RIGHT_NODE_NAME}")
    authority, authority_key = _load(directory)
    paths = (out or directory) / f"{name}.crt", (out or directory) / f"{name}.key"
    _check_free(*paths)
    key = ec.generate_private_key(ec.SECP256R1())
    # The name is not the common name: with a dot in it OpenSSL would take it for a DNS name, which the authority may not sign.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "spoolnode node"), x509.NameAttribute(NameOID.USER_ID, name)])
    builder = _builder(subject, authority.subject, key.public_key(), days, authority.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(both, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri_of(name))]), critical=False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    certificate = builder.sign(authority_key, hashes.SHA256())
    if out is not None:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    _note(directory, name, certificate)
    _write(*paths, certificate, key)
    return Issued(*paths, directory / "ca.crt", certificate.not_valid_after_utc)


def revoke(directory: Path, name: str = "", file: Path | None = None, days: int = 0) -> Revocation:
    """Revokes certificates: writes the list `ca.crl` in the authority's directory, with those that are in it already.

    Args:
        name: the node whose certificates are revoked, all that were issued so far. Empty: the list is only written again.
        file: the file of one more certificate.
        days: how long the list is valid; 0: as long as the authority.

    Raises:
        CaError: such a certificate is not known here, or the directory has no authority.
    """
    authority, key = _load(directory)
    path = directory / "ca.crl"
    before = _revoked_in(path, authority)
    serials = _issued_to(directory, name, authority) if name else set()
    if file is not None:
        serials |= _serials_in(file, authority)
    if name and not serials:
        raise CaError(f"no certificate for {name} is known in {directory}: name its file with --cert FILE")
    now = datetime.now(UTC).replace(microsecond=0)
    until = min(now + timedelta(days=days), authority.not_valid_after_utc) if days else authority.not_valid_after_utc
    number = x509.CRLNumber(int(now.timestamp()))
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(min(now, until) - CLOCKS)
        .next_update(until)
    )
    builder = builder.add_extension(number, critical=False)
    for serial, when in {**dict.fromkeys(serials, now), **before}.items():
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when)
        builder = builder.add_revoked_certificate(entry.build())
    _replace(path, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Revocation(path, len(serials - before.keys()), until)


def _revoked_in(path: Path, authority: x509.Certificate) -> dict[int, datetime]:
    """Serial numbers in an existing list, with the time of their revocation."""
    if not path.exists():
        return {}
    try:
        found = x509.load_pem_x509_crl(_read(path))
    except ValueError as error:
        raise CaError(f"{path} is not a list of revoked certificates in PEM form: move it away") from error
    if found.issuer != authority.subject:
        raise CaError(f"{path} is the list of another authority: move it away")
    return {entry.serial_number: entry.revocation_date_utc for entry in found}


def _note(directory: Path, name: str, certificate: x509.Certificate) -> None:
    """Remembers an issued certificate, so that it can be revoked without its file."""
    path = directory / ISSUED
    try:
        with open(path, "a", encoding="ascii") as file:
            file.write(f"{certificate.serial_number:x} {name} {certificate.not_valid_after_utc:%Y-%m-%d}\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CaError(f"{path} cannot be written: {error.strerror}") from error


def _issued_to(directory: Path, name: str, authority: x509.Certificate) -> set[int]:
    """The serial numbers of all certificates for a node that are known here."""
    noted = directory / ISSUED
    rows = [line.split() for line in _read(noted).decode("ascii", "replace").splitlines()] if noted.exists() else []
    serials = {int(row[0], 16) for row in rows if row[1:2] == [name]}
    beside = directory / f"{name}.crt"
    return serials | (_serials_in(beside, authority) if beside.exists() else set())


def _serials_in(file: Path, authority: x509.Certificate) -> set[int]:
    try:
        found = x509.load_pem_x509_certificates(_read(file))
    except ValueError as error:
        raise CaError(f"{file} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from error
    if any(certificate.issuer != authority.subject for certificate in found):
        raise CaError(f"{file} is not a certificate of this authority, which cannot revoke it")
    return {certificate.serial_number for certificate in found}


def show(file: Path) -> list[Shown]:
    """Every certificate in a file.

    Raises:
        CaError: the file has none, or the list of revoked ones beside it cannot be read.
    """
    data = _read(file)
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        if END in data:
            raise CaError(f"{file} is a list of revoked certificates, not a certificate: it is for --tls-crl") from error
        raise CaError(f"{file} has no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from error
    revoked = _revoked_beside(file)
    return [_shown(str(file), one, (one.issuer.rfc4514_string(), one.serial_number) in revoked) for one in certificates]


def _revoked_beside(file: Path) -> frozenset[tuple[str, int]]:
    path = file.parent / "ca.crl"
    if not path.exists():
        return frozenset()
    try:
        return serials_of(lists_in(_read(path)))
    except ValueError as error:
        raise CaError(f"{path} is not a list of revoked certificates in PEM form: move it away") from error


def _shown(file: str, certificate: x509.Certificate, revoked: bool) -> Shown:
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = others.get_values_for_type(x509.UniformResourceIdentifier)
        names = [uri[len(URI) :] for uri in uris if uri.startswith(URI)]
    is_authority = False
    with contextlib.suppress(x509.ExtensionNotFound):
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    return Shown(
        file,
        certificate.subject.rfc4514_string(),
        names[0] if len(names) == 1 and is_node_name(names[0]) else "",
        is_authority,
        certificate.not_valid_after_utc,
        certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
        revoked,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, latest: datetime | None = None
) -> x509.CertificateBuilder:
    now = datetime.now(UTC).replace(microsecond=0)
    until = min(now + timedelta(days=days), latest or datetime.max.replace(tzinfo=UTC))
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(min(now, until) - CLOCKS).not_valid_after(until)


def _usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates; a node signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _constraints() -> x509.NameConstraints:
    """The names that the authority may sign: nodes, and no others."""
    permitted = [x509.UniformResourceIdentifier(HOST), x509.DNSName(SUFFIX), x509.RFC822Name(SUFFIX)]
    excluded = [x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0")]
    return x509.NameConstraints(permitted, excluded)


def _load(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (directory / "ca.key").exists():
        raise CaError(f"{directory} has no ca.key: make an authority there with `spoolnode ca init {directory}`")
    try:
        certificate = x509.load_pem_x509_certificate(_read(directory / "ca.crt"))
        key = serialization.load_pem_private_key(_read(directory / "ca.key"), None)
    except (ValueError, TypeError) as error:
        raise CaError(f"ca.crt or ca.key in {directory} is not in PEM form, or encrypted: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise CaError(f"ca.key in {directory} is not the key of its ca.crt")
    return certificate, key


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CaError(f"{file} cannot be read: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    """Replaces a file in one step: it is the old one or the new one at any time."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with _made(new, 0o644, content):
        new.rename(path)


def _check_free(*paths: Path) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise CaError(f"{path} exists already, and is never overwritten: move it away, or write to another directory")


def _write(certificate_path: Path, key_path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Writes both files or none. The key is never readable by others, not even for a moment."""
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    public = certificate.public_bytes(serialization.Encoding.PEM)
    with _made(key_path, 0o600, key.private_bytes(*form)), _made(certificate_path, 0o644, public):
        pass


@contextlib.contextmanager
def _made(path: Path, mode: int, content: bytes) -> Iterator[None]:
    """Makes a file, and removes it if the code within fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise CaError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        yield
    except BaseException:  # also Ctrl-C
        path.unlink(missing_ok=True)
        raise
