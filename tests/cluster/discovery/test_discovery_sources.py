"""The sources that do not listen to a network segment: static, dns, dns+srv, file."""

import asyncio
import json
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hearing import Heard, check, running, until

from spoolnode.cluster.candidate import Candidate
from spoolnode.cluster.discovery.addresses import addresses_at, join
from spoolnode.cluster.discovery.dns import addresses_of
from spoolnode.cluster.discovery.file import MAX_BYTES, File, read_peers
from spoolnode.cluster.discovery.listing import Listing
from spoolnode.cluster.discovery.polled import Polled
from spoolnode.cluster.discovery.srv import targets_of, with_dnspython
from spoolnode.cluster.discovery.static import Static

QUICK = 0.005


class Names:
    """A name server: host -> addresses, or None when it does not answer."""

    def __init__(self, **hosts: list[str] | None) -> None:
        self.hosts = hosts
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        found = self.hosts.get(host)
        if found is None:
            raise OSError(-3, "Temporary failure in name resolution")
        return [join(address, port) for address in found]

    async def asked_again(self, times: int = 2) -> None:
        """Returns when the source has certainly seen what was set last."""
        enough = self.asked + times
        await until(lambda: self.asked >= enough, "the next lookup")


def dns(names: Names, heard: Heard) -> Polled:
    return Polled("dns://spool:3031", addresses_of("spool", 3031, names), heard.report, rng=random.Random(1), refresh=QUICK)


# -- static --


def test_written_addresses_are_candidates_at_once_and_names_when_they_are_looked_up() -> None:
    async def test() -> None:
        names, heard = Names(alpha=["10.0.0.1", "fd00::1"]), Heard()
        uri, targets = "static://alpha:3031,10.0.0.2:3032", ["alpha:3031", "10.0.0.2:3032"]
        async with running(Static(uri, targets, heard.report, rng=random.Random(1), lookup=names, refresh=QUICK), heard=heard):
            await until(lambda: heard.addresses.get("alpha:3031") == ("10.0.0.1:3031", "[fd00::1]:3031"))
            assert heard.addresses["10.0.0.2:3032"] == ("10.0.0.2:3032",)
            names.hosts["alpha"] = ["fd00::1", "10.0.0.1"]
            await names.asked_again()
            assert len(heard.found_) == 3, "another order is no change"
            names.hosts["alpha"] = ["10.0.0.9"]
            await until(lambda: heard.addresses["alpha:3031"] == ("10.0.0.9:3031",))
            assert {candidate.source for candidate in heard.found_} == {uri}

    check(test())


def test_written_name_that_cannot_be_looked_up_is_reported_once_and_never_withdrawn() -> None:
    async def test() -> None:
        names, heard = Names(beta=["10.0.0.2"]), Heard()
        targets = ["alpha:3031", "beta:3031"]
        async with running(
            Static("static://", targets, heard.report, rng=random.Random(1), lookup=names, refresh=QUICK), heard=heard
        ):
            await until(lambda: heard.addresses.get("beta:3031") == ("10.0.0.2:3031",))
            await names.asked_again(6)
            assert heard.actions == ["discovery_failed"]
            assert "alpha" in heard.reports[0][1]
            assert heard.addresses["alpha:3031"] == ("alpha:3031",)
            names.hosts["alpha"] = ["10.0.0.1"]
            await until(lambda: heard.addresses["alpha:3031"] == ("10.0.0.1:3031",))
            assert heard.actions == ["discovery_failed", "discovery_works"]
            assert not heard.gone_

    check(test())


# -- dns --


def test_each_address_of_a_name_is_a_candidate() -> None:
    async def test() -> None:
        names, heard = Names(spool=["10.0.0.1", "fd00::2"]), Heard()
        async with running(dns(names, heard), heard=heard):
            await until(lambda: heard.found_)
            expected = {"10.0.0.1:3031": ("10.0.0.1:3031",), "[fd00::2]:3031": ("[fd00::2]:3031",)}
            assert heard.addresses == expected
            await names.asked_again()
            assert len(heard.found_) == 2

    check(test())


