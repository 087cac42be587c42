"""One lock for all workers of a node and their threads, for `@lock` and uWSGI's lock 0."""

import fcntl
import os
import threading
from types import TracebackType

from spoolnode.errors import Unavailable


class WorkersLock:
    """One thread of one worker at a time may hold it, as long as it likes. The death of the worker frees it.

    It is a `flock` on a file that every node has and nothing else locks.
    """

    def __init__(self, spool: str) -> None:
        self._path = os.path.join(spool, "node.id")
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __repr__(self) -> str:
        return f"<WorkersLock on {self._path}{', held here' if self._depth else ''}>"

    def __enter__(self) -> None:
        self._threads.acquire()
        if not self._depth:
            try:
                self._descriptor = self._locked()
            except BaseException:  # see `_locked`
                self._threads.release()
                raise
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # even if a child that was forked meanwhile has it open
            os.close(self._descriptor)
        self._threads.release()

    @property
    def is_held(self) -> bool:
        """Whether any thread holds it, this one included."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _locked(self) -> int:
        """Waits for the lock. Returns the descriptor that has it."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BaseException:  # a task that is cancelled while it waits hears of it when it has the lock
            os.close(descriptor)
            raise
        return descriptor

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise Unavailable(
                f"a lock needs the spool directory of a node, and {os.path.dirname(self._path)} is not one"
            ) from None
