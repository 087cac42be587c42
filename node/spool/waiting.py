"""The order of the tasks that wait here: the ready ones, and those that are due later."""

import asyncio
import time
from collections.abc import Callable

from spoolnode.node.spool.parking import ParkingQueue
from spoolnode.node.spool.queue import Later, Ref
from spoolnode.node.spool.tasks import Source

WAKE_AT_ONCE = 1000
"""Tasks that are made ready in one turn of the loop: about two milliseconds."""


class Waiting:
    """The order of the tasks of one node. What becomes of them is not its business."""

    def __init__(self) -> None:
        self.ready = ParkingQueue(lambda source, ref: source.accepted_at(ref))
        self.later = Later()
        self.changed: Callable[[], None] = lambda: None

    def __repr__(self) -> str:
        return f"<waiting: {self.ready.size} ready, {len(self.later)} later>"

    def when_changed(self, call: Callable[[], None]) -> None:
        """`call` is to be called when tasks became ready, or the next one is due sooner."""
        self.changed = call

    def wait(self, source: Source, ref: Ref, rank: int, due: float, *, pauses: bool = False) -> None:
        """A task waits until it is due. `pauses`: for a while, and not for that time of the clock."""
        self.later.add(due, source, ref, rank, pauses=pauses)
        if self.later.next_due() == due:
            self.changed()  # the node has to wake sooner than planned

    def make_ready(self, source: Source, ref: Ref) -> None:
        """A task that waits for its time, if it still does, waits no more."""
        entry = self.later.remove(source, ref)
        if entry is not None and source.put_off(ref, 0.0):
            self.ready.add(source, [ref], entry[4])
            self.changed()

    def wake_due(self, now: float | None = None) -> None:
        """Makes ready what is due, as much as one turn of the loop has time for."""
        for _, source, ref, rank in self.later.pop_due(time.time() if now is None else now, WAKE_AT_ONCE):
            if source.put_off(ref, 0.0):
                self.ready.add(source, [ref], rank)
        if self.ready.size:
            self.changed()

    async def shift(self, step: float) -> None:
        """The clock was set by `step` seconds: pauses last as long as they were meant to."""
        for index, entry in enumerate(self.later.pausing()):
            self.later.shift(entry, step)
            if index % WAKE_AT_ONCE == WAKE_AT_ONCE - 1:
                await asyncio.sleep(0)
