"""The outbox: tasks that wait for other nodes, by destination, and their sequence numbers.

It lives on the event loop. A task lies in a batch of incoming/ like any other until it settles, then in a file of
outbox/DESTINATION/. It leaves the disk once the other node says, after its own fsync, that it has the task.
"""

import contextlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spoolnode.node.disk.layout import destination_of, is_outbound, number_of, outbox_ref, ref_id
from spoolnode.node.outbox.destination import UNSENT, Destination
from spoolnode.node.outbox.links import Doubts, Links, read_links, write_links
from spoolnode.node.outbox.owed import OwedNumbers
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.recovery import Found, FoundOutboxFile
from spoolnode.node.spool.sequence import LAST_RUN, RUN_BITS
from spoolnode.node.spool.tasks import Batch, OutboxFiles, Source, Taken
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import LAST


class Outbox:
    """All destinations of one node."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        journal.tenants.append(self)
        self.files = OutboxFiles()
        self.destinations: dict[str, Destination] = {}
        self.woken: Callable[[str], None] = lambda _name: None
        self.total = 0
        """Tasks that wait for other nodes."""
        self.forwarded = 0
        """Tasks that other nodes took, since the start."""
        self._next = 0
        self._run = 0
        self._boot = ""
        self._is_told = False
        """Whether the file `links` tells of this process. If it still says that all marks are safe, none may be made."""
        self._old_doubts: Doubts = {}
        """From the start: numbers that were in doubt at the last save, until `adopt` has sorted them in."""
        self._owed = OwedNumbers(self.refused)

    def __repr__(self) -> str:
        return f"<outbox: {self.total} tasks for {len(self.sizes())} of {len(self.destinations)} destinations>"

    def when_woken(self, call: Callable[[str], None]) -> None:
        """Has `call` called with each destination that has got a task."""
        self.woken = call

    # -- numbers --

    def start(self, boot: str, now: float) -> bool:
        """Begins a run of numbers, before tasks are routed. Returns whether tasks that look unsent may have been sent.

        Args:
            boot: a word for this boot of the machine; after a power cut marks may be lost.
            now: the wall clock, in seconds.
        """
        self._boot = boot
        known = read_links(self._journal.store, boot, self._journal.report)
        self._run = min(max(int(now), known.run + 1), LAST_RUN)
        # At a random place in the run: a copy of this directory that starts in the same second gives other numbers.
        self._next = (self._run << RUN_BITS) + 1 + secrets.randbits(RUN_BITS - 2)
        for name, peer in known.peers.items():
            self.destination(name).peer = peer
        self._old_doubts = known.doubts
        is_suspicious = known.boot != boot and not known.clean
        # Until `adopt` has noted what is in doubt now, the next start must come to the same conclusion.
        links = self._links(clean=False, boot=known.boot if is_suspicious else boot)
        self._is_told = write_links(self._journal.store, links, self._journal.report)
        return is_suspicious

    def _links(self, *, clean: bool, boot: str | None = None) -> Links:
        peers = {name: found.peer for name, found in self.destinations.items() if found.peer}
        doubts = {name: found.numbers_in_doubt() for name, found in self.destinations.items()}
        for name, owners in self._old_doubts.items():
            doubts[name] = {**owners, **doubts.get(name, {})}
        return Links(self._run, self._boot if boot is None else boot, clean, peers, doubts)

    async def save(self) -> None:
        """Saves what must be remembered. Raises OSError."""
        store, links = self._journal.store, self._links(clean=False)
        await self._journal.moves.run(lambda: store.replace(store.layout.links, links.encode()))
        self._is_told = True

    async def stop(self) -> None:
        """Makes the marks safe and notes that everything is on the medium, so that the next start trusts them."""
        store, links, marked = self._journal.store, self._links(clean=not self._owed.has_failed), list(self.files.marked)

        def save() -> None:
            store.sync_files(marked)
            store.replace(store.layout.links, links.encode())

        with contextlib.suppress(OSError):  # then more tasks than necessary are in doubt at the next start
            await self._journal.moves.run(save)

    def number(self, to: str) -> int:
        """The next number, for a task that goes to `to`."""
        number, self._next = self._next, self._next + 1
        self.destination(to).outstanding.give(number)
        return number

    def low_watermark(self, to: str) -> int:
        """The lowest number for `to` that may still be sent."""
        return self.destination(to).outstanding.low_watermark(self._next) if self._owed.has_synced else 0

    # -- in --

    def adopt(self, found: Found, now: float, *, suspicious: bool) -> None:
        """Takes the tasks that a start has found. `suspicious`: even unmarked ones may have been sent."""
        for batch in found.batches:
            for item in batch.outbound:
                self._adopt_one(item.to, batch.batch, item.offset, item.rank, item.number, item.sent or suspicious)
        for file in found.outbox:
            ref, accepted = file.ref, min(file.mtime, now)
            if not number_of(ref):  # it was put there by hand: it waits from now on
                numbered = self._numbered(file)
                if numbered is None:
                    continue
                ref, accepted = numbered, now
            self.files.known[ref] = accepted
            if file.sent:
                self.files.marked.add(ref)  # by an earlier process, which may not have ended in order
            self._adopt_one(destination_of(ref), self.files, ref, LAST, number_of(ref), file.sent or suspicious)
        self._old_doubts.clear()
        if suspicious:
            self._is_told = write_links(self._journal.store, self._links(clean=False), self._journal.report)

    def _numbered(self, file: FoundOutboxFile) -> str | None:
        """Gives a file a number. Returns its new ref, or None if the disk failed."""
        to = destination_of(file.ref)
        number = self.number(to)
        ref = outbox_ref(to, ref_id(file.ref), number)
        try:
            IN_FILES.hand_over(self._journal.store, {file.ref: ref})
        except (OSError, BadPacket) as error:
            self.refused(to, number)
            self._journal.report("move_failed", move="number", file=ascii(file.ref), reason=str(error), kept="for a restart")
            return None
        return ref

    def _adopt_one(self, to: str, source: Source, ref: Ref, rank: int, number: int, sent: bool) -> None:
        found = self.destination(to)
        found.outstanding.give(number)
        self._grow(found, 1)
        owners = [owner for owner, numbers in self._old_doubts.get(to, {}).items() if number in numbers]
        owner = owners[0] if owners else found.peer if sent else UNSENT
        found.add(owner, source, ref, rank)

    def accept(self, to: str, batch: Batch, offset: int, rank: int) -> None:
        """Takes a task in a batch, which is safe on disk."""
        found = self.destination(to)
        self._grow(found, 1)
        found.fresh.add(batch, [offset], rank)
        self.woken(to)

    def refused(self, to: str, number: int) -> None:
        """Takes back the number of a task that will not be sent again: it was not stored, or has left the disk for good."""
        self.destination(to).end(number)

    def accept_file(self, ref: str, accepted: float) -> None:
        """Takes a task in a file of outbox/, which is safe. `accepted`: when it was accepted, in seconds since 1970."""
        found = self.destination(destination_of(ref))
        self._grow(found, 1)
        self.files.known[ref] = accepted
        found.fresh.add(self.files, [ref])
        self.woken(found.name)

    # -- out --

    def has_work(self, to: str, peer: str) -> bool:
        """Whether a task can be sent to that destination if the node with this id answers (`ANYONE`: not known yet)."""
        found = self.destinations.get(to)
        return found is not None and found.has_work(peer)

    async def meet(self, to: str, peer: str) -> None:
        """Notes which node answers to a destination; safe on disk before anything is sent to it. Raises OSError."""
        found = self.destination(to)
        if found.peer != peer or not self._is_told:
            before, found.peer = found.peer, peer
            try:
                await self.save()
            except OSError:
                found.peer = before
                raise

    def marked(self, source: Source, refs: Sequence[Ref]) -> None:
        """Notes that tasks were marked as sent."""
        if not source.touch(self._journal):
            self.files.marked.update(map(str, refs))

    def take_old(self, oldest: float, count: int, among: Iterable[str] | None = None) -> list[tuple[str, str, Taken]]:
        """Takes up to `count` tasks that were accepted before `oldest` (seconds since 1970), as (destination, owner, tasks).

        Args:
            among: the destinations to search; None means all.
        """
        old: list[tuple[str, str, Taken]] = []
        for found in [self.destinations[name] for name in among or self.destinations if name in self.destinations]:
            for taken, owner in found.take_old(oldest, count):
                old.append((found.name, owner, taken))
                count -= len(taken.refs)
            if count <= 0:
                break
        return old

    async def remove(self, source: Source, ref: Any) -> bool:
        """Removes a waiting task by hand. Returns False if a link has it, or it is gone."""
        place, store = source.place, self._journal.store
        return await self.end_waiting(source, ref, lambda: place.remove(store, ref))

    async def end_waiting(self, source: Source, ref: Any, end: Callable[[], bool]) -> bool:
        """Takes a waiting task off the disk with `end`, in the store thread. Returns False if a link has it, or it is gone.

        Raises what `end` raises; then the task waits as before.
        """
        to = self.where_to(source, ref)
        if to is None or ref in source.in_flight or source.frozen:
            return False
        put_back = self.destination(to).withdraw(source, ref)
        removed = ended = False
        try:
            removed = await self._journal.moves.run(end)
            ended = True
        except FileNotFoundError:
            ended = True  # it was removed meanwhile
        finally:
            if ended:
                self.end(to, source, [ref])
            else:
                put_back()
                self.woken(to)
        return removed

    def where_to(self, source: Source, ref: Ref) -> str | None:
        """The destination of a task in the outbox; None if it is not in here."""
        if source is self.files:
            return destination_of(str(ref)) if ref in self.files.known else None
        return next((name for name, found in self.destinations.items() if found.has(source, ref)), None)

    # -- what ended --

    def delivered(self, to: str, source: Source, refs: Sequence[Any], numbers: Sequence[int]) -> None:
        """Other nodes took these tasks, which have left the disk."""
        self.forwarded += len(refs)
        self.end(to, source, refs, numbers)

    def end(self, to: str, source: Source, refs: Sequence[Any], numbers: Sequence[int] = ()) -> None:
        """Notes that tasks have left the disk, or have another place. `numbers`: their numbers, if known."""
        self._grow(self.destination(to), -len(refs))
        self._owed.add(to, numbers or map(source.sequence_number, refs))
        source.in_flight.difference_update(refs)
        source.left(refs, self._journal)

    def syncing(self) -> Callable[[bool], None]:
        """Once the removal of tasks is safe, their numbers are no longer owed."""
        return self._owed.syncing()

    @property
    def in_batches(self) -> int:
        """Tasks that are in batches."""
        return self.total - len(self.files.known)

    @property
    def has_ended(self) -> bool:
        """Whether numbers wait for a sync."""
        return bool(self._owed)

    # -- what the journal asks and tells --

    def due(self, batch: Batch) -> dict[int, float]:  # noqa: ARG002  # they never have any
        """Tasks for other nodes do not wait for their time here."""
        return {}

    def settled(self, batch: Batch, moved: dict[int, str], due: dict[int, float]) -> None:  # noqa: ARG002  # see `due`
        """Notes that tasks of a batch have files of their own; their places in the queues lead there."""
        for ref in moved.values():
            if is_outbound(ref):
                self.files.known[ref] = batch.accepted

    def thawed(self, batch: Batch) -> None:
        """Lets links that found its tasks frozen try again."""
        if batch.outbound:
            for name in self.sizes():
                self.woken(name)

    def dropped(self, batch: Batch) -> None:
        """Forgets a batch."""

    def size(self, to: str) -> int:
        """The number of tasks for one destination."""
        return self.destinations[to].size if to in self.destinations else 0

    def in_doubt(self, to: str) -> int:
        """The number of tasks for one destination that were sent and not answered."""
        return self.destinations[to].in_doubt if to in self.destinations else 0

    def sizes(self) -> dict[str, int]:
        """The number of tasks for each destination with any."""
        return {name: found.size for name, found in self.destinations.items() if found.size}

    def _grow(self, found: Destination, count: int) -> None:
        found.size += count
        self.total += count

    def prune(self, name: str) -> None:
        """Forgets a destination without waiting tasks and owed numbers."""
        found = self.destinations.get(name)
        if found is not None and found.is_over:
            del self.destinations[name]

    def destination(self, name: str) -> Destination:
        """The queues of a destination."""
        if name not in self.destinations:
            self.destinations[name] = Destination(name, self.files)
        return self.destinations[name]
