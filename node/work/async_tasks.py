"""Inside a worker: the async tasks, in an event loop of their own."""

import os
import sys
import time
import traceback

# From before an application patches them (gevent): the worker must not depend on the code that runs in it.
from _thread import start_new_thread
from collections.abc import Awaitable, Callable, Coroutine
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from spoolnode.node.disk.layout import Layout
from spoolnode.node.outcome import DONE, Ending, Judge, Outcome
from spoolnode.node.story.notes import UNKNOWN_SECONDS
from spoolnode.node.work import current, messages, output
from spoolnode.node.work.cancelling import Cancelling, Key, settled
from spoolnode.node.work.forked import end_if_forked
from spoolnode.node.work.raised import failure, judged
from spoolnode.node.work.recording import recorded
from spoolnode.node.work.slots import ASYNC_GRACE, Slots
from spoolnode.node.work.taskfile import Task, close_removed

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future


class AsyncTasks:
    """The async tasks of a worker. The first one starts the thread of the loop and loads asyncio."""

    def __init__(
        self, layout: Layout, slots: Slots, send: Callable[[list[Any]], None], cancelling: Cancelling, concurrency: int,
        judge: Judge,
    ) -> None:  # fmt: skip
        """
        Args:
            layout: of the spool, where results are kept.
            send: says something to the node, from any thread.
            cancelling: knows which tasks are to end before their time.
        """
        self._layout = layout
        self.cancelling = cancelling
        self._wanted = cancelling.wanted
        self._tasks: dict[Key, tuple[Task, asyncio.Task[None]]] = {}
        """Those that run; only for the loop's thread."""
        self._judge = judge
        self._slots = slots
        self._send = send
        self._concurrency = concurrency
        self._free: SimpleQueue[int] = SimpleQueue()
        """The slots in which nothing runs."""
        for slot in range(1, concurrency + 1):
            self._free.put(slot)
        self._loop: Any = None

    def start(
        self, awaitable: Awaitable[Outcome], task: Task, chunk: int, position: int, limit: float, *, leased: bool = False
    ) -> None:  # fmt: skip
        """Starts one. Returns at once if there is room for it, else when there is.

        `leased`: it does not start if the leases of the node have run out by then, but goes back.
        """
        slot = self._free.get()
        if leased and not self._slots.leases_hold:
            self._free.put(slot)
            self._turn_away(awaitable, task, chunk, position)
            return
        started, waited = time.monotonic(), task.waited
        # Here, not in the loop's thread: from now on, without a gap, the task counts as running.
        self._slots.begin(slot, chunk, position, started, started + limit + ASYNC_GRACE if limit else 0.0)
        self._submit(self._run(awaitable, task, chunk, position, limit, slot, waited)).add_done_callback(_must_not_fail)

    def _turn_away(self, awaitable: Awaitable[Outcome], task: Task, chunk: int, position: int) -> None:
        if isinstance(awaitable, Coroutine):
            awaitable.close()
        task.leave()
        lapsed = messages.unusual_end(position, messages.LAPSED, "")
        self._send(["ended", chunk, b"", b"", [lapsed], 0.0, UNKNOWN_SECONDS])

    def cancel(self, key: Key) -> None:
        """Has one of `wanted` end, in the listening thread. One that begins later looks for itself."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._cancel, key)

    def _cancel(self, key: Key) -> None:
        if (found := self._tasks.get(key)) is None:
            return
        task, run = found
        if not task.cancelled:
            task.cancelled = self._wanted[key]
            run.cancel()

    def wait_for(self, awaitable: Awaitable[Any]) -> None:
        """Runs something in the same loop, and returns, or raises, when it ends."""
        self._submit(_as_coroutine(awaitable)).result()

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio  # noqa: PLC0415  # 7 MB that a worker without async tasks does not need

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            start_new_thread(self._run_loop, ())
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run_loop(self) -> None:
        while True:
            try:
                self._loop.run_forever()
            except BaseException as error:  # noqa: BLE001  # SystemExit in something that a task has started; the others go on
                end_if_forked(error)
                traceback.print_exc()
            end_if_forked()

    def stop_in_child(self) -> None:
        """In a child that one of these tasks forked: stops all others, even in this turn of the loop."""
        if self._loop is not None:
            self._loop.stop()
            self._loop.call_soon(end_if_forked)
            if (ready := getattr(self._loop, "_ready", None)) is not None:  # asyncio's own loop; uvloop's has no such queue
                ready.rotate(1)

    def join(self) -> None:
        """Returns when all have ended."""
        for _ in range(self._concurrency):
            self._free.get()

    async def _run(
        self, awaitable: Awaitable[Outcome], task: Task, chunk: int, position: int, limit: float, slot: int, waited: float
    ) -> None:
        import asyncio  # noqa: PLC0415  # see above

        started = time.monotonic()
        self._tell()
        task.deadline = started + limit if limit else 0.0
        current.running.set(task)
        key = chunk, position
        self._tasks[key] = task, asyncio.current_task()  # type: ignore[assignment]  # it runs in one
        if key in self._wanted:
            self._cancel(key)
        try:
            # Not `wait_for`: before Python 3.12 it makes a task of its own, and a SystemExit in it ends the loop.
            async with asyncio.timeout(limit or None):
                outcome = await awaitable
        except TimeoutError as error:
            late = limit and time.monotonic() - started >= limit
            outcome = _late(error, limit) if late else judged(self._judge, task, error)
        except BaseException as error:  # noqa: BLE001  # see Worker._run_task
            end_if_forked(error)
            outcome = judged(self._judge, task, error)
        end_if_forked()
        del self._tasks[key]
        self._wanted.pop(key, None)
        outcome = settled(task, outcome)
        output.flush_task()
        seconds = time.monotonic() - started
        ended: list[int] = []
        others: list[list[Any]] = []
        if outcome is DONE:
            task.finish()
            ended.append(position)
        else:
            others.append(recorded(self._layout, task, position, outcome, seconds))
        close_removed()
        self._slots.end(slot)
        lengths = messages.pack_lengths([seconds] * len(ended))
        self._send(["ended", chunk, messages.pack_positions(ended), lengths, others, 0.0, waited])
        self._free.put(slot)
        self._tell(time.monotonic() - started)

    def _tell(self, seconds: float = 0.0) -> None:
        """Reports how many run, and the time of one that has just ended."""
        self._send(["async", self._concurrency - self._free.qsize(), seconds])


def _late(error: TimeoutError, limit: float) -> Outcome:
    """The outcome of an async task that was cancelled at its limit, with the place where it was."""
    return failure(error.__cause__ or error, Outcome(Ending.FAILED, f"it ran longer than {limit:g} s (timeout)"))


def _must_not_fail(run: "Future[None]") -> None:
    """Ends the worker if the end of a task could not be recorded (its disk failed): the node then settles it."""
    problem = run.exception()
    if problem is not None:
        traceback.print_exception(problem)
        sys.stderr.flush()
        os._exit(1)


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
