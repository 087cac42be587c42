"""Calls something in this process as a worker would: in a context of its own, an awaitable to its end, within a time limit.

Two ways, for the two kinds of tests: `blocking`, and `in_loop` for a test that is a coroutine. If asgiref is loaded, as in
Django, both keep to its rule of threads, so that a task has the database connection, and the transaction, of the test.
"""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Protocol

from spoolnode.node.work import current
from spoolnode.node.work.taskfile import Task


class Calling(Protocol):
    """A way to call something."""

    async def __call__(self, function: Callable[[], Any], task: Task | None = None) -> Any:
        """Calls it for a task, or for a timer, and returns or raises what it does."""
        ...


async def blocking(function: Callable[[], Any], task: Task | None = None) -> Any:
    """Calls it in this thread, and never suspends."""

    def call() -> Any:
        current.running.set(task)
        result = function()
        return run_to_end(_limited(result, task)) if isinstance(result, Awaitable) else result

    run = copy_context().run
    return _in_thread(lambda: run(call)) if _is_in_loop() else run(call)


async def in_loop(function: Callable[[], Any], task: Task | None = None) -> Any:
    """Calls it in another thread, and awaits in this loop what it returns."""
    context = copy_context()
    context.run(current.running.set, task)
    result = await _aside(lambda: context.run(function))
    if not isinstance(result, Awaitable):
        return result
    return await asyncio.get_running_loop().create_task(_limited(result, task), context=context)


def run_to_end(awaitable: Awaitable[Any]) -> Any:
    """Runs it to its end in a loop of its own. Returns or raises what it does."""
    if "asgiref.sync" in sys.modules:
        return sys.modules["asgiref.sync"].async_to_sync(_as_coroutine)(awaitable)
    # With a factory it leaves alone which loop this thread has: other plugins care.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(_as_coroutine(awaitable))


async def _aside(function: Callable[[], Any]) -> Any:
    if "asgiref.sync" in sys.modules:
        return await sys.modules["asgiref.sync"].sync_to_async(function)()
    return await asyncio.get_running_loop().run_in_executor(None, function)


async def _limited(awaitable: Awaitable[Any], task: Task | None) -> Any:
    async with asyncio.timeout((task.timeout if task else 0.0) or None):
        return await awaitable


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _in_thread(function: Callable[[], Any]) -> Any:
    """Calls it in a thread and waits: this one has a running loop, and a worker's main thread has none."""
    from concurrent.futures import Future

    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  # raised in the thread that waits
            future.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return future.result()
