"""The statements of a store in PostgreSQL. All text here is constant: values travel beside it.

Each statement finds its rows through one index (`postgresql_schema`), so what it costs does not grow with the store:
tests/store/test_postgresql_cost.py looks at the pages that each one reads.
"""

from typing import LiteralString

from spoolnode.cluster.store.interface import TaskState

LAST_RANK = (1 << 63) - 1
"""The largest `bigint`, for `names.LAST`, which is one more."""

_SHOWN: LiteralString = """
    id, block, dest, rank, coalesce(extract(epoch FROM due), 0)::float8, coalesce(key, ''), attempts, hops, size"""

_FINISHED: LiteralString = "CASE WHEN state IN ('dead', 'ended') THEN coalesce(extract(epoch FROM ended), 0)::float8 ELSE 0 END"
_FOUND: LiteralString = f"state, extract(epoch FROM accepted)::float8, reason, {_FINISHED}, taker, {_SHOWN}"

INSERT: LiteralString = """
INSERT INTO spoolnode.task (id, block, dest, rank, due, key, attempts, hops, size, state)
SELECT id, block, dest, rank, to_timestamp(nullif(due, 0)), nullif(key, ''), attempts, hops, size,
       CASE WHEN to_timestamp(due) > now() THEN 'later' ELSE 'ready' END
FROM unnest(%b::text[], %b::bytea[], %b::text[], %b::bigint[], %b::float8[], %b::bytea[], %b::int[], %b::int[], %b::bigint[])
     WITH ORDINALITY AS new (id, block, dest, rank, due, key, attempts, hops, size, place)
ORDER BY place
ON CONFLICT DO NOTHING
RETURNING id, hops"""

INSERT_PLAIN: LiteralString = f"""
WITH stored AS (
    INSERT INTO spoolnode.task (id, block, dest, rank, attempts, hops, size, state)
    SELECT id, block, %b::text, {LAST_RANK}, 0, 0, 0, 'ready'
    FROM unnest(string_to_array(%b::text, ' '), %b::bytea[]) WITH ORDINALITY AS new (id, block, place)
    ORDER BY place
    ON CONFLICT DO NOTHING
    RETURNING id
) SELECT coalesce(string_agg(id, ' '), '') FROM stored"""
"""The same for tasks with one destination, without a priority, a time, a key, a body and a past. Their ids travel as words of one
text, there and back: with arrays, and a row for each, this process needs 1.7 times as long."""

WRITE_REPEATS: LiteralString = """
UPDATE spoolnode.task SET repeats = repeats + 1
WHERE (id, hops) IN (SELECT * FROM unnest(%b::text[], %b::int[]))
RETURNING id, hops"""

WRITE_DUPLICATES: LiteralString = """
UPDATE spoolnode.task SET repeats = repeats + 1
WHERE key = ANY(%b::bytea[]) AND state IN ('ready', 'later')
RETURNING key"""

ENQUEUE: LiteralString = """
WITH stored AS (
    INSERT INTO spoolnode.task (id, hops, block, dest, rank, due, key, attempts, size, state)
    VALUES (%(id)s, 0, %(block)s::bytea, %(dest)s, %(rank)s::bigint, to_timestamp(nullif(%(due)s::float8, 0)),
            nullif(%(key)s::bytea, ''), 0, %(size)s::bigint,
            CASE WHEN to_timestamp(%(due)s::float8) > now() THEN 'later' ELSE 'ready' END)
    ON CONFLICT DO NOTHING
    RETURNING id, hops, dest, state
), pieces AS (
    INSERT INTO spoolnode.body
    SELECT id, hops, place - 1, data FROM stored, unnest(%(pieces)s::bytea[]) WITH ORDINALITY AS piece (data, place)
) SELECT id, CASE state WHEN 'ready' THEN pg_notify('spoolnode', dest) END FROM stored"""
"""One task with its body, in a transaction of others: one statement, as a transaction may not have been begun. They may use any
driver, so it has no binary placeholders. The server rings the bell when the transaction commits."""

