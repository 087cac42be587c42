"""The source store: nodes that find each other in the store that they share."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hearing import Heard, check, until

from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.discovery.enrolled import Enrolled, OwnPlace, Periods, place_now, read_entry, write_entry
from spoolnode.cluster.discovery.interfaces import LocalAddress
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import CommonStore, StoreUnfit
from spoolnode.cluster.store.memory import MemoryStore

QUICK = Periods(refresh=0.005, expiry=60.0)
A, B, C = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
LO = LocalAddress("lo", 1, "127.0.0.1", 8)
ETH0 = LocalAddress("eth0", 2, "10.0.0.5", 24)
ETH0_6 = LocalAddress("eth0", 2, "fd00::5", 64)
ETH0_LOCAL = LocalAddress("eth0", 2, "fe80::5", 64)
BRIDGE = LocalAddress("docker0", 3, "172.17.0.1", 16)
HERE = OwnPlace([ETH0, ETH0_6, ETH0_LOCAL, BRIDGE, LO], "boot 1")


class Member:
    """A node that is in a store, as far as discovery is concerned."""

    def __init__(self, store: CommonStore, node_id: str, address: str, cluster: str = "test") -> None:
        async def connect() -> CommonStore:
            return store

        self.heard = Heard()
        self.contact = Contact(connect, self.heard.report)
        identity = Identity(node_id, f"name-{node_id[0]}", cluster, (address,), tls=False)
        rng = random.Random(node_id)
        self.source = Enrolled(identity, [], self.contact, self.heard.report, rng=rng, periods=QUICK)
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.contact.open()
        self._running = asyncio.create_task(self.source.run(self.heard))

    async def crash(self) -> None:
        """Ends without signing out."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def end(self) -> None:
        """Ends as a node should."""
        await self.crash()
        await self.source.close()
        await self.contact.close()


@asynccontextmanager
async def members(*all_: Member) -> AsyncIterator[None]:
    for member in all_:
        await member.start()
    try:
        yield
    finally:
        for member in all_:
            await member.end()


def test_nodes_of_one_store_find_each_other_with_id_and_name_and_not_themselves() -> None:
    async def test() -> None:
        store = MemoryStore()
        a, b, other = (
            Member(store, A, "10.0.0.1:3031"),
            Member(store, B, "[fd00::2]:3031"),
            Member(store, C, "10.0.0.3:1", "other"),
        )
        async with members(a, b, other):
            await until(lambda: a.heard.found_ and b.heard.found_)
            assert a.heard.found_ == [Candidate("store", B, B, "name-b", ("[fd00::2]:3031",))]
            assert b.heard.found_ == [Candidate("store", A, A, "name-a", ("10.0.0.1:3031",))]
            assert not other.heard.found_

    check(test())


def test_a_node_that_stops_is_named_no_more_and_one_that_dies_after_its_entry_has_expired() -> None:
    async def test() -> None:
        store = MemoryStore()
        a, b, c = Member(store, A, "10.0.0.1:3031"), Member(store, B, "10.0.0.2:3031"), Member(store, C, "10.0.0.3:3031")
        async with members(a, b, c):
            await until(lambda: set(a.heard.addresses) == {B, C})
            await b.end()
            await until(lambda: a.heard.gone_ == [B])
            await c.crash()
            store.advance(61.0)
            await until(lambda: a.heard.gone_ == [B, C])

    check(test())


def test_a_store_that_goes_away_is_said_once_keeps_the_list_and_is_used_again() -> None:
    async def test() -> None:
        store = MemoryStore()
        a, b = Member(store, A, "10.0.0.1:3031"), Member(store, B, "10.0.0.2:3031")
        async with members(a):
            store.is_away = True
            await until(lambda: a.heard.actions)
            store.is_away = False
            await until(lambda: "discovery_works" in a.heard.actions)
            async with members(b):
                await until(lambda: a.heard.found_)
            await until(lambda: a.heard.gone_ == [B])
            assert a.heard.actions == ["discovery_failed", "discovery_works"]
            assert "the last list stays" in a.heard.reports[0][1]

    check(test())


