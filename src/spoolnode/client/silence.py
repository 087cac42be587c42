"""Which worker may enqueue while an application is imported.

A node's workers import the application one by one; a uWSGI server imports it once and forks. Only the first
worker's tasks are sent, so that a module which enqueues something at its import does so once, not once for each worker.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

UNSENT_ID = "enqueued-by-the-first-worker"
"""The id that the other workers get for a task."""

_silent = False


@contextmanager
def importing(*, is_first: bool) -> Iterator[None]:
    """Meanwhile the main thread of every worker but the first sends nothing."""
    global _silent  # noqa: PLW0603  # a fact about the process
    _silent = not is_first
    try:
        yield
    finally:
        _silent = False


def is_silent() -> bool:
    """Whether a task that is sent now was already sent by the first worker.

    A thread that the module has started may send: it is not a part of the import, and each worker has it.
    """
    return _silent and threading.current_thread() is threading.main_thread()
