"""The common store of one node: its parts put together, from the start to the end. It is the node's `commons`."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from spoolnode.cluster.channel import Channel
from spoolnode.cluster.dial import Dialed, dial
from spoolnode.cluster.discovery.interfaces import ours, present
from spoolnode.cluster.link import LinkState
from spoolnode.cluster.sender import Dial
from spoolnode.cluster.store.admitting import Admitter
from spoolnode.cluster.store.by_hand import ByHand
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.forwarding import Forwarder
from spoolnode.cluster.store.interface import ANY, StoreUnfit
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.onward import Onward
from spoolnode.cluster.store.opening import open_store
from spoolnode.cluster.store.outward import Outward
from spoolnode.cluster.store.publishing import Publisher
from spoolnode.cluster.store.sending import Sending
from spoolnode.cluster.store.takers import Itself, taker
from spoolnode.cluster.store.taking import Taker
from spoolnode.cluster.store.tallies import StoreCount
from spoolnode.cluster.store.telling import Teller
from spoolnode.cluster.trust import Trust
from spoolnode.node.background import cancel_all, spawn
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.commons import CommonTasks, SharedTask, Sharer
from spoolnode.node.config import Config
from spoolnode.node.host import SharingHost
from spoolnode.node.log import Report
from spoolnode.node.node import Share
from spoolnode.node.work.slots import lease_clock

END_SECONDS = 10.0
"""How long a node that stops waits for the store to hear what became of its tasks."""
REST_SECONDS = 1.0
"""A pause after a part has ended by a mistake of ours."""


def contact_of(config: Config, report: Report) -> Contact | None:
    """The way to the store of a node; None without `--store`."""
    return Contact(partial(open_store, config.store), report) if config.store else None


def sharer(contact: Contact | None, trust: Trust | None = None) -> Share | None:
    """Makes the common store of a node, for `run_node`; None without a way to one. `trust`: its certificates."""

    async def dialed(address: str, protocol: Callable[[], Channel], name: str) -> Dialed[Channel]:
        return await dial(address, protocol, trust, name)

    return (lambda node: Joined(node, contact, dialed)) if contact else None


class Joined:
    """The common store, as one node uses it."""

    is_joined = True

    def __init__(self, node: SharingHost, contact: Contact, dial: Dial, clock: Callable[[], float] = lease_clock) -> None:
        """`dial`: how to connect to the address of a task."""
        self._node = node
        self._contact = contact
        self._count = StoreCount(self._contact)
        self.tasks: CommonTasks = ByHand(self._contact)
        self._book = LeaseBook(node.config.store_lease)
        self._teller = Teller(self._contact, self._book, node.report, node.storage.spool.retrying.reason)
        self._publisher = Publisher(self._contact)
        self._sending = Sending(self._contact, node.storage, node.id, node.report)
        self._dial = dial
        self._clock = clock
        self._taker: Taker | None = None
        self._forwarder: Forwarder | None = None
        self._forwarding: asyncio.Task[None] | None = None
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

    @property
    def addresses(self) -> list[str]:
        """The addresses that mean this node, as the interfaces of its machine are now."""
        config = self._node.config
        return ours(filter(None, [*self._node.addresses, *config.listen, config.advertise]), present())

    # -- life --

    async def open(self) -> None:
        """Connects. Raises BadConfig."""
        try:
            await self._contact.open()
        except StoreUnfit as error:
            raise BadConfig(f"--store: {error}") from error

    async def start(self) -> None:
        """Takes tasks from now on."""
        storage, hands, itself = self._node.storage, self._node.hands, self._itself()
        self._taker = Taker(self._contact, self._book, self._teller, storage, hands, itself, self._node.report, self._clock)
        self._taker.seen = self._publisher.seen
        onward = Onward(self._contact, self._book, self._teller, self._taker, self._node, itself, self._clock)
        outward = Outward(self._teller, self._taker, onward, self._node)
        self._forwarder = Forwarder(self._contact, self._teller, onward, outward, self._node, itself, self._dial, self._clock)
        admitter = Admitter(self._contact, self._book, storage)
        self._forwarding = spawn(self._go_on(self._forwarder.run))
        parts = (self._sending.run, partial(self._take, self._taker), self._taker.keep, self._teller.run, admitter.run)
        self._running = [spawn(self._go_on(part)) for part in parts]

    async def _go_on(self, part: Callable[[], Awaitable[None]]) -> None:
        """Runs a part, which has no end, again whenever it ends by a mistake of ours: the others need it."""
        while True:
            try:
                await part()
            except Exception as error:  # noqa: BLE001  # whatever is wrong, it is reported, and the other parts need this one
                self._node.report("mistake", reason="the common store", traceback="".join(traceback.format_exception(error)))
            await asyncio.sleep(REST_SECONDS)

    async def _take(self, taker: Taker) -> None:
        if not self._has_moved_in:
            await self._sending.move_in(self._node.is_apart)
            self._has_moved_in = True
        await taker.run()

    def leave(self) -> None:
        """Takes no more tasks. Those that have not started go back."""
        if self._forwarding is not None:
            self._forwarding.cancel()
        if self._taker is not None:
            self._taker.leave()

    async def stop(self) -> None:
        """Tells the store all that is still to be told, and ends."""
        if self._forwarding is not None:
            await cancel_all([self._forwarding])
        if self._taker is not None:
            await self._end(self._taker)
        await self._publisher.finish()
        await cancel_all(self._running)
        await self._contact.close()

    async def _end(self, taker: Taker) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await taker.end()
        except TimeoutError:
            reason = "the store has not heard what became of them: they run again when their leases have run out"
            self._node.report("leases_left", tasks=len(self._book), reason=reason)

    def tick(self) -> None:
        """Gives back what does not start here, and asks the store what an acknowledgement is worth, and how much it has."""
        if self._taker is not None:
            self._taker.tick()
        spawn(self._contact.check())
        spawn(self._count.recount())

    def flush(self, asked: Collection[str]) -> list[str]:
        """Tries destinations now that are left alone for a while: those that were asked for, or all. Returns them."""
        return self._forwarder.flush(asked) if self._forwarder is not None else []

    def _itself(self) -> Itself:
        config = self._node.config
        tags = (f"tag:{tag}" for tag in config.tag)
        places = dict.fromkeys([ANY, *tags, *filter(None, [config.name]), self._node.id, *self.addresses])
        return Itself([*places], taker(self._node.id, config.name))

    # -- looking --

    def status(self) -> dict[str, Any]:
        """The part of the node's status about it."""
        safety = self._contact.safety
        is_there = safety is not None and self._contact.is_there
        said = {
            "addresses": self._taker.addresses if self._taker else [],
            "engine": safety.engine if safety else "", "there": is_there, "reason": self._contact.reason,
            "taken": self._taker.count if self._taker else 0,
            "survives_crash": is_there and safety is not None and safety.survives_crash,
            "survives_power_cut": is_there and safety is not None and safety.survives_power_cut,
            "survives_lost_disk": is_there and safety is not None and safety.survives_lost_disk,
            **self._count.told(),
        }  # fmt: skip
        return {"store": said}

    def refuses(self) -> str:
        """Why this node takes no tasks now; empty if it takes them."""
        keeps = self._node.config.store_away == "accept"
        return "" if keeps or self._contact.is_there else "the common store is away"

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
