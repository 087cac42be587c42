"""Peers behind one name: each of its addresses is a node (compose services, headless services, `tasks.NAME` in a swarm)."""

from spoolnode.cluster.discovery.addresses import Lookup, addresses_at
from spoolnode.cluster.discovery.polled import Ask


def addresses_of(host: str, port: int, lookup: Lookup = addresses_at) -> Ask:
    """Asks for the A and AAAA records of a host; the key of each candidate is its address."""

    async def ask() -> dict[str, list[str]]:
        return {address: [address] for address in await lookup(host, port)}

    return ask
