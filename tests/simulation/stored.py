"""Stories about nodes that share a common store, while the engine, the ways to it and the nodes fail.

    acknowledged   it runs well, or is dead with a reason, in the store or on a disk; with a key, one with its key starts later
    starts         only under a lease that holds, by the engine's books too
    twice          it starts again after it ran well only if the lease of that run ran out before the store heard of its end
    a lease        runs out only if its node died, was stopped, or had trouble for too long to extend it
    a stop         leaves no lease, unless the node did not reach the engine
    the store      has a task once, whatever is repeated; of those with one key, one waits
    a limit        of a function holds for all of its tasks in the store together, but for those whose leases ran out

`engine` has the engine and its faults.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from unittest import mock

from spoolnode.cluster.store import joined, memory, publishing, sending
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import CommonStore, TaskState
from spoolnode.cluster.store.joined import Joined
from spoolnode.node.commons import Commons, NoCommons
from spoolnode.node.neighbours import Alone
from spoolnode.node.outcome import Limit
from spoolnode.protocol import spoolfile
from spoolnode.protocol.request import Terms

from .client import Client, request_of
from .engine import LAPSED, Engine, Reach, Turn
from .history import ALL, DEAD, Copy, Disks, History, Place, Task
from .loop import EPOCH, Violation
from .node import SimNode
from .scenario import FUNCTIONS, TAGS, Size, Story, lived
from .workers import function_of
from .world import World

LEASES = (6.0, 6.0, 6.0, 10.0)
"""--store-lease"""
RECOVERY = 3.2
"""Seconds in which a node that has no trouble any more finds the store again, and extends its leases."""
END_SECONDS = 10.0
"""Seconds that a node which stops has for telling the store."""
REMEMBERED, REPEATED = 90.0, 60.0
"""The memory of the store, and for how long nodes repeat: so short that a story can be longer."""
KEYS = (b"k1", b"k2")
SIZE = Size((2, 2, 2, 3, 3, 4, 5), (6.0, 16.0), 2, 2, 5)


@dataclass(eq=False)
class Run:
    """One run of a copy."""

    node: str
    began: float
    turn: Turn | None
    """The lease under which it began; None: its task lay on that node's own disk."""
    function: str
    goes_on: bool = True
    is_well: bool = False


