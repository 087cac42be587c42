"""All peers, found by their ids, by their addresses, or by a source's keys. Pure.

A peer comes when a source names it, when it calls, or when it answers. Two that turn out to be one are merged.
"""

from collections.abc import Callable, Iterator

from spoolnode.cluster.candidate import Candidate
from spoolnode.cluster.liveness import PeerState
from spoolnode.cluster.peer import MOST_ADDRESSES, STRANGERS, Peer
from spoolnode.cluster.warnings import Once

MOST_PEERS = 1024
MOST_CANDIDATES = 16
"""Most candidates of a peer: two or three sources name it under one or two keys; more are made up."""

Key = tuple[str, str]
"""A source, and its key for a candidate."""


class PeerIndex:
    """All peers.

    Args:
        ours: addresses of this node.
        may_give: whether tasks may be given to an address (host:port) that only strangers name.
        once: warns if the table is full.
    """

    def __init__(self, ours: set[str], may_give: Callable[[str], bool], once: Once) -> None:
        self.ours = ours
        self.may_give = may_give
        self._once = once
        self._peers: dict[Peer, None] = {}  # a set that keeps its order
        self._by_id: dict[str, Peer] = {}
        self._by_address: dict[str, Peer] = {}
        self._by_key: dict[Key, Peer] = {}

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, peer: object) -> bool:
        return peer in self._peers

    def get(self, node_id: str) -> Peer | None:
        """The peer with that id."""
        return self._by_id.get(node_id)

    def find(self, who: str) -> Peer | None:
        """The peer with an id or an address. If several claim an address, the one that last answered there."""
        if peer := self._by_id.get(who):
            return peer
        peer = self._by_address.get(who)
        if peer and peer in self._peers and who in peer.addresses:
            return peer
        claim = [peer for peer in self._peers if who in peer.addresses]
        peer = min(claim, key=lambda peer: (peer.answers_at != who, bool(peer.id), peer.id), default=None)
        if peer:
            self._by_address[who] = peer
        else:
            self._by_address.pop(who, None)
        return peer

    def named(self, source: str, key: str) -> Peer | None:
        """The peer with that key of a source."""
        return self._by_key.get((source, key))

    def ids(self) -> set[str]:
        """The ids of all of them."""
        return set(self._by_id)

    # -- coming and going --

    def add(self, node_id: str, now: float, source: str = "") -> Peer | None:
        """A new peer, if there is room. A full table gives up those that never answered and that only strangers name."""
        if len(self._peers) >= MOST_PEERS:
            useless = [peer for peer in self if peer.state is not PeerState.UP and not peer.status and peer.is_only_hinted]
            if not useless:
                reason = f"there are {MOST_PEERS} peers already; {node_id or 'one more'} is not taken into the table"
                self._once.say("too_many_peers", source=source, reason=reason)
                return None
            self.remove(min(useless, key=lambda peer: (peer.state is PeerState.UNKNOWN, peer.liveness.since)))
        peer = Peer.new(node_id, now)
        self._peers[peer] = None
        if node_id:
            self._by_id[node_id] = peer
        return peer

    def remove(self, peer: Peer) -> None:
        """Removes a peer."""
        self._peers.pop(peer, None)
        if self._by_id.get(peer.id) is peer:
            del self._by_id[peer.id]
        for key in peer.candidates:
            self._by_key.pop(key, None)
        for address in peer.addresses:
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def forget_old(self, now: float, seconds: float) -> None:
        """Removes those that have been gone for so many seconds, and that no source names."""
        for peer in list(self._peers):
            if peer.candidates or peer.pings.in_flight or now - peer.liveness.since < seconds:
                continue
            if peer.state in (PeerState.DOWN, PeerState.REJECTED) or not peer.addresses:
                self.remove(peer)

    # -- who is who --

    def identify(self, peer: Peer, node_id: str) -> None:
        """Gives its id to a peer that was known only by an address."""
        peer.id = node_id
        self._by_id[node_id] = peer

    def absorb(self, peer: Peer, known: Peer) -> None:
        """Merges two that are one; `known` is left."""
        for key, candidate in peer.candidates.items():
            self._give(key, candidate, known)
        peer.candidates = {}
        known.known_at = (*known.known_at, *peer.known_at)[:MOST_ADDRESSES]
        known.named_at |= peer.named_at
        known.pings.in_flight += peer.pings.in_flight
        peer.absorbed_by = known
        self.remove(peer)
        self.locate(known)

    def hand_over(self, peer: Peer, other: Peer | None, address: str) -> None:
        """Moves the candidates that name only this address of `peer` to the other node, which answers there."""
        for key, candidate in list(peer.candidates.items()):
            if address in candidate.addresses and not candidate.id:
                self.withdraw(peer, key)
                if other:
                    self._give(key, candidate, other)
                    other.named_at |= peer.named_at & set(candidate.addresses)
        peer.known_at = tuple(known for known in peer.known_at if known != address)
        if peer.answers_at == address:
            peer.answers_at = ""
        self.locate(peer)
        if other:
            self.locate(other)

    def name(self, peer: Peer, candidate: Candidate) -> None:
        """Adds a candidate of a source to a peer."""
        self._give((candidate.source, candidate.key), candidate, peer)
        if not peer.status:
            peer.name = candidate.name or peer.name
        if not candidate.source.startswith(STRANGERS):
            peer.named_at.update(candidate.addresses)
        self.locate(peer)

    def withdraw(self, peer: Peer, key: Key, *, keep: bool = False) -> None:
        """Removes the candidate with this key; `keep` its addresses."""
        candidate = peer.candidates.pop(key)
        del self._by_key[key]
        if keep:
            peer.known_at = tuple(dict.fromkeys((*candidate.addresses, *peer.known_at)))[:MOST_ADDRESSES]
        self.locate(peer)

    def locate(self, peer: Peer) -> None:
        """Updates the index after a change of its addresses."""
        had = {*peer.addresses}
        peer.locate(self.ours, self.may_give)
        for address in had - {*peer.addresses}:
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def _give(self, key: Key, candidate: Candidate, peer: Peer) -> None:
        peer.candidates[key] = candidate
        self._by_key[key] = peer
