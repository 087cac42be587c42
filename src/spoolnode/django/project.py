"""Loads a Django project into the workers of a node: `--app spoolnode.django.project`, with DJANGO_SETTINGS_MODULE set."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, cast

import django
from django.core.cache import close_caches
from django.db import close_old_connections, connections, reset_queries
from django.utils.module_loading import autodiscover_modules

from spoolnode import after_task, before_task
from spoolnode.calls.current_task import CurrentTask
from spoolnode.calls.registry import REGISTRY, is_async
from spoolnode.django import running

__all__ = ["running"]


def set_up() -> None:
    """Loads the project: its settings, its applications, their `tasks.py`."""
    django.setup()
    autodiscover_modules("tasks")
    REGISTRY.wrap_timers(_with_connections)
    for alias in connections:
        # A database may have restarted since the last task: a connection that is kept is tried once before a task uses it.
        connections.settings[alias]["CONN_HEALTH_CHECKS"] = True


@before_task
def begin_task(task: CurrentTask) -> Any:
    """As Django does before a request."""
    del task
    return _in_its_thread(_begin)


@after_task
def end_task(task: CurrentTask, outcome: str, error: BaseException | None) -> Any:
    """As Django does after a request."""
    del task, outcome, error
    return _in_its_thread(_end)


def _with_connections(timer: Callable[[], object]) -> Callable[[], object]:
    """The function of a timer, which is not a task, with the same around it."""

    @wraps(timer)
    def run() -> object:
        _begin()
        try:
            return timer()
        finally:
            _end()

    @wraps(timer)
    async def run_async() -> None:
        await _in_its_thread(_begin)
        try:
            await cast(Awaitable[object], timer())
        finally:
            await _in_its_thread(_end)

    return run_async if is_async(timer) else run


def _begin() -> None:
    reset_queries()
    close_old_connections()


def _end() -> None:
    close_old_connections()
    close_caches()


def _in_its_thread(function: Any) -> Any:
    """Calls a function in the thread that has the task's connections: this one, or `sync_to_async`'s for an async task."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    from asgiref.sync import sync_to_async

    return sync_to_async(function)()


set_up()
