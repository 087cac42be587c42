"""Decides whether a peer that answers may be contacted: by its cluster, its version, its name, its addresses. Pure."""

from spoolnode.cluster import warnings
from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.index import PeerIndex
from spoolnode.cluster.known import Known
from spoolnode.cluster.liveness import ALIVE, PeerState, Seen
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peer_status import Status
from spoolnode.cluster.warnings import Once
from spoolnode.cluster.watch import PeerWatch
from spoolnode.protocol.hello import PROTOCOL


class Vetting:
    """Checks the statuses of peers, and rejects those that must get nothing.

    Args:
        identity: the identity of this node.
        peers: all of them.
        known: the names and ids that were proved.
        watch: told which peers are rejected.
        once: told what an operator must know.
        certified: whether each answer comes from a node with a certificate for its name.
    """

    def __init__(
        self, identity: Identity, peers: PeerIndex, known: Known, watch: PeerWatch, once: Once, *, certified: bool
    ) -> None:  # fmt: skip
        self._identity = identity
        self._peers = peers
        self._known = known
        self._watch = watch
        self._once = once
        self._certified = certified

    def passes(self, peer: Peer, status: Status, address: str, now: float) -> bool:
        """Whether it may be contacted. One that may not is rejected, and the operator is warned."""
        return not self.is_foreign(peer, status, now) and self._has_name(peer, status, address, now)

    def is_foreign(self, peer: Peer, status: Status, now: float) -> bool:
        """Whether it speaks another version, or belongs to another cluster."""
        if status.protocol and status.protocol != PROTOCOL:
            action = "other_protocol"
            reason = f"{_called(peer, status)} speaks version {status.protocol} between nodes, this node {PROTOCOL}"
        elif status.cluster and status.cluster != self._identity.cluster:
            action = "other_cluster"
            reason = f"{_called(peer, status)} belongs to the cluster {status.cluster!r}, this node to {self._identity.cluster!r}"
        else:
            self._once.over("other_protocol", status.id)
            self._once.over("other_cluster", status.id)
            return False
        self._once.say(action, status.id, id=status.id, address=peer.addresses[0] if peer.addresses else "", reason=reason)
        peer.name = status.name or peer.name
        self._watch.see(peer, Seen.UNTRUSTED, now, reason)
        return True

    def shut_out(self, peer: Peer, now: float) -> None:
        """Warns of a peer with only addresses that may not get tasks, and leaves it alone."""
        if peer.outside and not peer.addresses:
            reason = warnings.outside(self._once, peer.id, peer.name, peer.outside[0])
            self._watch.see(peer, Seen.OUTSIDE, now, reason)

    def _has_name(self, peer: Peer, status: Status, address: str, now: float) -> bool:
        """Whether it has the name that it says."""
        if not peer.id or not status.name:
            return True
        name, alive = status.name, set[str]()
        if self._known.holder(name) != peer.id:
            others = (other for other in self._peers if other is not peer and other.name == name and other.id)
            alive = {one.id for one in others if one.state in ALIVE or (one.state is PeerState.UNKNOWN and one.addresses)}
        if self._known.prove(peer.id, name, address, alive=alive, certified=self._certified, key=status.key):
            self._known.heard(peer.id, shares=status.shares)
            self._once.over("name_twice", name, peer.id)
            return True
        peer.name, peer.status, peer.answers_at = name, status, address or peer.answers_at
        holder = self._known.holder(name) or ""
        reason = warnings.claimed(self._once, name, holder, self._whereabouts(name, holder, peer), peer.id)
        self._watch.see(peer, Seen.DISPUTED, now, reason)
        return False

    def _whereabouts(self, name: str, holder: str, peer: Peer) -> str:
        """Where the holder of a name is; for a disputed name, the other claimants."""
        if holder:
            known = self._peers.get(holder)
            return known.answers_at if known else ""
        others = [other for other in self._known.rivals(name) if other != peer.id]
        return ", ".join(others)


def _called(peer: Peer, status: Status) -> str:
    address = peer.addresses[0] if peer.addresses else ""
    return " at ".join(part for part in (status.name or status.id or peer.name, address) if part)
