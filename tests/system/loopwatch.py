"""`python loopwatch.py join ...`: a node that notes each file system call of its event loop's own thread.

Calls that Python reports to an audit hook are heard there (opening, listing, removing, renaming, ...); others are wrapped.
From when the node listens to its end, each new (call, functions of ours that led to it) is a line of JSON in the file that
the variable SEEN names. Calls about /dev, /proc and /sys are none to a disk; nor are those about sockets and memory.
"""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from spoolnode.node import node
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.ingress.listener import Listener

TOLD = {
    *("open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.utime", "os.chmod"),
    *("os.truncate", "os.link", "os.symlink", "subprocess.Popen"),
}
WITH_PATH = ("stat", "lstat", "statvfs", "access", "readlink")
WITH_DESCRIPTOR = ("fstat", "fsync", "fdatasync", "pread", "pwrite", "ftruncate")
_NO_DISK = ("/dev/", "/proc/", "/sys/", "/memfd:")


class Watch:
    """The work of the thread that made it."""

    def __init__(self, target: int) -> None:
        self.active = False
        self._target = target
        self._thread = threading.get_ident()
        self._seen: set[tuple[str, ...]] = set()
        self._real_fstat = os.fstat
        self._real_readlink = os.readlink
        self._busy = False

    def install(self) -> None:
        """Hears every call from now on; notes it while `active`."""
        for name in (*WITH_PATH, *WITH_DESCRIPTOR):
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        sys.addaudithook(lambda event, args: self.note(event, args[0]) if event in TOLD else None)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(target: Any, *args: Any, **kwargs: Any) -> Any:
            self.note(f"os.{name}", target)
            return real(target, *args, **kwargs)

        return wrapped

    def note(self, call: str, target: Any) -> None:
        """One call; in any thread."""
        if not self.active or self._busy or threading.get_ident() != self._thread:
            return
        self._busy = True
        try:
            path = self._path(target)
            if path and not path.startswith(_NO_DISK):
                self._write(call, path, list(_ours(sys._getframe(2))))
        finally:
            self._busy = False

    def _path(self, target: Any) -> str:
        """Empty for files that are not on a disk."""
        if not isinstance(target, int):
            return os.path.join(os.getcwd(), os.fsdecode(target)) if isinstance(target, str | bytes | os.PathLike) else ""
        found = self._real_fstat(target).st_mode
        return self._real_readlink(f"/proc/self/fd/{target}") if stat.S_ISREG(found) or stat.S_ISDIR(found) else ""

    def _write(self, call: str, path: str, functions: list[str]) -> None:
        if (call, *functions) not in self._seen:
            self._seen.add((call, *functions))
            os.write(self._target, json.dumps({"call": call, "path": path, "functions": functions}).encode() + b"\n")


def _ours(frame: FrameType | None) -> Any:
    """The functions of spoolnode that are under way, the innermost first, as `node.storage.Storage.load`."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("spoolnode."):
            yield f"{module.removeprefix('spoolnode.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back


def main() -> None:
    """Runs the command under the watch, with a guard on the disk of the spool."""
    watch = Watch(os.open(os.environ["SEEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    guards: list[GuardedDisk] = []
    listen, load = Listener.open, node.Storage.load

    def listen_and_watch(self: Listener) -> None:
        listen(self)
        watch.active = True

    def load_and_guard(self: node.Storage, boot: str = "") -> None:
        guard = GuardedDisk(RealDisk(), self.journal.layout)
        self.journal.store.disk = self.spool.group_commit._disk = guard
        load(self, boot)
        guard.in_force = True
        guards.append(guard)

    Listener.open = listen_and_watch  # type: ignore[method-assign] # from here on it serves
    node.Storage.load = load_and_guard  # type: ignore[method-assign] # from here on there are threads
    watch.install()
    try:
        from spoolnode.cli import main as run

        run()
    finally:
        watch.active = False
        assert not [violation for guard in guards for violation in guard.violations]


if __name__ == "__main__":
    main()
