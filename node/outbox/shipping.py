"""The tasks of the outbox in the hands of links: taken to send, brought back, handed over, given up.

It lives on the event loop; the packing thread reads tasks for the links and marks them as sent, the store thread ends them.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from spoolnode.node.outbox.destination import UNSENT, Destination
from spoolnode.node.outbox.envelope import Body, Envelope, Unsendable, pack_tasks
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.node.story.notes import DEAD, FORWARDED, MAX_TEXT
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.forward import undeliverable


@dataclass(slots=True)
class Shipment:
    """Tasks that a link has taken to send."""

    source: Source
    rank: int
    envelopes: list[Envelope]
    doubtful: bool = False
    """Whether the other node may have them already, unless it answers "stored" now."""

    def rest(self, envelopes: list[Envelope]) -> Taken:
        """The tasks among them that are in these envelopes."""
        return Taken(self.source, [envelope.ref for envelope in envelopes], self.rank)


class Shipping:
    """The way from the outbox of one node to its links, and from there to the end."""

    def __init__(self, outbox: Outbox, journal: Journal) -> None:
        self._outbox = outbox
        self._journal = journal

    async def take(self, to: str, peer: str, tasks: int, files: int) -> Shipment | None:
        """Takes up to `tasks` tasks, or `files` files, to send to the node with that id; those in doubt first.

        Returns None if there are none now.

        Raises:
            OSError: they cannot be read; they stay.
        """
        found = self._outbox.destination(to)
        chosen = found.take(peer, tasks, files)
        if chosen is None:
            return None
        taken, owner = chosen
        try:
            packed = await self._journal.packing.run(lambda: pack_tasks(taken.source.place, self._journal.marker, taken.refs))
        except FileNotFoundError:
            packed = []
        except BaseException:  # also when its link is stopped: the next one sends them
            found.give_back(taken, owner)
            raise
        self._outbox.marked(taken.source, taken.refs)
        self._sort_out(found, taken, owner, packed)
        envelopes = [envelope for envelope in packed if isinstance(envelope, Envelope)]
        return Shipment(taken.source, taken.rank, envelopes, doubtful=owner != UNSENT)

    def _sort_out(self, found: Destination, taken: Taken, owner: str, packed: Sequence[Envelope | Unsendable]) -> None:
        """Forgets tasks that are gone, and gives up those that cannot be sent."""
        source, refs, rank = taken
        if len(packed) < len(refs):
            there = {envelope.ref for envelope in packed}
            self._outbox.end(found.name, source, [ref for ref in refs if ref not in there])
        for envelope in packed:
            if isinstance(envelope, Unsendable):
                self.give_up(found.name, owner, Taken(source, [envelope.ref], rank), envelope.reason)

    @contextlib.asynccontextmanager
    async def body(self, envelope: Envelope) -> AsyncIterator[AsyncIterator[bytes]]:
        """The large body of a task, piece by piece; less of it if its file became shorter. Raises OSError."""
        run = self._journal.packing.run
        body = await run(lambda: Body(self._journal.reader, envelope))

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await run(body.read):
                yield piece

        try:
            yield pieces()
        finally:
            await run(body.close)

    def give_back(self, to: str, owner: str, taken: Taken) -> None:
        """Takes back tasks of a link, in the order of sending. `owner`: the id of the node that may have them, or `UNSENT`."""
        self._outbox.destination(to).give_back(taken, owner)

    def handed(self, to: str, peer: str, taken: Taken, numbers: Sequence[int]) -> None:
        """Removes tasks that the other node has on its disk. `numbers`: their numbers, as sent."""
        source, refs, _ = taken
        place = source.place

        def left(result: None, error: BaseException | None) -> None:
            del result
            if error is not None and not isinstance(error, FileNotFoundError):
                self._journal.report("move_failed", move="handed over", destination=to, reason=str(error))
                self.give_back(to, peer, taken)
                self._outbox.woken(to)
                return
            if self._journal.trace:
                for ref in refs:
                    self._journal.trace("forwarded", id=self._journal.id_of(source, ref), to=to, peer=peer)
            self._journal.note(FORWARDED, source, refs, to=to, peer=peer)
            self._outbox.delivered(to, source, refs, numbers)

        self._journal.moves.submit(lambda: place.leave(self._journal.store, refs), left)

    def give_up(self, to: str, owner: str, taken: Taken, reason: str) -> None:
        """Moves tasks that cannot be delivered to dead/, with the reason.

        Args:
            owner: the node that may have them; if the disk fails, they stay in doubt with it.
        """
        store, place = self._journal.store, taken.source.place

        def bury() -> dict[Ref, Exception]:
            problems: dict[Ref, Exception] = {}
            for ref, problem in place.bury_together(store, taken.refs, undeliverable(to, reason), 0).items():
                try:
                    if not isinstance(problem, BadPacket):
                        raise problem
                    # Not even that can be read: keep the rest of it.
                    place.keep_unreadable(store, ref)
                except FileNotFoundError:
                    continue  # it was removed
                except OSError as error:
                    problems[ref] = error
            return problems

        def buried(stay: dict[Ref, Exception] | None, error: BaseException | None) -> None:
            problems: dict[Any, BaseException] = {**(stay or {})} if error is None else dict.fromkeys(taken.refs, error)
            self._buried(to, taken, reason, problems)
            if problems:
                self.give_back(to, owner, taken._replace(refs=[*problems]))
                self._outbox.woken(to)

        self._journal.moves.submit(bury, buried)

    def _buried(self, to: str, taken: Taken, reason: str, stay: dict[Any, BaseException]) -> None:
        """Notes that tasks are in dead/, except for those that `stay`."""
        report, source = self._journal.report, taken.source
        for ref, why in stay.items():
            report("move_failed", move="bury", id=self._journal.id_of(source, ref), reason=str(why))
        ended = [ref for ref in taken.refs if ref not in stay]
        for ref in ended:
            report("dead", id=self._journal.id_of(source, ref), destination=to, outcome="undeliverable", reason=reason)
        self._journal.counts.undelivered += len(ended)
        if ended:
            self._journal.note(DEAD, source, ended, reason=undeliverable(to, reason)[:MAX_TEXT])
            self._outbox.end(to, source, ended)
