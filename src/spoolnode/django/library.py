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

__all__ = ["TaskBackend", "base", "normalize_json", "signals", "tasks"]
