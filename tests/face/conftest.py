"""Small nodes for a test, and a process that is as new for each."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from smallnode import SmallNode, StartNode

from spoolnode import client
from spoolnode.calls.registry import REGISTRY


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    """Starts small nodes; by default on a free TCP port, `unix=True` on a socket in the test's directory."""
    nodes: list[SmallNode] = []

    def start(script: Callable[[int, SmallNode], bytes | None] | None = None, *, unix: bool = False, port: int = 0) -> SmallNode:
        if unix:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / f"node{len(nodes)}.sock"))
            listener.listen()
        else:
            listener = socket.create_server(("127.0.0.1", port))
        nodes.append(SmallNode(listener, script))
        return nodes[-1]

    yield start
    client.close()
    for node in nodes:
        if node.listener.fileno() >= 0:
            node.stop()


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    """Each test begins and ends without registered functions."""
    REGISTRY.clear()
    yield
    REGISTRY.clear()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's own node is not sent to."""
    monkeypatch.delenv("SPOOLNODE_VIA", raising=False)
