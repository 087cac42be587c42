"""From which of this machine's addresses mDNS speaks, and which it announces. Pure, except for `present`."""

import contextlib
import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

import ifaddr

MAX_ANNOUNCED = 8
"""Most addresses of one node: a machine with many bridges would fill the packet, and peers try them one after the other."""
MAX_SPOKEN = 16
"""Most addresses from which mDNS speaks: Linux lets a socket join 20 groups (igmp_max_memberships)."""
INNER = re.compile(r"(docker|podman|virbr|lxdbr|lxcbr|cni|flannel|cali|weave|kube-|veth|vnet|br-)")
"""The beginnings of names of interfaces that lead only to this machine's own containers and guests."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # recognised here, not listened on


class LocalAddress(NamedTuple):
    """One address of one network interface."""

    interface: str
    number: int
    """Changes when an interface is made again, even with the same name and address."""
    address: str
    prefix: int

    @property
    def is_v4(self) -> bool:
        """Whether it is an IPv4 address."""
        return ":" not in self.address

    @property
    def is_loopback(self) -> bool:
        """Whether it reaches only this machine."""
        return ip_address(self.address).is_loopback


def present() -> list[LocalAddress]:
    """All addresses that this machine has now; those at which others most likely reach it come first."""
    places = []
    for adapter in ifaddr.get_adapters():
        for found in adapter.ips:
            address = found.ip if isinstance(found.ip, str) else found.ip[0]
            places.append(LocalAddress(adapter.name, adapter.index or 0, address.partition("%")[0], found.network_prefix))
    return best_first(places, _ways_out())


def best_first(places: Iterable[LocalAddress], ways_out: Collection[str]) -> list[LocalAddress]:
    """The addresses in order: first those on the interfaces of its default routes, then others, last those that lead to its own
    containers and guests."""
    return sorted(places, key=lambda place: (place.interface not in ways_out, bool(INNER.match(place.interface)), place))


def _ways_out() -> set[str]:
    """The interfaces of the default routes, of both families (proc(5), `/proc/net`)."""
    found = set()
    with contextlib.suppress(OSError), open("/proc/net/route", encoding="ascii") as file:
        found |= {row[0] for row in map(str.split, file) if row[1:2] == ["00000000"] and row[7:8] == ["00000000"]}
    with contextlib.suppress(OSError), open("/proc/net/ipv6_route", encoding="ascii") as file:
        rows = [row for row in map(str.split, file) if row[:2] == ["0" * 32, "00"]]
        found |= {row[-1] for row in rows}
    return found - {"lo"}


def speak_from(places: Iterable[LocalAddress], hosts: Iterable[str], wanted: Iterable[str]) -> list[LocalAddress]:
    """The addresses from which mDNS speaks: IPv4 ones, and one IPv6 address of each interface without IPv4.

    Args:
        places: the addresses of this machine, the best first.
        hosts: the IP addresses that this node listens on; empty if it listens only on unix sockets.
        wanted: addresses or interfaces that the operator named; they alone decide.
    """
    places, hosts, wanted = list(places), set(hosts), set(wanted)
    usable = [place for place in places if place.is_v4] + _without_v4(places)
    if wanted:
        return [place for place in usable if wanted & {place.address, place.interface}][:MAX_SPOKEN]
    if not hosts:
        return usable[:MAX_SPOKEN]  # nothing to announce, and peers may be anywhere
    others = [place for place in usable if not place.is_loopback]
    if not hosts & WILDCARDS:
        named = {place.interface for place in places if place.address in hosts and not place.is_v4}
        others = [place for place in others if place.address in hosts or place.interface in named]
        if not others and not any(ip_address(host).is_loopback for host in hosts):
            return []
    # Two nodes on a laptop without a network still find each other.
    return (others or [place for place in usable if place.is_loopback])[:MAX_SPOKEN]


def _without_v4(places: list[LocalAddress]) -> list[LocalAddress]:
    """One IPv6 address, usable for others, of each interface that has no IPv4 address."""
    with_v4 = {place.interface for place in places if place.is_v4}
    found: dict[str, LocalAddress] = {}
    for place in places:
        if place.interface not in with_v4 and not place.is_loopback and not ip_address(place.address).is_link_local:
            found.setdefault(place.interface, place)
    return list(found.values())


def announced(
    addresses: Iterable[tuple[str, int]], places: Iterable[LocalAddress], speaking: list[LocalAddress]
) -> tuple[int, list[str]]:
    """The port and the IP addresses to announce; no addresses if peers cannot reach this node.

    Args:
        addresses: IP address and port of each listener; wildcards stand for the addresses in `speaking`.
        places: the addresses of this machine.
        speaking: where mDNS speaks.
    """
    expanded = [(host, port) for item, port in addresses if port for host in _expand(item, places, speaking)]
    if not all(ip_address(host).is_loopback for host, _ in expanded):
        expanded = [(host, port) for host, port in expanded if not ip_address(host).is_loopback]
    if not expanded:
        return 0, []
    port = expanded[0][1]  # an SRV record has one port for all addresses
    return port, list(dict.fromkeys(host for host, its_port in expanded if its_port == port))[:MAX_ANNOUNCED]


def _expand(host: str, places: Iterable[LocalAddress], speaking: list[LocalAddress]) -> list[str]:
    if host not in WILDCARDS:
        return [host]
    if ":" not in host:
        return [place.address for place in speaking if place.is_v4]
    interfaces = {place.interface for place in speaking}
    v6 = [place.address for place in places if place.interface in interfaces and not place.is_v4]
    return [address for address in v6 if not ip_address(address).is_link_local]


def ours(addresses: Iterable[str], places: Iterable[LocalAddress]) -> list[str]:
    """These addresses (`host:port`), with all addresses of its family that this machine has in place of a wildcard."""
    places, found = list(places), list[str]()
    for address in addresses:
        host, _, port = address.rpartition(":")
        if host == "0.0.0.0":  # noqa: S104  # recognised here, not listened on
            found += [f"{place.address}:{port}" for place in places if place.is_v4]
        elif host == "[::]":
            found += [f"[{place.address}]:{port}" for place in places if not place.is_v4]
        else:
            found.append(address)
    return found


def nearest_first(addresses: Iterable[str], speaking: Iterable[LocalAddress]) -> list[str]:
    """The same IP addresses, with those in one of our networks first.

    An address that this machine also has goes last: half of all machines are 172.17.0.1 for their own containers.
    """
    speaking = list(speaking)
    networks = [ip_interface(f"{place.address}/{place.prefix}").network for place in speaking]
    ours = {place.address for place in speaking}
    return sorted(
        addresses, key=lambda address: (address in ours, not any(ip_address(address) in network for network in networks))
    )
