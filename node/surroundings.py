"""What a process has one of and a task may change: put back before the next task, so that none runs in what another left.

The working directory, the umask, the signal mask of the main thread, the environment, sys.stdin, sys.stdout and sys.stderr,
an alarm. Costs about two microseconds a task. Async tasks run side by side, and share all of these.
"""

import os
import signal
import sys


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
        os.fchdir(self._directory)
        os.umask(self._umask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if _variables() != self._environment:
            self._restore_environment()
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if not self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _restore_environment(self) -> None:
        for name in _variables().keys() - self._environment.keys():
            del os.environb[name]
        for name, value in self._environment.items():
            if os.environb.get(name) != value:
                os.environb[name] = value


def _variables() -> dict[bytes, bytes]:
    """The environment as Python holds it: comparing the mapping around it would decode each variable for each task."""
    return os.environ._data  # type: ignore[attr-defined,no-any-return]  # see above; it has been there since Python 3.2
