"""Tasks that are put into the caller's own transaction: psycopg's connections and Django's, on a real PostgreSQL."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Postgres
from psycopg.rows import dict_row, scalar_row
from store_tasks import body_of, ids, new, take
from subjects import InPostgres, Subject
from support import PATIENCE, environment, eventually

import spoolnode
from spoolnode import BadTask, Refused, spool
from spoolnode.calls.spooled_function import SpooledCall
from spoolnode.cluster.store import postgresql
from spoolnode.cluster.store.interface import CHUNK, Leased, StoredTask, StoreUnfit
from spoolnode.protocol.names import LAST
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.unique import unique_key_in
from spoolnode.testing import collect

TASK = {"to": "customers"}


@spool
def pay(order: int, *, to: str = "") -> None: ...


@pytest.fixture
def connection(in_postgres: InPostgres) -> Iterator["psycopg.Connection[Any]"]:
    """A connection of an application."""
    with psycopg.connect(in_postgres.url) as open_one:
        yield open_one
        open_one.rollback()


def taken(subject: Subject, *places: str) -> list[Leased]:
    """What a node takes now."""
    found: list[Leased] = []

    async def story(subject: Subject) -> None:
        found.extend(await take(subject.store, *places))

    subject.run(story)
    return found


# --- with the transaction ---


def test_a_task_is_in_the_store_when_the_transaction_commits_and_not_before(
    connection: "psycopg.Connection[Any]", in_postgres: InPostgres
) -> None:
    identity = spoolnode.spool_in(connection, TASK)
    assert taken(in_postgres) == []
    connection.commit()
    ((_, task),) = taken(in_postgres)
    assert (task.id, decode_variables(task.block)) == (identity, [(b"to", b"customers")])


def test_after_a_rollback_it_never_was(connection: "psycopg.Connection[Any]", in_postgres: InPostgres) -> None:
    spoolnode.spool_in(connection, {**TASK, "body": b"x"})
    connection.rollback()
    tables = "SELECT (SELECT count(*) FROM spoolnode.task), (SELECT count(*) FROM spoolnode.body)"
    assert in_postgres.server.sql(tables, in_postgres.database) == [(0, 0)]


def test_after_a_rollback_to_a_savepoint_those_from_before_it_are_there(
    connection: "psycopg.Connection[Any]", in_postgres: InPostgres
) -> None:
    before = spoolnode.spool_in(connection, TASK)
    with connection.transaction(force_rollback=True):
        spoolnode.spool_in(connection, TASK)
    connection.commit()
    assert ids(taken(in_postgres)) == [before]


def test_without_a_transaction_it_is_in_the_store_at_once(in_postgres: InPostgres) -> None:
    with psycopg.connect(in_postgres.url, autocommit=True) as alone:
        identity = spoolnode.spool_in(alone, {**TASK, "body": b"x"})
        ((lease, task),) = taken(in_postgres)
        assert (task.id, task.size, lease.turn) == (identity, 1, 1)


def test_nodes_are_told_when_the_transaction_commits(connection: "psycopg.Connection[Any]", in_postgres: InPostgres) -> None:
    with psycopg.connect(in_postgres.url, autocommit=True) as node:
        node.execute("LISTEN spoolnode")
        spoolnode.spool_in(connection, TASK, "tag:gpu")
        connection.rollback()
        spoolnode.spool_in(connection, TASK)
        spoolnode.spool_in(connection, {**TASK, "at": 9e9}, "mail1")
        assert list(node.notifies(timeout=0)) == []
        connection.commit()
        assert [told.payload for told in node.notifies(timeout=60, stop_after=1)] == ["any"]
        assert list(node.notifies(timeout=0)) == []  # those of one transaction come together


def test_an_asynchronous_connection_does_the_same(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        async with await psycopg.AsyncConnection.connect(in_postgres.url, row_factory=dict_row) as own:
            first = await spoolnode.aspool_in(own, TASK)
            call = pay.options(key="k")
            second = await call.aspool_in(own, 1)
            assert await call.aspool_in(own, 1) == second
            assert await take(subject.store) == []
        assert ids(await take(subject.store)) == [first, second]

    in_postgres.run(story)


# --- what a task asks for ---


def test_a_task_keeps_what_it_asks_for(connection: "psycopg.Connection[Any]", in_postgres: InPostgres) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    first = spoolnode.spool_in(connection, {**TASK, "priority": 3, "spool_key": "k"}, node="tag:gpu")
    second = spoolnode.spool_in(connection, {**TASK, "at": later})
    third = pay.options(node="mail1").spool_in(connection, 7, to="x")
    connection.commit()

    async def story(subject: Subject) -> None:
        ((_, task),) = await take(subject.store, "tag:gpu")
        assert task == StoredTask(first, task.block, "tag:gpu", 3, 0.0, unique_key_in(task.block))
        assert task.key
        assert ids(await take(subject.store)) == []
        found = await subject.store.find(second)
        assert found
        assert (found.state, abs(found.task.due - later.timestamp()) < 1e-3, found.task.rank) == ("later", True, LAST)
        ((_, task),) = await take(subject.store, "mail1")
        assert (task.id, dict(decode_variables(task.block))[b"spool_func"]) == (third, f"{__name__}:pay".encode())

    in_postgres.run(story)


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_a_body_of_any_size_goes_with_it(connection: "psycopg.Connection[Any]", in_postgres: InPostgres, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    spoolnode.spool_in(connection, {**TASK, "body": body[:size]})
    connection.commit()

    async def story(subject: Subject) -> None:
        ((lease, task),) = await take(subject.store)
        assert (task.size, await body_of(subject.store, lease)) == (size, body[:size])

    in_postgres.run(story)


def test_tasks_of_one_transaction_keep_their_order(connection: "psycopg.Connection[Any]", in_postgres: InPostgres) -> None:
    stored = [spoolnode.spool_in(connection, TASK) for _ in range(20)]
    connection.commit()
    assert ids(taken(in_postgres)) == stored


# --- keys ---

CALL: SpooledCall[...] = pay.options(key="order 1")


def test_a_task_that_waits_with_the_same_key_stands_for_it_and_does_not_start_before_the_commit(
    connection: "psycopg.Connection[Any]", in_postgres: InPostgres
) -> None:
    first = CALL.spool_in(connection, 1)
    connection.commit()
    assert CALL.spool_in(connection, 1) == first
    assert taken(in_postgres) == []  # it would not see what this transaction changes
    connection.commit()
    assert ids(taken(in_postgres)) == [first]
    assert CALL.spool_in(connection, 1) != first  # that one runs


def test_a_node_does_not_ask_without_end_for_a_task_that_a_transaction_has_locked(
    connection: "psycopg.Connection[Any]", in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(subject: Subject) -> None:
        monkeypatch.setattr(postgresql, "LOCKED", 3600)
        store = subject.store
        with store._bell.heard(["any"]) as begun:  # it wakes all when it listens: what came before might have been missed
            await begun(PATIENCE)
        assert await store.watch(["any"], 3600)
        assert await take(store) == []
        watching = asyncio.create_task(store.watch(["any"], 3600))
        assert not (await asyncio.wait([watching], timeout=0.2))[0]
        connection.commit()
        await (await subject.another()).publish([new("another")])
        assert await asyncio.wait_for(watching, 60)
        assert len(await take(store)) == 2

    CALL.spool_in(connection, 1)
    connection.commit()
    CALL.spool_in(connection, 1)
    in_postgres.run(story)


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_transactions_with_one_key_the_second_waits_for_the_first(in_postgres: InPostgres, commits: bool) -> None:
    told: list[str] = []

    def second(own: "psycopg.Connection[Any]") -> None:
        told.append(CALL.spool_in(own, 1))
        own.commit()

    waits = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{in_postgres.database}' AND wait_event_type = 'Lock'"
    with psycopg.connect(in_postgres.url) as one, psycopg.connect(in_postgres.url) as other:
        first = CALL.spool_in(one, 1)
        thread = threading.Thread(target=second, args=(other,))
        thread.start()
        eventually(lambda: in_postgres.server.sql(waits) == [(1,)], "the second one waits")
        (one.commit if commits else one.rollback)()
        thread.join(PATIENCE)
    assert (told == [first]) is commits
    assert ids(taken(in_postgres)) == told


@pytest.mark.parametrize(
    "changes", [{"row_factory": dict_row}, {"row_factory": scalar_row}, {"cursor_factory": psycopg.ClientCursor}]
)
def test_the_callers_own_kinds_of_rows_and_cursors_do_not_matter(in_postgres: InPostgres, changes: dict[str, Any]) -> None:
    with psycopg.connect(in_postgres.url, **changes) as own:
        first = CALL.spool_in(own, 1)
        assert CALL.spool_in(own, 1) == first
        spoolnode.spool_in(own, {"odd": "\x00%s%(x)s", "body": b"\x00\xff"})
    assert len(taken(in_postgres)) == 2


# --- what cannot be ---


@pytest.mark.parametrize(
    ("task", "node", "error", "said"),
    [
        (TASK, "all", BadTask, "only a node can tell; nothing was stored"),
        (TASK, "a b", BadTask, "it must be a node's name"),
        ({}, None, BadTask, "the task is empty"),
        ({"ud_spool_func": "f", "args": b"pickle"}, None, Refused, "pickled arguments"),
        ({"a": "x" * 65_500}, None, BadTask, "put a large value into `body`"),
    ],
)
def test_a_task_that_a_store_cannot_keep_is_refused_and_the_transaction_goes_on(
    connection: "psycopg.Connection[Any]", task: dict[str, Any], node: str | None, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        spoolnode.spool_in(connection, task, node)
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_database_without_tables_is_one_clear_sentence(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url()) as own, pytest.raises(StoreUnfit, match="run `spoolnode store check --migrate`"):
        spoolnode.spool_in(own, TASK)


@pytest.mark.parametrize("wrong", [None, "postgresql://h/d"])
def test_what_is_not_a_connection_is_told_in_a_sentence(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a connection of psycopg 3 or of Django is wanted, and not"):
        spoolnode.spool_in(wrong, TASK)
    with pytest.raises(TypeError, match="an asynchronous connection of psycopg 3 is wanted, and not"):
        asyncio.run(spoolnode.aspool_in(wrong, TASK))


def test_a_connection_of_the_other_kind_is_told_in_a_sentence(
    connection: "psycopg.Connection[Any]", in_postgres: InPostgres
) -> None:
    with pytest.raises(TypeError, match="for others there is `spool_in`"):
        asyncio.run(spoolnode.aspool_in(connection, TASK))  # type: ignore[arg-type]  # that is the fault

    async def wrong() -> None:
        async with await psycopg.AsyncConnection.connect(in_postgres.url) as asynchronous:
            with pytest.raises(TypeError, match="`aspool_in`"):
                pay.spool_in(asynchronous, 7)  # type: ignore[arg-type]  # likewise

    asyncio.run(wrong())


def test_other_errors_of_the_database_are_the_callers(connection: "psycopg.Connection[Any]") -> None:
    connection.execute("SET TRANSACTION READ ONLY")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        spoolnode.spool_in(connection, TASK)


def test_a_test_of_the_application_collects_it(connection: "psycopg.Connection[Any]", in_postgres: InPostgres) -> None:
    with collect() as collected:
        identity = pay.spool_in(connection, 7)
    connection.commit()
    [task] = collected
    assert (task.id, task.args) == (identity, (7,))
    assert taken(in_postgres) == []


# --- Django ---

TASKS = """
from spoolnode import spool
from spoolnode.django.library import tasks

