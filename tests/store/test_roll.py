"""What every driver of a common store promises of the list of nodes in it."""

import pytest
from subjects import InNats, InPostgres, Subject

from spoolnode.cluster.store import nats_roll
from spoolnode.cluster.store.interface import StoreAway, StoreUnfit
from spoolnode.cluster.store.nats import NatsStore
from spoolnode.cluster.store.postgresql_connections import ServerConnections
from spoolnode.cluster.store.postgresql_roll import SIGN_IN
from spoolnode.cluster.store.roll import MOST_SAID

A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


def test_each_node_is_told_the_entries_of_the_others_and_not_its_own(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        roll, other = subject.store.roll, (await subject.another()).roll
        assert await roll.sign_in(A, b"a", 60.0) == {}
        assert await other.sign_in(B, b"\x00\n\xff", 60.0) == {A: b"a"}
        assert await roll.sign_in(C, b"c" * MOST_SAID, 60.0) == {A: b"a", B: b"\x00\n\xff"}
        assert await roll.sign_in(A, b"", 60.0) == {B: b"\x00\n\xff", C: b"c" * MOST_SAID}
        assert await other.sign_in(B, b"b", 60.0) == {A: b"", C: b"c" * MOST_SAID}, "an entry takes the place of the earlier one"

    subject.run(story)


def test_an_entry_counts_until_its_time_is_over_and_each_repeat_gives_it_a_new_one(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.roll.sign_in(A, b"a", 60.0)
        await subject.store.roll.sign_in(B, b"b", 60.0)
        store = await subject.pass_time(40.0)
        assert await store.roll.sign_in(A, b"a", 60.0) == {B: b"b"}
        store = await subject.pass_time(40.0)
        assert await store.roll.sign_in(C, b"c", 60.0) == {A: b"a"}
        assert await store.roll.sign_in(B, b"again", 60.0) == {A: b"a", C: b"c"}
        assert await store.roll.sign_in(C, b"c", 60.0) == {A: b"a", B: b"again"}

    subject.run(story)


def test_a_node_that_signs_out_is_named_no_more_at_once_and_may_come_back(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        roll = subject.store.roll
        await roll.sign_in(A, b"a", 60.0)
        await roll.sign_out(A)
        await roll.sign_out(A)
        await roll.sign_out(C)
        assert await roll.sign_in(B, b"b", 60.0) == {}
        await roll.sign_in(A, b"a", 60.0)
        assert await roll.sign_in(B, b"b", 60.0) == {A: b"a"}

    subject.run(story)


def test_two_hundred_nodes_are_told_at_once(subject: Subject) -> None:
    async def story(subject: Subject) -> None:
        nodes = [f"{number:012x}" for number in range(200)]
        for node in nodes:
            told = await subject.store.roll.sign_in(node, b"x" * 300, 3600.0)
        assert sorted(told) == nodes[:-1]

    subject.run(story)


def test_a_list_of_a_store_that_is_away_says_so() -> None:
    from subjects import InMemory

    async def story(subject: Subject) -> None:
        await subject.cut(True)
        with pytest.raises(StoreAway):
            await subject.store.roll.sign_in(A, b"a", 60.0)
        await subject.cut(False)
        assert await subject.store.roll.sign_in(A, b"a", 60.0) == {}

    InMemory().run(story)


def test_entries_of_nodes_that_never_came_back_are_removed_after_a_day(in_postgres: InPostgres) -> None:
    async def story(subject: Subject) -> None:
        await subject.store.roll.sign_in(A, b"a", 60.0)
        store = await subject.pass_time(100_000.0)
        await store.roll.sign_in(B, b"b", 60.0)
        assert in_postgres.server.sql("SELECT id FROM spoolnode.node", in_postgres.database) == [(B,)]

    in_postgres.run(story)


def test_to_sign_in_is_so_cheap_that_postgresql_compiles_nothing_for_it(in_postgres: InPostgres) -> None:
    async def story(_: Subject) -> None:
        connections = ServerConnections(in_postgres.url)
        try:
            async with connections.one() as connection:
                values = {"id": A, "said": b"a", "seconds": 60.0}
                ((plan,),) = await connections.run(connection, "EXPLAIN (FORMAT JSON) " + SIGN_IN, values)
                ((limit,),) = await connections.run(connection, "SHOW jit_above_cost")
        finally:
            await connections.close()
        assert plan[0]["Plan"]["Total Cost"] < float(limit) / 10

    in_postgres.run(story)


def test_a_store_whose_stream_for_nodes_is_missing_says_what_makes_it(request: pytest.FixtureRequest) -> None:
    subject = InNats(request.getfixturevalue("nats_server"))

    async def story(_: Subject) -> None:
        store = await NatsStore.open(subject.cluster.url)
        try:
            await store._connection.ask(f"STREAM.DELETE.{nats_roll.STREAM}")
            with pytest.raises(StoreUnfit, match="store check --migrate"):
                await store.roll.sign_in(A, b"a", 60.0)
        finally:
            await store.close()
        await (await NatsStore.open(subject.cluster.url, migrates=True)).close()
        assert await subject.store.roll.sign_in(A, b"a", 60.0) == {}

    subject.run(story)
