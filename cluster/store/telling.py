"""Tells the store what became of the tasks that this node held: gathered, and repeated until the store has heard it.

A lease is kept, and extended, until then. So a task that has ended here while the store was away does not run elsewhere, as long
as the store is back before its lease has run out.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Again, Burial, Lease, StoreAway
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.node.log import Report
from spoolnode.protocol.names import id_of_file

TOLD_AT_ONCE = 1000
"""Tasks of which the store is told in one request."""

Verdict = TypeVar("Verdict", Lease, Again, Burial)


class Teller:
    """The `LeaseHolder` of the tasks that are held (see `node.spool.held`)."""

    def __init__(self, contact: Contact, book: LeaseBook, report: Report) -> None:
        self._contact = contact
        self._book = book
        self._report = report
        self._ended: dict[str, Lease] = {}
        self._again: dict[str, Again] = {}
        self._buried: dict[str, Burial] = {}
        self._ended_late: OrderedDict[str, Lease] = OrderedDict()
        """The last tasks whose ends the store did not take, because their leases had run out, with these."""
        self._news = asyncio.Event()
        self.heard = asyncio.Event()
        """Set when the store has heard something, or need not."""
        self._is_repeated = False
        """Whether the last request was not answered: the store may have heard it."""

    def __repr__(self) -> str:
        return f"<Teller: {len(self)} to tell>"

    def __len__(self) -> int:
        return len(self._ended) + len(self._again) + len(self._buried)

    def renew(self, ref: str, lease: Lease) -> bool:
        """A task was taken again of which the store is still to be told. Returns False if there is none of that name."""
        if ref in self._ended or self._has_ended(ref, lease):
            self._ended[ref] = lease
            self._news.set()
        elif ref in self._buried:
            self._buried[ref] = self._buried[ref]._replace(lease=lease)
        elif ref in self._again:
            self._again[ref] = self._again[ref]._replace(lease=lease)
        else:
            return False
        return True

    def _has_ended(self, ref: str, lease: Lease) -> bool:
        """Whether a task that was taken again has ended here, and was given to no other node since."""
        late = self._ended_late.pop(ref, None)
        return late is not None and late._replace(turn=late.turn + 1) == lease

    # -- what the node says --

    def ended(self, refs: Sequence[str]) -> None:
        """Tasks have ended well."""
        for ref in refs:
            if lease := self._lease(ref, "ended"):
                self._ended[ref] = lease

    def again(self, ref: str, due: float = 0.0, attempts: int | None = None) -> None:
        """A task is to run again."""
        if lease := self._book.get(ref):
            self._again[ref] = Again(lease, due, attempts)
        self._news.set()

    def buried(self, ref: str, reason: str) -> None:
        """A task is given up."""
        if lease := self._lease(ref, "buried"):
            self._buried[ref] = Burial(lease, _storable(reason))

    def _lease(self, ref: str, what: str) -> Lease | None:
        lease = self._book.get(ref)
        if lease is None:
            self._say_lost(ref, what)
        self._news.set()
        return lease

    # -- what the store is told --

    async def run(self) -> None:
        """Tells the store, until it is cancelled."""
        while True:
            while len(self):  # first, so that what a mistake has left is told when this starts again
                await self._contact.there()
                with suppress(StoreAway):
                    await self._tell_once()
            self.heard.set()
            await self._news.wait()
            self._news.clear()

    async def _tell_once(self) -> None:
        try:
            await self.tell()
        except BaseException:
            self._is_repeated = True
            raise

    async def tell(self) -> None:
        """Tells the store some of what there is. Raises `StoreAway`; what it has not heard is kept."""
        if ended := _first(self._ended):
            lost = await self._contact.ask(lambda store: store.end([*ended.values()]))
            late = {ref: lease for ref, lease in ended.items() if lease in lost}
            self._heard(self._ended, ended, late, "ended")
            self._ended_late.update(late)
            while len(self._ended_late) > TOLD_AT_ONCE:
                self._ended_late.popitem(last=False)
        if buried := _first(self._buried):
            lost = await self._contact.ask(lambda store: store.bury([*buried.values()]))
            self._heard(self._buried, buried, self._missed(buried, lost), "buried")
        if again := _first(self._again):
            await self._contact.ask(lambda store: store.again([*again.values()]))
            self._heard(self._again, again, {}, "")
        self._is_repeated = False

    def _missed(self, told: Mapping[str, Burial], lost: Collection[Lease]) -> dict[str, Lease]:
        """Those of which the store wanted to hear nothing. In a repeat that may be because it had heard it already."""
        return {} if self._is_repeated else {ref: item.lease for ref, item in told.items() if item.lease in lost}

    def _heard(self, verdicts: dict[str, Verdict], told: Mapping[str, Verdict], lost: Iterable[str], what: str) -> None:
        """The store has heard what became of tasks."""
        for ref, verdict in told.items():
            if verdicts.get(ref) == verdict:  # it was not renewed meanwhile
                del verdicts[ref]
            self._book.release(ref, verdict if isinstance(verdict, Lease) else verdict.lease)
        for ref in lost:
            self._say_lost(ref, what)

    def _say_lost(self, ref: str, what: str) -> None:
        reason = "its lease had run out, so it may have run elsewhere too"
        self._report("lease_lost", id=id_of_file(ref.rpartition("/")[2]), outcome=what, reason=reason)


def _storable(reason: str) -> str:
    """A reason as every store takes it: the text of an error may hold lone surrogates, and the zero that ends a C string."""
    return reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _first(verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    return dict(islice(verdicts.items(), TOLD_AT_ONCE))
