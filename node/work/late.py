"""Ends tasks that run longer than they may: with their worker, for nothing less ends every task."""

import time
from collections.abc import Callable

from spoolnode.node.spool.spool import Spool
from spoolnode.node.work.process import WorkerProcess

FROZEN_SECONDS = 1.0
"""If this much more time passes between two looks, we were stopped (SIGSTOP, a frozen container), with our workers."""


class LateTasks:
    """Looks now and then for tasks past their time."""

    def __init__(self, spool: Spool, report: Callable[..., None]) -> None:
        self._spool = spool
        self._report = report
        self._next = 0.0
        """When the next look was to be, by the monotonic clock."""

    def expect_look(self, seconds: float) -> None:
        """The next look is in so many seconds, if the node runs then."""
        self._next = time.monotonic() + seconds

    def end(self, workers: list[WorkerProcess]) -> None:
        """Kills the workers with tasks past their time."""
        now = time.monotonic()
        frozen = now - self._next
        for worker in workers:
            if frozen > FROZEN_SECONDS:
                worker.excuse(frozen)
            overdue = worker.late(now)
            if overdue and not worker.overdue:
                worker.overdue = overdue
                self._report("timeout", worker=worker.index, pid=worker.pid, tasks=self._ids(worker, overdue))
                worker.kill_late()

    def _ids(self, worker: WorkerProcess, overdue: set[tuple[int, int]]) -> list[str]:
        return [
            self._spool.id_of(worker.chunks[number].source, worker.chunks[number].refs[position])
            for number, position in overdue
            if number in worker.chunks
        ]


def lateness(worker: WorkerProcess, late: tuple[int, int], limit: float) -> str:
    """Why a task that ran too long has failed: its limit, and where it was."""
    main = worker.slots.main()
    where = worker.stack(in_loop=main is None or (main.chunk, main.position) != late)
    reason = f"it ran longer than {limit:g} s (timeout); its worker was killed"
    return f"{reason}\nIts stack (most recent call first):\n{where}" if where else reason
