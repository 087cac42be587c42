"""Sends waiting tasks to the workers with room for them. `balance` says how many each gets."""

import time

from spoolnode.node.spool.spool import Spool
from spoolnode.node.work import messages
from spoolnode.node.work.balance import STALLED_SECONDS, View, appetite, plan, to_relieve
from spoolnode.node.work.process import InFlight, WorkerProcess
from spoolnode.node.work.slots import TIMER
from spoolnode.node.work.supervisor import Supervisor


class Feeder:
    """Takes tasks from the spool, and gives them to workers."""

    def __init__(self, spool: Spool, supervisor: Supervisor, concurrency: int) -> None:
        self._spool = spool
        self._supervisor = supervisor
        self._concurrency = concurrency
        self._chunk = 0
        """The number of the last chunk."""

    def send_tasks(self) -> None:
        """Gives each worker what it has room for."""
        workers = self._supervisor.available
        now = time.monotonic()
        went_on = bool(workers)
        while went_on and (waiting := self._spool.starting.count):
            views = [self._view(worker, now) for worker in workers]
            went_on = False
            for index, count in plan(views, waiting):
                went_on |= self._send_chunk(workers[index], count)

    def appetite(self) -> int:
        """How many more tasks could start soon, besides those that wait here."""
        now = time.monotonic()
        return appetite([self._view(worker, now) for worker in self._supervisor.available], self._spool.starting.count)

    def relieve(self) -> None:
        """Has stalled workers give back what they have not started, if others could run it."""
        now = time.monotonic()
        views = [self._view(worker, now) for worker in self._supervisor.workers]
        for index in to_relieve(views, self._spool.starting.count):
            self._supervisor.workers[index].send(["return"])

    def _view(self, worker: WorkerProcess, now: float) -> View:
        running = worker.slots.main() if worker.held else None
        stalled = running is not None and now - running.started > STALLED_SECONDS
        return View(worker.held, worker.pace.window, worker.asynchronous, self._concurrency, stalled)

    def _send_chunk(self, worker: WorkerProcess, count: int) -> bool:
        taken = self._spool.take(count)
        if taken is None:
            return False
        source, refs, rank = taken
        held = self._spool.starting.to_return(taken)
        for group, packed in messages.pack_refs(source.number, refs, source.sent(refs)):
            self._chunk = self._chunk % (TIMER - 1) + 1
            worker.chunks[self._chunk] = InFlight(source, group, rank, set(range(len(group))))
            worker.held += len(group)
            worker.send(["run", self._chunk, source.number, packed, held, source.is_leased])
        return True
