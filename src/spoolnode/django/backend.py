"""The backend of Django's tasks that enqueues them on a node."""

from typing import Any

from spoolnode.calls.registry import is_async
from spoolnode.django.backend_options import read_options
from spoolnode.django.library import TaskBackend, new_result, normalize_json, signals
from spoolnode.django.running import call, call_async

HIGHEST = 100
"""Django's highest priority, which runs first. Ours count from 0, and lower ones run sooner."""


class Backend(TaskBackend):  # type: ignore[misc]  # Django has no types
    """Enqueues a task with `.enqueue()`; a worker of a node runs it, at least once.

    A task that raises runs again later, as every task of a node does: `--max-attempts` tells how often.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True
    supports_get_result = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._options = read_options(params)

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Stores the task on a node's disk. Raises `SpoolnodeError`s as `spool` does, and Django's `InvalidTaskError`."""
        spooled, values = self._prepare(task, args, kwargs)
        return self._enqueued(task, values, spooled.spool(*values))

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """The same without blocking the event loop."""
        spooled, values = self._prepare(task, args, kwargs)
        return self._enqueued(task, values, await spooled.aspool(*values))

    def _prepare(self, task: Any, args: Any, kwargs: Any) -> tuple[Any, tuple[Any, ...]]:
        """The function that runs the task, with its options, and the arguments for that function."""
        self.validate_task(task)
        function = call_async if is_async(task.func) else call
        spooled = function.options(
            at=task.run_after, priority=HIGHEST - task.priority, node=self._options.nodes.get(task.queue_name),
            via=self._options.via,
        )  # fmt: skip
        return spooled, (self.alias, task.module_path, normalize_json(args), normalize_json(kwargs))

    def _enqueued(self, task: Any, values: tuple[Any, ...], identity: str) -> Any:
        _, _, args, kwargs = values
        result = new_result(task, self.alias, identity, args, kwargs)
        signals.task_enqueued.send(type(self), task_result=result)
        return result
