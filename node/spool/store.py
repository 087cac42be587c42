"""The moves of whole files, and the steps that all moves are made of: copy, confirm, mark. The moves of tasks are in `place`.

Everything here blocks and runs in the store thread (or at the start, before there is any). Every move is: a whole new file under
tmp/, sync, rename, sync of the directory; only then is the old place marked or removed. So a task may for a moment be in
two places after a crash, never in none; recovery knows the pairs by their names.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.layout import create, is_dead, is_outbound, reason_ref, ref_id, waiting_ref
from spoolnode.node.spool.reader import Location, Marker
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.errors import BadTask, Refused
from spoolnode.protocol.packet import HEADER, Variables, decode_variables, encode_variables
from spoolnode.protocol.spoolfile import FINISHED, STATE_AT

COPY_SIZE = 1 << 20
"""Bytes of a body moved at a time."""
LONGEST_NAME = 255
"""Bytes of a name in a directory, on every file system that matters."""


@dataclass
class Store(Marker):
    """One spool directory on one disk, in the hands of the thread that may move everything in it."""

    disk: Disk
    sync: bool = True

    # -- marking --

    def mark(self, number: int, offsets: Iterable[int], state: int = FINISHED) -> None:
        """Marks tasks of a batch finished; or void, or waiting again."""
        self._poke([(self.layout.batch(number), offset + STATE_AT, state) for offset in offsets])

    def sync_marks(self, numbers: Iterable[int], directories: Iterable[str]) -> None:
        """Makes marks in batches, and removals from directories, safe against a power cut.

        One that fails does not keep the others from it; the first error is raised at the end. What failed is not tried
        again (see `group_commit`): after a power cut such a task may run once more.
        """
        problems: list[OSError] = []
        # The batches first: a file that came from one may be gone for good only when its record is marked for good.
        jobs = [partial(self.sync_batch, number) for number in numbers]
        jobs += [partial(self.disk.sync_directory, directory) for directory in directories]
        for job in jobs:
            try:
                job()
            except FileNotFoundError:
                continue  # finished and removed meanwhile
            except OSError as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def sync_batch(self, number: int) -> None:
        """Makes the marks in one batch safe."""
        descriptor = self.disk.open(self.layout.batch(number))
        try:
            self.disk.sync(descriptor)
        finally:
            self.disk.close(descriptor)

    # -- the steps of a move --

    def confirm(self, refs: Iterable[str]) -> None:
        """Makes the names of new files safe; when that fails the files are gone, so that no task is in two places."""
        new = set(refs)
        try:
            for directory in {self.layout.directory_of(ref) for ref in new}:
                self.sync_directory(directory)
            if any("/" in ref for ref in new):
                self.sync_directory(self.layout.root)  # the directory itself may be new
            if any(is_outbound(ref) for ref in new):
                self.sync_directory(self.layout.outbox)
        except OSError:
            for ref in new:
                discard(self.disk, self.layout.path(ref))
            raise

    def new_ref(self, identity: str, rank: int) -> str:
        """The ref of a task that is to wait here; its directory is there."""
        if rank == names.LAST:
            return waiting_ref(identity, rank)
        try:
            self.disk.make_directory(self.layout.path(str(rank)))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return waiting_ref(identity, names.LAST)  # something else lies there; a task without a priority is better than none
        return waiting_ref(identity, rank)

    def free_ref(self, ref: str) -> str:
        """That ref, or one like it when there is a task of that name already: somebody may have given two files one name."""
        try:
            self.disk.stat(self.layout.path(ref))
        except FileNotFoundError:
            return ref
        directory, slash, _ = ref.rpartition("/")
        identity = names.shortened(ref_id(ref), names.LONGEST_ID - 21)
        return f"{directory}{slash}{names.file_name(identity)}.{time.time_ns()}"

    def copy(
        self, place: Location, ref: str, *, attempts: int, mtime: float, extra: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Writes the task at `place` to a new file; what we added when it died is left out, `extra` is added."""
        source = self.disk.open(place.path)
        try:
            block = self._block(source, place)
            kept = [item for item in decode_variables(block) if item[0] not in (names.REASON, names.ATTEMPTS)] + (extra or [])
            try:
                new_block = encode_variables(kept)
            except BadTask as error:
                raise NoRoom from error
            end = place.base + place.length if place.length >= 0 else self.disk.size(source)
            body_at = place.base + HEADER.size + len(block)
            self._write(ref, [spoolfile.head(new_block, attempts)], mtime, body=(source, body_at, end))
        finally:
            self.disk.close(source)

    def sync_directory(self, path: str) -> None:
        """Makes the names in a directory safe, if this spool is to be safe."""
        if self.sync:
            self.disk.sync_directory(path)

    # -- moves of files --

    def remove(self, ref: str) -> None:
        """Removes a spool file, and what lies beside it."""
        self.disk.unlink(self.layout.path(ref))
        if is_dead(ref):
            discard(self.disk, self.layout.path(reason_ref(ref)))

    def revive(self, source: str, target: str = "", *, attempts: int = 0) -> str:
        """Moves a task from dead/ back among the waiting ones, or to the ref `target` in outbox/; the ref of its new file."""
        place = Location(self.layout.path(source))
        variables = self.variables_at(place)
        if target:
            self.disk.make_directory(self.layout.directory_of(target))
        ref = target or self.free_ref(self.new_ref(ref_id(source), rank_of_variables(variables)))
        self.copy(place, ref, attempts=attempts, mtime=time.time())
        self.confirm([ref])
        try:
            self.remove(source)
        except OSError:
            discard(self.disk, self.layout.path(ref))
            raise
        with contextlib.suppress(OSError):  # it has moved all the same; after a power cut it may be in both places
            self.sync_directory(os.path.dirname(place.path))
        return ref

    def replace(self, path: str, data: bytes) -> None:
        """Replaces a small file of our own; returns when the new one is safe, also without `sync`: a torn one is of no use.

        When that fails, one of the two is there.
        """
        self._write(os.path.relpath(path, self.layout.root), [data], mtime=None, always=True)
        self.disk.sync_directory(os.path.dirname(path))

    def quarantine(self, ref: str) -> str:
        """Moves a file that cannot be read to corrupt/; its new name there."""
        target = ref.replace("/", "_")
        taken = {entry.name for entry in self.disk.entries(self.layout.corrupt)}
        if target in taken or len(os.fsencode(target)) > LONGEST_NAME:
            target = f"{os.fsdecode(os.fsencode(target)[: LONGEST_NAME - 20])}.{time.time_ns()}"
        self.disk.rename(self.layout.path(ref), os.path.join(self.layout.corrupt, target))
        with contextlib.suppress(OSError):  # it has moved all the same, and a rename loses nothing
            self.sync_directory(self.layout.corrupt)
        return target

    def copy_file(self, path: str, ref: str) -> None:
        """A second copy of a whole spool file, as a new task."""
        self.copy(Location(path), ref, attempts=0, mtime=self.disk.stat(path).mtime)

    def publish(self, ref: str) -> str:
        """Puts a whole file of arriving/ among the waiting ones; its new ref. Its time stays."""
        variables = decode_variables(self.block_of(ref))
        target = self.new_ref(ref_id(ref), rank_of_variables(variables))
        self.disk.rename(self.layout.path(ref), self.layout.path(target))
        # After a power cut in the middle of it both names may be there; then the rename does nothing.
        discard(self.disk, self.layout.path(ref))
        for directory in dict.fromkeys([self.layout.directory_of(target), self.layout.root, self.layout.arriving]):
            self.sync_directory(directory)
        return target

    def keep_damage(self, number: int, start: int, data: bytes) -> str:
        """Keeps the damaged middle of a batch in corrupt/; its name there."""
        name = f"{number}.batch.{start}"
        if name not in {entry.name for entry in self.disk.entries(self.layout.corrupt)}:
            self._write(f"corrupt/{name}", [data], mtime=None)
            self.sync_directory(self.layout.corrupt)
        return name

    def remove_batch(self, number: int) -> None:
        """Removes a batch whose tasks are all finished, and nothing when it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(self.layout.batch(number))

    def put(self, ref: str, parts: list[bytes], mtime: float | None) -> None:
        """A new spool file; returns when it is safe."""
        self._write(ref, parts, mtime=mtime)
        self.confirm([ref])

    def put_reason(self, ref: str, block: bytes) -> None:
        """Puts variables beside the dead task that is to be at `ref`."""
        self._write(reason_ref(ref), [block], mtime=None)

    def take_over(self, ref: str) -> None:
        """A file that we may read and not write becomes ours: a copy takes its place. So it is when root copies one here.

        Raises OSError when we may not read it either.
        """
        path = self.layout.path(ref)
        source = self.disk.open_to_read(path)
        try:
            self._write(ref, [], self.disk.stat(path).mtime, body=(source, 0, self.disk.size(source)))
        finally:
            self.disk.close(source)
        self.sync_directory(self.layout.directory_of(ref))

    def _write(
        self, ref: str, parts: list[bytes], mtime: float | None, body: tuple[int, int, int] | None = None, *, always: bool = False
    ) -> None:
        temporary = self.layout.path(f"tmp/{time.monotonic_ns()}")  # short, whatever the name of the file
        descriptor = create(self.disk, self.layout, temporary)
        try:
            try:
                offset = 0
                for part in parts:
                    self.disk.write(descriptor, part, offset)
                    offset += len(part)
                if body is not None:
                    self._append(descriptor, offset, *body)
                if mtime is not None:
                    self.disk.set_mtime(temporary, mtime)  # before the sync: it says when the task is due
                if self.sync or always:
                    self.disk.sync(descriptor)
            finally:
                self.disk.close(descriptor)
            self.disk.rename(temporary, self.layout.path(ref))
        except OSError:
            discard(self.disk, temporary)
            raise

    def _append(self, target: int, offset: int, source: int, start: int, end: int) -> None:
        while start < end:
            piece = self.disk.read(source, min(COPY_SIZE, end - start), start)
            if not piece:
                raise OSError(errno.EIO, "the file became shorter while it was copied")
            self.disk.write(target, piece, offset)
            start += len(piece)
            offset += len(piece)


def destination_of_variables(variables: Variables) -> str:
    """Where a task that waits for a peer is to go: what was chosen for it, else what was asked for."""
    said = dict(variables)
    return (said.get(names.TO) or said.get(names.NODE, b"")).decode("ascii", "replace")


class NoRoom(Exception):
    """The variables with the reason would not fit into a block."""


def rank_of_variables(variables: Variables) -> int:
    """The rank that a task asks for; a priority that makes no sense (uWSGI takes any) is none."""
    try:
        return names.read_priority(dict(variables).get(b"priority", b""))  # of two the last counts, as when it was accepted
    except Refused:
        return names.LAST
