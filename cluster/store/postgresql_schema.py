"""The tables of a common store in PostgreSQL, and how they come from one version to the next while nodes use them.

To change them, append a step to `STEPS`; never edit one that was released. A step holds no lock for long, because takes and
publications wait behind it: it adds tables, indexes, and columns that are nullable or have a constant default. It does not
rewrite a table, and fills columns in small pieces. A node of the version before must still work after it.

Why the tables are as they are:

- A task is one row from its publication until `REMEMBERED` seconds after its end, so that a repeat meets it. Every
  list that is read has an index of the rows in its state only: a take does not see what waits for others, what is not due, and
  what has ended.
- `until` is in no index. To extend leases, which happens most, changes only the row, in the free space of its page (HOT).
  Held tasks are few (workers, and what they have ahead), so to look through all of them for leases that ran out costs little.
- The nodes that are there (`node`) are few. Each changes its row every few seconds, in the free space of its page.
- A limited function (`limited`) has the list of its tasks that were let run, by their leases: each change replaces all of it, on
  condition that the version is still the one that was read. Those that are not held under that lease any more do not count, so
  nothing else has to take them off the list, and no other statement knows of limits.
- A queue is a table whose rows live for seconds: autovacuum must come by number of dead rows, not by share of the table.
"""

import psycopg
from psycopg.rows import TupleRow

from spoolnode.cluster.store.interface import StoreUnfit

SCHEMA = "spoolnode"
OLDEST_SERVER = 15
"""The oldest major version of the server on which the tests run."""
LOCK_TIMEOUT = "3s"
"""How long a step waits for a lock. All that comes after it waits as long."""

_FIRST = """
CREATE TABLE spoolnode.task (
    id       text COLLATE "C" NOT NULL,
    hops     integer NOT NULL,
    serial   bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    state    text COLLATE "C" NOT NULL,
    dest     text COLLATE "C" NOT NULL,
    rank     bigint NOT NULL,
    due      timestamptz,
    key      bytea,
    attempts integer NOT NULL,
    size     bigint NOT NULL,
    block    bytea NOT NULL,
    turn     integer NOT NULL DEFAULT 0,
    until    timestamptz,
    accepted timestamptz NOT NULL DEFAULT now(),
    ended    timestamptz,
    reason   text NOT NULL DEFAULT '',
    repeats  integer NOT NULL DEFAULT 0,
    PRIMARY KEY (id, hops),
    CHECK (state IN ('ready', 'later', 'held', 'dead', 'ended'))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX task_ready ON spoolnode.task (dest, rank, serial) WHERE state = 'ready';
CREATE INDEX task_later ON spoolnode.task (due, serial) WHERE state = 'later';
CREATE INDEX task_held ON spoolnode.task (serial) WHERE state = 'held';
CREATE INDEX task_dead ON spoolnode.task (serial) WHERE state = 'dead';
CREATE INDEX task_ended ON spoolnode.task (ended, serial) WHERE state = 'ended';
CREATE UNIQUE INDEX task_key ON spoolnode.task (key) WHERE key IS NOT NULL AND state IN ('ready', 'later');
CREATE TABLE spoolnode.body (
    id     text COLLATE "C" NOT NULL,
    hops   integer NOT NULL,
    number integer NOT NULL,
    data   bytea NOT NULL,
    PRIMARY KEY (id, hops, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE spoolnode.body ALTER COLUMN data SET STORAGE EXTERNAL;
"""

_TAKERS = "ALTER TABLE spoolnode.task ADD COLUMN taker text NOT NULL DEFAULT ''"
"""The one that has taken a task, or took it last. Nodes of the version before leave it as it is."""

_NODES = """
CREATE TABLE spoolnode.node (
    id    text COLLATE "C" PRIMARY KEY,
    said  bytea NOT NULL,
    until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
"""

_LIMITED = """
CREATE TABLE spoolnode.limited (
    function bytea PRIMARY KEY,
    version  bigint NOT NULL DEFAULT 0,
    serials  bigint[] NOT NULL DEFAULT '{}',
    turns    integer[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
"""

STEPS = [_FIRST, _TAKERS, _NODES, _LIMITED]
"""The step from each version to the next; version 0 is an empty schema."""
VERSION = len(STEPS)

_ADVISORY_LOCK = 0x5350_4F4F_4C
"""The number under which one migration at a time locks the database: "SPOOL"."""


async def check_schema(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Raises `StoreUnfit` if the server is too old, or its tables are not of this version."""
    major = connection.info.server_version // 10_000
    if major < OLDEST_SERVER:
        raise StoreUnfit(f"this is PostgreSQL {major}; a store needs {OLDEST_SERVER} or newer")
    version = await version_of(connection)
    if version == 0:
        raise StoreUnfit("the database has no tables for tasks yet: run `spoolnode store check --migrate`")
    if version < VERSION:
        raise StoreUnfit(f"its tables are of version {version}, and {VERSION} is needed: run `spoolnode store check --migrate`")
    if version > VERSION:
        raise StoreUnfit(f"its tables are of version {version}, and this spoolnode knows {VERSION}: install a newer one")


async def version_of(connection: psycopg.AsyncConnection[TupleRow]) -> int:
    """The version of the tables; 0 if there are none."""
    cursor = await connection.execute("SELECT to_regclass('spoolnode.version') IS NOT NULL")
    if not (await cursor.fetchone() or [False])[0]:
        return 0
    cursor = await connection.execute("SELECT number FROM spoolnode.version")
    return int((await cursor.fetchone() or [0])[0])


async def migrate(connection: psycopg.AsyncConnection[TupleRow]) -> list[int]:
    """Brings the tables to this version, one step and one transaction after the other. Returns the versions it made.

    Raises `StoreUnfit` if the schema is that of another program, or if a lock does not come in time: then the steps before are
    done, and a repeat goes on.
    """
    made: list[int] = []
    try:
        while True:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
                version = await version_of(connection)
                if version >= VERSION:
                    return made
                if not version:
                    await _check_empty(connection)
                    await connection.execute("CREATE SCHEMA IF NOT EXISTS spoolnode")
                    await connection.execute("CREATE TABLE spoolnode.version (number integer NOT NULL)")
                    await connection.execute("INSERT INTO spoolnode.version VALUES (0)")
                await connection.execute(STEPS[version])
                await connection.execute("UPDATE spoolnode.version SET number = %s", [version + 1])
            made.append(version + 1)
    except psycopg.errors.LockNotAvailable as error:
        raise StoreUnfit(f"the tables were in use for longer than {LOCK_TIMEOUT}: run the migration again") from error


async def _check_empty(connection: psycopg.AsyncConnection[TupleRow]) -> None:
    """Raises `StoreUnfit` if the schema has tables already. An administrator may have made it, empty."""
    cursor = await connection.execute(
        "SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class WHERE relnamespace = to_regnamespace(%s)", [SCHEMA]
    )
    if found := (await cursor.fetchone() or [None])[0]:
        raise StoreUnfit(
            f"the database has a schema `{SCHEMA}` of another program (with {found[:200]}): "
            "use a database of its own for the tasks"
        )
