"""For tests: a disk in memory that behaves like a bad one, a disk thread that moves only when told, and a guard that knows
which thread may call a disk. Seeded, part of the public surface, shared by all tests.

    disk = FakeDisk(seed=1)
    disk.fail_at(7, errno.EIO)      the 7th call from now on fails
    disk.cut_power_at(7)            so does that one and every one after it, until the power is back:
    disk.crash()                    what was not synced is lost, kept or torn, by the seed
    disk.kill()                     the process died: its descriptors are gone, everything that was written is there

The model is Linux with a journalling file system:
- A write is safe after `sync` of its file. After a power cut each unsafe write survives whole, in part, or not at all.
- A name (created, renamed, removed; of a file or a directory) is safe after `sync_directory` of its directory. After a
  power cut the unsafe changes of each directory survive up to a random point in their order; a file under rename is never
  in no place.
- A time is safe after a `sync` that follows it.
- A write that fails may have written a part. What a failed `sync` should have saved is visible until the power goes;
  whether it is on the medium is unknown, and a later `sync` does not save it.

It is simpler than Linux: nothing becomes safe by itself, unlinked files free their space at once, directories take none,
no file has two names, `close` never fails, and users and permissions do not exist.
"""

import asyncio
import errno
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from spoolnode.node.disk.disk import Disk, Entry
from spoolnode.node.disk.layout import Layout
from spoolnode.node.disk.threads import DiskThread

SECTOR = 512
"""Bytes that a medium writes whole or not at all."""
LONGEST_NAME = 255
"""Bytes of a name in a directory."""


class PowerCut(Exception):
    """The machine is off; no call to the disk returns any more."""


@dataclass(eq=False)
class _File:
    mtime: float
    safe_mtime: float
    data: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def place(self, offset: int, piece: bytes) -> None:
        _place(self.data, offset, piece)
        self.pending.append((offset, bytes(piece)))

    def save(self) -> None:
        """Makes safe what is unsafe."""
        for offset, piece in self.pending:
            _place(self.safe, offset, piece)
        self.safe.extend(bytes(max(len(self.data) - len(self.safe), 0)))
        self.pending, self.safe_mtime = [], self.mtime


@dataclass(eq=False)
class _Change:
    """A name that leads elsewhere now (None: nowhere), and is not safe yet."""

    name: str
    node: "_File | _Directory | None"
    arrival: "tuple[_Directory, _Change] | None" = None
    """Where the file went, if it was renamed."""


@dataclass(eq=False)
class _Directory:
    names: "dict[str, _File | _Directory]" = field(default_factory=dict)
    safe: "dict[str, _File | _Directory]" = field(default_factory=dict)
    changes: list[_Change] = field(default_factory=list)

    def change(self, change: _Change) -> None:
        _apply(self.names, change)
        self.changes.append(change)

    def save(self, count: int) -> None:
        """Makes the first `count` changes safe."""
        for change in self.changes[:count]:
            if change.arrival is not None:
                there, arrival = change.arrival
                if there is not self and arrival in there.changes:
                    there.save(there.changes.index(arrival) + 1)
            _apply(self.safe, change)
        del self.changes[:count]


