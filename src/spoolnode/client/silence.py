"""Who may enqueue while an application is imported.

A node's workers import the application one by one; a uWSGI server imports it once and forks. So that a module which
enqueues something when it is imported does so once, and not once a worker, only the first worker's tasks are sent.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

INSTEAD = "enqueued-by-the-first-worker"
"""What the others are told as the task's id."""

_silent = False


@contextmanager
def importing(*, is_first: bool) -> Iterator[None]:
    """While it lasts, the main thread of any but the first worker sends nothing."""
    global _silent  # noqa: PLW0603  # it is a fact of the process
    _silent = not is_first
    try:
        yield
    finally:
        _silent = False


def is_silent() -> bool:
    """Whether a task that is sent now is one that the first worker has sent already.

    A thread that the module has started sends what it likes: it is no part of the import, and each worker has it.
    """
    return _silent and threading.current_thread() is threading.main_thread()
