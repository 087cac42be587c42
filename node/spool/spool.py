"""The spool: which tasks are here, and where each of them goes next. The one owner of that knowledge.

It lives on the event loop and never blocks it: disk work goes to threads (see `journal`).

`tasks` says what a task in memory is. In what order they run: `waiting`. What becomes of one that did not end well: `verdicts`.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from spoolnode.node.disk.layout import is_outbound, rank_of
from spoolnode.node.spool.arrivals import Arrivals
from spoolnode.node.spool.duplicates import Duplicates
from spoolnode.node.spool.files import SpoolFiles
from spoolnode.node.spool.group_commit import Group, GroupCommit
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import DueTask, Ref
from spoolnode.node.spool.recovery import Found, FoundBatch
from spoolnode.node.spool.retrying import Retrying
from spoolnode.node.spool.starting import Starting
from spoolnode.node.spool.tasks import Batch, Source, Taken
from spoolnode.node.spool.timings import Timings
from spoolnode.node.spool.waiting import Waiting
from spoolnode.node.spool.waiting_keys import WaitingKeys
from spoolnode.node.story.notes import DEAD, DONE
from spoolnode.protocol.names import LAST


class Outgoing(Protocol):
    """The owner of the tasks for other nodes."""

    @property
    def in_batches(self) -> int:
        """How many of them are in batches."""

    def accept(self, to: str, batch: Batch, offset: int, rank: int) -> None:
        """Takes a task that is safe on disk, for the destination `to`."""


class Spool:
    """One spool directory and all its waiting tasks."""

    def __init__(self, journal: Journal, outgoing: Outgoing) -> None:
        self.journal = journal
        journal.tenants.append(self)
        self.counts, self.id_of = journal.counts, journal.id_of
        self.group_commit = GroupCommit(
            journal.disk, journal.layout, journal.commits, journal.node_id, journal.number, self._committed, sync=journal.sync
        )
        self.waiting = Waiting()
        self.retrying = Retrying()
        self.keys = WaitingKeys()
        self.files = SpoolFiles(journal, self.waiting, self.retrying, self.keys)
        self.duplicates = Duplicates(self.keys, self.files, journal, self.end)
        self.starting = Starting(self.waiting, self.files, self.keys)
        self.arrivals = Arrivals(journal, self.duplicates)
        self.timings = Timings(self.starting.functions)
        self._outgoing = outgoing

    def __repr__(self) -> str:
        return f"<spool {self.journal.layout.root}: {self.total} tasks, {self.waiting!r}>"

    # -- in --

    def adopt(self, found: Found, now: float) -> None:
        """Puts the tasks that a start has found into the queues, oldest first. `now`: the wall clock, in seconds."""
        self.arrivals.adopt(found.arrived)
        files = sorted(found.files, key=lambda file: file.order)
        position = 0
        for batch in found.batches:
            while position < len(files) and files[position].mtime <= batch.batch.accepted:
                self.files.adopt(files[position], now)
                position += 1
            self._adopt_batch(batch)
        for file in files[position:]:
            self.files.adopt(file, now)

    def _adopt_batch(self, found: FoundBatch) -> None:
        batch = found.batch
        self.journal.batches[batch.number] = batch
        for offset, name in found.functions:
            batch.functions.note(offset, self.starting.functions.number(name))
        for rank, offsets in found.ready.items():
            self.waiting.ready.add(batch, offsets, rank)
        for due, offset, rank in found.later:
            self.waiting.later.add(due, batch, offset, rank)
        for offset, key in found.keys:
            self.keys.add(batch, offset, key)

    def _committed(self, group: Group) -> None:
        batch = group.batch
        if batch.live:
            self.journal.batches[batch.number] = batch
        if group.keys:
            group = self.duplicates.removed_from(group)
        self.starting.note_functions(group)
        self._queue(group)
        self.counts.accepted += len(group.offsets)
        if group.offsets:
            self._tell(group)
        if self.journal.trace:
            for offset in group.offsets:
                identity, function = self.id_of(batch, offset), group.functions.get(offset, b"").decode("utf-8", "replace")
                origin_id = group.origins.get(offset, b"").decode("ascii", "replace") or identity
                self.journal.trace("accepted", id=identity, origin_id=origin_id, function=function)
        if group.closes:
            # Only now: a batch counts as finished when it is closed and has no unfinished tasks, and those of a closing group
            # count from here on.
            batch.closed = True
            batch.closed_at = time.monotonic()
            self.journal.drop_if_finished(batch)
        if group.offsets:
            self.waiting.changed()

    def _tell(self, group: Group) -> None:
        """Begins the stories of these tasks."""
        accepted, number = self.journal.story.accepted, group.batch.number
        if not group.outbound:
            accepted(number, group.offsets, group.callers, group.origins, group.functions)
            return
        for offset, caller in zip(group.offsets, group.callers, strict=True):
            to = {"to": group.outbound[offset].to} if offset in group.outbound else {}
            accepted(number, [offset], [caller], group.origins, group.functions, **to)

    def _queue(self, group: Group) -> None:
        if not group.special and not group.outbound:
            self.waiting.ready.add(group.batch, group.offsets)
            return
        now = time.time()
        for offset in group.offsets:
            due, rank = group.special.get(offset, (0.0, LAST))
            if offset in group.outbound:
                to, number = group.outbound[offset]
                group.batch.outbound.append(offset)
                group.batch.numbers.append(number)
                self._outgoing.accept(to, group.batch, offset, rank)
            elif due > now:
                self.waiting.later.add(due, group.batch, offset, rank)
            else:
                self.waiting.ready.add(group.batch, [offset], rank)

    # -- to the workers and back --

    def take(self, count: int) -> Taken | None:
        """Takes up to `count` tasks of one source to run now; None if there are none that may."""
        if (taken := self.starting.take(count)) is not None:
            self.keys.take(taken.source, taken.refs)
        return taken

    def take_later(self, count: int) -> list[DueTask]:
        """Takes up to `count` tasks of one source and one rank that are due later, with their times; see `give_back_later`."""
        entries = self.waiting.later.take(count)
        for _, _, source, ref, _, _ in entries:
            source.in_flight.add(ref)
        return entries

    def give_back_later(self, entries: Iterable[DueTask]) -> None:
        """Puts back tasks that were taken before their time; they go on waiting for it."""
        for due, _, source, ref, rank, pauses in entries:
            source.land([ref])
            if source.still_here([ref]):
                self.keys.wait_again(source, [ref])
                self.waiting.wait(source, ref, rank, due, pauses=pauses)

    def give_back(self, taken: Taken) -> None:
        """Takes back tasks that were with a worker and did not start: they run next."""
        source, refs, rank = taken
        source.land(refs)
        self.starting.release(source, refs, ran=False)
        self.keys.wait_again(source, here := source.still_here(refs))
        self.waiting.ready.give_back(source, here, rank)
        self.waiting.changed()

    def postpone(self, source: Source, ref: Ref, rank: int, due: float) -> None:
        """A task is tried again at that time."""
        source.land([ref])
        self.starting.release(source, [ref])
        if source.put_off(ref, due):
            self.keys.wait_again(source, [ref])
            self.waiting.wait(source, ref, rank, due, pauses=not source.place.keeps_times)
        else:
            self.retrying.forget(source, [ref])

    def done(self, source: Source, refs: list[Ref], seconds: Sequence[float] = (), **detail: Any) -> None:
        """Notes that tasks have ended well; the worker has marked or removed them.

        Args:
            seconds: how long each ran.
            detail: more for their stories.
        """
        self.counts.done += len(refs)
        self.journal.note(DONE, source, refs, seconds, **detail)
        source.succeeded(refs)
        if self.journal.trace:
            for ref in refs:
                self.journal.trace("done", id=self.id_of(source, ref))
        self.end(source, refs)

    def died(self, source: Source, ref: Ref, reason: str, attempts: int, *, cancelled: bool = False) -> None:
        """A task was given up after so many attempts, or was cancelled while it ran; it is kept with the reason."""
        self.counts.died += not cancelled
        self.counts.cancelled += cancelled
        self.journal.note(DEAD, source, [ref])
        source.gave_up(ref, reason, attempts)
        self.end(source, [ref])

    def gone(self, source: Source, ref: Ref) -> None:
        """Notes that a task was gone when its turn came."""
        self.end(source, [ref])

    def end(self, source: Source, refs: list[Ref]) -> None:
        """Notes that tasks left the disk."""
        self.retrying.forget(source, refs)
        self.starting.release(source, refs)
        self.keys.forget(source, refs)
        source.in_flight.difference_update(refs)
        source.left(refs, self.journal)

    async def clock_was_set_back(self, step: float) -> None:
        """Keeps pauses as long as they were meant to be, and ready tasks ready; `step` is negative, in seconds."""
        await self.waiting.shift(step)
        await self.files.clock_was_set_back()
        self.waiting.changed()

    # -- by hand --

    async def remove(self, source: Source, ref: Ref) -> bool:
        """Removes a waiting task. Returns False, and does nothing, if it does not wait there (any longer)."""
        place, store = source.place, self.journal.store
        return await self.end_waiting(source, ref, lambda: place.remove(store, ref))

    async def end_waiting(self, source: Source, ref: Ref, end: Callable[[], bool]) -> bool:
        """Takes a waiting task off the disk with `end`, in the store thread. Returns False if it does not wait there, or stays.

        Raises what `end` raises; then the task waits as before.
        """
        if ref in source.in_flight or source.frozen or (put_back := self._withdraw(source, ref)) is None:
            return False
        self.keys.take(source, [ref])  # a task that comes meanwhile must not rely on this one
        source.in_flight.add(ref)
        removed = False
        try:
            removed = await self.journal.moves.run(end)
        except FileNotFoundError:
            pass  # it ends as gone when its turn comes
        finally:
            if removed:
                self.end(source, [ref])
            else:
                put_back()
        return removed

    def _withdraw(self, source: Source, ref: Ref) -> Callable[[], None] | None:
        """Takes a waiting task out of its order. Returns a function that puts it back, or None if it does not wait."""
        if (entry := self.waiting.later.remove(source, ref)) is not None:
            return lambda: self.give_back_later([entry])
        if (rank := source.withdraw(self.waiting.ready, ref)) is not None:
            return lambda: self.give_back(Taken(source, [ref], rank))
        return None

    def hurry(self, source: Source, ref: Ref) -> bool:
        """Makes a task that is due later ready now. Returns whether it was due later."""

        def hurried(result: float | None, error: BaseException | None) -> None:
            # Not earlier: a worker that finds a file's time in the future leaves it alone.
            self.journal.reported("hurry", source, ref)(result, error)
            if error is None:
                self.waiting.make_ready(source, ref)

        if ref in source.in_flight or not self.waiting.later.has(source, ref):
            return False
        place, store = source.place, self.journal.store
        if place.keeps_times:
            self.journal.moves.submit(lambda: place.put_off(store, ref, time.time()), hurried)
        else:
            self.waiting.make_ready(source, ref)
        return True

    # -- looking --

    def find(self, identity: str) -> tuple[Source, Ref] | None:
        """Where the task with that id is; None if it neither waits nor runs. See also `at`."""
        if (ref := self.files.find(identity)) is not None:
            return self.files, ref
        prefix = f"{self.journal.node_id}_"
        number, _, offset = identity[len(prefix) :].partition("_")
        if identity.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            batch = self.journal.batches.get(int(number))
            if batch is not None and int(offset) not in batch.void:
                return batch, int(offset)
        return None

    @property
    def is_busy(self) -> bool:
        """Whether there is work for the next second."""
        is_open = self.group_commit.open_since is not None
        return bool(len(self.arrivals) or is_open or self.waiting.ready.size) or self.journal.is_busy

    @property
    def total(self) -> int:
        """Tasks on disk for this node that are not finished: waiting, due later, running."""
        in_batches = sum(batch.live for batch in self.journal.batches.values()) - self._outgoing.in_batches
        return in_batches + len(self.arrivals) + len(self.files.known)

    # -- what the journal asks and tells --

    def due(self, batch: Batch) -> dict[int, float]:
        """The due times of its tasks that wait for a time."""
        return {int(ref): when for ref, when in self.waiting.later.of(batch).items()}

    def settled(self, batch: Batch, moved: dict[int, str], due: dict[int, float]) -> None:
        """Notes that tasks of a batch have files of their own. Ready ones keep their place, which leads to the file."""
        for offset, ref in moved.items():
            if is_outbound(ref):
                continue
            still_later = self.waiting.later.remove(batch, offset) is not None
            self.retrying.move(batch, offset, self.files, ref)
            self.keys.move(batch, offset, self.files, ref)
            self.files.learn(ref, batch.functions.at(offset))
            self.files.note(ref, due.get(offset, 0.0))
            if offset in due:
                self.waiting.wait(self.files, ref, rank_of(ref), due[offset])
                if not still_later:
                    self.hurry(self.files, ref)  # it became ready during the move

    def thawed(self, batch: Batch) -> None:  # noqa: ARG002  # any of them
        """Starts tasks that could not start for a moment."""
        self.waiting.changed()

    def dropped(self, batch: Batch) -> None:
        """Forgets a batch whose tasks have all ended."""
        self.retrying.drop(batch)

    def syncing(self) -> Callable[[bool], None]:
        """Returns a function without effect: the spool has nothing to do when ends of tasks are safe."""
        return lambda _is_safe: None
