"""Tasks in the store that no node takes go where they are to run: those for an address to the uWSGI server, or to the node, that
is there; those for a node without the store to that one (see `outward`).

A uWSGI server takes nothing from a store itself. A node takes what is for the addresses of its machine, and does not know the
names that others call it by. What waits may also be for a node that is away, or is about to take it. Only a hello tells, as over
a link: a uWSGI server answers it without a status. A node says in its status which addresses it takes; what is for another one
waits for its id from then on.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from spoolnode.cluster.channel import Channel, ChannelLost, read_pong
from spoolnode.cluster.dial import DialError
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.plain import NOT_NOW, UWSGI, is_taken, plain_packet
from spoolnode.cluster.sender import Dial
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Lease, StoreAway, StoredTask, StoreUnfit
from spoolnode.cluster.store.onward import Onward
from spoolnode.cluster.store.outward import Outward
from spoolnode.cluster.store.redirect import READY, redirect_some
from spoolnode.cluster.store.takers import Itself
from spoolnode.cluster.store.telling import Teller
from spoolnode.cluster.timing import USUAL
from spoolnode.node.background import cancel_all, spawn
from spoolnode.node.host import SharingHost
from spoolnode.node.story.notes import FORWARDED
from spoolnode.protocol import keys, names
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.hello import Hello

LOOK_SECONDS = 2.0
"""Seconds between two looks for addresses that tasks wait for."""
MOST_PLACES = 1000
"""Destinations that are looked at: any client that may enqueue can make them up."""
TRIED_AT_ONCE = 16
"""Addresses that are asked at the same time."""
WATCH_SECONDS = 30.0
"""How long a server that has got all its tasks is not asked again who it is."""


Give = Callable[[str], Awaitable[int]]
"""Gives some of the tasks for an address to the one that is there. Returns how many there were."""


def owner_of(address: str, status: dict[str, Any]) -> str:
    """The id of the node that has this status, if it does not take what waits for the address at which it answers; else empty."""
    store, node = status.get("store"), status.get("id")
    takes = store.get("addresses") if isinstance(store, dict) else None
    is_other = isinstance(takes, list) and address not in takes
    return node if is_other and isinstance(node, str) and names.is_node_id(node) else ""


class _Rest(NamedTuple):
    """An address that is left alone for a while."""

    until: float
    failures: int


class Forwarder:
    """Gets the tasks for such addresses there, on one node with a store."""

    def __init__(
        self, contact: Contact, teller: Teller, onward: Onward, outward: Outward, node: SharingHost, itself: Itself, dial: Dial,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """
        Args:
            itself: this node, as it takes tasks.
            clock: that of leases, in seconds.
        """
        self._contact = contact
        self._teller = teller
        self._onward = onward
        self._outward = outward
        self._node = node
        self._itself = itself
        self._dial = dial
        self._clock = clock
        self._room = asyncio.Semaphore(TRIED_AT_ONCE)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._rests: dict[str, _Rest] = {}
        self._hurry = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Forwarder: {len(self._busy)} addresses, {len(self._rests)} at rest>"

    async def run(self) -> None:
        """Looks and sends, until it is cancelled. Then what was not sent waits in the store again."""
        try:
            while True:
                await self._contact.there()
                with suppress(StoreAway):
                    self._begin(await self._contact.ask(lambda store: store.places(MOST_PLACES)))
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._hurry.wait()
                self._hurry.clear()
        finally:
            await cancel_all(self._busy.values())

    def flush(self, asked: Collection[str]) -> list[str]:
        """Tries destinations now that are left alone for a while: those that were asked for, or all. Returns them."""
        tried = [address for address in self._rests if not asked or address in asked]
        for address in tried:
            del self._rests[address]
        if tried:
            self._hurry.set()
        return tried

    def _begin(self, places: Iterable[str]) -> None:
        """Tries the addresses, and the nodes without the store, among these destinations, but those that are left alone."""
        others = set(places).difference(self._itself.places)
        addresses = {place for place in others if names.is_address(place) or self._node.is_apart(place)}
        self._rests = {address: rest for address, rest in self._rests.items() if address in addresses or address in self._busy}
        for address in addresses - self._busy.keys():
            if address not in self._rests or self._rests[address].until <= self._clock():
                self._busy[address] = spawn(self._serve(address))

    async def _serve(self, address: str) -> None:
        """Asks who is there, and gives them what waits, as long as more comes."""
        try:
            while give := await self._way(address):
                if not await give(address):
                    return
                self._rests.pop(address, None)
                while await give(address):
                    pass
                await self._contact.ask(lambda store: store.watch([address], WATCH_SECONDS))
            self._rests[address] = _Rest(self._clock() + USUAL.longest_retry, 0)
        except StoreAway:
            pass  # that is reported
        except (DialError, ChannelLost, BadPacket, Refused, StoreUnfit, OSError) as error:
            self._fail(address, str(error), is_refused=isinstance(error, Refused))
        finally:
            del self._busy[address]

    def _fail(self, address: str, reason: str, *, is_refused: bool) -> None:
        """Leaves an address alone for a while, longer each time."""
        failures = self._rests[address].failures if address in self._rests else 0
        if not failures:
            self._node.report("link_paused" if is_refused else "link_failed", destination=address, reason=reason)
        pause = min(USUAL.first_retry * 2.0**failures, USUAL.longest_retry)
        self._rests[address] = _Rest(self._clock() + pause, min(failures + 1, 30))

    async def _way(self, address: str) -> Give | None:
        """How tasks get to the one that is there; None if it takes them itself.

        Raises `DialError`, `ChannelLost`, `BadPacket`.
        """
        if self._node.is_apart(address):
            return self._outward.give
        if not names.is_address(address):
            return None
        try:
            status = await self._hello(address)
        except Refused:
            return None  # only a node gives a reason
        if status is None:
            return self._send_some
        node = owner_of(address, status)
        return partial(self._give_some, node) if node else None

    async def _hello(self, address: str) -> dict[str, Any] | None:
        """The status of the node that answers there; None if it is a uWSGI server."""
        config = self._node.config
        hello = Hello(self._node.id, config.name, config.cluster, instance=self._node.instance)
        introduction = Introduction(hello, self._node.key, secrets.token_hex(keys.NONCE_SIZE))
        async with self._room:
            channel = (await self._dial(address, Channel, "")).protocol
            try:
                return read_pong(await channel.ask(introduction.packet(), USUAL.answer))
            finally:
                channel.close("it was asked")

    async def _give_some(self, node: str, address: str) -> int:
        """Has some tasks wait for the node with that id. Returns how many there were."""
        moved, _ = await self._contact.ask(lambda store: redirect_some(store, [address], node, READY))
        return moved

    async def _send_some(self, address: str) -> int:
        """Takes some tasks, and sends them. Returns how many there were."""
        return await self._onward.give_some(address, partial(self._send, address))

    async def _send(self, address: str, ref: str, _lease: Lease, task: StoredTask) -> None:
        """Sends one task. Raises `DialError`, `ChannelLost`, OSError; `Refused` if the server does not take it; `BadTask`."""
        journal, name = self._node.storage.journal, names.file_name(task.id)
        try:
            question = plain_packet(task.block, has_body=task.size > 0)
        except Refused as refusal:
            raise BadTask(refusal.text) from refusal
        channel = (await self._dial(address, Channel, "")).protocol
        try:
            if not is_taken(await channel.ask(question, USUAL.answer)):
                raise NOT_NOW
        finally:
            channel.close("done")
        self._teller.ended([ref])
        self._node.storage.outbox.forwarded += 1
        journal.story.note(FORWARDED, None, [name], to=address, peer=UWSGI)
        if journal.trace:
            journal.trace("forwarded", id=task.id, to=address, peer=UWSGI)
