"""Asks the common store, if there is one: whether it answers, what an acknowledgement survives, and what was given up there."""

import asyncio
from collections.abc import Iterator

from spoolnode.cluster.store.interface import Safety, StoreAway, StoreUnfit, Tally, TaskState
from spoolnode.cluster.store.opening import open_store
from spoolnode.doctor.finding import FAIL, OK, WARN, Finding


def in_store(url: str) -> Iterator[Finding]:
    """The findings about the store at that address."""
    try:
        safety, dead = asyncio.run(_asked(url))
    except (StoreAway, StoreUnfit) as error:
        yield Finding("store", FAIL, f"{error}")
        return
    yield Finding("store", OK, f"{safety.engine} answers")
    for sentence in safety.advice:
        yield Finding("store", WARN, sentence)
    number = f"{'' if dead.is_exact else 'about '}{dead.number}"
    told = f"{number} given up in the store: see `spoolnode dead ls`" if dead.number else "no task was given up in the store"
    yield Finding("dead", WARN if dead.number else OK, told)


async def _asked(url: str) -> tuple[Safety, Tally]:
    opened = await open_store(url)
    try:
        return await opened.check(), (await opened.count())[TaskState.DEAD]
    finally:
        await opened.close()
