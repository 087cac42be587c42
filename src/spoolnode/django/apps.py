"""The Django application: its command, and the check of its settings."""

from collections.abc import Iterable
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.db import connections

from spoolnode.django.backend_options import problems

BACKEND = "spoolnode.django.Backend"


class SpoolnodeConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """`spoolnode.django` in INSTALLED_APPS."""

    name = "spoolnode.django"
    label = "spoolnode"

    def ready(self) -> None:
        checks.register(check_tasks, "spoolnode")


def check_tasks(**_: Any) -> Iterable[checks.CheckMessage]:
    """Reports mistakes in the OPTIONS of our backends in TASKS."""
    vendors = {alias: connections[alias].vendor for alias in connections}
    found = []
    for alias, params in getattr(settings, "TASKS", {}).items():
        if params.get("BACKEND") == BACKEND:
            found += [checks.Error(f"TASKS[{alias!r}]: {text}", id="spoolnode.E001") for text in problems(params, vendors)]
    return found
