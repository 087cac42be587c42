"""A store of each kind for the tests, empty at first."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import made
from joined import Commune
from nats_servers import NatsCluster
from postgres import Postgres, server_with_store, short_place
from subjects import InMemory, InNats, InPostgres, Subject

sys.path[:0] = [
    str(Path(__file__).parents[1] / name) for name in ("node", "system", "interop")
]  # a spool in memory; clients that write down; a uWSGI server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server with a database for tasks."""
    with server_with_store() as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsCluster]:
    """A server with a stream for tasks."""
    with short_place() as directory:
        cluster = NatsCluster(directory, 1)
        try:
            cluster.start()
            asyncio.run(made(cluster.url))
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for servers that only one test uses."""
    with short_place() as directory:
        yield directory


@pytest.fixture(params=["memory", "nats", "postgresql"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """A store of each kind."""
    if request.param == "memory":
        return InMemory()
    if request.param == "nats":
        return InNats(request.getfixturevalue("nats_server"))
    return InPostgres(request.getfixturevalue("postgres"))


@pytest.fixture
def in_postgres(postgres: Postgres) -> InPostgres:
    """A store in PostgreSQL."""
    return InPostgres(postgres)


@pytest.fixture
def commune(tmp_path: Path, in_postgres: InPostgres) -> Iterator[Commune]:
    """Nodes with a store that is empty at first."""
    found = Commune(tmp_path, in_postgres.url)
    yield found
    found.clean_up()
