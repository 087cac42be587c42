"""A simulated node: the real parts between a connection and the disk, started and stopped in the real order (`node.life`).

Workers, sockets and the disk are simulated; of what belongs to a real process (signals, the inbox, operators) there is nothing.
"""

import asyncio
import time
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from spoolnode.cluster.dial import Dialed, DialError, DialFailure
from spoolnode.cluster.timing import USUAL
from spoolnode.node.config import Config
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.status import NodeStatus, ThisProcess
from spoolnode.node.control.stop import Stop
from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.node.ingress.listener import Stream
from spoolnode.node.ingress.room import Room
from spoolnode.node.ingress.services import Services
from spoolnode.node.life import Life
from spoolnode.node.neighbours import Alone, Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.reload import Reloads
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.node.work.pool import AppBroken
from spoolnode.protocol import spoolfile
from spoolnode.protocol.batch import payload_length
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT, WAITING

from .disk import SimExecutor, SimThread
from .history import ROOT, Copy, History
from .loop import Gone, SimLoop
from .machine import Machine, Process
from .network import Network

POLICY = RetryPolicy(max_attempts=4, base=0.5, longest=8.0)
SWEEP_SECONDS = 0.5
GRACE = 5.0
"""--grace"""
PORT = 3031

Join = Callable[["SimNode"], Neighbours]
"""Makes a node's cluster, as for `node.Node`: called in each process."""


def alone(node: "SimNode") -> Neighbours:
    """No cluster."""
    return Alone(node.name, node.id, node.addresses, [])


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
    """Listens on the simulated network, and is to a stream what its listener is."""

    def __init__(self, node: "SimNode", services: Services, process: Process) -> None:
        self.services = services
        self.addresses = node.addresses
        self.streams: set[Stream] = set()
        self.room = Room(1 << 20, 1 << 24)
        self.connections = 0
        self.strangers = 0
        self._network = node.network
        self._process = process
        self._limit = node.config.request_timeout
        self._places = [*node.addresses, *([f"{node.alias}:{PORT}"] if node.alias else [])]

    def open(self) -> None:
        """Listens."""
        for address in self._places:
            self._network.listen(self._process, address, self.accept)

    def open_own(self) -> None:
        """There is none."""

    def close(self) -> None:
        """Listens no more."""
        for address in self._places:
            self._network.close(address)

    def close_streams(self) -> None:
        """Ends what is still connected."""
        for stream in list(self.streams):
            stream.close()

    def accept(self, host: str) -> Stream:
        """As `Listener._converse`, for a connection from `host`."""
        self.connections += 1
        if self.connections == 1:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        return SimStream(self, lambda stream: self._conversation(stream, host), b"", stranger=False)  # type: ignore[arg-type] # a stand-in

    def _conversation(self, stream: Stream, host: str) -> Conversation:
        return SimConversation(self.services, stream, Caller(host, is_local=False, is_allowed=True), max_block=0xFFFF)

    def _sweep(self) -> None:
        now = time.monotonic()
        for stream in list(self.streams):
            stream.sweep(now, self._limit)
        if self.connections:
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)


class Nobody:
    """The control interface, of which nobody asks anything."""

    async def start(self) -> None:
        """Nothing."""

    async def stop(self) -> None:
        """Nothing."""


