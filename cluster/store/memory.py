"""A common store in memory, for tests and the simulation: virtual time, and a seeded lottery that loses requests and answers.

It keeps every promise of `interface` but one: it is gone with its process.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from spoolnode.cluster.store.interface import (
    CHUNK,
    NO_RESULTS,
    REMEMBERED,
    Again,
    Burial,
    CommonStore,
    FoundTask,
    HowEnded,
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
from spoolnode.cluster.store.memory_roll import MemoryRoll

_Message = tuple[str, int]
_WAITING = (TaskState.READY, TaskState.LATER)


@dataclass(slots=True)
class _Row:
    task: StoredTask
    body: bytes
    serial: int
    """The place of the task in the order of acceptance."""
    accepted: float
    state: TaskState
    until: float = 0.0
    """When the lease runs out, or when the task ended or died."""
    turn: int = 0
    reason: str = ""
    result: bytes = b""
    by: str = ""

    @property
    def message(self) -> _Message:
        return self.task.id, self.task.hops

    @property
    def order(self) -> tuple[str | float, ...]:
        """Its place in the list of its state."""
        if self.state == TaskState.READY:
            return self.task.to, self.task.rank, self.serial
        if self.state == TaskState.LATER:
            return self.task.due, self.serial
        return (self.until, self.serial) if self.state == TaskState.ENDED else (self.serial,)


class MemoryStore(CommonStore):
    """A common store that lives as long as this object.

    Its time stands still between calls of `advance`. `lost_requests` and `lost_answers` are the shares, from 0 to 1, of requests
    that raise `StoreAway` before and after they were carried out. `is_away` is the same as if all of them were lost.
    """

    publications = 2

    def __init__(
        self,
        *,
        now: float = 1_800_000_000.0,
        rng: random.Random | None = None,
        lost_requests: float = 0.0,
        lost_answers: float = 0.0,
    ) -> None:
        self.now = now
        self.is_away = False
        self.lost_requests = lost_requests
        self.lost_answers = lost_answers
        self._rng = rng or random.Random(0)
        self._rows: dict[_Message, _Row] = {}
        self._serial = 0
        self._admitted: dict[str, list[Lease]] = {}
        """The tasks of each limited function that may run, or might once."""
        self._changed = asyncio.Event()
        self.roll = MemoryRoll(lambda: self.now, self._ask, self._answer)

    def __repr__(self) -> str:
        return f"<MemoryStore with {len(self._rows)} tasks>"

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.now += seconds
        self._wake()

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        self._ask()
        bodies = [await _gathered(new) for new in tasks]
        done = [self._publish_one(new.task, body) for new, body in zip(tasks, bodies, strict=True)]
        self._wake()
        self._answer()
        return done

    async def take(self, most: int, places: Sequence[str], lease: float, by: str = "") -> list[Leased]:
        self._ask()
        ready = [row for row in self._rows.values() if row.state == TaskState.READY and row.task.to in places]
        ready.sort(key=lambda row: (row.task.rank, row.serial))
        taken = [self._take_one(row, lease) for row in ready[:most]]
        for row in ready[:most]:
            row.by = by or row.by
        self._answer()
        return taken

    async def claim(self, identities: Sequence[str], lease: float) -> list[Leased]:
        self._ask()
        rows = [row for row in self._rows.values() if row.task.id in identities and row.state in _WAITING]
        taken = [self._take_one(row, lease) for row in rows]
        self._answer()
        return taken

    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        self._ask()
        running = [lease for lease in self._admitted.get(function, ()) if self._held(lease) and lease not in over]
        new = [lease for lease in leases if lease not in running and self._held(lease)]
        self._admitted[function] = running = running + new[: max(most - len(running), 0)]
        self._answer()
        return frozenset(running).intersection(leases)

    async def body(self, lease: Lease) -> AsyncIterator[bytes]:
        start = 0
        while True:
            self._ask()
            row = self._held(lease)
            if row is None:
                raise StoreAway(f"the lease of the task {lease.id} is lost: its body is read no further")
            if start >= len(row.body):
                return
            yield row.body[start : start + CHUNK]
            start += CHUNK

    async def extend(self, leases: Sequence[Lease], seconds: float) -> frozenset[Lease]:
        def extended(row: _Row) -> None:
            row.until = self.now + seconds

        return self._act(leases, extended)

    async def end(self, leases: Sequence[Lease], results: Mapping[Lease, bytes] = NO_RESULTS) -> frozenset[Lease]:
        def ended(row: _Row) -> None:
            row.result = results.get(Lease(*row.message, row.turn), b"")
            self._end(row, HowEnded.DONE)

        return self._act(leases, ended, self._ended_under)

    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        told = {order.lease: order for order in orders}

        def waits(row: _Row) -> None:
            order = told[Lease(*row.message, row.turn)]
            row.task = row.task._replace(
                due=order.due,
                attempts=row.task.attempts if order.attempts is None else order.attempts,
                to=row.task.to if order.to is None else order.to,
            )
            row.reason = row.reason if order.reason is None else order.reason
            self._wait(row)

        return self._act(list(told), waits)

    async def bury(self, burials: Sequence[Burial]) -> frozenset[Lease]:
        told = {burial.lease: burial for burial in burials}

        def buried(row: _Row) -> None:
            burial = told[Lease(*row.message, row.turn)]
            row.state, row.until, row.reason = TaskState.DEAD, self.now, burial.reason
            if burial.attempts is not None:
                row.task = row.task._replace(attempts=burial.attempts)

        return self._act(list(told), buried)

    async def find(self, identity: str) -> FoundTask | None:
        self._ask()
        row = self._row_of(identity)
        self._answer()
        return _shown(row) if row else None

    async def peek(self, identity: str) -> bytes:
        self._ask()
        row = self._row_of(identity)
        self._answer()
        return row.body if row else b""

    async def places(self, most: int) -> list[str]:
        self._ask()
        places = {row.task.to for row in self._rows.values() if row.state == TaskState.READY}
        self._answer()
        return sorted(places)[:most]

    async def list(self, state: TaskState, limit: int, after: str = "") -> StorePage:
        self._ask()
        rows = sorted((row for row in self._rows.values() if row.state == state), key=lambda row: row.order)
        if after:
            rows = [row for row in rows if row.order > tuple(json.loads(after))]
        self._answer()
        return StorePage([_shown(row) for row in rows[:limit]], json.dumps(rows[limit - 1].order) if limit < len(rows) else "")

    async def count(self) -> dict[TaskState, Tally]:
        self._ask()
        states = [row.state for row in self._rows.values()]
        self._answer()
        return {state: Tally(states.count(state), True) for state in TaskState if state != TaskState.ENDED}

    async def remove(self, identity: str) -> TaskState | None:
        self._ask()
        row = self._row_of(identity)
        state = row.state if row and row.state != TaskState.ENDED else None
        if row and state and state != TaskState.HELD:
            self._end(row, HowEnded.REMOVED)
        self._answer()
        return state

    async def revive(self, identities: Sequence[str], to: str | None = None) -> frozenset[str]:
        self._ask()
        dead = [row for row in self._rows.values() if row.task.id in identities and row.state == TaskState.DEAD]
        for row in dead:
            row.reason = ""
            row.task = row.task._replace(due=0.0, attempts=0, to=row.task.to if to is None else to)
            self._wait(row)
        self._wake()
        self._answer()
        return frozenset(row.task.id for row in dead)

    async def watch(self, places: Sequence[str], seconds: float) -> bool:
        end = self.now + seconds
        while True:
            self._ask()
            if any(row.state == TaskState.READY and row.task.to in places for row in self._rows.values()):
                return True
            if self.now >= end:
                return False
            await self._changed.wait()

    async def check(self) -> Safety:
        self._ask()
        return Safety(
            "memory", False, False, False, [("tasks", str(len(self._rows)))], ["everything is lost with this process"]
        )  # fmt: skip

    async def close(self) -> None:
        self._wake()

    # -- the lottery, and what time does --

    def _ask(self) -> None:
        if self.is_away or self._rng.random() < self.lost_requests:
            raise StoreAway("the store in memory is away")
        self._pass_time()

    def _answer(self) -> None:
        if self._rng.random() < self.lost_answers:
            raise StoreAway("the answer of the store in memory was lost")

    def _pass_time(self) -> None:
        for row in list(self._rows.values()):
            if row.state == TaskState.HELD and row.until <= self.now:
                self._wait(row)
            elif row.state == TaskState.LATER and row.task.due <= self.now:
                row.state = TaskState.READY
            elif row.state == TaskState.ENDED and row.until + REMEMBERED <= self.now:
                del self._rows[row.message]

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # -- one task --

    def _publish_one(self, task: StoredTask, body: bytes) -> Publication:
        if (task.id, task.hops) in self._rows:
            return Publication.REPEATED
        if self._waits_with(task.key):
            return Publication.DUPLICATE
        self._serial += 1
        row = _Row(task._replace(size=len(body)), body, self._serial, self.now, TaskState.READY)
        self._rows[row.message] = row
        row.state = self._waiting_state(task)
        return Publication.STORED

    def _take_one(self, row: _Row, lease: float) -> Leased:
        row.state, row.until, row.turn = TaskState.HELD, self.now + lease, row.turn + 1
        return Leased(Lease(*row.message, row.turn), row.task)

    def _waits_with(self, key: bytes) -> bool:
        return bool(key) and any(row.task.key == key and row.state in _WAITING for row in self._rows.values())

    def _waiting_state(self, task: StoredTask) -> TaskState:
        return TaskState.LATER if task.due > self.now else TaskState.READY

    def _wait(self, row: _Row) -> None:
        if self._waits_with(row.task.key):
            self._end(row, HowEnded.MERGED)
        else:
            row.state = self._waiting_state(row.task)

    def _end(self, row: _Row, how: HowEnded) -> None:
        row.state, row.until, row.body, row.reason = TaskState.ENDED, self.now, b"", how.value
        row.task = row.task._replace(block=b"", size=0)

    def _held(self, lease: Lease) -> _Row | None:
        row = self._rows.get((lease.id, lease.hops))
        return row if row and row.state == TaskState.HELD and row.turn == lease.turn else None

    def _ended_under(self, lease: Lease) -> bool:
        row = self._rows.get((lease.id, lease.hops))
        return row is not None and row.state == TaskState.ENDED and row.turn == lease.turn

    def _act(
        self, leases: Iterable[Lease], act: Callable[[_Row], None], is_done: Callable[[Lease], bool] = lambda _: False
    ) -> frozenset[Lease]:
        """Acts on every task whose lease holds. Returns the other leases, without those about which nothing is left to do."""
        self._ask()
        lost = set()
        for lease in leases:
            row = self._held(lease)
            if row is not None:
                act(row)
            elif not is_done(lease):
                lost.add(lease)
        self._wake()
        self._answer()
        return frozenset(lost)

    def _row_of(self, identity: str) -> _Row | None:
        rows = [row for row in self._rows.values() if row.task.id == identity]
        return max(rows, key=lambda row: row.task.hops, default=None)


def _shown(row: _Row) -> FoundTask:
    finished = row.until if row.state in (TaskState.DEAD, TaskState.ENDED) else 0.0
    return FoundTask(row.task, row.state, row.accepted, row.reason, finished, row.result, row.by)


async def _gathered(new: NewTask) -> bytes:
    data = b"".join([chunk async for chunk in new.body.chunks()])
    if len(data) != new.body.size:
        raise wrong_size(new, len(data))
    return data
