"""The outbox: tasks that wait for other nodes, by destination. What is sent next, what is in doubt, which numbers are owed.

Lives on the event loop; disk work goes to two of the spool's threads: *packing* reads tasks for the links and marks them as
sent, *store* does everything that changes a place. A task lies in a batch of incoming/ like any other until it settles, then
in a file of outbox/DESTINATION/. It leaves the disk when the other node has said, after its own fsync, that it has it.

A task is *in doubt* when it may have reached the other node without our knowing. It is sent again with the same number,
and only to that node: another one could not know that it has run already.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypedDict

import msgpack

from spoolnode.node.disk.layout import destination_of, is_outbound, number_of, outbox_ref, ref_id
from spoolnode.node.outbox.envelope import Envelope, Unsendable, pack_tasks
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.queue import ReadyQueue, Ref
from spoolnode.node.spool.recovery import Found, move_aside, read_small
from spoolnode.node.spool.sequence import LAST_RUN, RUN_BITS, Intervals, Outstanding
from spoolnode.node.spool.tasks import Batch, OutboxFiles, Source, Taken
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.forward import undeliverable
from spoolnode.protocol.names import LAST

EXPIRED_AT_ONCE = 100
"""Tasks whose hold is over that are given up before others have their turn at the disk..."""
BURIED_TOGETHER = 32
"""...so many of them at once, which shares what their directory costs, and is told in two milliseconds."""
DESTINATIONS_AT_ONCE = 500
"""Destinations that are looked at for such tasks in one turn of the loop."""
ANYONE = ""
"""In place of a node's id: whichever node answers to the destination."""
NOBODY = "nobody"
"""In place of a node's id: no task is in doubt there."""


@dataclass(eq=False, slots=True)
class Destination:
    """What waits for one destination."""

    name: str
    fresh: ReadyQueue = field(default_factory=ReadyQueue)
    """Never sent, or surely not stored there."""
    doubts: dict[str, ReadyQueue] = field(default_factory=dict)
    """In doubt, by the id of the node that may have them."""
    outstanding: Outstanding = field(default_factory=Outstanding)
    size: int = 0
    """Tasks on disk."""
    peer: str = ""
    """The id of the node that last answered to this destination."""


@dataclass(slots=True)
class Shipment:
    """Tasks that a link has taken to send."""

    source: Source
    rank: int
    envelopes: list[Envelope]
    doubtful: bool = False
    """They may be with the other node already, whatever it answers now but "stored"."""

    def rest(self, envelopes: list[Envelope]) -> Taken:
        """Those of them that are in these envelopes."""
        return Taken(self.source, [envelope.ref for envelope in envelopes], self.rank)


class _Links(TypedDict):
    """What the file `links` says."""

    run: int
    boot: str
    clean: bool
    peers: dict[str, str]
    doubts: dict[str, dict[str, Intervals]]


