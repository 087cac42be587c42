"""The pool: keeps the workers of a node at their number, feeds them from the spool, and judges the ends of their tasks."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

from spoolnode.node.config import BadConfig, Config
from spoolnode.node.outcome import Ending, Outcome, read_timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Taken
from spoolnode.node.spool.verdicts import Verdicts
from spoolnode.node.work import messages
from spoolnode.node.work.balance import STALLED_SECONDS, View, plan, to_relieve
from spoolnode.node.work.process import InFlight, WorkerProcess, worker_command
from spoolnode.node.work.reserve import Reserve
from spoolnode.node.work.slots import TIMER
from spoolnode.node.work.strays import mark_of
from spoolnode.node.work.warden import Warden
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.protocol.names import id_of_file

TICK = 0.1
"""Seconds between two looks at what runs, while something runs."""
FROZEN_SECONDS = 1.0
"""If this much more time passes between two looks, we were stopped (SIGSTOP, a frozen container), with our workers."""
IDLE_DEATH_SECONDS = 1.0
"""Seconds before a worker that died before it had a task is replaced, to avoid a loop of dying and starting."""
CLOCK_SECONDS = 10.0
"""Timers are checked at least this often, in seconds: the wall clock may have been set."""
LONGEST_RESPAWN = 60.0
"""The longest pause, in seconds, before a worker that does not come up is started again."""
LONGEST_SHORTAGE = 10.0
"""The longest pause, in seconds, before a worker that the machine had no room for is started again."""
OLD_WORKERS = 3
"""This many times `workers` old workers may finish their tasks beside the new ones; beyond that a reload waits."""

SHORT_SECONDS = 60.0
"""Seconds after which a file that ends before its variables do counts as damaged."""
LOCKED_SECONDS = 1.0
"""Pause before a file that another process holds locked is tried again."""


class AppBroken(SpoolnodeError):
    """You erred: the application does not load. The text is its traceback."""


class AppUnusable(AppBroken, BadConfig):
    """You erred: --app does not name anything that could run. The text is one sentence."""


class WorkerPool:
    """All workers of a node."""

    def __init__(
        self, config: Config, spool: Spool, verdicts: Verdicts, facts: dict[str, Any], report: Callable[..., None], warden: Warden
    ) -> None:
        self._warden = warden
        self._serial = itertools.count(1)
        self._config = config
        self._spool = spool
        self._verdicts = verdicts
        self._facts = facts
        self._report = report
        self._loop = asyncio.get_running_loop()
        self.workers: list[WorkerProcess] = []
        self._leaving: list[WorkerProcess] = []
        self._loading: list[WorkerProcess] = []
        """Workers that take the place of the others once their application is loaded."""
        self._is_up = False
        self._reserve = Reserve()
        self._chunk = 0
        self._stopping = False
        self._failures = 0
        self._tick: asyncio.TimerHandle | None = None
        self._looked = 0.0
        self._planned = False
        self._first: WorkerProcess | None = None
        """The worker that loaded this application first, or does so now: only tasks that it enqueues meanwhile count."""
        self._schedule = Schedule(time.monotonic(), time.time())
        self._timer: asyncio.TimerHandle | None = None
        self._events: dict[WorkerProcess, asyncio.Future[None]] = {}
        self._unusable: set[WorkerProcess] = set()
        self._fewer = asyncio.Event()
        """Set whenever a worker has ended."""
        self.seconds = 0.0
        """Seconds of all runs of tasks together, including killed ones."""
        self.busy = 0.0
        """Seconds that the workers' main threads spent on tasks; async ones hardly take any."""
        self.deaths = 0
        """Workers that died unexpectedly."""

    # -- life --

    async def load(self) -> None:
        """Starts workers with the application as it is now; when they are ready they take the old ones' place.

        Old workers finish what they run, for `reload_grace` seconds at most. Cancelled, or when it raises, it changes nothing.

        The first loads the application alone. uWSGI imports a module once, so it may say `if not exists(FLAG): enqueue()`:
        of two that do so at once the one whose tasks do not count could make the flag.

        Raises:
            AppBroken: the application does not load.
            OSError: the machine has no room for another process.
        """
        old = list(self.workers)
        self._first = None
        try:
            self._spawn(0, self._loading)
            await self._bring_up(self._loading)
            for index in range(1, 0 if old else self._config.workers):
                self._spawn(index, self._loading)
            await self._bring_up([worker for worker in self._loading if not worker.ready])
        except BaseException:  # also when it is cancelled
            for worker in self._loading:
                self._leaving.append(worker)
                worker.kill()
            self._loading = []
            raise
        self.workers += self._loading
        self._loading = []
        self._is_up = True
        for worker in old:
            self._retire(worker, self._config.reload_grace)
        self.dispatch()
        for index in range(len(self.workers), self._config.workers):
            self._respawn(index)

    async def room(self) -> None:
        """Returns when few enough old workers are left. So their number stays bounded, however often we reload."""
        if self._is_crowded():
            self._report("reload_waits", old_workers=len(self._leaving), reason="so many still finish what they run")
        while self._is_crowded():
            self._fewer.clear()
            await self._fewer.wait()

    def _is_crowded(self) -> bool:
        return len(self._leaving) > (OLD_WORKERS - 1) * self._config.workers

    async def _bring_up(self, workers: list[WorkerProcess]) -> None:
        waiting = [self._events.setdefault(worker, self._loop.create_future()) for worker in workers]
        try:
            await asyncio.gather(*waiting)
        finally:
            for worker in workers:
                self._events.pop(worker, None)

    def _retire(self, worker: WorkerProcess, grace: float) -> None:
        """Lets a worker end its tasks and leave. It gets `grace` seconds for that; 0: no limit."""
        if worker in self.workers:
            self.workers.remove(worker)
            self._leaving.append(worker)
            worker.stop()
            if grace:
                self._loop.call_later(grace, self._kill_if_leaving, worker)

    def _kill_if_leaving(self, worker: WorkerProcess) -> None:
        if worker in self._leaving:
            self._report("grace_over", worker=worker.index, pid=worker.pid, tasks=worker.held)
            worker.interrupted = True
            worker.kill()

    async def stop(self) -> None:
        """Lets running tasks end, for at most `grace` seconds; the rest is put back."""
        self._stopping = True
        self._schedule.replace([], time.monotonic(), time.time())
        for worker in list(self.workers):
            self._retire(worker, 0)
        for worker in self._leaving:
            self._loop.call_later(self._config.grace, self._kill_if_leaving, worker)
        while self._leaving or self.workers:
            self._fewer.clear()
            await self._fewer.wait()

    def stop_now(self) -> None:
        """Ends at once; running tasks are put back, and this does not count as an attempt."""
        for worker in self._leaving + self.workers + self._loading:
            worker.interrupted = True
            worker.kill()

    def _spawn(self, index: int, place: list[WorkerProcess]) -> None:
        """Starts a worker, which joins those in `place`. Raises OSError if the machine has no room for it."""
        facts = {**self._facts, "is_first": self._first is None, "is_reload": self._is_up}
        worker = WorkerProcess(
            index, worker_command(), facts, mark_of(self._warden.instance, next(self._serial)), self._config.concurrency,
            self._hear, self._printed, self._buried,
        )  # fmt: skip
        with self._reserve.lent():
            worker.start()
        self._warden.watch(worker.pid)
        self._first = self._first or worker
        place.append(worker)

    def _respawn(self, index: int) -> None:
        """Starts a missing worker. If the machine has no room for it, tries again after a pause."""
        if self._stopping or not self._is_up or len(self.workers) >= self._config.workers:
            return
        try:
            self._spawn(index, self.workers)
        except OSError as error:
            pause = self._pause(LONGEST_SHORTAGE)
            self._report("worker_not_started", worker=index, again_in=pause, reason=error.strerror or str(error))
            self._loop.call_later(pause, self._respawn, index)

    def _pause(self, longest: float) -> float:
        """Seconds until the next try, after another failure."""
        self._failures += 1
        return min(longest, 2.0 ** (self._failures - 1))

    # -- out: tasks to the workers --

    def dispatch(self) -> None:
        """Sends waiting tasks to workers with room. Many calls in one turn of the loop cost one dispatch."""
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._planned = False
        workers = [worker for worker in self.workers if worker.ready and not worker.stopping]
        if not workers:
            return
        now = time.monotonic()
        progress = True
        while progress and self._spool.waiting.ready.size:
            progress = False
            views = [self._view(worker, now) for worker in workers]
            for index, count in plan(views, self._spool.waiting.ready.size):
                progress |= self._send_chunk(workers[index], count)
        self._start_ticking()

    def _view(self, worker: WorkerProcess, now: float) -> View:
        running = worker.slots.main() if worker.held else None
        stalled = running is not None and now - running.started > STALLED_SECONDS
        return View(worker.held, worker.pace.window, worker.asynchronous, self._config.concurrency, stalled)

    def _send_chunk(self, worker: WorkerProcess, count: int) -> bool:
        taken = self._spool.take(count)
        if taken is None:
            return False
        source, refs, rank = taken
        for group, packed in messages.pack_refs(source.number, refs):
            self._chunk = self._chunk % (TIMER - 1) + 1
            worker.chunks[self._chunk] = InFlight(source, group, rank, set(range(len(group))))
            worker.held += len(group)
            worker.send(["run", self._chunk, source.number, packed])
        return True

    # -- in: how they ended --

    def _hear(self, worker: WorkerProcess, message: list[Any]) -> None:
        kind, *rest = message
        if kind == "ended":
            self._ended(worker, *rest)
        elif kind == "returned":
            self._returned(worker, *rest)
        elif kind == "spoilt":
            if not worker.stopping:
                (reason,) = rest
                self._recycle(worker, reason=f"a task's change to it cannot be undone: {reason}")
        elif kind == "async":
            worker.asynchronous, seconds = rest
            self.seconds += seconds
            self.dispatch()
        elif kind == "print":
            task, stream, text = rest
            self._report("print", id=id_of_file(task) if task else "", stream=stream, text=text)
        elif kind == "timer":
            self._timer_ended(worker, *rest)
        elif kind == "ready":
            self._came_up(worker, rest[1], rest[2])
        elif kind == "broken":
            worker.broken, is_sentence = rest
            if is_sentence:
                self._unusable.add(worker)

    def _came_up(self, worker: WorkerProcess, timers: list[list[Any]], warning: str) -> None:
        worker.ready = True
        if warning and worker is self._first:  # the others say the same
            self._report("app_warning", reason=warning)
        self._failures = 0
        if event := self._events.get(worker):
            event.set_result(None)
        listed = [read_timer(timer) for timer in timers]
        if listed != self._schedule.timers:
            self._schedule.replace(listed, time.monotonic(), time.time())
            self._wait_for_timers()
        self.dispatch()

    def _trusts(self, worker: WorkerProcess, number: int, positions: list[int]) -> bool:
        """Whether a worker reports tasks that it has. One that does not is killed; the disk says which tasks have ended."""
        chunk = worker.chunks.get(number)
        if chunk is not None and chunk.open.issuperset(positions) and len(set(positions)) == len(positions):
            return True
        self._report("worker_confused", worker=worker.index, pid=worker.pid, reason="it reported tasks that it does not have")
        worker.kill()
        return False

    def _ended(self, worker: WorkerProcess, number: int, packed: bytes, others: list[list[Any]], seconds: float) -> None:
        positions = messages.unpack_positions(packed)
        if not self._trusts(worker, number, [*positions, *(position for position, *_ in others)]):
            return
        chunk = worker.chunks[number]
        if positions:
            self._spool.done(chunk.source, self._close(worker, chunk, positions))
            worker.done += len(positions)
        for position, verdict, detail, delay, function in others:
            (ref,) = self._close(worker, chunk, [position])
            self._judge(chunk, ref, verdict, detail, delay, function)
            worker.done += verdict not in messages.NOT_RUN
        self.seconds += seconds
        self.busy += seconds
        worker.pace.observe(len(positions) + len(others), seconds)
        self._forget_if_over(worker, number)
        if self._config.max_tasks and worker.done >= self._config.max_tasks and not worker.stopping and not self._is_crowded():
            self._recycle(worker)
        self.dispatch()

    def _recycle(self, worker: WorkerProcess, **why: str) -> None:
        self._report("worker_recycled", worker=worker.index, pid=worker.pid, tasks=worker.done, **why)
        self._retire(worker, 0)
        self._respawn(worker.index)  # not only when it has left: tasks that still run in it may take hours

    def _close(self, worker: WorkerProcess, chunk: InFlight, positions: Any) -> list[Ref]:
        """Takes positions out of a chunk. Returns their refs."""
        chunk.open.difference_update(positions)
        worker.held -= len(positions)
        return [chunk.refs[position] for position in positions]

    def _forget_if_over(self, worker: WorkerProcess, number: int) -> None:
        if not worker.chunks[number].open:
            del worker.chunks[number]

    def _judge(self, chunk: InFlight, ref: Ref, verdict: str, detail: Any, delay: float, function: str) -> None:
        spool, verdicts, source = self._spool, self._verdicts, chunk.source
        if verdict == messages.GONE:
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
            verdicts.failed(source, ref, chunk.rank, Outcome(Ending(verdict), detail, delay, function))

    def _returned(self, worker: WorkerProcess, number: int, packed: bytes) -> None:
        positions = messages.unpack_positions(packed)
        if not self._trusts(worker, number, list(positions)):
            return
        chunk = worker.chunks[number]
        refs = self._close(worker, chunk, positions)
        self._spool.give_back(Taken(chunk.source, refs, chunk.rank))
        self._forget_if_over(worker, number)

    def _printed(self, worker: WorkerProcess, stream: str, text: str) -> None:
        """Takes a line that did not pass through Python's sys.stdout: it belongs to the task in the main thread."""
        running = worker.slots.main()
        chunk = worker.chunks.get(running.chunk) if running else None
        identity = self._spool.id_of(chunk.source, chunk.refs[running.position]) if running and chunk else ""
        self._report("print", id=identity, stream=stream, text=text, worker=worker.index)

    # -- deaths --

    def _buried(self, worker: WorkerProcess) -> None:
        """Settles the tasks of a dead worker: ended ones are done, running ones are blamed, the others lose nothing."""
        was_idle = not worker.chunks and not worker.done
        if worker is self._first and not worker.ready:
            self._first = None  # its tasks may be missing: the next worker enqueues them
        self._reserve.take_over()
        self._warden.forget(worker.pid)
        self._account(worker)
        if worker.left:
            self._report("left_behind", pids=worker.left, reason="processes of its tasks that could not be ended")
        expected = worker in self._leaving
        if expected:
            self._leaving.remove(worker)
        for place in (self.workers, self._loading):
            if worker in place:
                place.remove(worker)
        if not expected:
            self._unexpected(worker, was_idle=was_idle)
        elif not self._stopping:
            self._respawn(worker.index)
        self._fewer.set()
        self.dispatch()

    def _unexpected(self, worker: WorkerProcess, *, was_idle: bool) -> None:
        event = self._events.get(worker)
        kind = AppUnusable if worker in self._unusable else AppBroken
        self._unusable.discard(worker)
        reason = worker.broken or f"the worker {worker.death} while it loaded the application"
        if event is not None and not event.done():
            event.set_exception(kind(reason))
            return
        if self._stopping and not worker.ready:
            return
        self.deaths += 1
        if worker.ready:
            self._report("worker_died", worker=worker.index, pid=worker.pid, reason=worker.death)
            # One that dies without a task does so because of its application, and so will the next one.
            self._loop.call_later(IDLE_DEATH_SECONDS if was_idle else 0.0, self._respawn, worker.index)
            return
        pause = self._pause(LONGEST_RESPAWN)
        self._report("worker_broken", worker=worker.index, pid=worker.pid, again_in=pause, reason=reason)
        self._loop.call_later(pause, self._respawn, worker.index)

    def _account(self, worker: WorkerProcess) -> None:
        now = time.monotonic()
        self.seconds += sum(now - item.started for item in worker.slots.running() if item.chunk in worker.chunks)
        running = worker.slots.limits()
        for number, chunk in sorted(worker.chunks.items(), reverse=True):
            self._account_chunk(worker, number, chunk, running)
        worker.chunks.clear()
        worker.held = 0

    def _account_chunk(self, worker: WorkerProcess, number: int, chunk: InFlight, running: dict[tuple[int, int], float]) -> None:
        spool, verdicts, source = self._spool, self._verdicts, chunk.source
        refs = {position: chunk.refs[position] for position in sorted(chunk.open)}
        finished = spool.journal.is_finished(source, refs.values())
        spool.done(source, [ref for ref in refs.values() if ref in finished])
        unstarted = []
        for position, ref in refs.items():
            if ref in finished:
                continue
            if (number, position) not in running:
                unstarted.append(ref)
            elif (number, position) in worker.overdue:
                reason = f"it ran longer than {running[number, position]:g} s (timeout); its worker was killed"
                verdicts.failed(source, ref, chunk.rank, Outcome(Ending.FAILED, reason))
            elif worker.interrupted or worker.overdue:
                verdicts.interrupted(source, ref, chunk.rank)
            else:
                verdicts.failed(source, ref, chunk.rank, Outcome(Ending.FAILED, f"its worker {worker.death}"))
        spool.give_back(Taken(source, unstarted, chunk.rank))

    # -- by the clock --

    def _start_ticking(self) -> None:
        if self._tick is None and any(worker.held or worker.slots.main() for worker in self.workers + self._leaving):
            self._looked = time.monotonic()
            self._tick = self._loop.call_later(TICK, self._look)

    def _look(self) -> None:
        """Kills tasks past their time, relieves stalled workers, and looks for room again: the end of a stall is silent."""
        self._tick = None
        now = time.monotonic()
        frozen = now - self._looked - TICK
        for worker in self.workers + self._leaving:
            if frozen > FROZEN_SECONDS:
                worker.excuse(frozen)
            late = worker.late(now)
            if late and not worker.overdue:
                worker.overdue = late
                self._report("timeout", worker=worker.index, pid=worker.pid, tasks=self._names(worker, late))
                worker.kill()
        views = [self._view(worker, now) for worker in self.workers]
        for index in to_relieve(views, self._spool.waiting.ready.size):
            self.workers[index].send(["return"])
        if self._spool.waiting.ready.size:
            self.dispatch()
        self._start_ticking()

    def _names(self, worker: WorkerProcess, late: set[tuple[int, int]]) -> list[str]:
        return [
            self._spool.id_of(worker.chunks[number].source, worker.chunks[number].refs[position])
            for number, position in late
            if number in worker.chunks
        ]

    def _wait_for_timers(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = self._schedule.wait(time.monotonic(), time.time())
        # Again now and then: the wall clock of cron entries may be set.
        self._timer = None if wait is None else self._loop.call_later(min(wait, CLOCK_SECONDS), self._call_timers)

    def _call_timers(self) -> None:
        for timer in self._schedule.due(time.monotonic(), time.time()):
            workers = [worker for worker in self.workers if worker.ready and not worker.stopping]
            # A timer that still waits behind a long task, or runs, is not called a second time: calls do not pile up.
            if workers and not any(timer in worker.timers for worker in workers):
                chosen = min(workers, key=lambda worker: worker.held)
                chosen.timers.add(timer)
                chosen.send(["timer", list(timer)])
                self._start_ticking()
        self._wait_for_timers()

    def _timer_ended(self, worker: WorkerProcess, timer: list[Any] | str, error: str | None) -> None:
        """Notes the end of a call: of a timer, or, by its name, of one that the application asked for."""
        name = timer if isinstance(timer, str) else read_timer(timer).name
        if not isinstance(timer, str):
            worker.timers.discard(read_timer(timer))
        if error is not None:
            self._report("timer_failed", timer=name, worker=worker.index, reason=error)
        else:
            self._report("timer", timer=name, worker=worker.index)

    # -- looking --

    def pids(self) -> set[int]:
        """The processes of all workers."""
        return {worker.pid for worker in self.workers + self._leaving + self._loading}

    @property
    def ready(self) -> int:
        """Workers that are up."""
        return sum(worker.ready for worker in self.workers)

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the present workers, up or not."""
        return [worker.pid for worker in self.workers]

    @property
    def leaving(self) -> int:
        """Old workers that still finish their tasks."""
        return len(self._leaving)

    @property
    def held(self) -> int:
        """Tasks that workers have."""
        return sum(worker.held for worker in self.workers + self._leaving)

    def running(self) -> list[dict[str, Any]]:
        """The tasks that run now: id, worker, seconds."""
        now = time.monotonic()
        rows = []
        for worker in self.workers + self._leaving:
            for item in worker.slots.running():
                chunk = worker.chunks.get(item.chunk)
                if chunk is not None and item.position in chunk.open:
                    identity = self._spool.id_of(chunk.source, chunk.refs[item.position])
                    rows.append(
                        {"id": identity, "worker": worker.index, "pid": worker.pid, "seconds": round(now - item.started, 3)}
                    )
        return rows
