"""Tasks that have ended and tasks that wait for another attempt, as the API and the command line list them."""

import json
from typing import Any

import pytest
from support import RunningNode, eventually

import spoolnode
from spoolnode.client.control import ControlError, ask

APP = """
from spoolnode import spool

@spool(name="list.ok")
def ok(**_):
    pass

@spool(name="list.bad", max_attempts=1)
def bad(**_):
    raise ValueError("no such customer\\nnor any other")

@spool(name="list.flaky", retry_base=3600)
def flaky(**_):
    raise ConnectionRefusedError("no server")
"""


@spoolnode.spool(name="list.ok")
def ok(**_: str) -> None: ...


@spoolnode.spool(name="list.bad", max_attempts=1)
def bad(**_: str) -> None: ...


@spoolnode.spool(name="list.flaky", retry_base=3600)
def flaky(**_: str) -> None: ...


@pytest.fixture
def busy(node: RunningNode) -> RunningNode:
    """A node on which three tasks ended well, one died, one waits for its next attempt, and one for its first."""
    node.start("--workers", "1", app=APP)
    ok.options(via=node.via).spool_many([{"number": str(number)} for number in range(3)])
    eventually(lambda: node.status()["done"] == 3, "they are done")
    bad.options(via=node.via).spool()
    eventually(lambda: node.status()["dead"] == 1, "it is dead")
    flaky.options(via=node.via).spool()
    ok.options(via=node.via, at=4e9).spool()
    eventually(lambda: [row["state"] for row in pages(node, "state=retrying")] == ["later"], "it failed, and that is on disk")
    return node


def pages(node: RunningNode, query: str) -> list[dict[str, Any]]:
    """The rows of all pages of two."""
    rows, cursor = [], ""
    while True:
        answer = ask(str(node.spool), "GET", f"/tasks?{query}&limit=2{cursor}")
        assert len(answer["items"]) <= 2
        rows += answer["items"]
        if answer["next"] is None:
            return rows
        assert answer["items"], "there is more than that"
        cursor = f"&cursor={answer['next']}"


def listed(node: RunningNode, option: str) -> list[dict[str, Any]]:
    done = node.command("ls", option, "--json")
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_what_has_ended_is_listed_in_pages_the_last_one_first_also_when_the_node_is_down(busy: RunningNode) -> None:
    rows = pages(busy, "state=ended")
    assert [(row["function"], row["end"], row["reason"]) for row in rows] == [
        ("list.bad", "dead", "ValueError: no such customer"), *[("list.ok", "done", "")] * 3,
    ]  # fmt: skip
    assert [row["ended_at"] for row in rows] == sorted((row["ended_at"] for row in rows), reverse=True)
    assert len({row["id"] for row in rows}) == 4
    assert pages(busy, "state=ended&function=list.ok") == rows[1:]
    assert pages(busy, f"state=ended&until_at={rows[0]['ended_at'] - 0.001}") == rows[1:]
    assert listed(busy, "--ended") == rows
    assert "no such customer" in busy.command("ls", "--ended").stdout
    busy.stop()
    assert listed(busy, "--ended") == rows


def test_what_waits_for_another_attempt_is_listed_with_its_last_error_and_nothing_else_is(busy: RunningNode) -> None:
    (row,) = pages(busy, "state=retrying")
    assert (row["function"], row["state"], row["attempts"]) == ("list.flaky", "later", 1)
    assert row["reason"] == "ConnectionRefusedError: no server"
    assert [task["id"] for task in listed(busy, "--retrying")] == [row["id"]]
    assert len(pages(busy, "state=retrying,dead")) == 2
    busy.stop()
    assert [task["id"] for task in listed(busy, "--retrying")] == [row["id"]]


def test_the_count_of_what_waits_for_another_attempt_is_that_of_the_list_also_after_a_restart(busy: RunningNode) -> None:
    assert busy.status()["retrying"] == 1
    busy.stop()
    busy.start("--workers", "1", app=APP)
    (row,) = pages(busy, "state=retrying")
    assert busy.status()["retrying"] == 1
    assert busy.command("rm", row["id"]).returncode == 0
    assert (pages(busy, "state=retrying"), busy.status()["retrying"]) == ([], 0)


@pytest.mark.parametrize("query", ["state=ended,dead", "state=ended&cursor=x", "state=ended&limit=0", "state=over"])
def test_a_list_that_makes_no_sense_is_a_sentence(node: RunningNode, query: str) -> None:
    node.start()
    with pytest.raises(ControlError, match=r"ended|cursor|limit|state"):
        ask(str(node.spool), "GET", f"/tasks?{query}")
