"""A source that asks a server for the whole list again and again."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from spoolnode.cluster.candidate import Sink
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.discovery.listing import Listing, at_addresses
from spoolnode.cluster.reasons import why
from spoolnode.node.log import Report

REFRESH_SECONDS = 10.0
PATIENCE = 3
"""How many answers in a row must lack an address before it is withdrawn: some resolvers give partial answers."""

Ask = Callable[[], Awaitable[dict[str, list[str]]]]
"""Gets the addresses of all candidates by key. Raises OSError if no answer came."""


class Polled:
    """Candidates with known addresses only. Without an answer, the last list stays."""

    def __init__(self, uri: str, ask: Ask, report: Report, *, rng: random.Random, refresh: float = REFRESH_SECONDS) -> None:
        self.uri = uri
        self._ask = ask
        self._rng = rng
        self._refresh = refresh
        self._health = Health(report, uri)
        self._listing = Listing(PATIENCE)
        self._was_answered = False

    async def run(self, sink: Sink) -> None:
        """Asks, reports changes, waits; again and again."""
        while True:
            await self._ask_once(sink)
            await asyncio.sleep(self._refresh * self._rng.uniform(0.8, 1.2))

    async def close(self) -> None:
        """Does nothing: this source cannot tell others."""

    async def _ask_once(self, sink: Sink) -> None:
        try:
            answer = await self._ask()
        except OSError as error:
            kept = "the last list stays" if self._was_answered else "no peers from it until there is one"
            self._health.failed(f"no answer: {why(error)}; {kept}")
            return
        self._was_answered = True
        self._health.well()
        self._listing.tell(sink, self.uri, at_addresses(self.uri, answer))
