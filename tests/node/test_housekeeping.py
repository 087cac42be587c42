"""The node's rounds: they end when the node does, whatever happens in the same moment."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from spoolnode.node import node as module
from spoolnode.node.node import Node


@pytest.mark.parametrize("turns", range(4))
def test_rounds_end_also_when_the_node_gets_work_in_the_moment_of_its_stop(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """A drain that put tasks back woke the rounds and cancelled them: then they went on, and the node never ended."""
    monkeypatch.setattr(module, "HOUSEKEEPING_SECONDS", 0)

    async def main() -> None:
        async def tidy() -> None: ...

        idle = SimpleNamespace(is_busy=False, held=0)
        node = SimpleNamespace(_tidy=tidy, spool=idle, crew=idle, _active=asyncio.Event(), report=print)
        rounds = asyncio.create_task(Node._keep_house(cast(Any, node)))
        for _ in range(10):
            await asyncio.sleep(0)  # now it waits for work
        node._active.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        rounds.cancel()
        done, _ = await asyncio.wait({rounds}, timeout=1)
        assert done

    asyncio.run(main())
