"""mDNS on 127.0.0.1, with the real package: promises that it does not make itself, and what strangers can do."""

import asyncio
import errno
import random
import secrets
import socket
import time
from typing import Any

import pytest
from hearing import SHORT, Heard, Member, check, members, new_cluster, pointers, running, until
from support import PATIENCE
from zeroconf import DNSQuestionType, IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.discovery import announcement, interfaces, lookout, make_sources
from spoolnode.cluster.discovery.announcement import SERVICE
from spoolnode.cluster.discovery.mdns import Mdns


def send_pointers(ids: list[str], ttl: int) -> None:
    """Forges PTR records, as any process on the segment can."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        for start in range(0, len(ids), 20):
            sock.sendto(pointers(ids[start : start + 20], ttl), ("224.0.0.251", 5353))


def described(cluster: str, node_id: str, port: int) -> AsyncServiceInfo:
    identity = Identity(node_id, f"node-{port}", cluster, (), tls=False)
    return announcement.service_info(identity, "00000000", port, ["127.0.0.1"])


@pytest.fixture
def cluster() -> str:
    return new_cluster()


def test_newcomer_and_running_nodes_know_each_other_within_half_a_second(cluster: str) -> None:
    async def test() -> None:
        running_ones, newcomer = [Member(cluster, port) for port in range(4001, 4005)], Member(cluster, 4010)
        async with members(*running_ones, newcomer):
            for one in running_ones:
                await one.started()
            newcomer.start()
            pairs = [pair for one in running_ones for pair in ((one, newcomer), (newcomer, one))]
            took = await until(lambda: all(one.knows(other) for one, other in pairs), "all know each other")
            print(f"newcomer and {len(running_ones)} others: {took:.3f} s")  # noqa: T201  # shown by pytest -s
            assert took < 20, "who does not ask hears the others when they announce themselves: in 30 s at the earliest"
            (candidate,) = [one for one in running_ones[0].heard.found_ if one.key == newcomer.id]
            assert candidate == ("mdns", newcomer.id, newcomer.id, "node-4010", ("127.0.0.1:4010",))

    check(test())


def test_questions_on_loopback_ask_for_answers_to_everybody(cluster: str) -> None:
    """The processes of one machine share the port: an answer to one address reaches only one of them, any of them."""

    async def test() -> None:
        node = Member(cluster, 4001)
        async with members(node):
            await node.started()
            assert node.source._lookout.question is DNSQuestionType.QM
            assert node.source._station is not None
            eth0 = interfaces.LocalAddress("eth0", 2, "10.0.0.5", 24)
            node.source._lookout.listen(node.source._station.zeroconf, [eth0], patience=1)
            assert node.source._lookout.question is None

    check(test())


def test_own_id_and_other_clusters_are_no_candidates(cluster: str) -> None:
    async def test() -> None:
        ours = [Member(cluster, 4001), Member(cluster, 4002)]
        theirs = [Member(new_cluster(), 4003), Member(new_cluster(), 4004)]
        async with members(*ours, *theirs):
            for member in theirs:
                await member.started()
            for member in ours:
                member.start()
            await until(lambda: ours[0].knows(ours[1]) and ours[1].knows(ours[0]))
            assert set(ours[0].heard.addresses) == {ours[1].id}
            assert set(ours[1].heard.addresses) == {ours[0].id}
            assert not theirs[0].heard.found_

    check(test())


def test_goodbye_is_heard_at_once_and_who_stays_away_is_withdrawn(cluster: str) -> None:
    async def test() -> None:
        stays, goes = Member(cluster, 4001, tuning=SHORT), Member(cluster, 4002)
        async with members(stays, goes):
            stays.start()
            goes.start()
            await until(lambda: stays.knows(goes))
            await goes.end()
            await until(lambda: stays.heard.leaving_ == [goes.id], "the goodbye")
            await until(lambda: stays.heard.gone_ == [goes.id], "it is withdrawn")

    check(test())


def test_forged_goodbye_heals(cluster: str) -> None:
    async def test() -> None:
        watcher, victim = Member(cluster, 4001), Member(cluster, 4002, tuning=SHORT)
        async with members(watcher, victim):
            watcher.start()
            victim.start()
            await until(lambda: watcher.knows(victim))
            # The first is contradicted by its victim; the second comes too soon after it, and heals with the next announcement.
            for count in (1, 2):
                send_pointers([victim.id, secrets.token_hex(6)], ttl=0)  # the package ignores the same packet within a second
                await until(lambda: len(watcher.heard.leaving_) >= count, "the goodbye is heard")  # noqa: B023  # this turn's
                await until(lambda: len(watcher.heard.found_) >= 1 + count, "it is known again")  # noqa: B023  # awaited at once
            assert not watcher.heard.gone_

    check(test())


@pytest.mark.parametrize("port", [4002, 4003])
def test_node_that_crashed_and_returns_is_found_again_at_once(cluster: str, port: int) -> None:
    async def test() -> None:
        watcher, before = Member(cluster, 4001), Member(cluster, 4002)
        after = Member(cluster, port, id=before.id)
        async with members(watcher, before, after):
            watcher.start()
            before.start()
            await until(lambda: watcher.knows(before))
            await before.crash()
            known = len(watcher.heard.found_)
            await after.started()
            took = await until(lambda: len(watcher.heard.found_) > known, "found again")
            assert took < 20, "its next announcement comes after 30 s at the earliest"
            await until(lambda: watcher.heard.addresses[before.id] == (f"127.0.0.1:{port}",))
            assert not watcher.heard.leaving_

    check(test())


@pytest.mark.slow
def test_two_hundred_services_resolve_at_once(cluster: str) -> None:
    async def test() -> None:
        crowd = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        await crowd.zeroconf.async_wait_for_start()
        for number in range(200):  # without 600 announcements: the newcomer asks
            crowd.zeroconf.registry.async_add(described(cluster, secrets.token_hex(6), 5000 + number))
        newcomer = Member(cluster, 4001)
        async with members(newcomer):
            newcomer.start()
            took = await until(lambda: len(newcomer.heard.addresses) == 200, "all are known")
            print(f"200 services known after {took:.3f} s")  # noqa: T201  # shown by pytest -s
            assert took < 20, "one after another, or with their next announcements, they would take 30 s and more"
        crowd.zeroconf.registry.async_remove(crowd.zeroconf.registry.async_get_service_infos())
        await crowd.async_close()

    check(test())


def test_records_too_long_are_reported_and_not_announced_while_others_are_found(cluster: str) -> None:
    async def test() -> None:
        too_long, other = Member(cluster, 4001, name="n" * 300, tuning=SHORT), Member(cluster, 4002)
        async with members(too_long, other):
            too_long.start()
            await until(lambda: too_long.heard.reports)
            other.start()
            await until(lambda: too_long.knows(other), "it finds others")
            assert not too_long.is_announced
            assert too_long.heard.actions == ["discovery_failed"]
            assert "TXT record" in too_long.heard.reports[0][1]
            assert not other.heard.found_

    check(test())


def test_without_multicast_there_is_one_warning_and_the_other_sources_go_on(cluster: str) -> None:
    async def test() -> None:
        heard, attempts = Heard(), 0

        def make(**arguments: Any) -> AsyncZeroconf:
            nonlocal attempts
            attempts += 1
            if attempts <= 3:
                raise OSError(errno.ENODEV, "No such device")
            return AsyncZeroconf(**arguments)

        identity = Identity("0123456789ab", "here", cluster, (), tls=False)
        tuning = SHORT._replace(make=make, retry=0.02)
        mdns = Mdns("mdns", identity, [("127.0.0.1", 4001)], heard.report, rng=random.Random(1), tuning=tuning)
        other = Member(cluster, 4002)
        (static,) = make_sources(["static://127.0.0.1:9999"], identity, [], heard.report)
        async with members(other), running(mdns, static, heard=heard):
            await other.started()
            await until(lambda: attempts == 2)
            assert heard.actions == ["discovery_failed"]
            assert "No such device" in heard.reports[0][1]
            assert set(heard.addresses) == {"127.0.0.1:9999"}
            await until(lambda: other.id in heard.addresses, "it works after all")
            assert heard.actions == ["discovery_failed", "discovery_works"]

    check(test())


@pytest.mark.slow
def test_thousands_of_ghosts_do_not_keep_a_newcomer_out(cluster: str) -> None:
    async def test() -> None:
        node, newcomer = Member(cluster, 4001), Member(cluster, 4002)
        async with members(node, newcomer):
            await node.started()
            send_pointers([secrets.token_hex(6) for _ in range(3000)], ttl=4500)
            await until(lambda: node.source._lookout._asking, "the ghosts are asked for")
            newcomer.start()
            await until(lambda: node.knows(newcomer), "the newcomer is known")
            assert len(node.source._lookout._asking) <= lookout.MAX_ASKED
            assert len(node.source._lookout._heard) <= lookout.MAX_HEARD
            assert set(node.heard.addresses) == {newcomer.id}
            start = time.monotonic()
            await node.end()
            assert time.monotonic() - start < 20, "all ghosts are asked for in 38 s: it does not wait for that"

    check(test())


def test_newcomer_is_known_although_more_ghosts_are_heard_than_may_wait(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine so many come between two looks. What is dropped then would be heard again after minutes."""
    monkeypatch.setattr(lookout, "DEBOUNCE_SECONDS", PATIENCE * 10)

    async def test() -> None:
        node, newcomer = Member(cluster, 4001), Member(cluster, 4002)
        async with members(node, newcomer):
            await node.started()
            while len(node.source._lookout._heard) < lookout.MAX_HEARD:
                send_pointers([secrets.token_hex(6) for _ in range(200)], ttl=4500)
                await asyncio.sleep(0.01)  # less than its socket takes in at once
            newcomer.start()
            await until(lambda: node.knows(newcomer), "the newcomer is known")
            assert len(node.source._lookout._heard) == lookout.MAX_HEARD

    check(test())