def test_a_list_that_cannot_be_used_is_said_and_tasks_go_on() -> None:
    async def test() -> None:
        store = MemoryStore()

        async def refuse(*_: Any) -> dict[str, bytes]:
            raise StoreUnfit("permission denied for table node")

        store.roll.sign_in = refuse  # type: ignore[method-assign] # a store of which only the list is broken
        a = Member(store, A, "10.0.0.1:3031")
        async with members(a):
            await until(lambda: a.heard.reports)
            assert a.heard.reports == [("discovery_failed", "permission denied for table node; the last list stays")]
            assert a.contact.is_there

    check(test())


# -- the entries --


def identity(*addresses: str) -> Identity:
    return Identity(A, "alpha", "test", addresses, tls=False)


@pytest.mark.parametrize(
    ("advertised", "listen", "addresses"),
    [
        ([], ["0.0.0.0:3031"], ["10.0.0.5:3031", "172.17.0.1:3031"]),
        ([], ["[::]:3031"], ["[fd00::5]:3031"]),
        ([], ["127.0.0.1:3031", "10.0.0.5:3032"], ["10.0.0.5:3032"]),
        ([], ["127.0.0.1:3031"], ["127.0.0.1:3031"]),
        (["spool.example.org:3031"], ["0.0.0.0:3031"], ["spool.example.org:3031"]),
        ([], [], []),
    ],
)
def test_an_entry_has_the_addresses_at_which_others_reach_the_node(
    advertised: list[str], listen: list[str], addresses: list[str]
) -> None:
    assert json.loads(write_entry(identity(*advertised), listen, HERE))["addresses"] == addresses


def test_an_entry_of_many_addresses_stays_small() -> None:
    many = OwnPlace([LocalAddress("eth0", 2, f"fd00::{number:x}", 64) for number in range(1, 200)], "boot 1")
    said = write_entry(identity(), ["[::]:3031"], many)
    found = read_entry(A, said, "test", HERE)
    assert found is not None
    assert len(found.addresses) == 8
    assert len(said) < 1000


def test_a_loopback_address_is_used_only_where_the_loopback_is_the_same() -> None:
    said = write_entry(identity(), ["127.0.0.1:3031"], HERE)
    found = read_entry(A, said, "test", HERE)
    assert found is not None
    assert found.addresses == ("127.0.0.1:3031",)
    assert read_entry(A, said, "test", HERE._replace(loopback="boot 2")) is None
    nowhere = HERE._replace(loopback="")
    assert read_entry(A, write_entry(identity(), ["127.0.0.1:3031"], nowhere), "test", nowhere) is None


def test_an_address_that_this_machine_has_too_comes_last() -> None:
    said = json.dumps({"cluster": "test", "addresses": ["172.17.0.1:3031", "10.0.0.7:3031"]}).encode()
    found = read_entry(A, said, "test", HERE)
    assert found is not None
    assert found.addresses == ("10.0.0.7:3031", "172.17.0.1:3031")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (A, b"\xff"),
        (A, b"[" * 4000),
        (A, b"[]"),
        (A, b"{}"),
        (A, b'{"cluster": "other", "addresses": ["10.0.0.7:3031"]}'),
        (A, b'{"cluster": "test", "addresses": "10.0.0.7:3031"}'),
        (A, b'{"cluster": "test", "addresses": [5, "x", "10.0.0.7:0", "../x:1"]}'),
        ("../x", b'{"cluster": "test", "addresses": ["10.0.0.7:3031"]}'),
    ],
)
def test_an_entry_that_makes_no_sense_or_is_of_another_cluster_is_left_out(node: str, said: bytes) -> None:
    assert read_entry(node, said, "test", HERE) is None


@pytest.mark.parametrize("name", ['"../x"', "5", "null", '""'])
def test_a_name_that_cannot_be_one_is_not_taken(name: str) -> None:
    found = read_entry(A, b'{"cluster": "test", "addresses": ["10.0.0.7:3031"], "name": %b}' % name.encode(), "test", HERE)
    assert found == Candidate("store", A, A, "", ("10.0.0.7:3031",))


def test_the_loopback_of_a_process_is_the_same_each_time_it_looks() -> None:
    first, again = place_now(), place_now()
    assert first.loopback
    assert first.loopback == again.loopback
    assert "127.0.0.1" in {place.address for place in first.interfaces}
