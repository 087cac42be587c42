"""Large tasks from peers: they lie in arriving/, which proves their numbers, until these are safe without them."""

import os
from functools import partial

from spoolnode.node.background import spawn
from spoolnode.node.spool.duplicates import Duplicates
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.place import IN_FILES
from spoolnode.node.spool.tasks import WaitingFile
from spoolnode.protocol.errors import BadPacket


class Arrivals:
    """The large tasks in arriving/ of one spool."""

    def __init__(self, journal: Journal, duplicates: Duplicates) -> None:
        self._journal = journal
        self._duplicates = duplicates
        self._arrived: dict[str, WaitingFile] = {}
        """By their refs now: where they will wait."""
        self._is_at_it = False

    def __len__(self) -> int:
        return len(self._arrived)

    def adopt(self, found: dict[str, WaitingFile]) -> None:
        """Takes what a start has found."""
        self._arrived = found

    def publish(self, ref: str, file: WaitingFile) -> None:
        """A task is safe in arriving/: it takes its place as soon as its number is safe without it."""
        self._arrived[ref] = file
        spawn(self.publish_all())

    async def publish_all(self) -> None:
        """Publishes the tasks in arriving/. Those that the disk does not take now are tried again a second later."""
        if self._is_at_it:
            return  # the call that is at it sees the new ones too
        self._is_at_it = True
        try:
            while self._arrived:
                ref, file = next(iter(self._arrived.items()))
                await self._publish_one(ref, file)
                del self._arrived[ref]
        except OSError as error:
            self._arrived[ref] = self._arrived.pop(ref)  # behind the others, which may be luckier
            self._journal.report("move_failed", move="publish", file=ref, reason=str(error))
        finally:
            self._is_at_it = False

    async def _publish_one(self, ref: str, file: WaitingFile) -> None:
        try:
            await self._journal.save_received()
            await self._duplicates.place(file, partial(self._journal.store.publish, ref))
        except BadPacket as error:
            reason = str(error)
            for action, details in await self._journal.moves.run(lambda: IN_FILES.quarantine(self._journal.store, ref, reason)):
                self._journal.report(action, **details)
            self._journal.touch_directories("arriving")
        except FileNotFoundError:
            # It moved the last time, but the disk did not confirm it.
            self._duplicates.enter(file)
            self._journal.touch_directories("arriving", os.path.dirname(file.ref))
