"""The cost of a large cluster for each of its nodes: the pure parts of nodes (peers, placement), virtual pings, no spool.

    python -m simulation.scale 1000

Nodes do not depend on each other's tables, so some of them (`--observers`) have one of all nodes, and the others only answer.
A ping of a live node takes a few milliseconds, that of a crashed node is refused (the machine is there) or times out (it is
not), and as the real prober each node has so many pings under way at most. No tasks are sent, which is the worst
case: tasks make pings unnecessary.
"""

import argparse
import gc
import sys
import time
import tracemalloc
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import Any

from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.channel import Channel
from spoolnode.cluster.liveness import Failure, PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.placement import ANY, Placement
from spoolnode.cluster.prober import AT_ONCE
from spoolnode.cluster.timing import USUAL
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.protocol import hello as hellos

ROUND_TRIP = 0.002
PONG_BYTES = 640
"""The answer of a real node with four workers; it has what others decide by."""
CRASHED = 0.1
"""The part of all nodes that crashes."""
ANSWERS, REFUSES, SILENT = "answers", "refuses", "silent"


@dataclass(eq=False)
class Member:
    """One node, and how it is."""

    identity: Identity
    status: dict[str, Any]
    how: str = ANSWERS

    @property
    def address(self) -> str:
        """Where it answers."""
        return self.identity.addresses[0]

    @property
    def candidate(self) -> Candidate:
        """The candidate that discovery makes of it."""
        own = self.identity
        return Candidate("mdns", own.id, own.id, own.name, own.addresses)


class Observer:
    """The view of one node, and its pings."""

    def __init__(self, member: Member, rng: Random) -> None:
        self.member = member
        self.placement = Placement(member.identity, rng)
        self.table = PeerTable(member.identity, rng, USUAL, changed=self._changed, instance=member.status["instance"])
        self.pings = 0
        self.open: set[str] = set()
        """Addresses with an open connection."""
        self.under_way = 0
        self.waiting: deque[Peer] = deque()
        self.wakes_at = float("inf")

    def _changed(self, peer: Peer, old: PeerState, new: PeerState) -> None:
        if new is not PeerState.UP:
            self.placement.unavailable(peer.id)

    def found(self, member: Member, now: float) -> None:
        """Discovery names a node."""
        self.table.found(member.candidate, now)

    def heard(self, member: Member, now: float) -> None:
        """Another node pings this one."""
        own = member.identity
        self.table.heard(own.id, own.name, now, own.addresses, member.status["instance"])

    def answered(self, peer: Peer, member: Member, now: float) -> None:
        """A ping was answered."""
        found = self.table.answered(peer, member.status, ROUND_TRIP, now, address=member.address)
        if found is not None and found.status is not None and found.state is PeerState.UP:
            self.placement.reported(found.id, found.status, now)


@dataclass
class Result:
    """The measurements."""

    nodes: int
    pings: float = 0.0
    """Sent by each node, a second, when all is quiet."""
    hello_bytes: int = 0
    pong_bytes: int = 0
    memory: float = 0.0
    """Bytes of a node's table and placement."""
    processor: float = 0.0
    """Seconds of a core that a node's decisions take, a second."""
    choice: float = 0.0
    """Seconds that one `any` takes."""
    noticed_refused: float = 0.0
    """Seconds until all know of a crash whose machine still answers."""
    noticed_silent: float = 0.0
    """The same when it does not."""
    half_silent: float = 0.0
    """Seconds until half of all know of that."""
    returned: float = 0.0
    """Seconds until all know that these are back, when they introduce themselves."""
    known: float = 0.0
    """Seconds until a node that all were told of is up for all."""
    connection: float = 0.0
    """Bytes in Python of a connection to a peer and one from it."""


def make_member(number: int) -> Member:
    """A node, as the others see it."""
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:3031"
    identity = Identity(f"{number:012x}", f"node-{number}", "main", (address,), False)
    status = {
        "id": identity.id, "name": identity.name, "cluster": "main", "protocol": hellos.PROTOCOL, "version": "1.0.0",
        "instance": f"{number:016x}", "tags": ["gpu"] if number % 10 == 0 else [], "workers": 4, "waiting": 0, "running": 0,
        "pace": 10.0, "draining": False, "accepting": True, "time": 0.0, "app": "app:main",
    }  # fmt: skip
    return Member(identity, status)