JOIN_DUPLICATE: LiteralString = """
UPDATE spoolnode.task SET repeats = repeats + 1 WHERE key = %(key)s::bytea AND state IN ('ready', 'later') RETURNING id"""
"""The task that waits with that key. It is locked, and not taken, until the transaction has ended."""

TAKE: LiteralString = f"""
WITH mine AS (
    SELECT found.* FROM unnest(%(places)s::text[]) AS place CROSS JOIN LATERAL (
        SELECT id, hops, rank, serial FROM spoolnode.task
        WHERE state = 'ready' AND dest = place ORDER BY rank, serial LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ) AS found ORDER BY rank, serial LIMIT %(most)s
), taken AS (
    UPDATE spoolnode.task SET state = 'held', turn = turn + 1, until = now() + make_interval(secs => %(lease)s),
        taker = coalesce(nullif(%(by)s::text, ''), taker)
    WHERE (id, hops) IN (SELECT id, hops FROM mine)
    RETURNING turn, serial, {_SHOWN}
) SELECT * FROM taken ORDER BY rank, serial"""

CLAIM: LiteralString = f"""
WITH mine AS (
    SELECT id, hops FROM spoolnode.task WHERE id = ANY(%(ids)s::text[]) AND state IN ('ready', 'later') FOR UPDATE SKIP LOCKED
), taken AS (
    UPDATE spoolnode.task SET state = 'held', turn = turn + 1, until = now() + make_interval(secs => %(lease)s)
    WHERE (id, hops) IN (SELECT id, hops FROM mine)
    RETURNING turn, serial, {_SHOWN}
) SELECT * FROM taken ORDER BY rank, serial"""


_TOLD: LiteralString = """
    string_to_array(%(ids)s::text, ' '), string_to_array(%(hops)s::text, ' ')::int[],
    string_to_array(%(turns)s::text, ' ')::int[]"""
"""Leases. They travel as words of a text: to write an array takes the driver longer than all else that it does."""


def _locked(arrays: LiteralString = "", names: LiteralString = "") -> LiteralString:
    """Locks the tasks whose leases hold. `named` has their leases, and what is told of each in more `arrays`, under these names.

    One order for all statements about leases: two of them that met in another one would be a deadlock. The state is hidden from
    the planner, which would compare each lease with each task that is held; with it hidden, it looks each up by its id.
    """
    return f"""
WITH told AS (
    SELECT * FROM unnest({_TOLD}{arrays}) AS told (id, hops, turn{names})
), named AS (
    SELECT told.*, task.size AS body FROM told JOIN spoolnode.task ON task.id = told.id AND task.hops = told.hops
    WHERE task.turn = told.turn AND coalesce(task.state) = 'held' ORDER BY task.id, task.hops FOR UPDATE OF task
)"""


_OF_NAMED: LiteralString = "FROM named WHERE task.id = named.id AND task.hops = named.hops"

