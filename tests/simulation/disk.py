"""The disk of a simulated machine and the threads that use it.

`FakeDisk` is what it is in the tests of the spool; here it also ends its process, or its machine, at a call that the seed
has chosen, and shows the time of its machine.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from spoolnode.node.disk.fakes import FakeDisk, WrongThread, acting_as
from spoolnode.node.disk.threads import DiskThread

from .loop import Gone, Owner, SimLoop


class SimDisk(FakeDisk):
    """One machine's disk."""

    def __init__(self, seed: int, wall: Callable[[], float]) -> None:
        self._wall = wall
        super().__init__(seed)
        self.owner: Owner | None = None
        """The process that has mounted it; the dead cannot use it."""
        self.doom: Callable[[], None] | None = None
        self._doom_at = -1
        self.make_directory("/var")
        self.sync_directory("/")

    @property
    def now(self) -> float:
        """The time that files get."""
        return self._wall()

    @now.setter
    def now(self, value: float) -> None:
        """The base class wants to set it once."""

    def doom_at(self, call: int, doom: Callable[[], None]) -> None:
        """The `call`-th call from now does not happen: `doom` ends the process first."""
        self._doom_at, self.doom = self.calls + call, doom

    def kill(self) -> None:
        """As in the base; planned faults do not come."""
        super().kill()
        self._doom_at = -1

    def _call(self, name: str) -> None:
        if self.calls + 1 == self._doom_at and self.doom is not None:
            self._doom_at = -1
            self.doom()
        if self.owner is not None and self.owner.dead:
            raise Gone
        super()._call(name)


class Pace:
    """How quick a disk is: most jobs take a moment, some take long."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.factor = 1.0
        """Faults make it larger."""

    def job(self) -> float:
        """Seconds until a job begins."""
        roll = self.random.random()
        return self.factor * (0.0002 + 0.002 * roll if roll < 0.95 else 0.05 * self.random.random() ** 2)

    def hop(self) -> float:
        """Seconds until the loop hears of its end."""
        return 0.0003 * self.random.random()


class SimThread(DiskThread):
    """A disk thread whose jobs run on the loop, each after a while; its results are heard a little later, in order."""

    def __init__(self, name: str, pace: Pace) -> None:
        self.name = name
        self._loop = asyncio.get_running_loop()
        self._pace = pace
        self._todo: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()
        self._heard = 0.0

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs `job` when its turn comes."""
        self._todo.append((job, done))
        if len(self._todo) == 1:
            self._loop.call_later(self._pace.job(), self._next)

    def _next(self) -> None:
        job, done = self._todo[0]
        try:
            with acting_as(self.name):
                result, error = job(), None
        except WrongThread:
            raise
        except Exception as problem:  # noqa: BLE001  # as a real thread does
            result, error = None, problem
        self._heard = max(self._heard, self._loop.time() + self._pace.hop())
        self._loop.call_at(self._heard, done, result, error)
        self._todo.popleft()
        if self._todo:
            self._loop.call_later(self._pace.job(), self._next)

    async def close(self) -> None:
        """Returns when everything submitted so far is done."""
        await self.run(lambda: None)


class SimExecutor:
    """The executor for the writes of uploads: several at once, in any order."""

    def __init__(self, loop: SimLoop, pace: Pace) -> None:
        self._loop = loop
        self._pace = pace
        self._open = 0
        self._closed = False
        self._idle = asyncio.Event()

    def begin(self, job: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        """Runs `job` after a while, and then tells `future`."""

        def tell(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._add(job, tell)

    def submit(self, job: Callable[[], Any]) -> None:
        """Runs `job` after a while; nothing waits for it."""
        self._add(job, lambda result, error: None)

    def _add(self, job: Callable[[], Any], tell: Callable[[Any, BaseException | None], None]) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")  # as concurrent.futures says it

        def run() -> None:
            try:
                with acting_as("upload"):
                    result, error = job(), None
            except WrongThread:
                raise
            except Exception as problem:  # noqa: BLE001  # as an executor does
                result, error = None, problem
            self._loop.call_later(self._pace.hop(), tell, result, error)
            self._open -= 1
            if not self._open:
                self._idle.set()

        self._open += 1
        self._loop.call_later(self._pace.job(), run)

    async def close(self) -> None:
        """Takes nothing more; returns when all is done."""
        self._closed = True
        while self._open:
            self._idle.clear()
            await self._idle.wait()

    def shutdown(self, wait: bool = True) -> None:
        """Nothing to do, without threads."""
