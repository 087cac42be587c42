"""A store of each kind for the tests, empty at first."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats_servers import NatsCluster
from postgres import Postgres, short_place
from subjects import InMemory, InNats, InPostgres, Subject, migrated

from spoolnode.cluster.store.nats import NatsStore

sys.path.insert(0, str(Path(__file__).parents[1] / "node"))  # the spool of one node on a disk in memory


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server with a database for tasks."""
    with short_place() as directory:
        server = Postgres(directory)
        try:
            server.start()
            server.sql(f"CREATE DATABASE {InPostgres.database}")
            asyncio.run(migrated(server.url(InPostgres.database)))
            yield server
        finally:
            server.end(signal.SIGQUIT)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsCluster]:
    """A server with a stream for tasks."""
    with short_place() as directory:
        cluster = NatsCluster(directory, 1)
        try:
            cluster.start()
            asyncio.run(_made(cluster.url))
            yield cluster
        finally:
            cluster.end()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for servers that only one test uses."""
    with short_place() as directory:
        yield directory


async def _made(url: str) -> None:
    await (await NatsStore.open(url, migrates=True)).close()


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
