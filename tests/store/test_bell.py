"""How often a store in PostgreSQL tells its watchers that tasks are there, in virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from simulation.loop import in_virtual_time

from spoolnode.cluster.store.postgresql_bell import LONGEST_QUIET, Bell


class Listeners:
    """Connections over which nothing is sent: they remember what was told, and when."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, set[str]]] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One of them."""
        yield

    async def run(self, _connection: None, _statement: str, values: list[list[str]]) -> None:
        """Tells these destinations."""
        self.heard.append((asyncio.get_running_loop().time(), set(values[0])))


def bell_of(listeners: Any) -> Bell:
    return Bell(listeners)


def test_a_task_that_comes_alone_is_told_at_once() -> None:
    async def main() -> None:
        listeners = Listeners()
        bell = bell_of(listeners)
        for _ in range(5):
            called = asyncio.get_running_loop().time()
            bell.ring(["any"])
            await asyncio.sleep(0.001)
            assert listeners.heard.pop() == (called, {"any"})

    in_virtual_time(main)


def test_under_load_one_ring_tells_of_several_groups_and_the_last_task_is_told_soon() -> None:
    async def main() -> None:
        listeners = Listeners()
        bell = bell_of(listeners)
        for number in range(100):
            bell.ring([f"node{number}"] * 250)
            await asyncio.sleep(0.005)
        called = asyncio.get_running_loop().time()
        bell.ring(["last"])
        await asyncio.sleep(1)
        assert len(listeners.heard) < 25
        assert set().union(*(places for _, places in listeners.heard)) == {"last", *(f"node{number}" for number in range(100))}
        assert max(at for at, places in listeners.heard if "last" in places) - called <= LONGEST_QUIET
        await bell.close()

    in_virtual_time(main)