class Undropped:
    """The inbox, into which nobody drops a file."""

    def start(self) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


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
        self.stop: Stop
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
        """Does what `Node.run` does, in the new process."""
        machine = self.machine
        self.instance = f"{machine.random.getrandbits(64):016x}"
        self.config = Config(
            spool=ROOT, name=self.name, listen=[self.address], tag=self.tags, share=self.share, hold=self.hold, app="app",
            cluster="simulation", insecure=True, discover=["none"],  # `discovery` has a source of its own
            grace=GRACE, max_body=1 << 20, min_free=1 << 16,
        )  # fmt: skip
        self.addresses = [self.address]
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
        self._put_together(process)
        self._main = self.loop.create_task(self._live())

    def _put_together(self, process: Process) -> None:
        """As `Node._put_together`."""
        config, storage, report = self.config, self.storage, self.report
        self.neighbours = neighbours = self._join(self)
        threads: Any = SimExecutor(self.loop, self.machine.pace)
        admission = Admission(storage, neighbours.route, threads, max_body=config.max_body, min_free=config.min_free)
        self.services = services = Services(
            admission, self.pinged, report, report, neighbours.greet, admission.hear_watermark, neighbours.unknown
        )
        self.spool.group_commit.when_told(self._send_answers)
        listener = SimListener(self, services, process)
        self.pool = pool = SimPool(self)
        self.stop = Stop(pool, report, drains=False)
        self._aside = Counting(self.journal.reader)
        self._status = NodeStatus(
            config=config, id=self.id, process=ThisProcess(self.instance, 1, time.monotonic()),
            storage=storage, admission=admission, services=services, listener=listener, workers=pool,
            neighbours=neighbours, aside=self._aside, stop=self.stop,
            log_dropped=lambda: 0,
        )  # fmt: skip
        housekeeping = Housekeeping(
            storage, pool, admission, config, report, sample=self._status.sample, look_around=self._look_around
        )
        housekeeping.note_free(housekeeping.measure())
        self._life = Life(
            config=config, report=report, stop=self.stop, storage=storage, admission=admission, services=services,
            listener=listener, inbox=Undropped(), neighbours=neighbours, workers=pool,
            reloads=Reloads(pool.load, AppBroken, pool.room, report), control=Nobody(), housekeeping=housekeeping,
            ready=self._ready,
        )  # fmt: skip

    async def _live(self) -> None:
        await self._life.start()
        await self.stop.wait()
        await self._life.shut_down()
        self.machine.exit()

    def _ready(self) -> None:
        self.is_up = True
        self.trace(self.name, "ready", waiting=self.spool.total, outbox=self.outbox.total)

    async def _look_around(self) -> None:
        self.neighbours.tick()
        await self._aside.recount()

    def _send_answers(self) -> None:
        """Answers are ready."""
        if self.ambush is not None and any(conversation.caller.link for conversation in self.services.talking):
            befall, self.ambush = self.ambush, None
            befall()
            if not self.machine.is_running:
                raise Gone
        self.services.flush()

    def ask_to_stop(self, drains: bool) -> None:
        """SIGTERM, or `spoolnode drain`. In the process."""
        if self.is_up and not self.stop.is_asked:
            if drains:
                self.stop.ask_to_drain(self.spool.total)
            else:
                self.stop.ask()

    def status(self) -> dict[str, Any]:
        """As other nodes and operators are told."""
        return self._status.now()

    def pinged(self) -> dict[str, Any]:
        """What is answered to a ping."""
        return self._status.for_ping()

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
        if not self.machine.is_running or not self.is_up or self.stop.is_asked:
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
        self.busy = self.seconds = 0.0
        """How long tasks ran."""
        self.deaths = self.leaving = self.ready = 0
        self.active: dict[SimWorker, None] = {}
        self.is_stopping = False
        self._idle = 0
        self._planned = False

    @property
    def worker_pids(self) -> list[int]:
        """One for each."""
        return list(range(self.ready))

    def running(self) -> list[dict[str, Any]]:
        """Of those that run a task."""
        return [{} for worker in self.active if worker.is_running]

    async def load(self) -> None:
        """The application is loaded."""
        self.ready = self._idle = self.node.workers
        self.dispatch()

    async def room(self) -> None:
        """There is."""

    def dispatch(self) -> None:
        """Gives the idle workers what is ready."""
        if not self._planned and self._idle and self.node.spool.waiting.ready.size:
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
        self.spool, self.verdicts, self.journal = pool.node.spool, pool.node.storage.verdicts, pool.node.journal
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

    @property
    def is_running(self) -> bool:
        """Whether it runs a task."""
        return self._running is not None

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
            self.verdicts.interrupted(self.source, ref, self.rank)

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
        self.pool.seconds += seconds
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
        self.verdicts.failed(self.source, ref, self.rank, outcome)

    def _die(self, ref: Any, copy: Copy) -> None:
        """The worker's process dies, perhaps after the end of the task and before it could say so."""
        self.node.trace(self.node.name, "worker dies", n=copy.task.n)
        self.pool.deaths += 1
        if self.random.random() < 0.5:
            self._finish(ref, copy)
        else:
            self.node.history.ended(copy, False)
        self.pool.released(1)
        if ref in self.journal.is_finished(self.source, [ref]):
            self.node.done(self.source, ref, copy)
        else:
            self.verdicts.failed(self.source, ref, self.rank, Outcome(Ending.FAILED, "the worker died"))
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
