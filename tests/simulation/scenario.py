"""The story of a seed: how many nodes and clients, what they send when, and which faults come.

All is decided by `random.Random(seed)` before the run begins or, for what happens within a machine or a connection, by
generators that are seeded from it; so the same seed is the same story, step by step.
"""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from spoolnode.node.spool.pauses import Paused

from .client import Client, request_of
from .history import ALL, Task
from .loop import EPOCH
from .network import QUICK
from .node import PORT, Join, SimNode
from .world import World, living


class Size(NamedTuple):
    """How much happens."""

    nodes: tuple[int, ...]
    seconds: tuple[float, float]
    """Until the faults stop."""
    clients: int
    bursts: int
    """For each client, at most."""
    faults: int


SMALL = Size((3, 3, 3, 3, 4), (4.0, 9.0), 2, 3, 6)
MIDDLE = Size((5, 6, 8, 10), (5.0, 12.0), 4, 5, 10)
LARGE = Size((15, 20), (4.0, 6.0), 6, 4, 10)
HUGE = Size((50,), (4.0, 5.0), 6, 4, 10)
TAGS = ("gpu", "mail")
FUNCTIONS = ("f0", "f1", "f2")


def size_of(seed: int) -> Size:
    """Most seeds are small: a run costs by the square of its nodes, and most mistakes need no more than three."""
    if seed % 500 == 499:
        return HUGE if seed % 2000 == 1999 else LARGE
    return MIDDLE if seed % 50 == 49 else SMALL


def run_seed(seed: int, trace: Callable[..., None] | None = None, join: Join | None = None) -> World:
    """The story of one seed. Raises `Violation` if it breaks a promise. `join`: connects the nodes."""
    return lived(World(seed, join), lambda world: Story(world, size_of(seed)), trace)


def lived(world: World, story: Callable[[World], "Story"], trace: Callable[..., None] | None) -> World:
    """Lets a story happen in a world. `trace` is told each step."""
    if trace is not None:
        write = trace

        def told(who: str, what: str, **details: Any) -> None:
            if not world.is_over:
                write(world.loop.now, who, what, details)

        world.trace = told
    with living(world):
        story(world).run()
    return world


