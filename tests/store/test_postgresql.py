"""The driver for PostgreSQL: its traps, its failover, its migrations. On real servers."""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres import Postgres
from programs import free_port
from store_tasks import held, ids, new, take
from subjects import InPostgres, Subject
from support import environment, eventually

from spoolnode.cluster.store import postgresql, postgresql_connections, postgresql_schema
from spoolnode.cluster.store.interface import Again, CommonStore, Lease, Publication, StoreAway, StoreUnfit
from spoolnode.cluster.store.opening import open_store
from spoolnode.cluster.store.postgresql import PostgresStore
from spoolnode.cluster.store.postgresql_bell import Bell
from spoolnode.cluster.store.postgresql_connections import ServerConnections
from spoolnode.cluster.store.postgresql_safety import Reported, safety_of
from spoolnode.cluster.store.postgresql_schema import VERSION


@pytest.fixture
def own(place: Path) -> Iterator[Postgres]:
    """A server that the test may stop, with tables."""
    server = Postgres(place)
    try:
        server.start()
        asyncio.run(migrated(server.url()))
        yield server
    finally:
        server.end(signal.SIGQUIT)


FAR = 4_000_000_000.0
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
CANCEL = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def migrated(url: str) -> None:
    await (await PostgresStore.open(url, migrates=True)).close()


async def eventually_there(condition: Callable[[], Any]) -> None:
    """Returns when a condition holds, and lets the loop run meanwhile."""
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


# --- what waits for a standby ---

Act = Callable[[CommonStore, Lease], Awaitable[Any]]
ACKNOWLEDGEMENTS: dict[str, Act] = {
    "a new task": lambda store, _: store.publish([new("new")]),
    "a repeat": lambda store, _: store.publish([new("there")]),
    "a repeat of one that has ended": lambda store, _: store.publish([new("ended")]),
    "a duplicate": lambda store, _: store.publish([new("other", key=b"k")]),
    "a body": lambda store, _: store.publish([new("large", bytes(300_000))]),
    "an end": lambda store, lease: store.end([lease]),
    "a repeated end": lambda store, _: store.end([Lease("ended", 0, 1)]),
}


def test_nothing_is_acknowledged_before_a_standby_has_it_nor_when_that_wait_is_cancelled(own: Postgres) -> None:
    """No standby of that name exists, so a commit waits until an operator cancels the wait. Then it succeeds with a warning."""

    async def story(what: str) -> None:
        store = await PostgresStore.open(own.url())
        try:
            await store.end([await held(store, new("ended"))])
            lease = await held(store, new("held"))
            await store.publish([new("there"), new("keyed", key=b"k")])
            set_standby(own, "gone")
            acting = asyncio.ensure_future(ACKNOWLEDGEMENTS[what](store, lease))
            await eventually_there(lambda: acting.done() or own.sql(WAITING))
            assert not acting.done(), what
            while not acting.done():
                await asyncio.to_thread(own.sql, CANCEL)
            with pytest.raises(StoreAway, match="did not make sure"):
                await acting
        finally:
            set_standby(own, "")
            await store.close()
            own.sql("TRUNCATE spoolnode.task, spoolnode.body")

    for what in ACKNOWLEDGEMENTS:
        asyncio.run(story(what))


