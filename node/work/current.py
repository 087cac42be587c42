"""The task that runs in this context, for its output, and for an application that asks."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spoolnode.node.work.taskfile import Task

running: ContextVar["Task | None"] = ContextVar("running", default=None)
"""Threads and async tasks have it if they run in a copy of the task's context."""


class _Home:
    """The node of this process."""

    def __init__(self) -> None:
        self.name = ""
        self.max_attempts = 0


home = _Home()


def runs_on(name: str, max_attempts: int) -> None:
    """Tells which node this worker belongs to, and its `--max-attempts`."""
    home.name, home.max_attempts = name, max_attempts


class _Teller:
    """Says how far tasks are."""

    def __init__(self) -> None:
        self.say: Callable[[str, float, str], None] = lambda _identity, _done, _text: None
        """Takes the id of a task, how much of it is done (0 to 1), and a text. A worker brings its own."""


progress = _Teller()


class _Records:
    """The way of the application's `logging` into the node's log."""

    def __init__(self) -> None:
        self.say: Callable[[str, str, str], None] | None = None
        """Takes level, logger and text of a record. A worker brings its own; None anywhere else."""


records = _Records()


def running_file() -> str:
    """The file name of the task that runs; empty outside of one."""
    task = running.get()
    return task.file_name if task is not None else ""
