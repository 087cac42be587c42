"""The supervisor: keeps the workers of a node at their number. Loads the application, replaces workers, lets old ones leave."""

import asyncio
from collections.abc import Callable

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.work.process import WorkerProcess
from spoolnode.node.work.spawner import Spawner
from spoolnode.protocol.errors import SpoolnodeError

IDLE_DEATH_SECONDS = 1.0
"""Seconds before a worker that died before it had a task is replaced, to avoid a loop of dying and starting."""
LONGEST_RESPAWN = 60.0
"""The longest pause, in seconds, before a worker that does not come up is started again."""
LONGEST_SHORTAGE = 10.0
"""The longest pause, in seconds, before a worker that the machine had no room for is started again."""
OLD_WORKERS = 3
"""This many times `workers` old workers may finish their tasks beside the new ones; beyond that a reload waits."""


class AppBroken(SpoolnodeError):
    """You erred: the application does not load. The text is its traceback."""


class AppUnusable(AppBroken, BadConfig):
    """You erred: --app does not name anything that could run. The text is one sentence."""


class Supervisor:
    """The workers of a node: those that load, those that take tasks, and old ones that finish theirs."""

    def __init__(self, config: Config, spawner: Spawner, report: Callable[..., None]) -> None:
        self._config = config
        self._spawner = spawner
        self._report = report
        self._loop = asyncio.get_running_loop()
        self.workers: list[WorkerProcess] = []
        """Those that take tasks, or will do so once they are up."""
        self.leaving: list[WorkerProcess] = []
        """Those that end their tasks and leave."""
        self._loading: list[WorkerProcess] = []
        """Workers that take the place of the others once their application is loaded."""
        self._is_up = False
        self._stopping = False
        self._failures = 0
        self._first: WorkerProcess | None = None
        """The worker that loaded this application first, or does so now: only tasks that it enqueues meanwhile count."""
        self._events: dict[WorkerProcess, asyncio.Future[None]] = {}
        self._unusable: set[WorkerProcess] = set()
        self._fewer = asyncio.Event()
        """Set whenever a worker has ended."""
        self.deaths = 0
        """Workers that died unexpectedly."""

    @property
    def with_tasks(self) -> list[WorkerProcess]:
        """The workers that may have tasks."""
        return self.workers + self.leaving

    @property
    def available(self) -> list[WorkerProcess]:
        """The workers that can be given something now."""
        return [worker for worker in self.workers if worker.ready and not worker.stopping]

    @property
    def all(self) -> list[WorkerProcess]:
        """The workers, with those that are still to take the others' place."""
        return self.with_tasks + self._loading

    # -- loading --

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
                self.leaving.append(worker)
                worker.kill()
            self._loading = []
            raise
        self.workers += self._loading
        self._loading = []
        self._is_up = True
        for worker in old:
            self._retire(worker, self._config.reload_grace)
        for index in range(len(self.workers), self._config.workers):
            self._respawn(index)

    async def room(self) -> None:
        """Returns when few enough old workers are left. So their number stays bounded, however often we reload."""
        if self._is_crowded():
            self._report("reload_waits", old_workers=len(self.leaving), reason="so many still finish what they run")
        while self._is_crowded():
            self._fewer.clear()
            await self._fewer.wait()

    def _is_crowded(self) -> bool:
        return len(self.leaving) > (OLD_WORKERS - 1) * self._config.workers

    async def _bring_up(self, workers: list[WorkerProcess]) -> None:
        waiting = [self._events.setdefault(worker, self._loop.create_future()) for worker in workers]
        try:
            await asyncio.gather(*waiting)
        finally:
            for worker in workers:
                self._events.pop(worker, None)

    def came_up(self, worker: WorkerProcess, warning: str) -> None:
        """A worker has loaded the application, about which `warning` says something, or is empty."""
        worker.ready = True
        if warning and worker is self._first:  # the others say the same
            self._report("app_warning", reason=warning)
        self._failures = 0
        if event := self._events.get(worker):
            event.set_result(None)

    def broken(self, worker: WorkerProcess, reason: str, *, is_sentence: bool) -> None:
        """A worker could not load the application, and is about to end."""
        worker.broken = reason
        if is_sentence:
            self._unusable.add(worker)

    # -- starting and replacing --

    def _spawn(self, index: int, place: list[WorkerProcess]) -> None:
        """Starts a worker, which joins those in `place`. Raises OSError if the machine has no room for it."""
        worker = self._spawner.start(index, is_first=self._first is None, is_reload=self._is_up)
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

    def recycle_if_worn(self, worker: WorkerProcess) -> None:
        """Replaces a worker that has ended as many tasks as one may."""
        most = self._config.max_tasks
        if most and worker.done >= most and not worker.stopping and not self._is_crowded():
            self._recycle(worker)

    def recycle_spoilt(self, worker: WorkerProcess, reason: str) -> None:
        """Replaces a worker that a task has left in a state that cannot be undone."""
        if not worker.stopping:
            self._recycle(worker, reason=f"a task's change to it cannot be undone: {reason}")

    def _recycle(self, worker: WorkerProcess, **why: str) -> None:
        self._report("worker_recycled", worker=worker.index, pid=worker.pid, tasks=worker.done, **why)
        self._retire(worker, 0)
        self._respawn(worker.index)  # not only when it has left: tasks that still run in it may take hours

    # -- leaving --

    def _retire(self, worker: WorkerProcess, grace: float) -> None:
        """Lets a worker end its tasks and leave. It gets `grace` seconds for that; 0: no limit."""
        if worker in self.workers:
            self.workers.remove(worker)
            self.leaving.append(worker)
            worker.stop()
            if grace:
                self._loop.call_later(grace, self._kill_if_leaving, worker)

    def _kill_if_leaving(self, worker: WorkerProcess) -> None:
        if worker in self.leaving:
            self._report("grace_over", worker=worker.index, pid=worker.pid, tasks=worker.held)
            worker.interrupted = True
            worker.kill()

    async def stop(self) -> None:
        """Lets running tasks end, for at most `grace` seconds, and returns when all workers have ended."""
        self._stopping = True
        for worker in list(self.workers):
            self._retire(worker, 0)
        for worker in self.leaving:
            self._loop.call_later(self._config.grace, self._kill_if_leaving, worker)
        while self.with_tasks:
            self._fewer.clear()
            await self._fewer.wait()

    def stop_now(self) -> None:
        """Kills all workers; it is not the fault of the tasks that run."""
        for worker in self.all:
            worker.interrupted = True
            worker.kill()

    # -- deaths --

    def buried(self, worker: WorkerProcess, *, was_idle: bool) -> None:
        """A worker has ended. Replaces it, if it is missed; `was_idle`: it never had a task."""
        if worker is self._first and not worker.ready:
            self._first = None  # its tasks may be missing: the next worker enqueues them
        if worker.left:
            self._report("left_behind", pids=worker.left, reason="processes of its tasks that could not be ended")
        expected = worker in self.leaving
        for place in (self.workers, self.leaving, self._loading):
            if worker in place:
                place.remove(worker)
        if not expected:
            self._unexpected(worker, was_idle=was_idle)
        elif not self._stopping:
            self._respawn(worker.index)
        self._fewer.set()

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
