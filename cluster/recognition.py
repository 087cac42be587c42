"""Finds out which node answers: the peer that was asked, another one, this node itself, or a claim that does not count. Pure.

Anything on the network can repeat the id and the instance from a ping. So a node moves to another address only if one of this
node's own pings, which first asks where it answered last, no longer finds it there. With certificates its answer is proof.
"""

from spoolnode.cluster import warnings
from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.index import PeerIndex
from spoolnode.cluster.liveness import PeerState, Seen
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peer_status import Status
from spoolnode.cluster.warnings import Once
from spoolnode.cluster.watch import PeerWatch

MOST_OURS = 64
"""Most addresses of this node."""


class Recognition:
    """Tells peers apart.

    Args:
        identity: the identity of this node.
        instance: the token of this process that its own status carries.
        peers: all of them.
        watch: told what an answer shows.
        once: warns the operator.
        certified: whether each answer comes from a node with a certificate for its name.
    """

    def __init__(
        self, identity: Identity, instance: str, peers: PeerIndex, watch: PeerWatch, once: Once, *, certified: bool
    ) -> None:  # fmt: skip
        self._identity = identity
        self._instance = instance
        self._peers = peers
        self._watch = watch
        self._once = once
        self._certified = certified

    def owner(self, candidate: Candidate, now: float) -> Peer | None:
        """The owner of a candidate. An unproved id gets its own row; an address belongs to the peer that answered there."""
        if candidate.id and candidate.id != self._identity.id:
            return self._peers.get(candidate.id) or self._peers.add(candidate.id, now, candidate.source)
        for peer in map(self._peers.find, candidate.addresses):
            if peer and (not peer.id or peer.answers_at in candidate.addresses):
                return peer
        return self._peers.add("", now, candidate.source)

    def recognise(self, peer: Peer, pinged: Peer | None, status: Status, address: str, now: float) -> Peer | None:
        """The peer that answered; None if the answer does not count for a peer.

        Args:
            peer: the peer that was asked, as far as is known.
            pinged: the peer whose own ping this answers; None: a link asked.
            status: the answer.
            address: where it came from; empty if unknown.
            now: when it came.
        """
        if status.id == self._identity.id:
            self._is_us(peer, status, address, now)
            return None
        known = self._peers.get(status.id)
        if known and self._is_copy(peer, known, status, address, now):
            return None
        if known and known is not pinged and self._is_claim(peer, known, address, now):
            return None
        return self._identify(peer, status.id, address, now)

    def _is_us(self, peer: Peer, status: Status, address: str, now: float) -> None:
        """Handles an answer with our id: this node, at an address that we did not know as ours, or a copy of it."""
        if status.instance != self._instance:
            warnings.id_twice(self._once, self._identity.id, address)
            self._watch.see(peer, Seen.UNTRUSTED, now, f"it has the id of this node, {self._identity.id}")
            return
        if address and len(self._peers.ours) < MOST_OURS:
            self._peers.ours.add(address)
        if not peer.id:
            self._peers.remove(peer)
        else:
            self._peers.hand_over(peer, None, address)
            self._watch.see(peer, Seen.REFUSED, now, f"{address} is this node itself")

    def _is_copy(self, peer: Peer, known: Peer, status: Status, address: str, now: float) -> bool:
        """Whether a process that claims this id is another than the one that we reach. The one that we reach keeps the id.

        It does so as long as it answers, so we ping it at once. If it no longer answers, the id moves to the other one.
        """
        if known.status is None or known.state is not PeerState.UP or not address:
            return False
        if known.status.instance == status.instance or known.answers_at in ("", address):
            if known.double and known.answers_at == address and known.status.instance == status.instance:
                warnings.copied(self._once, status.id, (known.answers_at, known.double))
            known.double = ""
            return False
        if peer is known:
            return False  # it did not answer this ping at its old address
        known.double = address
        self._watch.ask(known, now)
        if not peer.id:
            reason = warnings.has_id(known.id, known.name, known.answers_at)
            self._watch.see(peer, Seen.DISPUTED, now, reason)
        elif not self._certified:
            self._reject_claim(peer, known, address, now)
        return True

    def _is_claim(self, peer: Peer, known: Peer, address: str, now: float) -> bool:
        """Whether another address only claims to be a node that still answers at its known one.

        We ping the known one at once. An address that an operator named counts as one more of the node.
        """
        if not self._watch.is_held(known) or address in ("", known.answers_at):
            return False
        self._watch.ask(known, now)
        if peer is known:
            pass  # a link to another of its addresses
        elif not peer.id and address in peer.named_at:
            self._peers.absorb(peer, known)
        elif not peer.id and not peer.candidates:
            self._peers.remove(peer)  # only a task leads there: it gets the tasks for this address
        else:
            self._reject_claim(peer, known, address, now)
        return True

    def _reject_claim(self, peer: Peer, known: Peer, address: str, now: float) -> None:
        reason = warnings.claimed_id(self._once, known.id, known.name, (known.answers_at, address))
        self._watch.see(peer, Seen.DISPUTED, now, reason)

    def _identify(self, peer: Peer, node_id: str, address: str, now: float) -> Peer | None:
        """The peer that answered: `peer` itself, one that it turns out to be, or another one that is at its address now."""
        if peer.id == node_id:
            return peer
        if not peer.id:
            known = self._peers.get(node_id)
            if known is None:
                self._peers.identify(peer, node_id)
                return peer
            self._peers.absorb(peer, known)
            return known
        at_address = (other for other in self._peers if not other.id and address in other.addresses)
        other = (self._peers.get(node_id) if node_id else next(at_address, None)) or self._peers.add(node_id, now)
        self._peers.hand_over(peer, other, address)
        now_there = f"the node {node_id}" if node_id else "no spoolnode"
        self._watch.see(peer, Seen.REFUSED, now, f"{address} is {now_there} now")
        return other
