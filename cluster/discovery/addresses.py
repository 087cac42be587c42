"""Addresses as sources write them, `host:port` and `[v6]:port`, and the lookup of names."""

from collections.abc import Awaitable, Callable

from spoolnode.cluster import lookup
from spoolnode.node.badconfig import BadConfig
from spoolnode.protocol import names

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Host and port -> the addresses of that host with that port. Raises OSError if the lookup fails."""


def split_address(text: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        BadConfig: no peer can be reached at such an address.
    """
    if not names.is_address(text):
        raise BadConfig(f"the address {text!r} cannot be the address of a peer; it must be host:port or [v6]:port")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """The address of host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def addresses_at(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver.

    Raises:
        OSError: the lookup failed.
    """
    return [join(address, port) for address in await lookup.look_up(host, lookup.PATIENCE)]
