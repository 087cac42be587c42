"""Whether a request from a browser is meant for this node: the check of `Host` and `Origin`. Pure.

A page of a stranger can have its name resolve to an address of ours (DNS rebinding), and then ask us from a browser of ours. Its
requests carry its name: so a name must be one of ours. Ports are not compared, because tunnels change them.
"""

from collections.abc import Container, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit


class OurHosts:
    """The names and addresses under which browsers may reach this node."""

    def __init__(self, listening: str, names: Iterable[str], schemes: Container[str] = ("http", "https")) -> None:
        """
        Args:
            listening: the host part of the address it listens on.
            names: further names that it has.
            schemes: those of its pages. A proxy on this machine may add TLS.
        """
        self._schemes = schemes
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}
        self._listening = listening.lower()
        address = _address(listening)
        self._is_anywhere = address is not None and address.is_unspecified

    def __repr__(self) -> str:
        return f"<OurHosts: {self._listening}, {', '.join(sorted(self._names))}>"

    @property
    def reached_by(self) -> str:
        """A host by which a browser on this machine reaches it."""
        return "127.0.0.1" if self._is_anywhere else self._listening

    def has(self, host: str) -> bool:
        """Whether this `Host` is ours."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if "@" in host or "/" in host:
            return False
        address = _address(name)
        if address is None:
            return name in self._names or name == self._listening
        return address.is_loopback or self._is_anywhere or name == self._listening

    def is_same(self, origin: str, host: str) -> bool:
        """Whether a request with this `Origin` comes from a page of ours: one of this very `Host`."""
        scheme, separator, place = origin.partition("://")
        return scheme in self._schemes and bool(separator) and place.lower() == host.lower() and self.has(host)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
