"""Pages of lists of tasks, and the kinds of the dead: complete and exact while tasks come and go."""

import asyncio
import base64
import os
from collections import Counter
from pathlib import Path

import pytest

from spoolnode.node.control.choice import Choice
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.dead_kinds import DeadKinds
from spoolnode.node.control.pages import Cursor, Wanted, error_of, page
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool import inspect
from spoolnode.node.spool.inspect import Order
from spoolnode.node.spool.reader import FRONT, Reader
from spoolnode.protocol import spoolfile
from spoolnode.protocol.forward import undeliverable
from spoolnode.protocol.packet import encode_variables

NODE = "0123456789ab"
NOW = 1_800_000_000.0
DEAD = Wanted(("dead",), limit=3)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "dead").mkdir()
    return Reader(RealDisk(), Layout(str(tmp_path)), NODE)


def put(reader: Reader, name: str, mtime: float, function: str = "", reason: str = "") -> Path:
    """Writes the file of a task."""
    said = {b"spool_func": function.encode(), b"spool_reason": reason.encode()}
    path = Path(reader.layout.path(name))
    path.write_bytes(spoolfile.head(encode_variables([(key, value) for key, value in said.items() if value] or [(b"a", b"b")])))
    os.utime(path, (mtime, mtime))
    return path


def ids(reader: Reader, wanted: Wanted) -> list[str]:
    """The ids on all pages."""
    found: list[str] = []
    while True:
        got = page(reader, wanted, NOW)
        assert len(got.items) <= wanted.limit
        found += [listed.info.id for listed in got.items]
        if got.next is None:
            return found
        wanted = wanted._replace(cursor=Cursor.decode(got.next))


def test_pages_have_each_task_once_also_those_of_one_moment(reader: Reader) -> None:
    for n in range(10):
        put(reader, f"dead/uwsgi_spoolfile_on_{n}", NOW - 9)
    assert ids(reader, DEAD) == [str(n) for n in range(10)]
    assert ids(reader, DEAD._replace(limit=10)) == [str(n) for n in range(10)], "and no page is empty"


@pytest.mark.parametrize("states", [("dead",), ("dead", "outbox"), ("waiting",)])
def test_tasks_that_come_and_go_between_pages_change_nothing_for_the_others(reader: Reader, states: tuple[str, ...]) -> None:
    under = "dead/" if "dead" in states else ""
    files = [put(reader, f"{under}uwsgi_spoolfile_on_{n}", NOW - 100 + n) for n in range(9)]
    first = page(reader, Wanted(states, limit=3), NOW)
    assert first.next is not None
    files[1].unlink()
    files[2].unlink()  # the one that the cursor names
    files[4].unlink()
    put(reader, f"{under}uwsgi_spoolfile_on_before", NOW - 200)
    put(reader, f"{under}uwsgi_spoolfile_on_behind", NOW - 50)
    rest = ids(reader, Wanted(states, limit=3, cursor=Cursor.decode(first.next)))
    assert rest == ["3", "5", "6", "7", "8", "behind"]


def test_a_task_that_becomes_due_between_pages_is_not_left_out(reader: Reader) -> None:
    put(reader, "uwsgi_spoolfile_on_ready", NOW - 1)
    put(reader, "uwsgi_spoolfile_on_soon", NOW + 1)
    first = page(reader, Wanted(limit=1), NOW)
    assert ([listed.info.id for listed in first.items], first.next is None) == (["ready"], False)
    second = page(reader, Wanted(limit=1, cursor=Cursor.decode(first.next or "")), NOW + 60)
    assert [listed.info.id for listed in second.items] == ["soon"]


def test_only_the_wanted_function_and_error_fill_a_page(reader: Reader) -> None:
    for n in range(8):
        put(
            reader,
            f"dead/uwsgi_spoolfile_on_{n}",
            NOW - 100 + n,
            "pay" if n % 2 else "mail",
            "ValueError: no" if n < 4 else "KeyError: 1",
        )
    assert ids(reader, DEAD._replace(choice=Choice("pay"))) == ["1", "3", "5", "7"]
    assert ids(reader, DEAD._replace(choice=Choice("pay", error="KeyError"))) == ["5", "7"]
    assert ids(reader, DEAD._replace(choice=Choice(""))) == []


