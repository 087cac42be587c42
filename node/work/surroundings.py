"""What a process has one of and a task may change: put back before the next task, so that none runs in what another left.

The working directory, the umask, the signal mask of the main thread, signal handlers, the limits of resources, descriptors
0 to 2, the environment, sys.stdin, sys.stdout and sys.stderr, an alarm. Async tasks run side by side, and share all of these.

Asking the kernel, or telling it, for each task would cost half of what a quick task costs in all (five calls, 4 us of 8 to 12,
measured). So the few functions of Python that change these note that they were called; a change that C code makes by itself is
not seen.
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
"""The descriptors that every program takes for its input, its output and its errors."""
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_called: set[str] = set()
"""Which of them were called since the last look."""


def watch() -> None:
    """From now on changes are noticed: before the application is loaded, so that it gets hold of no other functions."""
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

    call.__module__ = module  # by that name it is pickled, for a pool of processes
    if function in os.supports_fd:
        os.supports_fd.add(call)
    return call


def _names_standard(arguments: tuple[Any, ...]) -> bool:
    """Whether one of these may be a descriptor below 3; nearly every call is about another."""
    return any(not isinstance(value, int) or value < len(_STANDARD) for value in arguments)


class Surroundings:
    """The state of this process as it is now, to come back to."""

    def __init__(self) -> None:
        # Not the path: it may lead elsewhere by then, and what was loaded belongs here.
        self._directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._environment = dict(_variables())
        self._handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self._limits = {limit: resource.getrlimit(limit) for limit in _LIMITS}
        self._standard: dict[int, int] = {}
        """Duplicates of the standard descriptors, but for one that the application itself has closed."""
        for number in _STANDARD:
            with contextlib.suppress(OSError):
                self._standard[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, len(_STANDARD))
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._has_alarm = signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)

    def restore(self) -> None:
        """Undoes what has changed since.

        Raises OSError or ValueError when that is not possible: a hard limit, once lowered, takes a privilege to raise.
        """
        if _called:
            self._restore_process()
        sys.stdin, sys.stdout, sys.stderr = self._streams

    def _restore_process(self) -> None:
        if _called & _OF_LIMITS:  # first: the others may need what was taken
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
    """The environment as Python holds it: comparing the mapping around it would decode each variable for each task."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]  # see above; it has been there since Python 3.2
