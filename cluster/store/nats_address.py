"""The address of a store in NATS: nats://[USER:PASSWORD@]HOST[:PORT][,HOST...][?replicas=3&creds=FILE&tls_ca=FILE&monitor=8222]."""

from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from spoolnode.cluster.store.interface import StoreUnfit

PORT = 4222
MONITOR = 8222
"""The port on which servers tell of themselves over HTTP, if they do."""
REPLICAS = 3
_MOST_REPLICAS = 5


@dataclass(frozen=True, slots=True)
class NatsAddress:
    """Where the servers are, and how to speak to them."""

    hosts: tuple[str, ...]
    """Each with its port."""
    user: str = ""
    password: str = field(default="", repr=False)
    replicas: int = REPLICAS
    """How many servers are to keep each task; it matters when the stream is made."""
    creds: str = ""
    """The file with the credentials of an account."""
    tls_ca: str = ""
    """The file with the certificates of those who vouch for the servers. With it, the connection is encrypted or refused."""
    monitor: int = MONITOR

    @property
    def servers(self) -> list[str]:
        """The hosts, as the client wants them."""
        return [f"{'tls' if self.tls_ca else 'nats'}://{host}" for host in self.hosts]

    @property
    def name(self) -> str:
        """The hosts, for people: no password."""
        return ",".join(self.hosts)

    @classmethod
    def read(cls, url: str) -> Self:
        """Raises `StoreUnfit` with what is wrong; never with the password."""
        parts = urlsplit(url)
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        if parts.path.strip("/") or parts.fragment:
            raise StoreUnfit("the address of a store in NATS has hosts and options only: nats://h1,h2,h3?replicas=3")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := sorted(options.keys() - {"replicas", "creds", "tls_ca", "monitor"}):
            raise StoreUnfit(f"{unknown[0][:40]!r} is not an option of a store in NATS: replicas, creds, tls_ca, monitor")
        return cls(
            tuple(_host(host) for host in hosts.split(",")), unquote(user), unquote(password),
            _number(options, "replicas", REPLICAS, _MOST_REPLICAS), options.get("creds", ""), options.get("tls_ca", ""),
            _number(options, "monitor", MONITOR, 65535),
        )  # fmt: skip


def _host(text: str) -> str:
    """A host with its port."""
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError as error:
        raise StoreUnfit(f"{text[:60]!r} is not a host with a port: {error}") from error
    if not parts.hostname:
        raise StoreUnfit("a host is missing in the address of the store: nats://h1,h2,h3")
    return text if port else f"{text.rstrip(':')}:{PORT}"


def _number(options: dict[str, str], name: str, default: int, most: int) -> int:
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise StoreUnfit(f"{name}={text[:20]!r}: a number from 1 to {most} is needed")
    return int(text)
