"""Hypothesis for these tests, and the disks that they share."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from spoolnode.node.disk.disk import Disk, RealDisk
from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.store import Store

settings.register_profile("node", deadline=None, derandomize="CI" in os.environ, print_blob=True)
settings.load_profile("node")

NODE = "0123456789ab"


@pytest.fixture(params=["fake", "real"])
def disk(request: pytest.FixtureRequest) -> Disk:
    """Each disk in turn: the same holds for the real one and for the fake one."""
    return FakeDisk() if request.param == "fake" else RealDisk()


@pytest.fixture
def root(disk: Disk, tmp_path: Path) -> str:
    """A directory on that disk."""
    path = str(tmp_path / "spool")
    disk.make_directory(path)
    return path


@pytest.fixture
def store(disk: Disk, root: str) -> Store:
    """A store with its directories, on each disk in turn."""
    layout = Layout(root)
    for path in layout.directories:
        disk.make_directory(path)
    return Store(disk, layout, NODE)


@pytest.fixture
def write(disk: Disk) -> Callable[[str, bytes], None]:
    """Writes a whole file on that disk."""

    def write_file(path: str, data: bytes) -> None:
        descriptor = disk.create(path)
        disk.write(descriptor, data, 0)
        disk.close(descriptor)

    return write_file
