"""The application and the nodes that the commands are tried on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import RunningNode

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


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], RunningNode]]:
    """Nodes that are not started yet, each with its name."""
    nodes: list[RunningNode] = []

    def new(name: str) -> RunningNode:
        (tmp_path / name).mkdir()
        nodes.append(RunningNode(tmp_path / name, name))
        return nodes[-1]

    yield new
    for node in nodes:
        node.clean_up()
