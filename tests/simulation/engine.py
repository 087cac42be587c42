"""The engine of a common store: the fake of `cluster.store.memory` in virtual time, at the other end of bad connections.

It keeps the books of its own: which node had which lease, and how that ended. `Reach` is the driver of one node; what the node
hears is decided here, when it asks:

    lost      a request is not carried out, an answer does not come, or a request is carried out long after the node gave it up
    away      no one is answered: an election, a restart
    cut, deaf one node does not reach the engine, or does not hear it
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from spoolnode.cluster.store.interface import (
    NO_RESULTS,
    Again,
    Burial,
    BytesContent,
    CommonStore,
    FoundTask,
    Lease,
    Leased,
    NewTask,
    Publication,
    Safety,
    StoreAway,
    StoredTask,
    StorePage,
    Tally,
    TaskState,
    wrong_size,
)
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.protocol.packet import decode_variables

from .loop import EPOCH, SimLoop, Violation
from .machine import Process
from .network import Network

LIMIT = 2.0
"""Seconds after which a driver gives up a request."""
LATE = 8.0
"""A request that its node has given up is carried out within so many seconds, or never."""
LOOK_SECONDS = 1.0
"""How often the engine looks what time has done."""
PIECE = 4 << 10
"""Bytes of a body that travel at a time."""
LAPSED = "lapsed"
"""The end of a lease that ran out."""


@dataclass(eq=False)
class Turn:
    """A lease that a node had or has."""

    lease: Lease
    process: Process
    until: float
    """When it runs out, by the loop's clock, as far as it is known: it is extended."""
    is_known: bool = False
    """Whether the node has heard of it."""
    fate: str = ""
    """How it ended; empty while it holds."""

    @property
    def node(self) -> str:
        """The name of the node."""
        return self.process.machine.name


