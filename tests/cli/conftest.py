"""Applications that the commands are tried on."""

import pytest

APP = """
from spoolnode import uwsgi

def run(task):
    if task.get("do") == "fail":
        raise RuntimeError("told to fail")
    print("ran", task.get("name"), repr(task.get("value")), len(task.get("body", b"")))

uwsgi.spooler = run
"""


@pytest.fixture
def app() -> str:
    """Prints what it is given; fails when it is told to."""
    return APP
