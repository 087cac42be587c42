"""A simulated node: the real parts between a connection and the disk, started and stopped in the real order (`node.life`).

Workers, sockets and the disk are simulated; of what belongs to a real process (signals, the inbox, operators) there is nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from random import Random
from typing import Any

from spoolnode.cluster.dial import Dialed, DialError, DialFailure
from spoolnode.cluster.timing import USUAL
from spoolnode.node.background import spawn
from spoolnode.node.commons import Commons, NoCommons
from spoolnode.node.config import Config
from spoolnode.node.control.cancels import Cancels
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.in_store import InStore
from spoolnode.node.control.status import NodeStatus, ThisProcess
from spoolnode.node.control.stop import Stop
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.node.ingress.room import Room
from spoolnode.node.ingress.services import OtherRequests, Services
from spoolnode.node.ingress.shared import Sharing, Way
from spoolnode.node.ingress.stream import Stream
from spoolnode.node.life import Life
from spoolnode.node.neighbours import Alone, CannotForget, Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Limit, Timer
from spoolnode.node.reload import Reloads
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.pauses import Paused
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.tasks import Source
from spoolnode.node.story.keeper import Untold
from spoolnode.node.story.notes import ACCEPTED, Happened, Note, Row, parted, rows_of, steps_in
from spoolnode.node.timekeeper import Timekeeper
from spoolnode.node.work.supervisor import AppBroken
from spoolnode.protocol.cancel import CancelOutcome, CancelRequest
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.fetch import Fetched, Question
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.operate import Operation, OperationAnswer

from .disk import SimExecutor, SimThread
from .history import ROOT, Copy, History
from .loop import Gone, SimLoop
from .machine import Machine, Process
from .network import Network
from .workers import SimPool

POLICY = RetryPolicy(max_attempts=4, base=0.5, longest=8.0)
GRACE = 5.0
"""--grace"""
PORT = 3031

Join = Callable[["SimNode"], Neighbours]
"""Makes a node's cluster, as for `node.Node`: called in each process."""


JoinStore = Callable[["SimNode"], Commons]
"""Makes a node's common store, likewise."""


def no_store(node: "SimNode") -> Commons:
    """None."""
    return NoCommons()


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
    """Listens on the simulated network."""

    def __init__(self, node: "SimNode", services: Services, process: Process) -> None:
        self.addresses = node.addresses
        self.connections = Connections(Room(1 << 20, 1 << 24), node.config.request_timeout)
        self._services = services
        self._network = node.network
        self._process = process
        self._places = [*node.addresses, *([f"{node.alias}:{PORT}"] if node.alias else [])]

    def open(self) -> None:
        """Listens."""
        for address in self._places:
            self._network.listen(self._process, address, self.accept)
        self.connections.sweep()

    def open_own(self) -> None:
        """Does nothing: clients are on other machines."""

    def close(self) -> None:
        """Listens no more."""
        for address in self._places:
            self._network.close(address)

    async def finish(self) -> None:
        """Returns when no request is half sent, or after a while."""
        await self.connections.finish()

    async def close_streams(self) -> None:
        """Ends all that is still connected."""
        await self.connections.close()

    def accept(self, host: str) -> Stream:
        """As `Listener._converse`, for a connection from `host`."""
        self.connections.came()
        return SimStream(self.connections, lambda stream: self._conversation(stream, host), b"", stranger=False)

    def _conversation(self, stream: Stream, host: str) -> Conversation:
        return SimConversation(self._services, stream, Caller(host, is_local=False, is_allowed=True), max_block=0xFFFF)


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


