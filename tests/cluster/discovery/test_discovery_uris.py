"""The forms of `--discover`, and where mDNS speaks."""

import sys
from typing import Any

import pytest

from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.discovery import make_sources
from spoolnode.cluster.discovery.file import File
from spoolnode.cluster.discovery.followed import Followed
from spoolnode.cluster.discovery.interfaces import LocalAddress, announced, best_first, nearest_first, present, speak_from
from spoolnode.cluster.discovery.mdns import Mdns
from spoolnode.cluster.discovery.polled import Polled
from spoolnode.cluster.discovery.static import Static
from spoolnode.node.badconfig import BadConfig

IDENTITY = Identity("0123456789ab", "here", "test", (), tls=False)


def report(action: str, **details: Any) -> None:
    raise AssertionError(action)


def make(*uris: str) -> list[Any]:
    return list(make_sources(list(uris), IDENTITY, ["127.0.0.1:3031", "/run/spool.sock"], report))


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("mdns", Mdns),
        ("mdns://", Mdns),
        ("mdns://?interface=10.0.0.1&interface=eth1", Mdns),
        ("mdns?interface=10.0.0.1", Mdns),
        ("static://a.example:3032,b.example:3032,[fd00::1]:3031", Static),
        ("dns://spool:3031", Polled),
        ("dns://spool:3031?refresh=30", Polled),
        ("dns://spool:3031?refresh=30s", Polled),
        ("file:///etc/spoolnode/peers.json", File),
        ("consul://127.0.0.1:8500/spoolnode", Followed),
        ("consul://[::1]:8500/spoolnode", Followed),
        ("k8s://spoolnode-nodes", Followed),
        ("k8s://jobs/spoolnode-nodes:uwsgi", Followed),
        ("k8s://spoolnode-nodes:3031", Followed),
    ],
)
def test_every_form_makes_its_source(uri: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    (source,) = make(uri)
    assert type(source) is kind
    assert source.uri == uri


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("", "must be mdns, static"),
        ("avahi", "must be mdns, static"),
        ("static", "must be mdns, static"),
        ("http://x", "must be mdns, static"),
        ("mdns://default", "mdns has no host"),
        ("mdns://?interfaces=10.0.0.1", "no option 'interfaces'"),
        ("mdns://?interface=", "is empty"),
        ("static://", "''"),
        ("static://a:3031,", "''"),
        ("static://a", "'a'"),
        ("static://a:0", "'a:0'"),
        ("static://a:99999", "'a:99999'"),
        ("static://a:3031?refresh=3", "no option 'refresh'; it has none"),
        ("dns://spool", "'spool'"),
        ("dns://spool:3031?refresh=0", "from 1 to 86400"),
        ("dns://spool:3031?refresh=nan", "from 1 to 86400"),
        ("dns://spool:3031?refresh=x", "from 1 to 86400"),
        ("dns+srv://", "name of SRV records"),
        ("dns+srv://a:3031", "name of SRV records"),
        ("file://peers.json", "three slashes"),
        ("file:///x?poll=1", "no option 'poll'"),
        ("consul://127.0.0.1:8500", "an agent and a service"),
        ("consul://127.0.0.1:8500/", "an agent and a service"),
        ("consul://127.0.0.1:8500/a/b", "an agent and a service"),
        ("consul://127.0.0.1/spoolnode", "'127.0.0.1'"),
        ("consul://a:8500/spoolnode?dc=x", "no option 'dc'"),
        ("k8s://", "name a Service"),
        ("k8s://a/b/c", "name a Service"),
        ("k8s://Spool_Node", "name a Service"),
        ("k8s://a:b:c", "name a Service"),
        ("k8s://spoolnode-nodes", "only in a pod of Kubernetes"),
        ("store", "name it with --store"),
        ("store://db", "has no address of its own"),
        ("store?refresh=3", "no option 'refresh'"),
    ],
)
def test_bad_form_is_refused_with_one_sentence_that_names_it(uri: str, said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        make(uri)
    assert said in str(caught.value)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_token_of_consul_is_in_neither_the_name_of_the_source_nor_an_error() -> None:
    (source,) = make("consul://s3cret@127.0.0.1:8500/spoolnode")
    assert source.uri == "consul://127.0.0.1:8500/spoolnode"
    with pytest.raises(BadConfig) as caught:
        make("consul://s3cret@127.0.0.1:8500/")
    assert "s3cret" not in str(caught.value)


def test_none_is_nobody_and_stands_alone() -> None:
    assert make("none") == []
    with pytest.raises(BadConfig, match="none cannot be combined"):
        make("none", "mdns")


def test_the_same_source_twice_is_one_and_several_are_several() -> None:
    assert [source.uri for source in make("mdns", "static://a:1", "mdns")] == ["mdns", "static://a:1"]


def test_srv_without_dnspython_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    monkeypatch.setitem(sys.modules, "dns.exception", None)
    with pytest.raises(BadConfig, match=r"pip install dnspython"):
        make("dns+srv://_uwsgi-spool._tcp.example.org")


def test_srv_with_dnspython_makes_its_source() -> None:
    pytest.importorskip("dns.asyncresolver")
    (source,) = make("dns+srv://_uwsgi-spool._tcp.example.org?refresh=5")
    assert type(source) is Polled


# -- where mDNS speaks, and what it announces --

LO = LocalAddress("lo", 1, "127.0.0.1", 8)
LO6 = LocalAddress("lo", 1, "::1", 128)
ETH0 = LocalAddress("eth0", 2, "10.0.0.5", 24)
ETH0_6 = LocalAddress("eth0", 2, "2001:db8::5", 64)
ETH0_LOCAL = LocalAddress("eth0", 2, "fe80::5", 64)
BRIDGE = LocalAddress("docker0", 3, "172.17.0.1", 16)
ALL = [LO, LO6, ETH0, ETH0_6, ETH0_LOCAL, BRIDGE]


@pytest.mark.parametrize(
    ("hosts", "wanted", "expected"),
    [
        (["0.0.0.0"], [], [ETH0, BRIDGE]),
        (["::"], [], [ETH0, BRIDGE]),
        (["10.0.0.5"], [], [ETH0]),
        (["10.0.0.5", "127.0.0.1"], [], [ETH0]),
        (["2001:db8::5"], [], [ETH0]),
        (["127.0.0.1"], [], [LO]),
        (["127.0.0.9"], [], [LO]),
        (["::1"], [], [LO]),
        (["192.0.2.1"], [], []),
        ([], [], [LO, ETH0, BRIDGE]),
        (["0.0.0.0"], ["10.0.0.5"], [ETH0]),
        (["0.0.0.0"], ["eth0", "lo"], [LO, ETH0]),
        (["127.0.0.1"], ["eth7"], []),
    ],
)
def test_mdns_speaks_where_the_node_listens(hosts: list[str], wanted: list[str], expected: list[LocalAddress]) -> None:
    assert speak_from(ALL, hosts, wanted) == expected


ETH1_6 = LocalAddress("eth1", 4, "fd00::5", 64)
ETH1_6B = LocalAddress("eth1", 4, "fd01::5", 64)
ETH1_LOCAL = LocalAddress("eth1", 4, "fe80::6", 64)


@pytest.mark.parametrize(
    ("hosts", "wanted", "expected"),
    [
        (["::"], [], [ETH0, ETH1_6]),
        (["fd00::5"], [], [ETH1_6]),
        (["10.0.0.5"], [], [ETH0]),
        (["::"], ["eth1"], [ETH1_6]),
        ([], [], [LO, ETH0, ETH1_6]),
    ],
)
def test_mdns_speaks_ipv6_on_an_interface_that_has_nothing_else(
    hosts: list[str], wanted: list[str], expected: list[LocalAddress]
) -> None:
    assert speak_from([LO, LO6, ETH0, ETH0_6, ETH1_6, ETH1_6B, ETH1_LOCAL], hosts, wanted) == expected


def test_a_node_on_an_ipv6_only_machine_is_announced_with_all_its_addresses() -> None:
    places = [LO, LO6, ETH1_6, ETH1_6B, ETH1_LOCAL]
    assert announced([("::", 3031)], places, speak_from(places, ["::"], [])) == (3031, ["fd00::5", "fd01::5"])


def test_the_way_out_is_spoken_on_and_announced_before_ten_bridges_of_containers() -> None:
    bridges = [LocalAddress(f"br-{number:x}", 10 + number, f"172.{18 + number}.0.1", 16) for number in range(24)]
    lan = LocalAddress("eno1", 3, "192.168.1.5", 24)
    places = best_first([*bridges, BRIDGE, LO, lan, ETH0], {"eth0"})
    speaking = speak_from(places, ["0.0.0.0"], [])
    assert speaking[:2] == [ETH0, lan]
    assert len(speaking) == 16
    port, addresses = announced([("0.0.0.0", 3031)], places, speaking)
    assert (port, addresses[:2], len(addresses)) == (3031, ["10.0.0.5", "192.168.1.5"], 8)


def test_a_loopback_listener_beside_a_wildcard_one_is_not_what_is_announced() -> None:
    for listen in ([("0.0.0.0", 3031), ("127.0.0.1", 3032)], [("127.0.0.1", 3032), ("0.0.0.0", 3031)]):
        assert announced(listen, ALL, [ETH0]) == (3031, ["10.0.0.5"])


def test_mdns_speaks_on_loopback_when_there_is_no_network() -> None:
    assert speak_from([LO, LO6], ["0.0.0.0"], []) == [LO]


@pytest.mark.parametrize(
    ("listen", "speaking", "expected"),
    [
        ([("0.0.0.0", 3031)], [ETH0, BRIDGE], (3031, ["10.0.0.5", "172.17.0.1"])),
        ([("::", 3031)], [ETH0], (3031, ["2001:db8::5"])),
        ([("0.0.0.0", 3031), ("::", 3031)], [ETH0], (3031, ["10.0.0.5", "2001:db8::5"])),
        ([("127.0.0.1", 3031)], [LO], (3031, ["127.0.0.1"])),
        ([("127.0.0.1", 3031), ("10.0.0.5", 3032)], [ETH0], (3032, ["10.0.0.5"])),
        ([("10.0.0.5", 3031), ("172.17.0.1", 3032)], [ETH0, BRIDGE], (3031, ["10.0.0.5"])),
        ([("203.0.113.1", 80)], [ETH0], (80, ["203.0.113.1"])),
        ([("10.0.0.5", 0)], [ETH0], (0, [])),
        ([], [ETH0], (0, [])),
    ],
)
def test_what_is_announced_is_where_peers_can_connect(
    listen: list[tuple[str, int]], speaking: list[LocalAddress], expected: tuple[int, list[str]]
) -> None:
    assert announced(listen, ALL, speaking) == expected


def test_addresses_in_our_networks_come_first() -> None:
    assert nearest_first(["172.18.0.3", "10.0.0.7", "fd00::1"], [ETH0]) == ["10.0.0.7", "172.18.0.3", "fd00::1"]


def test_an_address_that_this_machine_has_too_goes_last() -> None:
    assert nearest_first(["172.17.0.1", "10.0.0.7", "192.0.2.1"], [BRIDGE, ETH0]) == ["10.0.0.7", "192.0.2.1", "172.17.0.1"]


def test_this_machine_has_a_loopback_address() -> None:
    assert "127.0.0.1" in {place.address for place in present()}
