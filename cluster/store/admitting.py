"""Asks the common store whether tasks of limited functions may run, so that a limit holds over all nodes."""

import asyncio
from contextlib import suppress

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Lease, StoreAway
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.node.outbox.storage import Storage

POLL = 0.5
"""Seconds after which the store is asked again: tasks on other nodes may have ended."""
TURN = 10.0
"""A node that has had tasks of a function ask for so many seconds lets the others ask first when one of them has ended here..."""
REST = 2 * POLL
"""...for so long: each of them asks in this time."""


class Admitter:
    """Asks for the tasks of one node."""

    def __init__(self, contact: Contact, book: LeaseBook, storage: Storage) -> None:
        self._contact = contact
        self._book = book
        self._held = storage.held
        self._starting = storage.spool.starting
        self._news = asyncio.Event()
        self._let: dict[str, dict[str, Lease]] = {}
        """The tasks of each function that the store has let run, until it is told what became of them."""
        self._turns: dict[str, float] = {}
        """Since when tasks of each function get places here, by the clock of the loop; a time to come if others ask first."""
        self._held.admissions.asked = self._news.set

    def __repr__(self) -> str:
        return f"<Admitter: {self._held.admissions!r}>"

    async def run(self) -> None:
        """Asks, until it is cancelled."""
        while True:
            await self._contact.there()
            self._news.clear()
            with suppress(StoreAway):
                await self._ask()
            if not (self._held.admissions or self._starting.held_back()):
                self._turns.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL if self._held.admissions else None):
                    await self._news.wait()

    async def _ask(self) -> None:
        throttle = self._starting.throttle
        for function, refs in self._held.admissions.next(throttle.allowance, self._held.in_flight).items():
            leases = {ref: lease for ref in refs if (lease := self._book.get(ref))}
            if leases and not self._rests(name := self._starting.functions.name(function)):
                await self._ask_for(name, throttle.at_once(function), leases)

    def _rests(self, function: str) -> bool:
        """Whether the others ask first. This begins when a place has become free here."""
        now = asyncio.get_running_loop().time()
        since = self._turns.setdefault(function, now)
        if now - since >= TURN and not all(map(self._held.admissions.has_admitted, self._let.get(function, ()))):
            since = self._turns[function] = now + REST
        return now < since

    async def _ask_for(self, function: str, most: int, leases: dict[str, Lease]) -> None:
        told = {ref: lease for ref, lease in self._let.get(function, {}).items() if self._book.get(ref) == lease}
        over = [lease for ref, lease in told.items() if not self._held.admissions.has_admitted(ref)]
        admitted = await self._contact.ask(lambda store: store.admit(function, most, [*leases.values()], over))
        let = {ref: lease for ref, lease in leases.items() if lease in admitted and self._book.get(ref) == lease}
        self._let[function] = told | let
        self._held.admit([*let])
