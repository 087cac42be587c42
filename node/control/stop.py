"""The request that a node stops, and what happens to its waiting tasks then."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from spoolnode.node.work.workers import Workers


class Stop:
    """The stop of a node. The first request ends it with grace, the second at once."""

    def __init__(self, workers: Workers, report: Callable[..., None], *, drains: bool) -> None:
        """
        Args:
            workers: killed if it must end at once.
            drains: whether any stop hands over the waiting tasks at the end.
        """
        self._workers = workers
        self._report = report
        self._asked = asyncio.Event()
        self._times = 0
        self._job: asyncio.Task[None] | None = None
        self.drains = drains
        """Whether waiting tasks are handed over at the end."""
        self.leaves_files = False
        """Whether each waiting task gets a file of its own at the end."""
        self._is_up = False
        """Whether the node has started; before that, a stop needs no grace."""

    def __repr__(self) -> str:
        return f"<Stop: {self.state}, asked {self._times} times>"

    def started(self) -> None:
        """Notes that the node is up."""
        self._is_up = True

    def ask(self, *, files: bool = False) -> None:
        """Stops: with grace the first time, at once the second time or while the application still loads.

        `files`: first gives each waiting task a file of its own.
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
        """Takes in no more tasks, lets running ones end, hands over the `waiting` ones (their number, for the log), and stops."""
        self.drains = True
        self._report("draining", waiting=waiting)
        self.ask()

    @property
    def is_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    @property
    def is_hasty(self) -> bool:
        """Whether it was asked for a second time."""
        return self._times > 1

    @property
    def state(self) -> str:
        """A word for the status."""
        if not self.is_asked:
            return "running"
        return "draining" if self.drains else "stopping"

    async def wait(self) -> None:
        """Returns once a stop is asked for."""
        await self._asked.wait()

    async def unless_hasty(self, job: Coroutine[Any, Any, None]) -> None:
        """Does a part of a stop with grace. Returns early if it is asked for again. Raises what the job raises."""
        self._job = asyncio.get_running_loop().create_task(job)
        with contextlib.suppress(asyncio.CancelledError):
            await self._job
