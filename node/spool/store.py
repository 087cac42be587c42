"""The moves of whole files, and the steps that all moves are made of: copy, confirm, mark. The moves of tasks are in `place`.

Everything here blocks and runs in the store thread (or at the start, before that thread exists). Every move is: a whole new
file under tmp/, sync, rename, sync of the directory; only then is the old place marked or removed. So after a crash a task may
be in two places, but never in none. Recovery knows the pairs by their names.
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
"""Bytes of a body that are copied at a time."""
LONGEST_NAME = 255
"""Bytes of a name in a directory, on every common file system."""


@dataclass
class Store(Marker):
    """One spool directory on one disk, in the hands of the thread that may move everything in it."""

    disk: Disk
    sync: bool = True

    # -- marking --

    def mark(self, number: int, offsets: Iterable[int], state: int = FINISHED) -> None:
        """Marks tasks of a batch as finished, void, or waiting again."""
        self._poke([(self.layout.batch(number), offset + STATE_AT, state) for offset in offsets])

    def sync_marks(self, numbers: Iterable[int], directories: Iterable[str]) -> None:
        """Makes marks in batches, and removals from directories, safe against a power cut.

        A failure does not stop the others; the first error is raised at the end. A failed sync is not tried again (see
        `group_commit`): after a power cut such a task may run once more.
        """
        problems: list[OSError] = []
        # Batches first: a file that came from one may be gone for good only after its record is marked for good.
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

    def sync_files(self, refs: Iterable[str]) -> None:
        """Makes the marks in spool files safe, unless the node never syncs. Those that are gone need none."""
        for ref in refs if self.sync else ():
            with contextlib.suppress(FileNotFoundError):
                descriptor = self.disk.open(self.layout.path(ref))
                try:
                    self.disk.sync(descriptor)
                finally:
                    self.disk.close(descriptor)

    # -- the steps of a move --

    def confirm(self, refs: Iterable[str]) -> None:
        """Makes the names of new files safe. If that fails, removes the files, so that no task is in two places."""
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
        """A ref for a task that is to wait here. Makes its directory."""
        if rank == names.LAST:
            return waiting_ref(identity, rank)
        try:
            self.disk.make_directory(self.layout.path(str(rank)))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return waiting_ref(identity, names.LAST)  # not a directory: better a task without a priority than no task
        return waiting_ref(identity, rank)

    def free_ref(self, ref: str) -> str:
        """That ref, or one like it if a task has that name already: two files may have got one name by hand."""
        try:
            self.disk.stat(self.layout.path(ref))
        except FileNotFoundError:
            return ref
        directory, slash, _ = ref.rpartition("/")
        identity = names.shortened(ref_id(ref), names.LONGEST_ID - 21)
        return f"{directory}{slash}{names.file_name(identity)}.{time.time_ns()}"

    def copy(
        self, place: Location, ref: str, *, attempts: int, mtime: float, extra: list[tuple[bytes, bytes]] | None = None,
        without: tuple[bytes, ...] = (),
    ) -> None:  # fmt: skip
        """Writes the task at `place` to a new file, with `extra`, and without `without` and what its death added."""
        source = self.disk.open(place.path)
        try:
            block, gone = self._block(source, place), (names.REASON, names.ATTEMPTS, *without)
            kept = [item for item in decode_variables(block) if item[0] not in gone] + (extra or [])
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
        """Makes the names in a directory safe, unless the node never syncs."""
        if self.sync:
            self.disk.sync_directory(path)

    # -- moves of files --

    def remove(self, ref: str) -> None:
        """Removes a spool file, and the reason beside it."""
        self.disk.unlink(self.layout.path(ref))
        if is_dead(ref):
            discard(self.disk, self.layout.path(reason_ref(ref)))

    def revive(self, source: str, target: str = "", *, attempts: int = 0) -> str:
        """Moves a task from dead/ to the waiting ones, or to the ref `target` in outbox/. Returns its new ref."""
        place = Location(self.layout.path(source))
        variables = self.variables_at(place)
        if target:
            self.disk.make_directory(self.layout.directory_of(target))
        ref = target or self.free_ref(self.new_ref(ref_id(source), rank_of_variables(variables)))
        self.copy(place, ref, attempts=attempts, mtime=time.time(), without=(names.ASKED,))
        self.confirm([ref])
        try:
            self.remove(source)
        except OSError:
            discard(self.disk, self.layout.path(ref))
            raise
        with contextlib.suppress(OSError):  # it has moved nevertheless; after a power cut it may be in both places
            self.sync_directory(os.path.dirname(place.path))
        return ref

    def replace(self, path: str, data: bytes) -> None:
        """Replaces a small file of our own. Returns when the new one is safe, even without `sync`: a torn one is useless.

        If that fails, the old or the new file is there.
        """
        self._write(os.path.relpath(path, self.layout.root), [data], mtime=None, always=True)
        self.disk.sync_directory(os.path.dirname(path))

    def quarantine(self, ref: str) -> str:
        """Moves a file that cannot be read to corrupt/. Returns its new name there."""
        target = ref.replace("/", "_")
        taken = {entry.name for entry in self.disk.entries(self.layout.corrupt)}
        if target in taken or len(os.fsencode(target)) > LONGEST_NAME:
            target = f"{os.fsdecode(os.fsencode(target)[: LONGEST_NAME - 20])}.{time.time_ns()}"
        self.disk.rename(self.layout.path(ref), os.path.join(self.layout.corrupt, target))
        with contextlib.suppress(OSError):  # it has moved nevertheless, and a rename loses nothing
            self.sync_directory(self.layout.corrupt)
        return target

    def copy_file(self, path: str, ref: str) -> None:
        """Copies a whole spool file as a new task."""
        self.copy(Location(path), ref, attempts=0, mtime=self.disk.stat(path).mtime)

    def publish(self, ref: str) -> str:
        """Moves a whole file from arriving/ to the waiting ones. Returns its new ref. Its mtime stays."""
        variables = decode_variables(self.block_of(ref))
        target = self.new_ref(ref_id(ref), rank_of_variables(variables))
        self.disk.rename(self.layout.path(ref), self.layout.path(target))
        # After a power cut in the middle both names may exist; then the rename does nothing.
        discard(self.disk, self.layout.path(ref))
        for directory in dict.fromkeys([self.layout.directory_of(target), self.layout.root, self.layout.arriving]):
            self.sync_directory(directory)
        return target

    def keep_damage(self, number: int, start: int, data: bytes) -> str:
        """Keeps the damaged middle of a batch in corrupt/. Returns its name there."""
        return self.keep_copy(f"{number}.batch.{start}", data)

    def keep_copy(self, name: str, data: bytes) -> str:
        """Keeps bytes that cannot be read in corrupt/, unless something of that name is there. Returns the name."""
        if name not in {entry.name for entry in self.disk.entries(self.layout.corrupt)}:
            self._write(f"corrupt/{name}", [data], mtime=None)
            self.sync_directory(self.layout.corrupt)
        return name

    def remove_batch(self, number: int) -> None:
        """Removes a batch whose tasks are all finished, if it still exists."""
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(self.layout.batch(number))

    def put(self, ref: str, parts: list[bytes], mtime: float | None) -> None:
        """Makes a new spool file. Returns when it is safe."""
        self._write(ref, parts, mtime=mtime)
        self.confirm([ref])

    def put_reason(self, ref: str, block: bytes) -> None:
        """Puts the variables with the reason beside the dead task that will be at `ref`."""
        self._write(reason_ref(ref), [block], mtime=None)

    def take_over(self, ref: str) -> None:
        """Makes a file ours that we may read but not write (root copied it here): a copy takes its place.

        Raises OSError if we may not read it either.
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
    """The destination of a task that waits for a peer: the one chosen for it, else the one asked for."""
    said = dict(variables)
    return (said.get(names.TO) or said.get(names.NODE, b"")).decode("ascii", "replace")


class NoRoom(Exception):
    """The variables with the reason would not fit into a block."""


def rank_of_variables(variables: Variables) -> int:
    """The rank that a task asks for. A priority that makes no sense (uWSGI takes any text) counts as none."""
    try:
        return names.read_priority(dict(variables).get(b"priority", b""))  # the last of two counts, as at acceptance
    except Refused:
        return names.LAST
