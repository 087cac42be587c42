"""Finds destinations: an address, or the id or name of a node. Pure."""

from typing import NamedTuple

from spoolnode.cluster.index import PeerIndex
from spoolnode.cluster.known import Known
from spoolnode.cluster.liveness import ALIVE, PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.protocol import names

_BEST_FIRST = [PeerState.UP, PeerState.LEAVING, PeerState.SUSPECT, PeerState.UNKNOWN, PeerState.DOWN, PeerState.REJECTED]
_RANK = {state: rank for rank, state in enumerate(_BEST_FIRST)}


class Target(NamedTuple):
    """Where a destination is."""

    id: str
    """Empty if unknown."""
    name: str
    addresses: tuple[str, ...]
    """The best first; empty if unknown."""
    state: PeerState


class Destinations:
    """Finds the peer that a destination means.

    Args:
        peers: all of them.
        known: the names and ids that were proved.
    """

    def __init__(self, peers: PeerIndex, known: Known) -> None:
        self._peers = peers
        self._known = known

    def resolve(self, destination: str) -> Target | None:
        """The target of an address, a node's id or a node's name; None if no node with that id or name is known."""
        if destination.startswith("tag:"):
            return None
        if ":" in destination:
            peer = self._peers.find(destination)
            if peer is None:
                return Target("", "", (destination,), PeerState.UNKNOWN)
            return Target(peer.id, peer.name, (destination,), peer.state)
        peer = self.meant(destination)
        return Target(peer.id, peer.name, peer.addresses, peer.state) if peer else None

    def meant(self, destination: str) -> Peer | None:
        """The peer with this id or name."""
        return self._peers.get(destination) or self._named(destination)

    def name_of(self, destination: str) -> str:
        """The name of the node of this id; empty when it is not known, or not an id."""
        peer = self._peers.get(destination) if names.is_node_id(destination) else None
        return peer.name if peer is not None else ""

    def called(self) -> set[str]:
        """All ids and names that may mean a node."""
        return {*self._peers.ids(), *self._known.claimed(), *(peer.name for peer in self._peers)}

    def answers_to(self, destination: str, node_id: str) -> bool:
        """Whether this id or name means the node with that id."""
        return node_id in (destination, self._known.holder(destination))

    def why_not(self, destination: str) -> str:
        """Why no node has this id or name, for people."""
        holder = self._known.holder(destination)
        if holder:
            return f"the node {holder}, which has the name {destination!r}, has not been found"
        if holder is None:
            return f"no node with the id or name {destination} is known"
        who = ", ".join(f"{other}{f' at {at}' if at else ''}" for other, at in self._known.rivals(destination).items())
        remedy = f"give it to one of them with spoolnode accept {destination} ID"
        return f"the name {destination!r} is claimed by several nodes ({who}), so none gets anything: {remedy}"

    def _named(self, name: str) -> Peer | None:
        """The peer with this name. If none has proved it, a peer that alone announces it may have it."""
        holder = self._known.holder(name)
        if holder is not None:
            return self._peers.get(holder)
        named = sorted((peer for peer in self._peers if peer.name == name), key=lambda peer: (_RANK[peer.state], peer.id))
        claims = [peer for peer in named if peer.state in ALIVE or peer.state is PeerState.UNKNOWN]
        return named[0] if named and len(claims) < 2 else None  # of two, neither gets it