def set_standby(server: Postgres, name: str) -> None:
    """Makes commits wait for the standby of that name; returns when the server does so."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
        connection.execute("SELECT pg_reload_conf()")
    # That a new connection shows it is not enough: one process of the server tells all others whether commits wait.
    eventually(lambda: commits_wait(server) == bool(name), "the setting is in force")


def commits_wait(server: Postgres) -> bool:
    """Whether a commit waits for a standby now."""
    commit = threading.Thread(target=server.sql, args=("COMMENT ON SCHEMA public IS 'written by a test'",))
    commit.start()
    eventually(lambda: server.sql(WAITING) or not commit.is_alive())
    waits = commit.is_alive()
    while commit.is_alive():
        server.sql(CANCEL)
    commit.join()
    return waits


def test_what_is_safe_is_what_the_server_says(own: Postgres) -> None:
    async def story() -> None:
        store = await PostgresStore.open(own.url())
        try:
            said = await store.check()
            assert (said.survives_crash, said.survives_power_cut, said.survives_lost_disk) == (True, False, False)
            assert any("fsync is off" in sentence for sentence in said.advice)
            assert said.engine.startswith("PostgreSQL 1")
            standby = await asyncio.to_thread(own.standby, "second")
            try:
                said = await store.check()
                assert said.survives_lost_disk
                assert ("standby second", "streaming, sync") in said.facts
            finally:
                standby.end(signal.SIGQUIT)
            await eventually_there(lambda: own.sql("SELECT count(*) FROM pg_stat_replication") == [(0,)])
            said = await store.check()
            assert not said.survives_lost_disk
            assert "acknowledges nothing" in said.advice[-1]
        finally:
            await store.close()

    asyncio.run(story())


SAFE = Reported("15.4 (Debian)", "on", "on", "on", "ANY 1 (a, b)", [("a", "streaming", "quorum")])


@pytest.mark.parametrize(
    ("change", "safe", "advice"),
    [
        ({}, (True, True, True), ""),
        ({"synchronous_commit": "off"}, (False, False, False), "synchronous_commit is off"),
        ({"synchronous_commit": "local"}, (True, True, False), "do not wait for the standby"),
        ({"synchronous_commit": "remote_apply"}, (True, True, True), ""),
        ({"fsync": "off"}, (True, False, True), "fsync is off"),
        ({"full_page_writes": "off"}, (True, False, True), "full_page_writes is off"),
        ({"synchronous_standby_names": "", "standbys": []}, (True, True, False), "only this server"),
        ({"standbys": []}, (True, True, False), "acknowledges nothing"),
        ({"standbys": [("a", "catchup", "sync")]}, (True, True, False), "acknowledges nothing"),
        ({"standbys": [("a", "streaming", "async")]}, (True, True, False), "acknowledges nothing"),
        ({"standbys": [("a", None, None)]}, (True, True, False), "pg_monitor"),
    ],
)
def test_what_is_not_said_to_be_safe_is_not(change: dict[str, Any], safe: tuple[bool, bool, bool], advice: str) -> None:
    said = safety_of(SAFE._replace(**change))
    assert (said.survives_crash, said.survives_power_cut, said.survives_lost_disk) == safe
    assert advice in " ".join(said.advice)
    assert bool(advice) == bool(said.advice)


# --- failures ---


async def until_acknowledged(act: Callable[[], Awaitable[Any]]) -> Any:
    """Says it again until the store acknowledges it, as a node does."""
    async with asyncio.timeout(100):
        while True:
            try:
                return await act()
            except StoreAway:
                await asyncio.sleep(0.05)


def test_a_primary_that_is_killed_under_load_loses_nothing_that_it_acknowledged(own: Postgres) -> None:
    async def story() -> None:
        standby = await asyncio.to_thread(own.standby, "second")
        acknowledged: list[str] = []
        ended: list[str] = []
        try:
            store = await PostgresStore.open(own.url("postgres", standby))

            async def sender(name: int) -> None:
                for number in range(60):
                    group = [new(f"s{name}_{number}_{n}") for n in range(5)]
                    await until_acknowledged(lambda group=group: store.publish(group))  # type: ignore[misc]  # a lambda
                    acknowledged.extend(task.task.id for task in group)

            async def taker() -> None:
                while len(ended) < 300:
                    taken = await until_acknowledged(lambda: take(store, most=10, lease=600))
                    lost = await until_acknowledged(lambda taken=taken: store.end([lease for lease, _ in taken]))  # type: ignore[misc]  # a lambda
                    ended.extend(task.id for lease, task in taken if lease not in lost)
                    await asyncio.sleep(0.01)

            load = [asyncio.create_task(work) for work in (*(sender(name) for name in range(6)), taker())]
            await eventually_there(lambda: len(acknowledged) > 300)
            own.end(signal.SIGKILL)
            await asyncio.to_thread(standby.promote)
            await asyncio.to_thread(set_standby, standby, "")
            await asyncio.wait_for(asyncio.gather(*load), 200)
            known = {row[0]: row[1] for row in standby.sql("SELECT id, state FROM spoolnode.task")}
            assert sorted(known) == sorted(acknowledged)
            assert len(acknowledged) == 1800
            assert {known[name] for name in ended} == {"ended"}
            assert len(ended) == len(set(ended))
            await store.close()
        finally:
            standby.end(signal.SIGQUIT)

    asyncio.run(story())


def test_a_server_that_hangs_is_away(own: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        store = await PostgresStore.open(own.url())
        try:
            await store.publish([new("a")])
            stopped = [own.process.pid, *(row[0] for row in own.sql("SELECT pid FROM pg_stat_activity"))] if own.process else []
            signal_all(stopped, signal.SIGSTOP)
            try:
                monkeypatch.setattr(postgresql_connections, "PATIENCE", 0.5)
                with pytest.raises(StoreAway, match=r"away: (no answer for 0\.5 s|connection timeout expired)"):
                    await asyncio.wait_for(store.publish([new("a"), new("b")]), 60)
                monkeypatch.undo()
            finally:
                signal_all(stopped, signal.SIGCONT)
            told = await until_acknowledged(lambda: store.publish([new("a"), new("b")]))
            assert told[0] == Publication.REPEATED
            assert sorted(ids(await take(store))) == ["a", "b"]
        finally:
            await store.close()

    asyncio.run(story())


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # the connection that asked has ended


TAKER = """
import asyncio, sys
from spoolnode.cluster.store.opening import open_store