class FakeDisk:
    """A file system in memory; see the module."""

    def __init__(self, seed: int = 0, free: int = 1 << 40) -> None:
        self.random = random.Random(seed)
        self.space = free
        """Bytes free; tests set it."""
        self.now = 1_700_000_000.0
        """The mtime of files that are written; tests move it."""
        self.calls = 0
        self.last_call = ""
        """The name of the last call that counted."""
        self.is_off = False
        """The power is cut."""
        self._fail: dict[int, int] = {}
        self._off_at = -1
        self._root = _Directory()
        self._open: dict[int, _File] = {}
        self._next = 100

    @property
    def open_files(self) -> int:
        """Descriptors that are open."""
        return len(self._open)

    def fail_at(self, call: int, error: int) -> None:
        """The `call`-th call from now (1 is the next) raises OSError with that errno."""
        self._fail[self.calls + call] = error

    def cut_power_at(self, call: int) -> None:
        """The `call`-th call from now, and all after it until `crash`, raise PowerCut and do nothing."""
        self._off_at = self.calls + call

    def heal(self) -> None:
        """Calls off all failures that are still to come."""
        self._fail.clear()

    def kill(self) -> None:
        """The process dies, and another begins."""
        self._open.clear()
        self.heal()

    def crash(self) -> None:
        """A power cut, and power again."""
        self.kill()
        self.is_off, self._off_at = False, -1
        for directory in self._all_directories(self._root):
            directory.save(self.random.randint(0, len(directory.changes)))
        self._forget_unsafe(self._root)

    def _all_directories(self, top: _Directory) -> list[_Directory]:
        below = dict.fromkeys([*top.names.values(), *top.safe.values()])
        return [top] + [directory for node in below if isinstance(node, _Directory) for directory in self._all_directories(node)]

    def _forget_unsafe(self, directory: _Directory) -> None:
        directory.names, directory.changes = dict(directory.safe), []
        for node in directory.names.values():
            if isinstance(node, _Directory):
                self._forget_unsafe(node)
            else:
                self._lose(node)
                node.data = bytearray(node.safe)
                node.mtime = node.safe_mtime = self.random.choice((node.mtime, node.safe_mtime))

    def _lose(self, file: _File) -> None:
        """Puts a random part of the pending writes on the medium; the rest is lost."""
        for offset, piece in file.pending:
            for start in range(0, len(piece), SECTOR):
                if self.random.random() < 0.5:
                    part = piece[start : start + SECTOR]
                    if self.random.random() < 0.2:
                        part = part[: self.random.randint(0, len(part))]
                    _place(file.safe, offset + start, part)
        file.pending = []

    def _call(self, name: str) -> None:
        self.calls += 1
        self.last_call = name
        if self.is_off or self.calls == self._off_at:
            self.is_off = True
            raise PowerCut
        if (code := self._fail.pop(self.calls, None)) is not None:
            raise _error(code)

    def _split(self, path: str) -> tuple[_Directory, str]:
        parents, name = _parts(path)
        directory: _File | _Directory | None = self._root
        for parent in parents:
            if not isinstance(directory, _Directory):
                break
            directory = directory.names.get(parent)
        if not isinstance(directory, _Directory):
            raise _error(errno.ENOENT, path)
        return directory, name

    def _find(self, path: str) -> "_File | _Directory":
        directory, name = self._split(path)
        if not name:
            return directory
        if name not in directory.names:
            raise _error(errno.ENOENT, path)
        return directory.names[name]

    def _file(self, path: str) -> _File:
        found = self._find(path)
        if isinstance(found, _Directory):
            raise _error(errno.EISDIR, path)
        return found

    def _of(self, descriptor: int) -> _File:
        if descriptor not in self._open:
            raise _error(errno.EBADF)
        return self._open[descriptor]

    def _opened(self, file: _File) -> int:
        self._next += 1
        self._open[self._next] = file
        return self._next

    def create(self, path: str) -> int:
        self._call("create")
        directory, name = self._split(path)
        if name in directory.names:
            raise _error(errno.EEXIST, path)
        file = _File(self.now, self.now)
        directory.change(_Change(name, file))
        return self._opened(file)

    def open(self, path: str) -> int:
        self._call("open")
        return self._opened(self._file(path))

    def open_to_read(self, path: str) -> int:
        return self.open(path)

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)

    def allocate(self, descriptor: int, size: int) -> None:
        self._call("allocate")
        file = self._of(descriptor)
        self._take_space(size - len(file.data))
        file.data.extend(bytes(max(size - len(file.data), 0)))

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        file = self._of(descriptor)
        try:
            self._call("write")
            self._take_space(offset + len(data) - len(file.data))
        except OSError:
            room = max(min(len(data), len(file.data) - offset), 1)
            file.place(offset, data[: self.random.randrange(room)])
            raise
        file.place(offset, data)
        file.mtime = self.now

    def store(self, path: str, offset: int, data: bytes) -> None:
        """A store of a process into a file that it has mapped: not a call, cannot fail, safe after a `sync`."""
        if not self.is_off:
            self._file(path).place(offset, data)

    def peek(self, path: str) -> bytes | None:
        """The contents of a file now; None if it does not exist. Not a call."""
        try:
            return bytes(self._file(path).data)
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        """The names in a directory. Not a call."""
        found = self._find(path)
        return list(found.names) if isinstance(found, _Directory) else []

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        self._call("read")
        return bytes(self._of(descriptor).data[offset : offset + size])

    def size(self, descriptor: int) -> int:
        return len(self._of(descriptor).data)

    def front(self, path: str, most: int) -> tuple[float, bytes]:
        self._call("read")
        file = self._file(path)
        return file.mtime, bytes(file.data[:most])

    def sync(self, descriptor: int) -> None:
        file = self._of(descriptor)
        try:
            self._call("sync")
        except OSError:
            self._lose(file)
            raise
        file.save()

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory")
        directory = self._find(path)
        if not isinstance(directory, _Directory):
            raise _error(errno.ENOTDIR, path)
        directory.save(len(directory.changes))

    def leads_to(self, path: str, descriptor: int) -> bool:
        self._call("leads_to")
        try:
            return self._find(path) is self._of(descriptor)
        except FileNotFoundError:
            return False

    def rename(self, source: str, target: str) -> None:
        self._call("rename")
        node = self._find(source)
        source_directory, source_name = self._split(source)
        target_directory, target_name = self._split(target)
        replaced = target_directory.names.get(target_name)
        if isinstance(replaced, _Directory):
            raise _error(errno.EISDIR, target)
        if replaced is node:
            return
        self.space += len(replaced.data) if replaced is not None else 0
        arrival = _Change(target_name, node)
        target_directory.change(arrival)
        source_directory.change(_Change(source_name, None, (target_directory, arrival)))

    def unlink(self, path: str) -> None:
        self._call("unlink")
        file = self._file(path)
        directory, name = self._split(path)
        directory.change(_Change(name, None))
        self.space += len(file.data)

    def make_directory(self, path: str) -> None:
        self._call("make_directory")
        directory = self._root
        for name in os.path.abspath(path).split("/")[1:]:
            if name not in directory.names:
                directory.change(_Change(name, _Directory()))
            found = directory.names[name]
            if isinstance(found, _File):
                raise _error(errno.ENOTDIR, path)
            directory = found

    def entries(self, path: str) -> list[Entry]:
        self._call("entries")
        try:
            directory = self._find(path)
        except FileNotFoundError:
            return []
        if not isinstance(directory, _Directory):
            raise _error(errno.ENOTDIR, path)
        return [_entry(name, node) for name, node in directory.names.items()]

    def files(self, path: str) -> list[str]:
        return [entry.name for entry in self.entries(path) if entry.is_file]

    def directories(self, path: str) -> list[str]:
        return [entry.name for entry in self.entries(path) if entry.is_directory]

    def stat(self, path: str) -> Entry:
        self._call("stat")
        return _entry(os.path.basename(path), self._find(path))

    def set_mtime(self, path: str, mtime: float) -> None:
        self._call("set_mtime")
        self._file(path).mtime = mtime

    def free(self, path: str) -> int:
        del path
        return self.space

    def _take_space(self, missing: int) -> None:
        if missing > self.space:
            raise _error(errno.ENOSPC)
        self.space -= max(missing, 0)


