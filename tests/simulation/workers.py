"""The simulated workers of a node: they run tasks as real ones do, and report each end a moment later."""

import asyncio
import time
from collections.abc import Callable, Collection
from random import Random
from typing import Any, Protocol

from spoolnode.node.config import Config
from spoolnode.node.disk.disk import discard
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Ending, Limit, Outcome, Timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.pauses import Paused
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.node.work.workers import Started
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.batch import payload_length
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT, WAITING

from .history import Copy, History
from .loop import SimLoop, Violation
from .machine import Machine


class Employer(Protocol):
    """The node, as its workers see it."""

    name: str
    workers: int
    burden: float
    """Seconds that each task takes longer than it would elsewhere."""
    handfuls: tuple[int, ...]
    """So many tasks a worker is given at once."""
    config: Config
    machine: Machine
    history: History
    timers: list[Timer]
    """Those of its application that are the whole cluster's."""
    limits: dict[str, Limit]
    """Those of the functions of its application."""
    trace: Callable[..., None]

    @property
    def loop(self) -> SimLoop: ...
    @property
    def random(self) -> Random: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def spool(self) -> Spool: ...
    @property
    def storage(self) -> Storage: ...
    def done(self, source: Source, ref: Any, copy: Copy) -> None:
        """A worker reports the good end of a task."""


class SimPool:
    """The workers of a node: each takes a few tasks, runs one after another, and reports each end a moment later."""

    def __init__(self, node: Employer) -> None:
        self.node = node
        self.held = 0
        self.busy = self.seconds = 0.0
        """How long tasks ran."""
        self.deaths = self.leaving = self.ready = 0
        self.schedule = Schedule(time.monotonic(), time.time())
        self.shared_timers = list(node.timers)
        self.active: dict[SimWorker, None] = {}
        self.is_stopping = False
        self._idle = 0
        self._planned = False
        self._hungry: Callable[[], None] | None = None
        self._leases_until = 0.0

    @property
    def worker_pids(self) -> list[int]:
        """One for each."""
        return list(range(self.ready))

    def running(self) -> list[dict[str, Any]]:
        """Of those that run a task."""
        return [{"id": identity} for worker in self.active if (identity := worker.runs)]

    async def load(self) -> None:
        """The application is loaded."""
        self.ready = self._idle = self.node.workers
        self.node.spool.starting.throttle.limit(self.node.limits)
        self.dispatch()

    async def room(self) -> None:
        """There is."""

    async def cancel(self, source: Source, ref: Any, reason: str, grace: float) -> None:  # each ends at once
        """Has a task end, wherever it is here."""
        for worker in self.active:
            if worker.source is source:
                worker.cancel(ref, reason)

    def watch(self, started: Started | None) -> None:
        """Has no listener."""

    # -- for a common store: see `Hands` --

    def appetite(self) -> int:
        """A few for each idle worker: some wait here, and with the workers."""
        return 0 if self.is_stopping else max(max(self.node.handfuls) * self._idle - self.node.spool.starting.count, 0)

    def when_hungry(self, call: Callable[[], None]) -> None:
        """As `Hands` says."""
        self._hungry = call

    def call_back(self, refs: Collection[str]) -> None:
        """As `Hands` says."""
        for worker in list(self.active):
            if worker.source.is_leased and not set(worker.todo).isdisjoint(refs):
                worker.give_back_rest()

    def hold_leases(self, until: float) -> None:
        """As `Hands` says."""
        self._leases_until = until

    @property
    def leases_hold(self) -> bool:
        """Whether tasks of a common store may start: see `Slots`."""
        return self.node.loop.time() < self._leases_until

    # -- tasks to the workers --

    def dispatch(self) -> None:
        """Gives the idle workers what is ready."""
        if self._hungry and self._idle:
            self._hungry()
        if not self._planned and self._idle and self.node.spool.waiting.ready.size:
            self._planned = True
            self.node.loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._planned = False
        while self._idle and not self.is_stopping:
            taken = self.node.spool.take(self.node.random.choice(self.node.handfuls))
            if taken is None:
                return
            self._idle -= 1
            self.held += len(taken.refs)
            self.active[SimWorker(self, taken, self.node.spool.starting.to_return(taken), self.node.storage.pauses.now)] = None

    def released(self, count: int) -> None:
        """A worker holds so many tasks less."""
        self.held -= count

    def idle(self, worker: "SimWorker") -> None:
        """A worker has nothing to do."""
        self.active.pop(worker, None)
        self._idle += 1
        self.dispatch()

    async def stop(self) -> None:
        """Lets what runs end, for a while; the rest is put back."""
        self.is_stopping = True
        for worker in list(self.active):
            worker.give_back_rest()
        deadline = self.node.loop.time() + self.node.config.grace
        while self.held and self.node.loop.time() < deadline:
            await asyncio.sleep(0.05)
        self.stop_now()
        await asyncio.sleep(0.05)  # what has just been reported

    def stop_now(self) -> None:
        """Ends at once; running tasks are put back, and this does not count as an attempt."""
        self.is_stopping = True
        for worker in list(self.active):
            worker.give_back_rest()
            worker.interrupt()


class SimWorker:
    """One worker with the tasks that it was given."""

    def __init__(self, pool: SimPool, taken: Taken, held: list[str], paused: Paused) -> None:
        """`held`: the functions whose tasks are to be given back. `paused`: what was paused when the tasks were taken."""
        self.pool = pool
        self.node = pool.node
        self.spool, self.verdicts, self.journal = pool.node.spool, pool.node.storage.verdicts, pool.node.journal
        self.disk = pool.node.machine.disk
        self.random = pool.node.random
        self.source, refs, self.rank = taken
        self.held, self.paused = held, paused
        self.todo = list(refs)
        self.todo.reverse()
        self._running: tuple[Any, Copy] | None = None
        self.function = ""
        """That of the task that runs, or of the last one."""
        self._killed = False
        self._later(self._next)

    def _later(self, callback: Callable[..., None], *args: Any) -> None:
        self.node.loop.call_later(0.0005 * self.random.random(), callback, *args)

    @property
    def is_running(self) -> bool:
        """Whether it runs a task."""
        return self._running is not None

    @property
    def runs(self) -> str:
        """The id of the task that it runs; empty if it runs none."""
        return self.journal.id_of(self.source, self._running[0]) if self._running is not None else ""

    def give_back_rest(self) -> None:
        """The node is stopping: tasks that have not begun do not begin."""
        if self.todo:
            rest, self.todo = self.todo[::-1], []
            self.pool.released(len(rest))
            self.spool.give_back(Taken(self.source, rest, self.rank))

    def interrupt(self) -> None:
        """The node kills the worker."""
        self._killed = True
        if self._running is not None:
            (ref, copy), self._running = self._running, None
            self.node.history.ended(copy, False, self.node.name)
            self.pool.released(1)
            self.verdicts.interrupted(self.source, ref, self.rank)

    def cancel(self, ref: Any, reason: str) -> None:
        """The node has a task end: before it begins, or while it runs."""
        if ref in self.todo:
            self.todo.remove(ref)
        elif self._running is not None and self._running[0] == ref:
            self.node.history.ended(self._running[1], False, self.node.name)
            self._running = None
            self._later(self._next)
        else:
            return  # its end is about to be heard
        self.pool.released(1)
        self.verdicts.failed(self.source, ref, self.rank, Outcome(Ending.CANCELLED, reason))

    def _next(self) -> None:
        while self.todo and not self._killed:
            if self.source.is_leased and not self.pool.leases_hold:
                self.give_back_rest()
                break
            ref = self.todo.pop()
            found = self._read(ref)
            if found is not None:
                self._start(ref, found)
                return
        self.pool.idle(self)

    def _start(self, ref: Any, payload: bytes) -> None:
        attempts = payload[ATTEMPTS_AT]
        if self.paused.everything or function_of(payload) in self.paused.functions:
            raise Violation(f"a task of {function_of(payload)!r} starts on {self.node.name}, where {self.paused} is paused")
        identity = self.journal.id_of(self.source, ref)
        copy = self.node.history.started(payload, identity, self.node.name, leased=self.source.is_leased)
        self.function = function_of(payload)
        limit = self.node.limits.get(self.function, Limit()).at_once
        others = sum(worker.is_running and worker.function == self.function for worker in self.pool.active)
        if limit and others >= limit:
            raise Violation(f"{others + 1} tasks of {self.function} run on {self.node.name} at once")
        self._poke(ref, ATTEMPTS_AT, min(attempts + 1, spoolfile.MAX_ATTEMPTS))
        self.node.trace(self.node.name, "runs", n=copy.task.n, attempt=attempts + 1)
        self._running = ref, copy
        roll = self.random.random()
        seconds = 0.03 * roll if roll < 0.9 else 5 * self.random.random() ** 2
        seconds += self.node.burden * self.random.random()
        self.pool.busy += seconds
        self.pool.seconds += seconds
        self.node.loop.call_later(seconds, self._end, ref, copy)

    def _end(self, ref: Any, copy: Copy) -> None:
        if self._killed or self._running != (ref, copy):
            return  # killed, or cancelled
        self._running = None
        roll = self.random.random()
        if roll < 0.03:
            self._die(ref, copy)
            return
        if roll < 0.06:
            self._end_badly(ref, copy, Outcome(Ending.AGAIN if roll < 0.045 else Ending.RETRY_UNCOUNTED, delay=0.2))
        elif copy.task.poison and roll > 0.9:
            self._end_badly(ref, copy, Outcome(Ending.GIVE_UP, "it gave up"))
        elif roll < 0.12 or copy.task.poison:
            self._end_badly(ref, copy, Outcome(Ending.FAILED if roll < 0.5 else Ending.RETRY_AFTER, "it failed", 0.3))
        else:
            self._finish(ref, copy)
            self._later(self._report_done, ref, copy)
        self._later(self._next)

    def _report_done(self, ref: Any, copy: Copy) -> None:
        self.pool.released(1)
        self.node.done(self.source, ref, copy)

    def _end_badly(self, ref: Any, copy: Copy, outcome: Outcome) -> None:
        self.node.history.ended(copy, False, self.node.name)
        self._later(self._report_failed, ref, outcome)

    def _report_failed(self, ref: Any, outcome: Outcome) -> None:
        self.pool.released(1)
        self.verdicts.failed(self.source, ref, self.rank, outcome)

    def _die(self, ref: Any, copy: Copy) -> None:
        """The worker's process dies, perhaps after the end of the task and before it could say so."""
        self.node.trace(self.node.name, "worker dies", n=copy.task.n)
        self.pool.deaths += 1
        if self.random.random() < 0.5:
            self._finish(ref, copy)
        else:
            self.node.history.ended(copy, False, self.node.name)
        self.pool.released(1)
        if ref in self.journal.is_finished(self.source, [ref]):
            self.node.done(self.source, ref, copy)
        else:
            self.verdicts.failed(self.source, ref, self.rank, Outcome(Ending.FAILED, "the worker died"))
        self.give_back_rest()
        self.node.loop.call_later(0.1, self.pool.idle, self)

    def _finish(self, ref: Any, copy: Copy) -> None:
        path, base = self._where(ref)
        if base:
            self._poke(ref, STATE_AT, FINISHED)
        else:
            discard(self.disk, path)
        self.node.history.ended(copy, True, self.node.name)
        self.node.trace(self.node.name, "done", n=copy.task.n)

    # -- as `taskfile` does it --

    def _read(self, ref: Any) -> bytes | None:
        """The task at that place when it is to run now; None, with the spool told, when not."""
        path, base = self._where(ref)
        data = self.disk.peek(path)
        if data is not None and base:
            data = data[base : base + payload_length(data, base)]
        if data is None or data[0] != WAITING:
            if data is not None and not base:
                discard(self.disk, path)
            self.pool.released(1)
            self.spool.gone(self.source, ref)
            return None
        if not base and (mtime := self.disk.stat(path).mtime) > time.time():
            self.pool.released(1)
            self.spool.postpone(self.source, ref, self.rank, mtime)
            return None
        if (function := function_of(data)) in self.held:
            self.pool.released(1)
            self.spool.starting.learn(self.source, ref, self.rank, function)
            return None
        return data

    def _where(self, ref: Any) -> tuple[str, int]:
        header = self.source.place.header(self.journal.layout, ref)
        return header.path, header.base

    def _poke(self, ref: Any, at: int, value: int) -> None:
        path, base = self._where(ref)
        self.disk.store(path, base + at, bytes([value]))


def function_of(payload: bytes) -> str:
    """The function that a task is for."""
    return names.function_named(dict(spoolfile.parse(payload).variables)).decode()
