"""`story.db`: an SQLite database with the stories of tasks. Everything here blocks, and one thread makes all calls.

It holds nothing that the spool needs. So a damaged or removed database begins again, and one that cannot be written keeps its
last rows in memory for a while: the spool does not notice.

The node locks it for itself (`locking_mode=EXCLUSIVE`): the index of SQLite's log is then in this process's memory, not in a
mapped file, and a mapped file that is cut short ends its process.
"""

import contextlib
import errno
import math
import os
import sqlite3
import sys
import time

from spoolnode.node.disk.layout import Layout
from spoolnode.node.story.ended import EndedTask, EndPlace, IsWanted, ends
from spoolnode.node.story.notes import PROGRESS, Happened, Row, parted, steps_in

FORM = 2
"""The form of the tables; a database of another form begins again."""
BUSY_SECONDS = 1.0
"""How long a write waits for a program that reads the database."""
TIDY_SECONDS = 60.0
"""How often old rows are removed."""
_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH})
"""SQLite's codes for a file that is damaged, or not a database of ours."""
_TABLES = (
    "CREATE TABLE happened (number INTEGER PRIMARY KEY, at REAL, kind TEXT, key TEXT, offsets BLOB, later BLOB, detail TEXT, "
    "seconds BLOB, origin TEXT, origins BLOB, weight INTEGER)",
    "CREATE INDEX by_key ON happened (key)",
    "CREATE INDEX by_origin ON happened (origin) WHERE origin IS NOT NULL",
)
_COLUMNS = ", ".join(Row._fields)
_INSERT = f"INSERT INTO happened ({_COLUMNS}) VALUES ({', '.join('?' * len(Row._fields))})"  # noqa: S608  # names of ours
_BY_KEY = f"SELECT {_COLUMNS} FROM happened WHERE key = ? ORDER BY number"  # noqa: S608  # as above
_BY_ORIGIN = f"SELECT {_COLUMNS} FROM happened WHERE origin = ? ORDER BY number"  # noqa: S608  # as above
_FORGET_PROGRESS = f"DELETE FROM happened WHERE key = ? AND kind = '{PROGRESS}' AND offsets = ?"  # noqa: S608  # as above
_LAST_TOO_MANY = """
SELECT number FROM (SELECT number, sum(weight) OVER (ORDER BY number DESC) AS total FROM happened) WHERE total > ? LIMIT 1
"""


class BeganAgain(Exception):
    """The database was removed or damaged, and an empty one is in its place. The text says why."""


