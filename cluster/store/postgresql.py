"""A common store in PostgreSQL (see `interface`; the tables are in `postgresql_schema`).

Traps that the code avoids, each with a test:

- Only a transaction that writes waits for the standby. So a repeat, and a duplicate, write too: otherwise their acknowledgement
  could be of a row that only the primary has.
- When the wait for the standby is cancelled, the commit succeeds with a warning (see `postgresql_connections`).
- A transaction of an application locks the task with whose key it enqueues (`spool_in`), for as long as it likes. A take passes
  over that task, and a watcher would tell of it again and again.
- NOTIFY in a transaction lets one transaction commit at a time, and it would hold that lock while it waits for the standby. So
  the bell is rung after the commit, by itself; if it is not heard, watchers look for themselves.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, LiteralString, Self, TypeVar

import psycopg
from psycopg.rows import TupleRow

from spoolnode.cluster.store.interface import (
    MOST_COUNTED,
    NO_RESULTS,
    REMEMBERED,
    Again,
    Burial,
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
from spoolnode.cluster.store.postgresql_bell import Bell
from spoolnode.cluster.store.postgresql_connections import Connection, ServerConnections
from spoolnode.cluster.store.postgresql_roll import PostgresRoll
from spoolnode.cluster.store.postgresql_safety import safety
from spoolnode.cluster.store.postgresql_schema import check_schema, migrate
from spoolnode.cluster.store.postgresql_statements import (
    ADMIT,
    AGAIN,
    BURY,
    CLAIM,
    END,
    END_AGAIN,
    ESTIMATE,
    EXTEND,
    FIND,
    FORGET,
    INSERT,
    INSERT_PLAIN,
    IS_READY,
    LAST_RANK,
    NOTE_LIMITED,
    PLACES,
    READ_BODY,
    READ_CHUNK,
    REMOVE,
    REVIVE,
    STORE_CHUNK,
    SWEEP_ONE_WITH_KEY,
    SWEEPS,
    TAKE,
    WRITE_DUPLICATES,
    WRITE_REPEATS,
    count_of,
    list_of,
)
from spoolnode.protocol.names import LAST

SWEEP = 0.25
"""Seconds between two looks for what has become due, and for leases that ran out."""
FORGETTING = 10.0
"""Seconds between two looks for ended tasks that may be forgotten."""
POLL = 0.5
"""Seconds after which a watcher looks for itself."""
LOCKED = 0.2
"""Seconds for which a watcher does not tell that something is ready if the last take got nothing: others have locked it."""
AT_ONCE = 1000
"""Rows that a sweep changes in one transaction."""
TRIES = 5
"""A publication that meets another one (a deadlock, a long wait, a task that ends at that moment) is repeated so often."""

_Message = tuple[str, int]
T = TypeVar("T")


class PostgresStore(CommonStore):
    """A common store in a PostgreSQL database."""

    def __init__(self, connections: ServerConnections) -> None:
        """Use `open`."""
        self._connections = connections
        self._bell = Bell(connections)
        self._run = connections.run
        self.roll = PostgresRoll(connections)
        self._next_sweep = self._next_forgetting = 0.0
        self._took_nothing = False

    @classmethod
    async def open(cls, url: str, *, migrates: bool = False) -> Self:
        """The store at this address (postgresql://..., as libpq reads it), whose tables are those of this version.

        `migrates`: makes them so. Raises `StoreAway`, `StoreUnfit`.
        """
        store = cls(ServerConnections(url))
        try:
            async with store._connections.one() as connection:
                if migrates:
                    await migrate(connection)
                await check_schema(connection)
        except BaseException:
            await store.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"<PostgresStore {self._connections.name}>"

    # -- into the store --

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        became: dict[_Message, Publication] = {}
        async with self._connections.one() as connection:
            await self._publish_surely(connection, tasks, became)
        done = _told_once(tasks, became)
        stored = Publication.STORED
        self._bell.ring([task.to for (task, _), was in zip(tasks, done, strict=True) if was is stored])
        return done

    async def _publish_surely(
        self, connection: Connection, tasks: Sequence[NewTask], became: dict[_Message, Publication]
    ) -> None:
        """Publishes until no other publication of the same tasks is in the way.

        From the second try on all go in one order, so that two of them wait for each other no more than once.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                await self._publish(connection, tasks, became)
                return
            except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable, _Changed) as error:
                if isinstance(error, psycopg.errors.LockNotAvailable) and any(new.task.key for new in tasks):
                    raise  # an application may hold back a key for as long as it likes
                if not tries_left:
                    raise StoreAway(f"the store {self._connections.name} is too busy with the same tasks") from error
            tasks = sorted(tasks, key=lambda new: (new.task.key, new.task.id, new.task.hops))

    async def _publish(self, connection: Connection, tasks: Sequence[NewTask], became: dict[_Message, Publication]) -> None:
        if not any(new.body.size for new in tasks):
            await self._insert(connection, tasks, became)  # one statement, whole or not at all by itself
            return
        new_ones: dict[_Message, Publication] = {}
        async with connection.transaction():
            await self._insert(connection, tasks, new_ones)
        became |= new_ones

    async def _insert(self, connection: Connection, tasks: Sequence[NewTask], became: dict[_Message, Publication]) -> None:
        rest = [new for new in tasks if (new.task.id, new.task.hops) not in became] if became else tasks
        stored = await (self._insert_plain if _are_plain(rest) else self._insert_any)(connection, rest)
        became |= dict.fromkeys(stored, Publication.STORED)
        if len(stored) == len(tasks):
            return
        there = [new.task for new in rest if (new.task.id, new.task.hops) not in became]
        if there:
            became |= await self._write_again(connection, there)

    async def _insert_plain(self, connection: Connection, tasks: Sequence[NewTask]) -> list[_Message]:
        """Inserts tasks that need no more than `INSERT_PLAIN`; returns those that were not there."""
        ids = " ".join([new.task.id for new in tasks])
        blocks = [new.task.block for new in tasks]
        ((stored,),) = await self._run(connection, INSERT_PLAIN, [tasks[0].task.to, ids, blocks])
        return [(identity, 0) for identity in stored.split()]

    async def _insert_any(self, connection: Connection, tasks: Sequence[NewTask]) -> list[_Message]:
        """Inserts any tasks, with their bodies; returns those that were not there."""
        stored = dict.fromkeys((row[0], row[1]) for row in await self._run(connection, INSERT, _columns(tasks)))
        for new in tasks:
            if new.body.size and (new.task.id, new.task.hops) in stored:
                await self._store_body(connection, new)
        return list(stored)

    async def _write_again(self, connection: Connection, tasks: Sequence[StoredTask]) -> dict[_Message, Publication]:
        """Tells repeats from duplicates. It writes to the row that is there already, so that its commit waits for the standby."""
        messages = [[task.id for task in tasks], [task.hops for task in tasks]]
        repeated = await self._run(connection, WRITE_REPEATS, messages)
        became = {(row[0], row[1]): Publication.REPEATED for row in repeated}
        others = [task for task in tasks if (task.id, task.hops) not in became]
        if others:
            keys = {bytes(row[0]) for row in await self._run(connection, WRITE_DUPLICATES, [[task.key for task in others]])}
            if not all(task.key in keys for task in others):
                raise _Changed  # the task with that key was taken between the two statements, so this one can be stored now
            became |= {(task.id, task.hops): Publication.DUPLICATE for task in others}
        return became

    async def _store_body(self, connection: Connection, new: NewTask) -> None:
        number = found = 0
        async for chunk in new.body.chunks():
            await self._run(connection, STORE_CHUNK, [new.task.id, new.task.hops, number, chunk])
            number, found = number + 1, found + len(chunk)
        if found != new.body.size:
            raise wrong_size(new, found)

    # -- out of it --

    async def take(self, most: int, places: Sequence[str], lease: float, by: str = "") -> list[Leased]:
        async with self._connections.one() as connection:
            await self._sweep(connection)
            rows = await self._run(connection, TAKE, {"places": list(places), "most": most, "lease": lease, "by": by})
        self._took_nothing = not rows
        return [_leased(row) for row in rows]

    async def claim(self, identities: Sequence[str], lease: float) -> list[Leased]:
        async with self._connections.one() as connection:
            rows = await self._run(connection, CLAIM, {"ids": list(identities), "lease": lease})
        return [_leased(row) for row in rows]

    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        name = function.encode("utf-8", "surrogateescape")
        gone = {f"over_{what}": value for what, value in _leases(over).items()}
        values = {**_leases(leases), **gone, "function": name, "most": most}
        rows: list[TupleRow] = []
        async with self._connections.one() as connection:
            for _ in range(TRIES):
                rows = await self._run(connection, ADMIT, values)
                if not any(has_changed for *_, has_changed in rows):
                    break
                await self._run(connection, NOTE_LIMITED, [name])
        return frozenset(Lease(*row[:3]) for row in rows if row[3])

    async def body(self, lease: Lease) -> AsyncIterator[bytes]:
        number = 0
        while True:
            async with self._connections.one() as connection:
                rows = await self._run(connection, READ_CHUNK, [number, *lease])
            if not rows:
                raise StoreAway(f"the lease of the task {lease.id} is lost: its body is read no further")
            if rows[0][0] is None:
                return
            yield bytes(rows[0][0])
            number += 1

    # -- what is held --

    async def extend(self, leases: Sequence[Lease], seconds: float) -> frozenset[Lease]:
        async with self._connections.one() as connection:
            return _lost(leases, await self._run(connection, EXTEND, {**_leases(leases), "seconds": seconds}))

    async def end(self, leases: Sequence[Lease], results: Mapping[Lease, bytes] = NO_RESULTS) -> frozenset[Lease]:
        first = [lease for lease in leases if lease in results]
        others = (lease for lease in leases if lease not in results) if first else leases
        values = {**_leases([*first, *others]), "results": [results[lease] for lease in first]}
        async with self._connections.one() as connection:
            lost = _lost(leases, await self._run(connection, END, values))
            return _lost(lost, await self._run(connection, END_AGAIN, _leases(lost))) if lost else lost

    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        done = await self._let_wait(AGAIN, orders, _orders)
        return _lost([order.lease for order in orders], done)

    async def _let_wait(
        self, statement: LiteralString, items: Sequence[T], values: Callable[[Sequence[T]], dict[str, Any]]
    ) -> list[TupleRow]:
        """Lets tasks wait again. Two with one key: one after the other, the second sees the first."""
        async with self._connections.one() as connection:
            try:
                done = await self._run(connection, statement, values(items))
            except psycopg.errors.UniqueViolation:
                done = [row for item in items for row in await self._let_one_wait(connection, statement, values([item]))]
        self._bell.ring([row[3] for row in done])
        return done

    async def _let_one_wait(self, connection: Connection, statement: LiteralString, values: dict[str, Any]) -> list[TupleRow]:
        for _ in range(TRIES):
            try:
                return await self._run(connection, statement, values)
            except psycopg.errors.UniqueViolation:
                continue  # another node published, or gave back, a task with its key at this moment
        raise StoreAway(f"the store {self._connections.name} is too busy with the key of the task {''.join(values['ids'])}")

    async def bury(self, burials: Sequence[Burial]) -> frozenset[Lease]:
        leases = [burial.lease for burial in burials]
        reasons, attempts = [_text(burial.reason) for burial in burials], [burial.attempts for burial in burials]
        values = {**_leases(leases), "reasons": reasons, "attempts": attempts}
        async with self._connections.one() as connection:
            return _lost(leases, await self._run(connection, BURY, values))

    # -- looking --

    async def find(self, identity: str) -> FoundTask | None:
        async with self._connections.one() as connection:
            rows = await self._run(connection, FIND, [identity])
        return _found(rows[0]) if rows else None

    async def peek(self, identity: str) -> bytes:
        async with self._connections.one() as connection:
            rows = await self._run(connection, READ_BODY, [identity])
        return b"".join(bytes(data) for (data,) in rows)

    async def places(self, most: int) -> list[str]:
        async with self._connections.one() as connection:
            await self._sweep(connection)
            return [place for (place,) in await self._run(connection, PLACES, [most])]

    async def list(self, state: TaskState, limit: int, after: str = "") -> StorePage:
        cursor = json.loads(after) if after else []
        async with self._connections.one() as connection:
            rows = await self._run(connection, list_of(state, is_first=not after), [*cursor, limit + 1])
        page = rows[:limit]
        return StorePage([_found(row) for row in page], json.dumps(page[-1][14:]) if len(rows) > limit else "")

    async def count(self) -> dict[TaskState, Tally]:
        async with self._connections.one() as connection:
            return {state: await self._count(connection, state) for state in TaskState if state != TaskState.ENDED}

    async def _count(self, connection: Connection, state: TaskState) -> Tally:
        ((number,),) = await self._run(connection, count_of(state), [MOST_COUNTED + 1])
        if number <= MOST_COUNTED:
            return Tally(number, True)
        ((estimate,),) = await self._run(connection, ESTIMATE, [f"spoolnode.task_{state.value}"])
        return Tally(max(estimate, number), False)

    async def remove(self, identity: str) -> TaskState | None:
        async with self._connections.one() as connection:
            rows = await self._run(connection, REMOVE, [identity])
        return TaskState(rows[0][0]) if rows else None

    async def revive(self, identities: Sequence[str], to: str | None = None) -> frozenset[str]:
        done = await self._let_wait(REVIVE, identities, lambda ids: {"ids": list(ids), "to": to})
        return frozenset(row[0] for row in done)

    async def watch(self, places: Sequence[str], seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            with self._bell.heard(places) as heard:  # before the look: what comes after it rings
                async with self._connections.one() as connection:
                    await self._sweep(connection)
                    is_ready = bool(await self._run(connection, IS_READY, [list(places)]))
                left = end - loop.time()
                if left <= 0 or (is_ready and not self._took_nothing):
                    return is_ready
                self._took_nothing = False
                await heard(min(left, LOCKED if is_ready else POLL))

    async def check(self) -> Safety:
        async with self._connections.one() as connection:
            return await safety(connection, self._run)

    async def close(self) -> None:
        await self._bell.close()
        await self._connections.close()

    # -- what time does --

    async def _sweep(self, connection: Connection) -> None:
        """Makes ready what has become due and what is held no longer; forgets what ended long ago."""
        now = asyncio.get_running_loop().time()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            for statement in SWEEPS:
                await self._run(connection, statement, {"most": AT_ONCE})
            await self._sweep_keys(connection)
        if now >= self._next_forgetting:
            self._next_forgetting = now + FORGETTING
            await self._run(connection, FORGET, {"most": AT_ONCE, "remembered": REMEMBERED})

    async def _sweep_keys(self, connection: Connection) -> None:
        try:
            for _ in range(AT_ONCE):
                if not await self._run(connection, SWEEP_ONE_WITH_KEY):
                    return
        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable):
            pass  # another task with its key came at this moment, or comes; the next sweep sees it


