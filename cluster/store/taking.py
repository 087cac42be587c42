"""Takes tasks from the common store as workers have room for them, and keeps their leases as long as they are here.

A node that has not reached the store for the length of a lease starts none of its tasks any more: they may run elsewhere by then.
Its workers look at the clock themselves (`Slots.leases_hold`), because a node that was stopped cannot tell them in time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import cache

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Again, CommonStore, Lease, StoreAway, StoredTask, StoreUnfit
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.takers import Itself
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.background import spawn
from spoolnode.node.log import Report
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.functions import UNKNOWN
from spoolnode.node.spool.held_place import HeldTask
from spoolnode.node.work.workers import Hands
from spoolnode.protocol.names import accepted_in, id_of_file, is_address

TAKEN_AT_ONCE = 500
"""Tasks that are taken in one request, at most."""
WATCH_SECONDS = 30.0
"""How long one request waits for tasks."""
WAITS_SECONDS = 2.0
"""A task that has not started in this time goes back: it may run elsewhere sooner..."""
HELD_BACK_SECONDS = 5.0
"""...and not before this time if its function is paused, or its body cannot be read. Those of a limited function come back one
after the other in this time, so that places are not empty until all of them are there again..."""
BACK_AT_LEAST = 50
"""...and so few of them come back as if they were so many: earlier."""
ANSWER_SECONDS = 1.0
"""How long a node that was stopped past its leases waits for the store to say whether they are lost."""
BODIES_AT_ONCE = 4
"""Tasks whose bodies are read at the same time."""


class Taker:
    """The tasks of the store that one node holds."""

    def __init__(
        self, contact: Contact, book: LeaseBook, teller: Teller, storage: Storage, hands: Hands, node: Itself,
        report: Report, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """
        Args:
            node: this one.
            clock: that of leases, in seconds.
        """
        self._contact = contact
        self._book = book
        self._teller = teller
        self._held = storage.held
        self._starting = storage.spool.starting
        self._hands = hands
        self._node = node
        self._report = report
        self._clock = clock
        self._hungry = asyncio.Event()
        self._taken = asyncio.Event()
        self._reading: dict[str, asyncio.Task[None]] = {}
        """The tasks whose bodies are on their way."""
        self._bodies = asyncio.Semaphore(BODIES_AT_ONCE)
        self._is_leaving = False
        self.seen: Callable[[str], None] = lambda _identity: None
        """Hears of each task that is taken, before it can start."""
        self._held.holder = teller
        hands.when_hungry(self._hungry.set)

    def __repr__(self) -> str:
        return f"<Taker: {self.count} tasks, {self._book!r}>"

    @property
    def addresses(self) -> list[str]:
        """Those whose tasks are taken: the addresses of this machine when the node started."""
        return [place for place in self._node.places if is_address(place)]

    @property
    def count(self) -> int:
        """Tasks that are here: they wait, run, or come."""
        return len(self._held.known) + len(self._reading) + len(self._held.leaving)

    # -- taking --

    async def run(self) -> None:
        """Takes tasks, until it is cancelled."""
        while True:
            await self._contact.there()
            if not (count := self._appetite()):
                self._hungry.clear()
                await self._hungry.wait()
                continue
            with suppress(StoreAway):
                if not await self._take_once(count):
                    await self._contact.ask(lambda store: store.watch(self._node.places, WATCH_SECONDS))

    async def _take_once(self, count: int) -> int:
        self._held.expected = count
        try:
            return await self._take(count)
        finally:
            self._held.expected = 0
            self._teller.heard.set()  # for `end`

    def _appetite(self) -> int:
        if self._is_leaving or self._starting.throttle.is_shut or not self._held.is_open:
            return 0
        wanted = self._hands.appetite() - len(self._reading)
        return min(wanted + self._held_back, TAKEN_AT_ONCE) if wanted > 0 else 0

    @property
    def _held_back(self) -> int:
        """As many again are taken: so a few takes pass a long backlog of such tasks. No bodies are read for that."""
        return 0 if self._held.has_bodies else len(self._held.admissions) + sum(self._starting.held_back().values())

    async def _take(self, count: int) -> int:
        """Takes up to so many tasks. Returns how many came."""
        asked = self._clock()
        leased = await self._contact.ask(lambda store: store.take(count, self._node.places, self._book.seconds, self._node.by))
        if not leased:
            return 0
        new = [
            (held, lease, task.size)
            for lease, task in leased
            if self.hold((held := _held(task)).ref, lease, asked, has_key=bool(task.key))
        ]
        self._hands.hold_leases(self._book.until)  # before they can start
        without_body = [(task, lease) for task, lease, size in new if not size]
        if without_body:
            await self._held.put([task for task, _ in without_body])
            self._lose_late(without_body)
        for task, lease, size in new:
            if size:
                self._begin_reading(task, lease, size)
        return len(leased)

    def hold(self, ref: str, lease: Lease, asked: float, *, has_key: bool) -> bool:
        """Notes that a task was taken. Returns False for one that is here already: its lease is renewed."""
        before, is_leaving = self._book.get(ref), ref in self._held.leaving
        is_another = before is not None and before.hops != lease.hops
        if ref in self._reading or is_another or (is_leaving and has_key):  # with a key, it may have to run again: see `renew`
            spawn(self._put_off(lease))  # two files cannot have one name, and there is one, or there will be
            return False
        self._book.take(ref, lease, asked)
        self._taken.set()
        self.seen(lease.id)
        if self._held.admissions.revoke(ref):
            self._hands.call_back([ref])
        return not (ref in self._held.known or is_leaving or self._teller.renew(ref, lease, has_key=has_key))

    async def _put_off(self, lease: Lease) -> None:
        due = time.time() + self._book.seconds
        with suppress(StoreAway):  # then its lease runs out
            await self._contact.ask(lambda store: store.again([Again(lease, due)]))

    def _begin_reading(self, task: HeldTask, lease: Lease, size: int) -> None:
        self._reading[task.ref] = reading = spawn(self._read(task, lease, size))
        reading.add_done_callback(lambda _: self._reading.pop(task.ref, None))

    async def _read(self, task: HeldTask, lease: Lease, size: int) -> None:
        try:
            async with self._bodies:
                await self._held.put_with_body(task, self.body(lease, size))
        except StoreAway:
            self._teller.again(task.ref)
        except StoreUnfit as error:
            self._report("move_failed", move="take from the store", reason=str(error))
            self._teller.again(task.ref, time.time() + HELD_BACK_SECONDS)  # it may be so with this body alone, and for long
        except BaseException:
            self._teller.again(task.ref)
            raise
        else:
            self._lose_late([(task, lease)])

    async def body(self, lease: Lease, size: int) -> AsyncIterator[bytes]:
        """The body of a task that is held, in pieces. Raises `StoreAway`; `StoreUnfit` if it has another size."""
        # Not by `ask`: that a lease is lost does not mean that the store is away.
        store = await self._contact.ask(_itself)
        left = size
        async for chunk in store.body(lease):
            left -= len(chunk)
            yield chunk
        if left:
            raise StoreUnfit(f"the body of {lease.id} has {size - left} bytes in the store, and should have {size}")

    def _lose_late(self, came: Sequence[tuple[HeldTask, Lease]]) -> None:
        """Tasks are here now. Those whose leases were lost while they came do not stay."""
        if late := [task.ref for task, lease in came if self._book.get(task.ref) != lease]:
            self._lose(late)

    # -- what is here --

    async def keep(self) -> None:
        """Extends the leases, until it is cancelled."""
        while True:
            if not len(self._book):
                self._open_again()
                self._taken.clear()
                await self._taken.wait()
                continue
            if (pause := self._book.extended_at - self._clock()) > 0:
                await asyncio.sleep(pause)
                continue
            await self._extend()

    async def _extend(self) -> None:
        asked, since = self._book.all(), self._clock()
        left = self._book.until - since
        asking = spawn(self._contact.ask(lambda store: store.extend([*asked.values()], self._book.seconds)))
        await asyncio.wait([asking], timeout=max(left, ANSWER_SECONDS))
        if not asking.done():
            self._lapse()  # the answer may still come, and say that nothing is lost
        try:
            lost = await asking
        except StoreAway:
            await self._wait_for_contact()
            return
        self._lose(self._book.extended(asked, lost, since))
        if len(self._book):
            self._hands.hold_leases(self._book.until)
        self._open_again()

    def _open_again(self) -> None:
        """The store is there, and all that is here is surely here."""
        if not self._held.is_open and not self._is_leaving:
            self._held.is_open = True
            self._hungry.set()

    async def _wait_for_contact(self) -> None:
        """Returns when the store is there again. When the leases have run out by then, no task starts any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._book.until - self._clock(), 0.0)):
                await self._contact.there()
                return
        self._lapse()
        await self._contact.there()

    def _lapse(self) -> None:
        if not self._held.is_open:
            return
        waiting, running = len(self._held.waiting), len(self._held.in_flight)
        self._held.close()
        self._hands.call_back(self._held.in_flight)
        self._report(
            "leases_lapsed", waiting=waiting, running=running,
            reason=f"the store was away for {self._book.seconds:g} s (--store-lease): its tasks do not start here until it is "
            "back, and those that run may run elsewhere too",
        )  # fmt: skip

    def _lose(self, refs: Sequence[str]) -> None:
        running = self._held.lose(refs)
        self._hands.call_back(running)
        for ref in running:
            reason = "the store has given it away, so it may run elsewhere too"
            self._report("lease_lost", id=id_of_file(ref.rpartition("/")[2]), outcome="running", reason=reason)

    def tick(self) -> None:
        """Gives back what does not start here, but not those that get the next places of limited functions."""
        self._hungry.set()
        if self._starting.throttle.is_shut:
            self._held.give_back()
            return
        next_ones, has_all_places = self._held.first(cache(self._places)), cache(self._has_all_places)
        now, has_room = time.time(), self._hands.appetite() > 0
        # A worker gets what it can run in a moment, so what has not started for so long is behind a task that takes its time.
        self._hands.call_back([ref for ref in self._held.in_flight if now - self._held.accepted_at(ref) >= WAITS_SECONDS])
        held_back: dict[int, list[str]] = {}
        for ref in self._held.waiting:
            function = self._held.functions.get(ref, UNKNOWN)
            if 0 <= now - self._held.known[ref] < WAITS_SECONDS or (ref in next_ones and (has_room or has_all_places(function))):
                continue
            if ref not in next_ones and self._is_held_back(ref):
                held_back.setdefault(function, []).append(ref)
            else:
                self._held.give_back([ref])  # another node may have room
        for function, refs in held_back.items():
            self._hold_back(function, refs, now)

    def _hold_back(self, function: int, refs: list[str], now: float) -> None:
        is_paused = not self._starting.throttle.may_move(function)
        for number, ref in enumerate(refs, 1):
            share = 1.0 if is_paused else number / max(len(refs), BACK_AT_LEAST)
            self._held.give_back([ref], now + share * HELD_BACK_SECONDS)

    def _places(self, function: int) -> int:
        """How many places a function has, if nothing but its limit keeps its tasks; else 0."""
        throttle = self._starting.throttle
        waits = throttle.may_move(function) and (throttle.allowance(function) or self._has_all_places(function))
        return throttle.at_once(function) if waits else 0

    def _has_all_places(self, function: int) -> bool:
        return self._held.admissions.has_all_places(function, self._held.in_flight)

    def _is_held_back(self, ref: str) -> bool:
        return ref in self._held.admissions or not self._starting.throttle.allowance(self._held.functions.get(ref, 0))

    # -- the end --

    def leave(self) -> None:
        """Takes no more; what has not started goes back."""
        self._is_leaving = True
        self._held.close()

    async def end(self) -> None:
        """Returns when nothing is here any more, and the store knows what became of all."""
        self.leave()
        for reading in self._reading.values():
            reading.cancel()
        while self._held.expected or self.count or len(self._teller):
            self._teller.heard.clear()
            await self._teller.heard.wait()


async def _itself(store: CommonStore) -> CommonStore:
    return store


def _held(task: StoredTask) -> HeldTask:
    ready_at = task.due or accepted_in(task.id) or time.time()
    return HeldTask(task.id, task.block, task.rank, task.attempts, ready_at)
