"""Decides which addresses may get tasks: the other side of `--allow`.

With certificates, every node that proves its name. Without, only addresses in the networks that may also enqueue here, this
machine, and addresses that the operator has named in a source (see `peers`), or a client in a task. An announcement alone does
not count: anything on the network segment can make one.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from spoolnode.cluster.lookup import is_literal
from spoolnode.node.config import Config


class Giving(NamedTuple):
    """The rule for the addresses that may get tasks."""

    certified: bool = False
    """Whether each answer comes from a node with a certificate for its name."""
    may: Callable[[str], bool] = lambda _address: True
    """Whether tasks may be given to an address (`host:port`) that only strangers name."""


ALL_ADDRESSES = Giving()


def giving(config: Config, *, certified: bool) -> Giving:
    """The rule for a node with this configuration.

    Strangers cannot name a host name: it is unknown where it leads.
    """
    if certified or config.insecure:
        return Giving(certified)
    networks = config.networks()

    def may(address: str) -> bool:
        host = address.rpartition(":")[0].strip("[]")
        if not is_literal(host):
            return False
        parsed = ip_address(host)
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return parsed.is_loopback or any(parsed in network for network in networks) or is_this_machine(host)

    return Giving(may=may)


def is_this_machine(host: str) -> bool:
    """Whether an IP address is one of this machine's own: then a socket can be bound to it. Sends no packet."""
    if ip_address(host).is_unspecified or ip_address(host).is_multicast:
        return False
    with suppress(OSError), socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        return True
    return False
