"""Django's tasks, from Django itself (6.0 and later) or from the package django-tasks (before)."""

from typing import Any

try:
    from django import tasks
    from django.tasks import base, signals
    from django.tasks.backends.base import BaseTaskBackend
    from django.utils.json import normalize_json
except ImportError:
    import django_tasks as tasks
    from django_tasks import base, signals
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.utils import normalize_json

TaskBackend: Any = BaseTaskBackend

NoResult: Any = tasks.exceptions.TaskResultDoesNotExist

__all__ = ["NoResult", "TaskBackend", "base", "new_result", "normalize_json", "signals", "tasks"]


def new_result(task: Any, alias: str, identity: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Django's record of a task that waits."""
    from django.utils import timezone

    return base.TaskResult(
        task=task, id=identity, status=base.TaskResultStatus.READY, enqueued_at=timezone.now(), started_at=None,
        last_attempted_at=None, finished_at=None, args=args, kwargs=kwargs, backend=alias, errors=[], worker_ids=[],
    )  # fmt: skip
