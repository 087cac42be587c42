"""A second process that waits for the death of the node, and then ends processes that its tasks have started.

The kernel ends the workers with the node, but not the processes that their tasks have started. So the node starts the warden
before anything else, and tells it of each worker through a pipe. If the pipe ends without a goodbye (kill -9, out of memory),
the warden kills the workers' process groups, their cgroup and all processes with their mark (`strays`, which is its program).
"""

import contextlib
import os
import subprocess
import sys

from spoolnode.node.work import strays


class Warden:
    """The node's end of the pipe."""

    def __init__(self, instance: str) -> None:
        """Starts it.

        Args:
            instance: a word for this run of the node; it is in the marks of its workers.

        Raises:
            OSError: the machine has no room for it.
        """
        self.instance = instance
        self._cgroup = strays.cgroup_of(instance)
        theirs, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            # In a session of its own, away from signals for the node; it loads nothing that it does not need.
            self._process = subprocess.Popen(  # our own module
                [sys.executable, "-I", "-S", strays.__file__, str(theirs), instance, self._cgroup], pass_fds=(theirs,),
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd="/", env={},
            )  # fmt: skip
        finally:
            os.close(theirs)

    def watch(self, worker: int) -> None:
        """Tells it of a worker, whose process group must not outlive the node."""
        self._tell(f"+{worker}")
        if self._cgroup:
            strays.join_cgroup(self._cgroup, worker)

    def forget(self, worker: int) -> None:
        """Tells it that a worker has ended; processes that it left behind may stay."""
        self._tell(f"-{worker}")

    def dismiss(self) -> None:
        """Tells it that the node ends as it should; processes that tasks left behind may stay."""
        self._tell(strays.GOODBYE)
        os.close(self._pipe)
        self._process.wait()
        if self._cgroup:
            strays.remove_cgroup(self._cgroup)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it was killed; the next start of the node still cleans up
            os.write(self._pipe, f"{line}\n".encode())
