"""The place of a task on disk, and what can be done to it there: a record in a batch, or a file of its own.

This is the only module that knows the difference: both have the same methods. A place holds at most a number, so any thread may
have one; the argument (a `Reader`, a `Marker`, the `Store`) says which thread may make a call. Everything here blocks.

A move is: a whole new file, safe under its name; only then is the old place marked or removed (see `store`).
"""

import contextlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from spoolnode.node.commons import COMMONS
from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.layout import (
    Layout,
    batch_number,
    batch_ref,
    destination_of,
    is_incoming,
    is_outbound,
    number_of,
    outbox_ref,
    ref_id,
)
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.reader import Location, Marker, Progress, Reader
from spoolnode.node.spool.store import NoRoom, Store, destination_of_variables
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Refused
from spoolnode.protocol.packet import HEADER, MAX_BLOCK, encode_variables
from spoolnode.protocol.spoolfile import FINISHED, VOID, WAITING

MAX_REASON = 4096
"""Bytes of a reason that are kept with a dead task..."""
SHORT_REASON = 560
"""...and if its variables leave little room. A link needs more room, so a task for a link always has this much."""

Line = tuple[str, dict[str, Any]]
"""An event for the log: its name and its fields."""


class Place(ABC):
    """The place where the tasks of one source lie; a ref names each."""

    keeps_times: ClassVar[bool]
    """Whether the disk says when a waiting task is due; if not, only memory does."""

    @abstractmethod
    def id_of(self, ref: Ref, node_id: str) -> str:
        """The id of a task on the node with the id `node_id`."""

    @abstractmethod
    def where(self, ref: Ref) -> str:
        """The place of a task, for people: the path of its file below the spool, and the offset of a record."""

    @abstractmethod
    def header(self, layout: Layout, ref: Ref) -> Location:
        """The location of a task's header."""

    # -- for any thread --

    @abstractmethod
    def whole(self, reader: Reader, ref: Ref) -> Location:
        """The location of all bytes of a task. Raises FileNotFoundError if it is gone."""

    @abstractmethod
    def ended(self, reader: Reader, refs: Iterable[Ref]) -> set[Ref]:
        """The tasks among these that have ended well. One that cannot be read is not among them."""

    def progress(self, reader: Reader, ref: Ref) -> Progress:
        """State and attempts of a task. Raises FileNotFoundError if it is gone."""
        return reader.progress(self.header(reader.layout, ref))

    # -- for the thread that holds the task --

    @abstractmethod
    def set_attempts(self, marker: Marker, ref: Ref, attempts: int) -> None:
        """Writes the number of attempts."""

    # -- for the store thread --

    @abstractmethod
    def put_off(self, store: Store, ref: Ref, due: float) -> float:
        """Has a task wait until it is due. Returns the due time as the disk has noted it."""

    @abstractmethod
    def take_over(self, store: Store, ref: Ref) -> None:
        """Makes a task ours that we may read but not mark. Raises OSError if that is impossible."""

    @abstractmethod
    def keep_unreadable(self, store: Store, ref: Ref) -> str:
        """Keeps a task that can never be read in corrupt/. Returns its name there. Raises OSError."""

    @abstractmethod
    def quarantine(self, store: Store, ref: Ref, reason: str) -> list[Line]:
        """The same. Returns the events for the log."""

    @abstractmethod
    def remove(self, store: Store, ref: Ref) -> bool:
        """Removes one task by hand. Returns False if none waits there: `ref` may be anything."""

    @abstractmethod
    def leave(self, store: Store, refs: Iterable[Ref]) -> None:
        """Removes tasks of a link from the disk: the other node has them."""

    @abstractmethod
    def hand_over(self, store: Store, targets: dict[Ref, str]) -> dict[Ref, str]:
        """Moves tasks to other places. Returns the new refs of those that moved.

        When this returns, a task is in its new place for good and gone from the old one for good, so a link may send it and
        forget it. If the disk fails half way, the tasks that have moved by then stay moved. Raises OSError only if none has.
        """

    @abstractmethod
    def sync(self, store: Store, ref: Ref) -> None:
        """Makes the end of a task there safe."""

    def bury(self, store: Store, ref: Ref, reason: str, attempts: int) -> None:
        """Moves a task to dead/, with the reason. If that fails, it stays where it is, and is not in dead/."""
        problems = self.bury_together(store, [ref], reason, attempts)
        if problems:
            raise problems[ref]

    def bury_together(
        self, store: Store, refs: Iterable[Ref], reason: str, attempts: int
    ) -> dict[Ref, OSError | BadPacket]:  # fmt: skip
        """Moves tasks to dead/, all with one reason. Returns the errors of those that stay where they are; they are not in
        dead/.

        Their new names are made safe together, in half the time.
        """
        targets: dict[Ref, str] = {}
        problems: dict[Ref, OSError | BadPacket] = {}
        for ref in refs:
            try:
                targets[ref] = self._copy_to_dead(store, ref, reason, attempts)
            except (OSError, BadPacket) as error:
                problems[ref] = error
        try:
            store.confirm(targets.values())
        except OSError as error:
            return problems | dict.fromkeys(targets, error)
        for ref, target in targets.items():
            try:
                self._end(store, ref)
            except FileNotFoundError:
                continue  # it was removed meanwhile
            except OSError as error:
                discard(store.disk, store.layout.path(target))
                problems[ref] = error
        # The removal, or the mark, is made safe with all others of this second.
        return problems

    def _copy_to_dead(self, store: Store, ref: Ref, reason: str, attempts: int) -> str:
        """Copies a task to dead/. Returns the ref of the copy."""
        target = self._dead_ref(store, f"dead/{names.file_name(self.id_of(ref, store.node_id))}")
        place = self.whole(store, ref)
        for most in (MAX_REASON, SHORT_REASON):
            extra = [(names.REASON, _fit(reason, most)), (names.ATTEMPTS, str(attempts).encode())]
            with contextlib.suppress(NoRoom):
                store.copy(place, target, attempts=attempts, mtime=time.time(), extra=extra)
                return target
        store.put_reason(target, encode_variables(extra))
        store.copy(place, target, attempts=attempts, mtime=time.time())
        return target

    @abstractmethod
    def _dead_ref(self, store: Store, ref: str) -> str:
        """A free ref in dead/ for a task of this name."""

    @abstractmethod
    def _end(self, store: Store, ref: Ref) -> None:
        """Removes a task from this place: it has another one."""


