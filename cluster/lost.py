"""Destinations with waiting tasks for which no node is known: looked for again now and then, a few in each turn of the loop."""

import asyncio
from collections.abc import Callable

from spoolnode.cluster.destinations import Destinations
from spoolnode.node.background import spawn
from spoolnode.node.outbox.outbox import Outbox

LOOKED_FOR_AT_ONCE = 1000
"""Unknown destinations that are looked for in one turn of the loop: about a millisecond."""


class LostDestinations:
    """The unknown destinations of one node. They have no sender, so made-up names cost little."""

    def __init__(self, destinations: Destinations, outbox: Outbox, found: Callable[[str], None], every: float) -> None:
        """
        Args:
            found: called with a destination that may be known now.
            every: seconds from one look to the next.
        """
        self._destinations = destinations
        self._outbox = outbox
        self._found = found
        self._every = every
        self._lost: dict[str, None] = {}  # a set that keeps its order
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time()
        self._is_looking = self._look_again = self._is_stopped = False

    def __repr__(self) -> str:
        return f"<{len(self._lost)} lost destinations>"

    def __contains__(self, to: object) -> bool:
        return to in self._lost

    def add(self, to: str) -> None:
        """Adds a destination for which no node is known."""
        self._lost[to] = None

    def discard(self, to: str) -> None:
        """Forgets a destination: it is looked for now, or known."""
        self._lost.pop(to, None)

    def tick(self) -> None:
        """Looks for them if it is time. Called each second."""
        if self._loop.time() - self._looked_at >= self._every:
            self.look()

    def look(self) -> None:
        """Looks for them: nodes may be known for them now."""
        self._looked_at = self._loop.time()
        self._look_again = bool(self._lost)
        if self._look_again and not self._is_looking:
            self._is_looking = True
            spawn(self._look_for_all())

    def stop(self) -> None:
        """Looks for none of them any more."""
        self._is_stopped = True

    async def _look_for_all(self) -> None:
        try:
            while self._look_again and not self._is_stopped:
                self._look_again = False
                called = self._destinations.called()
                for index, to in enumerate([*self._lost], 1):
                    waits = bool(self._outbox.size(to))
                    if to in called or not waits:
                        self.discard(to)
                    if to in called and waits:
                        self._found(to)
                    if index % LOOKED_FOR_AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            self._is_looking = False
