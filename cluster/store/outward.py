"""Tasks in the store for a node without it: they go to the outbox of a node that has met it, and from there over the link.

Such a task got into the store when no node there knew that the one for which it is has none.

    1. take some of the tasks
    2. have the admission of this node take each, as if a client had sent it: it is safe in outbox/ then
    3. end it in the store

A node that is killed between 2 and 3 leaves a task in both places, so that it may run twice.
"""

import asyncio
import time

from spoolnode.cluster.store.interface import Lease, StoredTask
from spoolnode.cluster.store.onward import Onward
from spoolnode.cluster.store.taking import Taker
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.background import spawn
from spoolnode.node.host import SharingHost
from spoolnode.node.ingress.upload import Upload
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.forward import LINK_ROOM
from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables
from spoolnode.protocol.request import Terms

REST_SECONDS = 5.0
"""How long a task waits in the store that the disk of this node did not take."""
LARGE_SECONDS = 60.0
"""How long one waits there whose body is too large for this node."""
_REPLACED = frozenset({names.NODE, names.HOPS, names.ID})


class Outward:
    """The way of such tasks to this node's outbox."""

    def __init__(self, teller: Teller, taker: Taker, onward: Onward, node: SharingHost) -> None:
        self._teller = teller
        self._taker = taker
        self._onward = onward
        self._node = node

    def __repr__(self) -> str:
        return f"<Outward of {self._node.id}>"

    async def give(self, place: str) -> int:
        """Brings some tasks for a destination to the outbox. Returns how many were taken. Raises as `Onward.give_some`."""
        begun: list[_Fate] = []

        async def begin(ref: str, lease: Lease, task: StoredTask) -> None:
            if not self._node.is_apart(place):
                self._teller.again(ref)  # it has joined the store meanwhile
            elif task.size > self._node.config.max_body:
                self._put_off(place, ref, task)
            else:
                begun.append(await self._begin(place, ref, lease, task))

        try:
            return await self._onward.give_some(place, begin)
        finally:
            await asyncio.gather(*(fate.known.wait() for fate in begun))

    def _put_off(self, place: str, ref: str, task: StoredTask) -> None:
        """Has a task wait that this node does not take, so that another one may."""
        most = self._node.config.max_body
        reason = f"the task {task.id} has a body of {task.size} bytes, this node takes at most {most} (--max-body)"
        self._node.report("link_paused", destination=place, reason=reason)
        self._teller.again(ref, time.time() + LARGE_SECONDS)

    async def _begin(self, place: str, ref: str, lease: Lease, task: StoredTask) -> "_Fate":
        """Has the admission take a task. Raises `StoreAway`, `StoreUnfit`, `BadTask`, `Refused`: then it is not there."""
        fate = _Fate(self._teller, ref)
        block, terms = _outward(place, task)
        opened = self._node.admission.open(block, terms, fate)
        if isinstance(opened, Upload):
            await self._fill(opened, lease, task.size)
            spawn(_finish(opened, fate))  # to its end, even if this is cancelled
        elif opened is not None:
            opened.take(b"".join([piece async for piece in self._taker.body(lease, task.size)]))
        return fate

    async def _fill(self, upload: Upload, lease: Lease, size: int) -> None:
        try:
            async for piece in self._taker.body(lease, size):
                await upload.write(piece)
        except Refused:
            raise  # it has removed what there was
        except BaseException:
            upload.abort()
            raise


class _Fate:
    """Waits for the fate of one task on its way to the outbox."""

    def __init__(self, teller: Teller, ref: str) -> None:
        self._teller = teller
        self._ref = ref
        self.known = asyncio.Event()

    def stored(self, _task_id: str, _copies: int = 1) -> None:
        """It is safe there."""
        self._teller.ended([self._ref])
        self.known.set()

    def refused(self, _refusal: Refused) -> None:
        """The disk failed, which is reported."""
        self._teller.again(self._ref, time.time() + REST_SECONDS)
        self.known.set()


async def _finish(upload: Upload, fate: _Fate) -> None:
    try:
        await upload.finish(fate)
    except Refused as refusal:
        fate.refused(refusal)


def _outward(place: str, task: StoredTask) -> tuple[bytes, Terms]:
    """The variables and the terms of a task when it leaves the store.

    It was handed on once more, so that it is another task than the one that the store still holds, if the node that gets it joins
    the store meanwhile. Raises `BadTask` if that needs too much room.
    """
    said = decode_variables(task.block)
    hops = min(task.hops + 1, names.MOST_HOPS)
    block = encode_variables([
        *(item for item in said if item[0] not in _REPLACED),
        (names.NODE, place.encode()), (names.ID, task.id.encode()), (names.HOPS, str(hops).encode()),
    ])  # fmt: skip
    if len(block) > MAX_BLOCK - LINK_ROOM:
        raise BadTask(f"the variables take {len(block)} bytes; those of a task for another node may take {MAX_BLOCK - LINK_ROOM}")
    function = names.function_named(dict(said))
    terms = Terms(
        rank=task.rank, due=task.due, destination=place, body=task.size, hops=hops, function=function,
        origin_id=task.id.encode(), key=task.key,
    )  # fmt: skip
    return block, terms
