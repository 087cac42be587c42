"""The ages of what waits: each task is counted once, in the column of its age, in the row of its function or node."""

import os
from pathlib import Path

import pytest

from spoolnode.node.control.ages import BOUNDS, MOST_GROUPS, ages, as_answer
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool.reader import Reader
from spoolnode.protocol import spoolfile
from spoolnode.protocol.packet import encode_variables

NOW = 1_800_000_000.0


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    for name in ("incoming", "outbox/beta", "outbox/gone", "7"):
        (tmp_path / name).mkdir(parents=True)
    return Reader(RealDisk(), Layout(str(tmp_path)), "0123456789ab")


def put(reader: Reader, name: str, age: float, function: str = "") -> str:
    """Writes a task of that age; below 0 it is due so much later."""
    path = Path(reader.layout.path(name))
    path.write_bytes(spoolfile.head(encode_variables([(b"spool_func", function.encode())] if function else [(b"a", b"b")])))
    os.utime(path, (NOW - age, NOW - age))
    return name.rpartition("_")[2]


def test_each_column_is_twice_as_old_as_the_one_before_and_a_bound_belongs_to_the_older_one(reader: Reader) -> None:
    assert BOUNDS == (60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 30720)
    for number, age in enumerate([0.0, 59.0, *BOUNDS, 10**7]):
        put(reader, f"uwsgi_spoolfile_on_{number}", age, "shop:pay")
    found = ages(reader, "function", NOW)
    assert found.groups.keys() == {"shop:pay"}
    assert found.groups["shop:pay"] == found.total
    assert (found.total.tasks, found.total.ages) == (13, [2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2])
    assert found.total.oldest_at == NOW - 10**7


def test_rows_are_functions_or_the_nodes_that_tasks_wait_for_the_largest_first(reader: Reader) -> None:
    for number, (place, function) in enumerate(
        [("", "shop:pay"), ("7/", "shop:pay"), ("outbox/beta/", "shop:mail"), ("outbox/beta/", "shop:pay"), ("outbox/gone/", "")]
    ):
        put(reader, f"{place}uwsgi_spoolfile_on_{number}", 100.0, function)
    by_function, by_node = (as_answer(ages(reader, by, NOW), by, {"beta": "Beta"}) for by in ("function", "node"))
    assert [(row["function"], row["tasks"]) for row in by_function["items"]] == [("shop:pay", 3), ("", 1), ("shop:mail", 1)]
    rows = [(row["destination"], row["name"], row["tasks"]) for row in by_node["items"]]
    assert rows == [(None, "", 2), ("beta", "Beta", 2), ("gone", "", 1)]
    assert (
        by_function["total"] == by_node["total"] == {"tasks": 5, "later": 0, "oldest_at": NOW - 100.0, "ages": [0, 5, *[0] * 9]}
    )


def test_what_is_not_due_is_counted_and_told_apart_and_what_runs_or_is_dead_does_not_wait(reader: Reader) -> None:
    Path(reader.layout.dead).mkdir()
    put(reader, "dead/uwsgi_spoolfile_on_1", 100.0)
    running = put(reader, "uwsgi_spoolfile_on_2", 100.0)
    put(reader, "uwsgi_spoolfile_on_3", 100.0)
    put(reader, "uwsgi_spoolfile_on_4", -3600.0)
    found = ages(reader, "node", NOW, {running})
    assert (found.total.tasks, found.total.later, found.total.ages) == (2, 1, [1, 1, *[0] * 9])


def test_a_client_that_makes_up_names_cannot_make_the_answer_endless_and_the_total_has_them_all(reader: Reader) -> None:
    for number in range(MOST_GROUPS + 5):
        put(reader, f"uwsgi_spoolfile_on_{number}", 1.0, f"made.up:{number}")
    answer = as_answer(ages(reader, "function", NOW), "function", {})
    assert (len(answer["items"]), answer["groups"], answer["total"]["tasks"]) == (MOST_GROUPS, MOST_GROUPS + 5, MOST_GROUPS + 5)


def test_nothing_waits_in_an_empty_spool(reader: Reader) -> None:
    answer = as_answer(ages(reader, "node", NOW), "node", {})
    assert (answer["items"], answer["groups"]) == ([], 0)
    assert answer["total"] == {"tasks": 0, "later": 0, "oldest_at": None, "ages": [0] * 11}
