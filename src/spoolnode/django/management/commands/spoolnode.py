"""`manage.py spoolnode`: runs a node whose workers have this project."""

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Becomes `spoolnode join --app spoolnode.django.project`, with all options of `join`."""

    help = "Runs a spoolnode node whose workers have this project. It takes all options of `spoolnode join`."

    def run_from_argv(self, argv: list[str]) -> None:
        """The options are those of `join`, so nothing is parsed here."""
        # The path of manage.py, where the project is: a worker imports it as manage.py does.
        here = ["--pythonpath", os.path.abspath(sys.path[0] or ".")]
        command = [sys.executable, "-m", "spoolnode", "join", "--app", "spoolnode.django.project", *here, *argv[2:]]
        os.execv(command[0], command)  # noqa: S606  # signals and the exit status are the node's, and no second process stays

    def handle(self, *args: Any, **options: Any) -> None:
        """Not reached; `call_command` has no node to become."""
        raise NotImplementedError("`manage.py spoolnode` replaces the process: run it from a shell")
