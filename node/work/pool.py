"""The pool: all workers of a node. Hears them, and passes on what they say to the part that it concerns."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

from spoolnode.node.config import Config
from spoolnode.node.outcome import Limit, Timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source
from spoolnode.node.spool.verdicts import Verdicts
from spoolnode.node.story.notes import PROGRESS
from spoolnode.node.work.endings import Endings
from spoolnode.node.work.feeder import Feeder
from spoolnode.node.work.late import LateTasks
from spoolnode.node.work.process import Cancel, WorkerProcess
from spoolnode.node.work.progress import ProgressHeard
from spoolnode.node.work.spawner import Spawner
from spoolnode.node.work.supervisor import Supervisor
from spoolnode.node.work.timer_calls import TimerCalls
from spoolnode.node.work.warden import Warden
from spoolnode.node.work.workers import Started
from spoolnode.protocol.names import file_name, id_of_file

TICK = 0.1
"""Seconds between two looks at what runs, while something runs."""


class WorkerPool:
    """All workers of a node."""

    def __init__(
        self, config: Config, spool: Spool, verdicts: Verdicts, facts: dict[str, Any], report: Callable[..., None], warden: Warden
    ) -> None:
        self._node = config.name
        self._spool = spool
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._progress = ProgressHeard()
        spawner = Spawner(facts, config.concurrency, warden, self._hear, self._printed, self._buried)
        self._supervisor = Supervisor(config, spawner, report)
        self._feeder = Feeder(spool, self._supervisor, config.concurrency)
        self._endings = Endings(spool, verdicts, self._progress, report)
        self._late = LateTasks(spool, report)
        self._timers = TimerCalls(self._supervisor, report, self._start_ticking)
        self._started: Started | None = None
        self._hungry: Callable[[], None] | None = None  # no function, as this is asked for each request
        self._leases_until = 0.0
        self._is_planned = False
        self._tick: asyncio.TimerHandle | None = None

    # -- life --

    async def load(self) -> None:
        """Replaces the workers by new ones, with the application as it is now (see `Supervisor.load`)."""
        await self._supervisor.load()
        self.dispatch()

    async def room(self) -> None:
        """Returns when few enough old workers are left for another reload."""
        await self._supervisor.room()

    async def stop(self) -> None:
        """Lets running tasks end, for at most `grace` seconds; the rest is put back."""
        self._timers.stop()
        await self._supervisor.stop()

    def stop_now(self) -> None:
        """Ends at once; running tasks are put back, and this does not count as an attempt."""
        self._supervisor.stop_now()

    # -- tasks to the workers --

    def dispatch(self) -> None:
        """Sends waiting tasks to workers with room. Many calls in one turn of the loop cost one dispatch."""
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._is_planned = False
        for worker in self._supervisor.workers:
            if worker.recalled:
                worker.hold_leases(self._leases_until)
        self._feeder.send_tasks()
        self._start_ticking()
        if self._hungry:
            self._hungry()

    # -- for a common store: see `Hands` --

    def appetite(self) -> int:
        """See `Hands`."""
        return self._feeder.appetite()

    def when_hungry(self, call: Callable[[], None]) -> None:
        """See `Hands`."""
        self._hungry = call

    def call_back(self, refs: Collection[str]) -> None:
        """See `Hands`."""
        for worker in self._supervisor.with_tasks:
            worker.call_back(refs)

    def hold_leases(self, until: float) -> None:
        """See `Hands`."""
        self._leases_until = until
        for worker in self._supervisor.all:
            worker.hold_leases(until)

    # -- messages from the workers --

    def _hear(self, worker: WorkerProcess, message: list[Any]) -> None:
        kind, *rest = message
        self._heard(worker, kind, rest)
        for key in self._cancelled_over(worker) if worker.cancelled else ():
            worker.send(["forget", *key])

    def _heard(self, worker: WorkerProcess, kind: str, rest: list[Any]) -> None:
        if kind == "ended":
            if self._endings.ended(worker, *rest):
                self._supervisor.recycle_if_worn(worker)
                self.dispatch()
        elif kind == "returned":
            self._endings.returned(worker, *rest)
        elif kind == "spoilt":
            self._supervisor.recycle_spoilt(worker, *rest)
        elif kind == "async":
            worker.asynchronous, seconds = rest
            self._endings.seconds += seconds
            self.dispatch()
        elif kind == "started":
            self._hear_start(worker, *rest)
        elif kind == "progress":
            self._hear_progress(worker, *rest)
        elif kind == "print":
            task, stream, text = rest
            self._report("print", id=id_of_file(task) if task else "", stream=stream, text=text, node=self._node)
        elif kind == "log":
            task, level, logger, text = rest
            identity = id_of_file(task) if task else ""
            self._report("log", level=level, id=identity, logger=logger, text=text, node=self._node)
        elif kind == "timer":
            self._timers.ended(worker, *rest)
        elif kind == "ready":
            self._came_up(worker, *rest[1:])
        elif kind == "broken":
            reason, is_sentence = rest
            self._supervisor.broken(worker, reason, is_sentence=is_sentence)

    def _came_up(self, worker: WorkerProcess, timers: list[list[Any]], warning: str, limits: dict[str, list[Any]]) -> None:
        self._supervisor.came_up(worker, warning)
        worker.slots.watch(self._started is not None)
        worker.slots.hold_leases(self._leases_until)
        self._spool.starting.throttle.limit({name: Limit(*limit) for name, limit in limits.items()})
        self._timers.replace(timers)
        self.dispatch()

    def watch(self, started: Started | None) -> None:
        """See `Workers`."""
        self._started = started
        for worker in self._supervisor.all:
            worker.slots.watch(started is not None)

    def _hear_start(self, worker: WorkerProcess, number: int, position: int) -> None:
        chunk = worker.chunks.get(number)
        if self._started is not None and chunk is not None and position in chunk.open:
            self._started(self._spool.id_of(chunk.source, chunk.refs[position]), worker.index, worker.pid)

    def _hear_progress(self, worker: WorkerProcess, identity: str, done: float, text: str) -> None:
        """Takes the word of a task that runs in this worker."""
        if not any(row["id"] == identity and row["pid"] == worker.pid for row in self.running()):
            return  # it has just ended
        said = self._progress.hear(identity, done, text)
        self._spool.journal.story.note(PROGRESS, None, [file_name(identity)], **said)

    def _printed(self, worker: WorkerProcess, stream: str, text: str) -> None:
        """Takes a line that did not pass through Python's sys.stdout: it belongs to the task in the main thread."""
        running = worker.slots.main()
        chunk = worker.chunks.get(running.chunk) if running else None
        identity = self._spool.id_of(chunk.source, chunk.refs[running.position]) if running and chunk else ""
        self._report("print", id=identity, stream=stream, text=text, worker=worker.index, node=self._node)

    def _buried(self, worker: WorkerProcess) -> None:
        """A worker has ended: its tasks are settled before another one takes its place."""
        was_idle = not worker.chunks and not worker.done
        self._endings.of_dead(worker)
        self._supervisor.buried(worker, was_idle=was_idle)
        self._cancelled_over(worker)
        self.dispatch()

    # -- cancelling --

    async def cancel(self, source: Source, ref: Ref, reason: str, grace: float) -> None:
        """Has a task end before its time that a worker holds. Returns when no worker holds it any more, however it ended.

        If it goes on for `grace` seconds, its worker is killed; the other tasks there lose nothing.
        """
        for worker in self._supervisor.with_tasks:
            if (key := worker.position_of(source, ref)) is not None:
                if key not in worker.cancelled:
                    worker.cancelled[key] = Cancel(reason)
                    worker.send(["cancel", *key, reason])
                    self._loop.call_later(grace, self._force, worker, key)
                await worker.cancelled[key].over.wait()

    def _force(self, worker: WorkerProcess, key: tuple[int, int]) -> None:
        if (cancel := worker.cancelled.get(key)) is not None:
            cancel.is_forced = True
            worker.interrupted = True
            worker.kill()

    def _cancelled_over(self, worker: WorkerProcess) -> list[tuple[int, int]]:
        """Tells those who cancelled tasks of a worker that it holds them no more. Returns which."""
        over = [
            (number, position)
            for number, position in worker.cancelled
            if number not in worker.chunks or position not in worker.chunks[number].open
        ]
        for key in over:
            worker.cancelled.pop(key).over.set()
        return over

    # -- by the clock --

    def _start_ticking(self) -> None:
        workers = self._supervisor.with_tasks
        # Also while a timer runs that was called in an idle worker: it may be late, too.
        if self._tick is None and any(worker.held or worker.timers or worker.slots.main() for worker in workers):
            self._late.expect_look(TICK)
            self._tick = self._loop.call_later(TICK, self._look)

    def _look(self) -> None:
        """Ends late tasks, relieves stalled workers, and looks for room again: the end of a stall is silent."""
        self._tick = None
        self._late.end(self._supervisor.with_tasks)
        self._feeder.relieve()
        if self._spool.starting.count:
            self.dispatch()
        self._start_ticking()

    # -- looking --

    def pids(self) -> set[int]:
        """The processes of all workers."""
        return {worker.pid for worker in self._supervisor.all}

    @property
    def ready(self) -> int:
        """Workers that are up."""
        return sum(worker.ready for worker in self._supervisor.workers)

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the present workers, up or not."""
        return [worker.pid for worker in self._supervisor.workers]

    @property
    def leaving(self) -> int:
        """Old workers that still finish their tasks."""
        return len(self._supervisor.leaving)

    @property
    def deaths(self) -> int:
        """Workers that died unexpectedly."""
        return self._supervisor.deaths

    @property
    def held(self) -> int:
        """Tasks that workers have."""
        return sum(worker.held for worker in self._supervisor.with_tasks)

    @property
    def seconds(self) -> float:
        """Seconds of all runs of tasks together, including killed ones."""
        return self._endings.seconds

    @property
    def busy(self) -> float:
        """Seconds that the workers' main threads spent on tasks; async ones hardly take any."""
        return self._endings.busy

    @property
    def schedule(self) -> Schedule:
        """The timers of the application that this node calls for itself."""
        return self._timers.schedule

    @property
    def shared_timers(self) -> list[Timer]:
        """Those that are the whole cluster's."""
        return self._timers.shared

    def running(self) -> list[dict[str, Any]]:
        """The tasks that run now: id, worker, seconds, and how far they are, if they have said so."""
        now = time.monotonic()
        rows = []
        for worker in self._supervisor.with_tasks:
            for item in worker.slots.running():
                chunk = worker.chunks.get(item.chunk)
                if chunk is not None and item.position in chunk.open:
                    identity = self._spool.id_of(chunk.source, chunk.refs[item.position])
                    row = {"id": identity, "worker": worker.index, "pid": worker.pid, "seconds": round(now - item.started, 3)}
                    rows.append(row | self._progress.of(identity))
        return rows
