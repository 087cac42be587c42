"""A simulated node: the real spool, admission and conversations; workers, sockets and the rest of `node.Node` are simulated."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any

from spoolnode.cluster.dial import Dialed, DialError, DialFailure
from spoolnode.cluster.timing import USUAL
from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.conversation import Conversation, Services
from spoolnode.node.ingress.listener import Stream
from spoolnode.node.ingress.room import Room
from spoolnode.node.neighbours import Alone, Greeting, Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.protocol import spoolfile
from spoolnode.protocol.batch import payload_length
from spoolnode.protocol.hello import PROTOCOL, Hello
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.request import Terms
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT, WAITING
from spoolnode.protocol.version import VERSION

from .disk import SimExecutor, SimThread
from .history import ROOT, Copy, History
from .loop import Gone, SimLoop
from .machine import Machine, Process
from .network import Network

POLICY = RetryPolicy(max_attempts=4, base=0.5, longest=8.0)
SWEEP_SECONDS = 0.5
REQUEST_SECONDS = 10.0
"""--request-timeout"""
GRACE = 5.0
"""--grace"""
PING_SECONDS = 0.05
MIN_FREE = 1 << 16
CLUSTER = "simulation"
PORT = 3031


@dataclass
class Config:
    """The settings of a node, as far as the cluster asks for them."""

    name: str
    listen: list[str]
    tag: list[str]
    share: float = 0.0
    hold: float = 0.0
    advertise: str = ""
    cluster: str = CLUSTER
    app: str = "app"
    insecure: bool = True
    discover: tuple[str, ...] = ("none",)  # `discovery` has a source of its own


Join = Callable[["SimNode"], Neighbours]
"""Makes a node's cluster, as for `node.Node`: called in each process, when the node listens."""


def alone(node: "SimNode") -> Neighbours:
    """No cluster."""
    return Alone(node.name, node.id, [node.address], [])


class SimStream(Stream):
    """The real one, with a place in sets that is the same in each run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._serial = _serial()
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._serial


class SimConversation(Conversation):
    """Likewise."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._serial = _serial()
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._serial


def _serial() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    return loop.next_serial()


class SimListener:
    """The part of a listener that a stream needs."""

    def __init__(self, services: Services, addresses: list[str]) -> None:
        self.services = services
        self.addresses = addresses
        self.streams: set[Stream] = set()
        self.room = Room(1 << 20, 1 << 24)
        self.connections = 0
        self.strangers = 0

    def accept(self, host: str) -> Stream:
        """As `Listener._converse`, for a connection from `host`."""
        self.connections += 1
        if self.connections == 1:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return SimStream(self, lambda stream: self._conversation(stream, host), b"", stranger=False)  # type: ignore[arg-type] # a stand-in

    def _conversation(self, stream: Stream, host: str) -> Conversation:
        return SimConversation(self.services, stream, host, local=False, allowed=True, max_block=0xFFFF)

    def _sweep(self) -> None:
        now = time.monotonic()
        for stream in list(self.streams):
            stream.sweep(now, REQUEST_SECONDS)
        if self.connections:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