def test_failed_lookup_keeps_the_list_and_is_said_once_and_so_is_its_end() -> None:
    async def test() -> None:
        names, heard = Names(spool=["10.0.0.1"]), Heard()
        async with running(dns(names, heard), heard=heard):
            await until(lambda: heard.found_)
            names.hosts["spool"] = None
            await names.asked_again(8)
            assert heard.actions == ["discovery_failed"]
            assert not heard.gone_
            names.hosts["spool"] = ["10.0.0.1"]
            await until(lambda: len(heard.actions) > 1)
            assert heard.actions == ["discovery_failed", "discovery_works"]
            assert len(heard.found_) == 1

    check(test())


def test_address_absent_three_times_in_a_row_is_withdrawn_and_not_before() -> None:
    one, two = (Candidate("s", key, "", "", (key,)) for key in ("1", "2"))
    listing = Listing(patience=3)
    assert listing.update([one, two]) == ([one, two], [])
    assert listing.update([one]) == ([], [])
    assert listing.update([one]) == ([], [])
    assert listing.update([one, two]) == ([], []), "it was there again in time"
    assert listing.update([one]) == ([], [])
    assert listing.update([one]) == ([], [])
    assert listing.update([one]) == ([], ["2"])
    assert listing.update([one]) == ([], [])
    assert listing.update([one, two]) == ([two], [])


def test_addresses_that_the_name_no_longer_has_are_withdrawn() -> None:
    async def test() -> None:
        names, heard = Names(spool=["10.0.0.1", "10.0.0.2"]), Heard()
        async with running(dns(names, heard), heard=heard):
            await until(lambda: len(heard.addresses) == 2)
            names.hosts["spool"] = ["10.0.0.2"]
            await until(lambda: heard.gone_ == ["10.0.0.1:3031"])
            names.hosts["spool"] = ["10.0.0.1"]
            await until(lambda: len(heard.found_) == 3)

    check(test())


def test_the_systems_resolver_is_asked() -> None:
    async def test() -> None:
        assert "127.0.0.1:3031" in await addresses_at("localhost", 3031)
        assert await addresses_at("::1", 3031) == ["[::1]:3031"]
        with pytest.raises(OSError, match="not a host name"):
            await addresses_at("a" * 64 + ".example", 3031)

    check(test())


# -- dns+srv --


def test_each_target_of_srv_records_is_a_candidate_with_its_own_port() -> None:
    async def test() -> None:
        names = Names(a=["10.0.0.1", "10.0.0.2"], b=["10.0.0.3"], empty=None)

        async def records(name: str) -> list[tuple[str, int]]:
            return [("a", 3031), ("b", 4031), ("empty", 5031)]

        assert await targets_of("_uwsgi-spool._tcp.x", records, names)() == {
            "a:3031": ["10.0.0.1:3031", "10.0.0.2:3031"],
            "b:4031": ["10.0.0.3:4031"],
        }

    check(test())


def test_srv_targets_that_all_lack_addresses_are_no_answer() -> None:
    async def test() -> None:
        async def records(name: str) -> list[tuple[str, int]]:
            return [("a", 3031)]

        with pytest.raises(OSError, match="no target"):
            await targets_of("_uwsgi-spool._tcp.x", records, Names())()

    check(test())


def test_dnspython_reads_real_srv_records() -> None:
    message: Any = pytest.importorskip("dns.message")
    asyncresolver: Any = pytest.importorskip("dns.asyncresolver")
    rrset: Any = pytest.importorskip("dns.rrset")

    class Server(asyncio.DatagramProtocol):
        """Answers each question for known.test with two records, all others with NXDOMAIN."""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            query = message.from_wire(data)
            answer = message.make_response(query)
            if "known" in str(query.question[0].name):
                name = query.question[0].name
                answer.answer.append(rrset.from_text(name, 60, "IN", "SRV", "20 0 3032 b.test.", "10 5 3031 a.test."))
            else:
                answer.set_rcode(3)
            self.transport.sendto(answer.to_wire(), address)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))

        def make() -> Any:
            resolver = asyncresolver.Resolver(configure=False)
            resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
            return resolver

        records = with_dnspython(make)
        assert await records("_uwsgi-spool._tcp.known.test") == [("a.test", 3031), ("b.test", 3032)]
        with pytest.raises(OSError, match="does not exist"):
            await records("_uwsgi-spool._tcp.other.test")
        transport.close()

    check(test())


