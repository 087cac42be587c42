"""A second node for traces that lead to another one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import RunningNode


@pytest.fixture
def other(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that is not started yet, in a directory of its own."""
    (tmp_path / "other").mkdir()
    running = RunningNode(tmp_path / "other", "other")
    yield running
    running.clean_up()
