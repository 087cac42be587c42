"""Sends to the common store what waits for it on this node's disk, each task once: those that came while it was away, and those
that were here before the node had a store.

They wait in outbox/, as if for another node, and the same promise holds: a task that was sent and not answered is *in doubt*,
also after a kill, and goes only to the store, which knows it by its message id.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import (
    NO_BODY,
    REMEMBERED,
    TOGETHER,
    BytesContent,
    CommonStore,
    Content,
    NewTask,
    StoreAway,
    StoreBusy,
    StoredTask,
)
from spoolnode.cluster.store.publishing import pieces
from spoolnode.node.commons import COMMONS, STORE, place_in_store
from spoolnode.node.log import Report
from spoolnode.node.outbox.envelope import AskedPlace, Envelope
from spoolnode.node.outbox.moving import Kept
from spoolnode.node.outbox.shipping import Shipment
from spoolnode.node.outbox.storage import Storage
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.forward import without_way
from spoolnode.protocol.packet import HEADER, decode_variables
from spoolnode.protocol.unique import unique_key_in

REPEATED = REMEMBERED - 120.0
"""Seconds for which a task that was sent without an answer is sent again. Then the store may have forgotten that it had it."""
FILES = 64
"""Tasks with files of their own that are sent together."""
MOVED_TOGETHER = 256
"""Tasks that are moved into the outbox together: each group takes one round of fsyncs."""
FORGOTTEN = (
    f"the store may have had it, and it may have run: asked more than {REPEATED / 60:.0f} minutes ago, the store did not answer, "
    "and now it does not know it. `spoolnode dead retry` makes it wait again"
)
"""Why a task is given up that is too late to be sent again."""
REST_SECONDS = 1.0
"""A pause after the disk failed, or when tasks cannot be taken for a moment."""


class Sending:
    """The way of tasks from one node's disk into the store."""

    def __init__(self, contact: Contact, storage: Storage, node_id: str, report: Report) -> None:
        self._contact = contact
        self._storage = storage
        self._node_id = node_id
        self._report = report
        self._woken = asyncio.Event()
        self._asked: dict[int, float] = {}
        """When the tasks in doubt were sent first by this process, by their numbers; in seconds since 1970."""
        woken = storage.outbox.woken
        storage.outbox.when_woken(lambda to: self._woken.set() if to == COMMONS else woken(to))

    def __repr__(self) -> str:
        return f"<Sending: {self._storage.outbox.size(COMMONS)} tasks wait for the store>"

    # -- what was here before --

    async def move_in(self, is_apart: Callable[[str], bool]) -> None:
        """Has all that waits on this disk wait for the store, but pickles, files from elsewhere, and what only links reach."""
        await self._contact.there()
        moving, outbox = self._storage.moving, self._storage.outbox
        moved = 0
        aside: list[Kept] = []
        try:
            while (went := await moving.give_away(MOVED_TOGETHER, _into_store, aside, later=True)) is not None:
                moved += went
        finally:
            moving.put_back(aside)
        for to in [*outbox.sizes()]:
            if to != COMMONS and not is_apart(to):
                moved += await moving.re_place(to, MOVED_TOGETHER, lambda _asked: COMMONS)
        if moved:
            self._report("moved_to_store", tasks=moved)

    # -- what waits for the store --

    async def run(self) -> None:
        """Sends, until it is cancelled."""
        while True:
            await self._contact.there()
            if not self._storage.outbox.has_work(COMMONS, STORE):
                self._woken.clear()
                await self._woken.wait()
                continue
            try:
                await self._storage.outbox.meet(COMMONS, STORE)
                shipment = await self._storage.shipping.take(COMMONS, STORE, TOGETHER, FILES)
            except OSError as error:
                self._report("move_failed", move="send to the store", reason=str(error))
                shipment = None
            if shipment is None:
                await asyncio.sleep(REST_SECONDS)
            else:
                await self._send(shipment)

    async def _send(self, shipment: Shipment) -> None:
        """Publishes tasks, those with large bodies one by one, and takes them off the disk. Those that stay are in doubt."""
        left, busy, most = list(shipment.envelopes), list[Envelope](), len(shipment.envelopes)
        try:
            for envelope in [envelope for envelope in left if self._is_too_late(envelope)]:
                await self._look_up(shipment, envelope)
                left.remove(envelope)
            while left:
                together = _until_large(left)[:most] or left[:1]
                try:
                    await self._publish(shipment, together)
                except StoreBusy:  # the key of one of them is held back
                    most = 1
                    if len(together) > 1:
                        continue
                    busy += together
                del left[: len(together)]
        except StoreAway:
            pass  # that is reported
        finally:
            if left := busy + left:
                self._storage.shipping.give_back(COMMONS, STORE, shipment.rest(left))

    def _is_too_late(self, envelope: Envelope) -> bool:
        """Whether the store may have had a task, and forgotten it."""
        asked = self._asked.get(envelope.number, 0.0)
        if names.ASKED in envelope.head:
            said = dict(decode_variables(envelope.head[HEADER.size : _body_at(envelope)]))
            asked = names.read_asked(said.get(names.ASKED, b"")) or asked
        return bool(asked) and time.time() - asked > REPEATED

    async def _look_up(self, shipment: Shipment, envelope: Envelope) -> None:
        """Takes a task off the disk that is too late to be sent again. If the store does not know it, it is given up."""
        new, taken, shipping = self._task(envelope).task, shipment.rest([envelope]), self._storage.shipping
        found = await self._contact.ask(lambda store: store.find(new.id))
        if found is not None and found.task.hops >= new.hops:
            shipping.handed(COMMONS, STORE, taken, [envelope.number])
        else:
            shipping.give_up(COMMONS, STORE, taken, FORGOTTEN)
        self._asked.pop(envelope.number, None)

    async def _publish(self, shipment: Shipment, envelopes: list[Envelope]) -> None:
        tasks, numbers, now = [self._task(envelope) for envelope in envelopes], [one.number for one in envelopes], time.time()
        for number in numbers:
            self._asked.setdefault(number, now)

        async def publish(store: CommonStore) -> None:
            await store.publish(tasks)

        shipping, taken = self._storage.shipping, shipment.rest(envelopes)
        try:
            await self._contact.ask(publish)
        except BadTask as error:
            shipping.give_up(COMMONS, STORE, taken, str(error))
        else:
            shipping.handed(COMMONS, STORE, taken, numbers)
        for number in numbers:
            self._asked.pop(number, None)

    def _task(self, envelope: Envelope) -> NewTask:
        """A task as the store gets it. Its variables are sound: they were packed for sending."""
        end = _body_at(envelope)
        block, body = envelope.head[HEADER.size : end], envelope.head[end:]
        said = decode_variables(block)
        asked = dict(said)
        content: Content = BytesContent(body) if body else NO_BODY
        if envelope.body_end:
            content = _FileContent(self._storage, envelope)
        kept = without_way(item for item in said if item[0] not in (names.ATTEMPTS, names.ASKED))
        task = StoredTask(
            asked[names.ID].decode("ascii", "replace"), kept, place_in_store(asked, self._node_id),
            names.read_priority(asked.get(b"priority", b"")), names.read_at(asked.get(b"at", b"")), unique_key_in(block),
            int(asked.get(names.ATTEMPTS, b"0")),
            names.read_hops(asked.get(names.HOPS, b"")),
        )  # fmt: skip
        return NewTask(task, content)


class _FileContent(Content):
    """A large body in its file."""

    def __init__(self, storage: Storage, envelope: Envelope) -> None:
        self._storage = storage
        self._envelope = envelope
        self.size = envelope.body_end - envelope.body_at

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async with self._storage.shipping.body(self._envelope) as body:
                async for piece in body:
                    for part in pieces(piece):
                        yield part
        except OSError as error:
            raise BadTask(f"its body cannot be read: {error}") from error


def _into_store(asked: AskedPlace) -> str | None:
    return None if asked.is_dropped else COMMONS


def _body_at(envelope: Envelope) -> int:
    return HEADER.size + int(HEADER.unpack_from(envelope.head)[1])


def _until_large(envelopes: list[Envelope]) -> list[Envelope]:
    """The first ones whose bodies are in memory."""
    first = next((index for index, envelope in enumerate(envelopes) if envelope.body_end), len(envelopes))
    return envelopes[:first]
