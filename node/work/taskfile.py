"""Tasks on disk, for a worker: reads one, marks its start, records its end."""

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import time
from _thread import start_new_thread  # not `threading`, which an application may replace (gevent)
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from functools import partial
from itertools import groupby
from os import close, closerange  # as they are before `surroundings` watches them
from queue import Empty, SimpleQueue

from spoolnode.node.disk.layout import Layout, spot_of
from spoolnode.node.outcome import Call, Ending
from spoolnode.node.spool.clock import STEP_SECONDS, was_set_back
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.story.notes import UNKNOWN_SECONDS
from spoolnode.node.work.messages import CORRUPT, EARLY, GONE, LOCKED, SHORT, UNREADABLE, WITHHELD
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.batch import accepted_time, payload_length, ready_time
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.packet import HEADER, MAX_BLOCK, check_variables, decode_variables
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, MAX_ATTEMPTS, STATE_AT, VOID

HELD: dict[str, "FileTask"] = {}
"""The spool files that this process runs now, by path. Code that wants to look at one must not open it again."""

HEADER_SIZE = HEADER.size
_OVER = (FINISHED, VOID)
_CUT = "its batch was cut short"
KEPT_BATCHES = 8
"""Batches that stay mapped after their last task."""


class NotNow(Exception):
    """This task cannot run now; the verdict is one of `messages`."""

    def __init__(self, verdict: str, detail: str | float = "") -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.detail = detail


class Task(Call):
    """One task in the hands of a worker."""

    __slots__ = ("deadline",)

    deadline: float
    """When it must have ended, in monotonic seconds; 0.0 without a limit. Set when it starts."""

    def begin(self) -> None:
        """Counts an attempt, at its start."""
        raise NotImplementedError

    def finish(self) -> None:
        """Records that it ended well."""
        raise NotImplementedError

    def leave(self) -> None:
        """Lets go of it without an end: it stays where it is."""
        raise NotImplementedError

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1 to at most 255. Valid only once it has begun."""
        raise NotImplementedError

    @property
    def accepted(self) -> float:
        """When this node accepted it, or, for a file from elsewhere, when the file was written; in seconds since 1970."""
        raise NotImplementedError

    @property
    def ready_at(self) -> float:
        """When it could be run first, in seconds since 1970. Valid only in its first attempt."""
        raise NotImplementedError

    @property
    def waited(self) -> float:
        """Seconds from `ready_at` until now; below zero if it was tried before. Valid only once it has begun."""
        return max(time.time() - self.ready_at, 0.0) if self.attempt == 1 else UNKNOWN_SECONDS

    @property
    def timeout(self) -> float:
        """The task's own limit in seconds; 0.0 without one, or if it makes no sense."""
        value = dict(self.variables).get(names.TIMEOUT)
        try:
            return 0.0 if value is None else names.read_timeout(value)
        except Refused:
            return 0.0

    @property
    def origin_id(self) -> str:
        """The id that it got when it was first accepted."""
        said = b""
        if names.ID in self.block:
            with contextlib.suppress(BadPacket):
                said = dict(self.variables).get(names.ID, b"")
        identity = said.decode("ascii", "replace")
        return identity if names.is_task_id(identity) else names.id_of_file(self.file_name)

    @property
    def retry(self) -> names.RetryTerms:
        """The wishes of the task about its attempts; none if they make no sense."""
        value = dict(self.variables).get(names.RETRY, b",,")
        try:
            return names.read_retry(value)
        except Refused:
            return names.RetryTerms()


class BatchTask(Task):
    """A record of a batch, in a shared mapping of the file: a mark is one store into memory that outlives the process."""

    __slots__ = ("_memory", "_offset")

    def __init__(self, block: bytes, body: bytes, file_name: str, memory: mmap.mmap, offset: int) -> None:
        super().__init__(block, body, file_name)
        self._memory = memory
        self._offset = offset

    def begin(self) -> None:
        at = self._offset + ATTEMPTS_AT
        attempts = self._memory[at]
        if attempts < MAX_ATTEMPTS:
            self._memory[at] = attempts + 1

    @property
    def attempt(self) -> int:
        return self._memory[self._offset + ATTEMPTS_AT]

    @property
    def accepted(self) -> float:
        return accepted_time(self._memory, self._offset)  # type: ignore[arg-type] # as in BatchReader

    @property
    def ready_at(self) -> float:
        return ready_time(self._memory, self._offset)  # type: ignore[arg-type] # as in BatchReader

    def finish(self) -> None:
        self._memory[self._offset + STATE_AT] = FINISHED

    def leave(self) -> None:
        pass