class Crowd:
    """All nodes, and the clock."""

    def __init__(self, count: int, observers: int, seed: int = 1) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.members = [make_member(number) for number in range(count)]
        self.at = {member.address: member for member in self.members}
        self.observers = [Observer(member, Random(self.random.getrandbits(32))) for member in self.members[:observers]]
        self._events: list[tuple[float, int, Any, tuple[Any, ...]]] = []
        self._serial = 0

    # -- time --

    def later(self, seconds: float, what: Any, *args: Any) -> None:
        """Something happens then."""
        self._serial += 1
        heappush(self._events, (self.now + seconds, self._serial, what, args))

    def run(self, seconds: float) -> None:
        """Lets it happen."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.now, _, what, args = heappop(self._events)
            what(*args)
        self.now = until

    def wake(self, one: Observer) -> None:
        """Sees to it that a node's pings are sent when its table says."""
        due = one.table.next_due()
        if due is not None and due < one.wakes_at:
            one.wakes_at = max(due, self.now)
            self.later(one.wakes_at - self.now, self._due, one)

    def _due(self, one: Observer) -> None:
        if self.now < one.wakes_at:
            return
        one.wakes_at = float("inf")
        one.waiting.extend(one.table.due(self.now))
        self._ping(one)
        self.wake(one)

    def _ping(self, one: Observer) -> None:
        while one.waiting and one.under_way < AT_ONCE:
            peer = one.waiting.popleft()
            other = self.at[peer.addresses[0]]
            one.pings += 1
            one.under_way += 1
            pause = ROUND_TRIP
            if other.how == SILENT:
                pause = USUAL.pong if other.address in one.open else USUAL.connect
                one.open.discard(other.address)
            self.later(pause, self._end, one, peer, other, other.how)

    def _end(self, one: Observer, peer: Peer, other: Member, how: str) -> None:
        one.under_way -= 1
        if how == ANSWERS:
            one.open.add(other.address)
            one.answered(peer, other, self.now)
            one.heard(other, self.now)  # it pings this one as often
        else:
            one.table.failed(peer, Failure.REFUSED if how == REFUSES else Failure.TIMEOUT, self.now)
        self._ping(one)
        self.wake(one)

    # -- what happens --

    def introduce(self) -> None:
        """Discovery names all nodes to all nodes, over two seconds."""
        for one in self.observers:
            for other in self.members:
                if other is not one.member:
                    self.later(2 * self.random.random(), self._found, one, other)

    def _found(self, one: Observer, other: Member) -> None:
        one.found(other, self.now)
        self.wake(one)

    def pings(self) -> int:
        """All that were sent so far."""
        return sum(one.pings for one in self.observers)

    def until(self, part: float, them: list[Member], state: PeerState, limit: float = 120.0) -> float:
        """Runs until that part of all views of them is that; how many seconds that took, or `limit`."""
        began = self.now
        ids = [member.identity.id for member in them]
        while self.now - began < limit:
            self.run(0.25)
            peers = [one.table.get(node_id) for one in self.observers for node_id in ids]
            if sum(peer is not None and peer.state is state for peer in peers) >= part * len(peers):
                break
        return self.now - began

    def crash(self, them: list[Member], how: str) -> None:
        """These are gone."""
        for member in them:
            member.how = how

    def come_back(self, them: list[Member]) -> None:
        """They are there again, and ping all others."""
        for member in them:
            member.how = ANSWERS
            for one in self.observers:
                self.later(self.random.random(), self._heard, one, member)

    def _heard(self, one: Observer, member: Member) -> None:
        one.heard(member, self.now)
        self.wake(one)


