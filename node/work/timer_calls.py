"""Has workers call the timers of the application that are this node's own. `schedule` says when."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from spoolnode.node.outcome import Timer, read_timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.work.process import WorkerProcess
from spoolnode.node.work.supervisor import Supervisor

CLOCK_SECONDS = 10.0
"""Timers are checked at least this often, in seconds: the wall clock may have been set."""


class TimerCalls:
    """The timers of the application, called by one worker each time."""

    def __init__(self, supervisor: Supervisor, report: Callable[..., None], when_called: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._report = report
        self._when_called = when_called
        self._loop = asyncio.get_running_loop()
        self._next: asyncio.TimerHandle | None = None
        self.schedule = Schedule(time.monotonic(), time.time())
        self.shared: list[Timer] = []
        """Those that are the whole cluster's."""

    def replace(self, timers: list[list[Any]]) -> None:
        """These are the timers of the application, as a worker tells them."""
        listed = [read_timer(timer) for timer in timers]
        self.shared = [timer for timer in listed if timer.task]
        own = [timer for timer in listed if not timer.task]
        if own != self.schedule.timers:
            self.schedule.replace(own, time.monotonic(), time.time())
            self._wait()

    def stop(self) -> None:
        """Calls none any more."""
        self.schedule.replace([], time.monotonic(), time.time())

    def _wait(self) -> None:
        if self._next is not None:
            self._next.cancel()
        wait = self.schedule.wait(time.monotonic(), time.time())
        # Again now and then: the wall clock of cron entries may be set.
        self._next = None if wait is None else self._loop.call_later(min(wait, CLOCK_SECONDS), self._call)

    def _call(self) -> None:
        for timer in self.schedule.due(time.monotonic(), time.time()):
            workers = self._supervisor.available
            # A timer that still waits behind a long task, or runs, is not called a second time: calls do not pile up.
            if workers and not any(timer in worker.timers for worker in workers):
                chosen = min(workers, key=lambda worker: worker.held)
                chosen.timers.add(timer)
                chosen.send(["timer", list(timer)])
                self._when_called()
        self._wait()

    def ended(self, worker: WorkerProcess, timer: list[Any] | str, error: str | None) -> None:
        """Notes the end of a call: of a timer, or, by its name, of one that the application asked for."""
        name = timer if isinstance(timer, str) else read_timer(timer).name
        if not isinstance(timer, str):
            worker.timers.discard(read_timer(timer))
        if error is not None:
            self._report("timer_failed", timer=name, worker=worker.index, reason=error)
        else:
            self._report("timer", timer=name, worker=worker.index)
