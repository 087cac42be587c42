"""The timekeeper: what is due becomes a task on disk, and what was run is known to the next start. Time is virtual."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from linked import Station
from simulation.loop import EPOCH, in_virtual_time

from spoolnode.node.disk.fakes import FakeDisk
from spoolnode.node.neighbours import Alone
from spoolnode.node.outcome import Timer
from spoolnode.node.roster import LastRun, key_of
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool import inspect
from spoolnode.node.timekeeper import Timekeeper
from spoolnode.protocol.packet import encode_variables

ID = "0123456789ab"
TASK = encode_variables([(b"spool_func", b"app:tick")])
TICK = Timer("app:tick", 60.0, (-1,) * 5, task=TASK)
FIRST = EPOCH // 60 * 60 + 60
"""Its first due time."""


class Clock:
    """One start of a node with a timekeeper."""

    def __init__(self, *timers: Timer, disk: FakeDisk | None = None, life: int = 1) -> None:
        self.station = Station(disk, life=life)
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.workers: Any = SimpleNamespace(shared_timers=list(timers), schedule=Schedule(time.monotonic(), time.time()))
        alone = Alone("alpha", ID, [], [])
        self.keeper = Timekeeper("alpha", ID, self.station.journal, self.station.admission, alone, self.workers, self._report)
        self.keeper.start()

    def _report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    async def passes(self, seconds: float) -> "Clock":
        """Time passes."""
        for _ in range(int(seconds)):
            await asyncio.sleep(1)
            await self.station.rest()
        return self

    def tasks(self) -> list[dict[str, Any]]:
        """The contents of the tasks that wait."""
        reader = self.station.journal.reader
        places = [inspect.find_place(reader, info.id, time.time()) for info in inspect.waiting_tasks(reader, time.time())]
        return [inspect.contents(reader, place[1]) for place in places if place is not None]

    def said(self, action: str) -> list[dict[str, Any]]:
        """The details of the lines of the log with that action."""
        return [details for name, details in self.reports if name == action]


def test_each_due_time_becomes_a_task_that_says_which_one_it_is() -> None:
    async def story() -> None:
        clock = await Clock(TICK).passes(130)
        assert [(task["spool_func"], float(task["spool_due"])) for task in clock.tasks()] == [
            ("app:tick", FIRST), ("app:tick", FIRST + 60),
        ]  # fmt: skip
        assert clock.keeper.told() == {key_of(TICK): LastRun(FIRST + 60, "alpha")}
        (row,) = clock.keeper.rows()
        assert row == {
            "name": "app:tick", "when": "every 60 s", "cluster": True, "catch_up": False,
            "next": FIRST + 120, "last": FIRST + 60, "by": "alpha",
        }  # fmt: skip

    in_virtual_time(story)


def test_the_next_start_knows_what_was_run() -> None:
    async def story() -> None:
        first = await Clock(TICK).passes(70)
        first.keeper.stop()
        again = await Clock(TICK, disk=first.station.disk, life=2).passes(20)
        assert len(again.tasks()) == 1
        assert len((await again.passes(60)).tasks()) == 2

    in_virtual_time(story)


def test_what_a_closed_node_does_not_store_stays_due_and_that_is_said_once() -> None:
    async def story() -> None:
        clock = Clock(TICK)
        clock.station.admission.pause("the disk is full")
        await clock.passes(70)
        assert clock.tasks() == []
        assert clock.said("timer_failed") == [
            {"timer": "app:tick", "due": int(FIRST), "reason": "it is not stored: the disk is full"}
        ]
        clock.station.admission.pause("")
        assert len((await clock.passes(2)).tasks()) == 1

    in_virtual_time(story)


NOT_RUNS = msgpack.packb({"version": 1, "runs": 5})
NO_TIME = msgpack.packb({"version": 1, "runs": {key_of(TICK): (float("nan"), "alpha")}})


@pytest.mark.parametrize(
    "contents", [NOT_RUNS, NO_TIME, b"", b"\xc1", b"\x81\xa7version\x02", b"\x82\xa7version\x01\xa4runs\x81\xa1a\x01"]
)
def test_a_damaged_file_is_told_and_timers_begin_as_new(contents: bytes) -> None:
    async def story() -> None:
        before = Station()
        before.by_hand.replace(before.journal.layout.timers, contents)
        clock = await Clock(TICK, disk=before.disk, life=2).passes(70)
        assert len(clock.said("timers_damaged")) == 1
        assert len(clock.tasks()) == 1

    in_virtual_time(story)


def test_timers_of_a_reload_are_taken_and_those_that_went_are_over() -> None:
    async def story() -> None:
        clock = await Clock(TICK).passes(5)
        clock.workers.shared_timers = [TICK._replace(name="app:tock", seconds=20.0)]
        await clock.passes(60)
        assert {row["name"] for row in clock.keeper.rows()} == {"app:tock"}
        assert len(clock.tasks()) >= 2

    in_virtual_time(story)


def test_rows_name_the_timers_that_each_node_calls_for_itself_too() -> None:
    async def story() -> None:
        clock = Clock()
        beat = Timer("app:beat", 10.0, (-1,) * 5)
        clock.workers.schedule.replace([beat], time.monotonic(), time.time())
        await clock.passes(10)
        clock.workers.schedule.due(time.monotonic(), time.time())
        (row,) = clock.keeper.rows()
        assert row == {
            "name": "app:beat", "when": "every 10 s", "cluster": False, "catch_up": False,
            "next": EPOCH + 20, "last": EPOCH + 10, "by": "alpha",
        }  # fmt: skip

    in_virtual_time(story)
