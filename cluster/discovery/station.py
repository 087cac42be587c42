"""The mDNS sockets of one set of interfaces, and the packets sent there. A new one is made when the interfaces change."""

import asyncio
import functools
from collections.abc import Callable

from zeroconf import DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from spoolnode.cluster.discovery.announcement import SERVICE
from spoolnode.cluster.discovery.interfaces import LocalAddress
from spoolnode.node.background import spawn

START_SECONDS = 5.0
CLOSE_SECONDS = 0.9
"""Three goodbyes take a quarter of a second; a stop waits no longer than this."""
GLANCE_SECONDS = 2.0
"""The life of a throw-away browser: two questions."""
DEFEND_SECONDS = 2.0
"""The shortest time between two answers to goodbyes that others send in our name."""

Heard = Callable[[Zeroconf, str, str, ServiceStateChange], None]
Make = Callable[..., AsyncZeroconf]


class Station:
    """Open sockets. Ends with `leave`, which says goodbye, or `abandon`, which does not."""

    def __init__(self, zeroconf: AsyncZeroconf) -> None:
        self.zeroconf = zeroconf.zeroconf
        self.info: AsyncServiceInfo | None = None
        """The records that are announced."""
        self._async = zeroconf
        self._browse: Callable[[], AsyncServiceBrowser] | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._glancing: asyncio.Task[None] | None = None
        self._broadcast: asyncio.Future[None] | None = None
        self._defended = float("-inf")

    @classmethod
    async def open(cls, speaking: list[LocalAddress], make: Make) -> "Station":
        """Opens the sockets.

        Raises:
            OSError: it is not possible here and now.
            zeroconf.Error: the same, from the package.
        """
        station = cls(make(interfaces=_named(speaking), ip_version=_family(speaking)))
        try:
            await station.zeroconf.async_wait_for_start(START_SECONDS)
            if not station.zeroconf.engine.senders:
                raise OSError(f"none of {', '.join(place.address for place in speaking)} takes multicast")
        except BaseException:  # also when it is cancelled
            await station.abandon()
            raise
        return station

    async def announce(self, info: AsyncServiceInfo) -> None:
        """Announces this node, now and when others ask. Further announcements are made in the background."""
        announcements = await self._async.async_register_service(info, cooperating_responders=True)
        self._broadcast = asyncio.ensure_future(announcements)
        self.info = info

    def repeat(self) -> None:
        """Announces this node once more."""
        if self.info is not None:
            self.zeroconf.async_send(self.zeroconf.generate_service_broadcast(self.info, None))

    def defend(self) -> None:
        """Answers a goodbye that another node sent in our name: this node is still here."""
        now = asyncio.get_running_loop().time()
        if now - self._defended >= DEFEND_SECONDS:
            self._defended = now
            self.repeat()

    def listen(self, heard: Heard, question: DNSQuestionType | None) -> None:
        """From now on `heard` is called for every service of our kind."""

        def tell(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
            heard(zeroconf, service_type, name, state_change)  # zeroconf calls by keyword

        self._browse = functools.partial(AsyncServiceBrowser, self.zeroconf, SERVICE, handlers=[tell], question_type=question)
        self._browser = self._browse()

    def glance(self) -> None:
        """Asks for other nodes again, and reports all of them again."""
        if self._browse is not None and (self._glancing is None or self._glancing.done()):
            self._glancing = spawn(_glance(self._browse()))

    async def leave(self) -> None:
        """Says goodbye and closes, within a second, whatever the network does."""
        await self._fall_silent()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._async.async_close()
        except TimeoutError:
            self.zeroconf.engine.close()

    async def abandon(self) -> None:
        """Closes without a goodbye: this node goes on elsewhere."""
        registry = self.zeroconf.registry
        registry.async_remove(registry.async_get_service_infos())
        await self.leave()

    async def _fall_silent(self) -> None:
        for running in (self._broadcast, self._glancing):
            if running is not None:
                running.cancel()
        if self._browser is not None:
            await self._browser.async_cancel()


def _named(speaking: list[LocalAddress]) -> list[str | int]:
    """The addresses as zeroconf wants them: an IPv6 one by the number of its interface."""
    return [place.address if place.is_v4 else place.number for place in speaking]


def _family(speaking: list[LocalAddress]) -> IPVersion:
    """The kind of socket that serves them all."""
    families = {place.is_v4 for place in speaking}
    return IPVersion.All if len(families) > 1 else IPVersion.V4Only if families == {True} else IPVersion.V6Only


async def _glance(browser: AsyncServiceBrowser) -> None:
    try:
        await asyncio.sleep(GLANCE_SECONDS)
    finally:
        await browser.async_cancel()