def _links(content: dict[str, Any]) -> _Links:
    """Raises KeyError, TypeError, ValueError or AttributeError when it is none."""
    if not isinstance(content["run"], int):
        raise TypeError(f"run is {content['run']!r}")
    doubts = {
        str(name): {str(owner): Intervals([(int(start), int(end)) for start, end in pairs]) for owner, pairs in owners.items()}
        for name, owners in content.get("doubts", {}).items()
    }
    peers = {str(name): str(peer) for name, peer in content.get("peers", {}).items()}
    return _Links(
        run=content["run"], boot=str(content.get("boot", "")), clean=bool(content.get("clean", False)), peers=peers, doubts=doubts
    )


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
        self._old_doubts: dict[str, dict[str, Intervals]] = {}
        """Read at the start: numbers in doubt with nodes that have been replaced since, until `adopt` has sorted them in."""
        self._ended: list[tuple[str, int]] = []
        self.marks_unsure = False
        """Marks may be lost in a power cut: those of files are synced with nothing else, and a sync may have failed."""
        self._expiring = False
        self._is_safe = False
        """What earlier processes ended is on the medium; before, a power cut could bring back what we know nothing of."""

    def when_woken(self, call: Callable[[str], None]) -> None:
        """`call` is to be called with a destination for which something came."""
        self.woken = call

    # -- numbers --

    def start(self, boot: str, now: float) -> bool:
        """Begins a run of numbers; before anything is routed. Whether tasks that look unsent may have been sent all the same.

        Args:
            boot: tells one life of the machine from another; after a power cut marks may be lost.
            now: the wall clock, in seconds.
        """
        self._boot = boot
        known = self._read()
        self._run = min(max(int(now), known["run"] + 1), LAST_RUN)
        # At a random place of the run: a copy of this directory that starts in the same second gives other numbers.
        self._next = (self._run << RUN_BITS) + 1 + secrets.randbits(RUN_BITS - 2)
        for name, peer in known["peers"].items():
            self._destination(name).peer = peer
        self._old_doubts = known["doubts"]
        try:
            self._journal.store.replace(self._journal.layout.links, self._encoded(clean=False))
        except OSError as error:
            # A full disk keeps nobody from running. The clock alone makes the next run a new one then.
            self._journal.report("sync_failed", file="links", reason=str(error))
        return bool(known["boot"] != boot and not known["clean"])

    def _read(self) -> _Links:
        """What an earlier process has left; what cannot be made out is moved aside, and everything counts as sent then."""
        data = read_small(self._journal.store, self._journal.layout.links, self._journal.report)
        try:
            return _links(msgpack.unpackb(data)) if data is not None else _links({"boot": self._boot, "run": 0})
        except (KeyError, TypeError, ValueError, AttributeError, msgpack.UnpackException) as error:
            reason = f"it is damaged: {error!r}; all that waits in outbox/ counts as sent"
            move_aside(self._journal.store, "links", reason, self._journal.report)
            return _links({"run": 0})

    def _encoded(self, *, clean: bool) -> bytes:
        peers = {name: found.peer for name, found in self.destinations.items() if found.peer}
        doubts = {name: self._doubts_of_others(found) for name, found in self.destinations.items()}
        for name, owners in self._old_doubts.items():
            doubts[name] = {**{owner: numbers.pairs() for owner, numbers in owners.items()}, **doubts.get(name, {})}
        content = {"version": 1, "run": self._run, "boot": self._boot, "clean": clean, "peers": peers, "doubts": doubts}
        packed: bytes = msgpack.packb(content)
        return packed

    @staticmethod
    def _doubts_of_others(found: Destination) -> dict[str, list[tuple[int, int]]]:
        """The numbers that are in doubt with other nodes than the one that answers to this destination now."""
        others: dict[str, list[tuple[int, int]]] = {}
        for owner, queue in found.doubts.items():
            if owner != found.peer and queue.size:
                numbers = Intervals()
                for source, ref in queue.items():
                    numbers.add(source.sequence_number(ref))
                others[owner] = numbers.pairs()
        return others

    async def save(self) -> None:
        """Writes down what must be remembered. Raises OSError."""
        data = self._encoded(clean=False)
        await self._journal.moves.run(lambda: self._journal.store.replace(self._journal.layout.links, data))

    async def stop(self) -> None:
        """Notes that everything written is on the medium: marks tell the truth at the next start."""
        with contextlib.suppress(OSError):  # then the next start takes more tasks for doubtful than need be
            data = self._encoded(clean=not self.marks_unsure)
            await self._journal.moves.run(lambda: self._journal.store.replace(self._journal.layout.links, data))

    def number(self, to: str) -> int:
        """The next number, for a task that goes to `to`."""
        number, self._next = self._next, self._next + 1
        self._destination(to).outstanding.give(number)
        return number

    def low_watermark(self, to: str) -> int:
        """The lowest number of `to` that may still be sent."""
        return self._destination(to).outstanding.low_watermark(self._next) if self._is_safe else 0

    # -- in --

    def adopt(self, found: Found, now: float, *, suspicious: bool) -> None:
        """Takes what a start has found. `suspicious`: also what is not marked may have been sent."""
        for batch in found.batches:
            for item in batch.outbound:
                self._adopt_one(item.to, batch.batch, item.offset, item.rank, item.number, item.sent or suspicious)
        for file in found.outbox:
            ref, number, accepted = file.ref, number_of(file.ref), min(file.mtime, now)
            if not number:
                accepted = now
                to = destination_of(ref)
                number = self.number(to)
                ref = outbox_ref(to, ref_id(ref), number)
                try:
                    IN_FILES.hand_over(self._journal.store, {file.ref: ref})
                except (OSError, BadPacket) as error:
                    self.refused(to, number)
                    self._journal.report(
                        "move_failed", move="number", file=ascii(file.ref), reason=str(error), kept="for a restart"
                    )
                    continue
            self.files.known[ref] = accepted
            self._adopt_one(destination_of(ref), self.files, ref, LAST, number, file.sent or suspicious)
        self._old_doubts.clear()

    def _adopt_one(self, to: str, source: Source, ref: Ref, rank: int, number: int, sent: bool) -> None:
        found = self._destination(to)
        found.outstanding.give(number)
        self._grow(found, 1)
        owners = [owner for owner, numbers in self._old_doubts.get(to, {}).items() if number in numbers]
        owner = owners[0] if owners else found.peer if sent else ""
        queue = self._doubt(found, owner) if owner else found.fresh
        queue.add(source, [ref], rank)

    def accept(self, to: str, batch: Batch, offset: int, rank: int) -> None:
        """A task in a batch is safe."""
        found = self._destination(to)
        self._grow(found, 1)
        found.fresh.add(batch, [offset], rank)
        self.woken(to)

    def refused(self, to: str, number: int) -> None:
        """A task that got a number was not stored; nobody will ever send it."""
        self._destination(to).outstanding.end(number)

    def accept_file(self, ref: str, accepted: float) -> None:
        """A task in a file of outbox/ is safe; `accepted`: since when it waits, in seconds since 1970."""
        found = self._destination(destination_of(ref))
        self._grow(found, 1)
        self.files.known[ref] = accepted
        found.fresh.add(self.files, [ref])
        self.woken(found.name)

    # -- to a link and back --

    def has_work(self, to: str, peer: str) -> bool:
        """Whether something can be sent to that destination, when the node of this id answers (`ANYONE`: not known yet)."""
        found = self.destinations.get(to)
        if found is None:
            return False
        return bool(found.fresh.size or any(queue.size for owner, queue in found.doubts.items() if peer in (owner, ANYONE)))

    async def meet(self, to: str, peer: str) -> None:
        """A node answered to a destination: noted, safely, before anything is sent to it. Raises OSError."""
        found = self._destination(to)
        if found.peer != peer:
            before, found.peer = found.peer, peer
            try:
                await self.save()
            except OSError:
                found.peer = before
                raise

    async def take(self, to: str, peer: str, count: int, files: int) -> Shipment | None:
        """Up to `count` tasks (`files`, when each is a file) to send to the node of that id, those in doubt first.

        None when there are none now.

        Raises:
            OSError: they cannot be read; they stay.
        """
        found = self._destination(to)
        taken = self._take(found, peer, count, files)
        if taken is None:
            return None
        (source, refs, rank), doubtful = taken
        try:
            packed = await self._journal.packing.run(lambda: pack_tasks(source.place, self._journal.marker, refs))
        except FileNotFoundError:
            packed = []
        except BaseException:
            self.give_back(to, peer, taken[0], doubtful=doubtful)
            raise
        self.marks_unsure |= not source.touch(self._journal)
        self._sort_out(found, source, refs, packed, peer if doubtful else "")
        return Shipment(source, rank, [envelope for envelope in packed if isinstance(envelope, Envelope)], doubtful)

    def _take(self, found: Destination, peer: str, count: int, files: int) -> tuple[Taken, bool] | None:
        """Also whether they are in doubt."""
        queues = [(found.doubts[peer], True)] if peer in found.doubts else []
        for queue, doubtful in [*queues, (found.fresh, False)]:
            while (taken := queue.take(count)) is not None:
                source, refs, rank = taken
                most = source.at_once(count, files)
                queue.give_back(source, refs[most:], rank)
                here, moved = source.ready(refs[:most])
                queue.give_back(self.files, moved, rank)
                if here:
                    source.in_flight.update(here)
                    return Taken(source, here, rank), doubtful
        return None

    def _sort_out(
        self, found: Destination, source: Source, refs: Sequence[Any], packed: list[Envelope | Unsendable], owner: str
    ) -> None:
        """What is gone is forgotten, what cannot be sent is given up. `owner`: who may have them."""
        if len(packed) < len(refs):
            there = {envelope.ref for envelope in packed}
            self._end(found, source, [(ref, source.sequence_number(ref)) for ref in refs if ref not in there])
        for envelope in packed:
            if isinstance(envelope, Unsendable):
                self.give_up(
                    found.name, source, envelope.ref, source.sequence_number(envelope.ref), envelope.reason, doubtful=owner
                )

    def give_back(self, to: str, peer: str, taken: Taken, *, doubtful: bool) -> None:
        """A link could not get rid of tasks. `doubtful`: they may have reached the node of that id. In order of sending."""
        found = self._destination(to)
        taken.source.in_flight.difference_update(taken.refs)
        queue = self._doubt(found, peer) if doubtful else found.fresh
        queue.give_back(*taken)

    def handed(self, to: str, peer: str, source: Source, sent: list[tuple[Ref, int]], rank: int) -> None:
        """The other node has these tasks, safely: they leave this disk. `sent`: ref and number of each."""
        found, place, refs = self._destination(to), source.place, [ref for ref, _ in sent]

        def left(result: None, error: BaseException | None) -> None:
            del result
            if error is not None and not isinstance(error, FileNotFoundError):
                self._journal.report("move_failed", move="handed over", destination=to, reason=str(error))
                self.give_back(to, peer, Taken(source, refs, rank), doubtful=True)
                self.woken(to)
                return
            self.forwarded += len(sent)
            if self._journal.trace:
                for ref in refs:
                    self._journal.trace("forwarded", id=self._journal.id_of(source, ref), to=to, peer=peer)
            self._end(found, source, sent)

        self._journal.moves.submit(lambda: place.leave(self._journal.store, refs), left)

    def give_up(
        self, to: str, source: Source, ref: Ref, number: int, reason: str, *, doubtful: str = "", rank: int = LAST
    ) -> None:
        """A task that was taken cannot be delivered: it goes to dead/, with the reason.

        Args:
            doubtful: the id of the node that may have it; it stays in doubt when the disk does not let it go.
        """
        self._give_up_together(to, source, [(ref, number)], reason, doubtful=doubtful, rank=rank)

    def _give_up_together(
        self, to: str, source: Source, tasks: list[tuple[Ref, int]], reason: str, *, doubtful: str, rank: int = LAST
    ) -> None:
        store, place = self._journal.store, source.place

        def bury() -> dict[Ref, Exception]:
            problems: dict[Ref, Exception] = {}
            told = undeliverable(to, reason)
            for ref, problem in place.bury_together(store, [ref for ref, _ in tasks], told, 0).items():
                try:
                    if not isinstance(problem, BadPacket):
                        raise problem
                    # Not even that can be read: what is left of it is kept.
                    place.keep_unreadable(store, ref)
                except FileNotFoundError:
                    continue  # somebody removed it
                except OSError as error:
                    problems[ref] = error
            return problems

        def buried(stay: dict[Ref, Exception] | None, error: BaseException | None) -> None:
            problems: dict[Ref, BaseException] = {**(stay or {})} if error is None else {ref: error for ref, _ in tasks}
            self._buried(to, source, tasks, reason, problems)
            if problems:
                self.give_back(to, doubtful, Taken(source, [*problems], rank), doubtful=bool(doubtful))
                self.woken(to)

        self._journal.moves.submit(bury, buried)

    def _buried(self, to: str, source: Source, tasks: list[tuple[Ref, int]], reason: str, stay: dict[Ref, BaseException]) -> None:
        """Tasks are in dead/, but for those that `stay`."""
        for ref, why in stay.items():
            self._journal.report("move_failed", move="bury", id=self._journal.id_of(source, ref), reason=str(why))
        ended = [(ref, number) for ref, number in tasks if ref not in stay]
        for ref, _ in ended:
            self._journal.report(
                "dead", id=self._journal.id_of(source, ref), destination=to, outcome="undeliverable", reason=reason
            )
        self._journal.counts.died += len(ended)
        if ended:
            self._end(self._destination(to), source, ended)

    # -- moving within the spool --

    def take_fresh(self, to: str, count: int) -> Taken | None:
        """Up to `count` tasks that were never sent, for `keep` and `left`; None when there are none."""
        taken = self._take(self._destination(to), NOBODY, count, count)
        return taken[0] if taken is not None else None

    def left(self, to: str, source: Source, refs: Iterable[Ref]) -> None:
        """These have gone to another place."""
        self._end(self._destination(to), source, [(ref, source.sequence_number(ref)) for ref in refs])

    def keep(self, to: str, taken: Taken) -> None:
        """These stay; they are the next to be sent."""
        self.give_back(to, NOBODY, taken, doubtful=False)

    async def give_up_expired(self, hold: float) -> None:
        """What has waited for longer than `hold` seconds goes to dead/; returns at once when an earlier call is still at it."""
        if self._expiring:
            return
        self._expiring = True
        try:
            everybody = [*self.destinations]
            for start in range(0, len(everybody), DESTINATIONS_AT_ONCE):
                await self._give_up_old(everybody[start : start + DESTINATIONS_AT_ONCE], hold)
                await asyncio.sleep(0)
        finally:
            self._expiring = False

    async def _give_up_old(self, among: list[str], hold: float) -> None:
        reason, before = f"it waited {hold:g} s (--hold)", -1
        # Not on and on when the disk takes none; what it did not take is back in its queue.
        while self.total != before and (old := [*self.expired(time.time() - hold, EXPIRED_AT_ONCE, among)]):
            before = self.total
            for (to, owner, _), group in groupby(old, key=lambda one: (one[0], one[1], id(one[2]))):
                told = f"{reason}, and may have been delivered" if owner else reason
                tasks = [*group]
                for start in range(0, len(tasks), BURIED_TOGETHER):
                    together = [(ref, number) for _, _, _, ref, number in tasks[start : start + BURIED_TOGETHER]]
                    self._give_up_together(to, tasks[0][2], together, told, doubtful=owner)
            await self._journal.moves.run(lambda: None)  # the disk has done these

    def expired(
        self, oldest: float, count: int, among: Iterable[str] | None = None
    ) -> Iterator[tuple[str, str, Source, Any, int]]:
        """Up to `count` tasks that were accepted before `oldest` (seconds since 1970), each taken, for `give_up`: destination,
        who may have it, source, ref, number. `among`: destinations; all, when it is None."""
        for found in [self.destinations[name] for name in among or self.destinations if name in self.destinations]:
            for owner, queue in [("", found.fresh), *found.doubts.items()]:
                taken = queue.take_old(lambda source, ref: source.accepted_at(ref) < oldest, count) if queue.size else []
                count -= len(taken)
                for source, ref in taken:
                    real, here = self._real(source, ref)
                    for place in here:
                        real.in_flight.add(place)
                        yield found.name, owner, real, place, real.sequence_number(place)
            if count <= 0:
                return

    def _real(self, source: Source, ref: Any) -> tuple[Source, MutableSequence[Any]]:
        """Where a task is that a place in a queue leads to: it may have settled, or be gone."""
        here, moved = source.ready([ref])
        return (self.files, self.files.ready(moved)[0]) if moved else (source, here)

    async def remove(self, source: Source, ref: Any) -> bool:
        """Removes a waiting task by hand; False when it is with a link, or gone."""
        to = self.destination(source, ref)
        if to is None or ref in source.in_flight or source.frozen:
            return False
        source.in_flight.add(ref)
        found = self._destination(to)
        # Not in a queue meanwhile: a link would take it between the look and the mark.
        queues = [
            (queue, rank) for queue in (found.fresh, *found.doubts.values()) if (rank := queue.remove(source, ref)) is not None
        ]
        place, removed, ended = source.place, False, False
        try:
            removed = await self._journal.moves.run(lambda: place.remove(self._journal.store, ref))
            ended = True
        except FileNotFoundError:
            ended = True  # somebody else removed it
        finally:
            if ended:
                self._end(found, source, [(ref, source.sequence_number(ref))])
            else:
                source.in_flight.discard(ref)
                for queue, rank in queues:
                    queue.give_back(source, [ref], rank)
                self.woken(to)
        return removed

    def destination(self, source: Source, ref: Ref) -> str | None:
        """Where a task in here is to go; None when it is none of ours."""
        if source is self.files:
            return destination_of(str(ref)) if ref in self.files.known else None
        for found in self.destinations.values():
            for queue in (found.fresh, *found.doubts.values()):
                if queue.has(source, ref):
                    return found.name
        return None

    # -- what ended --

    def syncing(self) -> Callable[[bool], None]:
        """The numbers of tasks that have left the disk are no more owed when that is safe."""
        ended, self._ended = self._ended, []

        def synced(is_safe: bool) -> None:
            if is_safe:
                self._is_safe = True
                for to, number in ended:
                    self._destination(to).outstanding.end(number)
            else:
                self.marks_unsure = True  # and the numbers stay owed: after a power cut their tasks may be sent again

        return synced

    @property
    def has_ended(self) -> bool:
        """Whether numbers wait for a sync."""
        return bool(self._ended)

    # -- what the journal asks and tells --

    def due(self, batch: Batch) -> dict[int, float]:  # noqa: ARG002  # of none
        """Nothing that goes to another node waits for its time here."""
        return {}

    def settled(self, batch: Batch, moved: dict[int, str], due: dict[int, float]) -> None:  # noqa: ARG002  # see `due`
        """Tasks of a batch have files of their own; their places in the queues lead there."""
        for ref in moved.values():
            if is_outbound(ref):
                self.files.known[ref] = batch.accepted

    def thawed(self, batch: Batch) -> None:
        """Links found its tasks frozen, and may try again."""
        if batch.outbound:
            for name in self.sizes():
                self.woken(name)

    def dropped(self, batch: Batch) -> None:
        """Nothing of it is known here any more."""

    @property
    def in_batches(self) -> int:
        """Tasks that lie in batches."""
        return self.total - len(self.files.known)

    def size(self, to: str) -> int:
        """How many wait for one destination."""
        return self.destinations[to].size if to in self.destinations else 0

    def sizes(self) -> dict[str, int]:
        """How many wait for each destination for which any do."""
        return {name: found.size for name, found in self.destinations.items() if found.size}

    def _grow(self, found: Destination, count: int) -> None:
        found.size += count
        self.total += count

    def _end(self, found: Destination, source: Source, ended: list[tuple[Ref, int]]) -> None:
        self._grow(found, -len(ended))
        self._ended += [(found.name, number) for _, number in ended if number]
        refs = [ref for ref, _ in ended]
        source.in_flight.difference_update(refs)
        source.left(refs, self._journal)

    def prune(self, name: str) -> None:
        """Forgets a destination for which nothing waits and nothing is owed."""
        found = self.destinations.get(name)
        if found is not None and not found.size and found.outstanding.low_watermark(0) == 0:
            del self.destinations[name]

    def _destination(self, name: str) -> Destination:
        if name not in self.destinations:
            self.destinations[name] = Destination(name)
        return self.destinations[name]

    @staticmethod
    def _doubt(found: Destination, peer: str) -> ReadyQueue:
        if peer not in found.doubts:
            found.doubts[peer] = ReadyQueue()
        return found.doubts[peer]


def boot_id(now: float) -> str:
    """One word for this life of the machine: it changes when the machine starts, or may have."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return f"unknown {now}"
