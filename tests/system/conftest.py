"""Fixtures for tests of a running node."""

from collections.abc import Callable, Iterator

import pytest
from support import RunningNode
from watch import Gate


@pytest.fixture
def gate(node: RunningNode) -> Iterator[Callable[[str], Gate]]:
    """Makes gates: an application waits before one until the test opens it. All are open in the end."""
    gates: list[Gate] = []

    def make(name: str) -> Gate:
        gates.append(Gate(node.directory / f"gate.{name}"))
        return gates[-1]

    yield make
    for each in gates:
        each.open()
