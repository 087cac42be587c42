"""A disk in memory that behaves like a bad one: seeded, shared by all tests, part of the public surface.

    disk = FakeDisk(seed=1)
    disk.fail_at(7, errno.EIO)      the 7th call from now on raises
    disk.crash()                    a power cut: what was not synced is lost, kept or torn, by the seed

The model: a write is safe after `sync` of its file; a name (created, renamed, removed) is safe after `sync_directory` of
its directory. After a power cut each unsafe name change of a directory survives up to a random point in the order in which they
were made (journalling file systems keep that order), and each unsafe write survives whole, in part, or not at all.
"""

import errno
import os
import random
from dataclasses import dataclass, field

from spoolnode.node.disk import Entry

SECTOR = 512
"""What a medium writes whole or not at all, in bytes."""


@dataclass(eq=False)
class _File:
    data: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    mtime: float = 0.0
    pending: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class _Directory:
    names: dict[str, "_File | None"] = field(default_factory=dict)
    """None marks a directory."""
    safe: dict[str, "_File | None"] = field(default_factory=dict)
    changes: list[tuple[str, "_File | None", bool]] = field(default_factory=list)
    """name, file, present: not yet safe."""


class FakeDisk:
    """A file system in memory; see the module."""

    def __init__(self, seed: int = 0, free: int = 1 << 40) -> None:
        self.random = random.Random(seed)
        self.space = free
        self.now = 1_700_000_000.0
        """The time that new files get; tests move it."""
        self.calls = 0
        self._fail: dict[int, int] = {}
        self._directories: dict[str, _Directory] = {"/": _Directory()}
        self._open: dict[int, _File] = {}
        self._next = 100

    def fail_at(self, call: int, error: int) -> None:
        """The `call`-th call from now (1 is the next) raises OSError with that errno, and does nothing."""
        self._fail[self.calls + call] = error

    def crash(self) -> None:
        """A power cut, and power again: open descriptors are gone, the unsafe is lost, kept or torn."""
        self._open.clear()
        self._fail.clear()
        for directory in self._directories.values():
            kept = self.random.randint(0, len(directory.changes))
            for name, file, present in directory.changes[:kept]:
                _apply(directory.safe, name, file, present)
            directory.names = dict(directory.safe)
            directory.changes = []
        for file in self._all_files():
            data = bytearray(file.safe)
            for offset, piece in file.pending:
                self._tear(data, offset, piece)
            file.data, file.safe, file.pending = data, bytes(data), []

    def _tear(self, data: bytearray, offset: int, piece: bytes) -> None:
        for start in range(0, len(piece), SECTOR):
            if self.random.random() < 0.5:
                part = piece[start : start + SECTOR]
                if self.random.random() < 0.2:
                    part = part[: self.random.randint(0, len(part))]
                _place(data, offset + start, part)

    def _all_files(self) -> list[_File]:
        found = [file for directory in self._directories.values() for file in directory.names.values()]
        return [file for file in found if file is not None]

    def _call(self) -> None:
        self.calls += 1
        if (code := self._fail.pop(self.calls, None)) is not None:
            raise OSError(code, os.strerror(code))

    def _split(self, path: str) -> tuple[_Directory, str]:
        parent, name = os.path.split(os.path.abspath(path))
        if parent not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._directories[parent], name

    def _file(self, path: str) -> _File:
        directory, name = self._split(path)
        file = directory.names.get(name)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return file

    def _change(self, directory: _Directory, name: str, file: "_File | None", present: bool) -> None:
        _apply(directory.names, name, file, present)
        directory.changes.append((name, file, present))

    def _opened(self, file: _File) -> int:
        self._next += 1
        self._open[self._next] = file
        return self._next

    def create(self, path: str) -> int:
        self._call()
        directory, name = self._split(path)
        if name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        file = _File(mtime=self.now)
        self._change(directory, name, file, True)
        return self._opened(file)

    def open(self, path: str) -> int:
        self._call()
        return self._opened(self._file(path))

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    def allocate(self, descriptor: int, size: int) -> None:
        self._call()
        file = self._open[descriptor]
        missing = size - len(file.data)
        if missing > self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.space -= max(missing, 0)
        file.data.extend(bytes(max(missing, 0)))

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._call()
        file = self._open[descriptor]
        missing = max(offset + len(data) - len(file.data), 0)
        if missing > self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.space -= missing
        _place(file.data, offset, data)
        file.pending.append((offset, bytes(data)))

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        self._call()
        return bytes(self._open[descriptor].data[offset : offset + size])

    def size(self, descriptor: int) -> int:
        return len(self._open[descriptor].data)

    def sync(self, descriptor: int) -> None:
        self._call()
        file = self._open[descriptor]
        file.safe, file.pending = bytes(file.data), []

    def sync_directory(self, path: str) -> None:
        self._call()
        directory = self._directories[os.path.abspath(path)]
        directory.safe, directory.changes = dict(directory.names), []

    def rename(self, source: str, target: str) -> None:
        self._call()
        file = self._file(source)
        source_directory, source_name = self._split(source)
        target_directory, target_name = self._split(target)
        self._change(target_directory, target_name, file, True)
        self._change(source_directory, source_name, None, False)

    def unlink(self, path: str) -> None:
        self._call()
        self._file(path)
        directory, name = self._split(path)
        self._change(directory, name, None, False)

    def make_directory(self, path: str) -> None:
        """Directories are made before anything is promised, so they are safe at once."""
        path = os.path.abspath(path)
        if path in self._directories:
            return
        self._call()
        parent = os.path.dirname(path)
        self.make_directory(parent)
        self._directories[path] = _Directory()
        self._directories[parent].names[os.path.basename(path)] = None
        self._directories[parent].safe[os.path.basename(path)] = None

    def entries(self, path: str) -> list[Entry]:
        self._call()
        directory = self._directories.get(os.path.abspath(path))
        return [_entry(name, file) for name, file in directory.names.items()] if directory else []

    def stat(self, path: str) -> Entry:
        self._call()
        return _entry(os.path.basename(path), self._file(path))

    def set_mtime(self, path: str, mtime: float) -> None:
        self._call()
        self._file(path).mtime = mtime

    def free(self, path: str) -> int:
        del path
        return self.space


def _apply(names: dict[str, "_File | None"], name: str, file: "_File | None", present: bool) -> None:
    if present:
        names[name] = file
    else:
        names.pop(name, None)


def _place(data: bytearray, offset: int, piece: bytes) -> None:
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _entry(name: str, file: "_File | None") -> Entry:
    if file is None:
        return Entry(name, is_file=False, is_directory=True, size=0, mtime=0.0)
    return Entry(name, is_file=True, is_directory=False, size=len(file.data), mtime=file.mtime)
