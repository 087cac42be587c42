"""Children that tasks fork: a child is not a worker. It cannot reach the node, marks nothing, and never returns to our loop.

A forked child may do what it likes inside the task: compute, exec, `os._exit`. If it returns from the task, or leaves it with
an exception or `sys.exit`, it ends there, with the status that Python would give it.
"""

import contextlib
import os
import struct
import sys
import time
import traceback
from collections.abc import Callable

from spoolnode.node.work import output

SOON = 5.0
"""Seconds after a fork in which an idle worker checks for children that came back; later it does so after each task."""
_PID = struct.Struct("<i")
_pid = 0
"""The worker's own process id."""
_forked_at = float("-inf")
_back: tuple[int, int] = (-1, -1)
"""A pipe into which children that came back write before they end."""


def keep_children_out(let_go: Callable[[], None]) -> None:
    """From now on only this process is the worker.

    Args:
        let_go: called in each child that Python forks (`os.fork`, `pty.fork`, `multiprocessing`): gives up what belongs to the
        worker.
    """
    global _pid, _back  # noqa: PLW0603  # they are the process's own
    _pid = os.getpid()
    _back = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    os.register_at_fork(after_in_child=let_go, after_in_parent=_note_fork)


def _note_fork() -> None:
    global _forked_at  # noqa: PLW0603  # see above
    _forked_at = time.monotonic()


def expects_children() -> bool:
    """Whether a child may come back soon."""
    return time.monotonic() - _forked_at < SOON


def reap_children() -> None:
    """Reaps children that came back, between two tasks, in the worker. All other children belong to their task."""
    with contextlib.suppress(BlockingIOError):
        while True:
            (child,) = _PID.unpack(os.read(_back[0], _PID.size))
            with contextlib.suppress(ChildProcessError):  # its task has reaped it, or it is a child of a child
                os.waitpid(child, 0)


def end_if_forked(error: BaseException | None = None) -> None:
    """Ends this process if it is not the worker but a child that came back from its task, with `error` or without.

    It asks the kernel, not a hook of Python, so it also notices a fork in C.
    """
    if os.getpid() == _pid:
        return
    status = 0
    if isinstance(error, SystemExit):
        status = _status_of(error)
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    output.flush_task()
    with contextlib.suppress(OSError):
        os.write(_back[1], _PID.pack(os.getpid()))
    os._exit(status)


def _status_of(error: SystemExit) -> int:
    """The exit status, as the interpreter reads `sys.exit(code)`."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1
