"""Which of the ready tasks start now: the next ones in order, except those whose function is held back."""

import asyncio
import time
from collections.abc import Callable, Iterable

from spoolnode.node.spool.files import SpoolFiles
from spoolnode.node.spool.functions import Functions
from spoolnode.node.spool.group_commit import Group
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.node.spool.throttle import Throttle
from spoolnode.node.spool.waiting import Waiting
from spoolnode.node.spool.waiting_keys import WaitingKeys

ASK_AT_ONCE = 500
"""Tasks that begin to ask a common store in one turn of the loop: about five milliseconds."""


class Starting:
    """Takes tasks out of their order, for workers and for moves to other nodes."""

    def __init__(self, waiting: Waiting, files: SpoolFiles, keys: WaitingKeys) -> None:
        self._waiting = waiting
        self._files = files
        self._keys = keys
        self.functions = Functions()
        self.throttle = Throttle(self.functions, time.monotonic)
        self._shares: dict[tuple[Source, Ref], int] = {}
        """The tasks of limited functions that workers have, and their functions."""
        self._alarm: asyncio.TimerHandle | None = None
        """Wakes when a rate lets more tasks start."""

    def __repr__(self) -> str:
        return f"<starting from {self._waiting!r}, {self.throttle!r}>"

    def note_functions(self, group: Group) -> None:
        """Notes which function each task is for."""
        last = None
        for offset in group.offsets if group.functions else group.offsets[:1]:
            name = group.functions.get(offset, b"")
            if name != last:  # most have the name of the task before
                group.batch.functions.note(offset, self.functions.number(name))
                last = name

    def take(self, count: int) -> Taken | None:
        """Takes up to `count` tasks of one source to run now; None if there are none that may."""
        if self.throttle.is_shut:
            return None
        if self.throttle.is_open:
            return self._take(count, None)
        taken = self._take(count, self.throttle.allowance, starts=True)
        if taken is not None:
            self._share(taken)
        elif self._waiting.ready.is_behind:
            self._waiting.changed()  # there is more to look at, in another turn of the loop
        self._set_alarm()
        return taken

    def _share(self, taken: Taken) -> None:
        """Counts tasks of a limited function, which are taken alone, until `release`."""
        source, refs, _ = taken
        function, _ = source.alike(refs, 0, 1)
        if self.throttle.start(function, len(refs)):
            self._shares.update({(source, ref): function for ref in refs})

    def release(self, source: Source, refs: Iterable[Ref], *, ran: bool = True) -> None:
        """Tasks are with no worker any more. `ran`: they have started."""
        if not self._shares:
            return
        functions = [function for ref in refs if (function := self._shares.pop((source, ref), None)) is not None]
        for function in functions:
            self.throttle.end(function, ran=ran)
        if functions:
            self._waiting.changed()

    def _set_alarm(self) -> None:
        seconds = self.throttle.opens_in()
        if seconds is not None and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(seconds, self._opened)

    def _opened(self) -> None:
        self._alarm = None
        self._set_alarm()
        self._waiting.changed()

    def take_to_move(self, count: int, *, paused: bool) -> Taken | None:
        """The same for tasks that are to leave this node. `paused`: also those that may not run here."""
        if paused:
            return self._take(count, None)
        return None if self.throttle.is_shut else self._take(count, self.throttle.may_move)

    def _take(self, count: int, allowance: Callable[[int], int] | None, *, starts: bool = False) -> Taken | None:
        ready, ask = self._waiting.ready, 0
        while (taken := ready.take(count, allowance)) is not None:
            source, refs, rank = taken
            here, moved = source.ready(refs)
            if moved:  # of a batch that was settled: they take their turn as files
                ready.give_back(self._files, moved, rank)
            may = source.admitted(here, rank) if starts else here
            if may:
                source.in_flight.update(may)
                return Taken(source, may, rank)
            ask += len(here)
            if ask >= ASK_AT_ONCE:
                self._waiting.changed()  # there is more to look at, in another turn of the loop
                break
        return None

    @property
    def count(self) -> int:
        """The ready tasks that may start now, as far as that is known without looking at each."""
        return 0 if self.throttle.is_shut else self._waiting.ready.count(self.throttle.allowance)

    def held_back(self) -> dict[str, int]:
        """The number of tasks that wait although their turn has come, by the function that is paused or limited."""
        return {self.functions.name(function): count for function, count in self._waiting.ready.parked().items()}

    def to_return(self, taken: Taken) -> list[str]:
        """The functions whose tasks a worker is to give back when it finds some among these: only a look tells."""
        source, refs, _ = taken
        if self.throttle.is_open or not source.has_unknown:
            return []
        function, _ = source.alike(refs, 0, 1)
        return [] if self.throttle.governs(function) else self.throttle.governed

    def learn(self, source: Source, ref: Ref, rank: int, function: str) -> None:
        """A worker has given back a task of that function, which is held back."""
        source.learn(ref, self.functions.note(function))
        source.land([ref])
        self._keys.wait_again(source, [ref])
        self._waiting.ready.add(source, source.still_here([ref]), rank)
        self._waiting.changed()
