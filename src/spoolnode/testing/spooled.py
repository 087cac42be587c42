"""The tasks that a test has spooled, and what becomes of them: a node in memory, with a clock that the test moves."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, overload

from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.calls.spooled_function import SpooledFunction
from spoolnode.client.blocking import run_blocking
from spoolnode.context import WorkerContext
from spoolnode.errors import NotCancelled, ResultMissing, Retry
from spoolnode.node.outcome import ASKED, Call, Ending, Outcome
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.work.current import runs_on
from spoolnode.node.work.raised import failure
from spoolnode.protocol import answer, names
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.fetch import UNKNOWN
from spoolnode.protocol.packet import HEADER, encode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.runtime.handler import Dispatcher
from spoolnode.testing.attempts import Calling, blocking, in_loop, run_to_end
from spoolnode.testing.in_order import InOrder
from spoolnode.testing.spooled_task import Attempt, SpooledTask
from spoolnode.wire import Address, Message

NODE = "test"
"""The name of the node that `current_task()` tells."""
MOST_RUNS = 10_000
"""Attempts in one call of `run` and its like, besides one for each task. If there are more, a task spools itself, or asks for
another run for ever."""


class TaskFailed(AssertionError):
    """An attempt failed without an exception: no callable was found, or it returned something that means failure."""


class Spooled(Sequence[SpooledTask]):
    """All tasks that were spooled, in their order: `len(spooled)`, `spooled[0]`, `[task] = spooled`.

    A task runs only when the test says so, in the process of the test. Each method that runs tasks has a twin for tests that
    are coroutines: `arun`, `arun_all`, `aadvance`.
    """

    def __init__(self, *, eager: bool = False, keeps_done: bool = True) -> None:
        """
        Args:
            eager: each task runs as soon as it is spooled, unless it is for later.
            keeps_done: tasks that have ended well stay in the list, and not only those whose results are kept.
        """
        self.callable: Callable[[dict[str, Any]], object] | None = None
        """The callable for dictionaries, as in `spoolnode join -w module:callable`, unless `uwsgi.spooler` is set."""
        self._eager = eager
        self._keeps_done = keeps_done
        self._tasks: list[SpooledTask] = []
        self._in_order = InOrder()
        self._numbers = count(1)
        self._moved = 0.0
        self._policy = RetryPolicy()
        self._context = WorkerContext(os.getcwd(), worker=1, node_pid=os.getpid(), pids=list, jobs=list, get_task=lambda _: None)
        self._context.inbox.wait_for = run_to_end
        self._schedule = Schedule(self.now, self.now)
        self._schedule.replace(REGISTRY.timers, self.now, self.now)

    def __repr__(self) -> str:
        return f"<Spooled: {self._tasks}>"

    @overload
    def __getitem__(self, index: int) -> SpooledTask: ...
    @overload
    def __getitem__(self, index: slice) -> list[SpooledTask]: ...
    def __getitem__(self, index: int | slice) -> SpooledTask | list[SpooledTask]:
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    # -- what was spooled --

    def of(self, function: object) -> list[SpooledTask]:
        """The tasks for a function: one of `@spool`, a task of Django, or a name."""
        name = function if isinstance(function, str) else _name_of(function)
        return [task for task in self._tasks if task.function == name]

    def calls(self, function: object) -> list[Any]:
        """Their arguments, to compare with `unittest.mock.call(...)`."""
        from unittest.mock import call

        return [call(*task.args, **task.kwargs) for task in self.of(function)]

    @property
    def waiting(self) -> list[SpooledTask]:
        """The tasks that wait: for `run`, for their time, or for their next attempt."""
        return [task for task in self._tasks if task.state == "waiting"]

    @property
    def dead(self) -> list[SpooledTask]:
        """The tasks that were given up."""
        return [task for task in self._tasks if task.state == "dead"]

    @property
    def now(self) -> float:
        """The time by the clock of the test, in seconds since 1970."""
        return time.time() + self._moved

    def clear(self) -> None:
        """Forgets all tasks."""
        self._tasks.clear()
        self._in_order = InOrder()

    # -- running --

    def run(self) -> None:
        """Runs the tasks that are due, and what they spool, until none is due.

        Raises:
            BaseException: what a function raised, at once. That was a failed attempt: its task waits for the next one.
            TaskFailed: an attempt failed without an exception.
        """
        run_blocking(self._run_due(blocking))

    def run_all(self) -> None:
        """Runs all tasks to their ends, in the order of time: the clock moves to the next task that is due, again and again.

        An attempt that fails is made again, as often as on a node.

        Raises:
            BaseException: what a function raised in its last attempt. Its task is given up (`dead`).
            TaskFailed: the last attempt failed without an exception.
        """
        run_blocking(self._run_all(blocking))

    def advance(self, seconds: float) -> None:
        """Moves the clock, and runs what becomes due on the way: tasks with `at`, new attempts, timers of `@timer` and `@cron`.

        Raises what `run` raises, and what a timer raises. The clock then stays at that moment.
        """
        run_blocking(self._advance(seconds, blocking))

    async def arun(self) -> None:
        """As `run`; async functions run in the loop of the test."""
        await self._run_due(in_loop)

    async def arun_all(self) -> None:
        """As `run_all`; async functions run in the loop of the test."""
        await self._run_all(in_loop)

    async def aadvance(self, seconds: float) -> None:
        """As `advance`; async functions run in the loop of the test."""
        await self._advance(seconds, in_loop)

    async def _run_due(self, calling: Calling) -> None:
        for task in self._each(lambda: self._in_order.take(self.now)):
            await self._attempt(task, calling)

    async def _run_all(self, calling: Calling) -> None:
        for task in self._each(self._next):
            try:
                await self._attempt(task, calling)
            except (Exception, SystemExit):  # what a failed attempt raises, as in `_attempt`
                if task.state != "waiting":
                    raise

    def _each(self, take: Callable[[], SpooledTask | None]) -> Iterator[SpooledTask]:
        """The tasks to run, one after the other. Raises `AssertionError` if they do not end."""
        left = len(self) + MOST_RUNS
        while (task := take()) is not None:
            if not left:
                self._put(task)
                raise AssertionError(f"tasks still wait after {MOST_RUNS} runs, among them {task}")
            left -= 1
            yield task

    async def _advance(self, seconds: float, calling: Calling) -> None:
        end, now = self.now + seconds, self.now
        self._schedule.replace(REGISTRY.timers, now, now)
        while True:
            await self._run_due(calling)
            now = self.now
            wait = self._schedule.wait(now, now)
            when = min(self._in_order.next_due, float("inf") if wait is None else now + wait)
            self._move_to(min(when, end))
            await self._call_timers(calling)
            if when >= end:
                break
        await self._run_due(calling)

    async def _call_timers(self, calling: Calling) -> None:
        now = self.now
        for timer in self._schedule.due(now, now):
            if timer.task:  # of the whole cluster: a due time is a task
                self._put(self._add(timer.task + encode_variables([(names.DUE, b"%d" % now)]), b"", "", of_node=True))
                continue
            await calling(lambda timer=timer: REGISTRY.call_timer(timer))  # type: ignore[misc]  # bound now

    def _move_to(self, when: float) -> None:
        self._moved += max(when - self.now, 0.0)

    def _next(self) -> SpooledTask | None:
        """The task that runs next, with the clock moved to the time when it is due."""
        while (task := self._in_order.take(self.now)) is None and (due := self._in_order.next_due) < float("inf"):
            self._move_to(due)
        return task

    async def _attempt(self, task: SpooledTask, calling: Calling) -> None:
        """Makes an attempt. Raises what `run` raises."""
        task.attempts += 1
        attempt = Attempt(task.call, task.accepted, task.attempts)
        dispatcher = Dispatcher(self._context, self.callable)
        task.state, task.error = "running", None
        runs_on(NODE, self._policy.max_attempts)
        try:
            outcome = await calling(lambda: dispatcher(attempt), attempt)
        except (Exception, SystemExit) as error:  # as a worker, which takes an exit for a failure
            task.error = error
            outcome = failure(error, dispatcher.judge(attempt, error))
            self._tell(task, outcome)
            self._judge(task, outcome)
            if isinstance(error, Retry) and task.state == "waiting":
                return  # it asked for another attempt
            raise
        except BaseException:  # the test itself ends: an interrupt, or `pytest.fail` in the function
            self._put(task)
            raise
        self._tell(task, outcome)
        self._judge(task, outcome)
        if outcome.kind in (Ending.FAILED, Ending.IGNORED):
            raise TaskFailed(f"{task}: {outcome.reason}")

    def _tell(self, task: SpooledTask, outcome: Outcome) -> None:
        event = "done" if outcome.kind is Ending.DONE else "attempt"
        said = {"outcome": outcome.kind.value, "reason": outcome.reason, "error": outcome.error}
        task.story.append({"at": self.now, "event": event, "node": NODE, **said})

    def _judge(self, task: SpooledTask, outcome: Outcome) -> None:
        """Decides, as a node does, whether and when a task runs again. Each pause is the longest that a node would make."""
        if outcome.kind is Ending.DONE:
            task.state, task.kept = "done", outcome.value
            if not self._keeps_done and task.kept is None:
                self._tasks.remove(task)
            return
        if outcome.kind is Ending.RETRY:
            task.rounds += 1
        elif outcome.kind not in ASKED:
            task.rounds = 0
        own = self._policy.of_task(task.call.block)
        task.attempts, pause = self._policy.after(outcome, task.attempts, task.rounds, lambda: own, _LONGEST)
        if pause is None:
            task.state = "dead"
            return
        task.due = self.now + pause
        self._put(task)

    def _put(self, task: SpooledTask) -> None:
        task.state = "waiting"
        self._in_order.put(task)

    # -- taking, in the place of a node --

    def take(self, address: Address, message: Message) -> Answer:
        """Takes a task, and answers as a node does. Raises what a task raises that runs at once."""
        return run_blocking(self._take(address, message, blocking))

    async def atake(self, address: Address, message: Message) -> Answer:
        """The same without blocking the loop."""
        return await self._take(address, message, in_loop)

    def result(self, task_id: str) -> Any:
        """The value that the function of a task returned. Raises what `SpooledTask.result` raises."""
        if (task := self._find(task_id)) is None:
            raise ResultMissing(f"the task {task_id} has no result: it was not spooled here", UNKNOWN)
        return task.result()

    def told(self, task_id: str) -> dict[str, Any]:
        """All about a task, as a node tells it. Raises `ResultMissing`."""
        if (task := self._find(task_id)) is None:
            raise ResultMissing(f"the task {task_id} has no result: it was not spooled here", UNKNOWN)
        return task.told()

    def cancel(self, task_id: str) -> bool:
        """Cancels a task that waits. Returns False if it runs, or has ended well. Raises what `spoolnode.cancel` raises."""
        if (task := self._find(task_id)) is None:
            raise NotCancelled(f"the task {task_id} was not spooled here")
        if task.state == "waiting":
            task.state, task.is_cancelled = "dead", True
        elif task.state == "dead" and not task.is_cancelled:
            raise NotCancelled(f"the task {task_id} is dead; it has ended, and was not cancelled")
        return task.is_cancelled

    def _find(self, task_id: str) -> SpooledTask | None:
        return next((task for task in self._tasks if task.id == task_id), None)

    async def _take(self, address: Address, message: Message, calling: Calling) -> Answer:
        try:
            task = self._accept(address, message)
        except Refused as refusal:
            return _as_it_arrives(answer.refused(refusal))
        if (first := self._first_with_its_key(task)) is not task:
            self._tasks.remove(task)
            return _as_it_arrives(answer.stored_copies(first.id, 0))
        if (self._eager or address.text == "eager:") and task.due <= self.now:
            await self._attempt(task, calling)
        else:
            self._in_order.put(task)
        return _as_it_arrives(answer.stored(task.id))

    def _first_with_its_key(self, task: SpooledTask) -> SpooledTask:
        """The first task that waits and does the same work, by its key: perhaps the task itself."""
        key = task.terms.key
        return next((other for other in self.waiting if key and other.terms.key == key), task)

    def _accept(self, address: Address, message: Message) -> SpooledTask:
        return self._add(message.head[HEADER.size :], message.body, address.text)

    def _add(self, block: bytes, body: bytes, via: str, *, of_node: bool = False) -> SpooledTask:
        """Adds a task with these variables, from a client or from the node itself. Raises `Refused`."""
        now = self.now
        terms = read_terms(block, local=True, peer=of_node)
        if terms.pickled:
            block += encode_variables([(names.PICKLED, b"1")])  # as the admission of a node marks it
        identity = names.id_of_record("0" * 12, int(now * 1e6), next(self._numbers))
        call = Call(block, body, names.file_name(identity))
        task = SpooledTask(call=call, terms=terms, via=via, accepted=now, due=max(terms.due, now))
        self._tasks.append(task)
        return task


def _as_it_arrives(packet: bytes) -> Answer:
    """An answer as the client reads it from its connection."""
    [read] = AnswerReader().answers(packet)
    return read


def _name_of(function: Any) -> str:
    """The name of a function of `@spool`, of a task of Django, or of a function that is a timer of the whole cluster."""
    if isinstance(function, SpooledFunction):
        return function.name
    return full_name(getattr(function, "func", function))  # a task of Django has its function in `func`


class _Longest(random.Random):
    def random(self) -> float:
        return 1.0


_LONGEST = _Longest()
"""Makes each pause the longest, so that a test knows it."""