class SimNode:
    """One node; `start` is the main function of each process that its machine starts."""

    def __init__(self, machine: Machine, history: History, trace: Callable[..., None], join: Join = alone) -> None:
        self.machine = machine
        self.name = machine.name
        self.id = f"{machine.random.getrandbits(48):012x}"
        self.key = NodeKey(sha256(self.id.encode()).digest())
        self.history = history
        self.trace = trace
        self.workers = machine.random.randint(1, 3)
        self.tags: list[str] = []
        self.share = 0.0
        """--share"""
        self.hold = 0.0
        """--hold"""
        self.alias = ""
        """Another host where it listens too, without telling anybody."""
        self.burden = 0.0
        """Seconds that each task takes longer than it would elsewhere."""
        self.ambush: Callable[[], None] | None = None
        """A fault for the moment when it has stored a task from a link, and has not said so yet."""
        self.buried: Callable[[], None] | None = None
        """A fault for the moment when it has given up a task."""
        self._join = join
        self.is_up = False
        self.died: Callable[[], None] = lambda: None
        """Called when its process has died."""
        machine.main = self.start
        machine.died = self._died

    @property
    def address(self) -> str:
        """Where it listens now."""
        return f"{self.machine.host}:{PORT}"

    # -- for the cluster --

    @property
    def loop(self) -> SimLoop:
        """The loop of all nodes."""
        return self.machine.loop

    @property
    def network(self) -> Network:
        """The network of all nodes; `await network.connect(address, factory)` dials, and so does `loop.create_connection`."""
        return self.machine.network

    @property
    def random(self) -> Random:
        """The machine's own."""
        return self.machine.random

    async def dial(self, address: str, factory: Callable[[], Any], *trust: Any, limit: float = USUAL.connect) -> Dialed[Any]:
        """Does what `cluster.dial.dial` does, over the simulated network. Raises `DialError`."""
        try:
            async with asyncio.timeout(limit):
                transport, protocol = await self.network.connect(address, factory)
        except ConnectionRefusedError:
            raise DialError(DialFailure.REFUSED, f"nothing listens on {address}") from None
        except OSError as error:  # a TimeoutError is one
            raise DialError(DialFailure.UNREACHABLE, f"{address} cannot be reached: {error!r}") from error
        return Dialed(transport, protocol, "")

    def report(self, action: str, **details: Any) -> None:
        """A line in the node's log."""
        self.trace(self.name, action, **details)
        if action == "sync_failed":
            self.journal.failures += 1
        if action == "dead" and self.buried is not None:
            befall, self.buried = self.buried, None
            befall()

    # -- life --

    def start(self, process: Process) -> None:
        """Does what `Node._start` does, in the new process."""
        machine = self.machine
        self.instance = f"{machine.random.getrandbits(64):016x}"
        self.is_stopping = self._drains = False
        self._ping_at = float("-inf")
        self._ping_status: dict[str, Any] = {}
        self.config = Config(self.name, [self.address], self.tags, self.share, self.hold)
        self.trace(self.name, "starts")
        guard = GuardedDisk(machine.disk, Layout(ROOT))
        rng = Random(machine.random.getrandbits(32))
        self.journal = SimJournal(self, guard)
        self.storage = Storage(self.journal, POLICY, rng)
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        try:
            self.storage.load(f"boot {machine.boots}")
        except OSError as error:
            # As the real one: it says so and ends, and its supervisor starts it again.
            self.trace(self.name, "cannot start", reason=error)
            machine.kill()
            return
        guard.in_force = True
        self.admission = Admission(self.storage, self._route, max_body=1 << 20, min_free=MIN_FREE)
        self.executor = self.admission._executor = SimExecutor(self.loop, machine.pace)  # type: ignore[assignment] # a stand-in
        self.services = Services(
            self.admission, self._pinged, self.report, self.report, self._greet, self.admission.hear_watermark, self._unknown
        )
        self.spool.group_commit.when_told(self._flush)
        self.listener = SimListener(self.services, [self.address])
        self.pool = SimPool(self)
        self.housekeeping = Housekeeping(
            self.storage, self.pool, self.admission, self.report, hold=self.hold, min_free=MIN_FREE, look_around=self._look_around
        )
        self.housekeeping.note_free(self.housekeeping.measure())
        self._listening = [self.address, *([f"{self.alias}:{PORT}"] if self.alias else [])]
        for address in self._listening:
            self.network.listen(process, address, self.listener.accept)
        self.neighbours = self._join(self)
        self._main = self.loop.create_task(self._run())

    async def _run(self) -> None:
        for to, count in self.outbox.sizes().items():
            is_here = self.neighbours.route(Terms(destination=to)) == [""]
            if is_here and await self.moving.re_place(to, count, lambda _asked: ""):
                self.trace(self.name, "claimed", destination=to)
        await self.neighbours.start()
        self.is_up = True
        self.trace(self.name, "ready", waiting=self.spool.total, outbox=self.outbox.total)
        self.housekeeping.start()

    async def _look_around(self) -> None:
        self.neighbours.tick()

    def _flush(self) -> None:
        """Answers are ready."""
        if self.ambush is not None and any(conversation._link_key for conversation in self.services.talking):
            befall, self.ambush = self.ambush, None
            befall()
            if not self.machine.is_running:
                raise Gone
        self.services.flush()

    def ask_to_stop(self, drains: bool) -> None:
        """SIGTERM, or `spoolnode drain`. In the process."""
        if self.is_up and not self.is_stopping:
            self.is_stopping, self._drains = True, drains
            self.loop.create_task(self._shut_down())

    async def _shut_down(self) -> None:
        """As `Node._shut_down`."""
        self.trace(self.name, "stopping", drains=self._drains, waiting=self.spool.total, outbox=self.outbox.total)
        self.admission.stop("this node is draining" if self._drains else "this node is stopping")
        await self.neighbours.leave()
        for address in self._listening:
            self.network.close(address)
        await self.pool.stop()
        if self._drains:
            handed = await self.neighbours.drain(GRACE)
            self.trace(self.name, "drained", handed=handed, left=self.spool.total, outbox=self.outbox.total)
        await self.housekeeping.stop()
        self.pool.stop_now()
        await self.neighbours.stop()
        await self.executor.close()
        await self.storage.close()
        self.services.flush()
        for stream in list(self.listener.streams):
            stream.close()
        for _ in range(3):
            await asyncio.sleep(0)
        self.machine.exit()

    def _route(self, terms: Terms) -> list[str]:
        return self.neighbours.route(terms)

    def _unknown(self, destination: str) -> str:
        return self.neighbours.unknown(destination)

    def _greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:
        return self.neighbours.greet(hello, peer, certified, nonce)

    def _pinged(self) -> dict[str, Any]:
        now = self.loop.time()
        if now - self._ping_at > PING_SECONDS:
            self._ping_at, self._ping_status = now, self.status()
        return self._ping_status

    def status(self) -> dict[str, Any]:
        """The answer to a ping, as far as other nodes look at it."""
        held = self.pool.held
        return {
            "name": self.name, "id": self.id, "waiting": max(self.spool.total - len(self.spool.later) - held, 0), "running": held,
            "workers": self.workers, "tags": self.tags, "cluster": CLUSTER, "protocol": PROTOCOL, "version": VERSION,
            "instance": self.instance, "pace": self._pace(), "time": time.time(), "draining": self.is_stopping,
            "accepting": not self.admission.closed and not self.admission.is_low, **self.neighbours.status(),
        }  # fmt: skip

    def _pace(self) -> float:
        rates = self.housekeeping.rates.per_second(time.monotonic(), self.housekeeping.counters())
        return round(self.workers * (rates["done"] + rates["failed"]) / rates["busy"], 3) if rates["busy"] > 0 else 0.0

    def _died(self, how: str) -> None:
        self.is_up = False
        self.history.killed(self.name)
        if how == "power cut":
            self.history.power_cut(self.name)
        self.trace(self.name, how)
        self.died()

    @property
    def is_settled(self) -> bool:
        """Whether it runs, and nothing waits or runs on it."""
        if not self.machine.is_running or not self.is_up or self.is_stopping:
            return False
        return not (self.spool.total or self.outbox.total)

    def done(self, source: Source, ref: Any, copy: Copy) -> None:
        """A worker reports the good end of a task."""
        self.journal.unsafe.append(copy)
        self.spool.done(source, [ref])


