"""Puts a task into a common store within the caller's own transaction, on a connection that the caller has open.

If the transaction commits, the task is in the store, and the server wakes the nodes that wait for it. If it is rolled back, also
to a savepoint, the task never was. Nothing else is needed: no node, no second connection, no hook at the commit.
"""

import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Protocol

from spoolnode.client import silence
from spoolnode.client.as_file import new_id
from spoolnode.client.inside import INSIDE
from spoolnode.cluster.store.interface import ANY, CHUNK, StoreAway, StoredTask, StoreUnfit
from spoolnode.cluster.store.postgresql_statements import ENQUEUE, JOIN_DUPLICATE, LAST_RANK
from spoolnode.cluster.store.variables import kept_variables
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.packet import HEADER
from spoolnode.protocol.request import read_terms
from spoolnode.wire import NOT_STORED, Address, Message, task_id

TRIES = 5
"""The task that waits with the same key may be taken at that very moment; so often it is looked for again."""
_NO_SUCH_TABLE = frozenset({"42P01", "3F000", "42703"})
"""The states of an error: no such table, schema or column."""
_HERE = Address("the transaction", ())

Asked = tuple[str, dict[str, Any]]
"""A statement and its values."""


class DatabaseConnection(Protocol):
    """A connection of psycopg 3, or Django's (`django.db.connection`)."""

    def cursor(self) -> AbstractContextManager[Any]:
        """A cursor of the DB API."""


class AsyncDatabaseConnection(Protocol):
    """An asynchronous connection of psycopg 3."""

    def cursor(self) -> AbstractAsyncContextManager[Any]:
        """Its cursor."""


def enqueue(connection: DatabaseConnection, message: Message) -> str:
    """Puts a task into the open transaction of this connection, and returns its id.

    Raises:
        BadTask, Refused: the task cannot be kept in a store.
        StoreUnfit: the database is not PostgreSQL, or has no tables for tasks.
        StoreAway: the task with the same key changes all the time.
        TypeError: it is not such a connection.
    """
    if not hasattr(connection, "cursor"):
        raise TypeError(f"a connection of psycopg 3 or of Django is wanted, and not {connection!r}")
    if _is_asynchronous(connection):
        raise TypeError("the connection is asynchronous: `await` the one of these functions that begins with an a, `aspool_in`")
    if (elsewhere := _elsewhere(message)) is not None:
        return elsewhere
    steps = _steps(message)
    with _told_as_ours(), _cursor(connection) as cursor:
        asked = next(steps)
        while True:
            cursor.execute(*asked)
            try:
                asked = steps.send(cursor.fetchone())
            except StopIteration as end:
                identity: str = end.value
                return identity


async def aenqueue(connection: AsyncDatabaseConnection, message: Message) -> str:
    """The same with an asynchronous connection."""
    if not _is_asynchronous(connection):
        raise TypeError(
            f"an asynchronous connection of psycopg 3 is wanted, and not {connection!r}; for others there is `spool_in`"
        )
    if (elsewhere := _elsewhere(message)) is not None:
        return elsewhere
    steps = _steps(message)
    with _told_as_ours():
        async with _acursor(connection) as cursor:
            asked = next(steps)
            while True:
                await cursor.execute(*asked)
                try:
                    asked = steps.send(await cursor.fetchone())
                except StopIteration as end:
                    identity: str = end.value
                    return identity


def _is_asynchronous(connection: object) -> bool:
    return hasattr(connection, "cursor") and hasattr(connection, "__aenter__")


def _elsewhere(message: Message) -> str | None:
    """The id of a task that does not go into the database: a test collects it, or this process only imports the application."""
    if silence.is_silent():
        return silence.UNSENT_ID
    if INSIDE.everything is not None:
        return task_id(_HERE, INSIDE.everything.take(_HERE, message))
    return None


def _steps(message: Message) -> Generator[Asked, Any, str]:
    """Yields what to ask the database, gets the first row of each answer, and returns the id of the task."""
    task = _task(message)
    values = {
        "id": task.id, "block": task.block, "dest": task.to, "rank": min(task.rank, LAST_RANK), "due": task.due, "key": task.key,
        "size": task.size, "pieces": [message.body[start : start + CHUNK] for start in range(0, task.size, CHUNK)],
    }  # fmt: skip
    for _ in range(TRIES):
        if (yield ENQUEUE, values) is not None:
            return task.id
        # Another one waits with its key. It must not start before this transaction has committed, or it would not see it.
        if (row := (yield JOIN_DUPLICATE, {"key": task.key})) is not None:
            identity: str = row[0]
            return identity
    raise StoreAway(f"the task with the same key was taken {TRIES} times while this one was to be stored; {NOT_STORED}")


def _task(message: Message) -> StoredTask:
    """The task of a request. Raises `BadTask` and `Refused`."""
    block = message.head[HEADER.size :]
    terms = read_terms(block, local=False)
    if terms.destination == "all":
        raise BadTask(f"node='all' is a copy for each node that is up, which only a node can tell; {NOT_STORED}")
    return StoredTask(
        new_id(terms), kept_variables(block), terms.destination or ANY, terms.rank, terms.due, terms.key, size=len(message.body)
    )


def _cursor(connection: DatabaseConnection) -> AbstractContextManager[Any]:
    """A cursor whose rows are tuples, whatever the caller's own are."""
    if getattr(connection, "vendor", "postgresql") != "postgresql":  # Django tells
        said = f"the database is {connection.vendor}, and a store is a PostgreSQL"  # type: ignore[attr-defined]  # Django's has one
        raise StoreUnfit(f"{said}; {NOT_STORED}")
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(connection, psycopg.Connection):
        plain: AbstractContextManager[Any] = psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row)
        return plain
    return connection.cursor()


def _acursor(connection: AsyncDatabaseConnection) -> AbstractAsyncContextManager[Any]:
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(connection, psycopg.AsyncConnection):
        plain: AbstractAsyncContextManager[Any] = psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row)
        return plain
    return connection.cursor()


@contextmanager
def _told_as_ours() -> Iterator[None]:
    """Says what to do if the database has no tables for tasks. Its other errors are the caller's, like those of any statement."""
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error  # Django's errors have those of the driver as their cause
        if getattr(cause, "sqlstate", None) in _NO_SUCH_TABLE:
            raise StoreUnfit(
                "the database has no tables for tasks, or not those of this version: run `spoolnode store check --migrate`; "
                f"{NOT_STORED}"
            ) from error
        raise