class BatchReader:
    """The batches whose tasks a worker runs."""

    def __init__(self, root: str, node_id: str) -> None:
        self.layout = Layout(root)
        """The paths of the spool."""
        self._node_id = node_id
        self._memories: OrderedDict[str, mmap.mmap] = OrderedDict()

    def reader(self, number: int, held: Collection[bytes] = ()) -> Callable[[int], BatchTask]:
        """A function that reads the task at an offset of that batch, unless it is of one of the functions `held`.

        The function raises NotNow.
        """
        return self.reader_at(self.layout.batch(number), names.file_name(f"{self._node_id}_{number}_"), held)

    def reader_at(self, path: str, prefix: str, held: Collection[bytes]) -> Callable[..., BatchTask]:
        """The same for the batch in that file. `prefix`: the names of its tasks, before their offsets, if none is given."""
        memory, problem = None, NotNow(GONE)
        try:
            memory = self._map(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            problem = _unreadable(error)
        except ValueError:
            problem = NotNow(CORRUPT, _CUT)  # it is empty
        size = len(memory) if memory is not None else 0

        def read(offset: int, name: str = "") -> BatchTask:
            if memory is None:
                raise problem
            if offset + HEADER_SIZE > size:
                raise NotNow(CORRUPT, _CUT)
            if memory[offset] in _OVER:
                raise NotNow(GONE)
            length = payload_length(memory, offset)  # type: ignore[arg-type] # an mmap is sliced as bytes are
            if offset + length > size:
                raise NotNow(CORRUPT, _CUT)
            block_at = offset + HEADER_SIZE
            body_at = block_at + (memory[offset + 1] | memory[offset + 2] << 8)
            block = memory[block_at:body_at]
            _withhold(block, held)
            return BatchTask(block, memory[body_at : offset + length], name or f"{prefix}{offset}", memory, offset)

        return read

    def _map(self, path: str) -> mmap.mmap:
        memory = self._memories.pop(path, None)
        # The file may have been removed, or cut: reading past its new end would end this process.
        if os.stat(path).st_size != len(memory or b""):
            memory = None
        if memory is None:
            descriptor = _open(path, os.O_RDWR)
            try:
                memory = mmap.mmap(descriptor, 0)
                memory.madvise(mmap.MADV_DONTFORK)  # a task's child marks nothing, and does not keep a batch from being removed
            finally:
                os.close(descriptor)
        self._memories[path] = memory
        if len(self._memories) > KEPT_BATCHES:
            self._memories.popitem(last=False)  # unmapped when its last task lets go of it
        return memory


class FileTask(Task):
    """A spool file, held under uWSGI's lock (a POSIX record lock over the whole file) as long as it runs.

    Closing *any* descriptor of the file in this process would drop the lock (fcntl(2)). So the file is never opened again here:
    code that wants to look at a running task finds it in `HELD`.
    """

    __slots__ = ("_attempt", "_descriptor", "_found", "path")

    def __init__(self, block: bytes, body: bytes, path: str, descriptor: int, attempt: int, found: os.stat_result) -> None:
        """`found`: the file as it was before its attempt was counted in it."""
        super().__init__(block, body, path[path.rindex("/") + 1 :])
        self.path = path
        self._descriptor = descriptor
        self._attempt = attempt
        self._found = found
        HELD[path] = self

    def begin(self) -> None:
        pass  # its attempt was counted before its body was read

    @property
    def attempt(self) -> int:
        return self._attempt

    @property
    def accepted(self) -> float:
        accepted = names.accepted_in(names.id_of_file(self.file_name))
        return os.fstat(self._descriptor).st_mtime if accepted is None else accepted

    @property
    def ready_at(self) -> float:
        return self._found.st_mtime

    def finish(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # the task, or a person, has removed it, which is all we want
        except OSError:
            # It cannot be removed; the mark says that it needs no more work.
            os.pwrite(self._descriptor, bytes([FINISHED]), STATE_AT)
        else:
            if self._found.st_nlink == 1:  # a removed file needs no lock; on one with another name the lock is that task's
                del HELD[self.path]
                close_aside(self._descriptor)
                return
        self.leave()

    def leave(self) -> None:
        del HELD[self.path]
        close(self._descriptor)


CLOSE_TOGETHER = 64
"""Removed files that are closed together, at most."""
CLOSERS = 4
"""Threads that close them, at most: more than one only where the disk is slow."""
_removed: deque[int] = deque()
_groups: SimpleQueue[list[int]] = SimpleQueue()
_closers: list[int] = []


def close_aside(descriptor: int) -> None:
    """Has a removed file closed in another thread. The disk frees its space only then, which takes longer than the removal."""
    _removed.append(descriptor)
    if len(_removed) >= CLOSE_TOGETHER:
        close_removed()


def close_removed() -> None:
    """Has the files that were put aside closed, because no more files are removed for now."""
    if group := _take_removed():
        _groups.put(group)
    # As many groups may wait as there are threads, so a worker neither gets far ahead of the disk nor runs out of descriptors.
    if _groups.qsize() > len(_closers) and not _start_closer():
        with contextlib.suppress(Empty):
            _close(_groups.get_nowait())


def _take_removed() -> list[int]:
    group: list[int] = []
    with contextlib.suppress(IndexError):
        while True:
            group.append(_removed.popleft())
    return group


def _start_closer() -> bool:
    """Starts another thread. Returns whether that succeeded."""
    if len(_closers) >= CLOSERS:
        return False
    with contextlib.suppress(RuntimeError):  # the machine has none to give
        _closers.append(start_new_thread(_close_groups, ()))
        return True
    return False


def _close_groups() -> None:
    while True:
        _close(_groups.get())


def _close(group: list[int]) -> None:
    """Closes these, neighbours with one call: a call for each would pass the interpreter between threads."""
    for _, run in groupby(enumerate(sorted(group)), lambda item: item[1] - item[0]):
        numbers = [number for _, number in run]
        closerange(numbers[0], numbers[-1] + 1)


def close_held() -> None:
    """In a forked child: closes the files that the worker runs or has run. The worker's locks stay: a child has none."""
    for task in HELD.values():
        os.close(task._descriptor)
    HELD.clear()
    _close(_take_removed())
    while not _groups.empty():
        _close(_groups.get())


class SpoolFileReader:
    """Reads the spool files that a worker runs."""

    def __init__(self, root: str, policy: RetryPolicy) -> None:
        self._prefix = Layout(root).path("")
        self._policy = policy

    def reader(self, held: Collection[bytes]) -> Callable[[str], FileTask]:
        """A function that locks and reads a spool file, unless its task is of one of the functions `held`. It raises NotNow."""
        return partial(self.read, held=held)

    def read(self, ref: str, held: Collection[bytes] = ()) -> FileTask:
        """Locks and reads a spool file. Raises NotNow."""
        path = self._prefix + ref
        began = time.time()
        try:
            descriptor = _open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotNow(GONE) from None
        except OSError as error:
            raise _unreadable(error) from error
        try:
            return self._read(path, descriptor, began, held)
        except OSError as error:
            os.close(descriptor)
            raise _unreadable(error) from error
        except NotNow:
            os.close(descriptor)
            raise

    def _read(self, path: str, descriptor: int, began: float, held: Collection[bytes]) -> FileTask:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise NotNow(LOCKED) from None
            raise
        found = self._check(path, descriptor, began)
        front = os.pread(descriptor, min(found.st_size, HEADER_SIZE + MAX_BLOCK), 0)
        try:
            state, attempts, block, body = spoolfile.split(front)
        except spoolfile.Short:
            raise NotNow(SHORT, began - found.st_mtime) from None
        except BadPacket as error:
            raise NotNow(CORRUPT, str(error)) from error
        if state == FINISHED:
            # It ended well, but its removal was cut short.
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise NotNow(GONE)
        _check_attempts(self._policy, block, attempts)
        _withhold(block, held)
        # Before the body is read, which may be too much for this machine: if the kernel kills us for it, the attempt counts.
        attempt = min(attempts + 1, MAX_ATTEMPTS)
        if attempt > attempts:
            os.pwrite(descriptor, bytes([attempt]), ATTEMPTS_AT)
        if len(front) < found.st_size:
            try:
                body = _read_from(descriptor, HEADER_SIZE + len(block), found.st_size)
            except MemoryError as error:
                raise NotNow(Ending.FAILED.value, f"its {found.st_size} bytes are more than this worker's memory") from error
        return FileTask(block, body, path, descriptor, attempt, found)

    def _check(self, path: str, descriptor: int, began: float) -> os.stat_result:
        """The stat of the locked file. Raises NotNow unless its name still leads to it, and it is due."""
        found = os.fstat(descriptor)
        # Removing or moving a file changes its ctime, so most names need no second look.
        if found.st_nlink != 1 or found.st_ctime > began - STEP_SECONDS:
            _check_name(path, found)
        if not stat.S_ISREG(found.st_mode):
            raise NotNow(CORRUPT, "it is not a regular file")
        if found.st_mtime > began and not was_set_back(found.st_mtime, found.st_ctime, began):
            raise NotNow(EARLY, found.st_mtime)
        return found


class HeldReader:
    """Reads the tasks of a common store: records of a batch of a take, or spool files."""

    def __init__(self, batches: BatchReader, files: SpoolFileReader, policy: RetryPolicy) -> None:
        self._batches = batches
        self._files = files
        self._policy = policy

    def reader(self, held: Collection[bytes]) -> Callable[[str], Task]:
        """A function that reads the task in a spot, unless it is of one of the functions `held`. It raises NotNow."""
        in_batches: dict[str, Callable[..., BatchTask]] = {}

        def read(spot: str) -> Task:
            if (at := spot_of(spot)) is None:
                return self._files.read(spot, held)
            if at.batch not in in_batches:
                in_batches[at.batch] = self._batches.reader_at(self._batches.layout.path(at.batch), "", held)
            task = in_batches[at.batch](at.offset, at.name)
            try:
                check_variables(task.block)
            except BadPacket as error:
                raise NotNow(CORRUPT, str(error)) from error
            _check_attempts(self._policy, task.block, task.attempt)
            return task

        return read


def _check_attempts(policy: RetryPolicy, block: bytes, attempts: int) -> None:
    """Raises NotNow for a task that has begun its last attempt, and has not failed."""
    if policy.of_task(block).gives_up(attempts) and names.REASON not in block:
        raise NotNow(Ending.FAILED.value, "the node ended while the task ran")  # found without a start


def _withhold(block: bytes, held: Collection[bytes]) -> None:
    """Raises NotNow for a task of one of these functions."""
    if not held:
        return
    with contextlib.suppress(BadPacket):  # its handler says so
        name = names.function_named(dict(decode_variables(block)))
        if name in held:
            raise NotNow(WITHHELD, name.decode("utf-8", "surrogateescape"))


def _check_name(path: str, found: os.stat_result) -> None:
    """Raises NotNow unless the name still leads to the file that was opened."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        raise NotNow(GONE) from None
    if (named.st_ino, named.st_dev) != (found.st_ino, found.st_dev):
        raise NotNow(LOCKED)


def _open(path: str, flags: int) -> int:
    """Opens a file, never as descriptor 0, 1 or 2: a task may have closed these, and another will print into them."""
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    if descriptor > 2:
        return descriptor
    os.close(descriptor)
    _occupy_standard()
    return os.open(path, flags | os.O_CLOEXEC)


def _occupy_standard() -> None:
    """Puts /dev/null in the place of closed standard descriptors: a mapping keeps a descriptor, too, the lowest free one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _unreadable(error: OSError) -> NotNow:
    """The verdict for an error; one of the machine (out of something) says nothing about the file."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK, errno.EINTR):
        return NotNow(LOCKED)
    if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV):
        return NotNow(CORRUPT, f"it is not a regular file: {error.strerror}")
    return NotNow(UNREADABLE, error.strerror or str(error))


def _read_from(descriptor: int, offset: int, size: int) -> bytes:
    """The bytes of a file from an offset to its end."""
    pieces = []
    while offset < size and (piece := os.pread(descriptor, size - offset, offset)):
        pieces.append(piece)
        offset += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