@dataclass(frozen=True, slots=True)
class InBatch(Place):
    """A record; its ref is the offset of its payload."""

    keeps_times: ClassVar = False
    number: int

    def id_of(self, ref: Ref, node_id: str) -> str:
        return names.id_of_record(node_id, self.number, int(ref))

    def where(self, ref: Ref) -> str:
        return f"{batch_ref(self.number)}:{ref}"

    def header(self, layout: Layout, ref: Ref) -> Location:
        return Location(layout.batch(self.number), int(ref), HEADER.size)

    def whole(self, reader: Reader, ref: Ref) -> Location:
        return reader.record(reader.layout.batch(self.number), int(ref))

    def ended(self, reader: Reader, refs: Iterable[Ref]) -> set[Ref]:
        try:
            found = reader.progresses(reader.layout.batch(self.number), [int(ref) for ref in refs])
        except OSError:
            return set()
        return {ref for ref, progress in found.items() if progress.state == FINISHED}

    def set_attempts(self, marker: Marker, ref: Ref, attempts: int) -> None:
        marker.set_attempts(self.header(marker.layout, ref), attempts)

    def put_off(self, store: Store, ref: Ref, due: float) -> float:  # noqa: ARG002  # memory alone knows
        return due

    def take_over(self, store: Store, ref: Ref) -> None:
        raise PermissionError(f"the record {ref} of the batch {store.layout.batch(self.number)} is ours already")

    def keep_unreadable(self, store: Store, ref: Ref) -> str:  # noqa: ARG002  # all of it is kept
        """Keeps a copy of its batch, which was cut short; all other tasks in it go on."""
        data = store.contents(store.layout.batch(self.number))
        return store.keep_damage(self.number, len(data), data)

    def quarantine(self, store: Store, ref: Ref, reason: str) -> list[Line]:
        identity = self.id_of(ref, store.node_id)
        lines: list[Line] = [("quarantined", {"id": identity, "reason": reason})]
        try:
            self.keep_unreadable(store, ref)
        except FileNotFoundError:
            pass
        except OSError as error:
            lines.insert(0, ("move_failed", {"move": "keep", "id": identity, "reason": str(error)}))
        return lines

    def remove(self, store: Store, ref: Ref) -> bool:
        if not any(record.offset == ref and record.state == WAITING for record in store.records(self.number)):
            return False
        store.mark(self.number, [int(ref)])
        return True

    def leave(self, store: Store, refs: Iterable[Ref]) -> None:
        store.mark_own(self.number, [int(ref) for ref in refs])

    def sync(self, store: Store, ref: Ref) -> None:  # noqa: ARG002  # one for all
        store.sync_batch(self.number)

    def settle(
        self, store: Store, in_flight: set[int], void: set[int], due: dict[int, float], refused: Iterable[int] = ()
    ) -> dict[int, str]:
        """Gives each waiting task a spool file of its own, except those in flight with a worker.

        Args:
            void: records that are not tasks, but may look like tasks.
            due: the due times of those that are not ready now, by offset.
            refused: those of `void` that were never tasks.

        Returns:
            The ref of the new file for each offset; their records are marked finished. If the disk fails half way, the tasks
            that have moved by then stay moved. Raises OSError only if none has.
        """
        moved: dict[int, str] = {}
        problem = None
        for record in store.records(self.number):
            if record.state != WAITING or record.offset in in_flight or record.offset in void:
                continue
            try:
                # A task that is not due later is ready, whatever the record says (`retry`), even after the clock was set back.
                ready = min(record.accepted, time.time())
                place = self._location(store, record)
                ref = self._settled_ref(store, record, place)
                store.copy(place, ref, attempts=record.attempts, mtime=due.get(record.offset, ready))
            except OSError as error:
                problem = error
                break
            moved[record.offset] = ref
        store.confirm(moved.values())
        for offset, ref in list(moved.items()):
            try:
                store.mark(self.number, [offset])
            except OSError as error:
                # Its file must not run: after that has ended and gone, the record would still wait.
                problem = error
                discard(store.disk, store.layout.path(ref))
                del moved[offset]
        with contextlib.suppress(OSError):
            store.mark(self.number, void - set(refused))
            store.mark(self.number, refused, VOID)
        if problem is not None and not moved:
            raise problem
        return moved

    def hand_over(self, store: Store, targets: dict[Ref, str]) -> dict[Ref, str]:
        _make_directories(store, targets)
        moved: dict[Ref, str] = {}
        problem = None
        records = {record.offset: record for record in store.records(self.number) if record.state == WAITING}
        for offset, target in targets.items():
            record = records.get(int(offset))
            if record is None:
                continue
            place = self._location(store, record)
            try:
                mtime = _mtime_at(store, place, target, record.accepted)
                tried = [] if record.kind == batchfile.OUTBOUND else _tried(target, record.attempts)
                _copy(store, place, target, mtime, tried)
            except OSError as error:
                problem = error
                break
            moved[offset] = target
        store.confirm(moved.values())
        try:
            store.mark(self.number, [int(offset) for offset in moved])
            if store.sync and moved:
                store.sync_batch(self.number)
        except OSError:
            # Back to where they were. If even that fails, the new files are the tasks, and the old records look finished.
            store.mark(self.number, [int(offset) for offset in moved], WAITING)
            for target in moved.values():
                discard(store.disk, store.layout.path(target))
            raise
        if problem is not None and not moved:
            raise problem
        return moved

    def _location(self, store: Store, record: batchfile.Record) -> Location:
        return Location(store.layout.batch(self.number), record.offset, record.length)

    def _settled_ref(self, store: Store, record: batchfile.Record, place: Location) -> str:
        identity = self.id_of(record.offset, store.node_id)
        if record.kind != batchfile.OUTBOUND:
            return store.new_ref(identity, record.rank)
        to = destination_of_variables(store.variables_at(place))
        store.disk.make_directory(store.layout.path(f"outbox/{to}"))
        return outbox_ref(to, identity, record.number)

    def _dead_ref(self, store: Store, ref: str) -> str:  # noqa: ARG002  # no other task has that id
        return ref

    def _end(self, store: Store, ref: Ref) -> None:
        store.mark(self.number, [int(ref)])