ADMIT: LiteralString = f"""
WITH told AS (
    SELECT told.*, task.serial FROM unnest({_TOLD}) WITH ORDINALITY AS told (id, hops, turn, place)
    JOIN spoolnode.task ON task.id = told.id AND task.hops = told.hops
    WHERE task.turn = told.turn AND coalesce(task.state) = 'held'
), over AS MATERIALIZED (
    SELECT * FROM unnest(
        string_to_array(%(over_ids)s::text, ' '), string_to_array(%(over_hops)s::text, ' ')::int[],
        string_to_array(%(over_turns)s::text, ' ')::int[]
    ) AS over (id, hops, turn)
), listed AS MATERIALIZED (
    SELECT version, serials, turns FROM spoolnode.limited WHERE function = %(function)s::bytea
), running AS MATERIALIZED (
    SELECT lease.* FROM listed, unnest(serials, turns) AS lease (serial, turn)
    WHERE (SELECT (id, hops, turn) NOT IN (SELECT id, hops, turn FROM over) FROM spoolnode.task
        WHERE state = 'held' AND task.serial = lease.serial AND task.turn = lease.turn)
), new AS MATERIALIZED (
    SELECT serial, turn FROM told WHERE (serial, turn) NOT IN (SELECT serial, turn FROM running)
    ORDER BY place LIMIT greatest(%(most)s::bigint - (SELECT count(*) FROM running), 0)
), written AS (
    UPDATE spoolnode.limited SET version = limited.version + 1, (serials, turns) = (
        SELECT array_agg(serial), array_agg(turn) FROM (SELECT * FROM running UNION ALL SELECT * FROM new) AS lease)
    FROM listed WHERE function = %(function)s::bytea AND limited.version = listed.version AND EXISTS (SELECT FROM new)
    RETURNING limited.version
) SELECT id, hops, turn,
    (serial, turn) IN (SELECT serial, turn FROM running)
    OR (serial, turn) IN (SELECT serial, turn FROM new) AND EXISTS (SELECT FROM written),
    EXISTS (SELECT FROM new) AND NOT EXISTS (SELECT FROM written)
FROM told"""
"""The tasks that are held, whether each may run, and whether the list of the function has changed meanwhile, or is not there."""

NOTE_LIMITED: LiteralString = "INSERT INTO spoolnode.limited (function) VALUES (%s::bytea) ON CONFLICT DO NOTHING"

EXTEND: LiteralString = f"""{_locked()}
UPDATE spoolnode.task SET until = now() + make_interval(secs => %(seconds)s)
{_OF_NAMED} RETURNING task.id, task.hops, task.turn"""

END: LiteralString = f"""{_locked(", %(results)s::bytea[]", ", result")}
, done AS (
    UPDATE spoolnode.task SET state = 'ended', ended = now(), block = coalesce(named.result, ''), size = 0, key = NULL,
        reason = ''
    {_OF_NAMED} RETURNING task.id, task.hops, task.turn
), gone AS (DELETE FROM spoolnode.body WHERE (id, hops) IN (SELECT id, hops FROM named WHERE body > 0))
SELECT * FROM done"""

END_AGAIN: LiteralString = f"""
UPDATE spoolnode.task SET repeats = repeats + 1
FROM unnest({_TOLD}) AS told (id, hops, turn)
WHERE task.id = told.id AND task.hops = told.hops AND task.turn = told.turn AND coalesce(state) = 'ended'
RETURNING task.id, task.hops, task.turn"""

_IS_DUPLICATE: LiteralString = """key IS NOT NULL AND EXISTS (
        SELECT FROM spoolnode.task AS other WHERE other.key = task.key AND other.state IN ('ready', 'later'))"""
_WAITS: LiteralString = f"""
    state = CASE WHEN {_IS_DUPLICATE} THEN 'ended' WHEN {{due}} > now() THEN 'later' ELSE 'ready' END,
    block = CASE WHEN {_IS_DUPLICATE} THEN '' ELSE block END,
    size = CASE WHEN {_IS_DUPLICATE} THEN 0 ELSE size END,
    reason = CASE WHEN {_IS_DUPLICATE} THEN 'merged' ELSE {{reason}} END,
    ended = now()"""
"""The changes to a task that is to wait again. It ends if another task with its key waits."""
_WITHOUT_BODIES: LiteralString = """
, gone AS (DELETE FROM spoolnode.body WHERE (id, hops) IN (SELECT id, hops FROM done WHERE state = 'ended'))
SELECT * FROM done"""

