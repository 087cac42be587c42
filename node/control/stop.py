"""That a node is to stop: how it is asked for, and what is to become of the tasks that wait."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from spoolnode.node.work.workers import Workers


class Stop:
    """The wish that a node should end. Asked for once, it ends with grace; asked for again, at once."""

    def __init__(self, workers: Workers, report: Callable[..., None], *, drains: bool) -> None:
        """
        Args:
            workers: are killed when it is to end at once.
            drains: waiting tasks are handed over at the end, however it is asked for.
        """
        self._workers = workers
        self._report = report
        self._asked = asyncio.Event()
        self._times = 0
        self._job: asyncio.Task[None] | None = None
        self.drains = drains
        """Waiting tasks are handed over at the end."""
        self.leaves_files = False
        """All that waits is to have files of its own at the end."""
        self._is_up = False
        """The node has started; before that, a stop needs no grace."""

    def __repr__(self) -> str:
        return f"<Stop: {self.state}, asked {self._times} times>"

    def started(self) -> None:
        """The node is up."""
        self._is_up = True

    def ask(self, *, files: bool = False) -> None:
        """The first time: stop with grace. The second time, or while the application still loads: stop now.

        `files`: gives all that waits a file of its own before.
        """
        self.leaves_files |= files
        self._times += 1
        if self._job is not None:
            self._job.cancel()
        self._asked.set()
        if self.is_hasty or not self._is_up:
            self._report("stopping_now", running=len(self._workers.running()))
            self._workers.stop_now()

    def ask_to_drain(self, waiting: int) -> None:
        """Takes nothing more in, lets what runs end, hands the waiting tasks over (so many, for the log), and stops."""
        self.drains = True
        self._report("draining", waiting=waiting)
        self.ask()

    @property
    def is_asked(self) -> bool:
        """Whether it ends."""
        return self._asked.is_set()

    @property
    def is_hasty(self) -> bool:
        """Whether it was asked for a second time."""
        return self._times > 1

    @property
    def state(self) -> str:
        """In a word for the status."""
        if not self.is_asked:
            return "running"
        return "draining" if self.drains else "stopping"

    async def wait(self) -> None:
        """Returns when it is asked for."""
        await self._asked.wait()

    async def unless_hasty(self, job: Coroutine[Any, Any, None]) -> None:
        """Does a part of a stop with grace; returns early when it is asked for again. Raises what the job raises."""
        self._job = asyncio.get_running_loop().create_task(job)
        with contextlib.suppress(asyncio.CancelledError):
            await self._job
