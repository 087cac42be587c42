"""The table of peers: takes the news of sources, calls, pings and links to the modules that decide. Pure.

    liveness, pings             the state of a peer, and when it is pinged; `watch` tells both
    recognition, vetting        which node answers, and whether it may be contacted
    index, destinations         all peers; which one a destination means

The prober takes the peers from `due`, tries the addresses of each in their order, and ends each ping with exactly one
`answered(peer, ...)` or `failed(peer, ...)`. Links report through the same two, with an address or a node id in place of the
peer. Times are monotonic seconds, `wall` is the wall clock.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from spoolnode.cluster import warnings
from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.destinations import Destinations
from spoolnode.cluster.giving import ALL_ADDRESSES, Giving
from spoolnode.cluster.index import MOST_CANDIDATES, PeerIndex
from spoolnode.cluster.known import Known
from spoolnode.cluster.liveness import Ask, Failure, PeerState, Seen, seen_by_link, seen_by_ping
from spoolnode.cluster.lookup import is_loopback
from spoolnode.cluster.peer import MOST_ADDRESSES, Peer
from spoolnode.cluster.peer_status import Status
from spoolnode.cluster.pings import PingQueue
from spoolnode.cluster.recognition import Recognition
from spoolnode.cluster.timing import Timing
from spoolnode.cluster.vetting import Vetting
from spoolnode.cluster.warnings import Once, Warn
from spoolnode.cluster.watch import Changed, PeerWatch


class PeerTable:
    """All peers.

    Args:
        identity: the identity of this node.
        rng: for jitter.
        timing: how often peers are pinged, and when they are forgotten.
        changed: called as `changed(peer, old, new)` whenever the state of a peer changes; it must not call the table back.
        warn: called as `warn(action, **details)` for everything that an operator must know.
        instance: the token of this process, as in its own status.
        known: the names and ids that were proved before.
        giving: which addresses may get tasks.
    """

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        timing: Timing,
        *,
        changed: Changed | None = None,
        warn: Warn | None = None,
        instance: str = "",
        known: Known | None = None,
        giving: Giving = ALL_ADDRESSES,
    ) -> None:
        self._identity = identity
        self._timing = timing
        self._giving = giving
        self._once = Once(warn or (lambda *_, **__: None))
        self.known = known or Known()
        """The names and ids that were proved."""
        self._peers = PeerIndex(set(identity.addresses), giving.may, self._once)
        self._queue = PingQueue(self._peers, rng, timing)
        self._watch = PeerWatch(self._peers, self._queue, certified=giving.certified, changed=changed)
        self._recognition = Recognition(identity, instance, self._peers, self._watch, self._once, certified=giving.certified)
        self._vetting = Vetting(identity, self._peers, self.known, self._watch, self._once, certified=giving.certified)
        self.destinations = Destinations(self._peers, self.known)
        self._sweep_at = 0.0

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)

    def __repr__(self) -> str:
        counts = [f"{count} {state.value}" for state, count in self.states().items()]
        return f"<peers of {self._identity.name}: {', '.join(counts) or 'none'}>"

    def states(self) -> dict[PeerState, int]:
        """How many peers are in each state; without states that none is in."""
        states = [peer.state for peer in self]
        return {state: states.count(state) for state in PeerState if state in states}

    def get(self, node_id: str) -> Peer | None:
        """The peer with that id."""
        return self._peers.get(node_id)

    def find(self, who: str) -> Peer | None:
        """The peer with that id or address."""
        return self._peers.find(who)

    def is_here(self, destination: str) -> bool:
        """Whether this id, name or address is this node."""
        return destination in (self._identity.id, self._identity.name) or destination in self._peers.ours

    def is_reached(self, node_id: str, instance: str, host: str) -> bool:
        """Whether we reach this very process of that node at that host. Any caller can claim to be another node."""
        peer = self._peers.get(node_id)
        if peer is None or peer.status is None or peer.status.instance != instance:
            return False
        return host in (address.rpartition(":")[0].strip("[]") for address in peer.addresses)

    def rows(self, now: float) -> list[dict[str, Any]]:
        """The table for people."""
        return [peer.row(now) for peer in sorted(self, key=lambda peer: (peer.name, peer.id, peer.addresses))]

    # -- what sources say --

    def found(self, candidate: Candidate, now: float) -> None:
        """Takes a candidate; it replaces the one with the same source and key."""
        candidate = candidate._replace(addresses=candidate.addresses[:MOST_ADDRESSES])
        key = (candidate.source, candidate.key)
        before = self._peers.named(*key)
        if before and before.candidates[key] == candidate:
            self._watch.see(before, Seen.NAMED_AGAIN, now)
            return
        ours = self._peers.ours.issuperset(candidate.addresses)
        peer = None if ours else self._recognition.owner(candidate, now)
        if before := self._peers.named(*key):
            self._peers.withdraw(before, key)
        if peer is None or len(peer.candidates) >= MOST_CANDIDATES:
            return
        self._peers.name(peer, candidate)
        self._watch.see(peer, Seen.NAMED, now)
        self._vetting.shut_out(peer, now)

    def gone(self, source: str, key: str, now: float) -> None:
        """Notes that a source no longer names a candidate. Its address is kept as long as it lives."""
        del now
        if peer := self._peers.named(source, key):
            self._peers.withdraw(peer, (source, key), keep=True)

    def leaving(self, source: str, key: str, now: float) -> None:
        """Notes a goodbye, perhaps a forged one: a ping will tell. `gone` follows once the source drops the candidate."""
        if peer := self._peers.named(source, key):
            self._watch.see(peer, Seen.GOODBYE, now)

    # -- what calls say --

    def heard(self, node_id: str, name: str, now: float, addresses: tuple[str, ...] = (), instance: str = "") -> None:
        """Notes a connection from a node that says this id. It does not prove that we reach the node, so we try at once.

        If we already reach that very process (`instance`), we do not: each ping is heard, and two nodes would ping each other
        without end. Its name counts if it has never answered, or has a certificate for it. Without one, its addresses count if
        it does not answer where it has proved its identity.
        """
        if node_id == self._identity.id:
            return
        peer = self._peers.get(node_id) or (self._peers.add(node_id, now) if addresses else None)
        if peer is None:
            return
        if addresses and self._watch.is_held(peer):
            peer.said_at = addresses[:MOST_ADDRESSES]
        elif addresses:
            peer.known_at = addresses[:MOST_ADDRESSES]
            self._peers.locate(peer)
        if peer.status is None or self._giving.certified:
            peer.name = name or peer.name
        self._vetting.shut_out(peer, now)
        if not (instance and peer.state is PeerState.UP and peer.status is not None and peer.status.instance == instance):
            self._watch.see(peer, Seen.HEARD, now)

    def met_copy(self, address: str) -> None:
        """Notes a hello with our id: one spool directory is a copy of the other."""
        warnings.id_twice(self._once, self._identity.id, address)

    # -- what pings and links see --

    def answered(
        self, who: Peer | str, said: Mapping[str, Any], rtt: float, now: float, *, wall: float = 0.0, address: str = ""
    ) -> Peer | None:
        """Takes the answer to a ping, or to the handshake of a link.

        Args:
            who: the peer from `due`, whose ping ends with this; for a link, the address or id.
            said: its status; empty for a real uWSGI.
            rtt: seconds between question and answer.
            now: when the answer came.
            wall: the wall clock then; 0.0 leaves its clock unjudged.
            address: where it answered.

        Returns:
            The peer; None if it is this node itself, or the table is full.
        """
        status, asked = Status.read(said), self._end_ping(who)
        if asked is None and isinstance(who, str) and ":" in who:
            if not self._giving.may(who):
                return self._heard_outside(who, status, now)
            asked = self._met_at(who, now)
        if asked is None:
            return None
        if not address and isinstance(who, str):
            address = who if ":" in who else ""
        elif not address and len(asked.addresses) == 1:
            address = asked.addresses[0]
        pinged = who if isinstance(who, Peer) else None
        peer = self._recognition.recognise(asked, pinged, status, address, now)
        if peer is None:
            return None
        news = peer.state is not PeerState.UP or peer.name != status.name
        if self._vetting.passes(peer, status, address, now):
            self._greet(peer, status, rtt, address, now)
            self._compare(peer, status, wall, news)
        return peer

    def failed(self, who: Peer | str, failure: Failure, now: float, reason: str = "") -> None:
        """Takes the failure of a ping (`who` is the peer from `due`) or of a link (an address or id)."""
        peer = self._end_ping(who)
        if peer is None:
            return
        reason = reason or failure.value
        if isinstance(who, Peer):
            self._watch.see(peer, seen_by_ping(failure), now, reason)
            self._queue.follow_up(peer, now)
        elif who not in (peer.id, peer.answers_at) and self._watch.is_held(peer):
            self._watch.ask(peer, now)  # a link to another address of it says nothing about the one where it answers
        else:
            self._watch.see(peer, seen_by_link(failure), now, reason)

    def exchanged(self, who: str, now: float) -> None:
        """Notes that a task was taken there, a sign of life. `who` is an id or an address."""
        if peer := self._peers.find(who):
            peer.pings.exchanged_at = now
            self._watch.see(peer, Seen.TAKEN, now)

    # -- whom to ping --

    def due(self, now: float) -> list[Peer]:
        """The peers to ping now. Each counts as being pinged until `answered` or `failed` ends that."""
        if now >= self._sweep_at:
            self._sweep_at = now + self._timing.forget / 15
            self._peers.forget_old(now, self._timing.forget)
        return self._queue.due(now)

    def next_due(self) -> float | None:
        """When to call `due` next. It may then return nothing."""
        return self._queue.next_due()

    # -- what an operator says --

    def accept(self, name: str, node_id: str, now: float) -> None:
        """Gives a name to the node that the operator chose, and asks the peers concerned again at once."""
        self.known.accept(name, node_id, certified=self._giving.certified)
        for peer in list(self._peers):
            if node_id == peer.id or peer.name == name:
                self._once.over("name_twice", name, peer.id)
                self.ask_again(peer, now)

    def forget(self, peer: Peer) -> None:
        """Removes a peer until a source names it again, or it calls."""
        self._peers.remove(peer)

    def ask_again(self, peer: Peer, now: float) -> None:
        """Asks a rejected peer again: the reason may be gone."""
        self._queue.plan(peer, Ask.REGARDLESS, now)

    # -- inside --

    def _end_ping(self, who: Peer | str) -> Peer | None:
        """The peer that is meant; if `who` is a peer, one of its pings ends."""
        if isinstance(who, str):
            return self._peers.find(who)
        while who.absorbed_by:
            who = who.absorbed_by
        who.pings.in_flight = max(who.pings.in_flight - 1, 0)
        return who if who in self._peers else None

    def _met_at(self, address: str, now: float) -> Peer | None:
        """The peer for an address that only a task names, reached by a link."""
        peer = self._peers.add("", now)
        if peer:
            peer.known_at = (address,)
            self._peers.locate(peer)
        return peer

    def _heard_outside(self, address: str, status: Status, now: float) -> Peer | None:
        """Checks an answer at an address that only a task names. Returns a peer only if it must get nothing."""
        stranger = Peer.new("", now)
        stranger.addresses = (address,)
        return stranger if status.id != self._identity.id and self._vetting.is_foreign(stranger, status, now) else None

    def _greet(self, peer: Peer, status: Status, rtt: float, address: str, now: float) -> None:
        """Takes a good answer of a peer."""
        peer.status, peer.rtt, peer.name = status, rtt, status.name or peer.name
        peer.pings.status_at = peer.pings.exchanged_at = now
        if address and address != peer.answers_at:
            peer.answers_at = address
            self._peers.locate(peer)
        self._watch.see(peer, Seen.DRAINING if status.draining else Seen.ANSWERED, now)

    def _compare(self, peer: Peer, status: Status, wall: float, news: bool) -> None:
        """Warns of a clock that is off, and of another node with this one's name."""
        if wall and status.time:
            peer.pings.clock = status.time + peer.rtt / 2 - wall
            warnings.clock(self._once, peer.id, peer.name, peer.pings.clock)
        if news and status.id and status.name == self._identity.name:
            ids, addresses = (self._identity.id, peer.id), (self._own_address(), peer.answers_at)
            warnings.own_name_twice(self._once, status.name, ids, addresses)

    def _own_address(self) -> str:
        """Where others reach this node: the advertised address, or one that turned out to be ours; preferably not loopback."""
        own = self._identity.addresses
        known = [*own, *sorted(self._peers.ours - {*own})]
        return next((address for address in known if not is_loopback(address)), next(iter(known), "no address (this one)"))
