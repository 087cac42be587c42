"""The fake store: its lottery, which loses requests and answers, and its time."""

import asyncio
import random

import pytest
from store_tasks import held, ids, new, take

from spoolnode.cluster.store.interface import Publication, StoreAway
from spoolnode.cluster.store.memory import MemoryStore


def test_a_lost_request_does_nothing() -> None:
    async def story() -> None:
        store = MemoryStore(lost_requests=1.0)
        with pytest.raises(StoreAway):
            await store.publish([new("a")])
        store.lost_requests = 0.0
        assert await store.publish([new("a")]) == [Publication.STORED]

    asyncio.run(story())


def test_a_lost_answer_leaves_what_was_done_and_a_repeat_is_safe() -> None:
    async def story() -> None:
        store = MemoryStore()
        lease = await held(store, new("a"))
        store.lost_answers = 1.0
        with pytest.raises(StoreAway):
            await store.end([lease])
        with pytest.raises(StoreAway):
            await store.publish([new("b")])
        store.lost_answers = 0.0
        assert await store.end([lease]) == frozenset()
        assert await store.publish([new("a"), new("b")]) == [Publication.REPEATED] * 2
        assert ids(await take(store)) == ["b"]

    asyncio.run(story())


def test_the_same_seed_loses_the_same() -> None:
    async def fate(seed: int) -> list[bool]:
        store = MemoryStore(rng=random.Random(seed), lost_requests=0.3, lost_answers=0.3)
        lost = []
        for number in range(50):
            try:
                await store.publish([new(f"t{number}")])
                lost.append(False)
            except StoreAway:
                lost.append(True)
        return lost

    assert asyncio.run(fate(1)) == asyncio.run(fate(1)) != asyncio.run(fate(2))
