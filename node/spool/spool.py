"""The spool: only it knows which tasks are here, in which order they run, and what becomes of them.

It lives on the event loop and never blocks it: disk work goes to threads (see `journal`).

`tasks` says what a task in memory is.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from spoolnode.node.background import spawn
from spoolnode.node.disk.layout import is_outbound, rank_of, ref_id
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.clock import correct_times
from spoolnode.node.spool.group_commit import BATCH_SECONDS, Group, GroupCommit
from spoolnode.node.spool.journal import DISK_REST_SECONDS, Journal
from spoolnode.node.spool.place import Line
from spoolnode.node.spool.queue import DueTask, Later, ReadyQueue, Ref
from spoolnode.node.spool.recovery import Found, FoundBatch, spool_files
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.retrying import Retrying
from spoolnode.node.spool.tasks import Batch, Files, Source, Taken
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST, file_name

UNSURE_SECONDS = 2.0
"""A file found by a scan (not by an event) may still be written to; it is left alone until this age."""
SHORT_SECONDS = 60.0
"""Seconds after which a file that ends before its variables do counts as damaged."""
WAKE_AT_ONCE = 1000
"""Tasks that are made ready in one turn of the loop: about two milliseconds."""
LOCKED_SECONDS = 1.0
"""Pause before a file that another process holds locked is tried again."""


class Outgoing(Protocol):
    """The owner of the tasks for other nodes."""

    @property
    def in_batches(self) -> int:
        """How many of them are in batches."""

    def accept(self, to: str, batch: Batch, offset: int, rank: int) -> None:
        """Takes a task that is safe on disk, for the destination `to`."""


class Spool:
    """One spool directory and all its waiting tasks."""

    def __init__(self, journal: Journal, outgoing: Outgoing, policy: RetryPolicy, rng: random.Random) -> None:
        self.journal = journal
        journal.tenants.append(self)
        self.layout, self.store, self.moves = journal.layout, journal.store, journal.moves
        self.report, self.trace, self.counts, self.id_of = journal.report, journal.trace, journal.counts, journal.id_of
        self.group_commit = GroupCommit(
            journal.disk, journal.layout, journal.commits, journal.node_id, journal.number, self._committed, sync=journal.sync
        )
        self.files = Files()
        self.repeats = 0
        """Tasks that came over a link a second time."""
        self.queue = ReadyQueue(self.accepted_at)
        self.later = Later()
        self.changed: Callable[[], None] = lambda: None
        self.retrying = Retrying()
        self.landing: Callable[[], None] = lambda: None
        self._outgoing = outgoing
        self._policy = policy
        self._rng = rng
        self._arrived: dict[str, tuple[str, float]] = {}
        """Large tasks in arriving/, by their refs: where they go, and when they are due."""
        self._publishing = False

    def when_changed(self, call: Callable[[], None]) -> None:
        """Has `call` called when tasks become ready."""
        self.changed = call

    def when_landing(self, call: Callable[[], None]) -> None:
        """Has `call` called just before a worker gives back a file that stays."""
        self.landing = call

    def count_repeat(self) -> None:
        """Counts a task that came over a link a second time."""
        self.repeats += 1

    # -- life --

    def adopt(self, found: Found, now: float) -> None:
        """Puts the tasks that a start has found into the queues, oldest first. `now`: the wall clock, in seconds."""
        self._arrived = found.arrived
        files = sorted(found.files, key=lambda file: file.order)
        position = 0
        for batch in found.batches:
            while position < len(files) and files[position].mtime <= batch.batch.accepted:
                self.notice(files[position].ref, files[position].mtime, now, sure=False)
                position += 1
            self._adopt_batch(batch, now)
        for file in files[position:]:
            self.notice(file.ref, file.mtime, now, sure=False)

    def _adopt_batch(self, found: FoundBatch, now: float) -> None:
        batch = found.batch
        self.journal.batches[batch.number] = batch
        for rank, offsets in found.ready.items():
            self.queue.add(batch, offsets, rank)
        for due, offset, rank in found.later:
            self.later.add(due, batch, offset, rank)
        for offset, rank, attempts in found.tried:
            if self._policy.gives_up(attempts):
                self._give_up(batch, offset, rank, "the node ended while the task ran", attempts)
            else:
                self.retrying.fail(batch, offset, self.id_of(batch, offset), "the node ended before it was tried again")
                self.later.add(now + self._policy.pause(attempts, self._rng), batch, offset, rank, pauses=True)

    # -- in --

    def _committed(self, group: Group) -> None:
        batch = group.batch
        if batch.live:
            self.journal.batches[batch.number] = batch
        self._queue(group)
        self.counts.accepted += len(group.offsets)
        if self.trace:
            for offset in group.offsets:
                self.trace("accepted", id=self.id_of(batch, offset))
        if group.closes:
            # Only now: a batch counts as finished when it is closed and has no unfinished tasks, and those of a closing group
            # count from here on.
            batch.closed = True
            batch.closed_at = time.monotonic()
            self.journal.drop_if_finished(batch)
        if group.offsets:
            self.changed()

    def _queue(self, group: Group) -> None:
        if not group.special and not group.outbound:
            self.queue.add(group.batch, group.offsets)
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
                self.later.add(due, group.batch, offset, rank)
            else:
                self.queue.add(group.batch, [offset], rank)

    def notice(self, ref: str, mtime: float, now: float, *, sure: bool) -> None:
        """Notes a spool file: a new one, or one whose time has changed.

        Args:
            sure: its writer has closed it, so it is whole.
        """
        if ref in self.files.in_flight:
            return
        due = mtime if mtime > now else 0.0
        if not due and not sure and now - mtime < UNSURE_SECONDS:
            due = mtime + UNSURE_SECONDS
        known = self.files.known.get(ref)
        if known is not None and (known == due or (not known and not due)):
            return
        if known is None:
            self.counts.found += 1
        self._schedule_file(ref, due)

    def forget(self, ref: str) -> None:
        """Notes that a spool file was removed or moved by hand."""
        if ref not in self.files.in_flight:
            self._unknow(ref)
            self.retrying.forget(self.files, [ref])

    def _unknow(self, ref: str) -> float | None:
        """Forgets a file. Returns when it was due."""
        due = self.files.known.pop(ref, None)
        if due:
            self.later.remove(self.files, ref)
        return due

    def _schedule_file(self, ref: str, due: float) -> None:
        known = self._unknow(ref)
        self.files.note(ref, due)
        if due:
            self._wait_until(due, self.files, ref, rank_of(ref))
        elif known is None or known:
            self.queue.add(self.files, [ref], rank_of(ref))
            self.changed()

    async def place_file(self, ref: str, job: Callable[[], Any], *, due: float = 0.0, queued: bool = True) -> None:
        """Runs `job`, which names a file `ref`, in the store thread, and queues the file (unless it is in an outbox)."""
        with self.journal.placing():
            await self.moves.run(job)
            if queued:
                self._schedule_file(ref, due)

    def publish(self, ref: str, final: str, due: float) -> None:
        """Takes a large task from a peer that is safe in arriving/. It moves on when its number is safe without it."""
        self._arrived[ref] = final, due
        spawn(self.publish_arrived())

    async def publish_arrived(self) -> None:
        """Publishes the tasks in arriving/. Those that the disk does not take now are tried again a second later."""
        if self._publishing:
            return  # the present call sees the new ones, too
        self._publishing = True
        try:
            while self._arrived:
                ref, (final, due) = next(iter(self._arrived.items()))
                await self._publish_one(ref, final, due)
                del self._arrived[ref]
        except OSError as error:
            self._arrived[ref] = self._arrived.pop(ref)  # behind the others, which may be luckier
            self.report("move_failed", move="publish", file=ref, reason=str(error))
        finally:
            self._publishing = False

    async def _publish_one(self, ref: str, final: str, due: float) -> None:
        try:
            await self.journal.save_received()
            await self.place_file(final, partial(self.store.publish, ref), due=due)
        except BadPacket as error:
            self.corrupt(self.files, ref, str(error))
        except FileNotFoundError:
            # It moved the last time, but the disk did not confirm it.
            self._schedule_file(final, due)
            self.journal.touch_directories("arriving", os.path.dirname(final))

    # -- to the workers and back --

    def take(self, count: int) -> Taken | None:
        """Takes up to `count` tasks of one source to run now; None if there are none."""
        while (taken := self.queue.take(count)) is not None:
            source, refs, rank = taken
            here, moved = source.ready(refs)
            if moved:  # of a batch that was settled: they take their turn as files
                self.queue.give_back(self.files, moved, rank)
            if here:
                source.in_flight.update(here)
                return Taken(source, here, rank)
        return None

    def take_later(self, count: int) -> list[DueTask]:
        """Takes up to `count` tasks of one source and one rank that are due later, with their times; see `give_back_later`."""
        entries = self.later.take(count)
        for _, _, source, ref, _, _ in entries:
            source.in_flight.add(ref)
        return entries

    def give_back_later(self, entries: Iterable[DueTask]) -> None:
        """Puts back tasks that were taken before their time; they go on waiting for it."""
        for due, _, source, ref, rank, pauses in entries:
            self._land(source, [ref])
            if source.still_here([ref]):
                self._wait_until(due, source, ref, rank, pauses=pauses)

    def done(self, source: Source, refs: list[Ref]) -> None:
        """Notes that tasks have ended well; the worker has marked or removed them."""
        self.counts.done += len(refs)
        if self.trace:
            for ref in refs:
                self.trace("done", id=self.id_of(source, ref))
        self.end(source, refs)

    def gone(self, source: Source, ref: Ref) -> None:
        """Notes that a task was gone when its turn came."""
        self.end(source, [ref])

    def give_back(self, taken: Taken) -> None:
        """Takes back tasks that were with a worker and did not start: they run next."""
        source, refs, rank = taken
        self._land(source, refs)
        self.queue.give_back(source, source.still_here(refs), rank)
        self.changed()

    def postpone(self, source: Source, ref: Ref, rank: int, due: float) -> None:
        """Puts off a task that could not start yet; this does not count as an attempt."""
        self._land(source, [ref])
        self._put_later(source, ref, rank, due)

    def interrupted(self, source: Source, ref: Ref, rank: int) -> None:
        """Takes back a task that the node itself stopped: it runs next, and the attempt does not count."""

        place = source.place

        def uncount() -> None:
            attempts = place.progress(self.store, ref).attempts
            if attempts:
                place.set_attempts(self.store, ref, attempts - 1)

        def uncounted(result: None, error: BaseException | None) -> None:
            # Not earlier: the next attempt, counted at its start, would be uncounted instead.
            self.journal.reported("uncount", source, ref)(result, error)
            self.report("put_back", id=self.id_of(source, ref))
            self.give_back(Taken(source, [ref], rank))

        self.moves.submit(uncount, uncounted)

    def failed(self, source: Source, ref: Ref, rank: int, outcome: Outcome) -> None:
        """Judges a task that did not end well: it runs again, or is given up."""

        place, asked = source.place, outcome.kind in (Ending.AGAIN, Ending.RETRY)
        rounds = self.retrying.ask(source, ref, self.id_of(source, ref)) if outcome.kind is Ending.RETRY else 0

        def judge() -> tuple[float, int]:
            attempts = place.progress(self.store, ref).attempts
            if asked:
                place.set_attempts(self.store, ref, 0)
                pause = min(self._policy.pause(rounds, self._rng), outcome.delay) if rounds else outcome.delay
                return place.put_off(self.store, ref, time.time() + pause), 0
            if self._policy.gives_up(attempts):
                place.bury(self.store, ref, outcome.reason, attempts)
                return 0.0, attempts
            pause = self._policy.pause(attempts, self._rng)
            return place.put_off(self.store, ref, time.time() + pause), attempts

        def judged(result: tuple[float, int] | None, error: BaseException | None) -> None:
            if result is None:
                self._unjudged(source, ref, rank, error)
                return
            due, attempts = result
            self._say(source, ref, outcome, due, attempts)
            if due:
                if not asked:
                    self.retrying.fail(source, ref, self.id_of(source, ref), outcome.reason)
                self._land(source, [ref])
                self._put_later(source, ref, rank, due)
            else:
                self.counts.died += 1
                self.end(source, [ref])

        self.counts.failed += not asked
        self.moves.submit(judge, judged)

    def _unjudged(self, source: Source, ref: Ref, rank: int, error: BaseException | None) -> None:
        if isinstance(error, FileNotFoundError):
            self.gone(source, ref)
            return
        # The disk failed: the task stays where it is, and is tried again.
        self.report("move_failed", id=self.id_of(source, ref), reason=str(error))
        self.postpone(source, ref, rank, time.time() + min(DISK_REST_SECONDS, self._policy.longest))

    def _give_up(self, batch: Batch, offset: int, rank: int, reason: str, attempts: int) -> None:
        """Buries a task that has used up its attempts, found at the start."""

        def buried(result: None, error: BaseException | None) -> None:
            del result
            if error is not None:
                self._unjudged(batch, offset, rank, error)
                return
            self._say(batch, offset, Outcome(Ending.FAILED, reason), 0.0, attempts)
            self.counts.died += 1
            self.end(batch, [offset])

        batch.in_flight.add(offset)
        self.moves.submit(lambda: batch.place.bury(self.store, offset, reason, attempts), buried)

    def unreadable(self, source: Source, ref: Ref, rank: int, reason: str) -> None:
        """Puts off a task that cannot be read now: it stays where it is and is tried again, sooner if its file changes.

        A file that we may read but not mark becomes ours.
        """

        def taken(result: None, error: BaseException | None) -> None:
            del result
            if error is None:
                self.postpone(source, ref, rank, time.time())
                return
            self.report("unreadable", id=self.id_of(source, ref), reason=reason, again_in=DISK_REST_SECONDS)
            self.postpone(source, ref, rank, time.time() + DISK_REST_SECONDS)

        place = source.place
        self.moves.submit(lambda: place.take_over(self.store, ref), taken)

    def corrupt(self, source: Source, ref: Ref, reason: str) -> None:
        """Gives up a task that can never be read: its file, or the rest of its batch, is kept in corrupt/. All others go on."""
        place = source.place

        def kept(lines: list[Line] | None, error: BaseException | None) -> None:
            self.journal.reported("keep", source, ref)(None, error)
            for action, details in lines or ():
                self.report(action, **details)
            self.end(source, [ref])

        self.moves.submit(lambda: place.quarantine(self.store, ref, reason), kept)

    def _say(self, source: Source, ref: Ref, outcome: Outcome, due: float, attempts: int) -> None:
        identity = self.id_of(source, ref)
        if outcome.kind in (Ending.AGAIN, Ending.RETRY):
            self.report("again", id=identity, due=due)
        elif due:
            # The traceback is logged once; `show` has that of the last attempt, and dead/ keeps it.
            reason = outcome.reason if attempts <= 1 else outcome.reason.partition("\n")[0]
            self.report("retry", id=identity, attempts=attempts, due=due, **_ended(outcome), reason=reason)
        else:
            self.report("dead", id=identity, attempts=attempts, **_ended(outcome), reason=outcome.reason)

    def _put_later(self, source: Source, ref: Ref, rank: int, due: float) -> None:
        if source.put_off(ref, due):
            self._wait_until(due, source, ref, rank, pauses=not source.place.keeps_times)

    def _wait_until(self, due: float, source: Source, ref: Ref, rank: int, *, pauses: bool = False) -> None:
        self.later.add(due, source, ref, rank, pauses=pauses)
        if self.later.next_due() == due:
            self.changed()  # the node has to wake sooner than planned

    def end(self, source: Source, refs: list[Ref]) -> None:
        """Notes that tasks left the disk."""
        self.retrying.forget(source, refs)
        source.in_flight.difference_update(refs)
        source.left(refs, self.journal)

    def _land(self, source: Source, refs: Iterable[Ref]) -> None:
        """Notes that tasks have left their worker, and stay."""
        if source is self.files:
            self.landing()
        source.in_flight.difference_update(refs)

    # -- by the clock --

    def wake_due(self, now: float | None = None) -> None:
        """Moves due tasks to the ready queue, as many as one turn of the loop has time for."""
        for _, source, ref, rank in self.later.pop_due(time.time() if now is None else now, WAKE_AT_ONCE):
            if source.put_off(ref, 0.0):
                self.queue.add(source, [ref], rank)
        if self.queue.size:
            self.changed()

    async def clock_was_set_back(self, step: float) -> None:
        """Keeps pauses as long as they were meant to be, and ready tasks ready; `step` is negative, in seconds."""
        for index, entry in enumerate(self.later.pausing()):
            self.later.shift(entry, step)
            if index % WAKE_AT_ONCE == WAKE_AT_ONCE - 1:
                await asyncio.sleep(0)
        found = await self.moves.run(lambda: correct_times(self.store, list(spool_files(self.store)), time.time()))
        for ref, mtime in found.items():
            if ref in self.files.known:
                self.notice(ref, mtime, time.time(), sure=True)
        self.changed()

    def close_old_batch(self) -> None:
        """Closes the open batch once it has been open for its time."""
        since = self.group_commit.open_since
        if since is not None and not 0 <= time.time() - since < BATCH_SECONDS:  # the clock may be set back
            self.group_commit.close_batch()

    async def settle(self) -> None:
        """Publishes the tasks in arriving/, and gives the last few tasks of old batches files of their own."""
        if self._arrived:
            await self.publish_arrived()
        await self.journal.settle()

    async def settle_all(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Gives all tasks that wait in batches files of their own, as long as `goes_on` returns true and the disk has room."""
        await self.commit_all()
        await self.journal.settle_all(goes_on)

    async def commit_all(self) -> None:
        """Closes the open batch. Returns when all earlier tasks are acknowledged."""
        self.group_commit.close_batch()
        while not self.group_commit.is_idle:
            await self.journal.commits.run(lambda: None)

    # -- by hand --

    async def remove(self, source: Source, ref: Ref) -> bool:
        """Removes a waiting task. Returns False, and does nothing, if it does not wait there (any longer)."""
        if ref in source.in_flight or source.frozen or (put_back := self._withdraw(source, ref)) is None:
            return False
        source.in_flight.add(ref)
        place, removed = source.place, False
        try:
            removed = await self.moves.run(lambda: place.remove(self.store, ref))
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
        if (entry := self.later.remove(source, ref)) is not None:
            return lambda: self.give_back_later([entry])
        if (rank := source.withdraw(self.queue, ref)) is not None:
            return lambda: self.give_back(Taken(source, [ref], rank))
        return None

    def hurry(self, source: Source, ref: Ref) -> bool:
        """Makes a task that is due later ready now. Returns whether it was due later."""

        def hurried(result: float | None, error: BaseException | None) -> None:
            # Not earlier: a worker that finds a file's time in the future leaves it alone.
            self.journal.reported("hurry", source, ref)(result, error)
            if error is None:
                self._make_ready(source, ref)

        if ref in source.in_flight or not self.later.has(source, ref):
            return False
        place = source.place
        if place.keeps_times:
            self.moves.submit(lambda: place.put_off(self.store, ref, time.time()), hurried)
        else:
            self._make_ready(source, ref)
        return True

    def _make_ready(self, source: Source, ref: Ref) -> None:
        entry = self.later.remove(source, ref)
        if entry is not None and source.put_off(ref, 0.0):
            self.queue.add(source, [ref], entry[4])
            self.changed()

    # -- looking --

    def find(self, identity: str) -> tuple[Source, Ref] | None:
        """Where the task with that id is; None if it neither waits nor runs. See also `at`."""
        name = file_name(identity)
        if name in self.files.known:
            return self.files, name
        prefix = f"{self.journal.node_id}_"
        number, _, offset = identity[len(prefix) :].partition("_")
        if identity.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            batch = self.journal.batches.get(int(number))
            if batch is not None and int(offset) not in batch.void:
                return batch, int(offset)
        if "%" in identity:  # the id stands for the odd name of its file
            return next(((self.files, ref) for ref in self.files.known if ref_id(ref) == identity), None)
        refs = (f"{directory}{name}" for directory in ("", *self.files.directories))
        return next(((self.files, ref) for ref in refs if ref in self.files.known), None)

    def accepted_at(self, source: Source, ref: Ref) -> float:
        """When a task was accepted, in seconds since 1970. In a batch: its first task; of a file that is gone: now."""
        accepted = source.accepted_at(ref)
        if accepted is not None:
            return accepted
        try:
            return os.lstat(self.layout.path(str(ref))).st_mtime
        except OSError:
            return time.time()

    @property
    def is_busy(self) -> bool:
        """Whether there is work for the next second."""
        return bool(self._arrived or self.group_commit.open_since is not None or self.queue.size) or self.journal.is_busy

    @property
    def total(self) -> int:
        """Tasks on disk for this node that are not finished: waiting, due later, running."""
        in_batches = sum(batch.live for batch in self.journal.batches.values()) - self._outgoing.in_batches
        return in_batches + len(self._arrived) + len(self.files.known)

    # -- what the journal asks and tells --

    def due(self, batch: Batch) -> dict[int, float]:
        """The due times of its tasks that wait for a time."""
        return {int(ref): when for ref, when in self.later.of(batch).items()}

    def settled(self, batch: Batch, moved: dict[int, str], due: dict[int, float]) -> None:
        """Notes that tasks of a batch have files of their own. Ready ones keep their place, which leads to the file."""
        for offset, ref in moved.items():
            if is_outbound(ref):
                continue
            still_later = self.later.remove(batch, offset) is not None
            self.retrying.move(batch, offset, self.files, ref)
            self._unknow(ref)
            self.files.note(ref, due.get(offset, 0.0))
            if offset in due:
                self._wait_until(due[offset], self.files, ref, rank_of(ref))
                if not still_later:
                    self.hurry(self.files, ref)  # it became ready during the move

    def thawed(self, batch: Batch) -> None:  # noqa: ARG002  # any of them
        """Starts tasks that could not start for a moment."""
        self.changed()

    def dropped(self, batch: Batch) -> None:
        """Forgets a batch whose tasks have all ended."""
        self.retrying.drop(batch)

    def syncing(self) -> Callable[[bool], None]:
        """Returns a function without effect: the spool has nothing to do when ends of tasks are safe."""
        return lambda _is_safe: None


def _ended(outcome: Outcome) -> dict[str, str]:
    return {"function": outcome.function, "outcome": outcome.kind.value}
