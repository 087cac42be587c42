"""Runs the timers of the whole cluster: what is due becomes a task of this node when it is this node's turn (`roster`)."""

import asyncio
import math
import time
import traceback
from collections.abc import Mapping
from typing import Any

import msgpack

from spoolnode.node.ingress.admission import Admission
from spoolnode.node.log import Report
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outcome import Timer
from spoolnode.node.roster import Due, LastRun, Roster
from spoolnode.node.schedule import described
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import read_small
from spoolnode.node.work.workers import Workers
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.request import read_terms

LONGEST_WAIT = 10.0
"""Seconds between two looks, at most: the wall clock may be set, and a reload may bring other timers."""
LATEST = 1e11
"""A due time is before this, in seconds since 1970: `datetime` has no later years than 9999."""
OPEN_WAIT = 1.0
"""Seconds between two looks while something is due that another node is to run."""


class Timekeeper:
    """The timers of the cluster, as one of its nodes runs them."""

    def __init__(
        self, name: str, node_id: str, journal: Journal, admission: Admission, neighbours: Neighbours, workers: Workers,
        report: Report,
    ) -> None:  # fmt: skip
        self._name = name
        self._journal = journal
        self._admission = admission
        self._neighbours = neighbours
        self._workers = workers
        self._report = report
        self._path = journal.layout.timers
        self._roster = Roster(node_id, _read(journal, report), neighbours.settling)
        self._kept = self._roster.version
        """The version that is on the disk."""
        self._has_failed = False
        self._refused: dict[str, str] = {}
        """Why what is due is not stored; said once."""
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<timekeeper of {len(self._roster.timers)} timers>"

    def start(self) -> None:
        """Begins."""
        self._take_timers()
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Ends. A task that is being stored may still be stored, and told by no node: that is as if the node had died."""
        if self._task is not None:
            self._task.cancel()

    def told(self) -> dict[str, LastRun]:
        """The part of the answers to pings about timers: those of this node, and what was run of each, and where."""
        return self._roster.told()

    def rows(self) -> list[dict[str, Any]]:
        """All timers, for people: the cluster's, then those that each node calls for itself."""
        monotonic, wall, roster = time.monotonic(), time.time(), self._roster
        shared = [
            {**_row(timer, roster.next_of(key, wall), roster.runs[key]), "cluster": True, "catch_up": timer.catch_up}
            for key, timer in roster.timers.items()
        ]
        own = [
            {**_row(timer, following, LastRun(last, self._name)), "cluster": False, "catch_up": False}
            for timer, following, last in self._workers.schedule.listed(monotonic, wall)
        ]
        return shared + own

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001  # a look that fails must not be the last; it is reported in full
                self._report("mistake", reason="timers", traceback="".join(traceback.format_exception(error)))
            wait = self._roster.wait(time.time())
            await asyncio.sleep(min(wait, LONGEST_WAIT) if wait > 0 else OPEN_WAIT)

    async def _look(self) -> None:
        """Stores what this node should run now, and keeps what was run, here and elsewhere."""
        self._take_timers()
        for due in self._roster.due(time.monotonic(), time.time(), self._neighbours.colleagues()):
            await self._store(due)
        await self._keep()

    def _take_timers(self) -> None:
        timers = self._workers.shared_timers
        if timers != list(self._roster.timers.values()):
            self._roster.replace(timers, time.monotonic(), time.time())

    async def _store(self, due: Due) -> None:
        """Makes the task of a due time. If the node takes no tasks now, the time stays due, here and on the other nodes."""
        block = due.block
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            self._admission.open(block, read_terms(block, local=True, peer=True), _Waiter(answer))
            identity = await answer
        except Refused as refusal:
            if self._refused.get(due.key) != refusal.text:
                self._refused[due.key] = refusal.text
                self._report("timer_failed", timer=due.timer.name, due=int(due.when), reason=f"it is not stored: {refusal.text}")
            self._roster.wait_for_news(due.key, time.monotonic())
            return
        self._refused.pop(due.key, None)
        self._roster.ran(due, self._name)
        self._report("timer_due", timer=due.timer.name, due=int(due.when), id=identity)
        await self._keep()

    async def _keep(self) -> None:
        """Writes what was run, if that has changed."""
        version, path = self._roster.version, self._path
        if version == self._kept:
            return
        data = _encode(self._roster.runs)
        try:
            await self._journal.moves.run(lambda: self._journal.store.replace(path, data))
            self._kept, self._has_failed = version, False
        except OSError as error:  # reported once
            if not self._has_failed:
                self._report("sync_failed", file="timers", reason=str(error))
            self._has_failed = True


class _Waiter:
    """Waits until a task is stored."""

    def __init__(self, answer: "asyncio.Future[str]") -> None:
        self._answer = answer

    def stored(self, task_id: str, copies: int = 1) -> None:
        """The task is stored."""
        del copies
        if not self._answer.done():  # else the node is stopping
            self._answer.set_result(task_id)

    def refused(self, refusal: Refused) -> None:
        """The node does not take the task."""
        if not self._answer.done():
            self._answer.set_exception(refusal)


def _read(journal: Journal, report: Report) -> dict[str, LastRun]:
    """Reads the file `timers`. Never raises: a node starts whatever its directory holds."""
    try:
        data = read_small(journal.store, journal.layout.timers, report)
        return _decode(data) if data is not None else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        reason = f"{journal.layout.timers} cannot be read, so timers count as new: {error!r}"
        report("timers_damaged", reason=reason)
        return {}


def _encode(runs: Mapping[str, LastRun]) -> bytes:
    packed: bytes = msgpack.packb({"version": 1, "runs": {key: tuple(run) for key, run in runs.items()}})
    return packed


def _decode(data: bytes) -> dict[str, LastRun]:
    content: dict[str, Any] = msgpack.unpackb(data)
    if content["version"] != 1:
        raise ValueError(f"it has version {content['version']}; this spoolnode reads 1")
    runs = {str(key): LastRun(float(due), str(by)) for key, (due, by) in content["runs"].items()}
    if wrong := [run.due for run in runs.values() if not 0 <= run.due < LATEST]:
        raise ValueError(f"{wrong[0]} is not a time")
    return runs


def _row(timer: Timer, following: float, last: LastRun) -> dict[str, Any]:
    return {
        "name": timer.name, "when": described(timer), "next": following if following < math.inf else None,
        "last": last.due if last.by else None, "by": last.by,
    }  # fmt: skip
