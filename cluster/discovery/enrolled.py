"""Peers that share this node's store: each writes there where it listens, and reads where the others do.

An entry is JSON, with the node's name, cluster and addresses. Loopback addresses lead to a node only from where its own loopback
is, so an entry says which one that is.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from spoolnode.cluster.candidate import Candidate, Identity, Sink
from spoolnode.cluster.discovery.addresses import split_address
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.discovery.interfaces import MAX_ANNOUNCED, LocalAddress, ours, present
from spoolnode.cluster.discovery.listing import Listing
from spoolnode.cluster.lookup import is_loopback
from spoolnode.cluster.reasons import why
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import StoreAway, StoreUnfit
from spoolnode.node.commons import OWN_STORE
from spoolnode.node.log import Report
from spoolnode.node.outbox.links import boot_id
from spoolnode.protocol import names

SIGN_OUT_SECONDS = 1.0
"""A stop waits no longer than this for the entry to be taken away."""


class Periods(NamedTuple):
    """Seconds."""

    refresh: float = 10.0
    """The node writes its entry, and reads the others."""
    expiry: float = 60.0
    """An entry that was not written again counts no more."""


PERIODS = Periods()


class Enrolled:
    """The nodes in the store. While it does not answer, the last list stays."""

    uri = OWN_STORE

    def __init__(
        self, identity: Identity, listen: list[str], contact: Contact, report: Report, *, rng: random.Random,
        periods: Periods = PERIODS,
    ) -> None:  # fmt: skip
        self._identity = identity
        self._listen = [address for address in listen if names.is_address(address)]
        self._contact = contact
        self._rng = rng
        self._periods = periods
        self._health = Health(report, self.uri)
        self._listing = Listing(patience=1)
        self._has_signed_in = False

    async def run(self, sink: Sink) -> None:
        """Writes, reads, reports changes, waits; again and again."""
        while True:
            try:
                await self._sign_in(sink)
            except (StoreAway, StoreUnfit) as error:
                self._health.failed(f"{why(error)}; the last list stays")
            else:
                self._health.well()
            await asyncio.sleep(self._periods.refresh * self._rng.uniform(0.8, 1.2))

    async def close(self) -> None:
        """Takes this node's entry away; within a second, or it expires."""
        if self._has_signed_in:
            with suppress(StoreAway, StoreUnfit, TimeoutError):
                async with asyncio.timeout(SIGN_OUT_SECONDS):
                    await self._contact.ask_aside(lambda store: store.roll.sign_out(self._identity.id))

    async def _sign_in(self, sink: Sink) -> None:
        place = await asyncio.to_thread(place_now)
        said = write_entry(self._identity, self._listen, place)
        self._has_signed_in = True  # from now on it may be there
        entries = await self._contact.ask_aside(
            lambda store: store.roll.sign_in(self._identity.id, said, self._periods.expiry)
        )  # fmt: skip
        found = (read_entry(node, told, self._identity.cluster, place) for node, told in entries.items())
        self._listing.tell(sink, self.uri, [candidate for candidate in found if candidate])


class OwnPlace(NamedTuple):
    """Where this node is."""

    interfaces: list[LocalAddress]
    """The addresses of its machine, the best first."""
    loopback: str
    """A word for its loopback: that of this network namespace, since the machine has started."""


def place_now() -> OwnPlace:
    """Where this process is now. Asks the kernel."""
    try:
        namespace = os.stat("/proc/self/ns/net").st_ino
    except OSError:
        return OwnPlace(present(), "")
    return OwnPlace(present(), f"{boot_id(time.time())} {namespace}")


def write_entry(identity: Identity, listen: Iterable[str], place: OwnPlace) -> bytes:
    """The entry of this node. It has loopback addresses only if it has no others. Pure."""
    all_ = list(identity.addresses) or [address for address in ours(listen, place.interfaces) if not _is_link_local(address)]
    addresses = [address for address in all_ if not is_loopback(address)] or all_
    said = {
        "name": identity.name, "cluster": identity.cluster, "addresses": addresses[:MAX_ANNOUNCED], "loopback": place.loopback,
    }  # fmt: skip
    return json.dumps(said).encode()


def read_entry(node: str, said: bytes, cluster: str, place: OwnPlace) -> Candidate | None:
    """The candidate in an entry; None if it is not of this cluster, makes no sense, or cannot be reached from here. Pure.

    Addresses that this machine has too come last: half of all machines are 172.17.0.1 for their own containers.
    """
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("cluster") != cluster or not names.is_node_id(node):
        return None
    is_same = bool(place.loopback) and told.get("loopback") == place.loopback
    here = {item.address for item in place.interfaces}
    usable = [address for address in _addresses_in(told) if is_same or not is_loopback(address)]
    usable.sort(key=lambda address: _is_at(address, here))
    name = told.get("name")
    known = name if isinstance(name, str) and names.is_node_name(name) else ""
    return Candidate(OWN_STORE, node, node, known, tuple(usable[:MAX_ANNOUNCED])) if usable else None


def _addresses_in(told: dict[str, Any]) -> list[str]:
    addresses = told.get("addresses")
    if not isinstance(addresses, list):
        return []
    return [address for address in addresses if isinstance(address, str) and names.is_address(address)]


def _is_at(address: str, hosts: Collection[str]) -> bool:
    return split_address(address)[0] in hosts


def _is_link_local(address: str) -> bool:
    return split_address(address)[0].lower().startswith("fe80:")
