"""Who the others are and how they are: the table of peers. Pure: it decides whom to ping when, and what an answer means.

Sources of discovery name candidates; that is a hint. Everything else is this node's own observation: pings, links, and
connections that come in. No gossip and no quorum: with store and forward, a wrong guess costs delay and never a task.

Whoever pings takes the peers from `due`, tries the addresses of each in their order, and ends each ping with exactly one
`answered(peer, ...)` or `failed(peer, ...)`. Links tell what they see through the same two, with an address or a node id in
place of the peer. Times are monotonic seconds, `wall` is the wall clock.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from spoolnode.cluster import warnings
from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.known import Known
from spoolnode.cluster.lookup import is_loopback
from spoolnode.cluster.status import Status
from spoolnode.cluster.warnings import Once, Warn
from spoolnode.protocol.hello import PROTOCOL

SILENCE_SECONDS = 5.0
"""A peer that is up is pinged when nothing was exchanged for so long (give or take a fifth)..."""
STALE_SECONDS = 10.0
"""...or when its status is older than this, for placement lives on that."""
STRIKES = 3
LONGEST_BACKOFF = 60.0
REJECTED_SECONDS = 60.0
"""Whoever could not prove who it is, is not asked again sooner, whatever is announced."""
GAP_SECONDS = 0.5
"""Between two pings of a peer, whatever is announced: forged announcements cost no more than this."""
FORGET_SECONDS = 15 * 60.0
SWEEP_SECONDS = 60.0
MOST_PEERS = 1024
MOST_ADDRESSES = 8
MOST_OURS = 64
"""Addresses that are this node."""
MOST_CANDIDATES = 16
"""Per peer: two or three sources name it under one or two keys; more is somebody who makes them up."""
ANYBODY = "mdns"
"""The source that everybody on the network segment can write to."""


class PeerState(Enum):
    """How a peer is."""

    UNKNOWN = "unknown"
    """Named by a source, not reached yet."""
    UP = "up"
    SUSPECT = "suspect"
    """Did not answer, once or twice."""
    DOWN = "down"
    LEAVING = "leaving"
    """Said goodbye, or answers that it drains: it gets no new tasks."""
    REJECTED = "rejected"
    """Could not prove who it is, or must not be talked to."""


class Failure(Enum):
    """How a send or a ping failed."""

    REFUSED = "refused"
    """Connection refused: nobody listens there."""
    TIMEOUT = "timeout"
    OTHER = "other"
    """The connection broke, or what came was no answer."""
    UNTRUSTED = "untrusted"
    """TLS or identity."""


ALIVE = frozenset({PeerState.UP, PeerState.SUSPECT, PeerState.LEAVING})
_BEST_FIRST = [PeerState.UP, PeerState.LEAVING, PeerState.SUSPECT, PeerState.UNKNOWN, PeerState.DOWN, PeerState.REJECTED]
_RANK = {state: rank for rank, state in enumerate(_BEST_FIRST)}


class Target(NamedTuple):
    """Where a destination is."""

    id: str
    """Empty when not known."""
    name: str
    addresses: tuple[str, ...]
    """The best first; none when it is not known where it is."""
    state: PeerState


@dataclass(eq=False)
class Peer:
    """One other node."""

    id: str
    """Empty as long as only its address is known, and for ever when it is a real uWSGI."""
    name: str = ""
    state: PeerState = PeerState.UNKNOWN
    since: float = 0.0
    addresses: tuple[str, ...] = ()
    """Where to reach it, the best first."""
    status: Status | None = None
    """What it said last."""
    rtt: float = 0.0
    reason: str = ""
    """Why it failed last; empty when it did not since it was up."""
    strikes: int = 0
    misses: int = 0
    """Pings that failed since it is down."""
    rejections: int = 0
    pings: int = 0
    """In flight. More than one only when two peers turned out to be one."""
    candidates: dict[tuple[str, str], Candidate] = field(default_factory=dict)
    known_at: tuple[str, ...] = ()
    """Addresses that no source names (any more)."""
    said_at: tuple[str, ...] = ()
    """Where calls in its name say that it is, while it answers elsewhere; becomes `known_at` when it does not any more."""
    named_at: set[str] = field(default_factory=set)
    """Addresses that an operator has named: tasks may be given there."""
    outside: tuple[str, ...] = ()
    """An address to which none may be given."""
    double: str = ""
    """Where another process said that it has this id."""
    answers_at: str = ""
    absorbed_by: "Peer | None" = None
    exchanged_at: float = 0.0
    status_at: float = 0.0
    pinged_at: float = float("-inf")
    not_before: float = float("-inf")
    silence: float = SILENCE_SECONDS
    next_ping: float | None = None
    at_once: bool = False
    """The next ping is not put off because something was exchanged."""
    again: bool = False
    """Something happened while a ping was in flight; its result may be older."""

    @property
    def sources(self) -> list[str]:
        """Who names it."""
        return sorted({source for source, _ in self.candidates})


Changed = Callable[[Peer, PeerState, PeerState], None]


class PeerTable:
    """All peers.

    Args:
        identity: who this node is.
        rng: for jitter.
        changed: called as `changed(peer, old, new)` whenever the state of a peer changes; it must not call the table back.
        warn: called as `warn(action, **details)` for what an operator must know.
        instance: the token of this process that its own status carries.
        known: whose name is whose, as proved before.
        may_give: whether tasks may be given to an address (host:port) of which only strangers say that a node is there.
        certified: whether all answers are those of nodes with certificates for their names.
    """

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        *,
        changed: Changed | None = None,
        warn: Warn | None = None,
        instance: str = "",
        known: Known | None = None,
        may_give: Callable[[str], bool] = lambda _address: True,
        certified: bool = False,
    ) -> None:
        self.identity = identity
        self.known = known or Known()
        """Whose name is whose."""
        self._may_give = may_give
        self._certified = certified
        self.ours = set(identity.addresses)
        """Addresses that turned out to be this node."""
        self._rng = rng
        self._changed = changed
        self._once = Once(warn or (lambda *_, **__: None))
        self._instance = instance
        self._peers: dict[Peer, None] = {}  # a set that keeps its order
        self._by_id: dict[str, Peer] = {}
        self._by_address: dict[str, Peer] = {}
        self._by_key: dict[tuple[str, str], Peer] = {}
        self._timers: list[tuple[float, int, Peer]] = []
        self._count = 0
        self._sweep_at = 0.0

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, node_id: str) -> Peer | None:
        """The peer of that id."""
        return self._by_id.get(node_id)

    def is_here(self, destination: str) -> bool:
        """Whether this id, name or address is this node."""
        return destination in (self.identity.id, self.identity.name) or destination in self.ours

    # -- what sources say --

    def found(self, candidate: Candidate, now: float) -> None:
        """A source names somebody; replaces what had the same source and key."""
        candidate = candidate._replace(addresses=candidate.addresses[:MOST_ADDRESSES])
        key = (candidate.source, candidate.key)
        before = self._by_key.get(key)
        if before and before.candidates[key] == candidate:
            # Said again, it is no news of a peer that is up. It is of one that is down: so its return is noticed.
            if before.state is not PeerState.UP:
                self._ping_soon(before, now)
            return
        ours = self.ours.issuperset(candidate.addresses)
        peer = None if ours else self._owner(candidate, now)
        if before := self._by_key.get(key):
            self._withdraw(before, key)
        if peer is None or len(peer.candidates) >= MOST_CANDIDATES:
            return
        peer.candidates[key] = candidate
        self._by_key[key] = peer
        if not peer.status:
            peer.name = candidate.name or peer.name
        if not candidate.source.startswith(ANYBODY):
            peer.named_at.update(candidate.addresses)
        self._refresh(peer)
        self._ping_soon(peer, now)
        self._shut_out(peer, now)

    def gone(self, source: str, key: str, now: float) -> None:
        """A source does not name it any more. Its address is kept as long as it lives."""
        del now
        if peer := self._by_key.get((source, key)):
            self._withdraw(peer, (source, key), keep=True)

    def leaving(self, source: str, key: str, now: float) -> None:
        """A goodbye, perhaps a forged one: one ping tells. The source says by itself when it names it no more."""
        peer = self._by_key.get((source, key))
        if peer is None or peer.state in (PeerState.DOWN, PeerState.REJECTED):
            return
        self._set(peer, PeerState.LEAVING, now)
        self._ping_soon(peer, now)

    # -- what pings and links see --

    def answered(
        self, who: Peer | str, said: Mapping[str, Any], rtt: float, now: float, *, wall: float = 0.0, address: str = ""
    ) -> Peer | None:
        """A ping, or the handshake of a link, was answered.

        Args:
            who: the peer from `due`, whose ping has ended with this; or the address or id, for a link.
            said: its status; empty for a real uWSGI.
            rtt: seconds between question and answer.
            now: when the answer came.
            wall: the wall clock then; 0.0 leaves its clock unjudged.
            address: where it answered.

        Returns:
            Who it is; None when it is this node itself, or there is no room in the table.
        """
        peer = self._end_ping(who)
        status = Status.read(said)
        if peer is None and isinstance(who, str) and ":" in who:
            if not self._may_give(who):
                return self._heard_outside(who, status, now)
            peer = self._add("", now)
            if peer:
                peer.known_at = (who,)
                self._refresh(peer)
        if peer is None:
            return None
        if not address and isinstance(who, str):
            address = who if ":" in who else ""
        elif not address and len(peer.addresses) == 1:
            address = peer.addresses[0]
        if status.id == self.identity.id:
            self._is_us(peer, status, address, now)
            return None
        if self._is_copy(peer, status, address, now) or self._is_claim(who, peer, status, address, now):
            return None
        peer = self._identify(peer, status.id, address, now)
        if peer is None or self._foreign(peer, status, now):
            return peer
        news = peer.state is not PeerState.UP or peer.name != status.name
        if not self._has_name(peer, status, address, now):
            return peer
        self._greet(peer, status, rtt, address, now)
        if wall and status.time:
            warnings.clock(self._once, peer.id, peer.name, status.time + rtt / 2 - wall)
        if news and status.id and status.name == self.identity.name:
            warnings.own_name_twice(self._once, status.name, (self.identity.id, peer.id), (self._own_address(), peer.answers_at))
        return peer

    def failed(self, who: Peer | str, kind: Failure, now: float, reason: str = "") -> None:
        """A ping (`who` is the peer from `due`) or a link (an address or id) failed."""
        peer = self._end_ping(who)
        if peer is None:
            return
        if isinstance(who, str) and who not in (peer.id, peer.answers_at) and self._is_held(peer):
            self._ping_soon(peer, now)  # a link to another address of it says nothing on the one where it answers
            return
        peer.reason = reason or kind.value
        pinged, again = isinstance(who, Peer), peer.again
        if kind is Failure.UNTRUSTED:
            self._reject(peer, now)
        elif kind is Failure.REFUSED:
            self._down(peer, now, pinged)
        elif pinged:
            self._strike(peer, now)
        elif peer.state in (PeerState.UNKNOWN, PeerState.UP):
            # Several links to one peer break together: that is one strike. The others are for pings to count.
            self._strike(peer, now)
        elif peer.state in (PeerState.SUSPECT, PeerState.LEAVING):
            self._ping_soon(peer, now)
        if pinged:
            peer.again = False
            if again:
                self._ping_soon(peer, now)

    def exchanged(self, who: str, now: float) -> None:
        """A task was taken there: a sign of life. `who` is an id or an address."""
        peer = self._by_id.get(who) or self._by_address.get(who)
        if peer is None or peer.absorbed_by or peer not in self._peers:
            peer = self._find(who)
            if peer is None:
                return
        peer.exchanged_at = now
        if peer.state not in (PeerState.UP, PeerState.LEAVING):
            self._revive(peer)
            self._set(peer, PeerState.UP, now)
            # What it said before may be old, and where it was down nobody counted on it.
            self._ping_soon(peer, now)

    def met_copy(self, address: str) -> None:
        """A node with our id introduced itself: one spool directory is a copy of the other."""
        warnings.id_twice(self._once, self.identity.id, address)

    def heard(self, node_id: str, name: str, now: float, addresses: tuple[str, ...] = (), instance: str = "") -> None:
        """A connection came in that says this id. It says nothing on whether we reach it, so it only makes us try at once.

        Not when we reach that very process already (`instance`): every ping is heard, and two nodes would ping each other
        without end. Its name counts when it has never answered, or has a certificate for it; without one, the addresses count
        when it does not answer where it has proved who it is.
        """
        if node_id == self.identity.id:
            return
        peer = self._by_id.get(node_id)
        if peer is None and addresses:
            peer = self._add(node_id, now)
        if peer is None:
            return
        if addresses and self._is_held(peer):
            peer.said_at = addresses[:MOST_ADDRESSES]
        elif addresses:
            peer.known_at = addresses[:MOST_ADDRESSES]
            self._refresh(peer)
        if peer.status is None or self._certified:
            peer.name = name or peer.name
        peer.misses = 0
        self._shut_out(peer, now)
        if not (instance and peer.state is PeerState.UP and peer.status is not None and peer.status.instance == instance):
            self._ping_soon(peer, now)

    # -- whom to ping --

    def due(self, now: float) -> list[Peer]:
        """Whom to ping now; each is counted as being pinged until `answered` or `failed` says how that ended."""
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            self._forget_old(now)
        due = []
        while self._timers and self._timers[0][0] <= now:
            when, _, peer = heapq.heappop(self._timers)
            if when != peer.next_ping:
                continue
            peer.next_ping = None
            if not self._may_be_pinged(peer):
                continue
            if (later := self._put_off(peer)) > now:
                self._schedule(peer, later)
                continue
            peer.pings += 1
            peer.pinged_at = now
            peer.at_once = False
            due.append(peer)
        return due

    def next_due(self) -> float | None:
        """When to call `due` next. It may turn out that nothing is to be done then."""
        while self._timers:
            when, _, peer = self._timers[0]
            if when == peer.next_ping:
                if self._may_be_pinged(peer):
                    return when
                peer.next_ping = None
            heapq.heappop(self._timers)
        return None

    # -- what others ask --

    def resolve(self, destination: str) -> Target | None:
        """Where an address, a node's id or a node's name is; None when nobody is known by that id or name."""
        if destination.startswith("tag:"):
            return None
        if ":" in destination:
            peer = self._find(destination)
            if peer is None:
                return Target("", "", (destination,), PeerState.UNKNOWN)
            return Target(peer.id, peer.name, (destination,), peer.state)
        peer = self.meant(destination)
        return Target(peer.id, peer.name, peer.addresses, peer.state) if peer else None

    def meant(self, destination: str) -> Peer | None:
        """The peer of this id or name."""
        return self._by_id.get(destination) or self._named(destination)

    def called(self) -> set[str]:
        """All ids and names by which somebody may be meant."""
        return {*self._by_id, *self.known.claimed(), *(peer.name for peer in self._peers)}

    def answers_to(self, destination: str, node_id: str) -> bool:
        """Whether the node of that id is the one that this id or name means."""
        return node_id in (destination, self.known.holder(destination))

    def is_reached(self, node_id: str, instance: str, host: str) -> bool:
        """Whether we reach this very process of that node at that host. Anybody can say that it is another node when it calls."""
        peer = self._by_id.get(node_id)
        if peer is None or peer.status is None or peer.status.instance != instance:
            return False
        return host in (address.rpartition(":")[0].strip("[]") for address in peer.addresses)

    def why_not(self, destination: str) -> str:
        """Why there is no node of this id or name, for people."""
        holder = self.known.holder(destination)
        if holder:
            return f"the node {holder}, which has the name {destination!r}, has not been found"
        if holder is None:
            return f"no node of the id or name {destination} is known"
        who = ", ".join(f"{other}{f' at {at}' if at else ''}" for other, at in self.known.rivals(destination).items())
        remedy = f"say which one has it with spoolnode accept {destination} ID"
        return f"the name {destination!r} is claimed by several nodes ({who}), so none gets anything: {remedy}"

    def _own_address(self) -> str:
        """Where others reach this node: what is advertised, or turned out to be this node, rather than the loopback."""
        known = [*self.identity.addresses, *sorted(self.ours - {*self.identity.addresses})]
        return next((address for address in known if not is_loopback(address)), next(iter(known), "no address (this one)"))

    def accept(self, name: str, node_id: str, now: float) -> None:
        """The operator says whose name this is: those concerned are asked again at once."""
        self.known.accept(name, node_id, certified=self._certified)
        for peer in list(self._peers):
            if node_id == peer.id or peer.name == name:
                self._once.over("name_twice", name, peer.id)
                self.ask_again(peer, now)

    def ask_again(self, peer: Peer, now: float) -> None:
        """What a peer was rejected for may be over."""
        peer.not_before = float("-inf")
        peer.next_ping = None
        self._ping_soon(peer, now)

    def _named(self, name: str) -> Peer | None:
        """Who has this name. Where nobody has proved it, somebody who announces it alone may."""
        holder = self.known.holder(name)
        if holder is not None:
            return self._by_id.get(holder)
        named = sorted((peer for peer in self._peers if peer.name == name), key=lambda peer: (_RANK[peer.state], peer.id))
        claims = [peer for peer in named if peer.state in ALIVE or peer.state is PeerState.UNKNOWN]
        return named[0] if named and len(claims) < 2 else None  # of two neither

    def rows(self, now: float) -> list[dict[str, Any]]:
        """The table for people."""
        return [_row(peer, now) for peer in sorted(self._peers, key=lambda peer: (peer.name, peer.id, peer.addresses))]

    # -- who is who --

    def _owner(self, candidate: Candidate, now: float) -> Peer | None:
        """Whose candidate this is. An id that is only said gets a row of its own; an address is whose who answered there."""
        if candidate.id and candidate.id != self.identity.id:
            return self._by_id.get(candidate.id) or self._add(candidate.id, now, candidate.source)
        for peer in map(self._find, candidate.addresses):
            if peer and (not peer.id or peer.answers_at in candidate.addresses):
                return peer
        return self._add("", now, candidate.source)

    def _find(self, who: str) -> Peer | None:
        """The peer of an id or an address. Of several that claim one address, the one that answered there last."""
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

    def _identify(self, peer: Peer, node_id: str, address: str, now: float) -> Peer | None:
        """Who it is that answered: `peer` itself, one it turns out to be, or another one that is at its address now."""
        if peer.id == node_id:
            return peer
        if not peer.id:
            known = self._by_id.get(node_id)
            if known is None:
                peer.id = node_id
                self._by_id[node_id] = peer
                return peer
            self._absorb(peer, known)
            return known
        at_address = (other for other in self._peers if not other.id and address in other.addresses)
        other = (self._by_id.get(node_id) if node_id else next(at_address, None)) or self._add(node_id, now)
        self._hand_over(peer, other, address)
        peer.reason = f"{address} is {f'the node {node_id}' if node_id else 'no spoolnode'} now"
        self._down(peer, now, pinged=True)
        return other

    def _absorb(self, peer: Peer, known: Peer) -> None:
        """Both are one."""
        for key, candidate in peer.candidates.items():
            known.candidates[key] = candidate
            self._by_key[key] = known
        peer.candidates = {}
        known.known_at = (*known.known_at, *peer.known_at)[:MOST_ADDRESSES]
        known.named_at |= peer.named_at
        known.pings += peer.pings
        peer.absorbed_by = known
        self._remove(peer)
        self._refresh(known)

    def _hand_over(self, peer: Peer, other: Peer | None, address: str) -> None:
        """Another node answers at this address of `peer`: who was named by it alone is that one."""
        for key, candidate in list(peer.candidates.items()):
            if address in candidate.addresses and not candidate.id:
                self._withdraw(peer, key)
                if other:
                    other.candidates[key] = candidate
                    self._by_key[key] = other
                    other.named_at |= peer.named_at & set(candidate.addresses)
        peer.known_at = tuple(known for known in peer.known_at if known != address)
        if peer.answers_at == address:
            peer.answers_at = ""
        self._refresh(peer)
        if other:
            self._refresh(other)

    def _is_us(self, peer: Peer, status: Status, address: str, now: float) -> None:
        """Our id answered: it is this node, under an address that we did not know for ours, or a copy of it."""
        if status.instance == self._instance:
            if address and len(self.ours) < MOST_OURS:
                self.ours.add(address)
            if not peer.id:
                self._remove(peer)
            else:
                self._hand_over(peer, None, address)
                peer.reason = f"{address} is this node itself"
                self._down(peer, now, pinged=True)
            return
        warnings.id_twice(self._once, self.identity.id, address)
        peer.reason = f"it has the id of this node, {self.identity.id}"
        self._reject(peer, now)

    def _foreign(self, peer: Peer, status: Status, now: float) -> bool:
        """Whether it must not be talked to, although it answers."""
        if status.protocol and status.protocol != PROTOCOL:
            action = "other_protocol"
            reason = f"{_called(peer, status)} speaks version {status.protocol} between nodes, this node {PROTOCOL}"
        elif status.cluster and status.cluster != self.identity.cluster:
            action = "other_cluster"
            reason = f"{_called(peer, status)} belongs to the cluster {status.cluster!r}, this node to {self.identity.cluster!r}"
        else:
            self._once.over("other_protocol", status.id)
            self._once.over("other_cluster", status.id)
            return False
        self._once.say(action, status.id, id=status.id, address=peer.addresses[0] if peer.addresses else "", reason=reason)
        peer.name, peer.reason = status.name or peer.name, reason
        self._reject(peer, now)
        return True

    def _has_name(self, peer: Peer, status: Status, address: str, now: float) -> bool:
        """Whether it has the name that it says; one that has not gets nothing, and an operator is told."""
        if not peer.id or not status.name:
            return True
        name, alive = status.name, set[str]()
        if self.known.holder(name) != peer.id:
            others = (other for other in self._peers if other is not peer and other.name == name and other.id)
            alive = {one.id for one in others if one.state in ALIVE or (one.state is PeerState.UNKNOWN and one.addresses)}
        if self.known.prove(peer.id, name, address, alive=alive, certified=self._certified, key=status.key):
            self._once.over("name_twice", name, peer.id)
            return True
        peer.name, peer.status, peer.answers_at = name, status, address or peer.answers_at
        holder = self.known.holder(name) or ""
        peer.reason = warnings.claimed(self._once, name, holder, self._whereabouts(name, holder, peer), peer.id)
        self._reject(peer, now, SILENCE_SECONDS)
        return False

    def _whereabouts(self, name: str, holder: str, peer: Peer) -> str:
        """Where the holder of a name is; of a disputed one, who else claims it."""
        if holder:
            known = self._by_id.get(holder)
            return known.answers_at if known else ""
        others = [other for other in self.known.rivals(name) if other != peer.id]
        return ", ".join(others)

    def _is_copy(self, peer: Peer, status: Status, address: str, now: float) -> bool:
        """Whether another process than the one that we reach says that it has the same id. The one that we reach keeps it.

        As long as it answers: whether it still does is asked at once. Then the other one has moved, or is a copy.
        """
        known = self._by_id.get(status.id)
        if known is None or known.status is None or known.state is not PeerState.UP or not address:
            return False
        if known.status.instance == status.instance or known.answers_at in ("", address):
            if known.double and known.answers_at == address and known.status.instance == status.instance:
                warnings.copied(self._once, status.id, (known.answers_at, known.double))
            known.double = ""
            return False
        if peer is known:
            return False  # where it was it did not answer this ping
        known.double = address
        self._ping_soon(known, now)
        if not peer.id:
            peer.reason = warnings.has_id(known.id, known.name, known.answers_at)
            self._reject(peer, now, SILENCE_SECONDS)
        elif not self._certified:
            self._reject_claim(peer, known, address, now)
        return True

    def _is_held(self, peer: Peer) -> bool:
        """Whether it answers where it proved who it is. Without a certificate, nobody's word leads away from there."""
        alive = peer.state in (PeerState.UP, PeerState.LEAVING) and peer.status is not None
        return alive and bool(peer.answers_at) and not self._certified

    def _is_claim(self, who: Peer | str, peer: Peer, status: Status, address: str, now: float) -> bool:
        """Whether somebody at another address says that it is a node that answers where it is known.

        Anybody can repeat the id and the instance that a ping tells. So the node moves only when one of its own pings, which asks
        where it answered first, finds nobody there; that is asked at once. An address that an operator named is one more of it.
        """
        known = self._by_id.get(status.id)
        if known is None or who is known or not self._is_held(known) or address in ("", known.answers_at):
            return False
        self._ping_soon(known, now)
        if peer is known:
            pass  # a link to another of its addresses
        elif not peer.id and address in peer.named_at:
            self._absorb(peer, known)
        elif not peer.id and not peer.candidates:
            self._remove(peer)  # only a task leads there: it gets what is for this address
        else:
            self._reject_claim(peer, known, address, now)
        return True

    def _reject_claim(self, peer: Peer, known: Peer, address: str, now: float) -> None:
        peer.reason = warnings.claimed_id(self._once, known.id, known.name, (known.answers_at, address))
        self._reject(peer, now, SILENCE_SECONDS)

    def _heard_outside(self, address: str, status: Status, now: float) -> Peer | None:
        """Somebody answered at an address that only a task names: no peer, whoever it is. Returned when it must get nothing."""
        stranger = Peer("", addresses=(address,))
        return stranger if status.id != self.identity.id and self._foreign(stranger, status, now) else None

    def _shut_out(self, peer: Peer, now: float) -> None:
        """One of whom we know nothing but addresses to which no task may be given is told of, and left alone."""
        if peer.outside and not peer.addresses:
            peer.reason = warnings.outside(self._once, peer.id, peer.name, peer.outside[0])
            self._set(peer, PeerState.REJECTED, now)

    # -- how they are --

    def _greet(self, peer: Peer, status: Status, rtt: float, address: str, now: float) -> None:
        """It answered as it should."""
        self._revive(peer)
        peer.status, peer.status_at, peer.exchanged_at, peer.rtt = status, now, now, rtt
        peer.name = status.name or peer.name
        if address and address != peer.answers_at:
            peer.answers_at = address
            self._refresh(peer)
        self._set(peer, PeerState.LEAVING if status.draining else PeerState.UP, now)
        peer.silence = SILENCE_SECONDS * (0.8 + 0.4 * self._rng.random())
        again, peer.again, peer.at_once = peer.again, False, False
        peer.next_ping = None
        if again:
            self._ping_soon(peer, now)
        else:
            self._schedule(peer, now + peer.silence)

    def _revive(self, peer: Peer) -> None:
        peer.strikes = peer.misses = 0
        peer.reason = ""
        peer.not_before = float("-inf")

    def _strike(self, peer: Peer, now: float) -> None:
        """It did not answer."""
        if peer.state not in (PeerState.UNKNOWN, PeerState.UP, PeerState.SUSPECT) or peer.strikes + 1 >= STRIKES:
            self._down(peer, now, pinged=True)
            return
        peer.strikes += 1
        self._set(peer, PeerState.SUSPECT, now)
        self._ping_soon(peer, now)

    def _down(self, peer: Peer, now: float, pinged: bool) -> None:
        """Nobody is there. Only pings make the pauses longer; links have their own."""
        if peer.state is PeerState.DOWN and not pinged:
            return
        peer.strikes, peer.at_once = 0, False
        peer.misses += 1
        self._set(peer, PeerState.DOWN, now)
        bound = min(LONGEST_BACKOFF, 2.0 ** min(peer.misses - 1, 10))
        peer.next_ping = None
        self._schedule(peer, now + bound * self._rng.random())

    def _reject(self, peer: Peer, now: float, pause: float = REJECTED_SECONDS) -> None:
        peer.rejections += 1
        peer.strikes, peer.at_once, peer.again = 0, False, False
        peer.not_before = now + pause
        self._set(peer, PeerState.REJECTED, now)
        peer.next_ping = None
        self._schedule(peer, peer.not_before)

    def _set(self, peer: Peer, state: PeerState, now: float) -> None:
        if peer.state is not state:
            old, peer.state, peer.since = peer.state, state, now
            if peer.said_at and not self._is_held(peer):
                peer.known_at, peer.said_at = peer.said_at, ()
            self._refresh(peer)
            if self._changed:
                self._changed(peer, old, state)

    # -- when to ping --

    def _end_ping(self, who: Peer | str) -> Peer | None:
        """Who is meant; when it is a peer, one ping of it has ended."""
        if isinstance(who, str):
            return self._find(who)
        while who.absorbed_by:
            who = who.absorbed_by
        who.pings = max(who.pings - 1, 0)
        return who if who in self._peers else None

    def _may_be_pinged(self, peer: Peer) -> bool:
        return not peer.pings and bool(peer.addresses) and peer in self._peers

    def _ping_soon(self, peer: Peer, now: float) -> None:
        peer.at_once = True
        if peer.pings:
            peer.again = True
        self._schedule(peer, now)

    def _put_off(self, peer: Peer) -> float:
        """The earliest time for the next ping, now that its timer has run down: something may have been exchanged meanwhile."""
        if peer.at_once or peer.state is not PeerState.UP:
            return float("-inf")
        return min(peer.exchanged_at + peer.silence, peer.status_at + STALE_SECONDS)

    def _schedule(self, peer: Peer, when: float) -> None:
        """Pings it at `when`, or sooner if that was planned already."""
        when = max(when, peer.not_before, peer.pinged_at + GAP_SECONDS)
        if peer.next_ping is None or when < peer.next_ping:
            peer.next_ping = when
            self._count += 1
            heapq.heappush(self._timers, (when, self._count, peer))

    # -- coming and going --

    def _add(self, node_id: str, now: float, source: str = "") -> Peer | None:
        """A new peer, if there is room. A full table gives up those that never answered and whom only strangers name."""
        if len(self._peers) >= MOST_PEERS:
            useless = [peer for peer in self._peers if peer.state is not PeerState.UP and not peer.status and _only_hinted(peer)]
            if not useless:
                reason = f"there are {MOST_PEERS} peers already; {node_id or 'one more'} is not taken into the table"
                self._once.say("too_many_peers", source=source, reason=reason)
                return None
            self._remove(min(useless, key=lambda peer: (peer.state is PeerState.UNKNOWN, peer.since)))
        peer = Peer(node_id, since=now, exchanged_at=now, status_at=now)
        self._peers[peer] = None
        if node_id:
            self._by_id[node_id] = peer
        return peer

    def _remove(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        if self._by_id.get(peer.id) is peer:
            del self._by_id[peer.id]
        for key in peer.candidates:
            self._by_key.pop(key, None)
        for address in peer.addresses:
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def _withdraw(self, peer: Peer, key: tuple[str, str], *, keep: bool = False) -> None:
        candidate = peer.candidates.pop(key)
        del self._by_key[key]
        if keep:
            peer.known_at = tuple(dict.fromkeys((*candidate.addresses, *peer.known_at)))[:MOST_ADDRESSES]
        self._refresh(peer)

    def _refresh(self, peer: Peer) -> None:
        """Its addresses in order: where it answers, what sources name, then the rest.

        As long as it is up, no announcement leads away from where it answers. Then what is announced goes first.
        """
        named = [address for candidate in peer.candidates.values() for address in candidate.addresses]
        answers = [peer.answers_at] if peer.answers_at else []
        trusted = peer.state in (PeerState.UP, PeerState.LEAVING) or peer.answers_at in named
        ordered = [*answers, *named, *peer.known_at] if trusted else [*named, *answers, *peer.known_at]
        ordered = [address for address in ordered if address not in self.ours]
        addresses = [address for address in ordered if address in peer.named_at or self._may_give(address)]
        peer.outside = tuple(address for address in ordered if address not in addresses)[:1]
        had, peer.addresses = peer.addresses, tuple(dict.fromkeys(addresses))[:MOST_ADDRESSES]
        for address in {*had} - {*peer.addresses}:
            if self._by_address.get(address) is peer:
                del self._by_address[address]

    def _forget_old(self, now: float) -> None:
        for peer in list(self._peers):
            if peer.candidates or peer.pings or now - peer.since < FORGET_SECONDS:
                continue
            if peer.state in (PeerState.DOWN, PeerState.REJECTED) or not peer.addresses:
                self._remove(peer)


def _only_hinted(peer: Peer) -> bool:
    """Whether nobody but strangers names it: neither the configuration nor itself."""
    return all(source.startswith(ANYBODY) for source, _ in peer.candidates)


def _called(peer: Peer, status: Status) -> str:
    address = peer.addresses[0] if peer.addresses else ""
    return " at ".join(part for part in (status.name or status.id or peer.name, address) if part)


def _row(peer: Peer, now: float) -> dict[str, Any]:
    status = peer.status or Status()
    return {
        "name": peer.name,
        "id": peer.id,
        "address": next(iter((*peer.addresses, *peer.outside)), ""),
        "state": peer.state.value,
        "since": round(now - peer.since, 1),
        "load": round((status.waiting + status.running) / status.workers, 2) if status.workers else None,
        "waiting": status.waiting,
        "workers": status.workers,
        "tags": sorted(status.tags),
        "sources": peer.sources,
        "rtt": peer.rtt,
        "version": status.version,
        "strikes": peer.strikes,
        "rejections": peer.rejections,
        "reason": peer.reason,
    }
