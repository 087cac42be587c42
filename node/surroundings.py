"""What a process has one of and a task may change: put back before the next task, so that none runs in what another left.

The working directory, the umask, the signal mask of the main thread, the environment, sys.stdin, sys.stdout and sys.stderr,
an alarm. Async tasks run side by side, and share all of these.

Asking the kernel, or telling it, for each task would cost half of what a quick task costs in all (five calls, 4 us of 8 to 12,
measured). So the few functions of Python that change these note that they were called; a change that C code makes by itself is
not seen.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

_CHANGERS: tuple[tuple[ModuleType, str], ...] = (
    *((os, name) for name in ("chdir", "fchdir", "umask")),
    *((signal, name) for name in ("pthread_sigmask", "setitimer", "alarm")),
)
_touched = False
"""Whether one of them was called since the last look."""


def watch() -> None:
    """From now on changes are noticed: before the application is loaded, so that it gets hold of no other functions."""
    for module, name in _CHANGERS:
        setattr(module, name, _noting(getattr(module, name), module.__name__))


def _noting(function: Callable[..., Any], module: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        global _touched  # noqa: PLW0603  # the process's own, as what it tells of
        _touched = True
        return function(*args, **kwargs)

    call.__module__ = module  # by that name it is pickled, for a pool of processes
    if function in os.supports_fd:
        os.supports_fd.add(call)
    return call


class Surroundings:
    """The state of this process as it is now, to come back to."""

    def __init__(self) -> None:
        # Not the path: it may lead elsewhere by then, and what was loaded belongs here.
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._environment = dict(_variables())
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._has_alarm = signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)

    def restore(self) -> None:
        """Undoes what has changed since."""
        if _touched:
            self._restore_process()
        if _variables() != self._environment:
            self._restore_environment()
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def _restore_process(self) -> None:
        global _touched  # noqa: PLW0603  # see above
        os.fchdir(self._directory)
        os.umask(self._umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if not self._has_alarm:
            signal.alarm(0)
        _touched = False

    def _restore_environment(self) -> None:
        for name in _variables().keys() - self._environment.keys():
            del os.environb[name]
        for name, value in self._environment.items():
            if os.environb.get(name) != value:
                os.environb[name] = value


def _variables() -> dict[bytes, bytes]:
    """The environment as Python holds it: comparing the mapping around it would decode each variable for each task."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]  # see above; it has been there since Python 3.2
