"""The process-wide state that a task may change: it is restored before the next task, so that none inherits it from another.

The working directory, the umask, the signal mask of the main thread, signal handlers, the limits of resources, descriptors
0 to 2, the environment, sys.stdin, sys.stdout and sys.stderr, an alarm. Async tasks run side by side, and share all of these.

Asking the kernel for each task would cost half as much as a whole quick task (five calls, 4 us of 8 to 12, measured). So the
few functions of Python that change this state note that they were called. Changes by C code are not noticed.
"""

import contextlib
import fcntl
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

_OF_DESCRIPTORS = {"close", "closerange", "dup2"}
_OF_LIMITS = {"setrlimit", "prlimit"}
_OF_HANDLERS = {"signal"}
_OF_ENVIRONMENT = {"putenv", "unsetenv"}
_CHANGERS: tuple[tuple[ModuleType, str], ...] = (
    *((os, name) for name in ("chdir", "fchdir", "umask", *sorted(_OF_DESCRIPTORS), *sorted(_OF_ENVIRONMENT))),
    *((signal, name) for name in ("pthread_sigmask", "setitimer", "alarm", *_OF_HANDLERS)),
    *((resource, name) for name in sorted(_OF_LIMITS)),
)
_STANDARD = range(3)
"""The descriptors of standard input, output and error."""
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_called: set[str] = set()
"""The watched functions that were called since the last check."""


def watch() -> None:
    """Notices changes from now on; called before the application is loaded, so that it gets only the watched functions."""
    for module, name in _CHANGERS:
        setattr(module, name, _noting(getattr(module, name), module.__name__))


def _noting(function: Callable[..., Any], module: str) -> Callable[..., Any]:
    name = function.__name__
    of_descriptors = name in _OF_DESCRIPTORS

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not of_descriptors or _names_standard((*args, *kwargs.values())):
            _called.add(name)
        return function(*args, **kwargs)

    call.__module__ = module  # it is pickled by that name, for a pool of processes
    if function in os.supports_fd:
        os.supports_fd.add(call)
    return call


def _names_standard(arguments: tuple[Any, ...]) -> bool:
    """Whether one of these may be a descriptor below 3, which is rare."""
    return any(not isinstance(value, int) or value < len(_STANDARD) for value in arguments)


class Surroundings:
    """The state of this process as it is now, to restore later."""

    def __init__(self) -> None:
        # Not the path: it may lead elsewhere by then, and the loaded code belongs here.
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._environment = dict(_variables())
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
        self._standard: dict[int, int] = {}
        """Duplicates of the standard descriptors, except for those that the application itself has closed."""
        for number in _STANDARD:
            with contextlib.suppress(OSError):
                self._standard[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, len(_STANDARD))
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._has_alarm = signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)

    def restore(self) -> None:
        """Undoes the changes since.

        Raises OSError or ValueError if that is impossible: it takes a privilege to raise a lowered hard limit.
        """
        if _called:
            self._restore_process()
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def _restore_process(self) -> None:
        if _called & _OF_LIMITS:  # first: the others may need the resources
            self._restore_limits()
        if _called & _OF_DESCRIPTORS:
            for number, duplicate in self._standard.items():
                os.dup2(duplicate, number)
        if _called & _OF_HANDLERS:
            self._restore_handlers()
        if _called & _OF_ENVIRONMENT:  # `os.environ` calls these, too
            self._restore_environment()
        os.fchdir(self._directory)
        os.umask(self._umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if not self._has_alarm:
            signal.alarm(0)
        _called.clear()

    def _restore_limits(self) -> None:
        for limit, values in self._limits.items():
            if resource.getrlimit(limit) != values:
                resource.setrlimit(limit, values)

    def _restore_handlers(self) -> None:
        for number, handler in self._handlers.items():
            if handler is not None and signal.getsignal(number) != handler:  # None: it was set in C, out of Python's reach
                signal.signal(number, handler)

    def _restore_environment(self) -> None:
        for name in _variables().keys() - self._environment.keys():
            del os.environb[name]
        for name, value in self._environment.items():
            if os.environb.get(name) != value:
                os.environb[name] = value


def _variables() -> dict[bytes, bytes]:
    """The environment as Python holds it: comparing `os.environ` would decode each variable for each task."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]  # see above; it has been there since Python 3.2
