"""The node's rounds: they end when the node does, whatever happens in the same moment."""

import asyncio
import errno
import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from spoolnode.node import housekeeping as module
from spoolnode.node.config import Config
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store

ROOMY = SimpleNamespace(is_low=False, note_free=lambda _free: None)


def none() -> None: ...


async def nothing() -> None: ...


@pytest.mark.parametrize("turns", range(4))
def test_rounds_end_also_when_the_node_gets_work_in_the_moment_of_its_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turns: int
) -> None:
    """A drain that put tasks back woke the rounds and cancelled them: then they went on, and the node never ended."""
    monkeypatch.setattr(module, "HOUSEKEEPING_SECONDS", 0)

    async def main() -> None:
        rests = asyncio.Event()
        journal = Journal(RealDisk(), Layout(str(tmp_path)), "0123456789ab", sync=False, report=lambda *_, **__: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        idle = SimpleNamespace(held=0, busy=0.0, dispatch=lambda: None)

        async def look_around() -> None:
            rests.set()

        rounds = Housekeeping(storage, idle, ROOMY, Config(hold=0), print, sample=none, look_around=look_around)
        rounds.start()
        await rests.wait()
        for _ in range(10):
            await asyncio.sleep(0)  # now it waits for work
        storage.spool.waiting.changed()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await rounds.stop()
        await journal.close()

    asyncio.run(main())


def test_a_stop_that_does_not_hear_how_a_sync_ended_takes_it_for_a_failed_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "HOUSEKEEPING_SECONDS", 0)

    async def main() -> None:
        layout = Layout(str(tmp_path))
        prepare(Store(RealDisk(), layout, ""), lambda *_, **__: None)
        journal = Journal(RealDisk(), layout, "0123456789ab", sync=True, report=lambda *_, **__: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        storage.load()
        begun, go_on = threading.Event(), threading.Event()

        def failing(*_: Any) -> None:
            begun.set()
            go_on.wait(60)
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(journal.store, "sync_marks", failing)
        idle = SimpleNamespace(held=0, busy=0.0, dispatch=lambda: None)
        rounds = Housekeeping(storage, idle, ROOMY, Config(hold=0), print, sample=none, look_around=nothing)
        rounds.start()
        while not begun.is_set():
            await asyncio.sleep(0.005)
        await rounds.stop()
        go_on.set()
        await storage.close()
        assert not msgpack.unpackb((tmp_path / "links").read_bytes())["clean"]

    asyncio.run(main())
