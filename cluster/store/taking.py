"""Takes tasks from the common store as workers have room for them, and keeps their leases as long as they are here.

A node that has not reached the store for the length of a lease starts none of its tasks any more: they may run elsewhere by then.
Its workers look at the clock themselves (`Slots.leases_hold`), because a node that was stopped cannot tell them in time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Again, CommonStore, Lease, StoreAway, StoredTask, StoreUnfit
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.background import spawn
from spoolnode.node.log import Report
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.held import HeldTask
from spoolnode.node.work.workers import Hands
from spoolnode.protocol.names import accepted_in, id_of_file

TAKEN_AT_ONCE = 500
"""Tasks that are taken in one request, at most."""
WATCH_SECONDS = 30.0
"""How long one request waits for tasks."""
WAITS_SECONDS = 2.0
"""A task that a worker has not got in this time goes back: it may run elsewhere sooner..."""
HELD_BACK_SECONDS = 5.0
"""...and not before this time if its function is paused or limited here, or its body cannot be read."""
ANSWER_SECONDS = 1.0
"""How long a node that was stopped past its leases waits for the store to say whether they are lost."""
BODIES_AT_ONCE = 4
"""Tasks whose bodies are read at the same time."""


class Taker:
    """The tasks of the store that one node holds."""

    def __init__(
        self, contact: Contact, book: LeaseBook, teller: Teller, storage: Storage, hands: Hands, places: Sequence[str],
        report: Report, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """
        Args:
            places: the destinations that this node is.
            clock: that of leases, in seconds.
        """
        self._contact = contact
        self._book = book
        self._teller = teller
        self._held = storage.held
        self._throttle = storage.spool.starting.throttle
        self._hands = hands
        self._places = places
        self._report = report
        self._clock = clock
        self._hungry = asyncio.Event()
        self._taken = asyncio.Event()
        self._reading: set[asyncio.Task[None]] = set()
        """The tasks whose bodies are on their way."""
        self._bodies = asyncio.Semaphore(BODIES_AT_ONCE)
        self._is_leaving = False
        self._held.holder = teller
        hands.when_hungry(self._hungry.set)

    def __repr__(self) -> str:
        return f"<Taker: {self.count} tasks, {self._book!r}>"

    @property
    def count(self) -> int:
        """Tasks that are here: they wait, run, or come."""
        return len(self._held.known) + len(self._reading)

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
                if not await self._take(count):
                    await self._contact.ask(lambda store: store.watch(self._places, WATCH_SECONDS))

    def _appetite(self) -> int:
        if self._is_leaving or self._throttle.is_shut or not self._held.is_open:
            return 0
        return min(max(self._hands.appetite() - len(self._reading), 0), TAKEN_AT_ONCE)

    async def _take(self, count: int) -> int:
        """Takes up to so many tasks. Returns how many came."""
        asked = self._clock()
        leased = await self._contact.ask(lambda store: store.take(count, self._places, self._book.seconds))
        if not leased:
            return 0
        found = [(_held(task), lease, task.size) for lease, task in leased]
        new = [(task, lease, size) for task, lease, size in found if self._is_new(task.ref, lease, asked)]
        self._hands.hold_leases(self._book.until)  # before they can start
        self._taken.set()
        without_body = [(task, lease) for task, lease, size in new if not size]
        await self._held.put([task for task, _ in without_body])
        self._lose_late(without_body)
        for task, lease, size in new:
            if size:
                self._reading.add(reading := spawn(self._read(task, lease)))
                reading.add_done_callback(self._reading.discard)
        return len(leased)

    def _is_new(self, ref: str, lease: Lease, asked: float) -> bool:
        """Notes that a task was taken. Returns False for one that is here already: its lease is renewed."""
        before = self._book.get(ref)
        if before is not None and before.hops != lease.hops:
            spawn(self._put_off(lease))  # another one of that id: two files cannot have one name
            return False
        self._book.take(ref, lease, asked)
        return not (ref in self._held.known or self._teller.renew(ref, lease))

    async def _put_off(self, lease: Lease) -> None:
        due = time.time() + self._book.seconds
        with suppress(StoreAway):  # then its lease runs out
            await self._contact.ask(lambda store: store.again([Again(lease, due)]))

    async def _read(self, task: HeldTask, lease: Lease) -> None:
        try:
            async with self._bodies:
                await self._held.put_with_body(task, self._body(lease))
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

    async def _body(self, lease: Lease) -> AsyncIterator[bytes]:
        # Not by `ask`: that a lease is lost does not mean that the store is away.
        store = await self._contact.ask(_itself)
        async for chunk in store.body(lease):
            yield chunk

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
        """Gives back what does not start here."""
        self._hungry.set()
        if self._throttle.is_shut:
            self._held.give_back()
            return
        now = time.time()
        for ref in self._held.waiting:
            if not 0 <= now - self._held.known[ref] < WAITS_SECONDS:
                is_held_back = not self._throttle.allowance(self._held.functions.get(ref, 0))
                self._held.give_back([ref], now + HELD_BACK_SECONDS if is_held_back else 0.0)

    # -- the end --

    def leave(self) -> None:
        """Takes no more; what has not started goes back."""
        self._is_leaving = True
        self._held.close()

    async def end(self) -> None:
        """Returns when nothing is here any more, and the store knows what became of all."""
        self.leave()
        for reading in self._reading:
            reading.cancel()
        while self.count or len(self._teller):
            self._teller.heard.clear()
            await self._teller.heard.wait()


async def _itself(store: CommonStore) -> CommonStore:
    return store


def _held(task: StoredTask) -> HeldTask:
    ready_at = task.due or accepted_in(task.id) or time.time()
    return HeldTask(task.id, task.block, task.rank, task.attempts, ready_at)
