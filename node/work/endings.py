"""The ends of tasks: takes what workers report of them, and judges those that a dead worker leaves."""

import time
from collections.abc import Callable, Collection
from typing import Any

from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Taken
from spoolnode.node.spool.verdicts import Verdicts
from spoolnode.node.work import messages
from spoolnode.node.work.late import lateness
from spoolnode.node.work.process import InFlight, WorkerProcess
from spoolnode.node.work.progress import ProgressHeard

SHORT_SECONDS = 60.0
"""Seconds after which a file that ends before its variables do counts as damaged."""
LOCKED_SECONDS = 1.0
"""Pause before a file that another process holds locked is tried again."""


class Endings:
    """Tells the spool what became of the tasks that workers had."""

    def __init__(self, spool: Spool, verdicts: Verdicts, progress: ProgressHeard, report: Callable[..., None]) -> None:
        self._spool = spool
        self._timings = spool.timings
        self._verdicts = verdicts
        self._progress = progress
        self._report = report
        self.seconds = 0.0
        """Seconds of all runs of tasks together, including killed ones."""
        self.busy = 0.0
        """Seconds that the workers' main threads spent on tasks; async ones hardly take any."""

    # -- reported --

    def ended(
        self, worker: WorkerProcess, number: int, packed: bytes, lengths: bytes, others: list[list[Any]], seconds: float,
        waited: float,
    ) -> bool:  # fmt: skip
        """Takes the report of a worker about tasks that have ended. Returns whether it could be believed."""
        positions = messages.unpack_positions(packed)
        if not self._trusts(worker, number, [*positions, *(position for position, *_ in others)]):
            return False
        chunk = worker.chunks[number]
        if positions:
            refs, each = self._close(worker, chunk, positions), messages.unpack_lengths(lengths)
            self._timings.done(chunk.source, refs, each, waited)
            self._spool.done(chunk.source, refs, each)
            worker.done += len(positions)
        for position, verdict, *how in others:
            (ref,) = self._close(worker, chunk, [position])
            if verdict not in messages.NOT_RUN:
                worker.done += 1
                self._timings.started(chunk.source, ref, waited, function=how[2])
            self._judge(chunk, ref, verdict, *how)
        self.seconds += seconds
        self.busy += seconds
        worker.pace.observe(len(positions) + len(others), seconds)
        _forget_if_over(worker, number)
        return True

    def returned(self, worker: WorkerProcess, number: int, packed: bytes) -> None:
        """Takes back tasks that a worker has not started."""
        positions = messages.unpack_positions(packed)
        if self._trusts(worker, number, positions):
            chunk = worker.chunks[number]
            self._spool.give_back(Taken(chunk.source, self._close(worker, chunk, positions), chunk.rank))
            _forget_if_over(worker, number)

    def _trusts(self, worker: WorkerProcess, number: int, positions: Collection[int]) -> bool:
        """Whether a worker reports tasks that it has. One that does not is killed; the disk says which tasks have ended."""
        chunk = worker.chunks.get(number)
        if chunk is not None and chunk.open.issuperset(positions) and len(set(positions)) == len(positions):
            return True
        self._report("worker_confused", worker=worker.index, pid=worker.pid, reason="it reported tasks that it does not have")
        worker.kill()
        return False

    def _close(self, worker: WorkerProcess, chunk: InFlight, positions: Collection[int]) -> list[Ref]:
        """Takes positions out of a chunk. Returns their refs."""
        self._forget_progress(chunk, positions)
        chunk.open.difference_update(positions)
        worker.held -= len(positions)
        return [chunk.refs[position] for position in positions]

    def _forget_progress(self, chunk: InFlight, positions: Collection[int]) -> None:
        if self._progress:
            self._progress.forget(self._spool.id_of(chunk.source, chunk.refs[position]) for position in positions)

    def _judge(self, chunk: InFlight, ref: Ref, verdict: str, *how: Any) -> None:
        spool, verdicts, source = self._spool, self._verdicts, chunk.source
        detail, delay, function, seconds, origin_id, error = how
        if verdict == Ending.DONE.value:
            self._timings.ended(source, ref, verdict, seconds, function)
            spool.done(source, [ref], [seconds], kept=not detail, **({"reason": detail} if detail else {}))
        elif verdict == messages.WITHHELD:
            spool.starting.learn(source, ref, chunk.rank, detail)
        elif verdict == messages.LAPSED:
            spool.give_back(Taken(source, [ref], chunk.rank))
        elif verdict == messages.GONE:
            spool.gone(source, ref)
        elif verdict == messages.EARLY:
            spool.postpone(source, ref, chunk.rank, detail)
        elif verdict == messages.LOCKED or (verdict == messages.SHORT and detail < SHORT_SECONDS):
            spool.postpone(source, ref, chunk.rank, time.time() + LOCKED_SECONDS)
        elif verdict == messages.SHORT:
            verdicts.corrupt(source, ref, f"it ended before its variables did for {int(detail)} s")
        elif verdict == messages.UNREADABLE:
            verdicts.unreadable(source, ref, chunk.rank, detail)
        elif verdict == messages.CORRUPT:
            verdicts.corrupt(source, ref, detail)
        else:
            outcome = Outcome(Ending(verdict), detail, delay, function, origin_id, seconds, error=error)
            verdicts.failed(source, ref, chunk.rank, outcome)

    # -- left by the dead --

    def of_dead(self, worker: WorkerProcess) -> None:
        """Settles the tasks of a dead worker: ended ones are done, running ones are blamed, the others lose nothing."""
        now = time.monotonic()
        self.seconds += sum(now - item.started for item in worker.slots.running() if item.chunk in worker.chunks)
        running = worker.slots.limits()
        for number, chunk in sorted(worker.chunks.items(), reverse=True):
            self._forget_progress(chunk, chunk.open)
            self._account(worker, number, chunk, running)
        worker.chunks.clear()
        worker.held = 0

    def _account(self, worker: WorkerProcess, number: int, chunk: InFlight, running: dict[tuple[int, int], float]) -> None:
        spool, verdicts, source = self._spool, self._verdicts, chunk.source
        refs = {position: chunk.refs[position] for position in sorted(chunk.open)}
        finished = spool.journal.is_finished(source, refs.values())
        spool.done(source, [ref for ref in refs.values() if ref in finished])
        unstarted = []
        for position, ref in refs.items():
            key = (number, position)
            if ref in finished:
                continue
            if (cancel := worker.cancelled.get(key)) is not None:
                reason = f"{cancel.reason}; its worker was killed" if cancel.is_forced else cancel.reason
                verdicts.failed(source, ref, chunk.rank, Outcome(Ending.CANCELLED, reason))
            elif key not in running:
                unstarted.append(ref)
            elif key in worker.overdue:
                limit = running[key]
                outcome = Outcome(Ending.FAILED, lateness(worker, key, limit), seconds=limit)
                verdicts.failed(source, ref, chunk.rank, outcome)
            elif worker.interrupted or worker.overdue:
                verdicts.interrupted(source, ref, chunk.rank)
            else:
                verdicts.failed(source, ref, chunk.rank, Outcome(Ending.FAILED, f"its worker {worker.death}"))
        spool.give_back(Taken(source, unstarted, chunk.rank))


def _forget_if_over(worker: WorkerProcess, number: int) -> None:
    if not worker.chunks[number].open:
        del worker.chunks[number]