class StoreHistory(History):
    """All tasks of a run with a store."""

    engine: Engine
    lease: float
    """--store-lease of all nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[Copy, list[Run]] = {}
        self.keyed: dict[int, tuple[bytes, float]] = {}
        """The tasks with keys: the key, and a time before which it cannot have been sent."""
        self.limit_of: Callable[[str, str], int] = lambda machine, function: 0
        """How many tasks of a function may run at once, as that machine has it; 0 is any number."""
        self.is_cut_long = False
        """Whether a node did not reach the engine for so long that it asks whether its tasks are known."""

    # -- what a worker does --

    def started(self, payload: bytes, local: str, machine: str, *, leased: bool = False) -> Copy:
        """As the base class says."""
        task, identity = self.task_of(payload, local)
        copy = task.copy(identity)
        turn = self.engine.store.holder(identity) if leased else None
        if leased and (turn is None or turn.node != machine or turn.process.dead):
            raise Violation(f"{copy} starts on {machine}, and is held by {turn.node if turn else 'none'}")
        if not task.may_run:
            raise Violation(f"{task} was refused and starts on {machine}")
        if not self._may_be_on(machine, task):
            raise Violation(f"{copy} starts on {machine}")
        if spoolfile.parse(payload).body != task.body:
            raise Violation(f"{task} has not the body that was sent")
        runs = self.runs.setdefault(copy, [])
        for run in runs:
            if (run.goes_on or run.is_well) and not self._is_excused(run, copy):
                raise Violation(f"{copy} {'runs' if run.goes_on else 'has ended well'} on {run.node}, and starts on {machine}")
        function = function_of(payload)
        if turn is not None:
            self._check_limit(copy, machine, function)
        runs.append(Run(machine, self.engine.loop.now, turn, function))
        copy.running, copy.done, copy.unsure, copy.safe = machine, "", False, False
        copy.machines.append(machine)
        return copy

    def _check_limit(self, copy: Copy, machine: str, function: str) -> None:
        others = [run for runs in self.runs.values() for run in runs if run.goes_on and run.function == function]
        counted = [run.node for run in others if run.turn is not None and run.turn.fate != LAPSED]
        # A node with a larger limit may have been let to run one after this one was, and have been faster.
        limit = max(self.limit_of(node, function) for node in (machine, *counted))
        if limit and len(counted) >= limit:
            raise Violation(f"{copy} of {function} starts on {machine}, whose limit is {limit}, and others run on {counted}")

    def _is_excused(self, run: Run, copy: Copy) -> bool:
        """Whether another run may follow: the lease ran out, or a power cut made the end of the run uncertain."""
        return run.turn.fate == LAPSED if run.turn is not None else copy.unsure

    def ended(self, copy: Copy, well: bool, machine: str) -> None:
        """As the base class says."""
        super().ended(copy, well, machine)
        for run in self.runs[copy]:
            if run.node == machine and run.goes_on:
                run.goes_on, run.is_well = False, well

    def killed(self, machine: str) -> None:
        """As the base class says."""
        super().killed(machine)
        for runs in self.runs.values():
            for run in runs:
                run.goes_on = run.goes_on and run.node != machine

    # -- leases --

    def lapsed(self, turn: Turn) -> None:
        """A lease has run out in the store."""
        if turn.is_known and not turn.process.dead:
            well = self.engine.longest_well(turn.node, turn.until - self.lease * 2 / 3, turn.until)
            if well >= RECOVERY:
                raise Violation(f"the lease {turn.lease} ran out, and {turn.node} could have extended it for {well:.1f} s")

    def stopped(self, process: str) -> None:
        """As the base class says."""
        self.engine.store.look()
        now = self.engine.loop.now
        for turn in self.engine.store.turns.values():
            if turn.process.name == process and turn.is_known and not turn.fate:
                well = self.engine.longest_well(turn.node, now - END_SECONDS, now)
                if well >= RECOVERY:
                    raise Violation(f"{turn.node} has stopped and holds {turn.lease}")

    # -- the books --

    def _ends(self, task: Task, places: dict[Copy, list[Place]]) -> set[str]:
        """The ids of its copies that have run well or lie on a disk."""
        return {copy.identity for copy in task.copies.values() if self._ran_well(copy) or places.get(copy)}

    def _ran_well(self, copy: Copy) -> bool:
        return any(run.is_well for run in self.runs.get(copy, ()))

    def _in_store(self, states: Iterable[TaskState]) -> dict[int, set[str]]:
        """The ids of the tasks in these states, by their numbers."""
        found: dict[int, set[str]] = {}
        for state, identity, n in self.engine.store.known():
            if state in states:
                found.setdefault(n, set()).add(identity)
        return found

    def check_disks(self, disks: Disks) -> None:
        """Each task that was acknowledged has run well, or is in the store, or on a disk."""
        self._check_kept(self.places(disks), self._in_store(set(TaskState) - {TaskState.ENDED}))

    def check_end(self, disks: Disks) -> None:
        """All have ended: each task has run well, or is dead."""
        places = self.places(disks)
        for copy, found in places.items():
            if any(place.kind != DEAD for place in found):
                raise Violation(f"{copy} still waits: {found}")
            if not self.is_cut_long and any(sending.FORGOTTEN in place.reason for place in found):
                raise Violation(f"{copy} was given up too soon: {found}")
        dead = self._in_store({TaskState.DEAD})
        if left := self._in_store({TaskState.READY, TaskState.LATER, TaskState.HELD}):
            raise Violation(f"the store still has {left}")
        self._check_kept(places, dead)
        for n, identities in dead.items():
            for copy in self.tasks[n].copies.values():
                if copy.identity in identities and any(
                    run.is_well and not self._is_excused(run, copy) for run in self.runs.get(copy, ())
                ):
                    raise Violation(f"{copy} has ended well, and is dead in the store")

    def _check_kept(self, places: dict[Copy, list[Place]], in_store: dict[int, set[str]]) -> None:
        for task in self.tasks.values():
            if task.acknowledged:
                kept = self._ends(task, places) | in_store.get(task.n, set())
                if task.n in self.keyed:
                    self._check_keyed(task, places, in_store)
                elif len(kept) < max(task.told, 1):
                    copies = list(map(str, task.copies.values()))
                    raise Violation(f"{task} is lost: {len(kept)} of {task.told} copies are there: {copies}")

    def _check_keyed(self, task: Task, places: dict[Copy, list[Place]], in_store: dict[int, set[str]]) -> None:
        """Its work is done by a task with the same key that started, or will start, after it was sent."""
        key, sent = self.keyed[task.n]
        alike = [self.tasks[n] for n, (other, _) in self.keyed.items() if other == key]
        copies = [copy for other in alike for copy in other.copies.values()]
        waits = any(other.n in in_store for other in alike) or any(places.get(copy) for copy in copies)
        if not waits and not any(run.began >= sent for copy in copies for run in self.runs.get(copy, ())):
            raise Violation(f"{task} is lost, and so is its key")


class Acquainted(Alone):
    """Knows all nodes of the world, without links to them."""

    def __init__(self, node: SimNode, nodes: list[SimNode]) -> None:
        super().__init__(node.name, node.id, node.addresses, node.tags)
        self._others = [other for other in nodes if other is not node]

    def route(self, terms: Terms) -> list[str]:
        """As `Neighbours` says."""
        if terms.destination == ALL:
            return ["", *(other.id for other in self._others if other.is_up)]
        return super().route(terms)


class StoreStory(Story):
    """Fills a world with nodes that share a store, and with faults."""

    def __init__(self, world: World, size: Size = SIZE) -> None:
        super().__init__(world, size)
        assert isinstance(world.history, StoreHistory)
        self.history = world.history
        self.kind = KIND_OF[world.seed % len(KIND_OF)]
        if self.kind == LONG:
            self.seconds = 1.2 * REMEMBERED
        self._limiting = Random(world.seed)
        self._has_limits = self._limiting.random() < 0.5
        self._wished: SimNode | None = None
        """The node that tasks are for now."""
        self._chosen: SimNode | None = None
        """The node that a fault befalls now."""
        self._without: set[str] = set()
        """The nodes that begin without the store, as long as they are without it."""
        self.lease = self.history.lease = self.random.choice(LEASES)
        self.engine = Engine(world.loop, world.network, world.random, world.trace)
        self.history.engine = self.engine
        self.engine.store.lapsed = self.history.lapsed
        self.history.limit_of = self._limit_of
        world.join = lambda node: Acquainted(node, world.nodes)
        world.mend, world.is_quiet = self._mend, self._is_quiet

    def run(self) -> None:
        """Plans it all, and lets it happen."""
        world, random = self.world, self.random
        for _ in range(2 if self.kind == LONG else random.choice(self.size.nodes)):
            self._add_node(random.random() ** 2)
        if self.kind == LOSSY or random.random() < 0.2:
            self.engine.losses = random.choice((0.02, 0.1, 0.3))
        for _ in range(random.randint(1, self.size.clients)):
            client = world.add_client(random.choice(world.nodes), plain=random.random() < 0.2)
            for _ in range(random.randint(1, self.size.bursts)):
                world.later(self._when(), self._burst, client, random.choice((1, 2, 4)))
        for _ in range(random.randint(1, self.size.faults)):
            fault = random.choice(self.KINDS[self.kind])
            world.later(self._when(), *((self._at_work, fault) if random.random() < 0.6 else (fault, self)))
        world.run(self.seconds)

    def _when(self) -> float:
        """Long stories, and those of nodes that join late, have their events at the beginning."""
        return super()._when() * (0.1 if self.kind == LONG else 0.5 if self.kind == LATE_TO_JOIN else 1.0)

    def _at_work(self, fault: Callable[["StoreStory"], None]) -> None:
        """A fault, when a node has got some tasks."""
        node = self._wished = self.random.choice(self.world.nodes)
        self._burst(self.random.choice(self.world.clients), self.random.choice((3, 6, 9)))
        self._wished = None
        self.world.later(self.random.uniform(0.01, 0.4), self._befall, fault, node)

    def _befall(self, fault: Callable[["StoreStory"], None], node: SimNode) -> None:
        self._chosen = node
        fault(self)
        self._chosen = None

    def _add_node(self, when: float) -> None:
        super()._add_node(when)
        node = self.world.nodes[-1]
        node.settings = {
            "store": "simulated", "store_lease": self.lease,
            "store_away": "refuse" if self.random.random() < 0.15 else "accept",
        }  # fmt: skip
        node.burden = self.random.choice((0.0, 1.0, self.lease / 2, self.lease, self.lease))
        node.handfuls = (1, 2, 5, 5)
        node.limits = {"f0": Limit(self._limiting.choice((1, 1, 2))), "f1": Limit(self._limiting.choice((2, 3)), 20, 1.0)}
        node.join_store = self._join_store
        if self.kind == LATE_TO_JOIN and self.random.random() < 0.6:
            self._without.add(node.name)
            self.world.later(self._when(), self._give_store, node)

    def _limit_of(self, machine: str, function: str) -> int:
        (node,) = (node for node in self.world.nodes if node.name == machine)
        return node.limits.get(function, Limit()).at_once

    def _give_store(self, node: SimNode) -> None:
        """A node that had no store is started again, with it."""
        if node.name in self._without:
            self._without.discard(node.name)
            self.world.say("joins the store", node=node.name)
            node.machine.kill()

    def _join_store(self, node: SimNode) -> Commons:
        process = node.machine.process
        assert process is not None  # it starts
        if node.name in self._without:
            return NoCommons()

        async def connect() -> CommonStore:
            return Reach(self.engine, process)

        return Joined(node, Contact(connect, node.report), node.dial, self.world.loop.time)

    def _mend(self) -> None:
        self.engine.losses, self.engine.slowest, self.engine.is_away = 0.0, 0.01, False
        self.engine.cut.clear()
        self.engine.deaf.clear()
        for node in self.world.nodes:
            self._give_store(node)

    def _is_quiet(self) -> bool:
        return all(state in (TaskState.DEAD, TaskState.ENDED) for state, _, _ in self.engine.store.known())

    # -- tasks --

    def _request(self, client: Client) -> tuple[Task, bytes]:
        random, now = self.random, self.world.loop.now
        asked, to = self._destination()
        body = random.randbytes(random.choice((0, 0, 0, 0, 20, 500, 3000, 12000)))
        task = self.history.new(body=body, poison=random.random() < 0.1, asked=asked, to=to)
        variables: list[tuple[bytes, bytes]] = []
        if asked:
            variables.append((b"spool_node", asked.encode()))
        if random.random() < 0.1:
            variables.append((b"priority", str(random.randint(0, 3)).encode()))
        if random.random() < 0.1:
            variables.append((b"at", str(int(EPOCH + now + random.uniform(0, 10))).encode()))
        if asked != ALL and random.random() < 0.2:
            key = random.choice(KEYS)
            self.history.keyed[task.n] = key, now
            variables.append((b"spool_key", key))
        elif self._has_limits:
            variables.append((b"spool_func", self._limiting.choice(FUNCTIONS).encode()))
        return task, request_of(task, plain=client.plain, variables=variables)

    def _destination(self) -> tuple[str, frozenset[str]]:
        random, roll = self.random, self.random.random()
        if self._wished is not None and roll < 0.7:
            return self._wished.name, frozenset((self._wished.name,))
        if roll < 0.5:
            return random.choice(("", "any")), frozenset()
        if roll < 0.55:
            return ALL, frozenset()
        tag = random.choice(TAGS)
        tagged = frozenset(node.name for node in self.world.nodes if tag in node.tags)
        if roll < 0.7 and tagged:
            return f"tag:{tag}", tagged
        node = random.choice(self.world.nodes)
        return random.choice((node.name, node.id, node.address)), frozenset((node.name,))

    # -- faults --

    def _node(self) -> SimNode:
        """The victim of a fault."""
        return self._chosen or super()._node()

    def elect(self) -> None:
        """The engine has no leader for seconds."""
        self._away(self.random.uniform(0.3, 5.0))

    def restart(self) -> None:
        """The engine is started again, which may take longer than leases hold."""
        self._away(self.random.choice((2.0, self.lease, 2.5 * self.lease)))

    def _away(self, seconds: float) -> None:
        self.world.say("engine away", seconds=seconds)
        self.engine.is_away = True
        for node in self.world.nodes:
            self.engine.note_trouble(node.name, seconds)
        self.world.later(seconds, self._back)

    def _back(self) -> None:
        self.world.say("engine back")
        self.engine.is_away = False

    def cut_from_engine(self) -> None:
        """A node does not reach the engine for a while."""
        node, seconds = self._node(), self.random.choice((1.0, self.lease / 2, self.lease, 2 * self.lease))
        self.world.say("cut", node=node.name, seconds=seconds)
        self.engine.cut.add(node.name)
        self.engine.note_trouble(node.name, seconds)
        self.world.later(seconds, self.engine.cut.discard, node.name)

    def deafen(self) -> None:
        """A node does not hear the engine, which hears it."""
        node, seconds = self._node(), self.random.choice((1.0, self.lease, 2 * self.lease))
        self._deafen(node, seconds)

    def deafen_long(self) -> None:
        """Tasks come, and their node is deaf for so long that the store forgets what the node has asked of it."""
        client = self.random.choice(self.world.clients)
        seconds = self.random.choice((REPEATED / 2, REMEMBERED + 8, REMEMBERED + 8))
        self._burst(client, self.random.choice((1, 2, 4)))
        self.history.is_cut_long |= seconds > REPEATED - 15
        self._deafen(client.node, seconds)

    def _deafen(self, node: SimNode, seconds: float) -> None:
        self.world.say("deaf", node=node.name, seconds=seconds)
        self.engine.deaf.add(node.name)
        self.engine.note_trouble(node.name, seconds)
        self.world.later(seconds, self.engine.deaf.discard, node.name)

    def pause(self) -> None:
        """SIGSTOP of a node and its workers, perhaps past its leases."""
        node, seconds = self._node(), self.random.choice((0.5, self.lease / 2, 1.2 * self.lease, 1.7 * self.lease))
        self.world.say("SIGSTOP", node=node.name, seconds=seconds)
        node.machine.pause()
        self.engine.note_trouble(node.name, seconds)
        self.world.later(seconds, node.machine.go_on)

    def slow_ways(self) -> None:
        """Each answer takes its time."""
        self.world.say("slow ways")
        self.engine.slowest = 0.2
        self.world.later(3.0, setattr, self.engine, "slowest", 0.01)

    KINDS = (
        (Story.kill, Story.stop),
        (Story.kill, slow_ways),
        (elect, restart, Story.kill),
        (pause, cut_from_engine, deafen),
        (
            Story.kill, Story.cut_power, Story.doom, Story.stop, Story.slow_disk, elect, restart, cut_from_engine, pause,
            deafen, slow_ways,
        ),
        (Story.kill, Story.kill, Story.cut_power, Story.stop, elect, cut_from_engine),
        (deafen_long, deafen_long, Story.kill),
    )  # fmt: skip
    """The faults of a story: deaths alone; lost requests and answers; an engine that is away; nodes that are away; all; those of
    nodes that begin without a store; long silence.
    """


LOSSY, LATE_TO_JOIN, LONG = 1, 5, 6
KIND_OF = (0, 1, 2, 3, 4, 5, 1, 3, 4, 6, 4, 3)
"""The kind of each seed: a long one costs as much as three others."""


def run_stored(seed: int, trace: Callable[..., None] | None = None) -> World:
    """The story of one seed. Raises `Violation` if it breaks a promise."""
    with ExitStack() as stack:
        for module, name, value in (
            (memory, "REMEMBERED", REMEMBERED), (sending, "REPEATED", REPEATED), (publishing, "LARGE", 8 << 10),
            (joined, "present", list),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, name, value))
        return lived(World(seed, history=StoreHistory()), StoreStory, trace)
