"""A common store behind each node of a test, for `pytest --behind-store`: what holds on the disk holds with a store, too.

Tests that the marker `on_disk` names are left out. The store is empty when a test begins.
"""

from collections.abc import Iterator

import pytest
from postgres import TASKS, Postgres, empty_store, server_with_store
from support import SETTINGS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is about the disk."""
    left_out = [item for item in items if item.get_closest_marker("on_disk")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def store_server() -> Iterator[Postgres]:
    """A server whose store is that of each node."""
    with server_with_store() as server:
        # A node that was killed shall not be missed for half a minute.
        SETTINGS.update(SPOOLNODE_STORE=server.url(TASKS), SPOOLNODE_STORE_LEASE="10", PGCONNECT_TIMEOUT="5")
        yield server
        SETTINGS.clear()


@pytest.fixture(autouse=True)
def emptied_store(store_server: Postgres) -> None:
    """Each test begins without the tasks of those before it."""
    empty_store(store_server)
