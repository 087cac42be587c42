"""Which of this machine's addresses mDNS speaks from, and which it announces. Pure, but for `present`."""

from collections.abc import Iterable
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

import ifaddr

MAX_ANNOUNCED = 8
"""Addresses of one node: a machine with many bridges would fill the packet, and those who connect try them in turn."""
WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  # recognised here, not listened on


class Place(NamedTuple):
    """One address of one network interface."""

    interface: str
    number: int
    """Changes when an interface is made anew, although name and address may be the same."""
    address: str
    prefix: int

    @property
    def is_v4(self) -> bool:
        """mDNS speaks IPv4."""
        return ":" not in self.address

    @property
    def is_loopback(self) -> bool:
        """Only this machine can be heard there."""
        return ip_address(self.address).is_loopback


def present() -> list[Place]:
    """All addresses that this machine has now."""
    places = []
    for adapter in ifaddr.get_adapters():
        for found in adapter.ips:
            address = found.ip if isinstance(found.ip, str) else found.ip[0]
            places.append(Place(adapter.name, adapter.index or 0, address.partition("%")[0], found.network_prefix))
    return sorted(places)


def speak_from(places: Iterable[Place], hosts: Iterable[str], wanted: Iterable[str]) -> list[Place]:
    """The IPv4 addresses from which mDNS speaks.

    Args:
        places: what this machine has.
        hosts: the IP addresses that this node listens on; none when it listens on unix sockets only.
        wanted: addresses or interfaces that the operator named; they decide alone.
    """
    places, hosts, wanted = list(places), set(hosts), set(wanted)
    usable = [place for place in places if place.is_v4]
    if wanted:
        return [place for place in usable if wanted & {place.address, place.interface}]
    if not hosts:
        return usable  # nothing to announce: peers may be anywhere
    others = [place for place in usable if not place.is_loopback]
    if not hosts & WILDCARDS:
        named = {place.interface for place in places if place.address in hosts and not place.is_v4}
        others = [place for place in others if place.address in hosts or place.interface in named]
        if not others and not any(ip_address(host).is_loopback for host in hosts):
            return []
    # Two nodes on a laptop without a network find each other all the same.
    return others or [place for place in usable if place.is_loopback]


def announced(addresses: Iterable[tuple[str, int]], places: Iterable[Place], speaking: list[Place]) -> tuple[int, list[str]]:
    """The port and the IP addresses to announce; no addresses when nobody can reach this node.

    Args:
        addresses: IP address and port of each listener; wildcards stand for what `speaking` has.
        places: what this machine has.
        speaking: where mDNS speaks.
    """
    expanded = [(host, port) for item, port in addresses if port for host in _expand(item, places, speaking)]
    if not all(ip_address(host).is_loopback for host, _ in expanded):
        expanded = [(host, port) for host, port in expanded if not ip_address(host).is_loopback]
    if not expanded:
        return 0, []
    port = expanded[0][1]  # an SRV record has one port for all
    return port, list(dict.fromkeys(host for host, its_port in expanded if its_port == port))[:MAX_ANNOUNCED]


def _expand(host: str, places: Iterable[Place], speaking: list[Place]) -> list[str]:
    if host not in WILDCARDS:
        return [host]
    if ":" not in host:
        return [place.address for place in speaking]
    interfaces = {place.interface for place in speaking}
    v6 = [place.address for place in places if place.interface in interfaces and not place.is_v4]
    return [address for address in v6 if not ip_address(address).is_link_local]


def nearest_first(addresses: Iterable[str], speaking: Iterable[Place]) -> list[str]:
    """The same IP addresses, those in a network that we are in before the others."""
    networks = [ip_interface(f"{place.address}/{place.prefix}").network for place in speaking]
    return sorted(addresses, key=lambda address: not any(ip_address(address) in network for network in networks))
