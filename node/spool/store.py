"""What happens to tasks on disk, one function a move: settle, bury, revive, quarantine, mark.

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
from spoolnode.node.disk.layout import create, is_outbound, number_of, outbox_ref, reason_ref, ref_id, waiting_ref
from spoolnode.node.spool.reader import Location, Marker
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.packet import HEADER, MAX_BLOCK, Variables, decode_variables, encode_variables
from spoolnode.protocol.spoolfile import FINISHED, STATE_AT, VOID, WAITING

COPY_SIZE = 1 << 20
"""Bytes of a body moved at a time."""
LONGEST_NAME = 255
"""Bytes of a name in a directory, on every file system that matters."""
MAX_REASON = 4096
"""Bytes of a reason kept with a dead task..."""
SHORT_REASON = 560
"""...and when its variables leave little room: a link needs more, so for what was to go over one there is always so much."""


@dataclass
class Store(Marker):
    """The moves, over one disk and one spool directory."""

    disk: Disk
    sync: bool = True

    # -- marking --

    def mark(self, number: int, offsets: Iterable[int], state: int = FINISHED) -> None:
        """Marks tasks of a batch finished; or void, or waiting again."""
        self._poke([(self.layout.batch(number), offset + STATE_AT, state) for offset in offsets])

    def finish_waiting(self, number: int, offset: int) -> bool:
        """Marks one task of a batch finished, provided that one waits there: `offset` may be anything."""
        if not any(record.offset == offset and record.state == WAITING for record in self.records(number)):
            return False
        self.mark(number, [offset])
        return True

    def sync_marks(self, numbers: Iterable[int], directories: Iterable[str]) -> None:
        """Makes marks in batches, and removals from directories, safe against a power cut.

        One that fails does not keep the others from it; the first error is raised at the end. What failed is not tried
        again (see `group_commit`): after a power cut such a task may run once more.
        """
        problems: list[OSError] = []
        # The batches first: a file that came from one may be gone for good only when its record is marked for good.
        jobs = [partial(self._sync_batch, number) for number in numbers]
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

    def _sync_batch(self, number: int) -> None:
        descriptor = self.disk.open(self.layout.batch(number))
        try:
            self.disk.sync(descriptor)
        finally:
            self.disk.close(descriptor)

    # -- moving --

    def settle(
        self, number: int, in_flight: set[int], void: set[int], due: dict[int, float], refused: Iterable[int] = ()
    ) -> dict[int, str]:
        """Gives each waiting task of a batch a spool file of its own, except those in flight with a worker.

        Args:
            void: records that are no tasks, though they may look like some.
            due: when those are due that are not ready now, by offset.
            refused: those of `void` that never were tasks.

        Returns:
            The ref of the new file for each offset; their records are marked finished. When the disk fails half way, what
            has moved by then has moved; OSError only when nothing has.
        """
        moved: dict[int, str] = {}
        problem = None
        for record in self.records(number):
            if record.state != WAITING or record.offset in in_flight or record.offset in void:
                continue
            try:
                # What is not due later is ready, whatever the record says (`retry`), also when the clock was set back.
                ready = min(record.accepted, time.time())
                place = Location(self.layout.batch(number), record.offset, record.length)
                ref = self._settled_ref(number, record, place)
                self._copy(place, ref, attempts=record.attempts, mtime=due.get(record.offset, ready))
            except OSError as error:
                problem = error
                break
            moved[record.offset] = ref
        self._confirm(moved.values())
        for offset, ref in list(moved.items()):
            try:
                self.mark(number, [offset])
            except OSError as error:
                # Its file must not run: when that has ended and is gone, the record would be found waiting.
                problem = error
                discard(self.disk, self.layout.path(ref))
                del moved[offset]
        with contextlib.suppress(OSError):
            self.mark(number, void - set(refused))
            self.mark(number, refused, VOID)
        if problem is not None and not moved:
            raise problem
        return moved

    def _confirm(self, refs: Iterable[str]) -> None:
        """Makes the names of new files safe; when that fails the files are gone, so that no task is in two places."""
        new = set(refs)
        try:
            for directory in {self.layout.directory_of(ref) for ref in new}:
                self._sync_directory(directory)
            if any("/" in ref for ref in new):
                self._sync_directory(self.layout.root)  # the directory itself may be new
            if any(is_outbound(ref) for ref in new):
                self._sync_directory(self.layout.outbox)
        except OSError:
            for ref in new:
                discard(self.disk, self.layout.path(ref))
            raise

    def bury(self, number: int | None, ref: int | str, reason: str, attempts: int) -> None:
        """Moves a task to dead/, with the reason. When that fails it stays where it is, and is not in dead/."""
        problems = self.bury_together(number, [ref], reason, attempts)
        if problems:
            raise problems[ref]

    def bury_together(
        self, number: int | None, refs: Iterable[int | str], reason: str, attempts: int
    ) -> dict[int | str, OSError | BadPacket]:
        """Moves tasks to dead/, all with one reason; why those stay where they are that do, and then are not in dead/.

        Their new names are made safe together: that takes half the time.
        """
        targets: dict[int | str, str] = {}
        problems: dict[int | str, OSError | BadPacket] = {}
        for ref in refs:
            try:
                targets[ref] = self._copy_to_dead(number, ref, reason, attempts)
            except (OSError, BadPacket) as error:
                problems[ref] = error
        try:
            self._confirm(targets.values())
        except OSError as error:
            return problems | dict.fromkeys(targets, error)
        for ref, target in targets.items():
            try:
                if number is None:
                    self.disk.unlink(self.layout.path(str(ref)))
                else:
                    self.mark(number, [int(ref)])
            except FileNotFoundError:
                continue  # somebody removed it meanwhile
            except OSError as error:
                discard(self.disk, self.layout.path(target))
                problems[ref] = error
        # The removal, or the mark, is made safe with the others of this second.
        return problems

    def _copy_to_dead(self, number: int | None, ref: int | str, reason: str, attempts: int) -> str:
        """The ref of the copy."""
        identity = ref_id(str(ref)) if number is None else names.task_id(self.node_id, number, int(ref))
        target = f"dead/{names.file_name(identity)}"
        if number is None:
            target = self._free(target)
        place = self.place(number, ref)
        for most in (MAX_REASON, SHORT_REASON):
            extra = [(names.REASON, _fit(reason, most)), (names.ATTEMPTS, str(attempts).encode())]
            with contextlib.suppress(_NoRoom):
                self._copy(place, target, attempts=attempts, mtime=time.time(), extra=extra)
                return target
        self._write(reason_ref(target), [encode_variables(extra)], mtime=None)
        self._copy(place, target, attempts=attempts, mtime=time.time())
        return target

    def remove(self, ref: str) -> None:
        """Removes a spool file, and what lies beside it."""
        self.disk.unlink(self.layout.path(ref))
        if ref.startswith("dead/"):
            discard(self.disk, self.layout.path(reason_ref(ref)))

    def revive(self, source: str, target: str = "", *, attempts: int = 0) -> str:
        """Moves a task from dead/ back among the waiting ones, or to the ref `target` in outbox/; the ref of its new file."""
        place = Location(self.layout.path(source))
        variables = self._variables(place)
        if target:
            self.disk.make_directory(self.layout.directory_of(target))
        ref = target or self._free(self._new_ref(ref_id(source), rank_of_variables(variables)))
        self._copy(place, ref, attempts=attempts, mtime=time.time())
        self._confirm([ref])
        try:
            self.remove(source)
        except OSError:
            discard(self.disk, self.layout.path(ref))
            raise
        with contextlib.suppress(OSError):  # it has moved all the same; after a power cut it may be in both places
            self._sync_directory(os.path.dirname(place.path))
        return ref

    def hand_over(self, number: int | None, targets: dict[int | str, str]) -> dict[int | str, str]:
        """Moves tasks to other places: from batch `number`, or with None spool files, to the refs in `targets`.

        A task is in its new place for good, and gone from the old one for good, when this returns: so that a link may send
        it and forget it. When the disk fails half way, what has moved by then has moved; OSError only when nothing has.
        """
        for directory in {os.path.dirname(ref) for ref in targets.values()} - {""}:
            self.disk.make_directory(self.layout.path(directory))
        if number is None:
            return self._hand_over_files({str(ref): target for ref, target in targets.items()})
        moved: dict[int | str, str] = {}
        problem = None
        records = {record.offset: record for record in self.records(number) if record.state == WAITING}
        for offset, target in targets.items():
            record = records.get(int(offset))
            if record is None:
                continue
            place = Location(self.layout.batch(number), record.offset, record.length)
            try:
                self._copy(place, target, attempts=0, mtime=self._mtime_at(place, target, record.accepted))
            except OSError as error:
                problem = error
                break
            moved[offset] = target
        self._confirm(moved.values())
        try:
            self.mark(number, [int(offset) for offset in moved])
            if self.sync and moved:
                self._sync_batch(number)
        except OSError:
            # Back to where they were. Where even that fails the new files are the tasks, and the old records look finished.
            self.mark(number, [int(offset) for offset in moved], WAITING)
            for target in moved.values():
                discard(self.disk, self.layout.path(target))
            raise
        if problem is not None and not moved:
            raise problem
        return moved

    def _hand_over_files(self, targets: dict[str, str]) -> dict[int | str, str]:
        moved: dict[int | str, str] = {}
        problem = None
        for ref, target in targets.items():
            try:
                # Before it is there: a file whose time is past may run at once. An attempt at sending is none at running.
                # What somebody has put into outbox/ has no number yet, and waits from now on.
                accepted = self.disk.stat(self.layout.path(ref)).mtime if number_of(ref) or "outbox/" not in ref else time.time()
                self.disk.set_mtime(self.layout.path(ref), self._mtime_at(Location(self.layout.path(ref)), target, accepted))
                self.set_attempts(None, ref, 0)
                self.disk.rename(self.layout.path(ref), self.layout.path(target))
            except FileNotFoundError:
                continue
            except OSError as error:
                problem = error
                break
            moved[ref] = target
        try:
            for directory in {self.layout.directory_of(ref) for pair in moved.items() for ref in map(str, pair)}:
                self._sync_directory(directory)
            if moved:
                self._sync_directory(self.layout.outbox)
        except OSError as error:
            problem = error
            for place, target in list(moved.items()):
                with contextlib.suppress(OSError):  # then it is in its new place, and the caller hears so
                    self.disk.rename(self.layout.path(target), self.layout.path(str(place)))
                    del moved[place]
        if problem is not None and not moved:
            raise problem
        return moved

    def _mtime_at(self, place: Location, target: str, accepted: float) -> float:
        """The time of a task's file in its new place: when it was accepted, or when it is due here, if that is later."""
        accepted = min(accepted, time.time())
        if is_outbound(target):
            return accepted
        try:
            at = names.read_at(dict(self._variables(place)).get(b"at", b""))
        except (BadPacket, Refused):  # a file from elsewhere; uWSGI takes any text there
            at = 0.0
        return max(at, accepted)

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
            self._sync_directory(self.layout.corrupt)
        return target

    def copy_file(self, path: str, ref: str) -> None:
        """A second copy of a whole spool file, as a new task."""
        self._copy(Location(path), ref, attempts=0, mtime=self.disk.stat(path).mtime)

    def publish(self, ref: str) -> str:
        """Puts a whole file of arriving/ among the waiting ones; its new ref. Its time stays."""
        variables = decode_variables(self.block_of(ref))
        target = self._new_ref(ref_id(ref), rank_of_variables(variables))
        self.disk.rename(self.layout.path(ref), self.layout.path(target))
        # After a power cut in the middle of it both names may be there; then the rename does nothing.
        discard(self.disk, self.layout.path(ref))
        for directory in dict.fromkeys([self.layout.directory_of(target), self.layout.root, self.layout.arriving]):
            self._sync_directory(directory)
        return target

    def keep_damage(self, number: int, start: int, data: bytes) -> None:
        """Keeps the damaged middle of a batch in corrupt/."""
        name = f"{number}.batch.{start}"
        if name in {entry.name for entry in self.disk.entries(self.layout.corrupt)}:
            return
        self._write(f"corrupt/{name}", [data], mtime=None)
        self._sync_directory(self.layout.corrupt)

    def keep_cut(self, number: int) -> None:
        """Keeps a copy of a batch that was cut short in corrupt/."""
        data = self.contents(self.layout.batch(number))
        self.keep_damage(number, len(data), data)

    def remove_batch(self, number: int) -> None:
        """Removes a batch whose tasks are all finished, and nothing when it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.disk.unlink(self.layout.batch(number))

    def put(self, ref: str, parts: list[bytes], mtime: float | None) -> None:
        """A new spool file; returns when it is safe."""
        self._write(ref, parts, mtime=mtime)
        self._confirm([ref])

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
        self._sync_directory(self.layout.directory_of(ref))

    def _new_ref(self, identity: str, rank: int) -> str:
        if rank == names.LAST:
            return waiting_ref(identity, rank)
        try:
            self.disk.make_directory(self.layout.path(str(rank)))
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            return waiting_ref(identity, names.LAST)  # something else lies there; a task without a priority is better than none
        return waiting_ref(identity, rank)

    def _free(self, ref: str) -> str:
        """That ref, or one like it when there is a task of that name already: somebody may have given two files one name."""
        try:
            self.disk.stat(self.layout.path(ref))
        except FileNotFoundError:
            return ref
        directory, slash, _ = ref.rpartition("/")
        identity = names.shortened(ref_id(ref), names.LONGEST_ID - 21)
        return f"{directory}{slash}{names.file_name(identity)}.{time.time_ns()}"

    def _settled_ref(self, number: int, record: batchfile.Record, place: Location) -> str:
        identity = names.task_id(self.node_id, number, record.offset)
        if record.kind != batchfile.OUTBOUND:
            return self._new_ref(identity, record.rank)
        to = destination_of_variables(self._variables(place))
        self.disk.make_directory(self.layout.path(f"outbox/{to}"))
        return outbox_ref(to, identity, record.number)

    def _copy(
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
                raise _NoRoom from error
            end = place.base + place.length if place.length >= 0 else self.disk.size(source)
            body_at = place.base + HEADER.size + len(block)
            self._write(ref, [spoolfile.head(new_block, attempts)], mtime, body=(source, body_at, end))
        finally:
            self.disk.close(source)

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

    def _sync_directory(self, path: str) -> None:
        if self.sync:
            self.disk.sync_directory(path)


def destination_of_variables(variables: Variables) -> str:
    """Where a task that waits for a peer is to go: what was chosen for it, else what was asked for."""
    said = dict(variables)
    return (said.get(names.TO) or said.get(names.NODE, b"")).decode("ascii", "replace")


class _NoRoom(Exception):
    """The variables with the reason would not fit into a block."""


def rank_of_variables(variables: Variables) -> int:
    """The rank that a task asks for; a priority that makes no sense (uWSGI takes any) is none."""
    try:
        return names.read_priority(dict(variables).get(b"priority", b""))  # of two the last counts, as when it was accepted
    except Refused:
        return names.LAST


def _fit(reason: str, most: int) -> bytes:
    data = reason.encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[: most // 2] + b"\n...\n" + data[-most // 2 :]


assert MAX_REASON < MAX_BLOCK  # noqa: S101  # of our own constants
