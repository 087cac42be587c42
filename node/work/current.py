"""The task that runs in this context, for its output, and for an application that asks."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spoolnode.node.work.taskfile import Task

running: ContextVar["Task | None"] = ContextVar("running", default=None)
"""Threads and async tasks have it if they run in a copy of the task's context."""


def running_file() -> str:
    """The file name of the task that runs; empty outside of one."""
    task = running.get()
    return task.file_name if task is not None else ""
