"""The URL of another node's page, from what the node says in its answers to pings. Pure.

What a node says comes from the network, and becomes a link that people follow.
"""

import re

from spoolnode.cluster.lookup import is_loopback

LONGEST = 300
"""Characters of it that are kept; a host name has at most 253."""
_URL = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})", re.IGNORECASE | re.ASCII)
ANY_HOST = ("0.0.0.0", "[::]")  # noqa: S104  # compared, never bound


def page_of(said: str, address: str) -> str:
    """The URL of its page; empty if there is none that could be followed from here.

    Args:
        said: what the node says: scheme, host and port. A host that means any address is where we reach the node.
        address: where we reach it, as host:port.
    """
    found = _URL.fullmatch(said)
    if found is None or int(found[3]) not in range(1, 65536):
        return ""
    scheme, host, port = found[1], found[2], found[3]
    if host in ANY_HOST:
        host = address.rpartition(":")[0]
    if not host or (is_loopback(f"{host}:{port}") and not is_loopback(address)):
        return ""  # that of another machine, which its people alone reach
    return f"{scheme}://{host}:{port}"
