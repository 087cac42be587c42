"""The world of one run: the loop, the network, the machines, and what the seed does to them."""

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from spoolnode.node import background
from spoolnode.node.ingress import admission, pieces
from spoolnode.node.outbox import envelope
from spoolnode.node.spool import group_commit
from spoolnode.protocol import keys

from .client import Client
from .discovery import Segment
from .history import Disks, History
from .loop import SimLoop, Violation, virtual
from .machine import Machine
from .network import Network
from .node import Join, SimNode

LIMIT = 1200.0
"""Seconds after the last fault in which everything must have run."""
CLOCK_STAYS = 60.0
"""A clock that was further ahead than this stays ahead: else tasks due by it would wait until the others catch up."""
GOOD_PACE = 1.0


@dataclass
class World:
    """Everything there is."""

    seed: int
    join: Join | None = None
    """Connects the nodes; None: the real cluster, which finds them on `segment`."""
    trace: Callable[..., None] = lambda who, what, **details: None
    loop: SimLoop = field(default_factory=SimLoop)
    nodes: list[SimNode] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    history: History = field(default_factory=History)
    counts: dict[str, int] = field(default_factory=dict)
    """How often each kind of fault happened."""
    is_over: bool = False
    """It is being taken down, and what happens now means nothing."""
    ahead: float = 0.0
    """How far all clocks are ahead of those of other worlds, in seconds, when they are right."""
    restart_after: tuple[float, float] = (0.05, 6.0)
    """Seconds that a dead node stays dead."""
    mend: Callable[[], None] = lambda: None
    """Called when the faults stop: for those that are not of the network or a machine."""
    is_quiet: Callable[[], bool] = lambda: True
    """Whether nothing waits outside of the nodes."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.network = Network(self.loop, Random(self.random.getrandbits(32)))
        self.segment = Segment(self.network, Random(self.random.getrandbits(32)))
        self.join = self.join or self.segment.join()

    # -- who is there --

    def add_node(self) -> SimNode:
        """One more machine with a node, switched on, not booted."""
        number = len(self.nodes) + 1
        machine = Machine(self.loop, self.network, f"n{number}", f"10.0.0.{number}", self.random.getrandbits(32))
        machine.step_clock(self.ahead)
        assert self.join is not None
        node = SimNode(machine, self.history, self.trace, self.join)
        node.died = lambda: self._restart_later(node)
        self.nodes.append(node)
        return node

    def add_client(self, node: SimNode, *, plain: bool = False) -> Client:
        """A client of that node, on a machine of its own."""
        number = len(self.clients) + 1
        own = Machine(self.loop, self.network, f"c{number}", f"10.0.1.{number}", self.random.getrandbits(32))
        own.boot()
        client = Client(own, self.history, self.trace, node, plain)
        self.clients.append(client)
        return client

    def _restart_later(self, node: SimNode) -> None:
        least, most = self.restart_after
        self.later(least + (most - least) * self.random.random() ** 2, node.machine.boot)

    # -- what happens --

    def later(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        """Calls it in so many seconds, outside of all processes."""
        self.loop.call_later(seconds, what, *args, context=self.network.nobody)

    def say(self, what: str, **details: Any) -> None:
        """A fault happens: a line in the trace."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.trace("--", what, **details)

    def _disks(self) -> Disks:
        return {node.name: (node.id, node.machine.disk) for node in self.nodes}

    def check(self) -> None:
        """The books, now."""
        self.history.check_disks(self._disks())

    def heal(self) -> None:
        """The faults stop: the network is good, every clock is right, every disk is quick and has room, every node runs."""
        self.say("all faults stop")
        self.network.heal()
        self.mend()
        self.segment.loss = 0.0
        self.restart_after = (0.0, 0.2)
        for node in self.nodes:
            disk = node.machine.disk
            disk.heal()
            node.machine.go_on()
            node.ambush = node.buried = None
            disk.space, node.machine.pace.factor = 1 << 40, GOOD_PACE
            if node.machine.furthest - self.ahead <= CLOCK_STAYS:
                node.machine.step_clock(self.ahead - node.machine.clock)
            node.machine.boot()

    def run(self, until: float, rest: float = 0.5) -> None:
        """Lets it happen: faults until that time, then, after a rest, everything must come to its end."""
        self.later(until, self.heal)
        self.later(until + rest, self._look, until + rest + LIMIT)
        self.loop.run_forever()
        self.history.check_end(self._disks())

    def _look(self, limit: float) -> None:
        if self.is_quiet() and all(client.is_done for client in self.clients) and all(node.is_settled for node in self.nodes):
            self.loop.stop()
        elif self.loop.now > limit:
            stuck = [client.machine.name for client in self.clients if not client.is_done]
            stuck += [node.name for node in self.nodes if not node.is_settled]
            self.check()
            raise Violation(f"{LIMIT:g} s after the last fault not everything has run: see {', '.join(stuck)}")
        else:
            self.later(0.5, self._look, limit)


def _end(world: World) -> None:
    """Stops everything, and lets the memory go."""
    world.is_over = True
    for node in world.nodes:
        node.machine.kill_silently()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a coroutine of the dead may never have begun
        for task in asyncio.all_tasks(world.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # inside asyncio
            with suppress(BaseException):  # its `finally` runs among the dead
                task.get_coro().close()
    background._running.clear()
    world.loop.close()


def _x25519(secret: bytes, point: bytes) -> bytes:
    """As `protocol.x25519`, which takes an eighth of a run; `tests/protocol/test_keys.py` compares the two."""
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(point))


def _public_of(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


@contextmanager
def living(world: World) -> Iterator[World]:
    """While this lasts, the clocks are the world's, and files and limits small, so that a run is short."""
    with ExitStack() as stack:
        for module, name, value in (
            (group_commit, "BATCH_SIZE", 16 << 10), (admission, "INLINE_BODY", 2 << 10), (envelope, "INLINE_BODY", 2 << 10),
            (pieces, "UPLOAD_PIECE", 4 << 10), (keys, "x25519", _x25519), (keys, "public_of", _public_of),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(virtual(world.loop, Random(world.seed)))
        collecting = gc.isenabled()
        gc.disable()  # so that what is thrown away ends at the same step in each run
        try:
            yield world
        finally:
            _end(world)
            if collecting:
                gc.enable()