class SimStory(Untold):
    """The story of each task, in memory: so much of it as `Cancels` needs."""

    def __init__(self, node: "SimNode") -> None:
        self._node = node
        self._notes: list[Note] = []
        self._rows: list[Row] = []
        """Those of all notes but the last ones: few stories look into them."""

    def note(self, kind: str, batch: int | None, refs: Any, seconds: Any = (), **detail: Any) -> None:
        """See `story.keeper`."""
        self._notes.append(Note(kind, time.time(), batch, refs, detail, seconds))

    def accepted(self, batch: int | None, refs: Any, callers: Any, origins: Any, functions: Any, **detail: Any) -> None:
        """See `story.keeper`."""
        self._notes.append(Note(ACCEPTED, time.time(), batch, refs, detail, (), callers, origins, functions))

    async def steps(self, identity: str) -> list[Happened]:
        """As `StoryDatabase.steps`."""
        for note in self._notes:
            self._rows += rows_of([note], self._node.id, self._node.name)
        self._notes.clear()
        key, offset = parted(identity)
        came = [step for row in self._rows if row.origin == key for step in steps_in(row, offset, by_origin=True)]
        here = [parted(known) for known in dict.fromkeys([identity, *(step.id for step in came)])]
        return [step for row in self._rows for key, offset in here if row.key == key for step in steps_in(row, offset)]


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
        self.timers: list[Timer] = []
        """The timers of its application that are the whole cluster's."""
        self.limits = {"f0": Limit(1), "f1": Limit(2, 20, 1.0)}
        """Those of the functions of its application."""
        self.share = 0.0
        """--share"""
        self.hold = 0.0
        """--hold"""
        self.join_store: JoinStore = no_store
        self.settings: dict[str, Any] = {}
        """More of its settings."""
        self.alias = ""
        """Another host where it listens too, without telling anybody."""
        self.burden = 0.0
        """Seconds that each task takes longer than it would elsewhere."""
        self.handfuls: tuple[int, ...] = (1, 1, 2, 5)
        """So many tasks a worker is given at once."""
        self.ambush: Callable[[], None] | None = None
        """A fault for the moment when it has stored a task from a link, and has not said so yet."""
        self.buried: Callable[[], None] | None = None
        """A fault for the moment when it has given up a task."""
        self.doubts: Callable[[SimNode], None] = lambda node: None
        """Hears of each failed link that leaves tasks in doubt."""
        self.stored_due: Callable[..., None] = lambda node, **details: None
        """Hears of each due time of a timer whose task it has stored."""
        self._join = join
        self.story = SimStory(self)
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
        if action == "timer_due":
            self.stored_due(self, **details)
        if action == "link_failed" and details.get("in_doubt"):
            self.doubts(self)
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
            grace=GRACE, max_body=1 << 20, min_free=1 << 16, **self.settings,
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
        self.commons = commons = self.join_store(self)
        threads: Any = SimExecutor(self.loop, self.machine.pace)
        self.admission = admission = Admission(
            storage, neighbours.route, threads, max_body=config.max_body, min_free=config.min_free, sharing=self._sharing()
        )
        self.services = services = Services(
            admission, self.pinged, report, report, neighbours.greet, admission.hear_watermark, neighbours.unknown
        )
        self.spool.group_commit.when_told(self._send_answers)
        commons.when_told(self._send_answers)
        listener = SimListener(self, services, process)
        self.pool = pool = SimPool(self)
        self.stop = Stop(pool, report, drains=False)
        self._aside = Counting(self.journal.reader)
        self._cancels = cancels = Cancels(
            storage, neighbours, pool, self._aside, admission.keep_out, InStore(commons, self.journal, report)
        )
        services.other_requests = OtherRequests(_keep_no_results, cancels.answer, _operated_by_none)
        self._timekeeper = timekeeper = Timekeeper(self.name, self.id, self.journal, admission, neighbours, pool, report)
        self._status = NodeStatus(
            config=config, id=self.id, process=ThisProcess(self.instance, 1, time.monotonic()),
            storage=storage, services=services, listener=listener, workers=pool,
            neighbours=neighbours, aside=self._aside, stop=self.stop,
            log_dropped=lambda: 0, timers=timekeeper,
        )  # fmt: skip
        housekeeping = Housekeeping(
            storage, pool, admission, config, report, sample=self._status.sample, look_around=self._look_around
        )
        housekeeping.note_free(housekeeping.measure())
        self._life = Life(
            config=config, report=report, stop=self.stop, storage=storage, services=services,
            listener=listener, inbox=Undropped(), neighbours=neighbours, workers=pool,
            reloads=Reloads(pool.load, AppBroken, pool.room, report), control=Nobody(), housekeeping=housekeeping,
            ready=self._ready, commons=commons,
        )  # fmt: skip

    def _sharing(self) -> Sharing | None:
        """As `Node._sharing`."""
        if not self.commons.is_joined:
            return None
        here = frozenset([self.name, self.id, *self.commons.addresses])
        keeps = self.config.store_away == "accept"
        return Sharing(self.storage, Way(self.commons, self.neighbours.route, self.is_apart, self.id, here, keeps))

    async def _live(self) -> None:
        await self.commons.open()
        await self._life.start()
        await self.stop.wait()
        self._timekeeper.stop()
        await self._life.shut_down()
        self.machine.exit()

    def _ready(self) -> None:
        self.is_up = True
        self.history.came_up(self.name)
        self._timekeeper.start()
        self.trace(self.name, "ready", waiting=self.spool.total, outbox=self.outbox.total)

    async def _look_around(self) -> None:
        self.neighbours.tick()
        self.commons.tick()
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

    def pause(self, function: str) -> None:
        """`spoolnode pause`. In the process."""
        if self.is_up:
            spawn(self._change(self.storage.pauses.pause(function)))

    def resume(self) -> None:
        """`spoolnode resume`. In the process."""
        if self.is_up:
            spawn(self._change(self.storage.pauses.resume("")))

    def cancel(self, identity: str) -> None:
        """`spoolnode cancel`. In the process."""
        if self.is_up:
            self.history.called_off.add(identity)
            spawn(self._cancel(identity))

    async def _cancel(self, identity: str) -> None:
        outcome, text = await self._cancels.cancel(CancelRequest(identity, "a story", 1.0, 10.0))
        self.trace(self.name, "cancel", id=identity, outcome=outcome.value, why=text)
        if outcome is CancelOutcome.CANCELLED:
            self.history.said_cancelled(identity)

    def forget(self, choice: Random) -> None:
        """`spoolnode forget`, perhaps with `--move-to`, of a node that is down, if this one sees any so. In the process."""
        gone = [row for row in self.neighbours.peers() if row["state"] == "down" and row["name"]] if self.is_up else []
        if gone:
            others = [row["name"] for row in self.neighbours.peers() if row["state"] == "up"]
            most = max(gone, key=lambda row: (row["outbox"], row["name"]))
            node, move_to = most["name"], choice.choice(("", "any", self.name, *others))
            with contextlib.suppress(CannotForget):
                self.neighbours.forgettable(node)
                self.history.forgets(self.name, node, move_to)
                spawn(self._forget(node, move_to))

    async def _forget(self, node: str, move_to: str) -> None:
        try:
            done = await self.neighbours.forget(node, move_to, move_doubts=False)
        except (CannotForget, OSError) as error:
            self.trace(self.name, "not forgotten", node=node, why=error)
        else:
            self.trace(self.name, "forget", node=node, move_to=move_to, moved=done["moved"], dead=done["dead"])

    async def _change(self, change: Coroutine[Any, Any, Paused]) -> None:
        with contextlib.suppress(OSError):  # its disk is full or fails; nothing was changed
            await change
            self.spool.waiting.changed()

    def is_apart(self, destination: str) -> bool:
        """As `SharingHost` says."""
        return self.neighbours.is_apart(destination)

    @property
    def hands(self) -> SimPool:
        """As `SharingHost` says."""
        return self.pool

    def status(self) -> dict[str, Any]:
        """As other nodes and operators are told."""
        return self._status.now()

    def pinged(self) -> dict[str, Any]:
        """What is answered to a ping."""
        return self._status.for_ping()

    def _died(self, how: str) -> None:
        self.is_up = False
        self.history.killed(self.name)
        if how == "stopped" and self.machine.process is not None:
            self.loop.call_soon(self.history.stopped, self.machine.process.name, context=self.network.nobody)
        if how == "power cut":
            self.history.power_cut(self.name)
            self.story = SimStory(self)
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


async def _keep_no_results(question: Question) -> Fetched:
    raise Refused(Reason.FORBIDDEN, f"no result of {question.identity} is kept")


async def _operated_by_none(operation: Operation, _caller: Caller) -> OperationAnswer:
    raise Refused(Reason.FORBIDDEN, f"{operation.path} is not open to other nodes")


class SimJournal(Journal):
    """Tells the history which ends are safe against a power cut."""

    def __init__(self, node: SimNode, disk: GuardedDisk) -> None:
        super().__init__(
            disk,
            Layout(ROOT),
            node.id,
            sync=True,
            report=node.report,
            thread=lambda name: SimThread(name, node.machine.pace),
            story=node.story,
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
