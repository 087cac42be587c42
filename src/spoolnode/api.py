"""Sending a task: the functions that most programs need, and the values that a callable may return."""

from collections.abc import Iterable, Iterator

from spoolnode import client, wire
from spoolnode.protocol.values import TaskArguments
from spoolnode.wire import Message, resolve, task_message

TYPE_CHECKING = False  # as in the package itself
if TYPE_CHECKING:
    from spoolnode.client.in_transaction import AsyncDatabaseConnection, DatabaseConnection


class SpoolResult(int):
    """A return value by which a callable decides about its task. A type of its own, as a plain 0 may mean something else."""


SPOOL_OK = SpoolResult(-2)
"""A callable returns it when the task is done; None says the same."""
SPOOL_RETRY = SpoolResult(-1)
"""A callable returns it to be called again later, as often as it likes; this does not count as a failure."""
SPOOL_IGNORE = SpoolResult(0)
"""A callable returns it when the task is not its own; the attempt has failed, and the task is offered again later."""


def send_to_spooler(
    task: TaskArguments, node: str | None = None, *, via: str | None = None, send_timeout: float | None = None
) -> str:
    """Stores a task in a node's spool. When it returns, the task is on that node's disk.

    Args:
        task: names and values. str, bytes, int, float, bool, None, list, dict, tuple, set, datetime, date, timedelta,
            Decimal and UUID arrive as they were sent. `at`
            (seconds since 1970, or a datetime) and `priority` (lower runs sooner) have their meaning in uWSGI, `body` is
            bytes of any size; an empty `body` does not travel: the callable finds no `body` then.
        node: where it runs: a node's name, `host:port`, `tag:X`, `any` or `all`; without it, the node asked.
        via: the node to send it to, `host:port`, `[v6]:port` or the path of a unix socket; `dir:` and the path of its spool
            directory, which gets the task as a file while that node is down; or several of these, with commas, to try in
            turn. Without it, the environment's SPOOLNODE_VIA, else port 3031 of this machine, 127.0.0.1 or ::1.
        send_timeout: seconds that it may take in all (with a body of 128 KiB or more: since the node last took some of
            it); without it, the environment's SPOOLNODE_SEND_TIMEOUT, else 5.

    Returns:
        The task's id. It is empty from a real uWSGI server, which tells none.

    Raises:
        BadTask: the task or `node` cannot be sent as it stands.
        Refused: the node declined it; nothing was stored.
        Unreachable: the node did not get it; nothing was stored.
        Unanswered: it got it, but no answer came; it may have been stored (`TimedOut`: for lack of time).
    """
    return client.send(resolve(via), task_message(task, node), wire.send_timeout(send_timeout))


def send_many(
    tasks: Iterable[TaskArguments], node: str | None = None, *, via: str | None = None, send_timeout: float | None = None
) -> list[str]:
    """Stores many tasks, much faster than one by one: they share a connection, and the node's fsyncs.

    Args:
        tasks: each as in `send_to_spooler`.
        node: where they run.
        via: the node to send them to.
        send_timeout: seconds in which the node must take or answer something.

    Returns:
        The ids of the tasks, in order.

    Raises:
        BadTask: one of them cannot be sent as it stands; nothing was sent.
        Unreachable: the node got none of them; nothing was stored.
        NotAllStored: some were stored; it says which.
    """
    return client.send_all(resolve(via), list(_messages(tasks, node)), wire.send_timeout(send_timeout))


def _messages(tasks: Iterable[TaskArguments], node: str | None) -> Iterator[Message]:
    return wire.messages(tasks, lambda task: task_message(task, node))


async def asend_many(
    tasks: Iterable[TaskArguments], node: str | None = None, *, via: str | None = None, send_timeout: float | None = None
) -> list[str]:
    """As `send_many`, without blocking the loop. Cancelled, some of the tasks may have been stored."""
    from spoolnode.client import aio

    return await aio.asend_all(resolve(via), _messages(tasks, node), wire.send_timeout(send_timeout))


async def asend_to_spooler(
    task: TaskArguments, node: str | None = None, *, via: str | None = None, send_timeout: float | None = None
) -> str:
    """As `send_to_spooler`, without blocking the loop. Cancelled, the task may have been stored."""
    from spoolnode.client import aio  # asyncio, only when it is used

    return await aio.asend(resolve(via), task_message(task, node), wire.send_timeout(send_timeout))


def spool_in(connection: "DatabaseConnection", task: TaskArguments, node: str | None = None) -> str:
    """Puts a task into the transaction that is open on a connection to PostgreSQL, whose database has a store.

    When the transaction commits, the task is in the store. After a rollback, also to a savepoint, it never was. Outside of a
    transaction (autocommit) it is in the store at once.

    Args:
        connection: a connection of psycopg 3, or Django's, `django.db.connection`.
        task: as in `send_to_spooler`. The body is held in memory.
        node: where it runs: a node's name, `host:port`, `tag:X` or `any`; without it, on any node.

    Returns:
        The task's id. If another one with the same key waits, this one is not stored; the id is that of the other one, which
        does not start before the transaction has ended.

    Raises:
        BadTask, Refused: the task cannot be kept in a store.
        SpoolnodeError: the database is not PostgreSQL, or has no tables for tasks.
        Exception: everything else that the database says to a statement.
    """
    from spoolnode.client.in_transaction import enqueue

    return enqueue(connection, task_message(task, node))


async def aspool_in(connection: "AsyncDatabaseConnection", task: TaskArguments, node: str | None = None) -> str:
    """As `spool_in`, with an asynchronous connection of psycopg 3."""
    from spoolnode.client.in_transaction import aenqueue

    return await aenqueue(connection, task_message(task, node))
