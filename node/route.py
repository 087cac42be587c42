"""Where a task should go, as long as this node knows no other: here, or into an outbox until a peer is known.

The cluster brings its own `Route`; the node asks only for the function.
"""

from spoolnode.node.door import Route
from spoolnode.protocol.request import Terms


def local_route(name: str, node_id: str, addresses: list[str], tags: list[str]) -> Route:
    """The route of a node that knows no peers: `any`, `all`, its own name, id, tags and addresses are here."""
    here = {"any", "all", name, node_id, *addresses, *(f"tag:{tag}" for tag in tags)}

    def route(terms: Terms) -> str:
        return "" if terms.destination in here else terms.destination

    return route
