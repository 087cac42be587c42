"""Moves tasks within the spool: from here to an outbox, from one outbox to another, and back. For tasks that are chosen again,
shared, drained or claimed.

One rule: the new place is safe, then the old one is gone for good, and only then may a link or a worker see the task.
"""

import contextlib
import time
from collections.abc import Callable
from typing import NamedTuple

from spoolnode.node.disk.layout import destination_of, is_outbound, number_of, outbox_ref, waiting_ref
from spoolnode.node.outbox.destination import NOBODY
from spoolnode.node.outbox.envelope import AskedPlace, asked
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.spool.place import Place
from spoolnode.node.spool.queue import DueTask, Ref
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source, Taken

Choice = Callable[[AskedPlace], str | None]
"""Decides where a task with these wishes goes: to a destination (empty is here), or, with None, it stays where it is."""


class Kept(NamedTuple):
    """Tasks that were looked at and stay."""

    taken: Taken
    due: dict[Ref, DueTask]
    """When those of them are due that are due later."""


class Moving:
    """The moves of one spool."""

    def __init__(self, spool: Spool, outbox: Outbox) -> None:
        self._spool = spool
        self._outbox = outbox
        self._journal = spool.journal

    def __repr__(self) -> str:
        return f"<moves between {self._spool!r} and {self._outbox!r}>"

    async def give_away(self, count: int, choose: Choice, aside: list[Kept], *, later: bool = False) -> int | None:
        """Moves up to `count` of the tasks that wait here to the outboxes of other nodes, if `choose` lets them go.

        Args:
            later: also take those that are paused and, if none is ready, those that are due later.
            aside: gets the tasks that stay, so that the next call looks at others; always call `put_back` with it.

        Returns:
            How many went; None if no task waits.
        """
        taken = self._take(count, later=later)
        if taken is None:
            return None
        (source, refs, rank), due = taken
        moved: dict[Ref, str] = {}
        try:
            moved = await self.hand_over(taken.taken, choose)
        finally:
            aside.append(Kept(Taken(source, [ref for ref in refs if ref not in moved], rank), due))
            self._spool.end(source, list(moved))
        return len(moved)

    def put_back(self, aside: list[Kept]) -> None:
        """Puts back the tasks that were put aside: they wait in their order, or until their time."""
        for taken, due in reversed(aside):
            if due:
                self._spool.give_back_later([due[ref] for ref in taken.refs])
            else:
                self._spool.give_back(taken)

    async def re_place(self, to: str, count: int, choose: Choice, doubtful: str = NOBODY) -> int:
        """Gives other destinations to the tasks for `to` that were never sent, `count` at a time. Returns how many moved.

        `doubtful`: the id of a node; those that are in doubt with it move, too, and may then run twice.
        """
        stay: list[tuple[Taken, str]] = []
        total = 0
        try:
            while (chosen := self._outbox.destination(to).take(doubtful, count, count)) is not None:
                taken, owner = chosen
                source, refs, rank = taken
                moved: dict[Ref, str] = {}
                try:
                    moved = await self.hand_over(taken, choose)
                finally:
                    stay.append((Taken(source, [ref for ref in refs if ref not in moved], rank), owner))
                    self._outbox.end(to, source, [*moved])
                total += len(moved)
        finally:
            for kept, owner in reversed(stay):
                self._outbox.destination(to).give_back(kept, owner)
            if stay:
                self._outbox.woken(to)  # meanwhile the link saw no work, and may have gone to sleep for good
        return total

    def _take(self, count: int, *, later: bool) -> Kept | None:
        if (ready := self._spool.starting.take_to_move(count, paused=later)) is not None:
            return Kept(ready, {})
        entries = self._spool.take_later(count) if later else []
        if not entries:
            return None
        _, _, source, _, rank, _ = entries[0]
        due = {entry[3]: entry for entry in entries}
        return Kept(Taken(source, list(due), rank), due)

    async def hand_over(self, taken: Taken, choose: Choice) -> dict[Ref, str]:
        """Moves tasks to the destinations that `choose` names (empty: here); the new refs.

        The caller ends those that moved. The others stay where they are, and are not in the result.
        """
        source, refs, rank = taken
        moved: dict[Ref, str] = {}
        times: dict[str, float] = {}
        targets: dict[Ref, str] = {}
        wishes: dict[Ref, AskedPlace] = {}
        with self._journal.placing():
            try:
                place = source.place
                wishes = await self._journal.packing.run(lambda: asked(self._journal.reader, place, refs))
                targets = self._targets(source, rank, {ref: choose(wish) for ref, wish in wishes.items()})
                if source.arrived:
                    await self._journal.save_received()
                if targets:
                    moved, times = await self._journal.moves.run(lambda: self._hand_over(place, targets))
            except OSError as error:
                self._journal.report("move_failed", move="hand over", reason=str(error))
            finally:
                for ref, target in targets.items():
                    if ref not in moved and is_outbound(target):
                        self._outbox.refused(destination_of(target), number_of(target))
                for ref, target in moved.items():
                    self._welcome(target, times.get(target), wishes[ref].key)
        return moved

    def _targets(self, source: Source, rank: int, chosen: dict[Ref, str | None]) -> dict[Ref, str]:
        targets: dict[Ref, str] = {}
        for ref, to in chosen.items():
            identity = self._journal.id_of(source, ref)
            if to:
                targets[ref] = outbox_ref(to, identity, self._outbox.number(to))
            elif to is not None:
                targets[ref] = waiting_ref(identity, rank)
        return targets

    def _hand_over(self, place: Place, targets: dict[Ref, str]) -> tuple[dict[Ref, str], dict[str, float]]:
        """Moves tasks, in the store thread. Returns the new refs of those that moved, and the mtimes of readable files."""
        moved = place.hand_over(self._journal.store, targets)
        times = {}
        for ref in moved.values():
            with contextlib.suppress(OSError):
                times[ref] = self._journal.reader.disk.stat(self._journal.layout.path(ref)).mtime
        return moved, times

    def _welcome(self, ref: str, mtime: float | None, key: bytes) -> None:
        """Takes a file in its new place. Without `mtime` it could not be read; a worker or a link checks it before taking it."""
        now = time.time()
        if is_outbound(ref):
            self._outbox.accept_file(ref, now if mtime is None else mtime)
        else:
            self._spool.files.put(ref, mtime if mtime is not None and mtime > now else 0.0, key)
