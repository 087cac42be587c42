"""A real node for each test that asks for one; a directory for what is made once a session."""

import os
import shutil
from collections.abc import Iterator
from itertools import chain, compress, groupby, islice
from pathlib import Path

import pytest
from support import SENDING, SHARED, RunningNode, new_directory, remove_abandoned

LONGEST = ("tests/simulation/", "test_crash.py", "test_cluster_crash.py", "test_store_storm.py")
"""These come first: at the end of a run they would keep one processor busy while the others wait."""
WAITING = ("tests/interop/", "tests/page/", "tests/test_release.py")
"""These come next, whole modules: they mostly wait for other programs, and at the end nothing else would use the processors."""

pytest_plugins = ["pytester"]  # pytest in a process of its own, for the tests of our plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds our option."""
    parser.addoption("--behind-store", action="store_true", help="each node has a common store, in PostgreSQL")


def pytest_configure(config: pytest.Config) -> None:
    """Makes the directory that the processes of `-n` share, and gives sends enough time on a busy machine."""
    os.environ.update(SENDING)
    if config.getoption("--behind-store"):
        import behind_store

        config.pluginmanager.register(behind_store)
    if not hasattr(config, "workerinput"):
        remove_abandoned()
        os.environ[SHARED] = str(new_directory())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(SHARED))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts what lasts longest first: a share of it before the part of each process of `-n`."""
    longest, others = _parted(items, LONGEST)
    waiting, others = _parted(others, WAITING)
    modules = [list(module) for _, module in groupby(waiting, lambda item: item.path)]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ends = [len(items) * n // processes for n in range(processes + 1)]
    rest, ordered = iter(others), list[pytest.Item]()
    for n in range(processes):
        ordered += (*longest[n::processes], *chain(*modules[n::processes]))
        ordered += islice(rest, max(ends[n + 1] - len(ordered), 0))
    items[:] = [*ordered, *rest]


def _parted(items: list[pytest.Item], named: tuple[str, ...]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Those of modules that are named, and the others."""
    are_named = [any(part in item.nodeid for part in named) for item in items]
    return [*compress(items, are_named)], [item for item, is_named in zip(items, are_named, strict=True) if not is_named]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    """A node that is not started yet: `node.start(...)`. Killed at the end of the test."""
    running = RunningNode(tmp_path)
    yield running
    running.clean_up()
