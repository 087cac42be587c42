"""Peers on the same network segment, without configuration: multicast DNS by the zeroconf package.

Announces this node and listens for others, on the interfaces of its listeners. It does what the package does not do. The
package asks four times and then never again, so a packet lost in a partition, or one forged goodbye, would have effect for an
hour: we repeat announcements and questions. The package does not notice interfaces that come, go or change their addresses: we
check, and start again on the new ones. Failures here are not fatal: a machine without multicast has other sources.
"""

import asyncio
import functools
import random
import secrets
from collections.abc import Callable
from ipaddress import ip_address
from typing import NamedTuple

from zeroconf import Error, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncZeroconf

from spoolnode.cluster.candidate import Identity, Sink
from spoolnode.cluster.discovery import announcement, interfaces
from spoolnode.cluster.discovery.addresses import join
from spoolnode.cluster.discovery.announcement import TooLong
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.discovery.interfaces import LocalAddress
from spoolnode.cluster.discovery.lookout import MAX_CANDIDATES, Lookout
from spoolnode.cluster.discovery.station import Make, Station
from spoolnode.cluster.lookup import PATIENCE, look_up
from spoolnode.cluster.reasons import why
from spoolnode.node.background import cancel_all, spawn
from spoolnode.node.log import Report

AGAIN_SECONDS = 2.0
"""The first announcement is repeated after this: caches drop a node's old address only when that is older than a second."""


class Tuning(NamedTuple):
    """Periods in seconds, and other things that tests set otherwise."""

    announce: float = 45.0
    """The node announces itself again; each time after two thirds to four thirds of this."""
    glance: float = 240.0
    """It asks again for other nodes."""
    look: float = 5.0
    """It checks whether the interfaces are the same, which takes a third of a millisecond."""
    retry: float = 5.0
    """The longest pause after a failure. The first is a second: an address that has just gone may be back by then."""
    missing: float = 180.0
    """How long a node that said goodbye, or is not heard on new sockets, is expected back: several announcements."""
    limit: int = MAX_CANDIDATES
    present: Callable[[], list[LocalAddress]] = interfaces.present
    make: Make = AsyncZeroconf


class _View(NamedTuple):
    """The state of this machine's interfaces."""

    speaking: list[LocalAddress]
    """Where mDNS speaks."""
    about: list[LocalAddress]
    """All addresses of those interfaces that matter: if they change, everything starts again."""