_TOLD_DUE: LiteralString = "to_timestamp(nullif(named.due, 0))"
AGAIN: LiteralString = f"""{
    _locked(", %(dues)s::float8[], %(attempts)s::int[], %(dests)s::text[], %(reasons)s::text[]", ", due, attempts, dest, reason")
}, done AS (
    UPDATE spoolnode.task SET {_WAITS.format(due=_TOLD_DUE, reason="coalesce(named.reason, task.reason)")}, due = {_TOLD_DUE},
        attempts = coalesce(named.attempts, task.attempts), dest = coalesce(named.dest, task.dest)
    {_OF_NAMED} RETURNING task.id, task.hops, task.turn, task.dest, task.state
){_WITHOUT_BODIES}"""

REVIVE: LiteralString = f"""
WITH named AS (
    SELECT id, hops, state FROM spoolnode.task WHERE id = ANY(%(ids)s::text[]) ORDER BY id, hops FOR UPDATE
), done AS (
    UPDATE spoolnode.task SET {_WAITS.format(due="NULL::timestamptz", reason="''")}, due = NULL, attempts = 0,
        dest = coalesce(%(to)s::text, dest)
    WHERE (id, hops) IN (SELECT id, hops FROM named WHERE state = 'dead')
    RETURNING id, hops, turn, dest, state
){_WITHOUT_BODIES}"""

BURY: LiteralString = f"""{_locked(", %(reasons)s::text[], %(attempts)s::int[]", ", reason, attempts")}
UPDATE spoolnode.task SET state = 'dead', reason = named.reason, ended = now(),
    attempts = coalesce(named.attempts, task.attempts)
{_OF_NAMED} RETURNING task.id, task.hops, task.turn"""

REMOVE: LiteralString = """
WITH old AS (SELECT id, hops, state FROM spoolnode.task WHERE id = %s ORDER BY hops DESC LIMIT 1 FOR UPDATE),
gone AS (DELETE FROM spoolnode.body WHERE (id, hops) IN (SELECT id, hops FROM old WHERE state IN ('ready', 'later', 'dead'))),
removed AS (
    UPDATE spoolnode.task SET state = 'ended', ended = now(), block = '', size = 0, key = NULL, reason = 'removed'
    WHERE (id, hops) IN (SELECT id, hops FROM old WHERE state IN ('ready', 'later', 'dead')))
SELECT state FROM old WHERE state <> 'ended'"""

# The rows are chosen in a part of their own: the planner may run a subquery once for each row of the table, and LIMIT would then
# hold for each run. It does so if the table had one row when it was analyzed.
_MINE: LiteralString = "(id, hops) IN (SELECT id, hops FROM mine)"
SWEEPS: list[LiteralString] = [
    f"""WITH mine AS (
        SELECT id, hops FROM spoolnode.task WHERE state = 'later' AND due <= now()
        ORDER BY due, serial LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ) UPDATE spoolnode.task SET state = 'ready' WHERE {_MINE}""",
    f"""WITH mine AS (
        SELECT id, hops FROM spoolnode.task WHERE state = 'held' AND until <= now() AND key IS NULL
        ORDER BY serial LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ) UPDATE spoolnode.task SET state = 'ready' WHERE {_MINE}""",
]
SWEEP_ONE_WITH_KEY: LiteralString = f"""
WITH mine AS (
    SELECT id, hops FROM spoolnode.task WHERE state = 'held' AND until <= now() AND key IS NOT NULL
    ORDER BY serial LIMIT 1 FOR UPDATE SKIP LOCKED
), done AS (
    UPDATE spoolnode.task SET {_WAITS.format(due="due", reason="reason")} WHERE {_MINE}
    RETURNING id, hops, state
){_WITHOUT_BODIES}"""

FORGET: LiteralString = f"""
WITH mine AS (
    SELECT id, hops FROM spoolnode.task WHERE state = 'ended' AND ended <= now() - make_interval(secs => %(remembered)s)
    ORDER BY ended, serial LIMIT %(most)s FOR UPDATE SKIP LOCKED
), old AS (
    DELETE FROM spoolnode.task WHERE {_MINE} RETURNING id, hops
) DELETE FROM spoolnode.body WHERE (id, hops) IN (SELECT id, hops FROM old)"""