class WrongThread(AssertionError):
    """A thread made a call that it may not make."""


class Right(NamedTuple):
    """The changes that a thread may make."""

    calls: frozenset[str]
    places: tuple[str, ...] = ("",)
    """Paths below the spool where it may make them; the empty one is everywhere."""


_MARKS = frozenset({"write", "set_mtime"})
_MOVES = frozenset({"create", "allocate", "sync", "sync_directory", "rename", "unlink", "make_directory"})
_MAKES_PLACES = frozenset({"make_directory", "sync_directory"})
"""Any thread that finds a directory of the spool removed makes it again, and syncs that."""

RIGHTS = {
    "commit": Right(_MARKS | _MOVES, ("incoming/", "tmp/")),
    "store": Right(_MARKS | _MOVES),
    "packing": Right(_MARKS, ("incoming/", "outbox/")),
    "upload": Right(_MARKS | _MOVES - {"rename"}, ("tmp/",)),
    # The very end of a stop: the threads of uploads are gone, and a connection with half a body ends.
    "MainThread": Right(frozenset({"unlink"}), ("tmp/upload.",)),
}
"""The rule of ARCHITECTURE.md, "Threads": what each thread of a node may change. All other threads only read."""

_acting: ContextVar[str] = ContextVar("acting", default="")


@contextmanager
def acting_as(thread: str) -> Iterator[None]:
    """The code within it counts as that thread, whichever thread runs it."""
    token = _acting.set(thread)
    try:
        yield
    finally:
        _acting.reset(token)


