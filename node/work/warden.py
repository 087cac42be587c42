"""A second process that waits for the death of the node, and then ends what its tasks have started.

Workers die with the node: the kernel sees to that. What their tasks have started does not. So the node starts the warden before
anything else and tells it, through a pipe, of each worker. When the pipe ends without a goodbye (kill -9, out of memory) the
warden kills the workers' process groups, their cgroup and all that carries their mark (`strays`, which is its program).
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
            instance: what tells this run of the node from others; it is in the marks of its workers.

        Raises:
            OSError: the machine has no room for it.
        """
        self.instance = instance
        self._cgroup = strays.cgroup_of(instance)
        theirs, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            # In a session of its own, out of the way of signals for the node's; with nothing loaded that it does not need.
            self._process = subprocess.Popen(  # our own module
                [sys.executable, "-I", "-S", strays.__file__, str(theirs), instance, self._cgroup], pass_fds=(theirs,),
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd="/", env={},
            )  # fmt: skip
        finally:
            os.close(theirs)

    def watch(self, worker: int) -> None:
        """This process leads a group that must not outlive the node."""
        self._tell(f"+{worker}")
        if self._cgroup:
            strays.join_cgroup(self._cgroup, worker)

    def forget(self, worker: int) -> None:
        """It has ended, and what it left behind may stay."""
        self._tell(f"-{worker}")

    def dismiss(self) -> None:
        """The node ends as it should: what tasks have left behind may stay."""
        self._tell(strays.GOODBYE)
        os.close(self._pipe)
        self._process.wait()
        if self._cgroup:
            strays.remove_cgroup(self._cgroup)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody killed it; the next start of the node still cleans up
            os.write(self._pipe, f"{line}\n".encode())
