"""Notes become few rows, rows become the stories of single tasks, and the database keeps to its bounds."""

import asyncio
import sqlite3
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolnode.node.disk.fakes import SteppedThread
from spoolnode.node.disk.layout import Layout
from spoolnode.node.story import keeper
from spoolnode.node.story.database import BeganAgain, StoryDatabase
from spoolnode.node.story.keeper import StoryKeeper
from spoolnode.node.story.notes import ACCEPTED, ATTEMPT, DONE, FORWARDED, Note, joined, parted, rows_of

NODE = "0123456789ab"
OTHER = "ba9876543210"
BATCH = 1_790_000_000_000_000
NOW = time.time()


def identity(offset: int, node: str = NODE, batch: int = BATCH) -> str:
    return f"{node}_{batch}_{offset}"


def note(kind: str, refs: list[Any], batch: int | None = BATCH, at: float = NOW, **more: Any) -> Note:
    return Note(kind, at, batch, refs, more.pop("detail", {}), **more)


OPENED: list[StoryDatabase] = []
"""Closed at the end of each test."""


def opened(tmp_path: Path, **bounds: Any) -> StoryDatabase:
    (tmp_path / "corrupt").mkdir(exist_ok=True)
    OPENED.append(StoryDatabase(Layout(str(tmp_path)), **bounds))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def written(tmp_path: Path, *notes: Note) -> StoryDatabase:
    database = opened(tmp_path)
    database.write(rows_of(notes, NODE, "n1"))
    return database


@pytest.mark.parametrize("text", [identity(64), "by_hand", "a_1", f"{NODE}_5", "%d0", "x" * 200])
def test_an_id_is_the_same_after_it_was_split(text: str) -> None:
    assert joined(*parted(text)) == text


def test_thousands_of_plain_tasks_are_two_rows(tmp_path: Path) -> None:
    offsets = array("I", range(64, 80_064, 16))
    callers = ["10.0.0.5"] * len(offsets)
    notes = [
        note(ACCEPTED, offsets[:2500], callers=callers[:2500]),  # type: ignore[arg-type] # refs of a batch are an array
        note(ACCEPTED, offsets[2500:], callers=callers[2500:], at=NOW + 1.5),  # type: ignore[arg-type] # as above
        note(DONE, offsets, at=NOW + 2, seconds=array("f", [0.25] * len(offsets))),  # type: ignore[arg-type] # as above
    ]
    rows = rows_of(notes, NODE, "n1")
    assert [(row.kind, row.weight) for row in rows] == [(ACCEPTED, 5000), (DONE, 0)]
    database = opened(tmp_path)
    database.write(rows)
    accepted, done = database.steps(identity(79_984))
    assert (accepted.kind, accepted.detail["from"]) == (ACCEPTED, "10.0.0.5")
    assert accepted.at == pytest.approx(NOW + 1.5, abs=0.002)
    assert (done.kind, done.seconds) == (DONE, 0.25)
    assert not database.steps(identity(65)), "no task has that offset"
    assert not database.steps(identity(79_984, batch=BATCH + 1))


