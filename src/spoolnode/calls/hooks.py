"""Functions of the application that are called around each task.

    @before_task
@before_task

    @after_task
    def end(task, outcome, error): ...           # a failure of it is a message in the log

They run in the order in which they were decorated, those after a task in the opposite order. Each may be `async def`.
"""

import os
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from spoolnode.calls.current_task import CurrentTask, current_task
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Call, Ending, Outcome

Before = Callable[[CurrentTask], object]
After = Callable[[CurrentTask, str, BaseException | None], object]
Run = Callable[[Call], Outcome | Awaitable[Outcome]]
Wait = Callable[[Awaitable[Any]], object]
"""Runs an awaitable to its end, in the event loop of the worker."""
B = TypeVar("B", bound=Before)
A = TypeVar("A", bound=After)

_FAILED = Ending.FAILED.value


class Hooks:
    """The hooks of an application."""

    def __init__(self) -> None:
        self.before: list[Before] = []
        self.after: list[After] = []

    def __bool__(self) -> bool:
        return bool(self.before or self.after)

    def __repr__(self) -> str:
        return f"<Hooks: {len(self.before)} before, {len(self.after)} after each task>"

    def clear(self) -> None:
        """Forgets them all."""
        self.before.clear()
        self.after.clear()

    def run(self, run: Run, call: Call, wait: Wait) -> Outcome | Awaitable[Outcome]:
        """Runs a task with the hooks around it. Raises what the task raises, or a hook before it."""
        task, process = _task(), os.getpid()
        try:
            for hook in self.before:
                if isinstance(result := hook(task), Awaitable):
                    wait(result)
            ended = run(call)
        except BaseException as error:
            if os.getpid() == process:  # a child that the task forked ends here, too, while the task goes on
                self._close(task, _FAILED, error, wait)
            raise
        if not isinstance(ended, Outcome):
            return self._finish(task, ended)
        if os.getpid() == process:
            self._close(task, ended.kind.value, None, wait)
        return ended

    async def run_async(self, run: Run, call: Call) -> Outcome:
        """The same for an async function: the hooks and the function share one context."""
        task = _task()
        try:
            for hook in self.before:
                if isinstance(result := hook(task), Awaitable):
                    await result
            ended = run(call)
        except BaseException as error:
            await self._close_async(task, _FAILED, error)
            raise
        return await self._finish(task, ended)

    async def _finish(self, task: CurrentTask, ended: Outcome | Awaitable[Outcome]) -> Outcome:
        process = os.getpid()
        try:
            outcome = ended if isinstance(ended, Outcome) else await ended
        except BaseException as error:
            if os.getpid() == process:
                await self._close_async(task, _FAILED, error)
            raise
        if os.getpid() == process:
            await self._close_async(task, outcome.kind.value, None)
        return outcome

    def _close(self, task: CurrentTask, outcome: str, error: BaseException | None, wait: Wait) -> None:
        for hook in reversed(self.after):
            try:
                if isinstance(result := hook(task, outcome, error), Awaitable):
                    wait(result)
            except Exception:  # noqa: BLE001  # the task has ended; the log tells of it
                traceback.print_exc()

    async def _close_async(self, task: CurrentTask, outcome: str, error: BaseException | None) -> None:
        for hook in reversed(self.after):
            try:
                if isinstance(result := hook(task, outcome, error), Awaitable):
                    await result
            except Exception:  # noqa: BLE001  # as above
                traceback.print_exc()


HOOKS = Hooks()
"""The hooks of this process."""


def before_task(function: B) -> B:
    """Has a function called before each task, with the `CurrentTask`. An error of it is a failure of the task.

    Raises:
        BadDecoration: this is not a function.
    """
    HOOKS.before.append(_checked(function, "@before_task"))
    return function


def after_task(function: A) -> A:
    """Has a function called after each task, with the `CurrentTask`, the outcome and the exception.

    The outcome is `done`, `failed`, `retry` (it asked to run again), `again` (`@spoolforever`) or `ignored`. The exception
    is None unless the function raised one. An error of the hook is printed to the log, and changes nothing.

    Raises:
        BadDecoration: this is not a function.
    """
    HOOKS.after.append(_checked(function, "@after_task"))
    return function


F = TypeVar("F", bound=Callable[..., object])


def _checked(function: F, decorator: str) -> F:
    if not callable(function):
        raise BadDecoration(f"{decorator} decorates a function; {function!r} is not one")
    return function


def _task() -> CurrentTask:
    if (task := current_task()) is None:
        raise RuntimeError("hooks can only be called around a task that runs in a worker")
    return task
