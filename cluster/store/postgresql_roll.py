"""The nodes that are there, in a table of PostgreSQL (see `postgresql_schema`).

Connections take indexes wherever they can, and to read a table without one seems so costly to the server that it compiles the
statement first (JIT), for half a second. So the index of the ids serves, with the condition `id >= ''`, which all fulfil.
"""

from typing import LiteralString

from spoolnode.cluster.store.postgresql_connections import ServerConnections
from spoolnode.cluster.store.roll import Roll

SIGN_IN: LiteralString = """
WITH own AS (
    INSERT INTO spoolnode.node (id, said, until)
    VALUES (%(id)s, %(said)b, clock_timestamp() + make_interval(secs => %(seconds)s))
    ON CONFLICT (id) DO UPDATE SET said = excluded.said, until = excluded.until
), gone AS (
    DELETE FROM spoolnode.node WHERE id IN (
        SELECT id FROM spoolnode.node
        WHERE id >= '' AND until < now() - interval '1 day' AND id <> %(id)s FOR UPDATE SKIP LOCKED)
)
SELECT id, said FROM spoolnode.node WHERE id >= '' AND until > now() AND id <> %(id)s"""

_SIGN_OUT: LiteralString = "DELETE FROM spoolnode.node WHERE id = %s"


class PostgresRoll(Roll):
    """All in one statement."""

    def __init__(self, connections: ServerConnections) -> None:
        self._connections = connections

    async def sign_in(self, node: str, said: bytes, seconds: float) -> dict[str, bytes]:
        async with self._connections.one() as connection:
            rows = await self._connections.run(connection, SIGN_IN, {"id": node, "said": said, "seconds": seconds})
        return {row[0]: bytes(row[1]) for row in rows}

    async def sign_out(self, node: str) -> None:
        async with self._connections.one() as connection:
            await self._connections.run(connection, _SIGN_OUT, [node])
