"""How many tasks are in a common store: asked now and then in the background, so that those who look never wait for it."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import StoreAway, Tally, TaskState

COUNT_SECONDS = 5.0
"""The shortest time between two counts."""
COUNT_REST = 20
"""The pause after a count is at least so many times as long as the count took."""


class StoreCount:
    """The numbers of tasks in the store, as they were a moment ago."""

    def __init__(self, contact: Contact, clock: Callable[[], float] = time.time) -> None:
        """`clock`: says when they were counted, in seconds since 1970."""
        self._contact = contact
        self._clock = clock
        self._again_at = float("-inf")
        self._counted_at: float | None = None
        self._tallies: dict[TaskState, Tally] = {}

    def __repr__(self) -> str:
        return f"<StoreCount of {self._counted_at}: {self._tallies}>"

    async def recount(self) -> None:
        """Asks the store, unless that was done lately or is being done, or the store is away: then the last numbers stand."""
        loop = asyncio.get_running_loop()
        if not self._contact.is_there or loop.time() < self._again_at:
            return
        began, rest, self._again_at = loop.time(), COUNT_SECONDS, float("inf")
        try:
            with suppress(StoreAway):  # that is reported
                self._tallies = await self._contact.ask(lambda store: store.count())
                self._counted_at = self._clock()
                rest = max(rest, COUNT_REST * (loop.time() - began))  # not if it fails: to wait costs the store nothing
        finally:
            self._again_at = loop.time() + rest

    def told(self) -> dict[str, Any]:
        """The part of the status about them."""
        return {
            "tasks": {state.value: tally.number for state, tally in self._tallies.items()} if self._tallies else None,
            "estimated": [state.value for state, tally in self._tallies.items() if not tally.is_exact],
            "counted_at": self._counted_at,
        }  # fmt: skip