@dataclass(frozen=True, slots=True)
class InFiles(Place):
    """A spool file; its ref is its path below the spool. Its time says since when or until when it waits."""

    keeps_times: ClassVar = True

    def id_of(self, ref: Ref, node_id: str) -> str:  # noqa: ARG002  # a record needs it
        return ref_id(str(ref))

    def where(self, ref: Ref) -> str:
        return str(ref)

    def header(self, layout: Layout, ref: Ref) -> Location:
        return Location(layout.path(str(ref)), 0, HEADER.size)

    def whole(self, reader: Reader, ref: Ref) -> Location:
        return Location(reader.layout.path(str(ref)))

    def ended(self, reader: Reader, refs: Iterable[Ref]) -> set[Ref]:
        return {ref for ref in refs if reader.is_gone(str(ref))}

    def set_attempts(self, marker: Marker, ref: Ref, attempts: int) -> None:
        path = marker.layout.path(str(ref))
        mtime = marker.disk.stat(path).mtime
        marker.set_attempts(self.header(marker.layout, ref), attempts)
        marker.disk.set_mtime(path, mtime)

    def put_off(self, store: Store, ref: Ref, due: float) -> float:
        path = store.layout.path(str(ref))
        store.disk.set_mtime(path, due)
        return store.disk.stat(path).mtime

    def take_over(self, store: Store, ref: Ref) -> None:
        store.take_over(str(ref))

    def keep_unreadable(self, store: Store, ref: Ref) -> str:
        return store.quarantine(str(ref))

    def quarantine(self, store: Store, ref: Ref, reason: str) -> list[Line]:
        try:
            name = self.keep_unreadable(store, ref)
        except FileNotFoundError:
            return []
        except OSError as error:
            return [("move_failed", {"file": ref, "reason": str(error)})]
        return [("quarantined", {"file": ref, "corrupt": name, "reason": reason})]

    def remove(self, store: Store, ref: Ref) -> bool:
        self._end(store, ref)
        return True

    def leave(self, store: Store, refs: Iterable[Ref]) -> None:
        for ref in refs:
            with contextlib.suppress(FileNotFoundError):
                self._end(store, ref)

    def sync(self, store: Store, ref: Ref) -> None:
        store.sync_directory(store.layout.directory_of(str(ref)))

    def hand_over(self, store: Store, targets: dict[Ref, str]) -> dict[Ref, str]:
        _make_directories(store, targets)
        moved: dict[Ref, str] = {}
        problem = None
        for place, target in targets.items():
            ref = str(place)
            path = store.layout.path(ref)
            try:
                # Before it is there: a file whose time is past may run at once. An attempt to send is not an attempt to run.
                # A file that was put into outbox/ by hand has no number yet, and waits from now on.
                accepted = time.time() if is_outbound(ref) and not number_of(ref) else store.disk.stat(path).mtime
                mtime = _mtime_at(store, Location(path), target, accepted)
                if not is_outbound(ref) and (tried := _tried(target, self.progress(store, ref).attempts)):
                    _copy(store, Location(path), ref, mtime, tried)
                store.disk.set_mtime(path, mtime)
                self.set_attempts(store, ref, 0)
                store.disk.rename(path, store.layout.path(target))
            except FileNotFoundError:
                continue
            except OSError as error:
                problem = error
                break
            moved[ref] = target
        try:
            for directory in {store.layout.directory_of(ref) for pair in moved.items() for ref in map(str, pair)}:
                store.sync_directory(directory)
            if moved:
                store.sync_directory(store.layout.outbox)
        except OSError as error:
            problem = error
            for place, target in list(moved.items()):
                with contextlib.suppress(OSError):  # then it stays in its new place, and the caller hears so
                    store.disk.rename(store.layout.path(target), store.layout.path(str(place)))
                    del moved[place]
        if problem is not None and not moved:
            raise problem
        return moved

    def _dead_ref(self, store: Store, ref: str) -> str:
        return store.free_ref(ref)

    def _end(self, store: Store, ref: Ref) -> None:
        store.disk.unlink(store.layout.path(str(ref)))


