"""The backend of Django's tasks that enqueues them on a node."""

from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from spoolnode.calls.spooled_function import SpooledCall
from spoolnode.client.fetching import aask_about, ask_about
from spoolnode.django.backend_options import read_options
from spoolnode.django.library import NoResult, TaskBackend, new_result, normalize_json, signals
from spoolnode.django.running import spooled_function
from spoolnode.django.task_result import task_result
from spoolnode.errors import ResultMissing

HIGHEST = 100
"""Django's highest priority, which runs first. Ours count from 0, and lower ones run sooner."""


class Backend(TaskBackend):  # type: ignore[misc]  # Django has no types
    """Enqueues a task with `.enqueue()`; a worker of a node runs it, at least once.

    A task that raises runs again later, as every task of a node does: `--max-attempts` tells how often.
    """

    supports_defer = True
    supports_async_task = True
    supports_priority = True
    supports_get_result = True
    """Except with `KEEP_RESULTS: False`: then nothing would be known of a task that has ended."""

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._options = read_options(params)
        self.supports_get_result = self._options.keep_results

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Stores the task: with `DATABASE` in the open transaction there, else on a node's disk.

        Raises `SpoolnodeError`s as `spool` and `spool_in` do, and Django's `InvalidTaskError`.
        """
        spooled, args, kwargs = self._prepare(task, args, kwargs)
        if self._options.database is None:
            identity = spooled.spool(*args, **kwargs)
        else:
            identity = spooled.spool_in(connections[self._options.database], *args, **kwargs)
        return self._enqueued(task, args, kwargs, identity)

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """The same without blocking the event loop."""
        if self._options.database is not None:
            return await sync_to_async(self.enqueue)(task, args, kwargs)  # in the thread that has the connection
        spooled, args, kwargs = self._prepare(task, args, kwargs)
        return self._enqueued(task, args, kwargs, await spooled.aspool(*args, **kwargs))

    def get_result(self, result_id: str) -> Any:
        """The task with that id, as the node of `VIA` tells it. Raises Django's `TaskResultDoesNotExist`, and
        `SpoolnodeError`s if the node cannot tell."""
        if not self.supports_get_result:
            return super().get_result(result_id)
        try:
            told = ask_about(result_id, via=self._options.via)
        except ResultMissing as missing:
            raise NoResult(str(missing)) from missing
        return task_result(told, self.alias, result_id)

    async def aget_result(self, result_id: str) -> Any:
        """The same without blocking the event loop."""
        if not self.supports_get_result:
            return await super().aget_result(result_id)
        try:
            told = await aask_about(result_id, via=self._options.via)
        except ResultMissing as missing:
            raise NoResult(str(missing)) from missing
        return task_result(told, self.alias, result_id)

    def _prepare(self, task: Any, args: Any, kwargs: Any) -> tuple[SpooledCall[...], list[Any], dict[str, Any]]:
        """The function that runs the task, with its options, and the arguments as JSON has them."""
        self.validate_task(task)
        spooled = spooled_function(task).options(
            at=task.run_after, priority=HIGHEST - task.priority, node=self._options.nodes.get(task.queue_name),
            via=self._options.via, keep_result=self._options.keep_results,
        )  # fmt: skip
        return spooled, normalize_json(args), normalize_json(kwargs)

    def _enqueued(self, task: Any, args: list[Any], kwargs: dict[str, Any], identity: str) -> Any:
        result = new_result(task, self.alias, identity, args, kwargs)
        signals.task_enqueued.send(type(self), task_result=result)
        return result
