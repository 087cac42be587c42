"""What has waited too long for another node is given up (`--hold`)."""

import asyncio
import time

from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.outbox.shipping import Shipping
from spoolnode.node.spool.journal import Journal

EXPIRED_AT_ONCE = 100
"""Tasks whose hold is over that are given up before others have their turn at the disk..."""
BURIED_TOGETHER = 32
"""...so many of them at once, which shares what their directory costs, and is told in two milliseconds."""
DESTINATIONS_AT_ONCE = 500
"""Destinations that are looked at for such tasks in one turn of the loop."""


class Expiry:
    """Looks for what has waited too long, in one outbox."""

    def __init__(self, outbox: Outbox, shipping: Shipping, journal: Journal) -> None:
        self._outbox = outbox
        self._shipping = shipping
        self._journal = journal
        self._is_at_it = False

    async def give_up(self, hold: float) -> None:
        """What has waited for longer than `hold` seconds goes to dead/; returns at once when an earlier call is still at it."""
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
        # Not on and on when the disk takes none; what it did not take is back in its queue.
        while self._outbox.total != before and (old := self._outbox.take_old(time.time() - hold, EXPIRED_AT_ONCE, among)):
            before = self._outbox.total
            for to, owner, taken in old:
                told = f"{reason}, and may have been delivered" if owner else reason
                for start in range(0, len(taken.refs), BURIED_TOGETHER):
                    together = taken._replace(refs=taken.refs[start : start + BURIED_TOGETHER])
                    self._shipping.give_up(to, owner, together, told)
            await self._journal.moves.run(lambda: None)  # the disk has done these
