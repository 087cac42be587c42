"""Loads a Django project into the workers of a node: `--app spoolnode.django.project`, with DJANGO_SETTINGS_MODULE set."""

import asyncio
from typing import Any

import django
from django.core.cache import close_caches
from django.db import close_old_connections, connections, reset_queries
from django.utils.module_loading import autodiscover_modules

from spoolnode import after_task, before_task
from spoolnode.calls.current_task import CurrentTask
from spoolnode.django import running

__all__ = ["running"]


def set_up() -> None:
    """Loads the project: its settings, its applications, their `tasks.py`."""
    django.setup()
    autodiscover_modules("tasks")
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
