"""Every call of the spool to a file system, as one small interface, so that tests can lose and tear writes.

It comes in three steps, because not every thread may do everything: `ReadingDisk`, `MarkingDisk`, `Disk` (ARCHITECTURE.md,
"Threads"). `RealDisk` is the operating system. `spoolnode.node.disk.fakes.FakeDisk` is a disk in memory that forgets what was
not synced. All paths are strings; all calls may raise OSError and may block, so they are made off the event loop.
"""

import errno
import os
import stat
from typing import NamedTuple, Protocol

_TO_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


class Entry(NamedTuple):
    """One entry of a directory."""

    name: str
    is_file: bool
    """A regular file; links and others are neither files nor directories."""
    is_directory: bool
    size: int
    mtime: float
    changed: float = 0.0
    """When anything about it last changed (ctime), in seconds since 1970."""


class ReadingDisk(Protocol):
    """The calls that any thread may make: they change nothing."""

    def open_to_read(self, path: str) -> int:
        """An existing file, also one of another user; its descriptor. A link is refused.

        Not for writing: the inbox takes the close of a file that was open for writing as a sign that its writer is done.
        """

    def close(self, descriptor: int) -> None: ...

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes; fewer only at the end of the file."""

    def size(self, descriptor: int) -> int: ...

    def front(self, path: str, most: int) -> tuple[float, bytes]:
        """When an existing file was last changed (mtime), and its first bytes, up to so many. A link is refused.

        The same as four other calls, in two thirds of their time: a count of dead tasks reads a hundred thousand files.
        """

    def leads_to(self, path: str, descriptor: int) -> bool:
        """Whether a path is still a name of that open file: it, or a directory above it, may have been removed."""

    def entries(self, path: str) -> list[Entry]:
        """All entries of a directory; empty if it does not exist."""

    def files(self, path: str) -> list[str]:
        """The names of the regular files in a directory, without a look at the files; empty if it does not exist."""

    def directories(self, path: str) -> list[str]:
        """The names of the directories in a directory, without looking at anything else in it; empty if it does not exist."""

    def stat(self, path: str) -> Entry:
        """The entry of that path itself, links not followed."""

    def free(self, path: str) -> int:
        """Bytes that an ordinary user can still write."""


class MarkingDisk(ReadingDisk, Protocol):
    """The calls that a thread may make for the file of a task that it holds: they leave the file in its place."""

    def open(self, path: str) -> int:
        """An existing file for reading and writing; its descriptor. A link is refused."""

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        """Writes all of `data`."""

    def set_mtime(self, path: str, mtime: float) -> None: ...


class Disk(MarkingDisk, Protocol):
    """All calls that the spool needs."""

    def create(self, path: str) -> int:
        """A new file, readable and writable by the owner only; its descriptor. Raises FileExistsError if it exists."""

    def allocate(self, descriptor: int, size: int) -> None:
        """Reserves `size` bytes that read as zeros, so that writing them needs no more space."""

    def sync(self, descriptor: int) -> None:
        """Returns when the file's data are on the medium (fdatasync)."""

    def sync_directory(self, path: str) -> None:
        """Returns when the names in the directory are on the medium."""

    def rename(self, source: str, target: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def make_directory(self, path: str) -> None:
        """Makes a directory, unless it exists.

        Raises NotADirectoryError, or ELOOP for a link, if something else exists.
        """


class RealDisk:
    """The operating system's file system."""

    def __init__(self) -> None:
        self._inodes: dict[int, tuple[int, int]] = {}
        """Inode and device of the open files that `leads_to` was asked about, because each commit asks."""

    def create(self, path: str) -> int:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def open_to_read(self, path: str) -> int:
        return os.open(path, _TO_READ)

    def close(self, descriptor: int) -> None:
        self._inodes.pop(descriptor, None)
        os.close(descriptor)

    def allocate(self, descriptor: int, size: int) -> None:
        # Writes zeros instead of reserving blocks: reserved ones (fallocate) each fdatasync also has to convert, which
        # takes 1.5 times as long for a group of 16 tasks, and 2.5 times on an ext4 with a journal (measured).
        have = self.size(descriptor)
        if have < size:
            self.write(descriptor, bytes(size - have), have)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        data = os.pread(descriptor, size, offset)
        while len(data) < size and (more := os.pread(descriptor, size - len(data), offset + len(data))):
            data += more
        return data

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def front(self, path: str, most: int) -> tuple[float, bytes]:
        descriptor = os.open(path, _TO_READ)
        try:
            return os.fstat(descriptor).st_mtime, os.read(descriptor, most)
        finally:
            os.close(descriptor)

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def leads_to(self, path: str, descriptor: int) -> bool:
        try:
            named = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        inode = self._inodes.get(descriptor)
        if inode is None:
            found = os.fstat(descriptor)
            inode = self._inodes[descriptor] = found.st_ino, found.st_dev
        return (named.st_ino, named.st_dev) == inode

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def make_directory(self, path: str) -> None:
        try:
            os.makedirs(path, mode=0o750, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
        if os.path.islink(path):
            raise OSError(errno.ELOOP, "it is a symbolic link", path)

    def entries(self, path: str) -> list[Entry]:
        found = []
        try:
            with os.scandir(path) as directory:
                for item in directory:
                    try:
                        found.append(_entry(item.name, item.stat(follow_symlinks=False)))
                    except FileNotFoundError:
                        continue  # it was removed after the listing
        except FileNotFoundError:
            return []
        return found

    def files(self, path: str) -> list[str]:
        try:
            with os.scandir(path) as found:
                return [item.name for item in found if item.is_file(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def directories(self, path: str) -> list[str]:
        try:
            with os.scandir(path) as found:
                return [item.name for item in found if item.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []

    def stat(self, path: str) -> Entry:
        return _entry(os.path.basename(path), os.lstat(path))

    def set_mtime(self, path: str, mtime: float) -> None:
        os.utime(path, (mtime, mtime), follow_symlinks=False)

    def free(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name, stat.S_ISREG(found.st_mode), stat.S_ISDIR(found.st_mode), found.st_size, found.st_mtime, found.st_ctime)


def is_full(error: BaseException | None) -> bool:
    """Whether the error says that the disk has no room for one more file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def discard(disk: Disk, path: str) -> None:
    """Removes a file if it exists. A file that cannot be removed is swept at the next start (tmp/)."""
    try:
        disk.unlink(path)
    except OSError:
        return
