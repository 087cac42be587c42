"""Coroutines that run beside their callers: kept alive until they end, or are cancelled; the loop reports their mistakes."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

CANCELLED_AGAIN_SECONDS = 2.0
"""How long a task that was cancelled has to tidy up, before it is cancelled again."""

_running: set["asyncio.Task[Any]"] = set()
"""The loop itself holds only weak references to tasks."""


def spawn(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Starts it; it runs to its end, even if no one keeps the task."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def cancel_all(tasks: "Iterable[asyncio.Task[Any]]") -> None:
    """Cancels tasks; returns when they have ended.

    A task may miss it: `asyncio.wait_for`, which libraries use, goes on up to Python 3.11 if it is cancelled just when the thing
    that it waits for has come. So those that are left after a while are cancelled again.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCELLED_AGAIN_SECONDS)