@spool
def pay(order): ...

@tasks.task
def film(): ...
"""
PROGRAM = """
import asyncio, json, sys
from datetime import timedelta
import django
from django.conf import settings
HOST, NAME = sys.argv[1:]
settings.configure(
    SECRET_KEY="x", USE_TZ=True, INSTALLED_APPS=["spoolnode.django"],
    DATABASES={
        "default": {"ENGINE": "django.db.backends.postgresql", "NAME": NAME, "USER": "postgres", "HOST": HOST},
        "small": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
    },
    TASKS={
        "default": {"BACKEND": "spoolnode.django.Backend", "OPTIONS": {"DATABASE": "default", "NODES": {"video": "tag:gpu"}},
                    "QUEUES": ["default", "video"]},
        "small": {"BACKEND": "spoolnode.django.Backend", "OPTIONS": {"DATABASE": "small"}},
    },
)
django.setup()

from django.core import checks
from django.db import connection, connections, transaction
from django.utils import timezone
from shop import film, pay

told = {}
with transaction.atomic():
    told["committed"] = pay.spool_in(connection, 1)
    try:
        with transaction.atomic():
            pay.spool_in(connection, 2)
            raise LookupError
    except LookupError:
        pass
    told["after"] = pay.options(priority=3).spool_in(connection, 3)
