"""A common store in NATS JetStream (see `interface`; how a task lies in the stream is in `nats_entries`).

Traps that the code avoids, each with a test:

- A consumer takes an acknowledgement from each taker that ever had the message, so a lost lease goes unnoticed. Consumers are not
  used: the task itself says who holds it, and until when.
- JetStream knows a message id again for two minutes. So a repeat is recognised by the mark of its task, for `REMEMBERED` seconds
  after its end.
- A stream with a limit drops its oldest messages silently. This one has none (see `nats_stream`).
- A replica that lags does not see what was acknowledged. So the leader is asked (see `nats_connection`).
- A retry must be there before the old task is gone. Both are one atomic batch.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Self

from spoolnode.cluster.store.interface import (
    NO_RESULTS,
    TOGETHER,
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
    StorePage,
    StoreUnfit,
    Tally,
    TaskState,
)
from spoolnode.cluster.store.nats_address import NatsAddress
from spoolnode.cluster.store.nats_bodies import Bodies, BodyUpload
from spoolnode.cluster.store.nats_changes import TRIES, Change, StreamTasks
from spoolnode.cluster.store.nats_clock import Clock
from spoolnode.cluster.store.nats_connection import ServerConnection
from spoolnode.cluster.store.nats_entries import PREFIX, Placed, TaskEntry, mark_subject, ready_at, ready_order, token
from spoolnode.cluster.store.nats_limits import NatsLimits
from spoolnode.cluster.store.nats_lists import LISTS, Lists
from spoolnode.cluster.store.nats_messages import Messages
from spoolnode.cluster.store.nats_roll import NatsRoll, prepare_roll
from spoolnode.cluster.store.nats_safety import ask_servers
from spoolnode.cluster.store.nats_stream import check_stream, prepare_stream
from spoolnode.cluster.store.nats_times import Times

POLL = 0.5
"""Seconds after which a watcher looks for itself."""
NAMED = 100
"""Ids whose tasks are changed in one batch: each may be that of several tasks, with different hops."""
_Message = tuple[str, int]
_Decide = Callable[[Lease, TaskEntry], TaskEntry | None]


class NatsStore(CommonStore):
    """A common store in a stream of NATS JetStream."""

    publications = 2
    """Three servers need as long for a batch as a node to make the next one: a quarter more with 8 pipelined connections
    (measured, medians of three pairs of runs)."""

    def __init__(self, connection: ServerConnection, clock: Clock) -> None:
        """Use `open`."""
        self._connection = connection
        self._clock = clock
        self._messages = Messages(connection, clock)
        self._tasks = StreamTasks(self._messages)
        self._bodies = Bodies(self._messages, self._tasks)
        self._lists = Lists(self._messages, self._tasks)
        self._limits = NatsLimits(self._messages, self._tasks)
        self._times = Times(self._messages, self._tasks, self._bodies)
        self.roll = NatsRoll(connection, clock)

    @classmethod
    async def open(cls, url: str, *, migrates: bool = False, clock: Clock | None = None) -> Self:
        """The store at this address, whose stream is of this version.

        `migrates`: makes it so. Raises `StoreAway`, `StoreUnfit`.
        """
        store = cls(ServerConnection(NatsAddress.read(url)), clock or Clock())
        await store._connection.open()
        try:
            if migrates:
                await prepare_stream(store._connection)
                await prepare_roll(store._connection)
            await check_stream(store._connection)
            await store._messages.counts(LISTS[TaskState.DEAD])  # and so the time of the server
        except BaseException:
            await store.close()
            raise
        return store

    def __repr__(self) -> str:
        return f"<NatsStore {self._connection.address.name}>"

    # -- into the store --

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        became: dict[_Message, Publication] = {}
        uploads = [BodyUpload(self._messages, new) for new in tasks]
        try:
            for upload in uploads:
                await upload.run()
            for start in range(0, len(tasks), TOGETHER):
                group = list(zip(tasks, uploads, strict=True))[start : start + TOGETHER]
                await self._publish(group, became)
        finally:
            with suppress(StoreAway, StoreUnfit):  # then a sweep removes it
                for upload in uploads:
                    await self._bodies.abandon(upload)
        done = _told_once(tasks, became)
        await self._ring(new.task.to for new, was in zip(tasks, done, strict=True) if was == Publication.STORED)
        return done

    async def _publish(self, group: Sequence[tuple[NewTask, BodyUpload]], became: dict[_Message, Publication]) -> None:
        told: dict[_Message, Publication] = {}

        async def look(is_fresh: bool) -> list[Change]:
            told.clear()
            return await self._new(group, told, became, is_fresh=is_fresh)

        changes = await self._tasks.change(look)
        stored = {change.entry.upload for change in changes}
        for _, upload in group:
            if upload.name in stored:
                upload.number = 0
        became |= told

    async def _new(
        self, group: Sequence[tuple[NewTask, BodyUpload]], told: dict[_Message, Publication],
        before: dict[_Message, Publication], *, is_fresh: bool,
    ) -> list[Change]:  # fmt: skip
        """The changes of a group; `told` is filled with what its tasks become by that.

        `is_fresh`: asks which tasks and keys are there. Else none is, which the batch then makes sure.
        """
        now = self._clock.now()
        fresh = {(new.task.id, new.task.hops): (new, upload) for new, upload in reversed(group)}
        absent = [(None, 0)] * len(fresh)
        marks = await asyncio.gather(*(self._tasks.of_mark(mark_subject(*m)) for m in reversed(fresh))) if is_fresh else absent
        keys: set[bytes] = set()
        changes = []
        for number, (message, (there, mark)) in enumerate(zip(reversed(fresh), marks, strict=True)):
            (task, body), upload = fresh[message]
            if there or message in before:
                told[message] = Publication.REPEATED
                continue
            state = TaskState.LATER if task.due > now else TaskState.READY
            entry = TaskEntry(task._replace(size=body.size), state, now + number / 1e6, upload=upload.name)
            free = None if task.key in keys else await self._tasks.free_key(entry) if task.key and is_fresh else 0
            if free is None:
                told[message] = Publication.DUPLICATE
                continue
            if task.key:
                keys.add(task.key)
            told[message] = Publication.STORED
            changes.append(Change(entry, mark, None, free if task.key else None, upload.number))
        return changes

    # -- out of it --

    async def take(self, most: int, places: Sequence[str], lease: float, by: str = "") -> list[Leased]:
        await self._times.sweep()
        taken: list[Leased] = []
        while len(taken) < most:
            got = await self._take(min(most - len(taken), TOGETHER), places, lease, by)
            taken += got
            if not got:
                break
        return taken

    async def _take(self, most: int, places: Sequence[str], lease: float, by: str) -> list[Leased]:
        first: Sequence[Placed] = ()
        for _ in range(TRIES):
            first = first or await self._lists.first(most, places)
            until = self._clock.now() + lease
            changes = [_taken(placed, until, by) for placed in first]
            if await self._tasks.write(changes):
                return [_leased(change.entry) for change in changes]
            first = await self._tasks.in_force(first)  # another taker was faster, or died before it had removed them
        return []

    async def claim(self, identities: Sequence[str], lease: float) -> list[Leased]:
        def claimed(placed: Placed) -> Change | None:
            return _taken(placed, self._clock.now() + lease) if placed.entry.is_waiting else None

        return [_leased(change.entry) for change in await self._change_all(identities, claimed)]

    async def _change_all(self, identities: Sequence[str], decide: Callable[[Placed], Change | None]) -> list[Change]:
        """Changes those of the tasks with these ids for which a change is decided."""
        done: list[Change] = []
        for start in range(0, len(identities), NAMED):
            group = dict.fromkeys(identities[start : start + NAMED])

            async def look(_: bool, group: Iterable[str] = group) -> list[Change]:
                found = await asyncio.gather(*(self._tasks.with_id(identity) for identity in group))
                changes = [decide(placed) for placeds in found for placed in placeds]
                return await self._tasks.waiting([change for change in changes if change])

            done += await self._tasks.change(look)
        return done

    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        return await self._limits.admit(function, most, leases, over)

    def body(self, lease: Lease) -> AsyncIterator[bytes]:
        return self._bodies.read(lease)

    # -- what is held --

    async def extend(self, leases: Sequence[Lease], seconds: float) -> frozenset[Lease]:
        def extended(_: Lease, entry: TaskEntry) -> TaskEntry:
            return replace(entry, until=self._clock.now() + seconds)

        return await self._act(leases, extended)

    async def end(self, leases: Sequence[Lease], results: Mapping[Lease, bytes] = NO_RESULTS) -> frozenset[Lease]:
        def ended(lease: Lease, entry: TaskEntry) -> TaskEntry:
            return entry.ended(self._clock.now(), HowEnded.DONE, results.get(lease, b""))

        return await self._act(leases, ended, is_ended_good=True)

    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        told = {order.lease: order for order in orders}

        def waits(lease: Lease, entry: TaskEntry) -> TaskEntry:
            order = told[lease]
            attempts = entry.task.attempts if order.attempts is None else order.attempts
            to = entry.task.to if order.to is None else order.to
            waits = entry.waits(self._clock.now(), due=order.due, attempts=attempts, to=to)
            return waits if order.reason is None else replace(waits, reason=order.reason)

        return await self._act(list(told), waits)

    async def bury(self, burials: Sequence[Burial]) -> frozenset[Lease]:
        told = {burial.lease: burial for burial in burials}

        def buried(lease: Lease, entry: TaskEntry) -> TaskEntry:
            burial, task = told[lease], entry.task
            if burial.attempts is not None:
                task = task._replace(attempts=burial.attempts)
            return replace(entry, task=task, state=TaskState.DEAD, until=self._clock.now(), reason=burial.reason)

        return await self._act(list(told), buried)

    async def _act(self, leases: Sequence[Lease], decide: _Decide, *, is_ended_good: bool = False) -> frozenset[Lease]:
        """Changes tasks that are held; returns the leases that are lost."""
        lost: set[Lease] = set()
        for start in range(0, len(leases), TOGETHER):
            lost |= await self._act_on(list(dict.fromkeys(leases[start : start + TOGETHER])), decide, is_ended_good=is_ended_good)
        return frozenset(lost)

    async def _act_on(self, leases: Sequence[Lease], decide: _Decide, *, is_ended_good: bool) -> set[Lease]:
        lost: set[Lease] = set()

        async def look(is_fresh: bool) -> list[Change]:
            found = await self._tasks.held(leases, is_fresh=is_fresh)
            held = {lease: placed for lease, placed in found.items() if placed.entry.state == TaskState.HELD}
            ended = {lease for lease, placed in found.items() if is_ended_good and placed.entry.state == TaskState.ENDED}
            lost.clear()
            lost.update(lease for lease in leases if lease not in held and lease not in ended)
            return await self._tasks.waiting([_changed(placed, decide(lease, placed.entry)) for lease, placed in held.items()])

        changes = await self._tasks.change(look)
        await self._ring(change.entry.task.to for change in changes if change.entry.state == TaskState.READY)
        return lost

    # -- looking --

    async def find(self, identity: str) -> FoundTask | None:
        await self._messages.catch_up()  # a file goes for what this says (see `pull`)
        found = await self._tasks.with_id(identity)
        return found[0].entry.found if found else None

    async def peek(self, identity: str) -> bytes:
        found = await self._tasks.with_id(identity)
        return await self._bodies.peek(found[0].entry) if found else b""

    async def places(self, most: int) -> list[str]:
        await self._times.sweep()
        counted = await self._messages.counts(LISTS[TaskState.READY])
        return sorted({ready_order(subject)[0] for subject in counted})[:most]

    async def list(self, state: TaskState, limit: int, after: str = "") -> StorePage:
        return await self._lists.page(state, limit, after)

    async def count(self) -> dict[TaskState, Tally]:
        states = [state for state in TaskState if state != TaskState.ENDED]
        counted = await asyncio.gather(*(self._messages.counts(LISTS[state]) for state in states))
        return {state: Tally(sum(counts.values()), True) for state, counts in zip(states, counted, strict=True)}

    async def remove(self, identity: str) -> TaskState | None:
        was: TaskState | None = None

        async def look(_: bool) -> list[Change]:
            nonlocal was
            found = await self._tasks.with_id(identity)
            was = found[0].entry.state if found and found[0].entry.state != TaskState.ENDED else None
            if was in (None, TaskState.HELD):
                return []
            return [_changed(found[0], found[0].entry.ended(self._clock.now(), HowEnded.REMOVED))]

        await self._tasks.change(look)
        return was

    async def revive(self, identities: Sequence[str], to: str | None = None) -> frozenset[str]:
        def revived(placed: Placed) -> Change | None:
            entry = placed.entry
            if entry.state != TaskState.DEAD:
                return None
            waits = entry.waits(self._clock.now(), due=0.0, attempts=0, to=entry.task.to if to is None else to)
            return _changed(placed, replace(waits, reason=""))

        changes = await self._change_all(identities, revived)
        await self._ring(change.entry.task.to for change in changes)
        return frozenset(change.entry.task.id for change in changes)

    async def watch(self, places: Sequence[str], seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with self._connection.heard([_bell(place) for place in places]) as heard:
            while True:
                heard.clear()  # before the look: what comes after it rings
                await self._times.sweep()
                counted = await asyncio.gather(*(self._messages.counts(f"{ready_at(place)}.>") for place in places))
                if any(counted):
                    return True
                left = end - loop.time()
                if left <= 0:
                    return False
                try:
                    async with asyncio.timeout(min(left, POLL)):
                        await heard.wait()
                except TimeoutError:
                    pass

    async def check(self) -> Safety:
        return await ask_servers(self._connection)

    async def close(self) -> None:
        await self._connection.close()

    async def _ring(self, places: Iterable[str]) -> None:
        await self._connection.tell([_bell(place) for place in dict.fromkeys(places)])


def _bell(place: str) -> str:
    """The subject on which is told that something is ready for a destination."""
    return f"{PREFIX}.bell.{token(place)}"


def _changed(placed: Placed, entry: TaskEntry | None) -> Change:
    return Change(entry or placed.entry, placed.mark, placed.entry)


def _taken(placed: Placed, until: float, by: str = "") -> Change:
    entry = placed.entry
    return _changed(placed, replace(entry, state=TaskState.HELD, turn=entry.turn + 1, until=until, by=by or entry.by))


def _leased(entry: TaskEntry) -> Leased:
    return Leased(Lease(entry.task.id, entry.task.hops, entry.turn), entry.task)


def _told_once(tasks: Sequence[NewTask], became: dict[_Message, Publication]) -> list[Publication]:
    """Says of each what it became; of one that comes twice in a group, the second is a repeat."""
    told: set[_Message] = set()
    done = []
    for task, _ in tasks:
        message = task.id, task.hops
        done.append(Publication.REPEATED if message in told and became[message] == Publication.STORED else became[message])
        told.add(message)
    return done
