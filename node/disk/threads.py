"""Threads for disk work beside the event loop: its results come back on the loop."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any


class UploadThreads(ThreadPoolExecutor):
    """Several threads whose jobs run in any order."""

    def __init__(self, count: int) -> None:
        super().__init__(count, thread_name_prefix="upload")

    async def close(self) -> None:
        """Returns when everything submitted so far is done; the threads are gone then."""
        await asyncio.get_running_loop().run_in_executor(None, self.shutdown)


class DiskThread:
    """Runs jobs in the order in which they were submitted.

    It is leaner than an executor, because every task's commit passes through it: one queue, and no futures unless asked for.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Runs `job` in the thread, then `done(result, error)` on the loop."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[], Any]) -> Any:
        """Runs `job` in the thread. Returns its result or raises its exception."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(job, done)
        return await future

    async def close(self) -> None:
        """Returns when everything submitted so far is done, and the thread has ended."""
        await self.run(lambda: None)
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done = item
            try:
                result, error = job(), None
            except BaseException as problem:  # noqa: BLE001  # handed to the loop, where it is raised or reported
                result, error = None, problem
            self._loop.call_soon_threadsafe(done, result, error)