class _Changed(Exception):
    """The store changed between two statements; the publication has to begin again."""


def _columns(tasks: Iterable[NewTask]) -> list[list[Any]]:
    """The values of `INSERT`."""
    rows = [
        (t.id, t.block, t.to, min(t.rank, LAST_RANK), t.due, t.key, t.attempts, t.hops, body.size) for t, body in tasks
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(9)]


def _are_plain(tasks: Sequence[NewTask]) -> bool:
    """Whether `INSERT_PLAIN` will do for these tasks."""
    return len({task.to for task, _ in tasks}) == 1 and all(
        rank >= LAST_RANK and not (due or key or attempts or hops or body.size)
        for (_, _, _, rank, due, key, attempts, hops, _), body in tasks
    )


def _told_once(tasks: Sequence[NewTask], became: dict[_Message, Publication]) -> list[Publication]:
    """Says of each what it became; of one that comes twice in a group, the second is a repeat."""
    if len(became) == len(tasks):  # none does
        return [became[task.id, task.hops] for task, _ in tasks]
    told: set[tuple[str, int]] = set()
    done = []
    for task, _ in tasks:
        message = task.id, task.hops
        done.append(Publication.REPEATED if message in told and became[message] == Publication.STORED else became[message])
        told.add(message)
    return done


