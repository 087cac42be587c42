"""The life of a spool on a bad disk: tasks come, run, fail, move and go in an order that a seed decides, and something goes
wrong at one call to the disk. Afterwards the books are compared with what is there.

Everything but the workers is the real code; a worker is three stores to the file, as in `taskfile`. The disk threads are
`SteppedThread`s, so what happens between a job and the hearing of its result is up to the seed as well.
"""

import asyncio
import copy
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from spoolnode.node.disk.disk import discard
from spoolnode.node.disk.fakes import FakeDisk, GuardedDisk, PowerCut, SteppedThread, acting_as
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import spool_files
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.tasks import Source, Taken
from spoolnode.protocol import names, spoolfile
from spoolnode.protocol.batch import payload_length
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.request import Terms
from spoolnode.protocol.spoolfile import ATTEMPTS_AT, FINISHED, STATE_AT, WAITING

NODE = "0123456789ab"
POLICY = RetryPolicy(max_attempts=3, base=0.001)
RARE, SOMETIMES, OFTEN = 1, 4, 12


def new_machine() -> FakeDisk:
    """A disk with a directory that was made long ago."""
    disk = FakeDisk()
    disk.make_directory("/var")
    disk.sync_directory("/")
    return disk


@dataclass(eq=False)
class Fate:
    """The facts about one task. It is also the one that waits for its acceptance."""

    n: int
    disk: FakeDisk
    body: bytes
    upload: bool = False
    identity: str = ""
    acknowledged: bool = False
    refusal: Refused | None = None
    answers: int = 0
    ended: str = ""
    """done, dead or removed."""
    safe: bool = False
    """And that was made safe against a power cut."""
    running: bool = False
    leaving: bool = False
    """Its removal was asked for, and is not answered yet."""

    def safely(self) -> None:
        """The commit thread says so."""
        self.acknowledged = self.acknowledged or not self.disk.is_off

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Accepted."""
        if not self.disk.is_off:
            self.answers += 1
            self.acknowledged, self.identity = True, task_id

    def refused(self, refusal: Refused) -> None:
        """Not accepted."""
        if not self.disk.is_off:
            self.answers += 1
            self.refusal = refusal


class PromptWaiter:
    """Hands on to a fate what the commit thread and the loop say."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate
        self.stored = fate.stored
        self.refused = fate.refused
        self.safe = fate.safely


