"""Connections to a PostgreSQL, a few at a time, and its errors as those of a store.

A connection that failed is closed, never used again: the next one is made to that of the hosts which takes writes then, so a
store follows its primary. Made by hand rather than with psycopg_pool: that one keeps the reason of a failure for its own log
and tells its caller only that time ran out.
"""

import asyncio
import os
import re
import socket
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, LiteralString
from weakref import WeakSet

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from spoolnode.cluster.store.interface import StoreAway, StoreBusy, StoreUnfit
from spoolnode.protocol.printable import printable

Connection = psycopg.AsyncConnection[TupleRow]

MOST = 8
"""Connections at once, beside the one that listens."""
PATIENCE = 10.0
"""Seconds that one statement may take. A stopped server answers nothing and closes nothing."""
_DEFAULTS = {
    "application_name": "spoolnode",
    "target_session_attrs": "read-write",  # of several hosts, the primary
    "connect_timeout": "3",
    "tcp_user_timeout": "10000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
_LOCK_TIMEOUT: LiteralString = "SET lock_timeout = '2s'"
"""How long a statement waits for a transaction of an application: the other tasks of its group wait, too."""
_PLANS: list[LiteralString] = [
    # Every statement has its index. Figures about a queue are always old (empty a minute ago, a million rows now), and with old
    # figures the planner takes the whole table.
    f"SET {method} = off"
    # A statement that has none all the same looks so dear then that the server would compile it: half a second (measured).
    for method in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "jit")
]
_GONE = (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError)
_READ_ONLY = "25006"
"""The state of an error: a primary has become a standby."""
_LOCKED_OUT = re.compile(
    "password authentication failed|no password supplied|no pg_hba.conf entry|permission denied for database"
    '|(role|database) "[^"]*" does not exist'
)
"""The texts of a server that never lets us in. libpq tells no state of such an error, so one that is not in English counts as
that of a server that is away."""

_MISTYPED = re.compile('invalid (integer value "|port number: |[a-z_]+ value: )')
"""The texts of libpq about an address that no server is asked for. psycopg takes them for those of a server that is away."""
_AROUND = re.compile(r"^connection (failed|is bad): |\s+Is the server running .*\?$", re.DOTALL)
"""The words of psycopg and libpq around a reason."""


class ServerConnections:
    """Connections to one database."""

    def __init__(self, url: str) -> None:
        """`url`: postgresql://..., as libpq reads it. Raises `StoreUnfit` if it makes no sense."""
        try:
            given = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise StoreUnfit(f"the address of the store cannot be read: {_text(error)}") from error
        self._conninfo = make_conninfo(**{**_DEFAULTS, **{name: str(value) for name, value in given.items()}})
        self.name = f"{given.get('host') or 'local'}/{given.get('dbname') or given.get('user') or ''}"
        """Where it is, for people: hosts and database, without a password."""
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(MOST)
        self._unsure: WeakSet[Connection] = WeakSet()
        self._is_closed = False

    async def connect(self) -> Connection:
        """A new connection. Raises `StoreAway`, `StoreUnfit`."""
        with self._told_as_ours():
            connection = await self._connected()
            connection.add_notice_handler(lambda notice: self._heard(connection, notice))
            try:
                for setting in (_LOCK_TIMEOUT, *_PLANS):
                    await self.run(connection, setting)
            except BaseException:
                await connection.close()
                raise
        return connection

    async def _connected(self) -> Connection:
        try:
            return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        except asyncio.CancelledError as error:
            # What was connected already is in the frames of the traceback, and would stay open until they are garbage.
            traceback.clear_frames(error.__traceback__)
            raise

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection for a while. Within, errors of psycopg become `StoreAway` and `StoreUnfit`."""
        async with self._room:
            connection = self._idle.pop() if self._idle else await self.connect()
            try:
                with self._told_as_ours():
                    yield connection
                    self._check_sure(connection)
            except asyncio.CancelledError:
                await connection.close()  # what it still does, or waits for, is unknown
                raise
            except StoreBusy:
                raise
            except StoreAway:
                await connection.close()
                await self._close_idle()  # they are likely to have lost their server, too
                raise
            finally:
                if self._is_closed:
                    await connection.close()
                elif not connection.closed:
                    self._idle.append(connection)

    async def run(self, connection: Connection, statement: LiteralString, values: Any = None) -> list[TupleRow]:
        """Runs one statement; returns its rows."""
        loop = asyncio.get_running_loop()
        cut = loop.call_later(PATIENCE, _cut, connection)
        try:
            cursor = await connection.execute(statement, values, binary=True)
            answer = cursor.pgresult  # to ask for the cursor's `description` makes an object for each column
            return await cursor.fetchall() if answer is not None and answer.nfields else []
        except psycopg.OperationalError as error:
            if loop.time() < cut.when():
                raise
            raise TimeoutError(f"no answer for {PATIENCE:g} s") from error
        finally:
            cut.cancel()

    async def close(self) -> None:
        """Closes those that are idle now, and those in use when they are not used any more."""
        self._is_closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    def _heard(self, connection: Connection, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._unsure.add(connection)

    def _check_sure(self, connection: Connection) -> None:
        """An operator, or a timeout, can end the wait for the standby. Then the commit succeeds, with no more than a warning."""
        if connection in self._unsure:
            raise StoreAway(f"the store {self.name} did not make sure that another server has it")

    @contextmanager
    def _told_as_ours(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.LockNotAvailable as error:
            raise StoreBusy(f"the store {self.name} waits for an open transaction: {_text(error)}") from error
        except _GONE as error:
            if _MISTYPED.search(str(error)):
                raise StoreUnfit(f"the address of the store cannot be read: {_text(error)}") from error
            if _LOCKED_OUT.search(str(error)):
                raise StoreUnfit(f"the store {self.name} does not let us in: {_text(error)}") from error
            raise StoreAway(f"the store {self.name} is away: {_text(error)}") from error
        except psycopg.Error as error:
            if error.sqlstate == _READ_ONLY:
                raise StoreAway(f"the store {self.name} takes no writes now: {_text(error)}") from error
            raise StoreUnfit(f"the store {self.name} cannot be used: {_text(error)}") from error


def _cut(connection: Connection) -> None:
    """Ends what a connection waits for. To cancel it would take ten seconds more: psycopg then asks the same server to end it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _text(error: Exception) -> str:
    """The text of an error, in one line."""
    return printable(" ".join(_AROUND.sub("", str(error)).split()))
