"""Workers in the hands of a test: no processes, but a real pool and a real spool on a disk in memory. Time is virtual."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from linked import Station, task
from simulation.loop import in_virtual_time

from spoolnode.node.config import Config
from spoolnode.node.disk.disk import discard
from spoolnode.node.outcome import Limit
from spoolnode.node.spool.tasks import Batch
from spoolnode.node.work import messages, spawner
from spoolnode.node.work.pool import WorkerPool
from spoolnode.node.work.process import WorkerProcess
from spoolnode.node.work.slots import Slots
from spoolnode.protocol.spoolfile import FINISHED, STATE_AT


class HandWorker(WorkerProcess):
    """A worker whose process is the test."""

    hands: "Hands"

    def start(self) -> None:
        if self.hands.is_full:
            raise OSError(11, "Resource temporarily unavailable")
        self.slots = Slots.create(self.concurrency + 1)
        self.pid = next(self.hands.pids)
        self.told: list[list[Any]] = []
        self.is_dead = False
        self.hands.workers.append(self)

    def send(self, message: list[Any]) -> None:
        self.told.append(message)

    def kill(self) -> None:
        asyncio.get_running_loop().call_soon(self.die, -signal.SIGKILL)

    def kill_late(self) -> None:
        self.kill()

    @property
    def death(self) -> str:
        return f"ended with {self.status}"

    # -- what the process does --

    def die(self, status: int = 1) -> None:
        """It ends."""
        if not self.is_dead:
            self.is_dead, self.status = True, status
            self.on_death(self)
            self.slots.close()

    def say(self, *message: Any) -> None:
        """A message to the node."""
        self.on_message(self, list(message))

    def up(self, *timers: Any, warning: str = "", **limits: Limit) -> None:
        """Its application is loaded."""
        self.say("ready", self.pid, [list(timer) for timer in timers], warning, limits)

    def tasks(self) -> list[tuple[int, int]]:
        """What it was told to run, in order: chunk and position."""
        runs = [rest for kind, *rest in self.told if kind == "run"]
        counts = [len(refs if number is None else messages.unpack_offsets(refs)) for _, number, refs, *_ in runs]
        return [(run[0], position) for run, count in zip(runs, counts, strict=True) for position in range(count)]

    def begin(self, index: int = 0, *, limit: float = 0.0) -> None:
        """It runs that one of its tasks."""
        now = asyncio.get_running_loop().time()
        self.slots.begin(0, *self.tasks()[index], now, now + limit if limit else 0.0)

    def has_finished(self, index: int = 0) -> None:
        """That task has ended well, and the node has not heard of it."""
        chunk, position = self.tasks()[index]
        source, ref = self.chunks[chunk].source, self.chunks[chunk].refs[position]
        disk, layout = self.hands.station.disk, self.hands.station.journal.layout
        if isinstance(source, Batch):
            disk.store(layout.batch(source.number), int(ref) + STATE_AT, bytes([FINISHED]))
        else:
            discard(disk, layout.path(str(ref)))

    def finish(self, *indexes: int, seconds: float = 0.001) -> None:
        """These tasks of one chunk end well."""
        for index in indexes:
            self.has_finished(index)
        self.slots.end(0)
        positions = [self.tasks()[index][1] for index in indexes]
        self.say(
            "ended",
            self.tasks()[indexes[0]][0],
            messages.pack_positions(positions),
            messages.pack_lengths([0.0] * len(positions)),
            [],
            seconds,
            -1.0,
        )

    def fail(
        self, index: int, verdict: str, detail: Any = "why", delay: float = 0.0, *, seconds: float = 0.0, waited: float = -1.0
    ) -> None:
        """That task ends otherwise."""
        chunk, position = self.tasks()[index]
        self.slots.end(0)
        self.say("ended", chunk, b"", b"", [messages.unusual_end(position, verdict, detail, delay, "", seconds)], 0.001, waited)


class Hands:
    """A pool and its workers, in the order of their start."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.station = Station()
        self.workers: list[HandWorker] = []
        self.pids = itertools.count(1000)
        self.is_full = False
        """The machine has no room for another process."""
        self.instance = "0" * 16
        self.watched: set[int] = set()
        self.watch, self.forget = self.watched.add, self.watched.discard  # it is the warden, too
        self.reports: list[tuple[str, dict[str, Any]]] = []
        facts = {"settings": {"env": []}}
        self.pool = WorkerPool(Config(**settings), self.station.spool, self.station.storage.verdicts, facts, self._report, self)  # type: ignore[arg-type] # the warden is this

    def _report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    def said(self, action: str) -> list[dict[str, Any]]:
        """The details of the lines of the log with that action."""
        return [details for name, details in self.reports if name == action]

    async def load(self) -> None:
        """All workers come up."""
        loading = asyncio.get_running_loop().create_task(self.pool.load())
        before = len(self.workers)
        while not loading.done():
            await self.turn()
            for worker in self.workers[before:]:
                if not worker.ready:
                    worker.up()
        await loading

    async def admit(self, *numbers: int, **more: str) -> None:
        """Tasks come."""
        for number in numbers:
            self.station.admit(task(number, **more), link=None)
        await self.station.rest()
        self.pool.dispatch()
        await self.turn()

    async def turn(self) -> None:
        """All that needs no time happens."""
        await self.station.rest()


def run(monkeypatch: pytest.MonkeyPatch, story: Callable[[Hands], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """Tells a story of a pool with these settings. In its loop time is simulated: `asyncio.sleep` takes none."""

    async def main() -> None:
        hands = Hands(settings)
        monkeypatch.setattr(spawner, "WorkerProcess", type("Worker", (HandWorker,), {"hands": hands}))
        try:
            await story(hands)
        finally:
            for worker in hands.workers:
                if not worker.is_dead:
                    worker.slots.close()
            for number in hands.pool._supervisor._spawner._reserve._held:
                os.close(number)

    in_virtual_time(main)
