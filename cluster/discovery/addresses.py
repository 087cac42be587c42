"""Addresses as sources write them, `host:port` and `[v6]:port`, and the lookup of names."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from spoolnode.node.config import BadConfig
from spoolnode.protocol import names

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Host and port -> the addresses of that host with that port; OSError when the lookup fails."""


def split(text: str) -> tuple[str, int]:
    """Host and port of an address.

    Raises:
        BadConfig: it is none that somebody can be reached at.
    """
    if not names.is_address(text):
        raise BadConfig(f"the address {text!r} is no place where a peer can be reached; it must be host:port or [v6]:port")
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
    """The address of host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_literal(host: str) -> bool:
    """Whether this is an IP address already."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def look_up(host: str, port: int) -> list[str]:
    """The addresses of a host, by the system's resolver.

    Raises:
        OSError: the lookup failed.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters, for example
        raise OSError(f"it is no host name: {error}") from error
    return list(dict.fromkeys(join(str(place[0]), port) for _, _, _, _, place in found))