def test_a_running_task_is_listed_as_running_only(reader: Reader) -> None:
    put(reader, "uwsgi_spoolfile_on_a", NOW - 1)
    put(reader, "uwsgi_spoolfile_on_b", NOW - 1)
    assert [listed.info.id for listed in page(reader, Wanted(("running",)), NOW, {"b"}).items] == ["b"]
    assert [listed.info.id for listed in page(reader, Wanted(("waiting",)), NOW, {"b"}).items] == ["a"]


def test_a_task_whose_death_is_on_the_disk_is_dead_though_its_end_is_not_noted_yet(reader: Reader) -> None:
    put(reader, "dead/uwsgi_spoolfile_on_a", NOW - 1)
    assert [listed.info.id for listed in page(reader, DEAD, NOW, {"a"}).items] == ["a"]


ODD_JSON = [base64.urlsafe_b64encode(text.encode()).decode() for text in ('[1, 0, Infinity, 4, "x"]', "[" * 100_000)]


def test_a_cursor_is_read_back_as_it_was_and_nothing_else_is_one() -> None:
    cursor = Cursor(NOW, Order(True, 7, NOW + 1, "größe_1"))
    assert Cursor.decode(cursor.encode()) == cursor
    for text in ("", "x", "W10", "bnVsbA", "WzEsMiwzLDQsInN1cnBsdXMiLDZd", "💥", cursor.encode()[:-4], *ODD_JSON):
        with pytest.raises(ValueError, match="it must be `next` of a page before"):
            Cursor.decode(text)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("ValueError: no such customer", "ValueError"),
        ("ValueError", "ValueError"),
        ("shop.errors.Declined: 4711: no", "shop.errors.Declined"),
        ("cancelled by ada (spoolnode cancel)", "cancelled"),
        (undeliverable("beta", "it did not answer"), "undelivered"),
        (undeliverable("10.0.0.7:3031", "cancelled by ada"), "cancelled"),
        ("the customer's password: 1234", ""),
        ("it ran for more than 5 s", ""),
        ("", ""),
    ],
)
def test_an_error_is_the_class_of_an_exception_and_never_a_text(reason: str, error: str) -> None:
    assert error_of(reason) == error


def kinds_of(kinds: DeadKinds, choice: Choice) -> Counter[tuple[str, str]]:
    return Counter({(group["function"], group["error"]): group["tasks"] for group in kinds.count(choice, "kind").items})


def test_kinds_of_the_dead_are_exact_after_tasks_came_went_and_came_again(reader: Reader) -> None:
    kinds = DeadKinds(reader)
    files = [put(reader, f"dead/uwsgi_spoolfile_on_{n}", NOW + n, f"f{n % 3}", "KeyError: 1") for n in range(10)]
    counted = kinds.count(Choice(), "kind")
    assert (counted.groups, counted.tasks) == (3, 10)
    assert [tuple(group.values()) for group in counted.items] == [
        ("f0", "KeyError", 4, NOW, NOW + 9), ("f1", "KeyError", 3, NOW + 1, NOW + 7), ("f2", "KeyError", 3, NOW + 2, NOW + 8),
    ]  # fmt: skip
    files[0].unlink()
    put(reader, "dead/uwsgi_spoolfile_on_1", NOW + 99, "f1", "OSError: it died again, of something else")
    put(reader, "dead/reason_of_2", NOW, "f2", "not a task")
    assert kinds_of(kinds, Choice()) == {
        ("f0", "KeyError"): 3,
        ("f1", "KeyError"): 2,
        ("f1", "OSError"): 1,
        ("f2", "KeyError"): 3,
    }
    assert kinds_of(kinds, Choice(reason="died again")) == {("f1", "OSError"): 1}
    assert kinds_of(kinds, Choice(since_at=NOW + 8, until_at=NOW + 98)) == {("f0", "KeyError"): 1, ("f2", "KeyError"): 1}
    assert kinds.take(Choice("f1", "OSError"), None).files == ["dead/uwsgi_spoolfile_on_1"]
    assert len(kinds.take(Choice(error="KeyError"), None).files) == 8