class StoryDatabase:
    """The database of one spool directory."""

    def __init__(self, layout: Layout, *, seconds: float = math.inf, tasks: int = sys.maxsize, min_free: int = 0) -> None:
        """
        Args:
            seconds: how long a row is kept.
            tasks: how many tasks are kept; each failed attempt counts as one more.
            min_free: with fewer bytes free on the disk nothing is written.
        """
        self._layout = layout
        self._seconds = seconds
        self._tasks = tasks
        self._min_free = min_free
        self._connection: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._tidied = float("-inf")
        self.rows: int | None = None
        """How many rows it has, as of the last tidying; for any thread. None before it."""

    def __repr__(self) -> str:
        return f"<StoryDatabase {self._layout.story}, {'open' if self._connection else 'closed'}>"

    def write(self, rows: list[Row]) -> None:
        """Adds rows: all of them, or, when it raises, none.

        Raises:
            BeganAgain: the database was damaged or removed; call it again.
            OSError, sqlite3.Error: it cannot be written now.
        """
        found = os.statvfs(self._layout.root)
        if found.f_bavail * found.f_frsize < self._min_free:
            raise OSError(errno.ENOSPC, "the disk has too little room left (--min-free)")
        with _Guarded(self) as connection, connection:
            for row in rows:
                if row.kind == PROGRESS:  # only the last word of a task is kept
                    connection.execute(_FORGET_PROGRESS, (row.key, row.offsets))
                connection.execute(_INSERT, row)
            if time.monotonic() - self._tidied > TIDY_SECONDS:
                self._tidy(connection)

    def steps(self, identity: str) -> list[Happened]:
        """The story of a task by its id here, or by the id of its first node. Raises as `write` does."""
        if self._connection is None and not os.path.lexists(self._layout.story):
            return []
        with _Guarded(self) as connection:
            came = _found(connection, _BY_ORIGIN, identity, by_origin=True)
            here = dict.fromkeys([identity, *(step.id for step in came)])
            found = [step for other in here for step in _found(connection, _BY_KEY, other)]
            return sorted(found, key=lambda step: step.at)

    def ends(self, after: EndPlace | None, most: int, is_wanted: IsWanted) -> tuple[list[EndedTask], EndPlace | None]:
        """See `ended.ends`. Raises as `write` does."""
        if self._connection is None and not os.path.lexists(self._layout.story):
            return [], None
        with _Guarded(self) as connection:
            return ends(connection, after, most, is_wanted)

    def close(self) -> None:
        """Closes it. What SQLite's log holds goes into the database."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # on a failing disk
                connection.close()

    def open(self) -> sqlite3.Connection:
        """The open connection. Raises as `write` does."""
        path = self._layout.story
        if self._connection is not None and self._inode != _inode(path):
            self.begin_again("it was removed")
        if self._connection is None:
            if os.path.lexists(path) and not _is_ours(path):
                self.begin_again("something else was in its place")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))  # for its owner alone
            self._connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level="IMMEDIATE")
            self._prepare(self._connection)
            self._inode = _inode(path)
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        (form,) = connection.execute("PRAGMA user_version").fetchone()
        if form == FORM:
            return
        if form:
            self.begin_again(f"its form is {form}, not {FORM}")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            for command in _TABLES:
                connection.execute(command)
            connection.execute(f"PRAGMA user_version = {FORM}")

    def begin_again(self, why: str) -> None:
        """Removes the database. Raises `BeganAgain`, or OSError."""
        self.close()
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = self._layout.story + suffix
            if os.path.lexists(path) and not _is_ours(path):
                os.rename(path, os.path.join(self._layout.corrupt, f"{os.path.basename(path)}.{time.time_ns()}"))
            elif os.path.lexists(path):
                os.unlink(path)
        raise BeganAgain(why)

    def _tidy(self, connection: sqlite3.Connection) -> None:
        """Removes the oldest rows, if they are too old or too many."""
        self._tidied = time.monotonic()
        young = "SELECT min(number) FROM happened WHERE at >= ?"
        (first,) = connection.execute(young, (time.time() - self._seconds,)).fetchone()
        if first is not None:
            connection.execute("DELETE FROM happened WHERE number < ?", (first,))
        if too_many := connection.execute(_LAST_TOO_MANY, (self._tasks,)).fetchone():
            connection.execute("DELETE FROM happened WHERE number <= ?", too_many)
        (self.rows,) = connection.execute("SELECT count(*) FROM happened").fetchone()


class _Guarded:
    """Opens a database for one piece of work, and judges what goes wrong with it."""

    def __init__(self, database: StoryDatabase) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        try:
            return self._database.open()
        except sqlite3.Error as error:
            self._judge(error)
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            self._judge(error)

    def _judge(self, error: sqlite3.Error) -> None:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            self._database.begin_again(str(error))
        self._database.close()


def _found(connection: sqlite3.Connection, query: str, identity: str, *, by_origin: bool = False) -> list[Happened]:
    key, offset = parted(identity)
    rows = map(Row._make, connection.execute(query, (key,)))
    return [step for row in rows for step in steps_in(row, offset, by_origin=by_origin)]


def _is_ours(path: str) -> bool:
    return os.path.isfile(path) and not os.path.islink(path)


def _inode(path: str) -> tuple[int, int]:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino
