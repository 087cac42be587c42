"""Peers that the operator has named. They are never withdrawn; the addresses of host names are looked up again and again."""

import asyncio
import random

from spoolnode.cluster.candidate import Candidate, Sink
from spoolnode.cluster.discovery.addresses import Lookup, addresses_at, split_address
from spoolnode.cluster.discovery.health import Health
from spoolnode.cluster.lookup import is_literal
from spoolnode.cluster.reasons import why
from spoolnode.node.log import Report

REFRESH_SECONDS = 30.0


class Static:
    """A fixed list of `host:port`, each a candidate with its text as the key.

    A name that cannot be looked up (yet) is a candidate, too, with the name as its address. So it is not forgotten, and a
    connection attempt gets the resolver's own error.
    """

    def __init__(
        self,
        uri: str,
        targets: list[str],
        report: Report,
        *,
        rng: random.Random,
        lookup: Lookup = addresses_at,
        refresh: float = REFRESH_SECONDS,
    ) -> None:
        self.uri = uri
        self._targets = targets
        self._report = report
        self._rng = rng
        self._lookup = lookup
        self._refresh = refresh

    async def run(self, sink: Sink) -> None:
        """Reports every target at once, and again when its addresses change."""
        for target in self._targets:
            self._found(sink, target, [target])
        async with asyncio.TaskGroup() as group:  # a hanging lookup holds up no other name
            for target in self._targets:
                if not is_literal(split_address(target)[0]):
                    group.create_task(self._follow(sink, target))
            await asyncio.Event().wait()

    async def close(self) -> None:
        """Does nothing: this source cannot tell others."""

    async def _follow(self, sink: Sink, target: str) -> None:
        host, port = split_address(target)
        health = Health(self._report, self.uri)
        known: list[str] = []
        while True:
            try:
                addresses = await self._lookup(host, port)
            except OSError as error:
                kept = "its last addresses stay" if known else "it has no addresses yet"
                health.failed(f"the name {host} cannot be looked up: {why(error)}; {kept}")
            else:
                health.well()
                if sorted(addresses) != sorted(known):  # a name server rotates its list with each answer
                    known = addresses
                    self._found(sink, target, addresses)
            await asyncio.sleep(self._refresh * self._rng.uniform(0.8, 1.2))

    def _found(self, sink: Sink, target: str, addresses: list[str]) -> None:
        sink.found(Candidate(self.uri, target, id="", name="", addresses=tuple(addresses)))
