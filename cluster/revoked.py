"""Lists of revoked certificates (CRL, RFC 5280): read for the node, which gives them to OpenSSL and closes open links.

OpenSSL refuses a revoked certificate in the handshake. It does not tell the contents of a list and when it
expires; for that the package `cryptography` (the extra `tls`) is imported, only by nodes with --tls-crl.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from spoolnode.node.badconfig import BadConfig

if TYPE_CHECKING:
    from cryptography import x509

END = b"-----END X509 CRL-----"


class Revoked(NamedTuple):
    """The contents of the lists in one file."""

    serials: frozenset[tuple[str, int]]
    """The authority's name (RFC 4514) and the serial number of each revoked certificate."""
    until: float
    """When the first of the lists expires, in seconds since 1970: after that no certificate can be accepted."""


def read_revoked(path: str, authorities: str) -> Revoked:
    """The lists in a file, one after the other, each in PEM form.

    Args:
        path: the file of --tls-crl.
        authorities: the file of --tls-ca. Each of these must have signed one of the lists, and no one else may.

    Raises:
        BadConfig: the file cannot be read, holds no such lists, or lists of other authorities.
    """
    try:
        lists = lists_in(Path(path).read_bytes())
        known = _x509().load_pem_x509_certificates(Path(authorities).read_bytes())
    except OSError as error:
        raise BadConfig(f"--tls-crl {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadConfig(f"--tls-crl {path} has no list in PEM form (-----BEGIN X509 CRL-----)") from error
    for one in lists:
        if not any(_is_of(one, authority) for authority in known):
            name = one.issuer.rfc4514_string()
            raise BadConfig(f"--tls-crl {path} has a list of {name}, which no authority of --tls-ca {authorities} signed")
    for authority in known:
        if not any(_is_of(one, authority) for one in lists):
            name = authority.subject.rfc4514_string()
            raise BadConfig(
                f"--tls-crl {path} has no list of {name}, an authority of --tls-ca {authorities}: none of its certificates "
                "could be accepted; `spoolnode ca revoke` without a name makes an empty one"
            )
    return Revoked(serials_of(lists), min(_end_of(one) for one in lists))


def serials_of(lists: "list[x509.CertificateRevocationList]") -> frozenset[tuple[str, int]]:
    """The authority's name (RFC 4514) and the serial number of each certificate in these lists."""
    return frozenset((one.issuer.rfc4514_string(), entry.serial_number) for one in lists for entry in one)


def lists_in(data: bytes) -> "list[x509.CertificateRevocationList]":
    """The lists in a file's contents, one after the other, each in PEM form. Raises ValueError if there is none."""
    pieces = [piece + END for piece in data.split(END)[:-1]]
    if not pieces:
        raise ValueError("no list")
    return [_x509().load_pem_x509_crl(piece) for piece in pieces]


def _is_of(one: "x509.CertificateRevocationList", authority: "x509.Certificate") -> bool:
    key: Any = authority.public_key()
    return one.issuer == authority.subject and one.is_signature_valid(key)


def _end_of(one: "x509.CertificateRevocationList") -> float:
    return one.next_update_utc.timestamp() if one.next_update_utc is not None else float("inf")


def _x509() -> Any:
    try:
        return importlib.import_module("cryptography.x509")
    except ModuleNotFoundError as error:
        raise BadConfig("--tls-crl needs the package cryptography, which comes with the extra `tls`") from error
