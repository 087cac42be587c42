"""Spoolnode in a Django project: a backend for Django's tasks, and a node that runs them.

    INSTALLED_APPS = [..., "spoolnode.django"]
    TASKS = {"default": {"BACKEND": "spoolnode.django.Backend", "OPTIONS": {"NODES": {"video": "tag:gpu"}}}}

    manage.py spoolnode                    # a node whose workers have the project

    @task
    @task_options(max_attempts=5)          # what Django's `@task` has no place for
    def send_receipt(order_id): ...

`django.tasks` is a part of Django from version 6.0 on; for 5.2 the package django-tasks has the same.
"""

from importlib import import_module

TYPE_CHECKING = False  # as in spoolnode/__init__.py
if TYPE_CHECKING:
    from spoolnode.django.backend import Backend
    from spoolnode.django.declared import task_options

__all__ = ["Backend", "task_options"]

_HOMES = {"Backend": "spoolnode.django.backend", "task_options": "spoolnode.django.declared"}


def __getattr__(name: str) -> object:
    # Not at the import: Django imports this module before it is set up.
    if name not in _HOMES:
        raise AttributeError(f"module 'spoolnode.django' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    return value
