"""One lock for all workers of a node, and for the threads of each: what `@lock` and uWSGI's lock 0 are made of."""

import fcntl
import os
import threading
from types import TracebackType

from spoolnode.errors import Unavailable


class WorkersLock:
    """Held by one thread of one worker at a time, as long as it likes; the death of its worker frees it.

    It is a `flock` on a file that every node has and nobody else locks.
    """

    def __init__(self, spool: str) -> None:
        self._path = os.path.join(spool, "node.id")
        self._threads = threading.RLock()
        self._depth = 0
        self._descriptor = -1

    def __enter__(self) -> None:
        self._threads.acquire()
        if not self._depth:
            try:
                self._descriptor = self._open()
                fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            except BaseException:
                self._threads.release()
                raise
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also when a child that was forked meanwhile has it open
            os.close(self._descriptor)
        self._threads.release()

    @property
    def is_held(self) -> bool:
        """Whether anybody holds it, this thread included."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            raise Unavailable(f"a lock needs the spool directory of a node, and {os.path.dirname(self._path)} is none") from None