# -- file --


def write(path: Path, groups: object) -> None:
    """As a good citizen writes: beside, then renamed into place."""
    beside = path.with_suffix(".new")
    beside.write_text(groups if isinstance(groups, str) else json.dumps(groups))
    beside.replace(path)


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    return tmp_path / "peers.json"


def with_file(peers: Path, test: Callable[[Heard], Awaitable[None]]) -> None:
    async def whole() -> None:
        heard = Heard()
        async with running(File(f"file://{peers}", str(peers), heard.report, poll=QUICK), heard=heard):
            await test(heard)

    check(whole())


def test_file_is_read_again_when_it_changes(peers: Path) -> None:
    async def test(heard: Heard) -> None:
        await until(lambda: len(heard.found_) == 2)
        write(peers, [{"targets": ["10.0.0.2:3031", "10.0.0.3:3031"]}])
        await until(lambda: heard.gone_ == ["10.0.0.1:3031"])
        assert set(heard.addresses) == {"10.0.0.1:3031", "10.0.0.2:3031", "10.0.0.3:3031"}
        assert len(heard.found_) == 3

    write(peers, [{"targets": ["10.0.0.1:3031", "10.0.0.2:3031"]}])
    with_file(peers, test)


@pytest.mark.parametrize(
    "broken", ["", "{", "{}", '[{"targets": "a:1"}]', '[{"targets": ["a"]}]', "\udcff", "no file", "[" * 100_000]
)
def test_broken_file_keeps_the_last_good_list_and_is_said_once(peers: Path, broken: str) -> None:
    async def test(heard: Heard) -> None:
        await until(lambda: heard.found_)
        if broken == "no file":
            peers.unlink()
        else:
            peers.write_bytes(os.fsencode(broken))
        await until(lambda: heard.reports)
        write(peers, [{"targets": ["10.0.0.1:3031", "10.0.0.2:3031"]}])
        await until(lambda: len(heard.found_) == 2)
        assert heard.actions == ["discovery_failed", "discovery_works"]
        assert str(peers) in heard.reports[0][1]
        assert not heard.gone_

    write(peers, [{"targets": ["10.0.0.1:3031"]}])
    with_file(peers, test)


def test_file_that_comes_later_is_read_then(peers: Path) -> None:
    async def test(heard: Heard) -> None:
        await until(lambda: heard.reports)
        write(peers, [{"targets": ["10.0.0.1:3031"]}])
        await until(lambda: heard.found_)

    with_file(peers, test)


def test_labels_make_one_node_of_several_targets() -> None:
    text = json.dumps(
        [
            {"targets": ["10.0.0.1:3031", "[fd00::1]:3031"], "labels": {"id": "0123456789ab", "name": "gamma", "rack": "7"}},
            {"targets": ["10.0.0.2:3031"], "labels": {"name": "delta"}},
            {"targets": ["epsilon:3031"], "labels": {}},
            {"targets": []},
        ]
    )
    assert read_peers(text, "file:///x") == [
        Candidate("file:///x", "0123456789ab", "0123456789ab", "gamma", ("10.0.0.1:3031", "[fd00::1]:3031")),
        Candidate("file:///x", "delta", "", "delta", ("10.0.0.2:3031",)),
        Candidate("file:///x", "epsilon:3031", "", "", ("epsilon:3031",)),
    ]


@pytest.mark.parametrize("labels", [{"id": "12"}, {"id": 12}, {"name": "any"}, {"name": "a b"}, [], None])
def test_labels_that_name_no_node_are_refused(labels: object) -> None:
    with pytest.raises(ValueError, match="entry 1"):
        read_peers(json.dumps([{"targets": ["10.0.0.1:3031"], "labels": labels}]), "file:///x")


def test_huge_file_is_refused(peers: Path) -> None:
    async def test(heard: Heard) -> None:
        await until(lambda: heard.reports)
        assert f"more than {MAX_BYTES} bytes" in heard.reports[0][1]

    peers.write_bytes(b" " * (MAX_BYTES + 1))
    with_file(peers, test)