def measure(count: int, observers: int = 50, seconds: float = 60.0) -> Result:
    """Builds a crowd and measures it for so many virtual seconds, and then through two crashes."""
    result = Result(count)
    _measure_memory(result)
    them_count = max(int(count * CRASHED), 1)
    crowd = Crowd(count, min(observers, count - them_count))
    crowd.introduce()
    result.known = crowd.until(1.0, crowd.members[-1:], PeerState.UP)
    crowd.run(20)
    sent, began = crowd.pings(), time.process_time()
    crowd.run(seconds)
    result.processor = (time.process_time() - began) / seconds / len(crowd.observers)
    result.pings = (crowd.pings() - sent) / seconds / len(crowd.observers)
    _measure_choice(crowd, result)
    them = crowd.members[-them_count:]
    crowd.crash(them, REFUSES)
    result.noticed_refused = crowd.until(1.0, them, PeerState.DOWN)
    crowd.come_back(them)
    result.returned = crowd.until(1.0, them, PeerState.UP)
    crowd.run(20)
    crowd.crash(them, SILENT)
    result.half_silent = crowd.until(0.5, them, PeerState.DOWN)
    result.noticed_silent = result.half_silent + crowd.until(1.0, them, PeerState.DOWN)
    return result


def _measure_memory(result: Result) -> None:
    """A node's view of all others, and what its half of a connection takes at both ends, in Python."""
    members = [make_member(number) for number in range(result.nodes)]
    packed = [member.status for member in members]
    gc.collect()
    tracemalloc.start()
    one = Observer(members[0], Random(1))
    for member, status in zip(members[1:], packed[1:], strict=True):
        member.status = {key: f"{value}" if isinstance(value, str) else value for key, value in status.items()}  # as it is read
        one.found(member, 0.0)
    for peer in one.table.due(1.0):
        one.answered(peer, members[int(peer.id, 16)], 1.0)
        one.heard(members[int(peer.id, 16)], 1.0)
    before = tracemalloc.get_traced_memory()[0]
    result.memory = before
    nothing: Any = None  # neither the node nor the connection is asked
    caller = Caller("10.0.0.1", is_local=False, is_allowed=True)
    kept = [(Channel(), Conversation(nothing, nothing, caller, max_block=0xFFFF)) for _ in range(100)]
    result.connection = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()


def _conversation() -> Conversation:
    return Conversation(None, None, Caller("10.0.0.1", is_local=False, is_allowed=True), max_block=0xFFFF)  # type: ignore[arg-type] # stand-ins


def _measure_choice(crowd: Crowd, result: Result) -> None:
    one = crowd.observers[0]
    own = one.member.identity
    result.hello_bytes = len(hellos.encode(hellos.Hello(own.id, own.name, "main", "", "0" * 16, own.addresses, 0)))
    result.pong_bytes = PONG_BYTES
    began, rounds = time.process_time(), 20_000
    for _ in range(rounds):
        one.placement.choose(ANY, crowd.now)
    result.choice = (time.process_time() - began) / rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation.scale", description="What many nodes cost each of them.")
    parser.add_argument("nodes", type=int)
    parser.add_argument("--observers", type=int, default=50, help="nodes that have a table")
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual seconds of quiet")
    options = parser.parse_args()
    result = measure(options.nodes, options.observers, options.seconds)
    wire = result.pings * (result.hello_bytes + result.pong_bytes)
    for what, value in (
        ("nodes", f"{result.nodes}"),
        ("pings a node and second, sent", f"{result.pings:.1f}; as many are answered"),
        ("bytes of a ping and its answer", f"{result.hello_bytes} + {result.pong_bytes}, without the kernel's headers"),
        ("traffic of a node, each way", f"{wire / 1000:.1f} kB/s"),
        ("decisions", f"{100 * result.processor:.2f} % of a core for a node, without sockets"),
        (
            "memory of peers and placement",
            f"{result.memory / 1e6:.2f} MB a node, {result.memory / result.nodes:.0f} bytes a peer",
        ),
        ("a connection each way", f"{result.connection:.0f} bytes in Python for both, without sockets and transports"),
        ("one choice (any)", f"{1e6 * result.choice:.1f} µs"),
        ("10 % crash, machines answer", f"all know after {result.noticed_refused:.1f} s"),
        ("10 % crash, machines silent", f"half know after {result.half_silent:.1f} s, all after {result.noticed_silent:.1f} s"),
        ("they return, and say so", f"all know after {result.returned:.1f} s"),
    ):
        print(f"{what:34} {value}")  # noqa: T201  # a table for people
    return 0


if __name__ == "__main__":
    sys.exit(main())