def test_tasks_of_a_common_store_with_one_number_in_their_ids_are_two_rows_and_keep_what_is_their_own(tmp_path: Path) -> None:
    refs = [f"tmp/uwsgi_spoolfile_on_{identity(serial)}" for serial in range(1, 101)] + ["tmp/uwsgi_spoolfile_on_by_hand"]
    notes = [
        note(ACCEPTED, refs[:100], None, callers=["unix"] * 99 + ["10.0.0.5"], functions={refs[0]: b"mail"}),
        note(DONE, refs, None, at=NOW + 2, seconds=array("f", range(101))),
    ]
    rows = rows_of(notes, NODE, "n1")
    assert [(row.kind, len(row.offsets) // 4) for row in rows] == [
        (ACCEPTED, 1),
        (ACCEPTED, 98),
        (ACCEPTED, 1),
        (DONE, 100),
        (DONE, 1),
    ]
    database = opened(tmp_path)
    database.write(rows)
    for serial, said in ((1, {"from": "unix", "function": "mail"}), (7, {"from": "unix"}), (100, {"from": "10.0.0.5"})):
        accepted, done = database.steps(identity(serial))
        assert accepted.detail == {"node": "n1", **said}
        assert (done.kind, done.seconds) == (DONE, serial - 1)
    assert [step.seconds for step in database.steps("by_hand")] == [100]


def test_steps_within_a_millisecond_stay_in_their_order(tmp_path: Path) -> None:
    database = written(
        tmp_path,
        note(DONE, [64], at=NOW),
        note(ACCEPTED, [128], at=NOW + 0.0003, callers=["unix"]),
        note(ACCEPTED, [192], at=NOW + 0.0006, callers=["unix"]),
        note(DONE, [192], at=NOW + 0.0009),
    )
    assert [step.kind for step in database.steps(identity(192))] == [ACCEPTED, DONE]


def test_a_task_from_another_node_is_found_by_both_ids(tmp_path: Path) -> None:
    first = note(ACCEPTED, [64, 128], callers=["n0", "n0"], origins={64: identity(8, OTHER).encode()})
    database = written(tmp_path, first, note(DONE, [64, 128], at=NOW + 1))
    by_origin, by_id = database.steps(identity(8, OTHER)), database.steps(identity(64))
    assert by_origin == by_id
    assert [(step.kind, step.id) for step in by_id] == [(ACCEPTED, identity(64)), (DONE, identity(64))]
    assert by_id[0].origin_id == identity(8, OTHER)
    assert [step.origin_id for step in database.steps(identity(128))] == [None, None]


def test_a_task_has_one_story_in_a_batch_in_a_file_and_in_the_outbox(tmp_path: Path) -> None:
    name = f"uwsgi_spoolfile_on_{identity(64)}"
    database = written(
        tmp_path,
        note(ACCEPTED, [64], callers=["unix"]),
        note(ATTEMPT, [f"5/{name}"], None, NOW + 1, detail={"attempt": 1}),
        note(FORWARDED, [f"outbox/n2/{name}@17"], None, NOW + 2, detail={"to": "n2"}),
    )
    assert [step.kind for step in database.steps(identity(64))] == [ACCEPTED, ATTEMPT, FORWARDED]


def test_the_oldest_go_when_there_are_too_many_or_they_are_too_old(tmp_path: Path) -> None:
    database = opened(tmp_path, seconds=3600, tasks=10)
    database.write(rows_of([note(ACCEPTED, [64], at=NOW - 7200, callers=["a"])], NODE, "n1"))
    rows = [note(ACCEPTED, [64 * n], batch=BATCH + n, at=NOW - 60 + n, callers=["a"]) for n in range(20)]
    database.close()
    database = opened(tmp_path, seconds=3600, tasks=10)
    database.write(rows_of(rows, NODE, "n1"))
    assert database.rows == 10
    kept = [n for n in range(20) if database.steps(identity(64 * n, batch=BATCH + n))]
    assert kept == list(range(10, 20))
    assert not database.steps(identity(64))


def test_a_database_of_another_form_begins_again(tmp_path: Path) -> None:
    written(tmp_path, note(ACCEPTED, [64], callers=["a"])).close()
    with sqlite3.connect(tmp_path / "story.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    database = opened(tmp_path)
    with pytest.raises(BeganAgain):
        database.steps(identity(64))
    assert database.steps(identity(64)) == []


def test_a_link_in_place_of_the_database_is_put_aside_and_its_target_is_not_touched(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "story.db").symlink_to(target)
    database = opened(tmp_path)
    with pytest.raises(BeganAgain):
        database.write([])
    database.write([])
    assert target.read_text() == "mine"
    assert [path.name.rpartition(".")[0] for path in (tmp_path / "corrupt").iterdir()] == ["story.db"]


def test_with_too_little_room_on_the_disk_nothing_is_written(tmp_path: Path) -> None:
    database = opened(tmp_path, min_free=1 << 60)
    with pytest.raises(OSError, match="--min-free"):
        database.write([])
    assert not (tmp_path / "story.db").exists()


def test_notes_that_the_thread_cannot_keep_up_with_are_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_NOTED", 100)

    async def run() -> int:
        told = StoryKeeper(opened(tmp_path), NODE, "n1", lambda *_, **__: None, SteppedThread)
        for n in range(150):
            told.accepted(BATCH, [64 * n], ["a"], {}, {})
        return told.dropped

    assert asyncio.run(run()) == 50
