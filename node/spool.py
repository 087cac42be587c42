"""The spool: which tasks are here, in what order they run, and what becomes of them. The one owner of that knowledge.

Lives on the event loop and never blocks it: disk work goes to threads. The *commit* thread serves the intake and nothing
else; the *keeper* thread makes every move, one after another; the *packing* thread reads what links send. Which thread may
touch what, and why that is safe, stands in ARCHITECTURE.md, "Threads".

What a task in memory is: see `tasks`.
"""

import asyncio
import math
import os
import random
import time
from collections.abc import Callable, Iterable, MutableSequence
from functools import partial
from typing import Any

from spoolnode.node.background import spawn
from spoolnode.node.clock import correct_times
from spoolnode.node.disk import Disk
from spoolnode.node.intake import BATCH_SECONDS, Group, Intake
from spoolnode.node.keeper import Keeper
from spoolnode.node.layout import Layout, is_outbound, rank_of, ref_id
from spoolnode.node.moving import Moving
from spoolnode.node.numbers import Taken
from spoolnode.node.outbox import Outbox
from spoolnode.node.outcome import Kind, Outcome
from spoolnode.node.queue import Entry, Later, ReadyQueue, Ref
from spoolnode.node.reader import Marker, Progress, Reader
from spoolnode.node.recovery import Found, FoundBatch, recover, spool_files
from spoolnode.node.retry import RetryPolicy
from spoolnode.node.retrying import Retrying
from spoolnode.node.tasks import Batch, Counts, Files, Source
from spoolnode.node.threads import DiskThread
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST, file_name
from spoolnode.protocol.spoolfile import FINISHED

SETTLE_AT_MOST = 64
"""Unfinished tasks that a closed batch may have left to be settled: the cost of a settlement is bounded by it."""
SETTLE_AFTER = 1.0
"""Seconds that a batch stays closed before it is settled: most of its tasks end within that, and need no file."""
UNSURE_SECONDS = 2.0
"""A file found by a scan (not by an event) may still be written to; it is left alone until it is as old as this."""
SHORT_SECONDS = 60.0
"""How long a file may end before its variables do until it counts as damaged."""
WAKE_AT_ONCE = 1000
"""Tasks that are made ready in one turn of the loop: about two milliseconds."""
DISK_REST_SECONDS = 60.0
"""Pause after a move that a full or failing disk did not take."""
LOCKED_SECONDS = 1.0
"""Pause before a file is tried again that somebody else holds locked."""


