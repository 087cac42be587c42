"""Ends waiting tasks for good that are cancelled, whether they wait for this node or for another one."""

from typing import NamedTuple

from spoolnode.node.outbox.destination import UNSENT
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source
from spoolnode.node.story.notes import DEAD
from spoolnode.protocol.cancel import cancelled_by
from spoolnode.protocol.forward import undeliverable


class Buried(NamedTuple):
    """A task that is in dead/ as cancelled. Another node may have it all the same if `number` is not 0."""

    to: str = ""
    """The destination that it was sent to..."""
    owner: str = UNSENT
    """...the id of the node that got it, if that is known..."""
    number: int = 0
    """...and its sequence number."""


class Cancellation:
    """Cancels what waits in one spool directory."""

    def __init__(self, spool: Spool, outbox: Outbox, journal: Journal) -> None:
        self._spool = spool
        self._outbox = outbox
        self._journal = journal

    async def cancel(self, source: Source, ref: Ref, by: str) -> Buried | None:
        """Moves a waiting task to dead/.

        None, and nothing is done, if it does not wait there (any longer). Raises OSError and BadPacket if it stays.
        """
        store, place = self._journal.store, source.place
        to = self._outbox.where_to(source, ref) if source.sequence_number(ref) else None
        owner = self._outbox.destination(to).owner_of(source, ref) if to is not None else UNSENT
        number, tried, reason = 0, 0, cancelled_by(by)

        def bury() -> bool:
            nonlocal number, tried, reason
            tried = place.progress(store, ref).attempts
            if to is not None:
                # Then that is the mark that it may have been sent. A power cut can lose the mark, and the owner is still known.
                number = source.sequence_number(ref) if tried or owner != UNSENT else 0
                reason = undeliverable(to, cancelled_by(by, number))
            place.bury(store, ref, reason, tried if to is None else 0)
            return True

        waits = self._spool if to is None else self._outbox
        if not await waits.end_waiting(source, ref, bury):
            return None
        self._journal.counts.cancelled += 1
        self._journal.note(DEAD, source, [ref], reason=reason)
        identity = self._journal.id_of(source, ref)
        where = {"attempts": tried} if to is None else {"destination": to}
        self._journal.report("dead", id=identity, **where, outcome="cancelled", reason=reason)
        return Buried(to, owner, number) if to is not None and number else Buried()