class Inline(Executor):
    """Runs at once what uploads hand to their threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """The result, as a future that is done."""
        future: Future[Any] = Future()
        try:
            with acting_as("upload"):
                future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # as an executor does
            future.set_exception(error)
        return future


@dataclass(eq=False)
class Held:
    """A task in the hands of a worker."""

    source: Source
    ref: int | str
    rank: int
    fate: Fate


@dataclass
class Life:
    """One life, from the first start of the node to the end of the machine."""

    seed: int
    sync: bool = True
    disk: FakeDisk = field(default_factory=new_machine)
    fates: dict[int, Fate] = field(default_factory=dict)
    held: list[Held] = field(default_factory=list)
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self._syncing = False
        self.disk.random.seed(self.seed)

    # -- the machine --

    def boot(self) -> None:
        """Starts the node."""
        self.held = []
        self.tasks = []
        self._syncing = False
        layout = Layout("/var/spool")
        guard = GuardedDisk(self.disk, layout)
        self.journal = Journal(guard, layout, NODE, sync=self.sync, report=self._report, thread=SteppedThread)
        self.storage = Storage(self.journal, POLICY, random.Random(self.seed))
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        self.commits, self.moves = self._stepped(self.journal.commits), self._stepped(self.journal.moves)
        self.storage.load()
        guard.in_force = True

    def _report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    @staticmethod
    def _stepped(thread: object) -> SteppedThread:
        assert isinstance(thread, SteppedThread)
        return thread

    async def live(self, steps: int) -> None:
        """Lets so many things happen, or fewer when the power goes."""
        kinds, weights = zip(*self._kinds().items(), strict=True)
        try:
            for _ in range(steps):
                (kind,) = self.random.choices(kinds, weights)
                kind()
                await self._turn()
        except PowerCut:
            pass
        if self.disk.is_off:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    def _kinds(self) -> dict[Callable[[], None], int]:
        return {
            self.add: OFTEN, self.upload: RARE, self.work: 3 * OFTEN, self.answer: 3 * OFTEN, self.take: OFTEN,
            self.end_one: 2 * OFTEN,
            self.close_batch: SOMETIMES, self.settle: OFTEN, self.sync_marks: SOMETIMES, self.wake: SOMETIMES,
            self.remove: SOMETIMES, self.hurry: RARE, self.scan: SOMETIMES,
        }  # fmt: skip

    async def _turn(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                raise error

    async def rest(self) -> None:
        """Returns when everything under way is done."""
        await self._turn()  # a commit starts with the next turn of the loop
        while self.tasks or any(thread.todo or thread.results for thread in (self.commits, self.moves)):
            for thread in (self.commits, self.moves):
                if thread.todo:
                    thread.work()
                if thread.results:
                    thread.answer()
            await self._turn()

    def _begin(self, job: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(job))

    # -- what happens --

    def add(self) -> None:
        """A few requests."""
        for _ in range(self.random.randint(1, 4)):
            self.add_one()

    def add_one(self) -> Fate:
        """One request."""
        fate, block, terms = self._request(self.random.choice((b"", b"", b"small", b"x" * 3000)))
        if fate.body or self.random.random() < 0.5:
            self.spool.group_commit.add(block, fate.body, terms, fate)
        else:
            waiter = PromptWaiter(fate)
            self.spool.group_commit.add(block, b"", terms, waiter, prompt=waiter)
        return fate

    def upload(self) -> None:
        """A request with a body that gets a file of its own."""
        fate, block, terms = self._request(b"large" * 1000)
        fate.upload = True
        upload = Upload(self.storage, Inline(), fate.n, block, terms, [""])  # type: ignore[arg-type] # any executor will do

        async def run() -> None:
            try:
                await upload.write(fate.body)
                await upload.finish(fate)
            except Refused as refusal:
                fate.refused(refusal)
            self.spool.group_commit.told()

        self._begin(run())

    def _request(self, body: bytes) -> tuple[Fate, bytes, Terms]:
        fate = Fate(len(self.fates), self.disk, body)
        self.fates[fate.n] = fate
        rank = self.random.choice((names.LAST, names.LAST, 3, 10))
        due = time.time() + 1e6 if self.random.random() < 0.2 else 0.0
        variables = [(b"n", str(fate.n).encode())]
        if rank != names.LAST:
            variables.append((b"priority", str(rank).encode()))
        return fate, encode_variables(variables), Terms(rank, due)

    def work(self) -> None:
        """A disk thread does its next job."""
        threads = [thread for thread in (self.commits, self.moves) if thread.todo]
        if threads:
            self.random.choice(threads).work()

    def answer(self) -> None:
        """The loop hears of a job that is done."""
        threads = [thread for thread in (self.commits, self.moves) if thread.results]
        if threads:
            self.random.choice(threads).answer()

    def take(self) -> None:
        """A worker gets tasks, and starts them."""
        taken = self.spool.take(self.random.randint(1, 3))
        if taken is None:
            return
        for ref in taken.refs:
            source, _, rank = taken
            found = self._read(source, ref)
            if found is None or found.state != WAITING:
                self._clear(source, ref, found)
                continue
            fate = self.fates[self._check(found)]
            assert not fate.running, f"task {fate.n} runs twice at the same time"
            assert not fate.ended, f"task {fate.n} is {fate.ended} and runs again"
            assert fate.refusal is None or fate.upload, f"task {fate.n} was refused and runs"
            self._poke(source, ref, ATTEMPTS_AT, found.attempts + 1)
            fate.running = True
            self.held.append(Held(source, ref, rank, fate))

    def _clear(self, source: Source, ref: int | str, found: spoolfile.SpoolFile | None) -> None:
        path, base = self._where(source, ref)
        if found is not None and not base:
            discard(self.disk, path)
        self.spool.gone(source, ref)

    def end_one(self) -> None:
        """A task ends in one of many ways."""
        if not self.held:
            return
        held = self.held.pop(self.random.randrange(len(self.held)))
        held.fate.running = False
        ways = {self._done: 10, self._failed: 6, self._again: 2, self._returned: 2, self._interrupted: 1, self._died: 1}
        (way,) = self.random.choices(list(ways), list(ways.values()))
        way(held)

    def _done(self, held: Held) -> None:
        self._finish(held)
        self.spool.done(held.source, [held.ref])

    def _finish(self, held: Held) -> None:
        path, base = self._where(held.source, held.ref)
        if base:
            self._poke(held.source, held.ref, STATE_AT, FINISHED)
        else:
            try:
                self.disk.unlink(path)
            except OSError:
                self._poke(held.source, held.ref, STATE_AT, FINISHED)
        held.fate.ended = "done"

    def _failed(self, held: Held) -> None:
        self.storage.verdicts.failed(held.source, held.ref, held.rank, Outcome(Ending.FAILED, "it failed"))

    def _again(self, held: Held) -> None:
        self.storage.verdicts.failed(held.source, held.ref, held.rank, Outcome(Ending.AGAIN, delay=0.001))

    def _returned(self, held: Held) -> None:
        self.spool.give_back(Taken(held.source, [held.ref], held.rank))

    def _interrupted(self, held: Held) -> None:
        self.storage.verdicts.interrupted(held.source, held.ref, held.rank)

    def _died(self, held: Held) -> None:
        """The worker dies, perhaps right after the task's end and before it could say so."""
        if self.random.random() < 0.5:
            self._finish(held)
        if held.ref in self.journal.is_finished(held.source, [held.ref]):
            self.spool.done(held.source, [held.ref])
        else:
            self._failed(held)

    def close_batch(self) -> None:
        """The open batch is full, or old."""
        self.spool.group_commit.close_batch()

    def settle(self) -> None:
        """Time passes until batches are settled."""
        for batch in self.journal.batches.values():
            batch.closed_at = -math.inf if batch.closed else batch.closed_at
        if not self.journal.is_placing:
            self._begin(self.storage.settle())

    def sync_marks(self) -> None:
        """The second is over."""
        ended = [fate for fate in self.fates.values() if fate.ended == "done"]

        async def run() -> None:
            failures = len([action for action, _ in self.reports if action == "sync_failed"])
            try:
                await self.journal.sync_marks()
            finally:
                self._syncing = False
            if failures == len([action for action, _ in self.reports if action == "sync_failed"]):
                for fate in ended:
                    fate.safe = True

        if not self._syncing:
            self._syncing = True
            self._begin(run())

    def wake(self) -> None:
        """Time passes until everything is due."""
        self.spool.waiting.wake_due(math.inf)

    def remove(self) -> None:
        """Removes a task by hand."""
        known = [fate for fate in self.fates.values() if fate.identity]
        fate = self.random.choice(known) if known else None
        found = self.spool.find(fate.identity) if fate is not None else None
        if fate is None or found is None or fate.leaving:
            return

        fate.leaving = True

        async def run() -> None:
            try:
                if await self.storage.remove(*found):
                    assert not fate.ended, f"task {fate.n} is {fate.ended} and was removed"
                    fate.ended = "removed"
            except OSError:
                pass  # the caller hears of it; the task is where it was
            fate.leaving = False

        self._begin(run())

    def hurry(self) -> None:
        """Asks for a task to run now."""
        known = [fate for fate in self.fates.values() if fate.identity]
        found = self.spool.find(self.random.choice(known).identity) if known else None
        if found is not None:
            self.spool.hurry(*found)

    def scan(self) -> None:
        """The inbox looks for files."""

        async def run() -> None:
            try:
                found = await self.journal.moves.run(lambda: list(spool_files(self.journal.store)))
            except OSError:
                return
            for file in found:
                if self.disk.peek(self.journal.layout.path(file.ref)) is not None:
                    self.spool.files.notice(file.ref, file.mtime, time.time(), sure=True)

        if not self.journal.is_placing:
            self._begin(run())

    # -- looking --

    def _where(self, source: Source, ref: int | str) -> tuple[str, int]:
        header = source.place.header(self.journal.layout, ref)
        return header.path, header.base

    def _read(self, source: Source, ref: int | str) -> spoolfile.SpoolFile | None:
        path, base = self._where(source, ref)
        data = self.disk.peek(path)
        if data is None:
            return None
        return spoolfile.parse(data[base : base + payload_length(data, base)] if base else data)

    def _poke(self, source: Source, ref: int | str, at: int, value: int) -> None:
        path, base = self._where(source, ref)
        self.disk.store(path, base + at, bytes([value]))

    def _check(self, found: spoolfile.SpoolFile) -> int:
        n = int(dict(found.variables)[b"n"])
        assert found.body == self.fates[n].body, f"the body of task {n} is not what was sent"
        return n

    async def waiting(self) -> "Counter[int]":
        """How often each task would run from now on. Takes them all: nothing runs afterwards."""
        found: Counter[int] = Counter(held.fate.n for held in self.held)
        await self.rest()
        while True:
            self.spool.waiting.wake_due(math.inf)
            taken = self.spool.take(100)
            if taken is None:
                return found
            for ref in taken[1]:
                task = self._read(taken[0], ref)
                if task is None or task.state != WAITING:
                    self._clear(taken[0], ref, task)
                else:
                    found[self._check(task)] += 1

    def dead(self) -> set[int]:
        """The tasks in dead/."""
        found = set()
        for name in self.disk.names("/var/spool/dead"):
            data = self.disk.peek(f"/var/spool/dead/{name}")
            assert data is not None
            found.add(self._check(spoolfile.parse(data)))
        return found

    # -- the books --

    def check_accounts(self, found: "Counter[int]") -> None:
        """Each client was answered once, and each acknowledged task is in one place."""
        for fate in self.fates.values():
            assert fate.answers == 1, f"task {fate.n} had {fate.answers} answers"
        self._check_found(found, lambda fate: fate.ended != "")

    def check_after_power_cut(self, found: "Counter[int]") -> None:
        """The same, except that what ended in the last second may run again."""
        self._check_found(found, lambda fate: fate.safe)

    def _check_found(self, found: "Counter[int]", is_over: Callable[[Fate], bool]) -> None:
        dead = self.dead()
        for fate in self.fates.values():
            times = found[fate.n] + (fate.n in dead)
            if fate.refusal is not None and not fate.upload:
                assert not times, f"task {fate.n} was refused ({fate.refusal}) and is there"
            assert times <= 1, f"task {fate.n} is there {times} times, dead: {fate.n in dead}"
            if is_over(fate):
                assert not times, f"task {fate.n} is {fate.ended} and is there"
            elif fate.acknowledged and not fate.ended and not fate.leaving:
                assert times, f"task {fate.n} was acknowledged and is lost"


def power_back(life: Life, seed: int) -> Life:
    """The machine of `life` after its power cut; `seed` decides what the disk has kept."""
    later = Life(seed, life.sync, copy.deepcopy(life.disk), life.fates)
    later.disk.random.seed(seed)
    later.disk.crash()
    return later
