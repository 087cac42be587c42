"""A second process that waits for the death of the node, and then ends what its tasks have started.

Workers die with the node: the kernel sees to that. What their tasks have started does not. So the node forks the warden before
it does anything else and tells it, through a pipe, of each worker. When the pipe ends without a goodbye (kill -9, out of memory)
the warden kills the workers' process groups and all that carries their mark. It runs nothing of the application's.
"""

import contextlib
import gc
import os
import signal

from spoolnode.node import strays

_DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""What may reach all processes of a node at once: it ends when the node has ended."""
_GOODBYE = "goodbye"


class Warden:
    """The node's end of the pipe."""

    def __init__(self, instance: str) -> None:
        """Forks it; to be called while this process has one thread and holds nothing.

        Args:
            instance: what tells this run of the node from others; it is in the marks of its workers.
        """
        self.instance = instance
        theirs, self._pipe = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()
        if self.pid == 0:
            _live(theirs, instance)
        os.close(theirs)

    def watch(self, worker: int) -> None:
        """This process leads a group that must not outlive the node."""
        self._tell(f"+{worker}")

    def forget(self, worker: int) -> None:
        """It has ended, and what it left behind may stay."""
        self._tell(f"-{worker}")

    def dismiss(self) -> None:
        """The node ends as it should: what tasks have left behind may stay."""
        self._tell(_GOODBYE)
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it; the next start of the node still cleans up
            os.write(self._pipe, f"{line}\n".encode())


def _live(pipe: int, instance: str) -> None:
    """The life of the warden's process."""
    try:
        gc.disable()  # it makes no garbage, and would only unshare memory
        os.setsid()
        for number in _DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        _let_go_of_all_but(pipe)
        workers = _listen(pipe)
        if workers is not None:
            _end(workers, instance)
    finally:
        os._exit(0)


def _let_go_of_all_but(pipe: int) -> None:
    nowhere = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.chdir("/")
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 1 << 20)


def _listen(pipe: int) -> set[int] | None:
    """The workers that there were when the node died; None when it said goodbye."""
    workers: set[int] = set()
    with open(pipe, encoding="ascii") as lines:
        for line in map(str.strip, lines):
            if line == _GOODBYE:
                return None
            (workers.add if line[0] == "+" else workers.discard)(int(line[1:]))
    return workers


def _end(workers: set[int], instance: str) -> None:
    for worker in workers:
        with contextlib.suppress(OSError):  # it left nothing behind
            os.killpg(worker, signal.SIGKILL)
    strays.end(strays.mark_of(instance))