class SimJournal(Journal):
    """Tells the history which ends are safe against a power cut."""

    def __init__(self, node: SimNode, disk: GuardedDisk) -> None:
        super().__init__(
            disk, Layout(ROOT), node.id, sync=True, report=node.report, thread=lambda name: SimThread(name, node.machine.pace)
        )
        self.history = node.history
        self.unsafe: list[Copy] = []
        self.failures = 0

    async def sync_marks(self) -> None:
        """Does the same, and notes in the history which ends are safe."""
        ended, self.unsafe = self.unsafe, []
        failures = self.failures
        await super().sync_marks()
        if failures == self.failures:
            self.history.safe(ended)


class SimPool:
    """The workers of a node: each takes a few tasks, runs one after another, and reports each end a moment later."""

    def __init__(self, node: SimNode) -> None:
        self.node = node
        self.held = 0
        self.busy = 0.0
        """How long tasks ran."""
        self.active: dict[SimWorker, None] = {}
        self.is_stopping = False
        self._idle = node.workers
        self._planned = False

    def dispatch(self) -> None:
        """Gives the idle workers what is ready."""
        if self.node.is_up and not self._planned and self._idle and self.node.spool.queue.size:
            self._planned = True
            self.node.loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._planned = False
        while self._idle and not self.is_stopping:
            taken = self.node.spool.take(self.node.random.choice((1, 1, 2, 5)))
            if taken is None:
                return
            self._idle -= 1
            self.held += len(taken.refs)
            self.active[SimWorker(self, taken)] = None

    def released(self, count: int) -> None:
        """A worker holds so many tasks less."""
        self.held -= count

    def idle(self, worker: "SimWorker") -> None:
        """A worker has nothing to do."""
        self.active.pop(worker, None)
        self._idle += 1
        self.dispatch()

    async def stop(self) -> None:
        """Lets what runs end, for a while; the rest is put back."""
        self.is_stopping = True
        for worker in list(self.active):
            worker.give_back_rest()
        deadline = self.node.loop.time() + GRACE
        while self.held and self.node.loop.time() < deadline:
            await asyncio.sleep(0.05)
        self.stop_now()
        await asyncio.sleep(0.05)  # what has just been reported

    def stop_now(self) -> None:
        """Ends at once; running tasks are put back, and this does not count as an attempt."""
        self.is_stopping = True
        for worker in list(self.active):
            worker.give_back_rest()
            worker.interrupt()


