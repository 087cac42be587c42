"""Finds processes that tasks have started and left, by a mark in their environment, and kills them.

A process group does not hold a process that called `setsid`, and a parent is forgotten when it dies. The mark stays, unless a
program was started with an environment of its own (then its process group may still hold it). A cgroup, where we may make one,
holds all of them.

This file is also the whole program of the warden (see `warden`), so it imports nothing of ours and little else.
"""

import contextlib
import os
import re
import signal
import sys
import time

MARK = "_SPOOLNODE_MARK"
"""The variable in the environment of each worker, and so of its tasks' processes. Its name cannot be a misspelt setting."""
CGROUP = "spoolnode-"
"""The beginning of our cgroups' names."""
PATIENCE = 3.0
"""Seconds within which killed processes must be gone."""
_PAUSE = 0.01


def mark_of(instance: str, worker: int | None = None) -> str:
    """The mark of all workers of one run of a node, or of one of them."""
    return f"{instance}." if worker is None else f"{instance}.{worker}."


def end(mark: str, since: float = 0.0) -> tuple[int, list[int]]:
    """Kills all processes with a mark that began after `since` (monotonic seconds). Returns how many, and which are left."""
    needle = f"\0{MARK}={mark}".encode()
    killed: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while (found := [pid for pid in _processes() if _kill(pid, needle, since)]) and time.monotonic() < deadline:
        killed.update(found)
        time.sleep(_PAUSE)  # killed processes need a moment to go, and may have started others just before
    return len(killed), found


def reap(but: set[int]) -> None:
    """Reaps children that have ended, except for those in `but`, which are reaped elsewhere."""
    with contextlib.suppress(ChildProcessError):  # no children at all
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid not in but:
            os.waitpid(ended.si_pid, os.WNOHANG)


def cgroup_of(instance: str) -> str:
    """The path of the cgroup of one run of a node, below our own one (cgroups(7), version 2); empty without cgroups."""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            mounted = next((words[1] for words in map(str.split, mounts) if words[2] == "cgroup2"), "")
        with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as cgroups:
            ours = next((line[3:].rstrip("\n") for line in cgroups if line.startswith("0::")), "")
    except OSError:
        return ""
    return os.path.join(mounted, ours.lstrip("/"), f"{CGROUP}{instance}") if mounted and ours else ""


def join_cgroup(path: str, pid: int) -> None:
    """Puts a process, and all that it will start, into that cgroup, if we may make one.

    That takes root or a delegated subtree. Also removes empty cgroups that ended nodes have left.
    """
    with contextlib.suppress(OSError):  # we may not, or it has ended: the mark remains
        if not os.path.isdir(path):
            below = os.path.dirname(path)
            for other in os.listdir(below):
                if other.startswith(CGROUP):
                    remove_cgroup(os.path.join(below, other))
            os.mkdir(path)
        _write(f"{path}/cgroup.procs", str(pid))


def end_cgroup(path: str) -> int:
    """Kills all processes in a cgroup, and removes it. Returns how many there were."""
    deadline = time.monotonic() + PATIENCE
    try:
        with open(f"{path}/cgroup.procs", encoding="ascii") as file:
            count = len(file.read().split())
        _write(f"{path}/cgroup.kill", "1")
    except OSError:  # it does not exist, or the kernel is older than 5.14: the mark remains
        return 0
    while not remove_cgroup(path) and time.monotonic() < deadline:
        time.sleep(_PAUSE)
    return count


def remove_cgroup(path: str) -> bool:
    """Removes a cgroup. Returns whether it is gone: it stays as long as a process runs in it."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


GOODBYE = "goodbye"
_DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that may reach all processes of a node at once; the warden ends when the node has ended."""


def live_as_warden(pipe: int, instance: str, cgroup: str) -> None:
    """The life of the warden's process.

    Args:
        pipe: brings `+PID` and `-PID` of the node's workers, and `GOODBYE` if the node ends as it should; it ends with the
        node. instance: the word in the marks of that node's workers. cgroup: the path of its workers' cgroup; empty if this
        machine has none.
    """
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    workers: set[int] = set()
    with open(pipe, encoding="ascii") as lines:
        for line in map(str.strip, lines):
            if line == GOODBYE:
                return
            (workers.add if line[0] == "+" else workers.discard)(int(line[1:]))
    for worker in workers:
        with contextlib.suppress(OSError):  # it left nothing behind
            os.killpg(worker, signal.SIGKILL)
    if cgroup:
        end_cgroup(cgroup)
    end(mark_of(instance))


def read_instances(path: str) -> list[str]:
    """The runs of nodes that did not end as they should, from that file."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return [line for line in file.read(4096).split() if re.fullmatch("[0-9a-f]{16}", line)]
    except OSError:
        return []


def write_instances(path: str, instances: list[str]) -> None:
    """Saves these runs, without a sync: they need to survive only as long as their processes. Raises OSError."""
    with open(path, "w", encoding="ascii") as file:
        file.write("".join(f"{instance}\n" for instance in instances))


def _processes() -> list[int]:
    try:
        names = os.listdir("/proc")
    except OSError:  # /proc is not mounted: then nothing can be found
        return []
    return [int(name) for name in names if name.isdecimal() and int(name) != os.getpid()]


def _kill(pid: int, needle: bytes, since: float) -> bool:
    """Kills a process if it has the mark. Returns whether it did. It uses a descriptor: a pid could be reused meanwhile."""
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        descriptor = os.pidfd_open(pid)
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                is_meant = needle in b"\0" + file.read()
            if is_meant and (not since or _began(pid) >= since):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def _began(pid: int) -> float:
    """When a process began, in monotonic seconds; rounded up, because the kernel counts in hundredths."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    return (ticks + 1) / os.sysconf("SC_CLK_TCK") - asleep


if __name__ == "__main__":
    live_as_warden(int(sys.argv[1]), sys.argv[2], sys.argv[3])
