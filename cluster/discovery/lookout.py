"""Makes candidates of the names heard by mDNS.

A name alone says little: its records come in other packets, perhaps a moment later, perhaps never, perhaps forged by the
hundred. So names are collected for a moment, then looked up in the cache, which usually has everything by then. Only for the
rest it asks, a few at a time. Everything that strangers can make grow here has a limit.
"""

import asyncio
from typing import NamedTuple

from zeroconf import DNSQuestionType, Error, Zeroconf
from zeroconf.asyncio import AsyncServiceInfo

from spoolnode.cluster.candidate import Candidate, Identity, Sink
from spoolnode.cluster.discovery import announcement
from spoolnode.cluster.discovery.announcement import SERVICE
from spoolnode.cluster.discovery.interfaces import LocalAddress
from spoolnode.node.log import Report

MAX_CANDIDATES = 256
MAX_HEARD = 1024
"""Names that wait to be looked up. Of those beyond that, the ones whose records are all there are looked up at once, and the
others are dropped: a browser tells of them again when their records come."""
MAX_ASKED = 256
"""Names with questions under way, or waiting to be asked."""
ASKING_AT_ONCE = 20
TRIES = 12
TRY_MILLISECONDS = 250
"""Asks again soon instead of waiting long: an answer that comes before the records it depends on is lost."""
DEBOUNCE_SECONDS = 0.1
SECOND_LOOK_SECONDS = 4.0
"""The old address of a moved node stays in the cache beside the new one until the announcement was repeated."""


class _Known(NamedTuple):
    candidate: Candidate
    run: str


class Lookout:
    """The candidates of one segment. Lives longer than the sockets through which it hears: see `listen`."""

    def __init__(self, uri: str, identity: Identity, report: Report, *, limit: int = MAX_CANDIDATES) -> None:
        self._uri = uri
        self._identity = identity
        self._report = report
        self._limit = limit
        self._is_full = False
        self._known: dict[str, _Known] = {}
        self._missing: dict[str, float] = {}
        """Known nodes that said goodbye, or were not heard on new sockets: when they count as gone, by the loop's clock."""
        self._heard: dict[str, None] = {}
        self.ours: set[str] = set()
        """The addresses that this node announces. Others under our id belong to a copy of our spool directory."""
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(ASKING_AT_ONCE)

    def listen(self, zeroconf: Zeroconf, speaking: list[LocalAddress], patience: float) -> None:
        """From now on names are heard here. Known nodes that are not heard within `patience` seconds are gone."""
        self.rest()
        self._zeroconf = zeroconf
        self._speaking = speaking
        self.question = DNSQuestionType.QM if announcement.all_loopback(speaking) else None
        deadline = asyncio.get_running_loop().time() + patience
        for name in self._known:
            self._missing.setdefault(name, deadline)

    def rest(self) -> None:
        """Stops asking."""
        for task in self._asking.values():
            task.cancel()
        self._asking.clear()
        self._heard.clear()

    def heard(self, sink: Sink, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        """Called by a browser: a name is new, or its records have changed."""
        if zeroconf is not self._zeroconf or service_type != SERVICE or not announcement.node_id_in(name):
            return
        if len(self._heard) < MAX_HEARD:
            self._heard[name] = None
            self._wake.set()
        elif (info := AsyncServiceInfo(SERVICE, name)).load_from_cache(zeroconf):
            self._resolved(sink, name, info)

    def left(self, sink: Sink, name: str, patience: float) -> None:
        """Hears a goodbye in that name. Its owner may not have sent it, and may be heard again."""
        self._heard.pop(name, None)
        if known := self._known.get(name):
            self._missing[name] = asyncio.get_running_loop().time() + patience
            sink.leaving(self._uri, known.candidate.key)

    async def run(self, sink: Sink) -> None:
        """Looks up the names that were heard, until it is cancelled."""
        try:
            while True:
                await self._wake.wait()
                await asyncio.sleep(DEBOUNCE_SECONDS)
                self._wake.clear()
                names, self._heard = self._heard, {}
                for name in names:
                    self._look_up(sink, name)
        finally:
            self.rest()

    def sweep(self, sink: Sink) -> None:
        """Withdraws nodes that were missing for too long; called from time to time."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, deadline in self._missing.items() if deadline <= now]:
            self._forget(sink, name)

    # -- inside --

    def _look_up(self, sink: Sink, name: str) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if info.load_from_cache(self._zeroconf):
            self._resolved(sink, name, info)
        elif name not in self._asking and len(self._asking) < MAX_ASKED:
            task = self._asking[name] = asyncio.get_running_loop().create_task(self._ask(sink, name, info))
            task.add_done_callback(lambda done: self._asking.pop(name) if self._asking.get(name) is done else None)

    async def _ask(self, sink: Sink, name: str, info: AsyncServiceInfo) -> None:
        async with self._turns:
            for _ in range(TRIES):
                try:
                    answered = await info.async_request(self._zeroconf, TRY_MILLISECONDS, self.question)
                except Error:
                    break  # the sockets have been closed
                if answered:
                    self._resolved(sink, name, info)
                    break

    def _resolved(self, sink: Sink, name: str, info: AsyncServiceInfo) -> None:
        found = announcement.candidate_in(info, self._identity, self._uri, self._speaking)
        if found is not None and found[0].id == self._identity.id:
            found = self._copy_of_us(*found)
        if found is None:
            if name in self._known:
                self._forget(sink, name)  # it has moved to another cluster, or the copy of us is gone
            return
        before, is_back = self._known.get(name), self._missing.pop(name, None) is not None
        now = _Known(*found)
        if before is None and not self._has_room(sink):
            return
        if now == before and not is_back:
            return
        self._known[name] = now
        sink.found(now.candidate)  # the same one again if it was restarted, or is back
        if before is not None and now.candidate != before.candidate:
            asyncio.get_running_loop().call_later(SECOND_LOOK_SECONDS, self._look_again, name)

    def _copy_of_us(self, candidate: Candidate, run: str) -> tuple[Candidate, str] | None:
        others = tuple(address for address in candidate.addresses if address not in self.ours)
        return (candidate._replace(addresses=others), run) if others else None

    def _look_again(self, name: str) -> None:
        if name in self._known:
            self._heard[name] = None
            self._wake.set()

    def _has_room(self, sink: Sink) -> bool:
        if len(self._known) < self._limit:
            return True
        if self._missing:
            self._forget(sink, min(self._missing, key=self._missing.__getitem__))
            return True
        if not self._is_full:
            self._is_full = True
            self._report("discovery_full", source=self._uri, reason=f"more than {self._limit} nodes; the others are ignored")
        return False

    def _forget(self, sink: Sink, name: str) -> None:
        self._missing.pop(name, None)
        self._is_full = False
        if known := self._known.pop(name, None):
            sink.gone(self._uri, known.candidate.key)