def _task(row: Sequence[Any]) -> StoredTask:
    """The task in a row of `_SHOWN`."""
    identity, block, to, rank, due, key, attempts, hops, size = row
    return StoredTask(identity, bytes(block), to, LAST if rank == LAST_RANK else rank, due, bytes(key), attempts, hops, size)


def _leased(row: Sequence[Any]) -> Leased:
    task = _task(row[2:])
    return Leased(Lease(task.id, task.hops, row[0]), task)


def _found(row: Sequence[Any]) -> FoundTask:
    found = FoundTask(_task(row[5:14]), TaskState(row[0]), row[1], row[2], row[3], by=row[4])
    if found.state != TaskState.ENDED:
        return found
    return found._replace(task=found.task._replace(block=b""), result=found.task.block)


def _leases(leases: Iterable[Lease]) -> dict[str, Any]:
    listed = list(leases)
    return {
        "ids": " ".join(lease.id for lease in listed),
        "hops": " ".join(str(lease.hops) for lease in listed),
        "turns": " ".join(str(lease.turn) for lease in listed),
    }


def _orders(orders: Sequence[Again]) -> dict[str, Any]:
    return {
        **_leases([order.lease for order in orders]),
        "dues": [order.due for order in orders],
        "attempts": [order.attempts for order in orders],
        "dests": [order.to for order in orders],
        "reasons": [None if order.reason is None else _text(order.reason) for order in orders],
    }


def _text(reason: str) -> str:
    """A reason as the server takes it."""
    return reason.replace("\0", "")


def _lost(leases: Iterable[Lease], done: Iterable[Sequence[Any]]) -> frozenset[Lease]:
    """The leases that are not among the rows about which something was done."""
    return frozenset(leases) - {Lease(*row[:3]) for row in done}
