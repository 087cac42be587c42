"""One spool directory belongs to one node: it locks the directory itself and a file in it, and repairs the directory if files
in it, or all of it, are removed under the running node.

The lock on the directory cannot be removed; the one on the file tells which process holds it, and keeps earlier versions out.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.disk.layout import Layout, make_places
from spoolnode.node.spool.store import Store


class Hold:
    """A spool directory that this process holds."""

    def __init__(self, layout: Layout, directory: int) -> None:
        self._layout = layout
        self._directory = directory
        self._lock = -1

    def take(self) -> None:
        """Takes the locks. Raises BadConfig if another process has them, OSError if the directory cannot be used."""
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        except OSError:
            pass  # a file system without locks on directories: that of the file must do
        self._take_file()

    def mend(self, store: Store, own: dict[str, bytes]) -> list[str]:
        """Makes missing directories, the lock and the small files `own` (contents by path) again. Returns the names of those it
        made.

        Raises:
            OSError: the directory itself is gone, or another one is in its place.
        """
        named, held = os.stat(self._layout.root), os.fstat(self._directory)
        if (named.st_ino, named.st_dev) != (held.st_ino, held.st_dev):
            raise OSError(errno.ENOENT, "it was moved away, and another one is in its place")
        missing = make_places(store.disk, self._layout)
        if not self._has_file():
            self._take_file()
            missing.append("lock")
        for path, content in own.items():
            if not os.path.lexists(path):
                store.replace(path, content)
                missing.append(os.path.basename(path))
        return missing

    def close(self) -> None:
        """Releases the locks."""
        for descriptor in (self._lock, self._directory):
            if descriptor >= 0:
                os.close(descriptor)

    def _take_file(self) -> None:
        before, self._lock = self._lock, _open_lock(self._layout.lock)
        if before >= 0:
            os.close(before)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        with contextlib.suppress(OSError):  # a full disk: then the holder stays unknown
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _has_file(self) -> bool:
        try:
            named = os.lstat(self._layout.lock)
        except FileNotFoundError:
            return False
        held = os.fstat(self._lock)
        return (named.st_ino, named.st_dev) == (held.st_ino, held.st_dev)

    def _taken(self) -> BadConfig:
        pid = ""
        with contextlib.suppress(OSError), open(self._layout.lock, encoding="ascii", errors="replace") as file:
            pid = file.read(20).strip()
        who = f"another node (pid {pid})" if pid.isdecimal() else "another node"
        return BadConfig(f"{who} runs on {self._layout.root}; a spool directory belongs to one node")


def _open_lock(path: str) -> int:
    """The lock file. A link, or anything else in its place, is put aside; the target of a link is not touched."""
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return os.open(path, flags, 0o600)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.rename(path, f"{path}.{time.time_ns()}")
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def lock_spool(layout: Layout) -> Iterator[Hold]:
    """Holds the spool directory for this process; the kernel releases it when the process dies.

    Raises:
        BadConfig: another node runs on it, or it cannot be made.
    """
    try:
        if os.path.isfile(layout.root):
            raise BadConfig(f"--spool: {layout.root} is a file, not a directory")
        os.makedirs(layout.root, mode=0o750, exist_ok=True)
        hold = Hold(layout, os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise BadConfig(f"--spool {layout.root} cannot be used: {error.strerror}") from error
    try:
        try:
            hold.take()
        except OSError as error:
            raise BadConfig(f"--spool {layout.root} cannot be used: {error.strerror}") from error
        yield hold
    finally:
        hold.close()