class GuardedDisk:
    """A disk around another one. A thread that does what it may not do fails (`RIGHTS`).

    disk = GuardedDisk(RealDisk(), layout)
    journal = Journal(disk, layout, ...)
    storage.load()                    at the start, without threads, everything is allowed
    disk.in_force = True
    ...
    assert not disk.violations      also those whose exception was caught and reported
    """

    def __init__(self, disk: Disk, layout: Layout) -> None:
        self._disk = disk
        self._rights = {
            thread: (right.calls, tuple(layout.path(place) for place in right.places)) for thread, right in RIGHTS.items()
        }
        self._places = layout.directories
        self._paths: dict[int, str] = {}
        """The paths of the open files."""
        self.in_force = False
        self.violations: list[str] = []

    def create(self, path: str) -> int:
        self._check("create", path)
        return self._opened(self._disk.create(path), path)

    def open(self, path: str) -> int:
        return self._opened(self._disk.open(path), path)

    def open_to_read(self, path: str) -> int:
        return self._opened(self._disk.open_to_read(path), path)

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        self._disk.close(descriptor)

    def allocate(self, descriptor: int, size: int) -> None:
        self._check("allocate", self._paths[descriptor])
        self._disk.allocate(descriptor, size)

    def write(self, descriptor: int, data: bytes, offset: int) -> None:
        self._check("write", self._paths[descriptor])
        self._disk.write(descriptor, data, offset)

    def read(self, descriptor: int, size: int, offset: int) -> bytes:
        return self._disk.read(descriptor, size, offset)

    def size(self, descriptor: int) -> int:
        return self._disk.size(descriptor)

    def front(self, path: str, most: int) -> tuple[float, bytes]:
        return self._disk.front(path, most)

    def sync(self, descriptor: int) -> None:
        self._check("sync", self._paths[descriptor])
        self._disk.sync(descriptor)

    def sync_directory(self, path: str) -> None:
        self._check("sync_directory", path)
        self._disk.sync_directory(path)

    def leads_to(self, path: str, descriptor: int) -> bool:
        return self._disk.leads_to(path, descriptor)

    def rename(self, source: str, target: str) -> None:
        self._check("rename", source)
        self._check("rename", target)
        self._disk.rename(source, target)

    def unlink(self, path: str) -> None:
        self._check("unlink", path)
        self._disk.unlink(path)

    def make_directory(self, path: str) -> None:
        self._check("make_directory", path)
        self._disk.make_directory(path)

    def entries(self, path: str) -> list[Entry]:
        return self._disk.entries(path)

    def files(self, path: str) -> list[str]:
        return self._disk.files(path)

    def directories(self, path: str) -> list[str]:
        return self._disk.directories(path)

    def stat(self, path: str) -> Entry:
        return self._disk.stat(path)

    def set_mtime(self, path: str, mtime: float) -> None:
        self._check("set_mtime", path)
        self._disk.set_mtime(path, mtime)

    def free(self, path: str) -> int:
        return self._disk.free(path)

    def _opened(self, descriptor: int, path: str) -> int:
        self._paths[descriptor] = path
        return descriptor

    def _check(self, call: str, path: str) -> None:
        if not self.in_force:
            return
        thread = (_acting.get() or threading.current_thread().name).partition("_")[0]
        calls, places = self._rights.get(thread, (frozenset[str](), ()))
        if call in calls:
            if path.startswith(places):
                return
            if call in _MAKES_PLACES and path in self._places:
                return
        self.violations.append(f"the thread {thread} must not {call} {path}")
        raise WrongThread(self.violations[-1])


class SteppedThread(DiskThread):
    """A disk thread without a thread: `work` runs a job, `answer` hands over its result.

    So a test decides what happens between the two, and in which order two threads proceed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self.todo: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()
        self.results: deque[tuple[Callable[[Any, BaseException | None], None], Any, BaseException | None]] = deque()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Keeps the job for `work`."""
        self.todo.append((job, done))

    def work(self) -> None:
        """Runs the next job."""
        job, done = self.todo.popleft()
        try:
            with acting_as(self.name):
                self.results.append((done, job(), None))
        except WrongThread:
            raise
        except Exception as error:  # noqa: BLE001  # as a real thread does
            self.results.append((done, None, error))

    def answer(self) -> None:
        """Hands over the oldest result."""
        done, result, error = self.results.popleft()
        done(result, error)

    async def close(self) -> None:
        """Does the rest."""
        while self.todo:
            self.work()
        while self.results:
            self.answer()


@lru_cache(1 << 14)  # most paths are asked for again and again
def _parts(path: str) -> tuple[list[str], str]:
    """The directories above a path, and its name."""
    *parents, name = os.path.abspath(path).split("/")[1:]
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise _error(errno.ENAMETOOLONG, path)
    return parents, name


def _error(code: int, path: str | None = None) -> OSError:
    return OSError(code, os.strerror(code), path)


def _apply(names: "dict[str, _File | _Directory]", change: _Change) -> None:
    if change.node is not None:
        names[change.name] = change.node
    else:
        names.pop(change.name, None)


def _place(data: bytearray, offset: int, piece: bytes) -> None:
    if offset > len(data):
        data.extend(bytes(offset - len(data)))
    data[offset : offset + len(piece)] = piece


def _entry(name: str, node: "_File | _Directory") -> Entry:
    if isinstance(node, _Directory):
        return Entry(name, is_file=False, is_directory=True, size=0, mtime=0.0)
    return Entry(name, is_file=True, is_directory=False, size=len(node.data), mtime=node.mtime)
