"""Spoolnode in a Django project: a backend for Django's tasks, and a node that runs them.

    INSTALLED_APPS = [..., "spoolnode.django"]
    TASKS = {"default": {"BACKEND": "spoolnode.django.Backend", "OPTIONS": {"NODES": {"video": "tag:gpu"}}}}

    manage.py spoolnode                    # a node whose workers have the project

`django.tasks` is a part of Django from version 6.0 on; for 5.2 the package django-tasks has the same.
"""

TYPE_CHECKING = False  # as in spoolnode/__init__.py
if TYPE_CHECKING:
    from spoolnode.django.backend import Backend

__all__ = ["Backend"]


def __getattr__(name: str) -> object:
    # Not at the import: Django imports this module before it is set up.
    if name != "Backend":
        raise AttributeError(f"module 'spoolnode.django' has no attribute {name!r}")
    from spoolnode.django.backend import Backend

    return Backend