try:
    with transaction.atomic():
        pay.spool_in(connection, 4)
        raise LookupError
except LookupError:
    pass
with transaction.atomic():
    told["keyed"] = pay.options(key="k").spool_in(connection, 5)
    told["same"] = pay.options(key="k").spool_in(connection, 5)
with transaction.atomic():
    told["enqueued"] = film.using(queue_name="video", priority=5).enqueue().id
    told["later"] = film.using(run_after=timezone.now() + timedelta(hours=1)).enqueue().id
told["in a loop"] = asyncio.run(film.aenqueue()).id
try:
    pay.spool_in(connections["small"], 6)
except Exception as error:
    told["small"] = str(error)
told["check"] = [str(said.msg) for said in checks.run_checks()]
print(json.dumps(told))
"""


def test_a_django_project_enqueues_in_its_own_transaction(in_postgres: InPostgres, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(TASKS)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(in_postgres.server.socket_directory), in_postgres.database],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["same"] == told["keyed"]
    assert "is sqlite" in told["small"]
    assert told["check"] == ["TASKS['small']: DATABASE is 'small'; it must be one of DATABASES, and a PostgreSQL"]
    by_id: dict[str, tuple[str, str, int]] = {
        row[0]: row[1:]
        for row in in_postgres.server.sql("SELECT id, state, dest, rank FROM spoolnode.task", in_postgres.database)
    }
    last = (1 << 63) - 1
    assert by_id == {
        told["committed"]: ("ready", "any", last),
        told["after"]: ("ready", "any", 3),
        told["keyed"]: ("ready", "any", last),
        told["enqueued"]: ("ready", "tag:gpu", 95),
        told["later"]: ("later", "any", 100),
        told["in a loop"]: ("ready", "any", 100),
    }
