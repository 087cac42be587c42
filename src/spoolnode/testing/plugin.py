"""The pytest plugin. pytest imports it in every run, so it imports nothing of spoolnode before a test asks for a fixture."""

from collections.abc import Iterator
from pathlib import Path

import pytest

TYPE_CHECKING = False  # as in spoolnode/__init__.py
if TYPE_CHECKING:
    from spoolnode.testing.real_node import RealNode
    from spoolnode.testing.spooled import Spooled


def pytest_addoption(parser: pytest.Parser) -> None:
    """The setting of `spoolnode_node`."""
    told = "options of `spoolnode join` for the fixture spoolnode_node: -w MODULE, and others"
    parser.addini("spoolnode_join", told, type="args", default=[])


@pytest.fixture
def spooled() -> "Iterator[Spooled]":
    """The tasks that the test spools. They run when it calls `spooled.run()`, and no node gets them."""
    from spoolnode.testing.collecting import collect

    with collect() as collected:
        yield collected


@pytest.fixture
def spoolnode_node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[RealNode]":
    """A real node with the application that the setting `spoolnode_join` names; it gets what the test spools."""
    from tempfile import TemporaryDirectory

    from spoolnode import client
    from spoolnode.testing.real_node import RealNode

    options = request.config.getini("spoolnode_join")
    if not options:
        pytest.fail('pytest needs to know the application of the node: set spoolnode_join = "-w MODULE"', pytrace=False)
    if "spooled" in request.fixturenames:
        pytest.fail("`spooled` takes all tasks, and `spoolnode_node` would get none: use one of them", pytrace=False)
    # By a short name: the path of a unix socket has at most 107 bytes, and that of a test may have more.
    with TemporaryDirectory(prefix="spoolnode-") as short:
        directory = Path(short, "test")
        directory.symlink_to(tmp_path)
        node = RealNode(directory, options, request.config.rootpath)
        try:
            node.start()
            monkeypatch.setenv("SPOOLNODE_VIA", node.via)
            yield node
        finally:
            client.close()
            node.stop()
