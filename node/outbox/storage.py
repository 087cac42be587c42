"""One spool directory, opened: the journal, the spool and the outbox over it, and the moves between the two, put together."""

import asyncio
import os
import random
import time
from collections.abc import Callable
from typing import Any

from spoolnode.node.outbox.cancellation import Cancellation
from spoolnode.node.outbox.expiry import Expiry
from spoolnode.node.outbox.moving import Moving
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.outbox.shipping import Shipping
from spoolnode.node.spool import inspect
from spoolnode.node.spool.held import HeldFiles
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.pauses import Pauses
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.recovery import recover
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.spool import Spool
from spoolnode.node.spool.tasks import Source
from spoolnode.node.spool.verdicts import Verdicts


class Storage:
    """All that is on the disk of one node."""

    def __init__(self, journal: Journal, policy: RetryPolicy, rng: random.Random) -> None:
        """`rng`: for the jitter of pauses."""
        self.journal = journal
        self.outbox = Outbox(journal)
        self.shipping = Shipping(self.outbox, journal)
        self.expiry = Expiry(self.outbox, self.shipping, journal)
        self.spool = Spool(journal, self.outbox)
        self.held = HeldFiles(journal, self.spool.waiting, self.spool.starting)
        self.verdicts = Verdicts(self.spool, journal, policy, rng)
        self.moving = Moving(self.spool, self.outbox)
        self.pauses = Pauses(journal, self.spool.starting.throttle)
        self.cancellation = Cancellation(self.spool, self.outbox, journal)

    def load(self, boot: str = "") -> None:
        """Reads the directory, before the loop has anything else to do. `boot` tells the boots of the machine apart."""
        now = time.time()
        found = recover(self.journal.store, now, self.journal.report)
        self.pauses.load()
        self.journal.adopt(found)
        suspicious = self.outbox.start(boot, now)
        self.spool.adopt(found, now)
        self.verdicts.adopt(found, now)
        self.outbox.adopt(found, now, suspicious=suspicious)

    async def settle(self) -> None:
        """Publishes the tasks in arriving/, and gives the last few tasks of old batches files of their own."""
        await self.spool.arrivals.publish_all()
        await self.journal.settle()

    async def settle_all(self, goes_on: Callable[[], bool] = lambda: True) -> None:
        """Gives all tasks that wait in batches files of their own, as long as `goes_on` returns true and the disk has room."""
        await self.spool.group_commit.finish()
        await self.journal.settle_all(goes_on)

    async def close(self) -> None:
        """Ends all disk work: accepted tasks are acknowledged, marks are synced, empty batches are removed."""
        await self.spool.group_commit.finish()
        await self.journal.commits.run(self.spool.group_commit.close)
        await self.journal.sync_marks()
        await self.outbox.stop()
        await self.journal.close()

    async def save_missing(self) -> list[str]:
        """Saves this node's memory again where its files were removed. Returns the names of those files. Raises OSError."""
        layout = self.journal.layout
        missing = [layout.taken] if await self.journal.save_missing() else []
        if not await self.journal.moves.run(lambda: os.path.lexists(layout.links)):
            await self.outbox.save()
            missing.append(layout.links)
        return [os.path.basename(path) for path in missing]

    def at(self, ref: str) -> tuple[Source, Ref] | None:
        """The task in that file of outbox/. The file's name has a number that its id lacks, so the disk must be asked first."""
        return (self.outbox.files, ref) if ref in self.outbox.files.known else None

    def find_here(self, identity: str) -> tuple[Source, Ref] | None:
        """The place of a task that waits or runs here, as far as memory knows it."""
        if (ref := self.held.find(identity)) is not None:
            return self.held, ref
        return self.spool.find(identity)

    async def find(self, identity: str) -> tuple[Source, Ref] | None:
        """The place of a task that waits, or is with a worker or a link."""
        found = self.find_here(identity)
        if found is None and self.outbox.files.known:
            info = await self.look_up(identity)
            found = self.at(info.where) if info is not None else None
        return found

    async def look_up(self, identity: str) -> inspect.Info | None:
        """The task with that id, as it lies on the disk; None if it does not."""
        reader, loop, held = self.journal.reader, asyncio.get_running_loop(), self.held.spot(identity)
        found = await loop.run_in_executor(
            None, lambda: inspect.find_held(reader, held) if held else inspect.find_place(reader, identity)
        )
        return found[0] if found is not None else None

    async def remove(self, source: Source, ref: Any) -> bool:
        """Removes a waiting task. Returns False, and does nothing, if it does not wait there (any longer)."""
        return await (self.outbox if source.sequence_number(ref) else self.spool).remove(source, ref)

    @property
    def is_busy(self) -> bool:
        """Whether there is work for the next second."""
        return self.spool.is_busy or self.outbox.has_ended
