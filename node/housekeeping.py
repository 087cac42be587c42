"""The work that a node does by the clock: once a second it settles and syncs, and exactly when a task is due it wakes it."""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Protocol

from spoolnode.node.background import spawn
from spoolnode.node.config import Config
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.clock import Watch
from spoolnode.node.work.workers import Workers

HOUSEKEEPING_SECONDS = 1.0
QUIET_SECONDS = 5.0
"""How often, when nothing happens: an idle node sleeps."""


class Entrance(Protocol):
    """The place that lets requests in or not."""

    @property
    def is_low(self) -> bool:
        """Whether the disk has too little left."""

    def note_free(self, free: int) -> None:
        """The disk has so many bytes left."""


class Housekeeping:
    """The rounds of one node, and its alarm clock."""

    def __init__(
        self, storage: Storage, workers: Workers, entrance: Entrance, config: Config, report: Callable[..., None], *,
        sample: Callable[[], None], look_around: Callable[[], Awaitable[None]], clock: Watch | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            sample: notes the counters, for rates.
            look_around: more work for each round.
            clock: started before the spool was read, which may take minutes, because the clock may be set meanwhile.
        """
        self._storage = storage
        self._workers = workers
        self._entrance = entrance
        self._report = report
        self._config = config
        self._sample = sample
        self._look_around = look_around
        self._loop = asyncio.get_running_loop()
        self._clock = clock or Watch(time.monotonic(), time.time())
        self._active = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._rounds: asyncio.Task[None] | None = None
        storage.spool.waiting.when_changed(self._changed)

    def start(self) -> None:
        """Begins. Ready tasks go to the workers now."""
        self._rounds = self._loop.create_task(self._run())
        self._workers.dispatch()
        self._set_alarm()

    async def stop(self) -> None:
        """Ends, between two steps of a round. Tasks that become ready still go to the workers."""
        if self._rounds is not None:
            self._rounds.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rounds
        if self._alarm is not None:
            self._alarm.cancel()

    def _changed(self) -> None:
        """Tasks became ready, or the next one is due sooner."""
        self._active.set()
        self._workers.dispatch()
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Wakes exactly when the next task is due (looking again at least every 30 s, because clocks may be set)."""
        due = self._storage.spool.waiting.later.next_due()
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if due is None else self._loop.call_later(min(max(due - time.time(), 0.0), 30.0), self._wake)

    def _wake(self) -> None:
        self._storage.spool.waiting.wake_due()
        self._set_alarm()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            try:
                await self._tidy()
            except Exception as error:  # noqa: BLE001  # a round that fails must not be the last; it is reported in full
                self._report("housekeeping_failed", reason="".join(traceback.format_exception(error)))
            if not self._storage.is_busy and not self._workers.held:
                self._active.clear()
                with contextlib.suppress(TimeoutError):
                    # Not `wait_for`: in Python 3.11 it forgets a cancellation that arrives just as it ends.
                    async with asyncio.timeout(QUIET_SECONDS):
                        await self._active.wait()

    async def _tidy(self) -> None:
        """One round."""
        storage = self._storage
        self._sample()
        if (step := self._clock.step(time.monotonic(), time.time())) < 0:
            self._report("clock_set_back", seconds=round(-step, 3))
            await storage.spool.clock_was_set_back(step)
        self._set_alarm()
        storage.spool.group_commit.close_old()
        await storage.settle()
        await storage.journal.sync_marks()
        self.note_free(await storage.journal.moves.run(self.measure))
        if self._config.hold:
            spawn(storage.expiry.give_up(self._config.hold))  # tasks that have waited too long for another node
        await self._look_around()

    def measure(self) -> int | None:
        """Bytes free; None if the directory is gone or its disk fails, which others report. Blocks."""
        journal = self._storage.journal
        try:
            return journal.reader.disk.free(journal.layout.root)
        except OSError:
            return None

    def note_free(self, free: int | None) -> None:
        """Takes a new number of free bytes, which decides whether requests are let in."""
        if free is None:
            return
        was_low = self._entrance.is_low
        self._entrance.note_free(free)
        if (is_low := self._entrance.is_low) != was_low:
            self._report("disk_low" if is_low else "disk_ok", free=free, min_free=self._config.min_free)
