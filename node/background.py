"""Coroutines that run beside whoever started them: kept alive until they end, their mistakes reported by the loop."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_running: set["asyncio.Task[Any]"] = set()
"""The loop itself holds tasks only weakly."""


def spawn(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Starts it; it runs to its end whether or not anybody keeps the task."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