def test_dead_tasks_with_long_variables_or_a_broken_file_are_counted_and_nothing_else_in_the_directory_is(reader: Reader) -> None:
    put(reader, "dead/uwsgi_spoolfile_on_long", NOW, "f", "KeyError: 1\n" + "x" * FRONT)
    put(reader, "dead/uwsgi_spoolfile_on_short", NOW, "f", "KeyError: 2")
    for broken in (b"", b"\x11", b"\x11\xff\xff\x00cut"):
        Path(reader.layout.path(f"dead/uwsgi_spoolfile_on_{broken.hex()}_broken")).write_bytes(broken)
    Path(reader.layout.path("dead/uwsgi_spoolfile_on_directory")).mkdir()
    Path(reader.layout.path("dead/uwsgi_spoolfile_on_link")).symlink_to("uwsgi_spoolfile_on_short")
    kinds = DeadKinds(reader)
    assert kinds_of(kinds, Choice()) == {("f", "KeyError"): 2, ("", ""): 3}
    assert inspect.count_files(reader, "dead") == 5


class CountingDisk(RealDisk):
    """Counts the files that are read."""

    fronts = 0

    def front(self, path: str, size: int) -> tuple[float, bytes]:
        self.fronts += 1
        return super().front(path, size)


def test_who_asks_after_the_start_need_not_wait_until_the_dead_tasks_are_read(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoolnode.node.control.counting.READ_AT_ONCE", 3)
    for n in range(10):
        put(reader, f"dead/uwsgi_spoolfile_on_{n}", NOW + n, "f", "KeyError: 1")
    disk = CountingDisk()
    counting = Counting(Reader(disk, reader.layout, NODE))
    asyncio.run(counting.read_dead())
    assert disk.fronts == 10
    Path(reader.layout.path("dead/uwsgi_spoolfile_on_1")).unlink()
    put(reader, "dead/uwsgi_spoolfile_on_late", NOW, "f", "KeyError: 1")
    assert asyncio.run(counting.dead_by("kind", Choice())).tasks == 10
    assert disk.fronts == 11, "only the one that has come since is read"


def test_a_part_of_the_dead_is_the_first_to_die_and_none_is_handed_out_twice(reader: Reader) -> None:
    for n in range(10):
        put(reader, f"dead/uwsgi_spoolfile_on_{n}", NOW - n, "f", "KeyError: 1")
    kinds = DeadKinds(reader, lambda: 0.0)  # no time passes: one look serves all parts
    parts = [kinds.take(Choice(), 4) for _ in range(3)]
    assert [part.left for part in parts] == [6, 2, 0]
    assert [file for part in parts for file in part.files] == [f"dead/uwsgi_spoolfile_on_{n}" for n in reversed(range(10))]
    assert kinds.count(Choice(), "kind").tasks == 10, "those that stay there after all are found again"


def test_between_parts_the_directory_is_looked_at_once_in_twenty_times_as_long_as_a_look_takes(reader: Reader) -> None:
    for n in range(4):
        put(reader, f"dead/uwsgi_spoolfile_on_{n}", NOW - n, "f", "KeyError: 1")
    moments = iter([100.0, 100.0, 101.0, 121.0, 121.1, 121.1, 122.1])  # a look takes a second: it rests until 121
    kinds = DeadKinds(reader, lambda: next(moments))
    parts = [kinds.take(Choice(), 1).left for _ in range(3)]
    assert parts == [3, 2, 3], "the third looks again, and finds the two that nobody took out of dead/"


def test_a_directory_of_the_dead_that_was_quiet_for_long_is_still_looked_at_when_it_changes(reader: Reader) -> None:
    put(reader, "dead/uwsgi_spoolfile_on_1", NOW, "f", "KeyError: 1")
    os.utime(reader.layout.dead, (1e9, 1e9))
    kinds = DeadKinds(reader)
    assert [kinds.count(Choice(), "kind").tasks for _ in range(2)] == [1, 1]
    put(reader, "dead/uwsgi_spoolfile_on_2", NOW, "f", "KeyError: 1")
    assert kinds.count(Choice(), "kind").tasks == 2