class TimedStore(MemoryStore):
    """The store itself: its time is that of the loop, and it knows who asks."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        super().__init__()
        self.turns: dict[Lease, Turn] = {}
        self.asker: Process | None = None
        """The process whose request is carried out."""
        self.lapsed: Callable[[Turn], None] = lambda turn: None
        """Hears of each lease that ran out."""

    @property
    def now(self) -> float:
        """The time of its server."""
        return EPOCH + self._loop.now

    @now.setter
    def now(self, value: float) -> None:
        """The base class wants to set it once."""

    def look(self) -> None:
        """Time has passed."""
        self._pass_time()

    def known(self) -> Iterator[tuple[TaskState, str, int]]:
        """The state, the id and the number of each task that has not ended."""
        for row in self._rows.values():
            if row.state != TaskState.ENDED:
                yield row.state, row.task.id, int(dict(decode_variables(row.task.block))[b"n"])

    def has_for(self, places: Sequence[str]) -> bool:
        """Whether a task is ready for one of these destinations."""
        return any(row.state == TaskState.READY and row.task.to in places for row in self._rows.values())

    def holder(self, identity: str) -> Turn | None:
        """The lease under which a task is held now."""
        row = self._row_of(identity)
        return self.turns[Lease(*row.message, row.turn)] if row and row.state == TaskState.HELD and row.until > self.now else None

    def piece(self, lease: Lease, start: int) -> bytes:
        """A part of a body. Raises `StoreAway`."""
        row = self._held(lease)
        if row is None:
            raise StoreAway(f"the lease of the task {lease.id} is lost: its body is read no further")
        return row.body[start : start + PIECE]

    def present(self, lease: Lease) -> Lease:
        """The last lease of the same task: only a planted mistake asks."""
        row = self._rows.get((lease.id, lease.hops))
        return lease._replace(turn=row.turn) if row else lease

    def forget(self, identity: str) -> None:
        """Loses a task that was acknowledged: only a planted mistake does so."""
        for message in [message for message in self._rows if message[0] == identity]:
            del self._rows[message]

    # -- the books --

    def _pass_time(self) -> None:
        over = [row for row in self._rows.values() if row.state == TaskState.HELD and row.until <= self.now]
        for row in over:
            turn = self.turns[Lease(*row.message, row.turn)]
            turn.until, turn.fate = row.until - EPOCH, turn.fate or LAPSED
            self.lapsed(turn)
        super()._pass_time()

    def _publish_one(self, task: StoredTask, body: bytes) -> Publication:
        others = [row for row in self._rows.values() if row.task.id == task.id and row.task.hops != task.hops]
        outcome = super()._publish_one(task, body)
        if outcome == Publication.STORED and others:
            raise Violation(f"{task.id} is in the store twice: with {task.hops} hops, and with {others[0].task.hops}")
        if task.key and sum(row.task.key == task.key and row.state in WAITING for row in self._rows.values()) > 1:
            raise Violation(f"two tasks with the key of {task.id} wait")
        return outcome

    def _take_one(self, row: Any, lease: float) -> Leased:
        leased = super()._take_one(row, lease)
        assert self.asker is not None  # only nodes take
        self.turns[leased.lease] = Turn(leased.lease, self.asker, row.until - EPOCH)
        return leased

    def ended(self, verb: str, leases: Sequence[Lease], lost: frozenset[Lease]) -> None:
        """These leases were ended by that verb, but for those that were lost before."""
        for lease in leases:
            if lease not in lost and lease in self.turns:
                self.turns[lease].fate = self.turns[lease].fate or verb


WAITING = (TaskState.READY, TaskState.LATER)


@dataclass(eq=False)
class _Watcher:
    """A node that waits for tasks."""

    process: Process
    places: Sequence[str]
    until: float
    future: "asyncio.Future[Any]"


@dataclass(eq=False)
class Engine:
    """The server, and the ways to it. All that it does, it does in no node's process."""

    loop: SimLoop
    network: Network
    random: Random
    trace: Callable[..., None]
    losses: float = 0.0
    """The share of requests with which something goes wrong."""
    slowest: float = 0.01
    """Seconds that a way takes at most."""
    is_away: bool = False
    cut: set[str] = field(default_factory=set)
    """The names of nodes that do not reach it."""
    deaf: set[str] = field(default_factory=set)
    """The names of nodes that it does not reach: what they ask is carried out, and they do not hear of it."""
    forgets: ClassVar[float] = 0.0
    """The share of acknowledged tasks that it loses: only a planted mistake sets it."""

    def __post_init__(self) -> None:
        self.store = TimedStore(self.loop)
        self.trouble: dict[str, list[tuple[float, float]]] = {}
        """When each node had trouble with the engine, or with itself: from when to when."""
        self._watchers: list[_Watcher] = []
        self._later(LOOK_SECONDS, self._look)

    def _later(self, seconds: float, what: Callable[..., None], *args: Any) -> None:
        self.loop.call_later(seconds, what, *args, context=self.network.nobody)

    def _look(self) -> None:
        self.store.look()
        self._wake()
        self._later(LOOK_SECONDS, self._look)

    # -- trouble --

    def note_trouble(self, node: str, seconds: float) -> None:
        """That node has trouble for so long from now."""
        self.trouble.setdefault(node, []).append((self.loop.now, self.loop.now + seconds))

    def longest_well(self, node: str, begin: float, end: float) -> float:
        """The longest time without any trouble of that node in there, in seconds."""
        longest, at = 0.0, begin
        for since, until in sorted(self.trouble.get(node, [])):
            if until <= at:
                continue
            longest = max(longest, min(since, end) - at)
            at = max(at, until)
            if at >= end:
                return longest
        return max(longest, end - at)

    # -- what nodes ask --

    def ask(self, process: Process, verb: str, args: tuple[Any, ...], future: "asyncio.Future[Any]") -> None:
        """A node asks something; `future` hears the answer."""
        if not self._is_reached(process):
            self._fail_later(process, future, self.random.choice((0.01, LIMIT)))
        elif self.random.random() < self.losses:
            self._go_wrong(process, verb, args, future)
        elif verb == "watch":
            self._later(self._way(), self._watch, process, args, future)
        else:
            self._later(self._way(), self._answer, process, verb, args, future)

    def _way(self) -> float:
        return self.slowest * self.random.random()

    def _is_reached(self, process: Process) -> bool:
        return not self.is_away and process.machine.name not in self.cut

    def _go_wrong(self, process: Process, verb: str, args: tuple[Any, ...], future: "asyncio.Future[Any]") -> None:
        kind = self.random.choice(("request lost", "answer lost", "late"))
        self.trace(process.machine.name, kind, verb=verb)
        if verb != "watch" and kind == "answer lost":
            self._later(self._way(), self._carry_out_in_vain, process, verb, args)
        elif verb != "watch" and kind == "late":
            self._later(LATE * self.random.random(), self._carry_out_in_vain, process, verb, args)
        self._fail_later(process, future, LIMIT if kind == "late" else self.random.choice((2 * self.slowest, LIMIT)))

    def _fail_later(self, process: Process, future: "asyncio.Future[Any]", seconds: float) -> None:
        self.note_trouble(process.machine.name, seconds)
        self._later(seconds, self._fail, future)

    @staticmethod
    def _fail(future: "asyncio.Future[Any]", error: Exception | None = None) -> None:
        if not future.done():
            future.set_exception(error or StoreAway("the engine does not answer"))
            future.exception()  # its process may die before it looks

    def _carry_out_in_vain(self, process: Process, verb: str, args: tuple[Any, ...]) -> None:
        if not self.is_away:
            with suppress(StoreAway):  # the node would not hear it
                self._carry_out(process, verb, args)

    def _answer(self, process: Process, verb: str, args: tuple[Any, ...], future: "asyncio.Future[Any]") -> None:
        result: Any
        error: Exception | None
        try:
            if self.is_away:
                raise StoreAway("the engine went away")
            result, error = self._carry_out(process, verb, args), None
        except StoreAway as problem:
            result, error = None, problem
        self._later(self._way(), self._tell, process, verb, future, result, error)

    def _tell(self, process: Process, verb: str, future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
        if not self._is_reached(process) or process.machine.name in self.deaf:
            self._fail_later(process, future, LIMIT)
        elif future.done() or process.dead:
            return
        elif error is not None:
            self._fail(future, error)
        else:
            if verb == "take":
                for leased in result:
                    self.store.turns[leased.lease].is_known = True
            future.set_result(result)

    def _carry_out(self, process: Process, verb: str, args: tuple[Any, ...]) -> Any:
        self.store.asker = process
        if verb == "piece":
            return self.store.piece(*args)
        coroutine = getattr(self.store, verb)(*args)
        try:
            coroutine.send(None)
        except StopIteration as done:
            result = done.value
        else:
            raise Violation(f"the store in memory waits in {verb}")
        self._note(verb, args, result)
        self._wake()
        return result

    def _note(self, verb: str, args: tuple[Any, ...], result: Any) -> None:
        if verb == "end":
            self.store.ended(verb, args[0], result)
        elif verb in ("again", "bury"):
            self.store.ended(verb, [order.lease for order in args[0]], result)
        elif verb == "publish" and self.forgets:
            for new, outcome in zip(args[0], result, strict=True):
                if outcome == Publication.STORED and self.random.random() < self.forgets:
                    self.trace("--", "forgotten", id=new.task.id)
                    self.store.forget(new.task.id)

    # -- those that wait --

    def _watch(self, process: Process, args: tuple[Any, ...], future: "asyncio.Future[Any]") -> None:
        places, seconds = args
        self._watchers.append(_Watcher(process, places, self.loop.now + seconds, future))
        self._wake()

    def _wake(self) -> None:
        for watcher in [*self._watchers]:
            if watcher.future.done() or watcher.process.dead:
                self._watchers.remove(watcher)
            elif not self._is_reached(watcher.process):
                self._watchers.remove(watcher)
                self._later(LIMIT * self.random.random(), self._fail, watcher.future)
            elif self.store.has_for(watcher.places) or watcher.until <= self.loop.now:
                self._watchers.remove(watcher)
                found = watcher.until > self.loop.now
                self._later(self._way(), self._tell, watcher.process, "watch", watcher.future, found, None)


class Reach(CommonStore):
    """The driver of one process."""

    publications = MemoryStore.publications

    def __init__(self, engine: Engine, process: Process) -> None:
        self._engine = engine
        self._process = process

    async def _ask(self, verb: str, *args: Any) -> Any:
        future = self._engine.loop.create_future()
        self._engine.ask(self._process, verb, args, future)
        return await future

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        whole = [NewTask(new.task, await _whole(new)) for new in tasks]
        outcomes: list[Publication] = await self._ask("publish", whole)
        return outcomes

    async def peek(self, identity: str) -> bytes:
        body: bytes = await self._ask("peek", identity)
        return body

    async def places(self, most: int) -> list[str]:
        found: list[str] = await self._ask("places", most)
        return found

    async def take(self, most: int, places: Sequence[str], lease: float, by: str = "") -> list[Leased]:
        taken: list[Leased] = await self._ask("take", most, places, lease, by)
        return taken

    async def claim(self, identities: Sequence[str], lease: float) -> list[Leased]:
        taken: list[Leased] = await self._ask("claim", identities, lease)
        return taken

    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        admitted: frozenset[Lease] = await self._ask("admit", function, most, leases, over)
        return admitted

    async def body(self, lease: Lease) -> AsyncIterator[bytes]:
        start = 0
        while piece := await self._ask("piece", lease, start):
            yield piece
            start += len(piece)

    async def extend(self, leases: Sequence[Lease], seconds: float) -> frozenset[Lease]:
        lost: frozenset[Lease] = await self._ask("extend", leases, seconds)
        return lost

    async def end(self, leases: Sequence[Lease], results: Mapping[Lease, bytes] = NO_RESULTS) -> frozenset[Lease]:
        lost: frozenset[Lease] = await self._ask("end", leases, results)
        return lost

    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        lost: frozenset[Lease] = await self._ask("again", orders)
        return lost

    async def bury(self, burials: Sequence[Burial]) -> frozenset[Lease]:
        lost: frozenset[Lease] = await self._ask("bury", burials)
        return lost

    async def find(self, identity: str) -> FoundTask | None:
        found: FoundTask | None = await self._ask("find", identity)
        return found

    async def list(self, state: TaskState, limit: int, after: str = "") -> StorePage:
        page: StorePage = await self._ask("list", state, limit, after)
        return page

    async def count(self) -> dict[TaskState, Tally]:
        tallies: dict[TaskState, Tally] = await self._ask("count")
        return tallies

    async def remove(self, identity: str) -> TaskState | None:
        state: TaskState | None = await self._ask("remove", identity)
        return state

    async def revive(self, identities: Sequence[str], to: str | None = None) -> frozenset[str]:
        revived: frozenset[str] = await self._ask("revive", identities, to)
        return revived

    async def watch(self, places: Sequence[str], seconds: float) -> bool:
        is_ready: bool = await self._ask("watch", places, seconds)
        return is_ready

    async def check(self) -> Safety:
        safety: Safety = await self._ask("check")
        return safety

    async def close(self) -> None:
        """What was asked is carried out, or not."""


async def _whole(new: NewTask) -> BytesContent:
    """A body as the engine gets it. Raises BadTask."""
    data = b"".join([chunk async for chunk in new.body.chunks()])
    if len(data) != new.body.size:
        raise wrong_size(new, len(data))
    return BytesContent(data)
