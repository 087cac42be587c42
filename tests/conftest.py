"""A real node for each test that asks for one; a directory for what is made once a session."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import SHARED, RunningNode, new_directory, remove_abandoned

pytest_plugins = ["pytester"]  # pytest in a process of its own, for the tests of our plugin


def pytest_configure(config: pytest.Config) -> None:
    """Makes the directory that the processes of `-n` share."""
    if not hasattr(config, "workerinput"):
        remove_abandoned()
        os.environ[SHARED] = str(new_directory())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED))


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that is not started yet: `node.start(...)`. Killed at the end of the test."""
    running = RunningNode(tmp_path)
    yield running
    running.clean_up()
