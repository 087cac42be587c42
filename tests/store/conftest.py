"""A store of each kind for the tests, empty at first."""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres import Postgres
from subjects import InMemory, InPostgres, Subject

from spoolnode.cluster.store.postgresql import PostgresStore


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server with a database for tasks."""
    with short_place() as directory:
        server = Postgres(directory)
        try:
            server.start()
            server.sql(f"CREATE DATABASE {InPostgres.database}")
            asyncio.run(_migrated(server.url(InPostgres.database)))
            yield server
        finally:
            server.end(signal.SIGQUIT)


@contextmanager
def short_place() -> Iterator[Path]:
    """A directory with a short name, for unix sockets, which the server can enter: it runs as another user if we are root."""
    directory = Path(tempfile.mkdtemp(prefix="sn-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for servers that only one test uses."""
    with short_place() as directory:
        yield directory


async def _migrated(url: str) -> None:
    await (await PostgresStore.open(url, migrates=True)).close()


@pytest.fixture(params=["memory", "postgresql"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """A store of each kind."""
    if request.param == "memory":
        return InMemory()
    return InPostgres(request.getfixturevalue("postgres"))


@pytest.fixture
def in_postgres(postgres: Postgres) -> InPostgres:
    """A store in PostgreSQL."""
    return InPostgres(postgres)
