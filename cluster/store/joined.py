"""The common store of one node: its parts put together, from the start to the end. It is the node's `commons`."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from spoolnode.cluster.link import LinkState
from spoolnode.cluster.store.contact import Contact, Open
from spoolnode.cluster.store.interface import ANY, StoreUnfit
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.opening import open_store
from spoolnode.cluster.store.publishing import Publisher
from spoolnode.cluster.store.sending import Sending
from spoolnode.cluster.store.taking import Taker
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.background import spawn
from spoolnode.node.commons import SharedTask, Sharer
from spoolnode.node.config import BadConfig, Config
from spoolnode.node.host import SharingHost
from spoolnode.node.node import Share
from spoolnode.node.work.slots import lease_clock

END_SECONDS = 10.0
"""How long a node that stops waits for the store to hear what became of its tasks."""
REST_SECONDS = 1.0
"""A pause after a part has ended by a mistake of ours."""


def sharer(config: Config, connect: Open | None = None) -> Share | None:
    """Makes the common store of a node, for `run_node`; None without `--store`. Tests bring their own way to `connect`."""
    if not config.store:
        return None
    return lambda node: Joined(node, connect or partial(open_store, config.store))


class Joined:
    """The common store, as one node uses it."""

    is_joined = True

    def __init__(self, node: SharingHost, connect: Open, clock: Callable[[], float] = lease_clock) -> None:
        self._node = node
        self._report = node.report
        self._contact = Contact(connect, node.report)
        self._book = LeaseBook(node.config.store_lease)
        self._teller = Teller(self._contact, self._book, node.report)
        self._publisher = Publisher(self._contact)
        self._sending = Sending(self._contact, node.storage, node.id, node.report)
        self._clock = clock
        self._taker: Taker | None = None
        self._has_moved_in = False
        self._running: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Joined: {self._contact!r}, {self._taker!r}>"

    # -- tasks that come in --

    def share(self, task: SharedTask, sharer: Sharer) -> None:
        """Stores a task, together with others that come at the same time."""
        self._publisher.add(task, sharer)

    def when_told(self, call: Callable[[], None]) -> None:
        """`call` is called after sharers were told."""
        self._publisher.told = call

    # -- life --

    async def open(self) -> None:
        """Connects. Raises BadConfig."""
        try:
            await self._contact.open()
        except StoreUnfit as error:
            raise BadConfig(f"--store: {error}") from error

    async def start(self) -> None:
        """Takes tasks from now on."""
        storage, hands = self._node.storage, self._node.hands
        self._taker = Taker(
            self._contact, self._book, self._teller, storage, hands, places_of(self._node), self._report, self._clock
        )  # fmt: skip
        parts = (self._sending.run, partial(self._take, self._taker), self._taker.keep, self._teller.run)
        self._running = [spawn(self._go_on(part)) for part in parts]

    async def _go_on(self, part: Callable[[], Awaitable[None]]) -> None:
        """Runs a part, which has no end, again whenever it ends by a mistake of ours: the others need it."""
        while True:
            try:
                await part()
            except Exception as error:  # noqa: BLE001  # whatever is wrong, it is reported, and the other parts need this one
                self._report("mistake", reason="the common store", traceback="".join(traceback.format_exception(error)))
            await asyncio.sleep(REST_SECONDS)

    async def _take(self, taker: Taker) -> None:
        if not self._has_moved_in:
            await self._sending.move_in(self._node.is_apart)
            self._has_moved_in = True
        await taker.run()

    def leave(self) -> None:
        """Takes no more tasks. Those that have not started go back."""
        if self._taker is not None:
            self._taker.leave()

    async def stop(self) -> None:
        """Tells the store all that is still to be told, and ends."""
        if self._taker is not None:
            await self._end(self._taker)
        await self._publisher.finish()
        for part in self._running:
            part.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._contact.close()

    async def _end(self, taker: Taker) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await taker.end()
        except TimeoutError:
            reason = "the store has not heard what became of them: they run again when their leases have run out"
            self._report("leases_left", tasks=len(self._book), reason=reason)

    def tick(self) -> None:
        """Gives back what does not start here, and asks the store what an acknowledgement is worth."""
        if self._taker is not None:
            self._taker.tick()
        spawn(self._contact.check())

    # -- looking --

    def status(self) -> dict[str, Any]:
        """The part of the node's status about it."""
        safety = self._contact.safety
        is_there = safety is not None and self._contact.is_there
        said = {
            "engine": safety.engine if safety else "", "there": is_there, "reason": self._contact.reason,
            "taken": self._taker.count if self._taker else 0,
            "survives_crash": is_there and safety is not None and safety.survives_crash,
            "survives_power_cut": is_there and safety is not None and safety.survives_power_cut,
            "survives_lost_disk": is_there and safety is not None and safety.survives_lost_disk,
        }  # fmt: skip
        return {"store": said}

    def told(self) -> dict[str, Any]:
        """The word of the line `ready` about it."""
        return {"store": self._safety_in_words()}

    def link(self) -> dict[str, Any]:
        """The state of the way to it, as of a link."""
        is_there = self._contact.is_there
        state = (LinkState.OPEN if is_there else LinkState.WAITING).value
        return {"known": True, "name": "", "state": state, "failures": 0, "retry_in": None, "reason": self._contact.reason}

    def _safety_in_words(self) -> str:
        safety = self._contact.safety
        if safety is None or not self._contact.is_there:
            return f"away: {self._contact.reason}"
        survives = {
            "a crash": safety.survives_crash, "a power cut": safety.survives_power_cut, "a lost disk": safety.survives_lost_disk,
        }  # fmt: skip
        kept = [event for event, is_survived in survives.items() if is_survived]
        return f"{safety.engine}; acknowledged tasks survive {', '.join(kept) or 'nothing'}"


def places_of(node: SharingHost) -> list[str]:
    """The destinations that a node is."""
    config = node.config
    own = [config.name, node.id, *node.addresses, *config.listen, config.advertise]
    return [*dict.fromkeys([ANY, *(f"tag:{tag}" for tag in config.tag), *filter(None, own)])]