class Story:
    """Fills a world with nodes, clients, tasks and faults."""

    def __init__(self, world: World, size: Size) -> None:
        self.world = world
        self.size = size
        self.random: Random = world.random
        self.seconds = self.random.uniform(*size.seconds)
        """When the faults stop."""
        self.movers: list[SimNode] = []
        """Nodes that may come back with another address; no task is sent to their present one."""
        self._hosts = 0
        self._pausing = Random(~world.seed)
        """Decides about pauses alone, so that all other stories stay as they are."""
        self._has_pauses = self._pausing.random() < 0.3
        self._calling_off = Random(world.seed ^ 0xCA11)
        """Likewise about cancels."""
        self._forgetting = Random(world.seed ^ 0xF04607)
        """Likewise about forgotten nodes."""
        self._is_about_doubt = world.seed % 4 == 1
        """Most tasks are for any node, and most faults come when it is not known where such a task is."""

    def run(self) -> None:
        """Plans it all, and lets it happen."""
        world, random = self.world, self.random
        for _ in range(random.choice(self.size.nodes)):
            self._add_node(random.random() ** 2)
        if random.random() < 0.3:
            self._add_node(self._when())  # known by name before it is there
        self._decide()
        for _ in range(random.randint(1, self.size.clients)):
            client = world.add_client(random.choice(world.nodes), plain=random.random() < 0.25)
            for _ in range(random.randint(1, self.size.bursts)):
                world.later(self._when(), self._burst, client)
        for _ in range(random.randint(1, self.size.faults)):
            world.later(self._when(), random.choices(self.FAULTS, self.DOUBTS if self._is_about_doubt else self.WEIGHTS)[0], self)
        for _ in range(self._pausing.randint(1, 4) if self._has_pauses else 0):
            world.later(self.seconds * self._pausing.random(), self._pause)
        self._plan_cancels()
        for _ in range(self._forgetting.choice((0, 0, 0, 10, 30))):
            world.later(self.seconds * self._forgetting.random(), self._forget)
        world.run(self.seconds)

    def _add_node(self, when: float) -> None:
        node = self.world.add_node()
        node.tags = [tag for tag in TAGS if self.random.random() < 0.4]
        node.alias = f"10.0.2.{len(self.world.nodes)}"
        self.world.network.attach(node.alias, node.machine)
        self.world.later(when, node.machine.boot)

    def _decide(self) -> None:
        """The facts of the whole story."""
        world, random = self.world, self.random
        world.segment.loss = random.choice((0.0, 0.0, 0.2, 0.6))
        world.segment.slowest = random.choice((0.05, 0.3, 2.0))
        share = random.choice((0.0, 0.0, 0.5, 2.0))
        hold = 5.0 if random.random() < 0.1 else 0.0
        for node in world.nodes:
            node.share, node.hold = share, hold
            node.burden = random.choice((0.0, 0.0, 0.0, 0.0, 1.0))  # so that there is something to share and to hand over
        world.history.moves_allowed = share > 0
        world.history.dead_may_run = hold > 0
        if random.random() < 0.3:
            world.segment.listed = tuple(node.address for node in world.nodes)
            world.segment.is_on = random.random() < 0.5
        # Two that have moved, and have only a list, do not find each other.
        most = 2 if world.segment.is_on else 1
        self.movers = random.sample(world.nodes, min(random.choice((0, 1, most)), len(world.nodes)))

    def _when(self) -> float:
        return self.seconds * self.random.random()

    def _node(self) -> SimNode:
        return self.random.choice(self.world.nodes)

    # -- tasks --

    def _burst(self, client: Client, count: int = 0) -> None:
        count = count or self.random.choice((1, 1, 2, 4, 10, 25))
        requests = [self._request(client) for _ in range(count)]
        assert client.machine.process is not None  # a client's machine is never switched off
        self.world.loop.call_soon(client.send, requests, context=client.machine.process.context)

    def _request(self, client: Client) -> tuple[Task, bytes]:
        random = self.random
        size = random.choice((0, 0, 0, 0, 0, 0, 20, 500, 3000, 12000))
        asked, to = self._destination()
        task = self.world.history.new(body=random.randbytes(size), poison=random.random() < 0.05, asked=asked, to=to)
        variables: list[tuple[bytes, bytes]] = []
        if asked:
            variables.append((b"spool_node", asked.encode()))
        if random.random() < 0.1:
            variables.append((b"priority", str(random.randint(0, 3)).encode()))
        if random.random() < 0.1:
            variables.append((b"at", str(int(EPOCH + self.world.loop.now + random.uniform(0, 10))).encode()))
        if self._has_pauses and self._pausing.random() < 0.7:
            variables.append((b"spool_func", self._pausing.choice(FUNCTIONS).encode()))
        return task, request_of(task, plain=client.plain, variables=variables, pad=random.choice((0, 0, 0, 700, 4000)))

    def _destination(self) -> tuple[str, frozenset[str]]:
        """The wishes of a task, and where it may run then."""
        random, roll = self.random, self.random.random()
        if self._is_about_doubt and random.random() < 0.6:
            return "any", frozenset()
        if roll < 0.12:
            return "", frozenset()
        if roll < 0.35:
            return "any", frozenset()
        if roll < 0.4:
            return ALL, frozenset()
        tag = random.choice(TAGS)
        tagged = frozenset(node.name for node in self.world.nodes if tag in node.tags)
        if roll < 0.5 and tagged:
            return f"tag:{tag}", tagged
        node = self._node()
        names = [node.name, node.name, node.id]
        if node not in self.movers:
            names += [node.address, node.address, f"{node.alias}:{PORT}"]
        return random.choice(names), frozenset((node.name,))

    # -- faults --

    def kill(self) -> None:
        """kill -9 of a node."""
        node = self._node()
        self.world.say("kill", node=node.name)
        node.machine.kill()
        self.world.check()

    def cut_power(self) -> None:
        """A power cut of a machine."""
        node = self._node()
        self.world.say("power cut", node=node.name)
        node.machine.cut_power()
        self.world.check()

    def doom(self) -> None:
        """The same in the middle of its work on the disk."""
        node = self._node()
        call = self.random.choice((1, 2, 3, 5, 10, 20, 40))
        how = self.random.choice((node.machine.kill, node.machine.cut_power))
        self.world.say("doom", node=node.name, how=how.__name__, at_call=call)
        node.machine.doom(call, how)

    def ambush(self) -> None:
        """The worst moment: a node has stored a task from a link, and its sender is not told."""
        node = self._node()
        how = self.random.choice((node.machine.kill, node.machine.kill, node.machine.cut_power, self.cut_off, self.reset))
        blackout = self.random.random() < 0.4

        def befall() -> None:
            self.world.say("ambush", node=node.name, how=how.__name__, blackout=blackout)
            if blackout:
                for other in self.world.nodes:
                    if other is not node:
                        other.machine.cut_power()
            how(node) if how in (self.cut_off, self.reset) else how()  # type: ignore[call-arg] # two kinds of them

        node.ambush = befall

    def cut_off(self, node: SimNode) -> None:
        """Cuts a node off until the story's end."""
        for other in self._machines():
            if other is not node.machine:
                self.world.network.block(other.host, node.machine.host)
                self.world.network.block(node.machine.host, other.host)

    def reset(self, node: SimNode) -> None:
        """All its connections break."""
        if node.machine.process is not None:
            for end in list(node.machine.process.ends):
                end.abort()

    def blackout(self) -> None:
        """The power of all machines at once."""
        self.world.say("blackout")
        for node in self.world.nodes:
            node.machine.cut_power()
        self.world.check()

    def stop(self) -> None:
        """SIGTERM."""
        self._stop(self._node(), drains=False)

    def drain(self) -> None:
        """`spoolnode drain`, soon after tasks came."""
        self.world.history.moves_allowed = True
        client = self.random.choice(self.world.clients)
        self._burst(client, self.random.choice((5, 25, 50)))
        self.world.later(self.random.uniform(0.02, 0.5), self._drain, client.node)

    def _drain(self, node: SimNode) -> None:
        self._stop(node, drains=True)

    def _stop(self, node: SimNode, *, drains: bool) -> None:
        self.world.say("drain" if drains else "stop", node=node.name)
        if node.machine.is_running:
            process = node.machine.process
            self.world.loop.call_soon(node.ask_to_stop, drains, context=process.context)  # type: ignore[union-attr] # it is up
            if self.random.random() < 0.4:
                self.world.later(4 * self.random.random(), node.machine.cut_power)  # perhaps after a clean end

    def _pause(self) -> None:
        """`spoolnode pause` of a function or of everything, until a while later."""
        node, function = self._pausing.choice(self.world.nodes), self._pausing.choice((*FUNCTIONS, ""))
        self.world.say("pause", node=node.name, function=function)
        self._in_process(node, node.pause, function)
        self.world.later(self._pausing.uniform(0.1, 4.0), self._resume, node)

    def _resume(self, node: SimNode) -> None:
        """Tries until nothing is paused: the node may be down, or its disk full."""
        if not node.is_up or node.storage.pauses.now != Paused():
            self._in_process(node, node.resume)
            self.world.later(1.0, self._resume, node)

    def _plan_cancels(self) -> None:
        """At any step, and when a link fails that has perhaps delivered something."""
        count = self._calling_off.choice((0, 0, 10, 40))
        for _ in range(count):
            self.world.later(self.seconds * self._calling_off.random(), self._cancel)
        for node in self.world.nodes if count else ():
            node.doubts = self._cancel_doubts

    def _cancel_doubts(self, node: SimNode) -> None:
        for _ in range(self._calling_off.choice((0, 2, 5))):
            self.world.later(3 * self._calling_off.random() ** 3, self._cancel, node)

    def _cancel(self, first: SimNode | None = None) -> None:
        """`spoolnode cancel` of a task that was stored lately (by `first`) and is not done, on that node or on whatever node."""
        known = [task.identity for task in self.world.history.tasks.values() if task.identity and not task.is_done]
        known = [identity for identity in known if first is None or identity.startswith(first.id)]
        if known:
            identity = self._calling_off.choice(known[-20:])
            there = [node for node in self.world.nodes if identity.startswith(node.id) and self._calling_off.random() < 0.7]
            node = self._calling_off.choice(there or self.world.nodes)
            self.world.say("cancel", node=node.name, id=identity)
            self._in_process(node, node.cancel, identity)

    def _forget(self) -> None:
        """`spoolnode forget` on a node that sees another one down."""
        node = self._forgetting.choice(self.world.nodes)
        self.world.say("forget", node=node.name)
        self._in_process(node, node.forget, self._forgetting)

    def _in_process(self, node: SimNode, call: Callable[..., None], *args: Any) -> None:
        process = node.machine.process
        if node.machine.is_running and process is not None:
            self.world.loop.call_soon(call, *args, context=process.context)

    def move(self) -> None:
        """A machine goes off, and comes back with another address."""
        if not self.movers:
            return
        node = self.random.choice(self.movers)
        node.machine.cut_power() if self.random.random() < 0.5 else node.machine.kill()
        self._hosts += 1
        node.machine.move(f"10.0.3.{self._hosts}")
        self.world.say("move", node=node.name, to=node.address)
        self.world.check()

    def partition(self) -> None:
        """Some cannot reach some others, in both directions or in one."""
        hosts = [machine.host for machine in self._machines()]
        group = set(self.random.sample(hosts, self.random.randint(1, max(len(hosts) // 2, 1))))
        one_way = self.random.random() < 0.4
        seconds = self.random.choice((0.3, 2.0, 8.0, 20.0))
        pairs = [(here, there) for here in hosts for there in hosts if here in group and there not in group]
        pairs += [] if one_way else [(there, here) for here, there in pairs]
        self.world.say("partition", of=sorted(group), one_way=one_way, seconds=seconds)
        for pair in pairs:
            self.world.network.block(*pair)
            self.world.later(seconds, self.world.network.open, *pair)

    def bad_way(self) -> None:
        """A direction between two machines is slow and loses packets."""
        here, there = self.random.sample(self._machines(), 2)
        way = self.world.network.way(here.host, there.host)
        way.delay, way.loss = self.random.choice(((0.01, 0.05), (0.05, 0.5), QUICK)), self.random.choice((0.0, 0.05, 0.4))
        self.world.say("bad way", source=here.name, target=there.name, delay=way.delay, loss=way.loss)

    def forged_goodbye(self) -> None:
        """A forger says goodbye in a node's name."""
        node = self._node()
        self.world.say("forged goodbye", node=node.name)
        self.world.segment.forge_goodbye(node)

    def step_clock(self) -> None:
        """The wall clock of a machine jumps."""
        machine = self._node().machine
        machine.step_clock(self.random.choice((-3600, -30, -30, -2, -2, -0.3, -0.3, 0.3, 0.3, 2, 2, 30, 30, 3600)))
        self.world.say("clock", node=machine.name, ahead=machine.clock)

    def slow_disk(self) -> None:
        """A disk is slow for a while."""
        machine = self._node().machine
        machine.pace.factor = self.random.choice((10.0, 50.0))
        self.world.say("slow disk", node=machine.name, factor=machine.pace.factor)
        self.world.later(2.0, setattr, machine.pace, "factor", 1.0)

    def fill_disk(self) -> None:
        """A disk is full for a while."""
        machine = self._node().machine
        self.world.say("full disk", node=machine.name)
        machine.disk.space = self.random.choice((0, 20 << 10))
        self.world.later(2.0, setattr, machine.disk, "space", 1 << 40)

    def fill_receiver(self) -> None:
        """A disk gets full when its node has just stored what came over a link: no numbers can be saved, no batch can go that
        proves some. A while later, when what came has ended, the power goes."""
        node, seconds = self._node(), self.random.uniform(2.0, 6.0)
        is_cut = self.random.random() < 0.7

        def befall() -> None:
            self.world.say("full receiver", node=node.name, seconds=seconds, is_cut=is_cut)
            node.machine.disk.space = 0
            self.world.later(seconds, self._make_room, node, is_cut)

        node.ambush = befall

    def _make_room(self, node: SimNode, is_cut: bool) -> None:
        node.machine.disk.space = 1 << 40
        if is_cut:
            self.world.say("power cut", node=node.name)
            node.machine.cut_power()
            self.world.check()

    def bury_and_cut(self) -> None:
        """The power goes within the second after a task was given up."""
        node, seconds = self._node(), self.random.random()
        self.world.say("burial awaited", node=node.name)
        node.buried = lambda: self.world.later(seconds, node.machine.cut_power)

    def _machines(self) -> list[Any]:
        return [node.machine for node in self.world.nodes] + [client.machine for client in self.world.clients]

    FAULTS = (
        kill, cut_power, doom, ambush, blackout, stop, drain, move, partition, bad_way, forged_goodbye, step_clock, slow_disk,
        fill_disk, fill_receiver, bury_and_cut,
    )  # fmt: skip
    WEIGHTS = (4, 4, 5, 6, 1, 1, 3, 2, 4, 2, 1, 1, 1, 1, 3, 3)
    DOUBTS = (3, 1, 3, 16, 1, 1, 2, 0, 2, 0, 1, 0, 1, 0, 1, 1)