async def main():
    store = await open_store(sys.argv[1])
    taken = await store.take(10, ["any"], 1.0)
    print(*(task.id for _, task in taken), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    lost = await store.end([lease for lease, _ in taken])
    print(len(lost), "lost", flush=True)
    await store.close()

asyncio.run(main())
"""


def test_a_node_that_is_stopped_for_longer_than_its_lease_cannot_end_what_another_one_runs(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new("a")])
        command = [sys.executable, "-c", TAKER, in_postgres.url]
        taker = subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert taker.stdout
        assert taker.stdin
        assert taker.stdout.readline() == "a\n"
        taker.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            while not (taken := await take(subject.store)):
                await subject.store.watch(["any"], 1.0)
        taker.send_signal(signal.SIGCONT)
        taker.stdin.write("\n")
        taker.stdin.flush()
        assert taker.stdout.readline() == "1 lost\n"
        assert await subject.store.end([lease for lease, _ in taken]) == frozenset()
        taker.communicate()

    in_postgres.run(story)


# --- connections ---


@contextmanager
def without_collection() -> Iterator[None]:
    """Within, what is kept alive by a cycle stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_connection_that_is_not_wanted_any_more_while_it_is_made_is_closed_at_once() -> None:
    async def story() -> None:
        events: asyncio.Queue[str] = asyncio.Queue()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(8)
            events.put_nowait("asked")
            while await reader.read(1000):
                pass
            events.put_nowait("closed")
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connections = ServerConnections(f"postgresql://127.0.0.1:{port}/x?sslmode=disable&gssencmode=disable")
        bell = Bell(connections)
        with bell.heard(["any"]):
            assert await events.get() == "asked"
            await bell.close()
        assert await asyncio.wait_for(events.get(), 60) == "closed"
        asking = asyncio.create_task(connections.connect())
        assert await events.get() == "asked"
        asking.cancel()
        await asyncio.wait([asking])
        assert await asyncio.wait_for(events.get(), 60) == "closed"
        server.close()

    with without_collection():
        asyncio.run(story())


def test_a_statement_that_looks_dear_is_not_compiled(in_postgres: InPostgres) -> None:
    async def story(_: Subject) -> None:
        connections = ServerConnections(in_postgres.url)
        connection = await connections.connect()
        ((plan,),) = await connections.run(connection, "EXPLAIN (ANALYZE, FORMAT JSON) SELECT relacl FROM pg_class")
        assert plan[0]["Plan"]["Total Cost"] > 1e9, "without an index it looks dear"
        assert "JIT" not in plan[0]
        await connection.close()

    in_postgres.run(story)


def test_a_server_that_dies_while_a_connection_is_made_is_away(in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        monkeypatch.setattr(postgresql_connections, "_PLANS", ["SELECT pg_terminate_backend(pg_backend_pid())"])
        await subject.store.close()
        with pytest.raises(StoreAway, match="away"):
            await subject.store.find("a")

    in_postgres.run(story)


def test_a_store_that_is_closed_while_it_is_used_keeps_no_connection(in_postgres: InPostgres) -> None:
    ours = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'spoolnode' AND datname = '{in_postgres.database}'"
    waits = f"{ours} AND wait_event_type = 'Lock'"

    async def story(subject: Subject) -> None:
        watching = asyncio.create_task(subject.store.watch(["nobody"], 2 * postgresql.POLL))
        with psycopg.connect(in_postgres.url) as other:
            other.execute("LOCK TABLE spoolnode.task IN SHARE MODE")
            publishing = asyncio.create_task(subject.store.publish([new("a")]))
            await eventually_there(lambda: in_postgres.server.sql(waits)[0][0] >= 1)
            await subject.store.close()
        assert await publishing == [Publication.STORED]
        assert await watching is False
        await eventually_there(lambda: in_postgres.server.sql(ours) == [(0,)])

    with without_collection():
        in_postgres.run(story)


# --- waking ---


async def listening(in_postgres: InPostgres, subject: Subject) -> "asyncio.Task[bool]":
    """A watcher that hears the bell by now."""
    watching = asyncio.create_task(subject.store.watch(["any"], 3600))
    listens = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN spoolnode' AND state = 'idle'"
    await eventually_there(lambda: in_postgres.server.sql(listens) == [(1,)])
    return watching


def test_the_bell_wakes_a_watcher_that_would_not_look_by_itself(in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        monkeypatch.setattr(postgresql, "POLL", 3600)
        watching = await listening(in_postgres, subject)
        await (await subject.another()).publish([new("a")])
        assert await asyncio.wait_for(watching, 60)

    in_postgres.run(story)


def test_without_the_bell_a_watcher_looks_by_itself_within_a_second(
    in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any) -> None: ...

    async def story(subject: Subject) -> None:
        monkeypatch.setattr(Bell, "ring", silent)
        watching = asyncio.create_task(subject.store.watch(["any"], 3600))
        await (await subject.another()).publish([new("a")])
        assert await asyncio.wait_for(watching, 60)

    in_postgres.run(story)
    assert postgresql.POLL + postgresql.SWEEP < 1


def test_no_sender_waits_for_the_bell(in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        may_ring, ring = asyncio.Event(), Bell._ring

        async def late(bell: Bell) -> None:
            await may_ring.wait()
            await ring(bell)

        monkeypatch.setattr(Bell, "_ring", late)
        assert await subject.store.publish([new("a")]) == [Publication.STORED]
        may_ring.set()

    in_postgres.run(story)


def test_a_store_that_is_closed_rings_before(in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(subject: Subject) -> None:
        monkeypatch.setattr(postgresql, "POLL", 3600)
        watching = await listening(in_postgres, subject)
        other = await subject.another()
        await other.publish([new("a")])
        await other.close()
        assert await asyncio.wait_for(watching, 60)

    in_postgres.run(story)


# --- tables ---


def unfit(url: str) -> str:
    with pytest.raises(StoreUnfit) as caught:
        asyncio.run(open_store(url))
    return str(caught.value)


def test_tables_are_made_once_however_many_ask_for_them(postgres: Postgres) -> None:
    postgres.sql("CREATE DATABASE fresh")
    url = postgres.url("fresh")
    assert "store check --migrate" in unfit(url)

    async def story() -> None:
        await asyncio.gather(*(migrated(url) for _ in range(3)))
        store = await PostgresStore.open(url)
        assert await store.publish([new("a")]) == [Publication.STORED]
        await store.close()

    asyncio.run(story())
    assert postgres.sql("SELECT number FROM spoolnode.version", "fresh") == [(VERSION,)]


def test_a_schema_of_another_program_is_left_as_it_is_and_an_empty_one_is_used(postgres: Postgres) -> None:
    postgres.sql("CREATE DATABASE foreign_one")
    postgres.sql("CREATE SCHEMA spoolnode; CREATE TABLE spoolnode.task (mine text)", "foreign_one")
    url = postgres.url("foreign_one")
    with pytest.raises(StoreUnfit, match=r"schema `spoolnode` of another program \(with task\)"):
        asyncio.run(migrated(url))
    assert postgres.sql("SELECT relname FROM pg_class WHERE relnamespace = 'spoolnode'::regnamespace", "foreign_one") == [
        ("task",)
    ]
    postgres.sql("DROP TABLE spoolnode.task", "foreign_one")
    asyncio.run(migrated(url))


def test_a_migration_that_would_wait_for_long_gives_up_and_can_be_repeated(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.sql("CREATE DATABASE busy")
    url = postgres.url("busy")
    with psycopg.connect(url) as other, monkeypatch.context() as patch:
        patch.setattr(postgresql_schema, "LOCK_TIMEOUT", "100ms")
        other.execute("SELECT pg_advisory_lock(%s)", [postgresql_schema._ADVISORY_LOCK])
        with pytest.raises(StoreUnfit, match="run the migration again"):
            asyncio.run(migrated(url))
        other.execute("SELECT pg_advisory_unlock_all()")  # the server may end the connection later than we do
    asyncio.run(migrated(url))


def test_a_step_from_one_version_to_the_next_goes_on_while_tasks_are_taken(
    in_postgres: InPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.publish([new(f"t{number}") for number in range(50)])
        monkeypatch.setattr(postgresql_schema, "STEPS", [*postgresql_schema.STEPS, "ALTER TABLE spoolnode.task ADD more text"])
        monkeypatch.setattr(postgresql_schema, "VERSION", VERSION + 1)
        with pytest.raises(StoreUnfit, match="store check --migrate"):
            await subject.another()
        assert len(await take(subject.store, most=10)) == 10
        await migrated(in_postgres.url)
        assert len(await take(subject.store)) == 40  # a node of the version before goes on
        monkeypatch.undo()
        with pytest.raises(StoreUnfit, match="install a newer one"):
            await subject.another()
        server = in_postgres.server
        server.sql("ALTER TABLE spoolnode.task DROP more", in_postgres.database)
        server.sql(f"UPDATE spoolnode.version SET number = {VERSION}", in_postgres.database)

    in_postgres.run(story)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h1,h2", "'redis' is not a kind of store.*nats://.*postgresql://"),
        ("postgresql://127.0.0.1:abc/x", 'cannot be read: invalid integer value "abc" for connection option "port"'),
        ("postgresql://127.0.0.1:99999/x", 'cannot be read: invalid port number: "99999"'),
        ("postgresql://127.0.0.1/x?sslmode=maybe", 'cannot be read: invalid sslmode value: "maybe"'),
        ("postgresql://h1/x?no_such_option=1", "cannot be read"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_with_a_sentence(url: str, said: str) -> None:
    with pytest.raises(StoreUnfit, match=said):
        asyncio.run(open_store(url))


def test_of_a_server_that_is_away_only_the_reason_is_told() -> None:
    with pytest.raises(StoreAway) as caught:
        asyncio.run(open_store(f"postgresql://127.0.0.1:{free_port()}/x"))
    assert re.fullmatch(
        r"the store 127.0.0.1/x is away: connection to server at .* failed: Connection refused", str(caught.value)
    )


@pytest.mark.parametrize(
    ("wrong", "said"), [("user=nobody_there", 'role "nobody_there"'), ("dbname=not_made", 'database "not_made"')]
)
def test_a_server_that_never_lets_us_in_is_not_away(in_postgres: InPostgres, wrong: str, said: str) -> None:
    with pytest.raises(StoreUnfit, match=f"does not let us in: .*{said} does not exist"):
        asyncio.run(open_store(f"{in_postgres.url}&{wrong}"))


def test_a_user_who_may_not_do_what_a_node_does_is_told_which_rights_are_missing(
    postgres: Postgres, in_postgres: InPostgres
) -> None:
    async def check() -> None:
        store = await open_store(f"{in_postgres.url}&user=reader")
        try:
            await store.check()
        finally:
            await store.close()

    postgres.sql("CREATE ROLE reader LOGIN", InPostgres.database)
    postgres.sql("GRANT USAGE ON SCHEMA spoolnode TO reader", InPostgres.database)
    postgres.sql("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA spoolnode TO reader", InPostgres.database)
    with pytest.raises(StoreUnfit, match=r"has not the right to DELETE on spoolnode.task, DELETE on spoolnode.body"):
        asyncio.run(check())
    postgres.sql("GRANT DELETE ON ALL TABLES IN SCHEMA spoolnode TO reader", InPostgres.database)
    asyncio.run(check())


def test_a_password_is_never_shown(in_postgres: InPostgres) -> None:
    url = "postgresql:///x?host=/nowhere&user=me&password=secret"
    with pytest.raises(StoreAway) as caught:
        asyncio.run(open_store(url))
    assert "secret" not in str(caught.value)
    assert "/nowhere" in str(caught.value)


# --- the same tasks from two nodes ---


def test_a_publication_outwaits_a_slow_one_of_the_same_tasks(in_postgres: InPostgres) -> None:
    """An open transaction may hold back a key for as long as it likes; what has no key is held back by publications only."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query_start > %s"

    async def story(subject: Subject) -> None:
        async with (
            await psycopg.AsyncConnection.connect(in_postgres.url) as slow,
            await psycopg.AsyncConnection.connect(in_postgres.url, autocommit=True) as looking,
        ):

            async def waits_since(moment: object) -> None:
                while (await (await looking.execute(waiting, [moment])).fetchall()) == [(0,)]:
                    await asyncio.sleep(0)

            async def now() -> object:
                ((moment,),) = await (await looking.execute("SELECT clock_timestamp()")).fetchall()
                return moment

            await slow.execute(
                "INSERT INTO spoolnode.task (id, hops, state, dest, rank, attempts, size, block)"
                " VALUES ('b', 0, 'ready', 'any', 0, 0, 0, '')"
            )
            start = await now()
            publication = asyncio.ensure_future(subject.store.publish([new("b"), new("a")]))
            await waits_since(start)
            await waits_since(await now())  # the first wait ended at the limit for locks, and this is the second one
            await slow.rollback()
            assert await publication == [Publication.STORED, Publication.STORED]
            assert ids(await take(subject.store)) == ["a", "b"]

    in_postgres.run(story)


# --- plans ---


def test_of_two_with_one_key_one_waits_also_if_the_table_had_one_row_when_it_was_analyzed(in_postgres: InPostgres) -> None:
    """Then the planner would run a subquery once for each row."""

    def look_at(rows: int) -> None:
        in_postgres.server.sql(
            "DELETE FROM spoolnode.task; INSERT INTO spoolnode.task (id, hops, state, dest, rank, attempts, size, block)"
            f" SELECT n, 0, 'ready', 'any', 0, 0, 0, '' FROM generate_series(1, {rows}) n", in_postgres.database
        )  # fmt: skip
        in_postgres.server.sql("VACUUM ANALYZE spoolnode.task", in_postgres.database)
        in_postgres.server.sql("DELETE FROM spoolnode.task", in_postgres.database)

    async def story(subject: Subject) -> None:
        for name in ("a", "b"):
            await held(subject.store, new(name, key=b"k"))
        assert len(await take(await subject.pass_time(31))) == 1

    for rows in (0, 1, 2, 100):
        look_at(rows)
        in_postgres.run(story)


# --- cost ---


def test_extending_leases_changes_no_index(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        lease = await held(subject.store, new("a"))
        for _ in range(20):
            await subject.store.extend([lease], 30)
        for handle in subject.handles:
            await handle.close()  # then the server counts what it did
        figures = "SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'task'"
        eventually(lambda: in_postgres.server.sql(figures, in_postgres.database)[0][0] >= 19)

    in_postgres.server.sql("SELECT pg_stat_reset()", in_postgres.database)
    in_postgres.run(story)


def test_leases_are_extended_while_some_of_them_end_and_others_are_given_back(in_postgres: InPostgres) -> None:
    """All lock their rows in one order: two that met in another one would be a deadlock."""

    async def story(subject: Subject) -> None:
        store = subject.store
        await store.publish([new(f"{number * 7919 % 400:03}") for number in range(400)])
        leases = [lease for lease, _ in await take(store, most=400)]
        for start in range(0, 400, 20):
            done, given = leases[start : start + 10], leases[start + 10 : start + 20]
            left = [*reversed(leases[start:])]
            _, lost, again = await asyncio.gather(
                store.extend(left, 30.0), store.end(done[::-1]), store.again([Again(lease, due=FAR) for lease in given])
            )
            assert not lost | again

    in_postgres.run(story)
