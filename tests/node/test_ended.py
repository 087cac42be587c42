"""The ends of tasks in the database of stories: a look at a part of it at a time finds all of them, in order."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolnode.node.control.choice import Choice
from spoolnode.node.control.ended_page import WantedEnds, cursor_at, ended_page, place_in
from spoolnode.node.disk.layout import Layout
from spoolnode.node.story import ended
from spoolnode.node.story.database import StoryDatabase
from spoolnode.node.story.ended import EndedTask, EndPlace
from spoolnode.node.story.notes import ACCEPTED, ATTEMPT, DEAD, DONE, FORWARDED, Note, rows_of

NODE = "0123456789ab"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[StoryDatabase]:
    opened = StoryDatabase(Layout(str(tmp_path)))
    yield opened
    opened.close()


def write(database: StoryDatabase, *notes: Note) -> None:
    database.write(rows_of(notes, NODE, "here"))


def accepted(batch: int, functions: dict[int, bytes]) -> Note:
    return Note(ACCEPTED, 100.0, batch, [*functions], {}, (), ["me"] * len(functions), {}, functions)


def all_pages(database: StoryDatabase, choice: Choice, limit: int) -> list[list[EndedTask]]:
    async def read(after: EndPlace | None, most: int, is_wanted: ended.IsWanted) -> tuple[list[EndedTask], EndPlace | None]:
        return database.ends(after, most, is_wanted)

    found, after = [], None
    while True:
        page, cursor = asyncio.run(ended_page(read, WantedEnds(choice, limit, after)))
        found.append(page)
        if cursor is None:
            return found
        after = place_in(cursor)


def fill(database: StoryDatabase) -> None:
    """Ten rows of three tasks each that ended well, among them one that died, and one that left."""
    for batch in range(10):
        write(database, accepted(batch, {0: b"a", 8: b"b", 16: b"a"}))
        write(database, Note(DONE, 200.0 + batch, batch, [0, 8, 16], {}, [0.5, 0.25, 0.125]))
    write(database, Note(ATTEMPT, 300.0, 3, [8], {"function": "b", "reason": "ValueError: no\nmore"}, [1.0]))
    write(database, Note(DEAD, 300.0, 3, [8], {}))
    write(database, Note(FORWARDED, 400.0, 4, [8], {"to": "beta"}))


@pytest.mark.parametrize("most", [1, 2, 1000])
def test_all_ends_come_once_the_last_one_first_however_little_is_looked_at_at_once(
    database: StoryDatabase, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    fill(database)
    monkeypatch.setattr(ended, "MOST_ROWS", most)
    monkeypatch.setattr(ended, "MOST_ENDS", most)
    pages = all_pages(database, Choice(), 5)
    assert [len(page) for page in pages] == [5] * 6 + [2]
    tasks = [task for page in pages for task in page]
    assert [task.at for task in tasks] == sorted((task.at for task in tasks), reverse=True)
    assert len({task.place for task in tasks}) == 32
    assert [(task.end, task.function, task.reason, task.to) for task in tasks[:2]] == [
        ("forwarded", "b", "", "beta"),
        ("dead", "b", "ValueError: no", None),
    ]
    assert [(task.function, task.seconds) for task in tasks[2:5]] == [("a", 0.125), ("b", 0.25), ("a", 0.5)]


def test_only_the_ends_that_are_chosen_come_and_the_last_full_page_is_known_as_the_last(database: StoryDatabase) -> None:
    fill(database)
    assert [len(page) for page in all_pages(database, Choice(function="a"), 10)] == [10, 10]
    assert [len(page) for page in all_pages(database, Choice(error="ValueError"), 10)] == [1]
    assert [len(page) for page in all_pages(database, Choice(since_at=205.0, until_at=206.9), 10)] == [6]


def test_without_a_database_nothing_has_ended(database: StoryDatabase) -> None:
    assert all_pages(database, Choice(), 10) == [[]]


def test_a_cursor_is_read_back_and_anything_else_is_an_error() -> None:
    assert place_in(cursor_at(EndPlace(7, 3))) == EndPlace(7, 3)
    for wrong in ("", "x", cursor_at(EndPlace(1, 2))[:-3], "bnVsbA"):
        with pytest.raises(ValueError, match="of a page before"):
            place_in(wrong)
