"""A source whose server tells the whole list, and then each change as it comes."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NamedTuple

from spoolnode.cluster.candidate import Sink
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.discovery.listing import Listing, at_addresses
from spoolnode.cluster.reasons import why
from spoolnode.node.log import Report

Follow = Callable[[], AsyncGenerator[dict[str, list[str]], None]]
"""Tells the addresses of all candidates by key, at first and when they may have changed. It ends when it is to be started again.
Raises OSError if the server does not answer, or not as it should."""


class RetryPauses(NamedTuple):
    """Seconds between two attempts to follow a server."""

    shortest: float
    longest: float


RETRY_PAUSES = RetryPauses(1.0, 60.0)
REST_SECONDS = 1.0
"""Seconds between two questions that were answered: some services change many times a second."""


class Followed:
    """Candidates with known addresses only. While the server does not answer, the last list stays."""

    def __init__(
        self, uri: str, follow: Follow, report: Report, *, rng: random.Random, pauses: RetryPauses = RETRY_PAUSES
    ) -> None:
        self.uri = uri
        self._follow = follow
        self._rng = rng
        self._pauses = pauses
        self._health = Health(report, uri)
        self._listing = Listing(patience=1)
        self._was_answered = False
        self._failures = 0
        """Attempts in a row that did not last longer than the longest pause."""

    async def run(self, sink: Sink) -> None:
        """Follows the server, and reports changes. When that ends, it waits and starts again."""
        while True:
            await self._follow_once(sink)
            await asyncio.sleep(pause_after(self._failures, self._pauses, self._rng))

    async def close(self) -> None:
        """Does nothing: this source cannot tell others."""

    async def _follow_once(self, sink: Sink) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with aclosing(self._follow()) as answers:
                async for answer in answers:
                    self._was_answered = True
                    self._health.well()
                    self._listing.tell(sink, self.uri, at_addresses(self.uri, answer))
        except OSError as error:
            self._failures = 1 if clock() - began > self._pauses.longest else self._failures + 1
            kept = "the last list stays" if self._was_answered else "no peers from it until there is one"
            self._health.failed(f"no answer: {why(error)}; {kept}")


def resting(rng: random.Random) -> Callable[[], float]:
    """Draws the seconds between two questions."""
    return lambda: REST_SECONDS * rng.uniform(0.8, 1.2)


def pause_after(failures: int, pauses: RetryPauses, rng: random.Random) -> float:
    """Seconds until the next attempt: twice as long after each failure, drawn from the upper half. Pure, but for the chance."""
    bound = min(pauses.shortest * 2.0 ** min(max(failures - 1, 0), 16), pauses.longest)
    return bound * rng.uniform(0.5, 1.0)
