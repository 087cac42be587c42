"""A spool with an admission, on a bad disk, at one end of a link: the real code answers, stores, runs and forgets what a
peer sends; the disk threads go on only when told.
"""

import asyncio
import copy
import random
from dataclasses import dataclass, field
from typing import Any

from life import Inline, new_machine

from spoolnode.node.disk.fakes import FakeDisk, GuardedDisk, SteppedThread
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.admission import Admission, InlineTask
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.sequence import Key
from spoolnode.node.spool.store import Store
from spoolnode.protocol import spoolfile
from spoolnode.protocol.batch import payload_length
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.packet import decode_variables, encode_variables
from spoolnode.protocol.request import read_terms
from spoolnode.protocol.spoolfile import FINISHED, STATE_AT, WAITING

NODE = "0123456789ab"
PEER = "aaaaaaaaaaaa"
LINK: Key = (PEER, "beta")
LARGE = b"large" * 50_000
"""A body that gets a file of its own."""


@dataclass
class Heard:
    """A waiter that remembers."""

    stored_as: list[str] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    copies: int = 0

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe."""
        self.stored_as.append(task_id)
        self.copies = copies

    def refused(self, refusal: Refused) -> None:
        """It is not taken."""
        self.refusals.append(refusal)

    @property
    def answers(self) -> int:
        """How often it was told something."""
        return len(self.stored_as) + len(self.refusals)


def task(n: int, number: int = 0, **more: str) -> bytes:
    """The variables of a task as a link carries them."""
    said = {"n": str(n), **({"spool_seq": str(number)} if number else {}), **more}
    return encode_variables([(key.encode(), value.encode()) for key, value in said.items()])


class Station:
    """One node without sockets and workers."""

    def __init__(
        self, disk: FakeDisk | None = None, *, route: Any = None, life: int = 1, max_body: int = 1 << 20, executor: Any = None
    ) -> None:
        self.disk = disk or new_machine()
        self.reports: list[tuple[str, dict[str, Any]]] = []
        policy = RetryPolicy(max_attempts=3, base=0.001)
        layout = Layout("/var/spool")
        guard = GuardedDisk(self.disk, layout)
        self.journal = Journal(guard, layout, NODE, sync=True, report=self._report, thread=SteppedThread)
        self.storage = Storage(self.journal, policy, random.Random(1))
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        self.threads = [self._stepped(thread) for thread in (self.journal.commits, self.journal.moves, self.journal.packing)]
        route = route or (lambda terms: [terms.destination])
        self.admission = Admission(self.storage, route, executor or Inline(), max_body=max_body, min_free=0)
        self.life = life
        """How often the machine has started."""
        self.storage.load(f"boot {life}")
        guard.in_force = True

    def _report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    @staticmethod
    def _stepped(thread: object) -> SteppedThread:
        assert isinstance(thread, SteppedThread)
        return thread

    @property
    def by_hand(self) -> Store:
        """The code within acts on the directory as another program, not as a thread of the node."""
        return Store(self.disk, self.journal.layout, NODE)

    # -- what comes --

    def admit(self, block: bytes, body: bytes = b"", link: Key | None = LINK) -> Heard:
        """A request whose body is at hand. Raises `Refused` as the admission does."""
        heard = Heard()
        terms = read_terms(block, local=False, peer=link is not None)._replace(body=len(body))
        task = self.admission.open(block, terms, heard, link)
        if body and task is not None:
            assert isinstance(task, InlineTask)
            task.take(body)
        return heard

    def begin_upload(self, block: bytes, link: Key | None = LINK) -> tuple[Upload | None, Heard]:
        """A request with a large body; nothing of the body has come."""
        heard = Heard()
        terms = read_terms(block, local=False, peer=link is not None)._replace(body=len(LARGE))
        task = self.admission.open(block, terms, heard, link)
        assert not isinstance(task, InlineTask)
        return task, heard

    async def upload(self, block: bytes, link: Key | None = LINK) -> Heard:
        """A request with a large body, whole."""
        upload, heard = self.begin_upload(block, link)
        if upload is not None:
            job = asyncio.get_running_loop().create_task(self._finish(upload, heard))
            await self.rest()
            await job
        return heard

    async def _finish(self, upload: Upload, heard: Heard) -> None:
        try:
            await upload.write(LARGE)
            await upload.finish(heard)
        except Refused as refusal:
            heard.refused(refusal)

    # -- time --

    async def turn(self) -> None:
        """A few turns of the loop."""
        for _ in range(6):
            await asyncio.sleep(0)

    async def rest(self) -> None:
        """Returns when no disk thread has anything to do."""
        await self.turn()
        while any(thread.todo or thread.results for thread in self.threads):
            for thread in self.threads:
                if thread.todo:
                    thread.work()
                if thread.results:
                    thread.answer()
            await self.turn()

    async def during(self, job: Any) -> Any:
        """The result of a coroutine; the disk threads work meanwhile."""
        waited = asyncio.get_running_loop().create_task(job)
        await self.turn()
        while not waited.done():
            await self.rest()
        return await waited

    async def settled(self) -> None:
        """Gives waiting tasks files of their own."""
        self.spool.group_commit.close_batch()
        await self.rest()
        for batch in self.journal.batches.values():
            batch.closed_at = float("-inf")
        await self.during(self.storage.settle())

    async def tidy(self) -> None:
        """A second passes."""
        await self.during(self.journal.sync_marks())

    # -- looking --

    def read(self, source: Any, ref: Any) -> spoolfile.SpoolFile | None:
        """The names there."""
        path, base, _ = source.place.header(self.journal.layout, ref)
        data = self.disk.peek(path)
        if data is None:
            return None
        return spoolfile.parse(data[base : base + payload_length(data, base)] if base else data)

    def run_all(self) -> list[int]:
        """Runs everything that waits here; the numbers `n` in their order."""
        ran = []
        self.spool.waiting.wake_due(float("inf"))
        while (taken := self.spool.take(100)) is not None:
            source, refs, _ = taken
            for ref in refs:
                found = self.read(source, ref)
                if found is not None and found.state == WAITING:
                    ran.append(int(dict(found.variables)[b"n"]))
                    path, base, _ = source.place.header(self.journal.layout, ref)
                    if base:
                        self.disk.store(path, base + STATE_AT, bytes([FINISHED]))
                    else:
                        self.disk.unlink(path)
                self.spool.done(source, [ref])
        return ran

    def waiting(self) -> list[dict[bytes, bytes]]:
        """The variables of the tasks that wait here. It takes all of them: none can run afterwards."""
        found = []
        while (taken := self.spool.take(100)) is not None:
            files = [self.read(taken[0], ref) for ref in taken[1]]
            found += [dict(file.variables) for file in files if file is not None and file.state == WAITING]
        return found

    def files(self, directory: str) -> list[str]:
        """The names in a directory of the spool."""
        try:
            return sorted(self.disk.names(self.journal.layout.path(directory)))
        except OSError:
            return []

    # -- the end, and a new start --

    def killed(self) -> "Station":
        """The process dies; a new one on the same machine."""
        disk = copy.deepcopy(self.disk)
        disk.kill()
        return Station(disk, life=self.life)

    def after_power_cut(self, seed: int = 0) -> "Station":
        """The machine goes off and on; `seed` decides what the disk has kept."""
        disk = copy.deepcopy(self.disk)
        disk.random.seed(seed)
        disk.crash()
        return Station(disk, life=self.life + 1)


def said(block: bytes) -> dict[bytes, bytes]:
    """Its variables."""
    return dict(decode_variables(block))
