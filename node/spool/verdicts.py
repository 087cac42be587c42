"""Judges tasks that did not end well: another attempt after a pause, dead/, corrupt/, or their turn once more.

The store thread judges, for the disk knows how often a task was tried; the event loop hears the verdict.
"""

import random
import time

from spoolnode.node.outcome import ASKED, NO_CALLABLE, Ending, Outcome
from spoolnode.node.spool import timings
from spoolnode.node.spool.journal import DISK_REST_SECONDS, Journal
from spoolnode.node.spool.place import Line, Place
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.recovery import Found
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.retrying import ENDED_BEFORE
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.node.story.notes import ATTEMPT, INTERRUPTED, MAX_TEXT
from spoolnode.protocol.errors import BadPacket


class Verdicts:
    """The judge of the tasks of one spool."""

    def __init__(self, spool: Spool, journal: Journal, policy: RetryPolicy, rng: random.Random) -> None:
        """`rng`: for the jitter of pauses."""
        self._spool = spool
        self._journal = journal
        self._store = journal.store
        self._retrying = spool.retrying
        self._policy = policy
        self._rng = rng

    def adopt(self, found: Found, now: float) -> None:
        """Judges what ran when the process before this one ended. `now`: the wall clock, in seconds."""
        for item in found.batches:
            batch = item.batch
            for offset, rank, attempts, said in item.tried:
                policy = self._policy.of_task(said)
                if policy.gives_up(attempts):
                    self._give_up(batch, offset, rank, "the node ended while the task ran", attempts)
                else:
                    self._retrying.fail(batch, offset, self._journal.id_of(batch, offset), ENDED_BEFORE)
                    self._spool.postpone(batch, offset, rank, now + policy.pause(attempts, self._rng))

    def interrupted(self, source: Source, ref: Ref, rank: int) -> None:
        """Takes back a task that the node itself stopped: it runs next, and the attempt does not count."""
        place = source.place

        def uncount() -> None:
            attempts = place.progress(self._store, ref).attempts
            if attempts:
                place.set_attempts(self._store, ref, attempts - 1)

        def uncounted(result: None, error: BaseException | None) -> None:
            # Not earlier: the next attempt, counted at its start, would be uncounted instead.
            self._journal.reported("uncount", source, ref)(result, error)
            self._journal.report("put_back", id=self._journal.id_of(source, ref))
            self._journal.note(INTERRUPTED, source, [ref])
            self._spool.give_back(Taken(source, [ref], rank))

        self._journal.moves.submit(uncount, uncounted)

    def failed(self, source: Source, ref: Ref, rank: int, outcome: Outcome) -> None:
        """Judges a task that did not end well: it runs again, or is given up."""
        place, identity = source.place, self._journal.id_of(source, ref)
        asked, is_cancelled = outcome.kind in ASKED, outcome.kind is Ending.CANCELLED
        rounds = self._retrying.ask(source, ref, identity) if outcome.kind is Ending.RETRY else 0

        def judge() -> tuple[float, int]:
            begun = place.progress(self._store, ref).attempts
            attempts, pause = self._policy.after(outcome, begun, rounds, lambda: self._policy_at(place, ref), self._rng)
            if asked:
                place.set_attempts(self._store, ref, attempts)
            if pause is None:
                place.bury(self._store, ref, outcome.reason, attempts)
                return 0.0, attempts
            return place.put_off(self._store, ref, time.time() + pause), attempts

        def judged(result: tuple[float, int] | None, error: BaseException | None) -> None:
            if result is None:
                self._unjudged(source, ref, rank, error)
                return
            due, attempts = result
            self._say(source, ref, outcome, due, attempts)
            if not due:
                self._spool.died(source, ref, outcome.reason, attempts, cancelled=is_cancelled)
                return
            if not asked:
                lacks = outcome.function if outcome.reason.startswith(NO_CALLABLE) else None
                self._retrying.fail(source, ref, identity, outcome.reason, lacks)
            self._spool.postpone(source, ref, rank, due)

        self._journal.counts.failed += not (asked or is_cancelled)
        self._journal.moves.submit(judge, judged)

    def _policy_at(self, place: Place, ref: Ref) -> RetryPolicy:
        """How often the task there is tried, and after which pauses."""
        try:
            block = self._store.block_at(place.header(self._store.layout, ref))
        except BadPacket:
            return self._policy
        return self._policy.of_task(block)

    def _unjudged(self, source: Source, ref: Ref, rank: int, error: BaseException | None) -> None:
        if isinstance(error, FileNotFoundError):
            self._spool.gone(source, ref)
            return
        # The disk failed: the task stays where it is, and is tried again.
        self._journal.report("move_failed", id=self._journal.id_of(source, ref), reason=str(error))
        self._spool.postpone(source, ref, rank, time.time() + min(DISK_REST_SECONDS, self._policy.longest))

    def _give_up(self, source: Source, ref: Ref, rank: int, reason: str, attempts: int) -> None:
        """Buries a task that has used up its attempts, found at the start."""
        place = source.place

        def buried(result: None, error: BaseException | None) -> None:
            del result
            if error is not None:
                self._unjudged(source, ref, rank, error)
                return
            self._say(source, ref, Outcome(Ending.FAILED, reason), 0.0, attempts)
            self._spool.died(source, ref, reason, attempts)

        source.in_flight.add(ref)
        self._journal.moves.submit(lambda: place.bury(self._store, ref, reason, attempts), buried)

    def unreadable(self, source: Source, ref: Ref, rank: int, reason: str) -> None:
        """Puts off a task that cannot be read now: it stays where it is and is tried again, sooner if its file changes.

        A file that we may read but not mark becomes ours.
        """
        place = source.place

        def taken(result: None, error: BaseException | None) -> None:
            del result
            if error is None:
                self._spool.postpone(source, ref, rank, time.time())
                return
            identity = self._journal.id_of(source, ref)
            self._journal.report("unreadable", id=identity, reason=reason, again_in=DISK_REST_SECONDS)
            self._spool.postpone(source, ref, rank, time.time() + DISK_REST_SECONDS)

        self._journal.moves.submit(lambda: place.take_over(self._store, ref), taken)

    def corrupt(self, source: Source, ref: Ref, reason: str) -> None:
        """Gives up a task that can never be read: its file, or the rest of its batch, is kept in corrupt/. All others go on."""
        place = source.place

        def kept(lines: list[Line] | None, error: BaseException | None) -> None:
            self._journal.reported("keep", source, ref)(None, error)
            for action, details in lines or ():
                self._journal.report(action, **details)
            source.gave_up(ref, reason, None)
            self._spool.end(source, [ref])

        self._journal.moves.submit(lambda: place.quarantine(self._store, ref, reason), kept)

    def _say(self, source: Source, ref: Ref, outcome: Outcome, due: float, attempts: int) -> None:
        report, identity = self._journal.report, self._journal.id_of(source, ref)
        task = {"id": identity, "origin_id": outcome.origin_id or identity}
        # A worker that died did not say which function ran.
        function = outcome.function or self._spool.starting.functions.name(source.functions_of([ref])[0])
        ended = {"function": function, "outcome": outcome.kind.value}
        error = {"error": outcome.error} if outcome.error else {}
        self._journal.note(
            ATTEMPT, source, [ref], [outcome.seconds],
            attempt=attempts, due=due, **ended, **error, reason=outcome.reason[:MAX_TEXT],
        )  # fmt: skip
        is_asked = outcome.kind in ASKED
        given_up = timings.CANCELLED if outcome.kind is Ending.CANCELLED else timings.DEAD
        label = timings.AGAIN if is_asked else timings.FAILED if due else given_up
        self._spool.timings.ended(source, ref, label, outcome.seconds, function)
        if is_asked:
            report("again", **task, function=function, due=due)
        elif due:
            # The traceback is logged once; `show` has that of the last attempt, and dead/ keeps it.
            reason = outcome.reason if attempts <= 1 else outcome.reason.partition("\n")[0]
            report("retry", **task, attempts=attempts, due=due, **ended, reason=reason)
        else:
            report("dead", **task, attempts=attempts, **ended, reason=outcome.reason)
