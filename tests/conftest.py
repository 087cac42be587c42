"""A real node for each test that asks for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import RunningNode

pytest_plugins = ["pytester"]  # pytest in a process of its own, for the tests of our plugin


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that is not started yet: `node.start(...)`. Killed at the end of the test."""
    running = RunningNode(tmp_path)
    yield running
    running.clean_up()
