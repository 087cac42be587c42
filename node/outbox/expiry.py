"""Gives up tasks that have waited too long for another node (`--hold`)."""

import asyncio
import time

from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.outbox.shipping import Shipping
from spoolnode.node.spool.journal import Journal

EXPIRED_AT_ONCE = 100
"""Tasks past their hold that are given up before other work gets the disk..."""
BURIED_TOGETHER = 32
"""...this many of them together, which shares the cost of their directory; reporting them takes two milliseconds."""
DESTINATIONS_AT_ONCE = 500
"""Destinations that are searched for such tasks in one turn of the loop."""


class Expiry:
    """Looks for tasks in one outbox that have waited too long."""

    def __init__(self, outbox: Outbox, shipping: Shipping, journal: Journal) -> None:
        self._outbox = outbox
        self._shipping = shipping
        self._journal = journal
        self._is_at_it = False

    async def give_up(self, hold: float) -> None:
        """Moves tasks that have waited for longer than `hold` seconds to dead/. Returns at once if an earlier call is busy."""
        if self._is_at_it:
            return
        self._is_at_it = True
        try:
            everybody = [*self._outbox.destinations]
            for start in range(0, len(everybody), DESTINATIONS_AT_ONCE):
                await self._give_up_old(everybody[start : start + DESTINATIONS_AT_ONCE], hold)
                await asyncio.sleep(0)
        finally:
            self._is_at_it = False

    async def _give_up_old(self, among: list[str], hold: float) -> None:
        reason, before = f"it waited {hold:g} s (--hold)", -1
        # Not for ever if the disk takes none: then they are back in their queue.
        while self._outbox.total != before and (old := self._outbox.take_old(time.time() - hold, EXPIRED_AT_ONCE, among)):
            before = self._outbox.total
            for to, owner, taken in old:
                told = f"{reason}, and may have been delivered" if owner else reason
                for start in range(0, len(taken.refs), BURIED_TOGETHER):
                    together = taken._replace(refs=taken.refs[start : start + BURIED_TOGETHER])
                    self._shipping.give_up(to, owner, together, told)
            await self._journal.moves.run(lambda: None)  # the disk has moved these
