"""How the simulated nodes find each other, and the real cluster that each of them runs.

`Segment` is a network segment with something like mDNS on it: announcements, questions and goodbyes that come late, get lost
or are forged; it calls the real `Cluster` as its own sources do. Instead of it, or with it, nodes may have a list (`static`).
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from random import Random

from spoolnode.cluster.candidate import Candidate, Sink
from spoolnode.cluster.cluster import joiner

from .machine import Process
from .network import Network
from .node import Join, SimNode

PAUSES = (1.0, 3.0, 9.0)
"""Seconds between the first questions..."""
PAUSE = 20.0
"""...and the others."""
MISSES = 2
"""Questions without an answer until a node is named no more."""
GONE_SECONDS = 1.0
"""Between a goodbye and its taking effect."""


class Segment:
    """All nodes that can hear each other."""

    def __init__(self, network: Network, random: Random) -> None:
        self.network = network
        self.random = random
        self.loss = 0.0
        """The part of all announcements and answers that is lost."""
        self.slowest = 0.3
        """Seconds that one takes at most."""
        self.is_on = True
        """Whether there is any multicast."""
        self.listed: tuple[str, ...] = ()
        """Addresses that every node has been given."""
        self._sources: dict[str, Announced] = {}

    def join(self) -> Join:
        """The facts that make a node a member of the cluster."""

        def make(node: SimNode) -> object:
            cluster = joiner(None, node.dial, Random(node.random.getrandbits(32)))(node)
            cluster._sources = [Announced(self, node)] if self.is_on else []
            cluster._sources += [Listed(self.listed)] if self.listed else []
            return cluster

        return make  # type: ignore[return-value] # a stand-in

    def enter(self, source: "Announced") -> None:
        """A node is there (again)."""
        self._sources[source.node.id] = source

    def others(self, source: "Announced") -> list["Announced"]:
        """All other nodes that are there."""
        return [other for other in self._sources.values() if other is not source and not other.process.dead]

    def send(self, source: "Announced", target: "Announced", what: Callable[..., None], *args: object) -> None:
        """Sends a message to a node, perhaps in vain."""
        way = self.network.way(source.host, target.host)
        if way.blocked or self.random.random() < max(self.loss, way.loss):
            return
        delay = 0.001 + (self.slowest - 0.001) * self.random.random() ** 2
        self.network.loop.call_later(delay, what, *args, context=target.context)

    def forge_goodbye(self, of: SimNode) -> None:
        """A forger says in a node's name that it leaves."""
        if (source := self._sources.get(of.id)) is not None:
            for other in self.others(source):
                self.send(source, other, other.hear_goodbye, of.id)


class Announced:
    """The source of one process of a node."""

    uri = "mdns"

    def __init__(self, segment: Segment, node: SimNode) -> None:
        assert isinstance(node.machine.process, Process)
        self.node = node
        self.process = node.machine.process
        self.context: Context = self.process.context
        self.host = node.machine.host
        self._segment = segment
        self._loop = node.loop
        self._sink: Sink | None = None
        self._misses: dict[str, int] = {}
        self._leaving = False
        self._candidate = Candidate(self.uri, node.id, node.id, node.name, (node.address,))

    async def run(self, sink: Sink) -> None:
        """Announces this node, and asks for the others, again and again."""
        self._sink = sink
        self._segment.enter(self)
        for other in self._segment.others(self):
            self._segment.send(self, other, other.hear, self._candidate)
        pauses = iter(PAUSES)
        while True:
            self._ask()
            await asyncio.sleep(next(pauses, PAUSE) * self.node.random.uniform(0.8, 1.2))

    def _ask(self) -> None:
        for key, misses in list(self._misses.items()):
            self._misses[key] += 1
            if misses >= MISSES and self._sink is not None:
                del self._misses[key]
                self._sink.gone(self.uri, key)
        for other in self._segment.others(self):
            self._segment.send(self, other, other.answer, self)

    def answer(self, asker: "Announced") -> None:
        """A node asks which nodes are there."""
        if not self._leaving:
            self._segment.send(self, asker, asker.hear, self._candidate)

    def hear(self, candidate: Candidate) -> None:
        """A node is there."""
        if self._sink is not None and not self._leaving:
            self._misses[candidate.key] = 0
            self._sink.found(candidate)

    def hear_goodbye(self, key: str) -> None:
        """A node leaves, or is said to."""
        if self._sink is not None and not self._leaving and key in self._misses:
            self._misses[key] = MISSES
            self._sink.leaving(self.uri, key)
            self._loop.call_later(GONE_SECONDS, self._forget, key)

    def _forget(self, key: str) -> None:
        if self._sink is not None and self._misses.get(key, 0) >= MISSES:
            del self._misses[key]
            self._sink.gone(self.uri, key)

    async def close(self) -> None:
        """Goodbye."""
        self._leaving = True
        for other in self._segment.others(self):
            self._segment.send(self, other, other.hear_goodbye, self.node.id)


class Listed:
    """The source of a list of addresses."""

    uri = "static://"

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._addresses = addresses

    async def run(self, sink: Sink) -> None:
        """Names them all."""
        for address in self._addresses:
            sink.found(Candidate(self.uri, address, "", "", (address,)))

    async def close(self) -> None:
        """Says nothing."""
