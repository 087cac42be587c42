"""Functions of the application that are called around each task.

    @before_task
    def begin(task): ...                         # if it raises, the attempt fails

    @after_task
    def end(task, outcome, error): ...           # if it raises, the log has the traceback

They run in the order in which they were decorated, those after a task in the opposite order. Each may be `async def`.
"""

import os
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Call, Ending, Judge, Outcome

if TYPE_CHECKING:
    from spoolnode.calls.current_task import CurrentTask

Before = Callable[["CurrentTask"], object]
After = Callable[["CurrentTask", str, BaseException | None], object]
Run = Callable[[Call], Outcome | Awaitable[Outcome]]
Wait = Callable[[Awaitable[Any]], object]
"""Runs an awaitable to its end, in the event loop of the worker."""
FAILURES = frozenset(kind.value for kind in (Ending.FAILED, Ending.GIVE_UP, Ending.IGNORED))
"""The outcomes that a hook after a task gets when the run has failed. `raise Retry` is not a failure."""
B = TypeVar("B", bound=Before)
A = TypeVar("A", bound=After)


class Hooks:
    """The hooks of an application."""

    def __init__(self) -> None:
        self.before: list[Before] = []
        self.after: list[After] = []
        self.at_end: list[Callable[[], object]] = []
        """Called when a worker ends in the usual way."""

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    def __repr__(self) -> str:
        return f"<Hooks: {len(self.before)} before, {len(self.after)} after each task>"

    def clear(self) -> None:
        """Forgets them all."""
        self.before.clear()
        self.after.clear()
        self.at_end.clear()

    def run(self, run: Run, call: Call, judge: Judge, wait: Wait) -> Outcome | Awaitable[Outcome]:
        """Runs a task with the hooks around it. Raises what the task raises, or a hook before it."""
        task, process = _task(), os.getpid()
        try:
            for hook in self.before:
                if isinstance(result := hook(task), Awaitable):
                    wait(result)
            ended = run(call)
        except BaseException as error:  # functions and hooks are the application's, and may raise anything
            if os.getpid() == process:  # a child that the task forked ends here, too, while the task goes on
                self._close(task, judge(call, error), error, wait)
            raise
        if not isinstance(ended, Outcome):
            return self._finish(task, ended, call, judge)
        if os.getpid() == process:
            self._close(task, ended, None, wait)
        return ended

    async def run_async(self, run: Run, call: Call, judge: Judge) -> Outcome:
        """The same for an async function: the hooks and the function share one context."""
        task = _task()
        try:
            for hook in self.before:
                if isinstance(result := hook(task), Awaitable):
                    await result
            ended = run(call)
        except BaseException as error:  # as in `run`
            await self._close_async(task, judge(call, error), error)
            raise
        return await self._finish(task, ended, call, judge)

    async def _finish(self, task: "CurrentTask", ended: Outcome | Awaitable[Outcome], call: Call, judge: Judge) -> Outcome:
        process = os.getpid()
        try:
            outcome = ended if isinstance(ended, Outcome) else await ended
        except BaseException as error:  # as in `run`
            if os.getpid() == process:
                await self._close_async(task, judge(call, error), error)
            raise
        if os.getpid() == process:
            await self._close_async(task, outcome, None)
        return outcome

    def end(self) -> None:
        """The worker ends."""
        for function in self.at_end:
            try:
                function()
            except (Exception, SystemExit):  # noqa: BLE001  # the others have their turn, too
                traceback.print_exc()

    def _close(self, task: "CurrentTask", outcome: Outcome, error: BaseException | None, wait: Wait) -> None:
        for hook in reversed(self.after):
            try:
                if isinstance(result := hook(task, outcome.kind.value, error), Awaitable):
                    wait(result)
            except (Exception, SystemExit):  # noqa: BLE001  # the task has ended; the log tells of it
                traceback.print_exc()

    async def _close_async(self, task: "CurrentTask", outcome: Outcome, error: BaseException | None) -> None:
        for hook in reversed(self.after):
            try:
                if isinstance(result := hook(task, outcome.kind.value, error), Awaitable):
                    await result
            except (Exception, SystemExit):  # noqa: BLE001  # as above
                traceback.print_exc()


HOOKS = Hooks()
"""The hooks of this process."""


def before_task(function: B) -> B:
    """Calls a function before each task, with the `CurrentTask`. If it raises, the attempt fails.

    Raises:
        BadDecoration: this is not a function.
    """
    HOOKS.before.append(_checked(function, "@before_task"))
    return function


def after_task(function: A) -> A:
    """Calls a function after each task, with the `CurrentTask`, the outcome and the exception.

    The outcome is `done`, `failed`, `give_up`, `retry` (it returned SPOOL_RETRY), `retry_after` or `retry_uncounted` (it raised
    `Retry`), `again` (`@spoolforever`), `ignored` or `cancelled`. The exception is None unless the function raised one. If the
    hook raises, the log has its traceback, and nothing else changes.

    Raises:
        BadDecoration: this is not a function.
    """
    HOOKS.after.append(_checked(function, "@after_task"))
    return function


def before_worker_ends(function: Callable[[], object]) -> None:
    """Calls a function when a worker ends in the usual way: at a reload, at the node's end. It must not take long."""
    HOOKS.at_end.append(function)


F = TypeVar("F", bound=Callable[..., object])


def _checked(function: F, decorator: str) -> F:
    if not callable(function):
        raise BadDecoration(f"{decorator} decorates a function; {function!r} is not one")
    return function


def _task() -> "CurrentTask":
    from spoolnode.calls.current_task import current_task  # only applications with hooks need it

    if (task := current_task()) is None:
        raise RuntimeError("hooks can only be called around a task that runs in a worker")
    return task
