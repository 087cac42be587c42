"""Tasks that run beside their callers end when they are cancelled."""

import asyncio
from typing import Any

import pytest

from spoolnode.node import background
from spoolnode.node.background import cancel_all, spawn


class Deaf:
    """Work that misses its first cancellations, as a library may that waits with `asyncio.wait_for`."""

    def __init__(self, misses: int) -> None:
        self.misses = misses
        self.heard = 0

    async def run(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.heard += 1
                if self.heard > self.misses:
                    raise


@pytest.mark.parametrize("misses", [0, 1, 2])
def test_a_task_that_misses_that_it_is_cancelled_is_cancelled_again(misses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CANCELLED_AGAIN_SECONDS", 0.01)
    deaf = Deaf(misses)

    async def story() -> None:
        tasks = [spawn(deaf.run()), spawn(asyncio.Event().wait())]
        await asyncio.sleep(0)
        await cancel_all(tasks)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(story())
    assert deaf.heard == misses + 1


def test_a_task_has_time_to_tidy_up_and_one_that_has_ended_is_left_alone() -> None:
    tidied: list[bool] = []

    async def tidies() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            tidied.append(True)

    async def story() -> Any:
        ended = spawn(asyncio.sleep(0, "ended"))
        tidying = spawn(tidies())
        await ended
        await cancel_all([ended, tidying])
        return ended.result()

    assert asyncio.run(story()) == "ended"
    assert tidied == [True]
