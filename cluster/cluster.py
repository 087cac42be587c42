"""The cluster of one node: the other nodes, where tasks go, and the links that carry them there.

It is the node's `neighbours` (`node.neighbours`). The pure modules beside this one decide (`peers`, `placement`, `sharing`,
`link`); here they meet the clock, the network and the spool.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

from spoolnode.cluster import dial as dialing
from spoolnode.cluster.candidate import Candidate, Discovery, Identity
from spoolnode.cluster.channel import Channel
from spoolnode.cluster.credentials import Credentials
from spoolnode.cluster.destinations import Target
from spoolnode.cluster.dial import DialFailure
from spoolnode.cluster.discovery import make_sources
from spoolnode.cluster.forgetting import Forgetting
from spoolnode.cluster.giving import giving, is_this_machine
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.known_file import KnownFile
from spoolnode.cluster.link import LinkState
from spoolnode.cluster.liveness import PeerState
from spoolnode.cluster.lookup import is_literal, is_loopback
from spoolnode.cluster.lost import LostDestinations
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peer_status import REACHES, Load, Status
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.placement import ALL, ANY, HERE, TAG, Placement
from spoolnode.cluster.prober import FAILURES, Prober
from spoolnode.cluster.redistribution import CHUNK, Redistribution
from spoolnode.cluster.requests import Requests
from spoolnode.cluster.sender import ATTEMPTS_AT_ONCE, Dial, NotIt, Sender
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.timing import USUAL, Timing
from spoolnode.cluster.trust import Trust
from spoolnode.node.background import cancel_all, spawn
from spoolnode.node.commons import COMMONS
from spoolnode.node.host import Host
from spoolnode.node.neighbours import Greeting
from spoolnode.node.roster import Colleague
from spoolnode.node.turns import Gate
from spoolnode.protocol import hello as hellos
from spoolnode.protocol import keys, names
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.operate import INVITED, INVITES, Operation, OperationAnswer
from spoolnode.protocol.request import Terms

EXPIRY_SECONDS = 86400.0
"""Seconds between two warnings about a certificate that ends soon."""
MOST_UNKNOWN = 1024
"""Most unknown destinations that are logged: any client that may enqueue can make them up."""
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104  # compared, never bound


def joiner(
    trust: Trust | None = None, dial: Dial | None = None, rng: random.Random | None = None, timing: Timing = USUAL,
    contact: Contact | None = None,
) -> Callable[[Host], "Cluster"]:  # fmt: skip
    """Makes the cluster of a node, for `run_node`. Tests bring their own `dial` (how to connect), chance and timing.

    `contact`: the way to the store of the node.
    """
    return lambda node: Cluster(node, trust, dial, rng, timing, contact)


class Cluster:
    """The other nodes, as one node sees them: its `Neighbours`, and the `SenderHost` of its senders."""

    def __init__(
        self, node: Host, trust: Trust | None, dial: Dial | None, rng: random.Random | None = None, timing: Timing = USUAL,
        contact: Contact | None = None,
    ) -> None:  # fmt: skip
        self._node = node
        self._storage = node.storage
        self._timing = timing
        self._trust = trust
        self._loop = asyncio.get_running_loop()
        self.report = node.report
        listening = [address for address in node.addresses if names.is_address(address)]
        self._listening = (node.config.advertise,) if node.config.advertise else tuple(listening)
        fixed = tuple(address for address in self._listening if not address.startswith(WILDCARDS))
        identity = Identity(node.id, node.config.name, node.config.cluster, fixed, trust is not None)
        self._identity = identity
        self._here = {*node.config.listen, *listening}
        self.node_id = node.id
        self.outbox = node.storage.outbox
        self.shipping = node.storage.shipping
        self.rng = rng or random.Random()
        self.gate = Gate(ATTEMPTS_AT_ONCE)
        self._known_file = KnownFile(node.storage.journal, self.report)
        self._known = self._known_file.known
        self.table = PeerTable(
            identity, self.rng, timing, changed=self._changed, warn=self.report, instance=node.instance, known=self._known,
            giving=giving(node.config, certified=trust is not None),
        )  # fmt: skip
        self.placement = Placement(identity, self.rng)
        self.dial = dial or self._dial_tcp
        self._credentials = Credentials(node.id, node.key, self._known, with_certificates=trust is not None)
        self.vouch = self._credentials.vouch
        self._prober = Prober(self.table, self.dial, self.introduce, self._answered, self.vouch, timing)
        self._requests = Requests(
            self.table.destinations, self.dial, self.introduce, self.vouch, timing, certified=trust is not None
        )  # fmt: skip
        self._moves = Redistribution(
            self.table, self.placement, node.storage, node.config, self.report, lambda: Load.of(self._own_status()),
            self._prober.wake, timing,
        )  # fmt: skip
        self._forgetting = Forgetting(
            self.table, self._known_file, self.placement, node.storage, self._cut, self.report
        )  # fmt: skip
        announced = identity._replace(addresses=(node.config.advertise,) if node.config.advertise else ())
        self._sources: list[Discovery] = make_sources(
            node.config.discover, announced, listening, self.report, self.rng, contact
        )  # fmt: skip
        self._running: list[asyncio.Task[None]] = []
        self._senders: dict[str, Sender] = {}
        self._lost = LostDestinations(self.table.destinations, self.outbox, self._woken, timing.search)
        self._stopped = False
        self._warned_at = float("-inf")
        self._unknown: set[str] = set()
        """Destinations that the log has called unknown."""
        self._full: set[str] = set()
        """Ids of the peers that are up but take nothing."""
        self.outbox.when_woken(self._woken)

    def __repr__(self) -> str:
        return f"<cluster {self._identity.cluster}: {self.table!r}, {len(self._senders)} senders>"

    # -- what the node asks --

    def route(self, terms: Terms) -> list[str]:
        """Where a task should go."""
        if self._is_here(terms.destination):
            return [HERE]
        return self.placement.choose(terms.destination, self._loop.time())

    def unknown(self, destination: str) -> str:
        """The note for the sender of a task to an unknown name or tag. Each is also logged once."""
        if ":" in destination.removeprefix(TAG) or destination in (ANY, ALL) or self._is_here(destination):
            return ""
        is_tag = destination.startswith(TAG)
        target = None if is_tag else self.resolve(destination)
        if self.placement.knows(destination) if is_tag else target is not None and target.addresses:
            self._unknown.discard(destination)
            return ""
        why = self._why_not(destination)
        note = f"the destination {destination!r} is unknown: {why}; the task waits for it"
        if destination not in self._unknown and len(self._unknown) < MOST_UNKNOWN:
            self._unknown.add(destination)
            self.report("unknown_destination", destination=destination, reason=why)
        return note

    def is_apart(self, destination: str) -> bool:
        """Whether only nodes without a common store are this destination, as far as is known."""
        if destination in ("", ANY, ALL) or self._is_here(destination):
            return False
        if destination.startswith(TAG):
            tag = destination.removeprefix(TAG)
            shares = [peer.status.shares for peer in self.table if peer.status is not None and tag in peer.status.tags]
            return bool(shares) and not any(shares) and tag not in self._node.config.tag
        peer = self.table.find(destination) if ":" in destination else self.table.destinations.meant(destination)
        if peer is None or peer.status is None:
            return self.table.known.is_apart(destination)
        return not peer.status.shares

    def greet(self, hello: hellos.Hello, peer: str, certified: str, nonce: str) -> Greeting:
        """Takes the hello of a node. Raises `Refused`."""
        if hello.cluster != self._identity.cluster:
            raise Refused(
                Reason.FORBIDDEN, f"this node belongs to the cluster {self._identity.cluster!r}, not to {hello.cluster!r}"
            )
        greeting = self._credentials.check(hello, certified, nonce)
        if hello.id == self._identity.id:
            if hello.instance != self._node.instance:
                self.table.met_copy(next(iter(hello.addresses), peer))
                if hello.to:  # a ping is answered, so that the other node notices it, too
                    raise Refused(
                        Reason.CONFLICT, f"this node has the id {hello.id} too: one spool directory is a copy of the other"
                    )
            return greeting
        host = f"[{peer}]" if ":" in peer else peer
        addresses = tuple(
            _at(address, host)
            for address in hello.addresses
            if (peer != "unix" or not address.startswith(WILDCARDS)) and (not is_loopback(address) or _is_here(peer))
        )
        self.table.heard(hello.id, hello.name, self._loop.time(), addresses, hello.instance)
        known = self.table.get(hello.id)
        is_proved = self._trust is not None or greeting.is_proved
        is_it = self._trust is not None or (greeting.is_proved and self._known.key(hello.id))
        if is_it and known is not None and known.state is PeerState.REJECTED:
            self.table.ask_again(known, self._loop.time())  # it has just shown its certificate, or its key
        self._prober.wake()
        is_proved = is_proved or self.table.is_reached(hello.id, hello.instance, peer)
        is_invited = bool(certified) and self._node.config.trusts_operators_of(certified)
        reaches = ((REACHES, known.reach()),) if is_proved and known is not None else ()
        invites = ((INVITES, INVITED),) if is_invited else ()
        return greeting._replace(is_proved=is_proved, said=(*greeting.said, *reaches, *invites))

    async def start(self) -> None:
        """Finds peers, and sends them the tasks that wait for them."""
        self._report_own()
        self._running = [self._loop.create_task(source.run(self)) for source in self._sources]
        self._prober.start()
        self._loop.call_later(self._timing.unknown + 1.0, self._moves.look_again)  # nodes that are unknown by then may never come
        for to in self.outbox.sizes():
            self._woken(to)

    async def leave(self) -> None:
        """Says goodbye."""
        self._moves.is_leaving = True
        await cancel_all(self._running)
        results = await asyncio.gather(*(source.close() for source in self._sources), return_exceptions=True)
        for problem in results:
            if isinstance(problem, Exception):
                self.report("discovery_failed", reason=str(problem))

    async def stop(self) -> None:
        """Ends all links."""
        self._stopped = True
        self._lost.stop()
        self._prober.stop()
        for task in self._running:
            task.cancel()
        for sender in list(self._senders.values()):
            await sender.stop()
        self._senders.clear()

    def flush(self, destination: str) -> bool:
        """Tries a destination now. Returns whether tasks wait for it and a node is known for it."""
        self._lost.discard(destination)
        self._woken(destination)
        sender = self._senders.get(destination)
        if sender is None or not sender.has_work:
            return False
        sender.nudge()
        return True

    def tick(self) -> None:
        """Called each second."""
        self._known_file.tick()
        self._report_own()
        if self._trust is not None:
            self._trust.close_ended(time.time(), self.report)
        self._warn_of_expiry()
        outbox = self.outbox
        for to, sender in list(self._senders.items()):
            if sender.link.state in (LinkState.IDLE, LinkState.WAITING) and not outbox.size(to):
                del self._senders[to]
                spawn(sender.stop())
        for to in [name for name, found in outbox.destinations.items() if not found.size and name not in self._senders]:
            outbox.prune(to)
        self._lost.tick()
        self.placement.retain(peer.id for peer in self.table)
        self._moves.move_soon()

    async def drain(self, seconds: float) -> int:
        """Hands the waiting tasks of this node to peers, for at most `seconds`. Returns how many went."""
        return await self._moves.drain(seconds)

    def status(self) -> dict[str, Any]:
        """The part of the node's status about the cluster."""
        certificate = {} if self._trust is None else {"certificate_until": self._trust.until}
        return {"peers": {state.value: count for state, count in self.table.states().items()}, **certificate}

    def peers(self) -> list[dict[str, Any]]:
        """A row for each peer, with the number of tasks that wait for it here, and when they are tried next."""
        sizes = self.outbox.sizes()
        rows, names_of = self.table.rows(self._loop.time()), self._known.names()
        for row in rows:
            row["former_names"] = [name for name in names_of.get(row["id"], []) if name != row["name"]]
            keys = {row["id"], row["address"], *names_of.get(row["id"], [])} - {""}
            row["outbox"] = sum(sizes.get(key, 0) for key in keys)
            waits = [self.link(key)["retry_in"] for key in keys if key in self._senders]
            row["open"] = row["open"] and self._trust is not None
            row["retry_in"] = min((seconds for seconds in waits if seconds is not None), default=None)
        return rows

    def knows(self, node_id: str) -> bool:
        """Whether a node with that id is known, up or not."""
        return self.resolve(node_id) is not None or bool(self.table.known.address(node_id))

    async def ask(self, node: str, question: bytes, seconds: float, link: str = "") -> Answer:
        """The answer of another node to a request. Raises `SpoolnodeError`, OSError."""
        return await self._requests.ask(node, question, seconds, link)

    async def operate(self, node: str, operation: Operation) -> OperationAnswer:
        """The answer of another node to a request of an operator."""
        return await self._requests.operate(node, operation)

    def link(self, destination: str) -> dict[str, Any]:
        """The state of the link to a destination."""
        to = destination
        target, sender = self.resolve(to), self._senders.get(to)
        known = target is not None and bool(target.addresses)
        state, failures, retry_in, reason = LinkState.IDLE, 0, None, ""
        if sender is not None:
            state, failures = sender.link.state, sender.link.failures
        if sender is not None and state is LinkState.WAITING:
            retry_in, reason = round(max(sender.link.retry_at - self._loop.time(), 0.0), 1), sender.link.reason
        if not known:
            reason = self._why_not(to)
        name = self.table.destinations.name_of(to)
        return {"known": known, "name": name, "state": state.value, "failures": failures, "retry_in": retry_in, "reason": reason}

    def _why_not(self, to: str) -> str:
        if to.startswith(TAG):
            return f"no node with the tag {to.removeprefix(TAG)} is known"
        peer = self.table.destinations.meant(to)
        return peer.reason if peer is not None and peer.reason else self.table.destinations.why_not(to)

    def accept(self, name: str, node_id: str) -> None:
        """Gives a name to the node that the operator chose."""
        self.table.accept(name, node_id, self._loop.time())
        self.report("accepted_name", name=name, id=node_id)
        self._prober.wake()
        for to in self._senders:
            if to in (name, node_id):
                self._senders[to].nudge()
        self._lost.look()
        self._known_file.write()

    def forgettable(self, node: str) -> dict[str, Any]:
        """The tasks that wait for a node that is gone."""
        return self._forgetting.look(node)

    async def forget(self, node: str, move_to: str, *, move_doubts: bool) -> dict[str, Any]:
        """Forgets a node that will never come back."""
        return await self._forgetting.forget(node, move_to, move_doubts=move_doubts)

    async def _cut(self, destinations: Iterable[str]) -> None:
        """Ends the links to these destinations; tasks in doubt stay so."""
        for sender in [self._senders.pop(to) for to in destinations if to in self._senders]:
            await sender.stop()

    def reload(self) -> None:
        """Reads the certificates again."""
        if self._trust is not None:
            spawn(self._reload(self._trust))

    async def _reload(self, trust: Trust) -> None:
        if await self._loop.run_in_executor(None, trust.reload, self.report):
            trust.close_ended(time.time(), self.report)
            now = self._loop.time()
            for peer in self.table:
                if peer.state is PeerState.REJECTED:
                    self.table.ask_again(peer, now)
            for sender in self._senders.values():
                sender.nudge()
            self._prober.wake()

    @property
    def settling(self) -> float:
        """Seconds after the start in which other nodes may not be known yet."""
        return self._timing.settle

    def colleagues(self) -> list[Colleague]:
        """The other nodes that have timers of the whole cluster. One that is silent for a moment still has its turn."""
        here = (PeerState.UP, PeerState.SUSPECT)
        return [
            Colleague(peer.id, peer.state in here and peer.status.works, peer.status.timers)
            for peer in self.table
            if peer.id and peer.status is not None and peer.status.timers
        ]

    # -- what sources say --

    def found(self, candidate: Candidate) -> None:
        """Takes a candidate from a source."""
        self.table.found(candidate, self._loop.time())
        self._prober.wake()

    def gone(self, source: str, key: str) -> None:
        """Notes that a source no longer names a candidate."""
        self.table.gone(source, key, self._loop.time())

    def leaving(self, source: str, key: str) -> None:
        """Notes a goodbye."""
        self.table.leaving(source, key, self._loop.time())
        self._prober.wake()

    # -- what pings and links see --

    def _answered(self, who: Peer | str, status: dict[str, Any], rtt: float, address: str) -> Peer | None:
        now = self._loop.time()
        peer = self.table.answered(who, status, rtt, now, wall=time.time(), address=address)
        self._moves.happened.set()
        if peer is not None and peer.id and peer.status is not None and peer.state is PeerState.UP:
            queued = self.outbox.size(peer.id)
            if self.placement.reported(peer.id, peer.status, now, queued):
                self._moves.look_again()
            self._note_room(peer, peer.status)
        self._known_file.changed()
        self._prober.wake()
        return peer

    def _note_room(self, peer: Peer, status: Status) -> None:
        """Notes whether a peer has room. One that was full and takes tasks again gets them at once."""
        if not status.takes_tasks:
            self._full.add(peer.id)
        elif peer.id in self._full:
            self._full.discard(peer.id)
            self._loop.call_soon(self._follow, peer)

    def met(self, status: dict[str, Any], rtt: float, address: str) -> None:
        peer = self._answered(address, status, rtt, address)
        if peer is not None and peer.state is PeerState.REJECTED:
            raise NotIt(peer.reason)  # of another cluster or version: it may answer, but gets nothing

    def missed(self, address: str, kind: DialFailure | None, reason: str) -> None:
        failure = FAILURES[kind] if kind is not None else FAILURES[DialFailure.UNREACHABLE]
        self.table.failed(address, failure, self._loop.time(), reason)
        self._prober.wake()

    def exchanged(self, peer: str) -> None:
        self.table.exchanged(peer, self._loop.time())
        self._moves.happened.set()

    def _changed(self, peer: Peer, old: PeerState, new: PeerState) -> None:
        said_goodbye = new is PeerState.DOWN and old is PeerState.LEAVING
        action = "peer_left" if said_goodbye else "peer_up" if new is PeerState.UP else f"peer_{new.value}"
        details = {"id": peer.id, "name": peer.name, "address": next(iter(peer.addresses), ""), "reason": peer.reason}
        self.report(action, **{key: value for key, value in details.items() if value}, was=old.value)
        if new is not PeerState.UP:
            self.placement.unavailable(peer.id)
        self._loop.call_soon(self._follow, peer)

    def _follow(self, peer: Peer) -> None:
        """Tells the links to a peer that it has changed."""
        for to, sender in self._senders.items():
            if to in peer.addresses or to == peer.name or self.answers_to(to, peer.id):
                if peer.state is PeerState.UP:
                    sender.nudge()
                elif peer.state is PeerState.DOWN:
                    sender.give_up(f"the peer is down: {peer.reason}")
                else:
                    sender.wake()
        self._lost.look()
        self._moves.peer_changed(peer)

    async def is_us(self, to: str) -> None:
        """Takes over the tasks of a destination that turned out to be this node."""
        self._here.add(to)
        self.placement.is_also(to)
        if claimed := await self._storage.moving.re_place(to, CHUNK, lambda _asked: HERE):
            self.report("claimed", destination=to, tasks=claimed)

    # -- links --

    def resolve(self, to: str) -> Target | None:
        """The node that a destination means now."""
        return self.table.destinations.resolve(to)

    def answers_to(self, to: str, peer: str) -> bool:
        """Whether an id or name means the node with that id."""
        return self.table.destinations.answers_to(to, peer)

    def _woken(self, to: str) -> None:
        if self._stopped or to == COMMONS:
            return  # no link has these
        if to.startswith(TAG):
            return  # no node with that tag is known; `_follow` looks again when one comes
        if to not in self._senders and not self._find(to):
            return
        self._senders[to].wake()

    def _find(self, to: str) -> bool:
        """Whether a node is known for a destination; then it has a sender from now on."""
        if to in self._lost:
            return False
        target = self.resolve(to)
        if target is None or not target.addresses:
            self._lost.add(to)
            return False
        self._senders[to] = Sender(to, self, self._timing)
        return True

    def introduce(self) -> Introduction:
        own = self._identity
        hello = hellos.Hello(own.id, own.name, own.cluster, instance=self._node.instance, addresses=self._listening)
        return Introduction(hello, self._node.key, secrets.token_hex(keys.NONCE_SIZE))

    async def _dial_tcp(self, address: str, protocol: Callable[[], Channel], name: str) -> dialing.Dialed[Channel]:
        return await dialing.dial(address, protocol, self._trust, name, self._timing.connect)

    # -- this node --

    def _is_here(self, destination: str) -> bool:
        return destination in self._here or (destination not in (ANY, ALL) and self.table.is_here(destination))

    def _own_status(self) -> Status:
        return Status.read(self._node.status())

    def _report_own(self) -> None:
        if self.placement.reported(HERE, self._own_status(), self._loop.time()):
            self._moves.look_again()

    def _warn_of_expiry(self) -> None:
        now = self._loop.time()
        if self._trust is not None and now - self._warned_at > EXPIRY_SECONDS:
            self._warned_at = now
            if warning := self._trust.expiry_warning(time.time()):
                self.report("certificate_expires", reason=warning)
            if warning := self._trust.lists_warning(time.time()):
                self.report("crl_expires", reason=warning)


def _is_here(peer: str) -> bool:
    """Whether a connection came from this machine."""
    return peer == "unix" or (is_literal(peer) and is_this_machine(peer))


def _at(address: str, host: str) -> str:
    """The address, with the host of the connection in place of "any host"."""
    wildcard = next((text for text in WILDCARDS if address.startswith(f"{text}:")), "")
    return f"{host}{address.removeprefix(wildcard)}" if wildcard else address