class SimWorker:
    """One worker with the tasks that it was given."""

    def __init__(self, pool: SimPool, taken: Taken) -> None:
        self.pool = pool
        self.node = pool.node
        self.spool, self.journal = pool.node.spool, pool.node.journal
        self.disk = pool.node.machine.disk
        self.random = pool.node.random
        self.source, refs, self.rank = taken
        self.todo = list(refs)
        self.todo.reverse()
        self._running: tuple[Any, Copy] | None = None
        self._killed = False
        self._later(self._next)

    def _later(self, callback: Callable[..., None], *args: Any) -> None:
        self.node.loop.call_later(0.0005 * self.random.random(), callback, *args)

    def give_back_rest(self) -> None:
        """The node is stopping: tasks that have not begun do not begin."""
        if self.todo:
            rest, self.todo = self.todo[::-1], []
            self.pool.released(len(rest))
            self.spool.give_back(Taken(self.source, rest, self.rank))

    def interrupt(self) -> None:
        """The node kills the worker."""
        self._killed = True
        if self._running is not None:
            (ref, copy), self._running = self._running, None
            self.node.history.ended(copy, False)
            self.pool.released(1)
            self.spool.interrupted(self.source, ref, self.rank)

    def _next(self) -> None:
        while self.todo and not self._killed:
            ref = self.todo.pop()
            found = self._read(ref)
            if found is not None:
                self._start(ref, found)
                return
        self.pool.idle(self)

    def _start(self, ref: Any, payload: bytes) -> None:
        attempts = payload[ATTEMPTS_AT]
        copy = self.node.history.started(payload, self.journal.id_of(self.source, ref), self.node.name)
        self._poke(ref, ATTEMPTS_AT, min(attempts + 1, spoolfile.MAX_ATTEMPTS))
        self.node.trace(self.node.name, "runs", n=copy.task.n, attempt=attempts + 1)
        self._running = ref, copy
        roll = self.random.random()
        seconds = 0.03 * roll if roll < 0.9 else 5 * self.random.random() ** 2
        seconds += self.node.burden * self.random.random()
        self.pool.busy += seconds
        self.node.loop.call_later(seconds, self._end, ref, copy)

    def _end(self, ref: Any, copy: Copy) -> None:
        if self._killed:
            return
        self._running = None
        roll = self.random.random()
        if roll < 0.03:
            self._die(ref, copy)
            return
        if roll < 0.06:
            self._end_badly(ref, copy, Outcome(Ending.AGAIN, delay=0.2))
        elif roll < 0.12 or copy.task.poison:
            self._end_badly(ref, copy, Outcome(Ending.FAILED, "it failed"))
        else:
            self._finish(ref, copy)
            self._later(self._report_done, ref, copy)
        self._later(self._next)

    def _report_done(self, ref: Any, copy: Copy) -> None:
        self.pool.released(1)
        self.node.done(self.source, ref, copy)

    def _end_badly(self, ref: Any, copy: Copy, outcome: Outcome) -> None:
        self.node.history.ended(copy, False)
        self._later(self._report_failed, ref, outcome)

    def _report_failed(self, ref: Any, outcome: Outcome) -> None:
        self.pool.released(1)
        self.spool.failed(self.source, ref, self.rank, outcome)

    def _die(self, ref: Any, copy: Copy) -> None:
        """The worker's process dies, perhaps after the end of the task and before it could say so."""
        self.node.trace(self.node.name, "worker dies", n=copy.task.n)
        if self.random.random() < 0.5:
            self._finish(ref, copy)
        else:
            self.node.history.ended(copy, False)
        self.pool.released(1)
        if ref in self.journal.is_finished(self.source, [ref]):
            self.node.done(self.source, ref, copy)
        else:
            self.spool.failed(self.source, ref, self.rank, Outcome(Ending.FAILED, "the worker died"))
        self.give_back_rest()
        self.node.loop.call_later(0.1, self.pool.idle, self)

    def _finish(self, ref: Any, copy: Copy) -> None:
        path, base = self._where(ref)
        if base:
            self._poke(ref, STATE_AT, FINISHED)
        else:
            discard(self.disk, path)
        self.node.history.ended(copy, True)
        self.node.trace(self.node.name, "done", n=copy.task.n)

    # -- as `taskfile` does it --

    def _read(self, ref: Any) -> bytes | None:
        """The task at that place when it is to run now; None, with the spool told, when not."""
        path, base = self._where(ref)
        data = self.disk.peek(path)
        if data is not None and base:
            data = data[base : base + payload_length(data, base)]
        if data is None or data[0] != WAITING:
            if data is not None and not base:
                discard(self.disk, path)
            self.pool.released(1)
            self.spool.gone(self.source, ref)
            return None
        if not base and (mtime := self.disk.stat(path).mtime) > time.time():
            self.pool.released(1)
            self.spool.postpone(self.source, ref, self.rank, mtime)
            return None
        return data

    def _where(self, ref: Any) -> tuple[str, int]:
        header = self.source.place.header(self.journal.layout, ref)
        return header.path, header.base

    def _poke(self, ref: Any, at: int, value: int) -> None:
        path, base = self._where(ref)
        self.disk.store(path, base + at, bytes([value]))
