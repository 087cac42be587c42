"""Makes the mDNS records of this node, and reads those of others. Pure.

The TXT record begins with a version (RFC 6763), and has the facts that a peer needs before it connects. Load and the like
travel on the link, because each change of the record costs three packets to all nodes.

    txtvers=1 pv=<protocol version> id= name= cluster= tls=0|1 run=<eight digits, new at each start>

`run` makes a node's return an event for nodes that still have its other records in their caches.
"""

from collections.abc import Iterable
from ipaddress import ip_address

from zeroconf.asyncio import AsyncServiceInfo

from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.discovery.addresses import join
from spoolnode.cluster.discovery.interfaces import MAX_ANNOUNCED, LocalAddress, nearest_first
from spoolnode.protocol import names
from spoolnode.protocol.hello import PROTOCOL

SERVICE = "_uwsgi-spool._tcp.local."
VERSION = "1"
MAX_TXT = 400
"""Bytes of the whole TXT record, as RFC 6763 advises. zeroconf takes more, but far above this it silently sends nothing."""


class TooLong(ValueError):
    """A TXT record would not fit."""


def service_name(node_id: str) -> str:
    """The name of a node's service: the id is unique, so a probe for the name is unnecessary."""
    return f"{node_id}.{SERVICE}"


def node_id_in(name: str) -> str:
    """The node id in the name of a service; empty if it is not one of ours."""
    node_id = name.removesuffix(f".{SERVICE}")
    return node_id if names.is_node_id(node_id) else ""


def service_info(identity: Identity, run: str, port: int, addresses: list[str]) -> AsyncServiceInfo:
    """The records of this node.

    Raises:
        TooLong: they would not fit.
    """
    said = {
        "txtvers": VERSION,
        "pv": str(PROTOCOL),
        "id": identity.id,
        "name": identity.name,
        "cluster": identity.cluster,
        "tls": str(int(identity.tls)),
        "run": run,
    }
    length = sum(2 + len(key) + len(value.encode()) for key, value in said.items())
    longest = max(1 + len(key) + len(value.encode()) for key, value in said.items())
    if length > MAX_TXT or longest > 255:
        raise TooLong(f"the TXT record would have {length} bytes and may have {MAX_TXT}: shorten the node's or cluster's name")
    return AsyncServiceInfo(
        SERVICE,
        service_name(identity.id),
        port=port,
        properties=said,
        server=f"{identity.id}.local.",  # never the machine's own name, which belongs to Avahi
        parsed_addresses=addresses,
    )


def candidate_in(
    info: AsyncServiceInfo, identity: Identity, source: str, speaking: list[LocalAddress]
) -> tuple[Candidate, str] | None:
    """The candidate in these records, and its `run`; None if it is not one for us.

    A candidate with our own id is this node, or a copy of it.
    """
    said = {_text(key): _text(value or b"") for key, value in info.properties.items()}
    node_id = node_id_in(info.name)
    if not node_id or said.get("id") != node_id:
        return None
    if said.get("txtvers") != VERSION or said.get("cluster") != identity.cluster:
        return None
    port = info.port or 0
    here = any(place.is_loopback for place in speaking)
    usable = nearest_first((address for address in info.parsed_addresses() if _is_usable(address, here=here)), speaking)
    if not 0 < port < 65536 or not usable:
        return None
    name = said.get("name", "")
    addresses = tuple(join(address, port) for address in usable[:MAX_ANNOUNCED])
    return Candidate(source, node_id, node_id, name if names.is_node_name(name) else "", addresses), said.get("run", "")


def _is_usable(address: str, *, here: bool) -> bool:
    """Whether a peer may be there. `here`: mDNS speaks on loopback, so loopback addresses are usable."""
    parsed = ip_address(address)
    if parsed.is_loopback:
        return here
    return not (parsed.is_unspecified or parsed.is_multicast or (parsed.version == 6 and parsed.is_link_local))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def all_loopback(places: Iterable[LocalAddress]) -> bool:
    """Whether only processes of this machine hear us: they share the port, and an answer to one address reaches just one."""
    return all(place.is_loopback for place in places)
