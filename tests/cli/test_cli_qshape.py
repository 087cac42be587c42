"""`spoolnode qshape`: all that waits, counted by its age, with and without a running node."""

import json
import time
from typing import Any

import pytest
from support import RunningNode, command

APP = """
from spoolnode import spool

@spool
def pay(number): ...
"""


@pytest.fixture(params=["running", "stopped"])
def spool(request: pytest.FixtureRequest, node: RunningNode) -> RunningNode:
    """Six tasks that wait: three calls of a paused function, one of them due in an hour, one without a function, two for gone."""
    node.start(app=APP)
    assert node.command("pause").returncode == 0
    for line in ("call app:pay 1", "call app:pay 2", "call app:pay 3 --at +1h", "send a=b", "send a=b --node gone",
                 "call app:pay 4 --node gone"):  # fmt: skip
        assert node.command(*line.split()).returncode == 0
    if request.param == "stopped":
        assert node.stop() == 0
    return node


def counted(node: RunningNode, *args: str) -> Any:
    done = node.command("qshape", "--json", *args)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_each_task_is_counted_once_by_function_and_by_node(spool: RunningNode) -> None:
    by_function, by_node = counted(spool), counted(spool, "--by", "node")
    assert [(row["function"], row["tasks"], row["later"]) for row in by_function["items"]] == [("app:pay", 4, 1), ("", 2, 0)]
    assert [(row["destination"], row["tasks"], row["later"]) for row in by_node["items"]] == [(None, 4, 1), ("gone", 2, 0)]
    for answer in (by_function, by_node):
        assert (answer["total"]["tasks"], answer["total"]["later"], answer["groups"]) == (6, 1, 2)
        assert sum(answer["total"]["ages"]) == 6
        assert len(answer["total"]["ages"]) == len(answer["bounds_seconds"]) + 1
        assert time.time() - 3600 < answer["total"]["oldest_at"] <= time.time()


def test_the_table_begins_with_the_total(spool: RunningNode) -> None:
    titles, *rows = spool.command("qshape", "--by", "node").stdout.splitlines()
    assert titles.split() == ["NODE", "T", "1", "2", "4", "8", "16", "32", "64", "128", "256", "512", "512+", "LATER"]
    assert [(row.split("  ")[0], row.split()[-13:][0], row.split()[-1]) for row in rows] == [
        ("TOTAL", "6", "1"), ("(this node)", "4", "1"), ("gone", "2", "0"),
    ]  # fmt: skip
    names = [row.split()[0] for row in spool.command("qshape").stdout.splitlines()]
    assert names == ["FUNCTION", "TOTAL", "app:pay", "-"]


def test_nothing_waits_is_said_and_no_spool_is_an_error(node: RunningNode) -> None:
    node.start()
    done = node.command("qshape")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no task waits\n")
    done = command("qshape", "--spool", "/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert command("qshape", "--by", "age").returncode == 2