IN_FILES = InFiles()


def place_at(where: str) -> tuple[Place, Ref]:
    """The place and the ref of a task, from the text of `Place.where`."""
    path, _, offset = where.rpartition(":")
    if is_incoming(path):
        return InBatch(batch_number(os.path.basename(path)) or 0), int(offset)
    return IN_FILES, where


def _make_directories(store: Store, targets: dict[Ref, str]) -> None:
    for directory in {os.path.dirname(ref) for ref in targets.values()} - {""}:
        store.disk.make_directory(store.layout.path(directory))


def _tried(target: str, attempts: int) -> list[tuple[bytes, bytes]]:
    """The attempts of a task, as variables, if it moves into the outbox of a common store, where the byte for them says that it
    was sent."""
    if attempts and is_outbound(target) and destination_of(target) == COMMONS:
        return [(names.ATTEMPTS, str(attempts).encode())]
    return []


def _copy(store: Store, place: Location, target: str, mtime: float, extra: list[tuple[bytes, bytes]]) -> None:
    """Copies a task that is to move, with `extra` if there is room for it."""
    try:
        store.copy(place, target, attempts=0, mtime=mtime, extra=extra)
    except NoRoom:
        store.copy(place, target, attempts=0, mtime=mtime)


def _mtime_at(store: Store, place: Location, target: str, accepted: float) -> float:
    """The time of a task's file in its new place: when it was accepted, or when it is due here, if that is later."""
    accepted = min(accepted, time.time())
    if is_outbound(target):
        return accepted
    try:
        at = names.read_at(dict(store.variables_at(place)).get(b"at", b""))
    except (BadPacket, Refused):  # a file from elsewhere; uWSGI takes any text there
        at = 0.0
    return max(at, accepted)


def _fit(reason: str, most: int) -> bytes:
    data = reason.encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[: most // 2] + b"\n...\n" + data[-most // 2 :]


assert MAX_REASON < MAX_BLOCK  # noqa: S101  # of our own constants
