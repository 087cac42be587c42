"""Children that tasks fork: no child is a worker. It has no way to the node, marks nothing, and never comes back to our loop.

A forked child may do what it likes inside the task: compute, exec, `os._exit`. When it returns from the task instead, or
leaves it with an exception or `sys.exit`, it ends there, with the status that Python would give it.
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
"""Seconds after a fork within which an idle worker looks whether the child came back; later ones are seen after the next task."""
_PID = struct.Struct("<i")
_pid = 0
"""The worker's own process id."""
_forked_at = float("-inf")
_back: tuple[int, int] = (-1, -1)
"""A pipe on which children that came back say so before they end."""


def keep_children_out(let_go: Callable[[], None]) -> None:
    """From now on only this process is the worker.

    Args:
        let_go: called in each child that Python forks (`os.fork`, `pty.fork`, `multiprocessing`): gives up what is the worker's.
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


def reap() -> None:
    """Between two tasks, in the worker: no zombies are left of children that came back. All others are the task's."""
    with contextlib.suppress(BlockingIOError):
        while True:
            (child,) = _PID.unpack(os.read(_back[0], _PID.size))
            with contextlib.suppress(ChildProcessError):  # its task has waited for it, or it is a child of a child
                os.waitpid(child, 0)


def end_if_forked(error: BaseException | None = None) -> None:
    """Ends this process when it is not the worker but a child that came back from its task, with `error` or without.

    It asks the kernel, not a hook of Python's: a fork in C is seen as well.
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
    """As the interpreter reads `sys.exit(code)`."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1