class Mdns:
    """One segment. `run` finds peers until it is cancelled; `close` says goodbye and ends the search."""

    def __init__(
        self,
        uri: str,
        identity: Identity,
        listen: list[tuple[str, int]],
        report: Report,
        *,
        rng: random.Random,
        wanted: tuple[str, ...] = (),
        tuning: Tuning | None = None,
    ) -> None:
        """`listen`: hosts and ports of the TCP listeners; `wanted`: addresses or names of interfaces that decide instead."""
        self.uri = uri
        self._identity = identity
        self._listen = listen
        self._wanted = wanted
        self._tuning = tuning or Tuning()
        self._rng = rng
        self._health = Health(report, uri)
        self._announcing = Health(report, uri)
        self._lookout = Lookout(uri, identity, report, limit=self._tuning.limit)
        self._start = secrets.token_hex(4)
        self._station: Station | None = None
        self._work: asyncio.Task[None] | None = None

    async def run(self, sink: Sink) -> None:
        """Announces this node and finds others; after `close` it does nothing more."""
        self._work = asyncio.create_task(self._go_on(sink))
        try:
            await asyncio.wait([self._work])
            if not self._work.cancelled():
                self._work.result()  # a mistake of ours
            await asyncio.Event().wait()
        finally:
            await self._stop_work()

    async def close(self) -> None:
        """Says goodbye; within a second."""
        await self._stop_work()
        station, self._station = self._station, None
        if station is not None:
            await station.leave()

    async def _stop_work(self) -> None:
        if self._work is not None:
            await cancel_all([self._work])

    async def _go_on(self, sink: Sink) -> None:
        """Uses one station after another until it is cancelled. The last one stays, for the goodbye."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lookout.run(sink))
            pause = 0.0
            while True:
                try:
                    await self._use_one_station(sink)
                    pause = 0.0
                except (OSError, Error) as error:
                    self._health.failed(f"mDNS does not work: {why(error)}; tried again every {self._tuning.retry:g} s")
                    pause = min(max(1.0, pause * 2), self._tuning.retry)
                station, self._station = self._station, None
                if station is not None:
                    await asyncio.shield(spawn(station.abandon()))
                await asyncio.sleep(pause)

    async def _use_one_station(self, sink: Sink) -> None:
        """Returns when the interfaces have changed."""
        view = await self._look()
        if not view.speaking:
            raise OSError("no interface has an address to speak from")
        station = self._station = await Station.open(view.speaking, self._tuning.make)
        self._lookout.listen(station.zeroconf, view.speaking, self._tuning.missing)
        station.listen(functools.partial(self._heard, sink), self._lookout.question)
        self._health.well()
        await self._announce(station, view)
        await self._attend(sink, station, view)

    async def _attend(self, sink: Sink, station: Station, view: _View) -> None:
        clock, tuning = asyncio.get_running_loop().time, self._tuning
        announce_at = clock() + min(AGAIN_SECONDS, tuning.announce)
        glance_at, look_at = clock() + self._soon(tuning.glance), clock() + tuning.look
        while True:
            await asyncio.sleep(min(announce_at, glance_at, look_at) - clock())
            if announce_at <= clock():
                station.repeat()
                announce_at = clock() + self._soon(tuning.announce)
            if glance_at <= clock():
                station.glance()
                glance_at = clock() + self._soon(tuning.glance)
            if look_at <= clock():
                self._lookout.sweep(sink)
                if await self._look() != view:
                    return
                if station.info is None:
                    await self._announce(station, view)
                look_at = clock() + tuning.look

    async def _announce(self, station: Station, view: _View) -> None:
        """Announces this node if peers can reach it. If that fails, it still listens."""
        try:
            port, addresses = await self._reachable(view)
            self._lookout.ours = {join(address, port) for address in addresses}
            if addresses:
                await station.announce(announcement.service_info(self._identity, self._start, port, addresses))
        except (OSError, TooLong, Error) as error:
            self._announcing.failed(f"this node is not announced: {why(error)}")
        else:
            self._announcing.well()

    async def _look(self) -> _View:
        """The interfaces now. Raises OSError if a listener's host name is not found."""
        hosts = [address for host, _ in self._listen for address in await look_up(host, PATIENCE)]
        places = await asyncio.to_thread(self._tuning.present)
        speaking = interfaces.speak_from(places, hosts, self._wanted)
        names = {place.interface for place in speaking}
        about = [place for place in places if place.interface in names and not ip_address(place.address).is_link_local]
        return _View(speaking, about)

    async def _reachable(self, view: _View) -> tuple[int, list[str]]:
        """Port and addresses to announce. Raises OSError if the advertised host name is not found."""
        said = [split_any(address) for address in self._identity.addresses] or self._listen
        resolved = [(address, port) for host, port in said for address in await look_up(host, PATIENCE)]
        return interfaces.announced(resolved, view.about, view.speaking)

    def _heard(self, sink: Sink, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            if name == announcement.service_name(self._identity.id) and self._station is not None:
                self._station.defend()
            self._lookout.left(sink, name, self._tuning.missing)
        else:
            self._lookout.heard(sink, zeroconf, service_type, name)

    def _soon(self, period: float) -> float:
        """A random time around a period: nodes that start together must not speak together."""
        return period * self._rng.uniform(2 / 3, 4 / 3)


def split_any(address: str) -> tuple[str, int]:
    """Host and port of a valid address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