_LISTS: dict[TaskState, tuple[LiteralString, LiteralString, LiteralString]] = {
    TaskState.READY: ("task.dest, task.rank, task.serial", "dest, rank, serial", "%s::text, %s::bigint, %s::bigint"),
    TaskState.LATER: ("task.due, task.serial", "due::text, serial", "%s::timestamptz, %s::bigint"),
    TaskState.HELD: ("task.serial", "serial", "%s::bigint"),
    TaskState.DEAD: ("task.serial", "serial", "%s::bigint"),
    TaskState.ENDED: ("task.ended, task.serial", "ended::text, serial", "%s::timestamptz, %s::bigint"),
}
"""The order of each list (that of an index), its values in a cursor, and how they are read from it.

The order has the names of the table: `due` alone would be the text in the cursor, and no index has its order.
"""

_IN_STATE: dict[TaskState, LiteralString] = {
    TaskState.READY: "state = 'ready'",
    TaskState.LATER: "state = 'later'",
    TaskState.HELD: "state = 'held'",
    TaskState.DEAD: "state = 'dead'",
    TaskState.ENDED: "state = 'ended'",
}
"""Written out: an index of the rows in one state serves only a statement that names the state itself."""

ESTIMATE: LiteralString = "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass"
"""How many rows an index has, as autovacuum saw it last."""

FIND: LiteralString = f"""
SELECT {_FOUND}
FROM spoolnode.task WHERE id = %s ORDER BY hops DESC LIMIT 1"""

STORE_CHUNK: LiteralString = "INSERT INTO spoolnode.body VALUES (%s, %s, %s, %b)"

READ_CHUNK: LiteralString = """
SELECT (SELECT data FROM spoolnode.body WHERE body.id = task.id AND body.hops = task.hops AND number = %s)
FROM spoolnode.task WHERE id = %s AND hops = %s AND turn = %s AND state = 'held'"""

READ_BODY: LiteralString = """
SELECT data FROM spoolnode.body
WHERE (id, hops) = (SELECT id, hops FROM spoolnode.task WHERE id = %s ORDER BY hops DESC LIMIT 1) ORDER BY number"""

IS_READY: LiteralString = """
SELECT 1 FROM unnest(%s::text[]) AS place
WHERE EXISTS (SELECT FROM spoolnode.task WHERE state = 'ready' AND dest = place) LIMIT 1"""

PLACES: LiteralString = """
WITH RECURSIVE place (dest) AS (
    SELECT min(dest) FROM spoolnode.task WHERE state = 'ready'
    UNION ALL
    SELECT (SELECT min(dest) FROM spoolnode.task WHERE state = 'ready' AND dest > place.dest) FROM place WHERE dest IS NOT NULL
) SELECT dest FROM place WHERE dest IS NOT NULL LIMIT %s"""
"""The destinations for which tasks are ready: one step in the index for each, however many tasks they have."""


def list_of(state: TaskState, *, is_first: bool) -> LiteralString:
    """A page of a list: the first one, or one that goes on behind a cursor."""
    order, in_cursor, from_cursor = _LISTS[state]
    behind: LiteralString = "" if is_first else f"AND ({order}) > ({from_cursor})"
    return f"""
        SELECT {_FOUND}, {in_cursor}
        FROM spoolnode.task WHERE {_IN_STATE[state]} {behind} ORDER BY {order} LIMIT %s"""


def count_of(state: TaskState) -> LiteralString:
    """How many tasks are in a state, up to a limit."""
    order = _LISTS[state][0]
    return f"SELECT count(*) FROM (SELECT FROM spoolnode.task WHERE {_IN_STATE[state]} ORDER BY {order} LIMIT %s) AS found"
