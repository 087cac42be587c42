"""Coroutines that run beside their callers: kept alive until they end; the loop reports their mistakes."""

import asyncio
from collections.abc import Coroutine
from typing import Any

_running: set["asyncio.Task[Any]"] = set()
"""The loop itself holds only weak references to tasks."""


def spawn(coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Starts it; it runs to its end, even if no one keeps the task."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
