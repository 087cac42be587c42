"""One destination and its tasks, in their order: those that were never sent, and those in doubt, and with which node.

A task is *in doubt* when it may have reached the other node without our knowing. It is sent again with the same number, and
only to that node, because another node could not know that it has run already.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from spoolnode.node.spool.queue import ReadyQueue, Ref
from spoolnode.node.spool.sequence import Intervals, Outstanding
from spoolnode.node.spool.tasks import OutboxFiles, Source, Taken
from spoolnode.protocol.names import LAST

ANYONE = ""
"""In place of a node's id: any node that answers to the destination."""
NOBODY = "nobody"
"""In place of a node's id: no task is in doubt there."""
UNSENT = ""
"""In place of the owner of a task: it was never sent, or is surely not stored there."""


@dataclass(eq=False, slots=True, repr=False)
class Destination:
    """One destination. The *owner* of a task is the id of the node that may have it, or `UNSENT`."""

    name: str
    files: OutboxFiles
    """Where its tasks are when they have settled; that of all others, too."""
    fresh: ReadyQueue = field(default_factory=ReadyQueue)
    """The unsent ones."""
    doubts: dict[str, ReadyQueue] = field(default_factory=dict)
    """The others, by owner."""
    doubtful: dict[str, Intervals] = field(default_factory=dict)
    """The numbers of the others, by owner, until their tasks have left the disk for good. A link may have some of them now."""
    outstanding: Outstanding = field(default_factory=Outstanding)
    size: int = 0
    """Tasks on disk."""
    peer: str = ""
    """The id of the node that last answered to this destination."""

    def __repr__(self) -> str:
        doubts = {owner: queue.size for owner, queue in self.doubts.items() if queue.size}
        return f"<destination {self.name}: {self.size} tasks, {self.fresh.size} unsent, in doubt {doubts}, peer {self.peer!r}>"

    @property
    def in_doubt(self) -> int:
        """The number of tasks that some node may have."""
        return sum(queue.size for queue in self.doubts.values())

    def queue(self, owner: str) -> ReadyQueue:
        """The tasks of that owner."""
        if owner == UNSENT:
            return self.fresh
        if owner not in self.doubts:
            self.doubts[owner] = ReadyQueue()
        return self.doubts[owner]

    def add(self, owner: str, source: Source, ref: Ref, rank: int) -> None:
        """Adds a task behind the others of that owner, and of its rank."""
        self._note(owner, source, [ref])
        self.queue(owner).add(source, [ref], rank)

    def end(self, number: int) -> None:
        """Notes that the task of that number has left the disk for good, or was never stored: it is not sent again."""
        self.outstanding.end(number)
        for numbers in self.doubtful.values():
            numbers.remove(number)

    def has_work(self, peer: str) -> bool:
        """Whether something can be sent when the node of this id answers (`ANYONE`: not known yet)."""
        return bool(self.fresh.size or any(queue.size for owner, queue in self.doubts.items() if peer in (owner, ANYONE)))

    def take(self, peer: str, tasks: int, files: int) -> tuple[Taken, str] | None:
        """Up to so many tasks, or files, for the node of that id, those in doubt first; and their owner. None: there are none."""
        owners = [peer] if peer in self.doubts else []
        for owner in (*owners, UNSENT):
            queue = self.queue(owner)
            while (taken := queue.take(tasks)) is not None:
                source, refs, rank = taken
                most = source.at_once(tasks, files)
                queue.give_back(source, refs[most:], rank)
                here, moved = source.ready(refs[:most])
                queue.give_back(self.files, moved, rank)
                if here:
                    source.in_flight.update(here)
                    return Taken(source, here, rank), owner
        return None

    def take_old(self, oldest: float, count: int) -> list[tuple[Taken, str]]:
        """Up to `count` tasks that were accepted before `oldest` (seconds since 1970), and their owners."""
        found: list[tuple[Taken, str]] = []
        for owner, queue in self._queues():
            old = queue.take_old(lambda source, ref: source.accepted_at(ref) < oldest, count) if queue.size else []
            count -= len(old)
            for source, ref in self._where_they_are(old):
                source.in_flight.add(ref)
                if not found or found[-1][0].source is not source or found[-1][1] != owner:
                    found.append((Taken(source, [], LAST), owner))
                found[-1][0].refs.append(ref)
        return found

    def _where_they_are(self, places: list[tuple[Source, Any]]) -> Iterator[tuple[Source, Any]]:
        """The tasks to which places in a queue lead: they may have settled, or be gone."""
        for source, ref in places:
            here, moved = source.ready([ref])
            yield from ((source, one) for one in here)
            yield from ((self.files, one) for one in self.files.ready(moved)[0])

    def give_back(self, taken: Taken, owner: str) -> None:
        """Tasks were taken and stay: they are the next."""
        taken.source.land(taken.refs)
        self._note(owner, taken.source, taken.refs)
        self.queue(owner).give_back(*taken)

    def withdraw(self, source: Source, ref: Ref) -> Callable[[], None]:
        """Takes one task out of its queue: a link would take it between the look and the mark. The answer puts it back."""
        ranks = [(owner, rank) for owner, queue in self._queues() if (rank := queue.remove(source, ref)) is not None]
        source.in_flight.add(ref)

        def put_back() -> None:
            source.in_flight.discard(ref)
            for owner, rank in ranks:
                self.queue(owner).give_back(source, [ref], rank)

        return put_back

    def owner_of(self, source: Source, ref: Ref) -> str:
        """The owner of a task that is here."""
        number = source.sequence_number(ref)
        return next((owner for owner, numbers in self.doubtful.items() if number in numbers), UNSENT)

    def has(self, source: Source, ref: Ref) -> bool:
        """Whether a task waits here."""
        return any(queue.has(source, ref) for _, queue in self._queues())

    def numbers_in_doubt(self) -> dict[str, Intervals]:
        """The numbers in doubt, by owner. A mark on the disk says so of most, but not with whom, nor always after a power cut."""
        return {owner: numbers.copy() for owner, numbers in self.doubtful.items() if numbers}

    @property
    def is_over(self) -> bool:
        """Whether nothing waits for it and nothing is owed."""
        return not self.size and self.outstanding.low_watermark(0) == 0

    def _note(self, owner: str, source: Source, refs: Iterable[Ref]) -> None:
        """Notes the owner of tasks. One that is in doubt stays so to its end."""
        if owner != UNSENT:
            numbers = self.doubtful.setdefault(owner, Intervals())
            for ref in refs:
                numbers.add(source.sequence_number(ref))

    def _queues(self) -> list[tuple[str, ReadyQueue]]:
        return [(UNSENT, self.fresh), *self.doubts.items()]
