"""The wall clock is set while tasks wait: those that wait for a time go by the clock, those that wait for a while do not."""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.clock import Watch, correct_times, was_set_back
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.queue import Later
from spoolnode.node.spool.recovery import FoundFile
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.node.work.taskfile import NotNow, SpoolFileReader
from spoolnode.protocol import spoolfile
from spoolnode.protocol.packet import encode_variables

HOUR = 3600.0


def test_a_step_of_the_clock_is_noticed_and_time_that_passes_is_none() -> None:
    watch = Watch(100.0, 1e9)
    assert watch.step(160.0, 1e9 + 60) == 0.0
    assert watch.step(161.0, 1e9 + 61 - HOUR) == -HOUR
    assert watch.step(162.0, 1e9 + 62 - HOUR) == 0.0
    assert watch.step(163.0, 1e9 + 63) == HOUR


@pytest.mark.parametrize(
    ("mtime", "changed", "back"),
    [(-5.0, -5.0, False), (HOUR, 0.0, False), (HOUR, HOUR, True), (HOUR + 30, HOUR, True), (0.5, 0.5, False)],
)
def test_only_a_file_that_was_written_in_the_future_was_left_there_by_the_clock(mtime: float, changed: float, back: bool) -> None:
    assert was_set_back(1e9 + mtime, 1e9 + changed, 1e9) is back


@pytest.fixture
def store(tmp_path: Path) -> Store:
    for directory in Layout(str(tmp_path)).directories:
        os.makedirs(directory, exist_ok=True)
    return Store(RealDisk(), Layout(str(tmp_path)), "0123456789ab")


def waiting(store: Store, name: str, mtime: float, *, at: float = 0.0, changed: float) -> FoundFile:
    """A spool file that was written when the clock showed another time."""
    variables = [(b"a", b"b"), *([(b"at", str(at).encode())] if at else [])]
    ref = f"uwsgi_spoolfile_on_{name}"
    store.put(ref, [spoolfile.head(encode_variables(variables), 0)], mtime)
    return FoundFile(ref, mtime, 0, 10, changed)


def test_files_get_the_times_that_they_would_have_under_the_clock_as_it_is(store: Store) -> None:
    now = time.time()
    ahead = now + HOUR
    files = [
        waiting(store, "ready", ahead - 20, changed=ahead - 20),
        waiting(store, "newer", ahead - 10, changed=ahead - 10),
        waiting(store, "pauses", ahead + 50, changed=ahead),
        waiting(store, "at", ahead + 500, at=ahead + 500, changed=ahead),
        waiting(store, "pauses after its at", ahead + 60, at=ahead - 100, changed=ahead),
        waiting(store, "touched", now + HOUR, changed=now - 5),
        waiting(store, "old", now - 50, changed=now - 50),
    ]
    corrected = {ref.rpartition("_")[2]: mtime - now for ref, mtime in correct_times(store, files, now).items()}
    assert corrected == pytest.approx({"ready": -20, "newer": -10, "pauses": 50, "pauses after its at": 60}, abs=0.01)


def test_what_pauses_is_moved_and_what_waits_for_its_time_stays() -> None:
    later, source = Later(), object()
    later.add(5000.0, source, 1, 0, pauses=True)
    later.add(5001.0, source, 2, 0)
    later.add(5002.0, source, 3, 0, pauses=True)
    entries = later.pausing()
    later.remove(source, 3)
    for entry in entries:
        later.shift(entry, -HOUR)
    assert later.of(source) == {1: 1400.0, 2: 5001.0}
    assert [ref for _, _, ref, _ in later.pop_due(1400.0, 10)] == [1]


def test_a_worker_runs_what_only_the_clock_has_left_in_the_future(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    ready, touched = waiting(store, "ready", now, changed=now), waiting(store, "touched", now + HOUR, changed=now)
    reader = SpoolFileReader(store.layout.root, RetryPolicy())
    with pytest.raises(NotNow):
        reader.read(touched.ref)
    monkeypatch.setattr(time, "time", lambda: now - HOUR)
    reader.read(ready.ref).leave()


def test_a_spool_that_was_written_before_the_clock_was_set_back_waits_for_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    waiting(store, "ready", now, changed=now)
    waiting(store, "pauses", now + 50, changed=now)
    waiting(store, "at", now + 500, at=now + 500, changed=now)
    monkeypatch.setattr(time, "time", lambda: now - HOUR)

    async def load() -> dict[str, float]:
        journal = Journal(RealDisk(), store.layout, "0123456789ab", sync=False, report=lambda _action, **_details: None)
        storage = Storage(journal, RetryPolicy(), random.Random(1))
        storage.load()
        known = {ref.rpartition("_")[2]: due and due - time.time() for ref, due in storage.spool.files.known.items()}
        await storage.close()
        return known

    assert asyncio.run(load()) == pytest.approx({"ready": 0, "pauses": 50, "at": 500 + HOUR}, abs=5)
