"""The tasks of a common store that this node holds: the same workers run them, from files in tmp/ (see `held_place`).

What became of a task is told to the `LeaseHolder`, who tells the store. A task that is to run again goes back there, with its
new time.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, MutableSequence, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, Protocol

from spoolnode.node.disk.disk import Disk, discard
from spoolnode.node.disk.layout import Layout, create, held_batch, spot_of
from spoolnode.node.spool.admissions import Admissions
from spoolnode.node.spool.functions import UNKNOWN
from spoolnode.node.spool.held_place import HeldPlace, HeldTask, encode_held
from spoolnode.node.spool.journal import DISK_REST_SECONDS, Journal
from spoolnode.node.spool.kept import read_kept
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.reader import Location
from spoolnode.node.spool.starting import Starting
from spoolnode.node.spool.tasks import Files, Ledger
from spoolnode.node.spool.waiting import Waiting
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.spoolfile import MAX_ATTEMPTS, head

KEPT_REASONS = 100
"""Reasons of tasks that were given up that are kept in memory."""


class LeaseHolder(Protocol):
    """Hears what became of the tasks."""

    def ended(self, refs: Sequence[str]) -> None:
        """They have ended well."""

    def returned(self, ref: str, result: bytes) -> None:
        """It has ended well, and keeps what it returned."""

    def again(self, ref: str, due: float = 0.0, attempts: int | None = None) -> None:
        """It is to run again, not before `due` (seconds since 1970). None: it has not been tried."""

    def buried(self, ref: str, reason: str, attempts: int | None) -> None:
        """It is given up after so many attempts; None: it is not known how many."""

    def is_to_tell(self, ref: str) -> bool:
        """Whether the store has not confirmed yet that it knows what became of a task."""


class HeldFiles(Files):
    """The source of all tasks that are held; `known` says since when each waits here."""

    __slots__ = (
        "_functions", "_given_up", "_in_batch", "_journal", "_keeping", "_lost", "_ranks", "_spots", "_waiting", "admissions",
        "expected", "holder", "is_open", "leaving",
    )  # fmt: skip

    is_leased: ClassVar = True

    def __init__(self, journal: Journal, waiting: Waiting, starting: Starting) -> None:
        place = HeldPlace()
        super().__init__(place=place)
        self._spots = place.spots
        self._in_batch = Counter[str]()
        """How many tasks are left in each batch."""
        self._journal = journal
        self._waiting = waiting
        self._functions = starting.functions
        self.admissions = Admissions(starting.throttle.at_once)
        self._ranks: dict[str, int] = {}
        self._lost: set[str] = set()
        """Those with workers whose leases are lost: they do not wait here again."""
        self._given_up: OrderedDict[str, str] = OrderedDict()
        self._keeping: dict[str, str] = {}
        """Those that keep what they return, with the names of their results."""
        self.leaving: set[str] = set()
        """Those that are not here any more, and of which the holder hears when the disk has been read."""
        self.expected = 0
        """How many the store is just asked for, at most."""
        self.holder: LeaseHolder | None = None
        self.is_open = True
        """Whether tasks may wait here. If not, one that comes back from a worker goes back to the store."""

    # -- in --

    async def put(self, tasks: Sequence[HeldTask]) -> None:
        """Has tasks without bodies run here, in this order."""
        number = self._journal.number()
        spots = await self._journal.moves.run(lambda: self._write(number, tasks))
        if spots is None:
            for task in tasks:
                self._send_back(task)
            return
        self._spots.update(spots)
        self._in_batch[held_batch(number)] = len(spots)
        self._enter(tasks)

    async def put_with_body(self, task: HeldTask, body: AsyncIterator[bytes]) -> None:
        """Has a task run here when its body has come. Raises what `body` raises; then no file is left."""
        run, disk = self._journal.moves.run, self._journal.disk
        descriptor = -1
        try:
            descriptor = await run(lambda: _create(disk, self._journal.layout, task))
            offset = len(head(task.block))
            async for chunk in body:
                await run(partial(disk.write, descriptor, chunk, offset))
                offset += len(chunk)
            await run(lambda: _finish(disk, self._journal.layout, task, descriptor))
        except OSError as error:
            self._report(error)
            self._abandon(task, descriptor)
            self._send_back(task)
        except BaseException:
            self._abandon(task, descriptor)
            raise
        else:
            self._enter([task])

    def _write(self, number: int, tasks: Sequence[HeldTask]) -> dict[str, str] | None:
        """Writes a batch, in the store thread. Returns the spots of the tasks; None if the disk did not take it."""
        data, spots = encode_held(number, tasks)
        try:
            _write_file(self._journal.disk, self._journal.layout, held_batch(number), data)
        except OSError as error:
            self._report(error)
            return None
        return spots

    def _report(self, error: OSError) -> None:
        self._journal.report("move_failed", move="take from the store", reason=str(error))

    def _abandon(self, task: HeldTask, descriptor: int) -> None:
        disk, path = self._journal.disk, self._journal.layout.path(task.ref)

        def remove() -> None:
            if descriptor >= 0:
                disk.close(descriptor)
            discard(disk, path)

        self._journal.moves.submit(remove, lambda _result, _error: None)

    def _send_back(self, task: HeldTask) -> None:
        self._told.again(task.ref, time.time() + DISK_REST_SECONDS)

    def _enter(self, tasks: Sequence[HeldTask]) -> None:
        now = time.time()
        for rank, alike in groupby(tasks, lambda task: task.rank):
            refs = [self._note(task, now) for task in alike]
            self._waiting.ready.add(self, refs, rank)
        if not self.is_open:
            self.give_back()
        self._waiting.changed()

    def _note(self, task: HeldTask, now: float) -> str:
        """Notes that a task is here. Returns its ref."""
        ref = task.ref
        self.known[ref] = now
        self._ranks[ref] = task.rank
        self.functions[ref] = self._functions.number(_function_in(task.block))
        if names.KEEP in task.block:
            self._keeping[ref] = _origin_of(task)
        return ref

    @property
    def has_bodies(self) -> bool:
        """Whether some of them have bodies."""
        return len(self._spots) < len(self.known)

    # -- those of limited functions --

    def admitted(self, refs: MutableSequence[Any], rank: int) -> MutableSequence[Any]:
        return self.admissions.sorted_out(refs, rank, lambda ref: self.functions.get(ref, UNKNOWN))

    def admit(self, refs: Sequence[str]) -> None:
        """The store has let these tasks run: their turn has come already."""
        ranks = {ref: rank for ref in refs if (rank := self.admissions.admit(ref)) is not None}
        for rank in {*ranks.values()}:
            self._waiting.ready.give_back(self, [ref for ref in ranks if ranks[ref] == rank], rank)
        self._waiting.changed()

    def first(self, count: Callable[[int], int]) -> set[str]:
        """Of each function so many of the tasks that wait for places, in the order of their turns."""
        first, found = set[str](), Counter[int]()
        for ref in sorted(self.waiting, key=self._ranks.__getitem__):
            function = self.functions.get(ref, UNKNOWN)
            if not self.admissions.has_admitted(ref) and found[function] < count(function):
                found[function] += 1
                first.add(ref)
        return first

    # -- back --

    @property
    def waiting(self) -> list[str]:
        """Those that no worker has."""
        return [ref for ref in self.known if ref not in self.in_flight]

    def close(self) -> None:
        """From now on no task waits here. Those that wait now go back to the store."""
        self.is_open = False
        self.give_back()

    def give_back(self, refs: Iterable[str] | None = None, due: float = 0.0) -> None:
        """Gives tasks that wait here back to the store; by default all of them."""
        for ref in self.waiting if refs is None else list(refs):
            self._waiting.ready.remove(self, ref)
            self._remove(ref)
            self._told.again(ref, due)

    def lose(self, refs: Iterable[str]) -> list[str]:
        """The leases of tasks are lost. Returns those that workers have, which go on."""
        here = [ref for ref in refs if ref in self.known]
        self.give_back(ref for ref in here if ref not in self.in_flight)
        self._lost.update(held := [ref for ref in here if ref in self.in_flight])
        return held

    def _remove(self, ref: str) -> None:
        """Takes a task off the disk that has not ended, and forgets it."""
        if ref not in self._spots:
            self._discard(ref)
        self._forget(ref)

    def _discard(self, ref: str) -> None:
        disk, path = self._journal.disk, self._journal.layout.path(ref)
        self._journal.moves.submit(lambda: discard(disk, path), lambda _result, _error: None)

    def _forget(self, ref: str) -> bool:
        """Forgets a task. Its batch goes with the last one. Returns False if it is not known."""
        if self.known.pop(ref, None) is None:
            return False
        self.functions.pop(ref, None)
        self._ranks.pop(ref, None)
        self.admissions.forget(ref)
        self._keeping.pop(ref, None)
        self._lost.discard(ref)
        if (spot := spot_of(self._spots.pop(ref, ""))) is not None:
            batch = spot.batch
            self._in_batch[batch] -= 1
            if not self._in_batch[batch]:
                del self._in_batch[batch]
                self._discard(batch)
        return True

    @property
    def _told(self) -> LeaseHolder:
        assert self.holder is not None  # noqa: S101  # without a store nothing is taken
        return self.holder

    def find(self, identity: str) -> str | None:
        """The ref of the task of that id."""
        ref = f"tmp/{names.file_name(identity)}"
        return ref if ref in self.known else None

    def spot(self, identity: str) -> str | None:
        """Where the task of that id lies, for one who looks."""
        ref = self.find(identity)
        return None if ref is None else self.place.where(ref)

    def spots(self) -> list[str]:
        """Where all of them lie, for one who looks."""
        return [self._spots.get(ref, ref) for ref in self.known]

    def why_given_up(self, identity: str) -> str:
        """Why a task was given up here, of the last few; else empty. Only the store has it then."""
        return self._given_up.get(f"tmp/{names.file_name(identity)}", "")

    def is_told(self, identity: str) -> bool:
        """Whether the store knows what became of a task that is not here any more."""
        return not self._told.is_to_tell(f"tmp/{names.file_name(identity)}")

    # -- as a source --

    def sent(self, refs: MutableSequence[Any]) -> MutableSequence[Any]:
        return [self._spots.get(ref, ref) for ref in refs]

    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        # One that was given back, and taken again, may have several places in the queue.
        return [ref for ref in dict.fromkeys(refs) if ref in self.known and ref not in self.in_flight], []

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        here = [ref for ref in refs if ref in self.known]
        leaving = [ref for ref in here if ref in self._lost or not self.is_open]
        self.give_back(leaving)
        return [ref for ref in here if ref in self.known]

    def sequence_number(self, ref: Ref) -> int:  # noqa: ARG002  # they never have any
        return 0

    def accepted_at(self, ref: Ref) -> float:
        return self.known.get(str(ref), time.time())

    def withdraw(self, queue: Any, ref: Ref) -> int | None:  # noqa: ARG002  # only the store can end one that waits
        return None

    def put_off(self, ref: Ref, due: float) -> bool:
        def told(attempts: int | None, error: BaseException | None) -> None:  # noqa: ARG001  # then they are unknown
            self.leaving.discard(str(ref))
            self._told.again(str(ref), due, attempts)

        if ref in self.known:
            header = self.place.header(self._journal.layout, ref)
            self.leaving.add(str(ref))
            self._journal.moves.submit(lambda: self._attempts_at(header), told)
            self._remove(str(ref))
        return False

    def _attempts_at(self, header: Location) -> int | None:
        """How often the task with this header was tried; None if that is unknown. For the store thread."""
        with suppress(OSError):
            return self._journal.reader.progress(header).attempts
        return None

    def succeeded(self, refs: Sequence[Any]) -> None:
        keeping = {ref: self._keeping[ref] for ref in refs if ref in self._keeping}
        ended = [ref for ref in refs if self._forget(ref)]
        if plain := [ref for ref in ended if ref not in keeping]:
            self._told.ended(plain)
        for ref in ended:
            if ref in keeping:
                self._tell_result(ref, keeping[ref])

    def _tell_result(self, ref: str, origin_id: str) -> None:
        def read(result: bytes | None, error: BaseException | None) -> None:  # noqa: ARG001  # then it was not kept
            self.leaving.discard(ref)
            self._told.returned(ref, result or b"")

        self.leaving.add(ref)
        layout = self._journal.layout
        self._journal.moves.submit(lambda: read_kept(layout, origin_id), read)

    def gave_up(self, ref: Ref, reason: str, attempts: int | None) -> None:
        if self._forget(str(ref)):
            self._given_up[str(ref)] = reason
            if len(self._given_up) > KEPT_REASONS:
                self._given_up.popitem(last=False)
            self._told.buried(str(ref), reason, attempts)

    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:  # noqa: ARG002  # nothing is to be made safe
        for ref in refs:
            if self._forget(ref):  # its file was removed by hand before it ran
                self._told.again(ref)


def _write_file(disk: Disk, layout: Layout, ref: str, data: bytes) -> None:
    """Makes a file with these bytes. Leaves none if the disk does not take them."""
    path = layout.path(ref)
    descriptor = create(disk, layout, path)
    try:
        disk.write(descriptor, data, 0)
    except OSError:
        discard(disk, path)
        raise
    finally:
        disk.close(descriptor)


def _create(disk: Disk, layout: Layout, task: HeldTask) -> int:
    """A new file with the variables of a task; its descriptor."""
    descriptor = create(disk, layout, layout.path(task.ref))
    try:
        disk.write(descriptor, head(task.block, min(task.attempts, MAX_ATTEMPTS)), 0)
    except OSError:
        disk.close(descriptor)
        discard(disk, layout.path(task.ref))
        raise
    return descriptor


def _finish(disk: Disk, layout: Layout, task: HeldTask, descriptor: int) -> None:
    disk.close(descriptor)
    disk.set_mtime(layout.path(task.ref), min(task.ready_at, time.time()))


def _origin_of(task: HeldTask) -> str:
    """The id under which its result is kept (see `kept`)."""
    with suppress(BadPacket):
        said = dict(decode_variables(task.block)).get(names.ID, b"").decode("ascii", "replace")
        if names.is_task_id(said):
            return said
    return task.id


def _function_in(block: bytes) -> bytes | None:
    """The function that a task is for; None if its variables are malformed."""
    if names.FUNCTION not in block and names.LEGACY_FUNCTION not in block:
        return b""
    try:
        return names.function_named(dict(decode_variables(block)))
    except BadPacket:
        return None
