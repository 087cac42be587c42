"""Passes events of peers to their state machines, and does what follows. Pure.

Each change of a peer's state goes through `PeerWatch.see`.
"""

from collections.abc import Callable

from spoolnode.cluster.index import PeerIndex
from spoolnode.cluster.liveness import Ask, PeerState, Seen
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.pings import PingQueue

Changed = Callable[[Peer, PeerState, PeerState], None]


class PeerWatch:
    """The states of all peers.

    Args:
        peers: all of them.
        queue: their pings.
        certified: whether each answer comes from a node with a certificate for its name.
        changed: called as `changed(peer, old, new)` whenever the state of a peer changes; it must not call back.
    """

    def __init__(self, peers: PeerIndex, queue: PingQueue, *, certified: bool, changed: Changed | None) -> None:
        self._peers = peers
        self._queue = queue
        self._certified = certified
        self._changed = changed

    def see(self, peer: Peer, seen: Seen, now: float, reason: str = "") -> None:
        """Takes an event of a peer. `reason` describes it for people."""
        before = peer.state
        ask = peer.liveness.see(seen, now, reason)
        if peer.state is not before:
            self._follow(peer, before)
        self._queue.plan(peer, ask, now)

    def ask(self, peer: Peer, now: float) -> None:
        """Pings it at once: its state may be out of date."""
        self._queue.plan(peer, Ask.AT_ONCE, now)

    def is_held(self, peer: Peer) -> bool:
        """Whether it answers where it proved its identity. Without certificates, other nodes cannot lead us away from there."""
        return not self._certified and peer.answers

    def _follow(self, peer: Peer, before: PeerState) -> None:
        if peer.said_at and not self.is_held(peer):
            peer.known_at, peer.said_at = peer.said_at, ()
        self._peers.locate(peer)
        if self._changed:
            self._changed(peer, before, peer.state)