def test_too_many_candidates_are_ignored_with_one_line_until_there_is_room(cluster: str) -> None:
    async def test() -> None:
        crowd = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        await crowd.zeroconf.async_wait_for_start()
        infos = [described(cluster, secrets.token_hex(6), 5000 + number) for number in range(8)]
        for info in infos:
            crowd.zeroconf.registry.async_add(info)
        node = Member(cluster, 4001, tuning=SHORT._replace(limit=5))
        async with members(node):
            node.start()
            await until(lambda: node.heard.reports)
            assert len(node.heard.addresses) == 5
            assert node.heard.actions == ["discovery_full"]
            late = [info for info in infos if announcement.node_id_in(info.name) not in node.heard.addresses]
            for info in infos:
                if info not in late:
                    await (await crowd.async_unregister_service(info))
            await until(lambda: len(node.heard.addresses) == 8, "the others have their turn")
        await crowd.async_close()

    check(test())


def test_records_that_nobody_can_use_are_ignored(cluster: str) -> None:
    def identity(node_id: str, **changes: Any) -> Identity:
        return Identity(node_id, "node", cluster, (), tls=False)._replace(**changes)

    own, ids = identity("0123456789ab"), [secrets.token_hex(6) for _ in range(8)]
    speaking = [interfaces.LocalAddress("lo", 1, "127.0.0.1", 8)]

    def read(info: AsyncServiceInfo) -> object:
        return announcement.candidate_in(info, own, "mdns", speaking)

    good = announcement.service_info(identity(ids[0]), "1", 4001, ["127.0.0.1"])
    assert read(good)
    assert read(announcement.service_info(identity(ids[1]), "1", 4001, ["0.0.0.0", "224.0.0.1", "fe80::1"])) is None
    assert read(announcement.service_info(identity(ids[2]), "1", 0, ["127.0.0.1"])) is None
    assert read(announcement.service_info(identity(ids[3], cluster="other"), "1", 4001, ["127.0.0.1"])) is None
    another = AsyncServiceInfo(SERVICE, announcement.service_name(ids[4]), port=4001, properties=good.decoded_properties)
    assert read(another) is None
    outside = [interfaces.LocalAddress("eth0", 2, "10.0.0.1", 24)]
    assert announcement.candidate_in(good, own, "mdns", outside) is None, (
        "a loopback address from another machine means ourselves"
    )
    named_badly = read(announcement.service_info(identity(ids[5], name="a b\n"), "1", 4001, ["127.0.0.1"]))
    assert isinstance(named_badly, tuple)
    assert named_badly[0].name == ""


