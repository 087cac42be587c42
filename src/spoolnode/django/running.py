"""How a worker runs one of Django's tasks: two spooled functions, which are called with the path of the task."""

from typing import Any

from spoolnode import spool
from spoolnode.calls.current_task import current_task


@spool(name="spoolnode.django:call")
def call(alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Runs a task. Raises what it raises."""
    run = _Run(alias, path, args, kwargs)
    try:
        returned = run.task.func(*run.context, *args, **kwargs)
    except BaseException as error:
        run.failed(error)
        raise
    run.succeeded(returned)


@spool(name="spoolnode.django:call_async")
async def call_async(alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Runs an async task. Raises what it raises."""
    run = _Run(alias, path, args, kwargs)
    try:
        returned = await run.task.func(*run.context, *args, **kwargs)
    except BaseException as error:
        run.failed(error)
        raise
    run.succeeded(returned)


class _Run:
    """One run of a task, with the result that Django's signals show."""

    def __init__(self, alias: str, path: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        from django.utils import timezone
        from django.utils.module_loading import import_string

        from spoolnode.django.library import base, new_result, signals

        self.task = import_string(path)
        self._now, self._signals, self._base = timezone.now, signals, base
        self._sender = type(self.task.using(backend=alias).get_backend())
        here = current_task()
        self.result = new_result(self.task, alias, here.id if here else "", args, kwargs)
        if here is not None:
            object.__setattr__(self.result, "enqueued_at", here.accepted_at)
            self.result.worker_ids.extend([here.node] * here.attempt)  # Django counts attempts by them
        self._set(status=base.TaskResultStatus.RUNNING, started_at=self._now(), last_attempted_at=self._now())
        self.context = (base.TaskContext(task_result=self.result),) if self.task.takes_context else ()
        signals.task_started.send(sender=self._sender, task_result=self.result)

    def succeeded(self, returned: Any) -> None:
        """The task has ended."""
        from spoolnode.django.library import normalize_json

        self._set(status=self._base.TaskResultStatus.SUCCESSFUL, finished_at=self._now(), _return_value=normalize_json(returned))
        self._signals.task_finished.send(sender=self._sender, task_result=self.result)

    def failed(self, error: BaseException) -> None:
        """It raised."""
        import traceback

        kind = type(error)
        text = "".join(traceback.format_exception(error))
        self.result.errors.append(
            self._base.TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=text)
        )
        self._set(status=self._base.TaskResultStatus.FAILED, finished_at=self._now())
        self._signals.task_finished.send(sender=self._sender, task_result=self.result)

    def _set(self, **changes: Any) -> None:
        for name, value in changes.items():
            object.__setattr__(self.result, name, value)  # Django's record is frozen; its own backends change it like this
