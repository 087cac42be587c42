"""Hypothesis for these tests; and for those of whole clusters, five hosts with real nodes on them."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from nodes import Cluster
    from parties import Make

settings.register_profile("cluster", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("cluster")

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))  # the history checker and the clients of the tests of one node


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator["Cluster"]:
    """Nodes that find each other: `cluster.start("alpha", "beta")`. Killed at the end of the test."""
    from netns import Hosts
    from nodes import Cluster

    with Hosts(5) as hosts:
        made = Cluster(tmp_path, hosts)
        yield made
        made.clean_up()


@pytest.fixture
def party(tmp_path: Path) -> Iterator["Make"]:
    """Makes nodes, not started yet; killed at the end of the test."""
    from parties import Party

    made: list[Party] = []

    def make(name: str) -> Party:
        made.append(Party(tmp_path / f"{name}.{len(made)}", name))
        return made[-1]

    yield make
    for node in made:
        node.clean_up()