def test_new_interfaces_are_used_and_nobody_hears_a_goodbye(cluster: str) -> None:
    async def test() -> None:
        number = 1

        def present() -> list[interfaces.LocalAddress]:
            return [interfaces.LocalAddress("lo", number, "127.0.0.1", 8)]

        tuning = SHORT._replace(present=present, missing=PATIENCE)
        node, other = Member(cluster, 4001, tuning=tuning), Member(cluster, 4002)
        async with members(node, other):
            await node.started()
            other.start()
            await until(lambda: node.knows(other) and other.knows(node))
            before = node.source._station
            number = 2
            await until(lambda: node.source._station not in {None, before} and node.is_announced, "new sockets")
            newcomer = Member(cluster, 4003)
            async with members(newcomer):
                newcomer.start()
                await until(lambda: node.knows(newcomer) and newcomer.knows(node))
                await until(lambda: not node.source._lookout._missing, "who was known is heard on the new sockets")
            assert node.id not in other.heard.leaving_
            assert other.id not in node.heard.gone_

    check(test())


def test_node_that_nobody_can_reach_is_not_announced_and_finds_others(cluster: str) -> None:
    async def test() -> None:
        silent, other = Member(cluster, 0), Member(cluster, 4002)
        async with members(silent, other):
            silent.start()
            other.start()
            await until(lambda: silent.knows(other))
            assert not silent.is_announced
            assert not silent.heard.reports

    check(test())


def test_advertised_address_is_announced_instead_of_the_listening_one(cluster: str) -> None:
    async def test() -> None:
        node, other = Member(cluster, 4001, addresses=("192.0.2.7:7777",)), Member(cluster, 4002)
        async with members(node, other):
            node.start()
            other.start()
            await until(lambda: other.knows(node))
            assert other.heard.addresses[node.id] == ("192.0.2.7:7777",)

    check(test())


@pytest.mark.parametrize("moment", ["before it runs", "while it runs", "twice"])
def test_close_ends_it_whenever_it_comes(cluster: str, moment: str) -> None:
    async def test() -> None:
        node = Member(cluster, 4001)
        if moment != "before it runs":
            await node.started()
        async with asyncio.timeout(60):  # else never
            await node.source.close()
            if moment == "twice":
                await node.source.close()
        assert node.source._station is None
        await node.end()

    check(test())
