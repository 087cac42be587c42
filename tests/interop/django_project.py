"""A Django project in the directory of a node, and programs that run in it as its web processes do."""

import subprocess
import sys
from collections.abc import Mapping

from support import RunningNode, environment

PROJECT = {
    "manage.py": """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site1.settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "site1/__init__.py": "",
    "shop/__init__.py": "",
}
"""The files of every project here. A test adds site1/settings.py and what the application `shop` has."""


def write_project(node: RunningNode, files: Mapping[str, str]) -> None:
    """Writes the files of a project, and makes its tables."""
    for name, text in files.items():
        path = node.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    manage(node, "makemigrations", "shop")
    manage(node, "migrate")


def manage(node: RunningNode, *args: str, code: int = 0, **changes: str) -> str:
    """The output of `manage.py`."""
    done = subprocess.run(
        [sys.executable, "manage.py", *args], cwd=node.directory, env=environment(**changes), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def shell(node: RunningNode, program: str) -> list[str]:
    """The lines that a program prints which runs in the project, as a web process does."""
    return manage(node, "shell", "-v0", "-c", "from shop.tasks import *\n" + program, SPOOLNODE_VIA=node.via).splitlines()
