"""Tasks for the tests of stores, and short words for what is done with them."""

from collections.abc import Iterable
from typing import Any

from spoolnode.cluster.store.interface import ANY, NO_BODY, BytesContent, CommonStore, Lease, Leased, NewTask, StoredTask
from spoolnode.protocol.packet import encode_variables

BLOCK = encode_variables([(b"to", b"customers"), (b"odd", b"\x00\xff")])


def new(identity: str, body: bytes = b"", **values: Any) -> NewTask:
    """A task to be published."""
    return NewTask(StoredTask(identity, BLOCK, **values), BytesContent(body) if body else NO_BODY)


async def take(store: CommonStore, *places: str, most: int = 100, lease: float = 30.0) -> list[Leased]:
    """Takes what is ready; without places, what any node may take."""
    return await store.take(most, places or (ANY,), lease)


async def held(store: CommonStore, task: NewTask, lease: float = 30.0) -> Lease:
    """Publishes a task and takes it."""
    await store.publish([task])
    ((lease_of_it, _),) = await take(store, task.task.to, lease=lease)
    return lease_of_it


def ids(taken: Iterable[Leased]) -> list[str]:
    return [task.id for _, task in taken]


async def body_of(store: CommonStore, lease: Lease) -> bytes:
    return b"".join([chunk async for chunk in store.body(lease)])
