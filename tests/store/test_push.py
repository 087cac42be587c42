"""A push of many tasks: in the order in which they were accepted, with few of them in memory."""

import asyncio
import os
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from spoolnode.cluster.store import push as pushing
from spoolnode.cluster.store.interface import NewTask, Publication, StoreAway, TaskState
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.cluster.store.push import GROUP, push
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.store import Store
from spoolnode.protocol import batch, names
from spoolnode.protocol.packet import decode_variables, encode_variables
from spoolnode.protocol.spoolfile import head

NODE = "0123456789ab"
FIRST = 1_700_000_000_000_000
"""The number of the first batch: microseconds since 1970."""


class Sink(MemoryStore):
    """A store that keeps only the names of its tasks, and how many came together."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        self.names += [dict(decode_variables(new.task.block))[b"n"].decode() for new in tasks]
        self.largest = max(self.largest, len(tasks))
        return [Publication.STORED] * len(tasks)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(RealDisk(), Layout(str(tmp_path / "spool")), NODE, sync=False)
    os.mkdir(made.layout.root)
    prepare(made, lambda _action, **_details: None)
    return made


def block(name: str) -> bytes:
    return encode_variables([(b"n", name.encode()), (b"filler", bytes(500))])


def write_batch(store: Store, number: int, tasks: Sequence[str]) -> None:
    """A batch whose tasks were accepted one after the other, in a microsecond each."""
    records = (
        batch.encode_record(number, block(name), b"", number / 1e6 + place / 1e6, 0.0, names.LAST)
        for place, name in enumerate(tasks)
    )
    Path(store.layout.batch(number)).write_bytes(batch.encode_header(number) + b"".join(records))


def write_file(store: Store, ref: str, mtime: float) -> None:
    path = Path(store.layout.path(ref))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head(block(ref)))
    os.utime(path, (mtime, mtime))


def pushed(store: Store) -> Sink:
    sink = Sink()
    done = asyncio.run(push(store, sink))
    assert (done.gone, done.left.total()) == (len(sink.names), 0)
    return sink


def test_a_push_of_many_tasks_has_few_of_them_in_memory(store: Store) -> None:
    batches, each = 60, 50
    for number in range(batches):
        write_batch(store, FIRST + number * each, [f"{number}.{place}" for place in range(each)])
    tracemalloc.start()
    try:
        sink = pushed(store)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sink.names) == batches * each
    assert sink.largest == GROUP
    assert peak < 1 << 20


def test_tasks_go_in_the_order_in_which_they_were_accepted_wherever_they_lie(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "SORTED", 3)
    seconds = FIRST / 1e6
    write_batch(store, FIRST, [f"a{number:02}" for number in range(12)])
    write_batch(store, FIRST + 2_000_000, ["b"])
    between = [f"uwsgi_spoolfile_on_{name}" for name in (80, 1000, 9, 10, 11, 1)]
    for number, ref in enumerate(between, start=1):
        write_file(store, ref, seconds + 1 + number // 3 / 10)
    first, last = "5/uwsgi_spoolfile_on_ranked", "outbox/beta/uwsgi_spoolfile_on_far"
    write_file(store, first, seconds - 1)
    write_file(store, last, seconds + 3)
    assert pushed(store).names == [first, *(f"a{number:02}" for number in range(12)), *between, "b", last]


def test_a_dropped_file_is_the_same_task_before_and_after_its_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    due = float(int(time.time()) + 3600)
    write_file(store, "uwsgi_spoolfile_on_x", due)
    memory = MemoryStore(now=due, lost_answers=1.0)
    with pytest.raises(StoreAway):
        asyncio.run(push(store, memory))
    memory.lost_answers = 0.0
    monkeypatch.setattr(pushing, "time", SimpleNamespace(time=lambda: due + 1))
    assert asyncio.run(push(store, memory)).told == {Publication.REPEATED: 1}


def test_a_task_that_was_kept_while_the_store_was_away_has_the_id_under_which_the_store_may_have_it(store: Store) -> None:
    path = Path(store.layout.path(f"outbox/any/uwsgi_spoolfile_on_{NODE}_1700000000000000_80"))
    path.parent.mkdir(parents=True)
    path.write_bytes(head(encode_variables([(b"n", b"1"), (names.ID, b"told_to_the_client")])))
    common = MemoryStore()
    assert asyncio.run(push(store, common)).gone == 1
    assert asyncio.run(common.find("told_to_the_client")) is not None


def test_what_waits_for_another_node_keeps_its_time_and_its_priority(store: Store) -> None:
    due = float(int(time.time()) + 3600)
    asked = [(b"n", b"1"), (b"at", b"%d" % due), (b"priority", b"3"), (names.NODE, b"beta")]
    for ref in ("outbox/beta/uwsgi_spoolfile_on_a@7", "outbox/any/uwsgi_spoolfile_on_b@8"):
        path = Path(store.layout.path(ref))
        path.parent.mkdir(parents=True)
        path.write_bytes(head(encode_variables(asked)))
    common = MemoryStore(now=due - 1)
    assert asyncio.run(push(store, common)).gone == 2
    page = asyncio.run(common.list(TaskState.LATER, 10))
    assert [(found.task.to, found.task.due, found.task.rank) for found in page.tasks] == [("beta", due, 3)] * 2
