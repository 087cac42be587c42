"""Inside a worker: ends a task before its time, with an exception in the thread that runs it, and never the task after it."""

import ctypes
from _thread import allocate_lock, get_ident  # as they are before an application patches them (gevent)
from collections.abc import Awaitable, Callable

from spoolnode.node.outcome import Cancelled, Ending, Outcome
from spoolnode.node.work.taskfile import Task

Key = tuple[int, int]
"""A task in this worker: the number of its chunk, and its position there."""
Ended = Outcome | Awaitable[Outcome]


class Cancelling:
    """The task of the main thread, and the tasks that are to end. Made in the main thread.

    The exception may come at any instruction until the main thread has taken it back, so the end of a task is one agreement:
    the main thread first lets go of its task and then looks whether one is wanted; the listening thread first says which one is
    wanted and then looks whether it runs. One of them sees the other.
    """

    def __init__(self) -> None:
        self.wanted: dict[Key, str] = {}
        """The tasks that are to end, with the reason."""
        self._thread = get_ident()
        self._lock = allocate_lock()
        self._now: tuple[Key, Task] | None = None

    def __repr__(self) -> str:
        return f"<Cancelling of {self.wanted}>"

    def run(self, key: Key, task: Task, handle: Callable[[Task], Ended]) -> Ended | None:
        """Runs a task, in the main thread. Returns what `handle` does; None if the task was cancelled before it could say."""
        ended: Ended | None = None
        try:  # around the taking back as well: until that has returned the exception may come, as a call begins too
            self._now = key, task
            if key not in self.wanted:
                ended = handle(task)
            self._now = None
            if not self.wanted:
                return ended
            self._take_back()
        except Cancelled:
            self._now = None
        task.cancelled = self.wanted.get(key, "")
        if not isinstance(ended, Awaitable):
            self.wanted.pop(key, None)
        return ended

    def cancel(self, key: Key, reason: str) -> None:
        """Has a task end, in the listening thread: also one that has not come so far. Async ones look into `wanted`."""
        self.wanted[key] = reason
        with self._lock:
            now = self._now
            if now is not None and now[0] == key and not now[1].cancelled:  # a second one could come outside of `try`
                now[1].cancelled = reason
                _raise_in(self._thread, ctypes.py_object(Cancelled))

    def forget(self, key: Key) -> None:
        """Drops a task that is over, in the listening thread: one that ended before it was wanted never looks again."""
        self.wanted.pop(key, None)

    def _take_back(self) -> None:
        """From here on no exception comes any more."""
        with self._lock:
            _raise_in(self._thread, ctypes.py_object())


def settled(task: Task, outcome: Outcome | None) -> Outcome:
    """The outcome of a task, cancelled or not: one that has ended well is done, every other one is not tried again."""
    if outcome is not None and (not task.cancelled or outcome.kind in (Ending.DONE, Ending.CANCELLED)):
        return outcome
    return Outcome(Ending.CANCELLED, task.cancelled)


def _raise_in(thread: int, exception: "ctypes.py_object[type[BaseException]]") -> None:
    """Has a thread raise an exception at its next instruction; an empty object takes back one that has not come yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
