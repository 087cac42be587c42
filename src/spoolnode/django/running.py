"""How a worker runs one of Django's tasks: as a spooled function with the task's own name and arguments."""

import traceback
from collections.abc import Awaitable
from importlib import import_module
from typing import Any

from django.utils import timezone

from spoolnode.calls.arguments import arguments_of
from spoolnode.calls.call_options import Options
from spoolnode.calls.current_task import current_task
from spoolnode.calls.registry import REGISTRY, full_name, is_async
from spoolnode.calls.results import conclude, kept
from spoolnode.calls.spooled_function import SpooledFunction
from spoolnode.context import WorkerContext
from spoolnode.django.declared import GIVE_UP_ON, OPTIONS
from spoolnode.django.library import base, new_result, normalize_json, signals
from spoolnode.errors import GiveUp
from spoolnode.node.outcome import DONE, Call, Outcome
from spoolnode.protocol import names

TIMES = ("enqueued_at", "started_at", "last_attempted_at", "finished_at")
"""Those in a TaskResult."""


class TaskFunction(SpooledFunction[..., Any]):
    """The function that is spooled for a task of Django. It returns a TaskResult."""

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """See `SpooledFunction.run`. A result is kept with what `get_result` tells besides."""
        del context
        keeps = names.KEEP in dict(call.variables)
        args, kwargs = arguments_of(call)
        return conclude(self.function(*args, **kwargs), lambda result: _kept(result) if keeps else DONE)


def _kept(result: Any) -> Outcome:
    times = {name: getattr(result, name).timestamp() for name in TIMES}
    about = {"function": full_name(result.task.func), "args": result.args, "kwargs": result.kwargs, **times}
    return kept(result.return_value, django={**about, "worker_ids": result.worker_ids})


def spooled_function(task: Any) -> SpooledFunction[..., Any]:
    """The function that is spooled for a task. It runs the task, and raises what the task raises."""

    def run(*args: Any, **kwargs: Any) -> Any:
        attempt = _Attempt(task, args, kwargs)
        try:
            returned = task.func(*attempt.context, *args, **kwargs)
        except BaseException as error:  # the function may raise anything
            attempt.failed(error)
            raise
        return attempt.ended(returned)

    async def run_async(*args: Any, **kwargs: Any) -> Any:
        attempt = _Attempt(task, args, kwargs)
        try:
            returned = await task.func(*attempt.context, *args, **kwargs)
        except BaseException as error:  # the function may raise anything
            attempt.failed(error)
            raise
        return attempt.ended(returned)

    function = run_async if is_async(task.func) else run
    options, give_up_on = getattr(task.func, OPTIONS, Options()), getattr(task.func, GIVE_UP_ON, ())
    return TaskFunction(function, full_name(task.func), options, forever=False, raw=False, give_up_on=give_up_on)


def find(name: str) -> SpooledFunction[..., Any] | None:
    """The function of the task that is called `name` in its module, as in `shop.tasks:ship`."""
    task = find_task(name)
    return None if task is None else spooled_function(task)


def find_task(name: str) -> Any:
    """The task itself; None if there is none of that name."""
    module, _, own = name.partition(":")
    if not module:
        return None
    try:
        task = getattr(import_module(module), own, None)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another one
        return None
    return task if isinstance(task, base.Task) else None


REGISTRY.finder = find


class _Attempt:
    """One attempt of a task, with the result that Django's signals show."""

    def __init__(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._sender = type(task.get_backend())
        here, now = current_task(), timezone.now()
        self.result = new_result(task, task.backend, here.id if here else "", list(args), kwargs)
        if here is not None:
            object.__setattr__(self.result, "enqueued_at", here.accepted_at)
            self.result.worker_ids.extend([here.node] * here.attempt)  # Django counts attempts by them
        self._set(status=base.TaskResultStatus.RUNNING, started_at=now, last_attempted_at=now)
        self.context = (base.TaskContext(task_result=self.result),) if task.takes_context else ()
        signals.task_started.send(sender=self._sender, task_result=self.result)

    def ended(self, returned: Any) -> Any:
        """It returned a value. Returns the result.

        Raises:
            GiveUp: the value is not JSON, as Django wants it. Another attempt would only do the work again.
        """
        try:
            value = normalize_json(returned)
        except TypeError as error:
            self.failed(error)
            raise GiveUp(f"{self.result.task.name} has run, but the value that it returned is not JSON: {error}") from error
        self._set(status=base.TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        signals.task_finished.send(sender=self._sender, task_result=self.result)
        return self.result

    def failed(self, error: BaseException) -> None:
        """It raised."""
        kind = type(error)
        text = "".join(traceback.format_exception(error))
        self.result.errors.append(base.TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=text))
        self._set(status=base.TaskResultStatus.FAILED, finished_at=timezone.now())
        signals.task_finished.send(sender=self._sender, task_result=self.result)

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            object.__setattr__(self.result, name, value)  # Django's record is frozen; its own backends change it like this