class Spool:
    """One spool directory and all that waits in it."""

    def __init__(
        self, disk: Disk, layout: Layout, node_id: str, policy: RetryPolicy, rng: random.Random, *, sync: bool,
        thread: Callable[[str], DiskThread] = DiskThread,
    ) -> None:  # fmt: skip
        self.layout = layout
        self.node_id = node_id
        self.keeper = Keeper(disk, layout, node_id, sync)
        """For the thread `moves` alone."""
        self.marker: Marker = self.keeper
        """For the thread `packing` too."""
        self.reader: Reader = self.keeper
        """For any thread."""
        self.commits = thread("commit")
        self.moves = thread("keeper")
        self.packing = thread("packing")
        self.intake = Intake(disk, layout, self.commits, node_id, self.number, self._committed, sync=sync)
        self.files = Files()
        self.outbox = Outbox(self, Files())
        self.moving = Moving(self)
        self.taken = Taken()
        self._taken_safe = 0
        """The version of it that is on the medium."""
        self._taken_written = False
        """Whether there was ever a file of it."""
        self.repeats = 0
        """Tasks that came over a link a second time."""
        self.batches: dict[int, Batch] = {}
        self.queue = ReadyQueue(self.accepted_at)
        self.later = Later()
        self.counts = Counts()
        self.report: Callable[..., None] = lambda _action, **_details: None
        """Hears what is worth a line in the log."""
        self.trace: Callable[..., None] | None = None
        """Hears of each task that came and ended well; None when nobody wants to know, because a line costs more than a task."""
        self.changed: Callable[[], None] = lambda: None
        """Called when tasks became ready."""
        self.retrying = Retrying()
        self.placing = 0
        """Moves under way that give files their names: until they are known, such names are no news (see `inbox`)."""
        self.placed: Callable[[], None] = lambda: None
        """Called when `placing` is zero again."""
        self.landing: Callable[[], None] = lambda: None
        """Called before a file that was with a worker and stays is with it no more."""
        self._policy = policy
        self._rng = rng
        self._last_number = 0
        self._arrived: dict[str, tuple[str, float]] = {}
        """Large tasks in arriving/, by their refs: where they go, when they are due."""
        self._publishing = False
        self._dirty: set[int] = set()
        self._dirty_directories: set[str] = set()
        self._sync = sync

    # -- life --

    def load(self, boot: str = "") -> None:
        """Reads the directory; before the loop has anything else to do. `boot` tells lives of the machine apart."""
        now = time.time()
        found = recover(self.keeper, now, self.report)
        self._last_number = max(self._last_number, found.last_number)
        self.taken = found.taken
        self._taken_written = not self._is_gone("taken")
        self._arrived = found.arrived
        suspicious = self.outbox.start(boot, now)
        self._adopt(found, now)
        self.outbox.adopt(found, now, suspicious=suspicious)

    def _adopt(self, found: Found, now: float) -> None:
        """Puts what was found into the queues, oldest first."""
        # What the process before this one marked, moved or removed may not be on the medium yet.
        self.mark_dirty(*(item.batch for item in found.batches), *found.directories)
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
        self.batches[batch.number] = batch
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

    async def close(self) -> None:
        """Ends all disk work: what was accepted is acknowledged, marks are synced, empty batches are removed."""
        await self.commit_all()
        await self.commits.run(self.intake.close)
        await self.sync_marks()
        await self.outbox.stop()
        await self.packing.close()
        await self.commits.close()
        await self.moves.close()

    def number(self) -> int:
        """A number that no batch of this node ever had: microseconds since 1970, always rising."""
        self._last_number = max(self._last_number + 1, int(time.time() * 1_000_000))
        return self._last_number

    # -- in --

    def _committed(self, group: Group) -> None:
        batch = group.batch
        if batch.live:
            self.batches[batch.number] = batch
        self._queue(group)
        self.counts.accepted += len(group.offsets)
        if self.trace:
            for offset in group.offsets:
                self.trace("accepted", id=self.id_of(batch, offset))
        if group.closes:
            # Only now: a batch counts as finished when it is closed and nothing in it lives, and what a closing group
            # brings lives from here on.
            batch.closed = True
            batch.closed_at = time.monotonic()
            self._drop_if_finished(batch)
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
                self.outbox.accept(to, group.batch, offset, rank)
            elif due > now:
                self.later.add(due, group.batch, offset, rank)
            else:
                self.queue.add(group.batch, [offset], rank)

    def notice(self, ref: str, mtime: float, now: float, *, sure: bool) -> None:
        """A spool file is there: a new one, or one whose time changed.

        Args:
            sure: its writer has closed it, so it is whole.
        """
        if ref in self.files.flying:
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
        """A spool file is gone; somebody removed or moved it."""
        if ref not in self.files.flying:
            self._unknow(ref)
            self.retrying.forget(self.files, [ref])

    def _unknow(self, ref: str) -> float | None:
        """Forgets a file; when it was due."""
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
        """Runs `job`, which gives a file the name `ref`, in the keeper thread, and queues the file (an outbox's is not)."""
        self.placing += 1
        try:
            await self.moves.run(job)
            if queued:
                self._schedule_file(ref, due)
        finally:
            self.end_placing()

    async def save_taken(self) -> None:
        """Returns when the numbers taken from other nodes so far are safe. Raises OSError."""
        version = self.taken.version
        if version > self._taken_safe:
            # Not left to a save that is under way: that one may fail, and only its own caller would hear of it.
            data = self.taken.encode()
            await self.moves.run(lambda: self.keeper.replace(self.layout.taken, data))
            self._note_taken(version)

    def _note_taken(self, version: int) -> None:
        self._taken_safe = max(self._taken_safe, version)
        self._taken_written = True

    async def save_missing(self) -> list[str]:
        """Saves anew what this node must remember and somebody removed; the names of those files. Raises OSError.

        A file that was never there is written, too, but nobody has removed it: it is not named.
        """
        is_first = not self._taken_written
        paths = [self.layout.taken] if len(self.taken) else []
        missing = await self.moves.run(lambda: [path for path in [*paths, self.layout.links] if not os.path.lexists(path)])
        if self.layout.taken in missing:
            self._taken_safe = -1
            await self.save_taken()
        if self.layout.links in missing:
            await self.outbox.save()
        return [os.path.basename(path) for path in missing if path != self.layout.taken or not is_first]

    def publish(self, ref: str, final: str, due: float) -> None:
        """A large task from a peer is safe in arriving/: it takes its place here as soon as its number is safe without it."""
        self._arrived[ref] = final, due
        spawn(self.publish_arrived())

    async def publish_arrived(self) -> None:
        """Publishes what is left in arriving/; what the disk does not take now is tried again a second later."""
        if self._publishing:
            return  # whoever is at it sees the new ones too
        self._publishing = True
        try:
            while self._arrived:
                ref, (final, due) = next(iter(self._arrived.items()))
                await self._publish_one(ref, final, due)
                del self._arrived[ref]
        except OSError as error:
            self._arrived[ref] = self._arrived.pop(ref)  # behind the others: they may be luckier
            self.report("move_failed", move="publish", file=ref, reason=str(error))
        finally:
            self._publishing = False

    async def _publish_one(self, ref: str, final: str, due: float) -> None:
        try:
            await self.save_taken()
            await self.place_file(final, partial(self.keeper.publish, ref), due=due)
        except BadPacket as error:
            self.quarantine(ref, str(error))
        except FileNotFoundError:
            # It moved the time before, and the disk did not confirm it.
            self._schedule_file(final, due)
            self.mark_dirty("arriving", os.path.dirname(final))

    def end_placing(self) -> None:
        """A move that was counted in `placing` is over."""
        self.placing -= 1
        if not self.placing:
            self.placed()

    # -- to the workers and back --

    def take(self, count: int) -> tuple[Source, MutableSequence[Any], int] | None:
        """Up to `count` tasks of one source that are to run now, as (source, refs, rank); None when there are none."""
        while (taken := self.queue.take(count)) is not None:
            source, refs, rank = taken
            if isinstance(source, Files):
                # A file whose time was changed may have several places in the queue, perhaps side by side.
                refs = [ref for ref in dict.fromkeys(refs) if source.known.get(ref) == 0.0 and ref not in source.flying]
            elif source.moved:
                refs = self._follow(source, refs, rank)
            if refs:
                source.flying.update(refs)
                return source, refs, rank
        return None

    def take_later(self, count: int) -> list[Entry]:
        """Up to `count` tasks of one source and one rank that are due later, with their times; see `give_back_later`."""
        entries = self.later.take(count)
        for _, _, source, ref, _, _ in entries:
            source.flying.add(ref)
        return entries

    def give_back_later(self, entries: Iterable[Entry]) -> None:
        """Tasks that were taken before their time go on waiting for it."""
        for due, _, source, ref, rank, pauses in entries:
            self._land(source, [ref])
            if source.still_here([ref]):
                self._wait_until(due, source, ref, rank, pauses=pauses)

    def _follow(self, batch: Batch, offsets: Iterable[int], rank: int) -> list[int]:
        """Tasks of a batch that was settled while they waited: the moved ones take their turn as files, the others stay."""
        self.queue.give_back(self.files, [batch.moved[offset] for offset in offsets if offset in batch.moved], rank)
        return [offset for offset in offsets if offset not in batch.moved]

    def done(self, source: Source, refs: list[Ref]) -> None:
        """Tasks have ended well; the worker has marked or removed them."""
        self.counts.done += len(refs)
        if self.trace:
            for ref in refs:
                self.trace("done", id=self.id_of(source, ref))
        self.end(source, refs)

    def gone(self, source: Source, ref: Ref) -> None:
        """A task was not there any more when its turn came."""
        self.end(source, [ref])

    def give_back(self, source: Source, refs: list[Ref], rank: int) -> None:
        """Tasks were with a worker and did not start: they are the next to run."""
        self._land(source, refs)
        self.queue.give_back(source, source.still_here(refs), rank)
        self.changed()

    def postpone(self, source: Source, ref: Ref, rank: int, due: float) -> None:
        """A task could not start yet; this is no attempt."""
        self._land(source, [ref])
        self._put_later(source, ref, rank, due)

    def interrupted(self, source: Source, ref: Ref, rank: int) -> None:
        """We stopped a task ourselves: it is the next to run, and the attempt does not count."""

        def uncount() -> None:
            progress = self._progress(source, ref)
            if progress.attempts:
                self.keeper.set_attempts(source.number, ref, progress.attempts - 1)

        def uncounted(result: None, error: BaseException | None) -> None:
            # Not earlier: the next attempt, counted at its start, would be taken for this one.
            self._reported("uncount", source, ref)(result, error)
            self.report("put_back", id=self.id_of(source, ref))
            self.give_back(source, [ref], rank)

        self.moves.submit(uncount, uncounted)

    def failed(self, source: Source, ref: Ref, rank: int, outcome: Outcome) -> None:
        """A task has to run again, or is given up."""

        asked = outcome.kind in (Kind.AGAIN, Kind.RETRY)
        rounds = self.retrying.ask(source, ref, self.id_of(source, ref)) if outcome.kind is Kind.RETRY else 0

        def judge() -> tuple[float, int]:
            attempts = self._progress(source, ref).attempts
            if asked:
                self.keeper.set_attempts(source.number, ref, 0)
                pause = min(self._policy.pause(rounds, self._rng), outcome.delay) if rounds else outcome.delay
                return self._delayed(source, ref, pause), 0
            if self._policy.gives_up(attempts):
                self.keeper.bury(source.number, ref, outcome.reason, attempts)
                return 0.0, attempts
            return self._delayed(source, ref, self._policy.pause(attempts, self._rng)), attempts

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

    def _delayed(self, source: Source, ref: Ref, pause: float) -> float:
        due = time.time() + pause
        if isinstance(source, Files):
            self.keeper.disk.set_mtime(self.layout.path(str(ref)), due)
            return self.keeper.disk.stat(self.layout.path(str(ref))).mtime
        return due

    def _unjudged(self, source: Source, ref: Ref, rank: int, error: BaseException | None) -> None:
        if isinstance(error, FileNotFoundError):
            self.gone(source, ref)
            return
        # The disk failed us: the task stays where it is, and is tried again.
        self.report("move_failed", id=self.id_of(source, ref), reason=str(error))
        self.postpone(source, ref, rank, time.time() + min(DISK_REST_SECONDS, self._policy.longest))

    def _give_up(self, batch: Batch, offset: int, rank: int, reason: str, attempts: int) -> None:
        """Buries a task found at the start that has used up its attempts."""

        def buried(result: None, error: BaseException | None) -> None:
            del result
            if error is not None:
                self._unjudged(batch, offset, rank, error)
                return
            self._say(batch, offset, Outcome(Kind.FAILED, reason), 0.0, attempts)
            self.counts.died += 1
            self.end(batch, [offset])

        batch.flying.add(offset)
        self.moves.submit(lambda: self.keeper.bury(batch.number, offset, reason, attempts), buried)

    def unreadable(self, source: Source, ref: Ref, rank: int, reason: str) -> None:
        """A task cannot be read now: it stays where it is, and is tried again, sooner when somebody changes its file.

        A file that we may read, and only not mark, becomes ours.
        """

        def taken(result: None, error: BaseException | None) -> None:
            del result
            if error is None:
                self.postpone(source, ref, rank, time.time())
                return
            self.report("unreadable", id=self.id_of(source, ref), reason=reason, again_in=DISK_REST_SECONDS)
            self.postpone(source, ref, rank, time.time() + DISK_REST_SECONDS)

        if isinstance(source, Files):
            self.moves.submit(lambda: self.keeper.take_over(str(ref)), taken)
        else:
            taken(None, OSError(reason))

    def corrupt(self, source: Source, ref: Ref, reason: str) -> None:
        """A task can never be read: its file, or what is left of its batch, is kept in corrupt/; all others go on."""
        if not isinstance(source, Batch):
            self.quarantine(str(ref), reason)
            return
        batch = source

        def kept(result: None, error: BaseException | None) -> None:
            self._reported("keep", batch, ref)(result, error)
            self.report("quarantined", id=self.id_of(batch, ref), reason=reason)
            self.end(batch, [ref])

        self.moves.submit(lambda: self.keeper.keep_cut(batch.number), kept)

    def quarantine(self, ref: str, reason: str) -> None:
        """A file cannot be read: it goes to corrupt/."""

        def moved(name: str | None, error: BaseException | None) -> None:
            if error is None:
                self.report("quarantined", file=ref, corrupt=name, reason=reason)
            elif not isinstance(error, FileNotFoundError):
                self.report("move_failed", file=ref, reason=str(error))
            self.gone(self.files, ref)

        self.moves.submit(lambda: self.keeper.quarantine(ref), moved)

    def _say(self, source: Source, ref: Ref, outcome: Outcome, due: float, attempts: int) -> None:
        identity = self.id_of(source, ref)
        if outcome.kind in (Kind.AGAIN, Kind.RETRY):
            self.report("again", id=identity, due=due)
        elif due:
            # The traceback is told once; `show` has that of the last attempt, and dead/ keeps it.
            reason = outcome.reason if attempts <= 1 else outcome.reason.partition("\n")[0]
            self.report("retry", id=identity, attempts=attempts, due=due, **_ended(outcome), reason=reason)
        else:
            self.report("dead", id=identity, attempts=attempts, **_ended(outcome), reason=outcome.reason)

    def _put_later(self, source: Source, ref: Ref, rank: int, due: float) -> None:
        if isinstance(source, Files):
            if ref in source.known:
                self._schedule_file(str(ref), due)
        else:
            self._wait_until(due, source, ref, rank, pauses=True)

    def _wait_until(self, due: float, source: Source, ref: Ref, rank: int, *, pauses: bool = False) -> None:
        self.later.add(due, source, ref, rank, pauses=pauses)
        if self.later.next_due() == due:
            self.changed()  # the node has to wake sooner than it meant to

    def end(self, source: Source, refs: list[Ref]) -> None:
        """Tasks left the disk."""
        self.retrying.forget(source, refs)
        source.flying.difference_update(refs)
        if isinstance(source, Files):
            for ref in refs:
                self._unknow(str(ref))
            one_of_each = {str(ref).rpartition("/")[0]: str(ref) for ref in refs}
            self._dirty_directories.update(map(self.layout.directory_of, one_of_each.values()))
        else:
            source.live -= len(refs)
            self._dirty.add(source.number)
            self._drop_if_finished(source)

    def _land(self, source: Source, refs: list[Ref]) -> None:
        """Tasks are with no worker any more, and stay."""
        if source is self.files:
            self.landing()
        source.flying.difference_update(refs)

    def _drop_if_finished(self, batch: Batch) -> None:
        if not batch.closed or batch.live or batch.frozen:
            return
        version = self.taken.version
        proofs = self.taken.encode() if batch.arrived and version > self._taken_safe else None

        def remove() -> None:
            if proofs is not None:
                self.keeper.replace(self.layout.taken, proofs)
            self.keeper.remove_batch(batch.number)

        def removed(result: None, error: BaseException | None) -> None:
            self._reported("remove", batch, 0)(result, error)
            if error is not None:
                batch.closed_at = time.monotonic() + DISK_REST_SECONDS
                self.batches[batch.number] = batch  # housekeeping tries again
            elif proofs is not None:
                self._note_taken(version)

        # It stays among the dirty ones: until it is gone, its marks alone say that its tasks have ended.
        self.batches.pop(batch.number, None)
        self.retrying.drop(batch)
        self._dirty_directories.add(self.layout.incoming)
        self.moves.submit(remove, removed)

    def _reported(self, move: str, source: Source, ref: Ref) -> Callable[[Any, BaseException | None], None]:
        def done(result: Any, error: BaseException | None) -> None:
            del result
            if error is not None and not isinstance(error, FileNotFoundError):
                self.report("move_failed", move=move, id=self.id_of(source, ref), reason=str(error))

        return done

    # -- by the clock --

    def wake_due(self, now: float | None = None) -> None:
        """Moves what is due to the ready queue, as much as one turn of the loop has time for."""
        for _, source, ref, rank in self.later.pop_due(time.time() if now is None else now, WAKE_AT_ONCE):
            if isinstance(source, Files):
                source.known[str(ref)] = 0.0
            self.queue.add(source, [ref], rank)
        if self.queue.size:
            self.changed()

    async def clock_was_set_back(self, step: float) -> None:
        """Pauses last as long as they were meant to, and what is ready stays ready; `step` is negative, in seconds."""
        for index, entry in enumerate(self.later.pausing()):
            self.later.shift(entry, step)
            if index % WAKE_AT_ONCE == WAKE_AT_ONCE - 1:
                await asyncio.sleep(0)
        found = await self.moves.run(lambda: correct_times(self.keeper, list(spool_files(self.keeper)), time.time()))
        for ref, mtime in found.items():
            if ref in self.files.known:
                self.notice(ref, mtime, time.time(), sure=True)
        self.changed()

    def close_old_batch(self) -> None:
        """Closes the open batch once it has been open for its time."""
        since = self.intake.open_since
        if since is not None and not 0 <= time.time() - since < BATCH_SECONDS:  # a clock may be set back
            self.intake.close_batch()

    async def settle_all(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Gives each waiting task of a batch a file of its own, as far as `goes_on` says so and the disk has room.

        Those too that workers gave back, or that failed, just before: they wait when the moves that judge them are over.
        """
        await self.commit_all()
        await self.moves.run(lambda: None)
        for batch in sorted(self.batches.values(), key=lambda batch: batch.number):
            while batch.frozen:
                await self.moves.run(lambda: None)  # another move of its tasks, which may have left some out
            if goes_on() and batch.closed and batch.live > len(batch.flying):
                await self._settle(batch)

    async def commit_all(self) -> None:
        """Closes the open batch; returns when all that came before is acknowledged."""
        self.intake.close_batch()
        while not self.intake.is_idle:
            await self.commits.run(lambda: None)

    @property
    def in_batches(self) -> int:
        """Tasks that wait in batches, for this node and for others."""
        return sum(batch.live - len(batch.flying) for batch in self.batches.values())

    async def settle(self) -> None:
        """Gives the last few tasks of old batches files of their own."""
        if self._arrived:
            await self.publish_arrived()
        now = time.monotonic()
        for batch in list(self.batches.values()):
            if batch.closed and not batch.live:
                if now > batch.closed_at:
                    self._drop_if_finished(batch)
                continue
            waiting = batch.live - len(batch.flying)
            old = batch.closed and now - batch.closed_at > SETTLE_AFTER
            if old and not batch.frozen and 0 < waiting <= SETTLE_AT_MOST:
                await self._settle(batch)

    async def _settle(self, batch: Batch) -> None:
        flying, void, refused = set(batch.flying), set(batch.void), set(batch.refused)
        due = {int(ref): when for ref, when in self.later.of(batch).items()}
        batch.frozen = True
        self.placing += 1
        try:
            if batch.arrived:
                await self.save_taken()  # a file does not prove what its record did
            moved = await self.moves.run(lambda: self.keeper.settle(batch.number, flying, void, due, refused))
            batch.moved.update(moved)
            batch.void.update(moved)
            batch.live -= len(moved)
            self._dirty.add(batch.number)
            for offset, ref in moved.items():
                still_later = self.later.remove(batch, offset) is not None
                if is_outbound(ref):
                    self.outbox.moved(ref, batch.accepted)
                    continue
                self.retrying.move(batch, offset, self.files, ref)
                self._unknow(ref)
                self._schedule_moved(ref, due.get(offset, 0.0))
                if offset in due and not still_later:
                    self.hurry(self.files, ref)  # it became ready while it was moved
        except OSError as error:
            # A batch that somebody removed never settles; its tasks end as gone when their turn comes.
            is_gone = isinstance(error, FileNotFoundError) and error.filename == self.layout.batch(batch.number)
            batch.closed_at = math.inf if is_gone else time.monotonic() + DISK_REST_SECONDS
            self.report("move_failed", move="settle", batch=batch.number, reason=str(error))
        finally:
            batch.frozen = False
            self.end_placing()
        self._drop_if_finished(batch)
        self.changed()
        if batch.outbound:
            self.outbox.wake_all()  # links found it frozen

    def _schedule_moved(self, ref: str, due: float) -> None:
        """A settled task: if it was ready, its place in the queue still leads to it; otherwise it is due later."""
        self.files.note(ref, due)
        if due:
            self._wait_until(due, self.files, ref, rank_of(ref))

    async def sync_marks(self) -> None:
        """Makes what ended safe against a power cut; called once a second."""
        numbers, self._dirty = self._dirty, set()
        directories, self._dirty_directories = self._dirty_directories, set()
        ended = self.outbox.settle_numbers()
        if (numbers or directories) and self._sync:
            try:
                await self.moves.run(lambda: self.keeper.sync_marks(numbers, directories))
            except OSError as error:
                self.report("sync_failed", reason=str(error))
                self.outbox.marks_unsure = True
                return  # and the numbers stay owed: after a power cut their tasks may be sent again
        self.outbox.forget(ended)

    # -- to and from other places --

    def mark_dirty(self, *places: Batch | str) -> None:
        """Something in these batches, or directories below the spool, is to be safe within a second."""
        for place in places:
            if isinstance(place, Batch):
                self._dirty.add(place.number)
            else:
                self._dirty_directories.add(self.layout.path(place))

    def leave_batch(self, batch: Batch, count: int) -> None:
        """Tasks of a batch have left it."""
        batch.live -= count
        self._dirty.add(batch.number)
        self._drop_if_finished(batch)

    # -- by hand --

    async def remove(self, source: Source, ref: Ref) -> bool:
        """Removes a waiting task; False, with nothing done, when none waits there (any more)."""
        if ref in source.flying or source.frozen:
            return False
        if source.link_number(ref):
            return await self.outbox.remove(source, ref)
        try:
            if isinstance(source, Batch):
                return await self._remove_record(source, int(ref))
            return await self._remove_file(str(ref))
        except FileNotFoundError:
            return False

    async def _remove_file(self, ref: str) -> bool:
        self.files.flying.add(ref)  # so it does not start meanwhile
        try:
            await self.moves.run(lambda: self.keeper.disk.unlink(self.layout.path(ref)))
        except OSError:
            self._land(self.files, [ref])
            due = self._unknow(ref)
            if due is not None:
                self._schedule_file(ref, due)  # its place in the queue may be gone
            raise
        self.end(self.files, [ref])
        return True

    async def _remove_record(self, batch: Batch, offset: int) -> bool:
        batch.frozen = True  # nothing of it may start between the look and the mark
        try:
            removed: bool = await self.moves.run(lambda: self.keeper.finish_waiting(batch.number, offset))
            if removed:
                self.later.remove(batch, offset)
                self.queue.remove(batch, offset)
        finally:
            batch.frozen = False
            self.changed()
        if removed:
            self.end(batch, [offset])
        else:
            self._drop_if_finished(batch)  # what ended while it was frozen could not
        return removed

    def hurry(self, source: Source, ref: Ref) -> bool:
        """Makes a task that is due later ready now; whether it was one."""

        def hurried(result: None, error: BaseException | None) -> None:
            # Not earlier: a worker that finds a file's time in the future leaves it alone.
            self._reported("hurry", source, ref)(result, error)
            if error is None:
                self.notice(str(ref), 0.0, time.time(), sure=True)

        if isinstance(source, Files):
            if not source.known.get(str(ref)) or ref in source.flying:
                return False
            self.moves.submit(lambda: self.keeper.disk.set_mtime(self.layout.path(str(ref)), time.time()), hurried)
            return True
        rank = self.later.remove(source, ref)
        if rank is not None:
            self.queue.add(source, [ref], rank)
            self.changed()
        return rank is not None

    # -- looking --

    def find(self, identity: str) -> tuple[Source, Ref] | None:
        """Where the task of that id is; None when it is not among the waiting and running ones. See also `at`."""
        name = file_name(identity)
        if name in self.files.known:
            return self.files, name
        prefix = f"{self.node_id}_"
        number, _, offset = identity[len(prefix) :].partition("_")
        if identity.startswith(prefix) and number.isdecimal() and offset.isdecimal():
            batch = self.batches.get(int(number))
            if batch is not None and int(offset) not in batch.void:
                return batch, int(offset)
        if "%" in identity:  # its file is called oddly, and its id stands for that
            return next(((self.files, ref) for ref in self.files.known if ref_id(ref) == identity), None)
        refs = (f"{directory}{name}" for directory in ("", *self.files.directories))
        return next(((self.files, ref) for ref in refs if ref in self.files.known), None)

    def at(self, ref: str) -> tuple[Source, Ref] | None:
        """The task in that file of outbox/: its name has a number that its id does not tell, so the disk must be asked first."""
        return (self.outbox.files, ref) if ref in self.outbox.files.known else None

    def id_of(self, source: Source, ref: Ref) -> str:
        """The id of a task."""
        return source.id_of(ref, self.node_id)

    def accepted_at(self, source: Source, ref: Ref) -> float:
        """When a task was accepted (a batch knows it of its first one), in seconds since 1970; now for what is gone."""
        if isinstance(source, Batch):
            return source.accepted
        try:
            return os.lstat(self.layout.path(str(ref))).st_mtime
        except OSError:
            return time.time()

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to look after within the next second."""
        to_sync = self._dirty or self._dirty_directories or self._arrived or self.outbox.has_ended
        return bool(to_sync or self.intake.open_since is not None or self.queue.size) or any(
            batch.live - len(batch.flying) <= SETTLE_AT_MOST for batch in self.batches.values()
        )

    @property
    def total(self) -> int:
        """Tasks on disk for this node that are not finished: waiting, due later, running."""
        in_batches = sum(batch.live for batch in self.batches.values())
        arrived = len(self._arrived)
        return in_batches + arrived + len(self.files.known) + len(self.outbox.files.known) - self.outbox.total

    def _progress(self, source: Source, ref: Ref) -> Progress:
        return self.keeper.progress(source.number, ref)

    def is_finished(self, source: Source, refs: Iterable[Ref]) -> set[Ref]:
        """Which of these tasks have ended well, as the disk says. Few refs, just written: read on the loop.

        Asked only after the death of a worker, when nothing else can tell.
        """
        if isinstance(source, Batch):
            try:
                found = self.keeper.progresses(source.number, [int(ref) for ref in refs])
            except OSError:
                return set()  # a worker looks again before it runs one
            return {ref for ref, progress in found.items() if progress.state == FINISHED}
        return {ref for ref in refs if self._is_gone(str(ref))}

    def _is_gone(self, ref: str) -> bool:
        try:
            self.keeper.disk.stat(self.layout.path(ref))
        except FileNotFoundError:
            return True
        except OSError:
            pass  # a worker looks again before it runs it
        return False


def _ended(outcome: Outcome) -> dict[str, str]:
    return {"function": outcome.function, "outcome": outcome.kind.value}
