"""Tells the store what became of the tasks that this node held: gathered, and repeated until the store has heard it.

A lease is kept, and extended, until then. So a task that has ended here while the store was away does not run elsewhere, as long
as the store is back before its lease has run out.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import MOST_KEPT, Again, Burial, Lease, StoreAway
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.node.log import Report
from spoolnode.protocol.names import id_of_file

TOLD_AT_ONCE = 1000
"""Tasks of which the store is told in one request."""
RESULTS_AT_ONCE = 4 << 20
"""Bytes of results in one request."""

Verdict = TypeVar("Verdict", Lease, Again, Burial)


class Teller:
    """The `LeaseHolder` of the tasks that are held (see `node.spool.held`)."""

    def __init__(self, contact: Contact, book: LeaseBook, report: Report, why: Callable[[str], str]) -> None:
        """`why`: why the task with that id failed here the last time; empty if that is not known."""
        self._why = why
        self._contact = contact
        self._book = book
        self._report = report
        self._ended: dict[str, Lease] = {}
        self._results: dict[str, bytes] = {}
        """The values that those of them returned that keep it."""
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

    def renew(self, ref: str, lease: Lease, *, has_key: bool) -> bool:
        """A task was taken again of which the store is still to be told. Returns False if there is none of that name.

        One with a key that has ended runs again: while it waited, the store has turned its duplicates away.
        """
        if has_key:
            self._ended.pop(ref, None)
            self._ended_late.pop(ref, None)
        if ref in self._ended or self._has_ended(ref, lease):
            self._ended[ref] = lease
            self._news.set()
        elif ref in self._buried:
            self._buried[ref] = self._buried[ref]._replace(lease=lease)
        elif ref in self._again:
            self._again[ref] = self._again[ref]._replace(lease=lease)
        else:
            self._results.pop(ref, None)  # it runs again
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

    def returned(self, ref: str, result: bytes) -> None:
        """A task has ended well, and keeps what it returned. Too much of that is kept on this node only."""
        if len(result) <= MOST_KEPT:
            self._results[ref] = result
        self.ended([ref])

    def again(self, ref: str, due: float = 0.0, attempts: int | None = None) -> None:
        """A task is to run again."""
        if lease := self._book.get(ref):
            reason = None if attempts is None else _storable(self._why(lease.id)) or None
            self._again[ref] = Again(lease, due, attempts, reason=reason)
        self._news.set()

    def buried(self, ref: str, reason: str, attempts: int | None) -> None:
        """A task is given up after so many attempts."""
        if lease := self._lease(ref, "buried"):
            self._buried[ref] = Burial(lease, _storable(reason), attempts)

    def is_to_tell(self, ref: str) -> bool:
        """Whether the store has not confirmed yet that it knows what became of a task."""
        return ref in self._ended or ref in self._again or ref in self._buried

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
        if ended := self._first_ended():
            results = {lease: self._results[ref] for ref, lease in ended.items() if ref in self._results}
            lost = await self._contact.ask(lambda store: store.end([*ended.values()], results))
            late = {ref: lease for ref, lease in ended.items() if lease in lost}
            self._heard(self._ended, ended, late, "ended")
            self._ended_late.update(late)
            while len(self._ended_late) > TOLD_AT_ONCE:
                self._ended_late.popitem(last=False)
            for ref in self._results.keys() - self._ended.keys() - self._ended_late.keys():
                del self._results[ref]
        if buried := _first(self._buried):
            lost = await self._contact.ask(lambda store: store.bury([*buried.values()]))
            self._heard(self._buried, buried, self._missed(buried, lost), "buried")
        if again := _first(self._again):
            await self._contact.ask(lambda store: store.again([*again.values()]))
            self._heard(self._again, again, {}, "")
        self._is_repeated = False

    def _first_ended(self) -> dict[str, Lease]:
        """As many as are told at once, and no more results than fit into one request."""
        first, room = dict[str, Lease](), RESULTS_AT_ONCE
        for ref, lease in islice(self._ended.items(), TOLD_AT_ONCE):
            room -= len(self._results.get(ref, b""))
            if room < 0 and first:
                break
            first[ref] = lease
        return first

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
