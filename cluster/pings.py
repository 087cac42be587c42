"""Decides when each peer is pinged. Pure: `PingQueue` says which peers to ping now, and when to look again; the prober pings.

A peer has at most one ping in flight. Events meanwhile may be newer than its result, so another ping follows at once.
"""

import heapq
import random
from collections.abc import Container

from spoolnode.cluster.liveness import Ask, PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.timing import Timing


class PingQueue:
    """The pings of all peers.

    Args:
        peers: all present peers.
        rng: for jitter.
        timing: the times between pings.
    """

    def __init__(self, peers: Container[Peer], rng: random.Random, timing: Timing) -> None:
        self._peers = peers
        self._rng = rng
        self._timing = timing
        self._timers: list[tuple[float, int, Peer]] = []
        self._count = 0

    def plan(self, peer: Peer, ask: Ask, now: float) -> None:
        """Plans the next ping of a peer."""
        pings, timing = peer.pings, self._timing
        match ask:
            case Ask.AT_ONCE:
                self._soon(peer, now)
            case Ask.REGARDLESS:
                pings.not_before, pings.next_at = float("-inf"), None
                self._soon(peer, now)
            case Ask.WHEN_SILENT:
                pings.not_before, pings.next_at, pings.at_once = float("-inf"), None, False
                pings.silence = timing.silence * (0.8 + 0.4 * self._rng.random())
                self._at(peer, now + pings.silence)
                self.follow_up(peer, now)
            case Ask.WITH_BACKOFF:
                pings.next_at, pings.at_once = None, False
                bound = min(timing.longest_backoff, 2.0 ** min(peer.liveness.misses - 1, 10))
                self._at(peer, now + bound * self._rng.random())
            case Ask.AFTER_PAUSE | Ask.AFTER_LONG_PAUSE:
                pings.next_at, pings.at_once, pings.again = None, False, False
                pings.not_before = now + (timing.silence if ask is Ask.AFTER_PAUSE else timing.distrust)
                self._at(peer, pings.not_before)

    def follow_up(self, peer: Peer, now: float) -> None:
        """Follows a ping: if something happened meanwhile, the peer is pinged again at once."""
        if peer.pings.again:
            peer.pings.again = False
            self._soon(peer, now)

    def due(self, now: float) -> list[Peer]:
        """The peers to ping now; each of these pings is then in flight."""
        due = []
        while self._timers and self._timers[0][0] <= now:
            when, _, peer = heapq.heappop(self._timers)
            if when != peer.pings.next_at:
                continue
            peer.pings.next_at = None
            if not self._may_be_pinged(peer):
                continue
            if (later := self._put_off(peer)) > now:
                self._at(peer, later)
                continue
            peer.pings.in_flight += 1
            peer.pings.begun_at = now
            peer.pings.at_once = False
            due.append(peer)
        return due

    def next_due(self) -> float | None:
        """When to call `due` next. It may turn out that nothing is to be done then."""
        while self._timers:
            when, _, peer = self._timers[0]
            if when == peer.pings.next_at:
                if self._may_be_pinged(peer):
                    return when
                peer.pings.next_at = None
            heapq.heappop(self._timers)
        return None

    def _soon(self, peer: Peer, now: float) -> None:
        peer.pings.at_once = True
        if peer.pings.in_flight:
            peer.pings.again = True
        self._at(peer, now)

    def _at(self, peer: Peer, when: float) -> None:
        """Pings it at `when`, or sooner if that was planned already."""
        when = max(when, peer.pings.not_before, peer.pings.begun_at + self._timing.gap)
        if peer.pings.next_at is None or when < peer.pings.next_at:
            peer.pings.next_at = when
            self._count += 1
            heapq.heappush(self._timers, (when, self._count, peer))

    def _may_be_pinged(self, peer: Peer) -> bool:
        return not peer.pings.in_flight and bool(peer.addresses) and peer in self._peers

    def _put_off(self, peer: Peer) -> float:
        """The earliest time for the next ping, now that its timer has run down: there may have been an exchange meanwhile."""
        if peer.pings.at_once or peer.state is not PeerState.UP:
            return float("-inf")
        return min(peer.pings.exchanged_at + peer.pings.silence, peer.pings.status_at + self._timing.stale)
