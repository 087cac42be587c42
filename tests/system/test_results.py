"""What a function returns is kept when it asks for that, and `result` waits for it, or says why there is none."""

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, wait_for_note

import spoolnode
from spoolnode import Refused, ResultMissing, aresult, result, send_to_spooler, spool
from spoolnode.client.fetching import aask_about, ask_about
from spoolnode.protocol.values import unpack

APP = (
    NOTES
    + """
from datetime import datetime, UTC
from spoolnode import spool

@spool(name="shop:add", keep_result=True)
def add(a, b):
    return a + b

@spool(name="shop:big", keep_result=True)
def big(size):
    return b"x" * size

@spool(name="shop:odd", keep_result=True)
def odd():
    return object()

@spool(name="shop:when", keep_result=True)
async def when():
    return datetime(2026, 11, 28, tzinfo=UTC), -1, None

@spool(name="shop:slow", keep_result=True)
def slow():
    note("slow")
    wait("door")
    return "done"

@spool(name="shop:fails", keep_result=True)
def fails():
    raise ValueError("no such customer \\udc80")

@spool(name="shop:plain")
def plain():
    return 5
"""
)
LONG = 60.0


def _stand_in(*args: object) -> None: ...


FUNCTIONS = {
    name: spool(name=f"shop:{name}", keep_result=name != "plain")(_stand_in)
    for name in ("add", "big", "odd", "when", "slow", "fails", "plain")
}
"""Those of the application, as a caller sees them."""


def call(node: RunningNode, name: str, *args: object) -> str:
    """The id of a new call of a function of the application."""
    return FUNCTIONS[name].options(via=node.via).spool(*args)


@pytest.fixture
def shop(node: RunningNode) -> RunningNode:
    """A node with the application."""
    return node.start("--max-attempts", "1", app=APP)


def test_a_result_arrives_as_it_was_returned_also_a_large_one(shop: RunningNode) -> None:
    assert result(call(shop, "add", 1, 2), LONG, via=shop.via) == 3
    when = (datetime(2026, 11, 28, tzinfo=UTC), -1, None)
    assert result(call(shop, "when"), LONG, via=shop.via) == when
    size = (1 << 20) - 64
    large = call(shop, "big", size)
    assert result(large, LONG, via=shop.via) == b"x" * size
    assert asyncio.run(aresult(large, LONG, via=shop.via)) == b"x" * size


def test_who_waits_is_woken_when_the_task_ends_and_not_before(shop: RunningNode, gate: Callable[[str], Gate]) -> None:
    identity = call(shop, "slow")
    wait_for_note(shop, "slow")
    with pytest.raises(TimeoutError, match="has not ended in 0 s"):
        result(identity, 0, via=shop.via)
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(result(identity, LONG, via=shop.via)))
    waiting.start()
    gate("door").open()
    waiting.join()
    assert found == ["done"]


def test_it_says_why_there_is_no_result(shop: RunningNode) -> None:
    def missing(identity: str) -> ResultMissing:
        with pytest.raises(ResultMissing) as raised:
            result(identity, LONG, via=shop.via)
        return raised.value

    later = send_to_spooler({"a": "b", "at": "4000000000"}, via=shop.via)
    assert shop.command("rm", later).returncode == 0
    for identity, kind, why in (
        (later, "removed", "it was removed by hand"),
        (call(shop, "fails"), "given_up", "it was given up: ValueError: no such customer"),
        (call(shop, "plain"), "not_kept", "was not kept: that takes @spool"),
        (call(shop, "big", (1 << 20) + 40), "not_kept", "it takes 1048629 bytes, of at most 1048576"),
        (call(shop, "odd"), "not_kept", r"cannot be kept: .*object"),
        ("0123456789ab_1790000000000000_64", "unknown", "it is unknown here"),
        ("../node.key", "unknown", "is not the id of a task"),
    ):
        error = missing(identity)
        assert error.kind == kind
        assert re.search(why, str(error))


def test_an_expired_result_is_gone_and_says_so(shop: RunningNode) -> None:
    identity = call(shop, "add", 1, 2)
    assert result(identity, LONG, via=shop.via) == 3
    shop.stop()
    os.utime(shop.spool / "results" / identity, (1, 1))
    shop.start(app=APP)
    eventually(lambda: not (shop.spool / "results" / identity).exists(), "it is removed")
    with pytest.raises(ResultMissing, match="has expired") as raised:
        result(identity, LONG, via=shop.via)
    assert raised.value.kind == "expired"


def test_a_result_outlives_a_kill_9_of_its_node(shop: RunningNode) -> None:
    identity = call(shop, "add", 1, 2)
    eventually((shop.spool / "results" / identity).exists, "it is kept")
    shop.kill9()
    shop.start(app=APP)
    assert result(identity, LONG, via=shop.via) == 3


def test_a_start_warns_of_a_directory_that_a_stranger_made_and_not_of_our_own(shop: RunningNode) -> None:
    assert result(call(shop, "add", 1, 2), LONG, via=shop.via) == 3
    shop.stop()
    for name in ("urgent", "pulled"):
        (shop.spool / name).mkdir()
    shop.start(app=APP)
    shop.stop()
    assert [line["directory"] for line in shop.lines("not_scanned")] == ["urgent"]


def test_without_history_results_are_kept_and_waited_for_as_well(node: RunningNode, gate: Callable[[str], Gate]) -> None:
    node.start("--history", "0", "--max-attempts", "1", app=APP)
    identity = call(node, "slow")
    wait_for_note(node, "slow")
    gate("door").open()
    assert result(identity, LONG, via=node.via) == "done"
    with pytest.raises(ResultMissing, match="it was given up: ValueError"):
        result(call(node, "fails"), LONG, via=node.via)


def test_all_about_a_task_is_told_while_it_runs_when_it_has_ended_and_when_it_is_dead(
    shop: RunningNode, gate: Callable[[str], Gate]
) -> None:
    identity = call(shop, "slow")
    wait_for_note(shop, "slow")
    told = ask_about(identity, via=shop.via)
    assert (told["state"], told["function"], unpack(told["values"])) == ("running", "shop:slow", {"args": [], "kwargs": {}})
    assert told["seconds"] >= 0
    assert [step["event"] for step in told["story"]] == ["accepted"]
    gate("door").open()
    assert result(identity, LONG, via=shop.via) == "done"
    told = asyncio.run(aask_about(identity, via=shop.via))
    assert (told["state"], unpack(told["kept"])) == ("done", {"result": "done"})
    dead = call(shop, "fails")
    shop.wait_for_log("dead")
    eventually(lambda: ask_about(dead, via=shop.via)["state"] == "dead", "a store has heard of it")
    told = ask_about(dead, via=shop.via)
    assert told["function"] == "shop:fails"
    (attempt,) = (step for step in told["story"] if step["event"] == "attempt")
    assert (attempt["error"], attempt["outcome"]) == ("builtins.ValueError", "failed")
    assert attempt["reason"].startswith("ValueError: no such customer \udc80\n")


def test_large_arguments_of_a_task_are_told_whole(node: RunningNode) -> None:
    node.start()
    size = 200_000
    told = ask_about(call(node, "add", b"x" * size, 2), via=node.via)
    assert (told["state"], unpack(told["values"])["args"]) == ("waiting", [b"x" * size, 2])


def test_a_node_that_is_not_there_is_unreachable() -> None:
    with pytest.raises(spoolnode.Unreachable):
        result("0123456789ab_1790000000000000_64", 1, via="./no.sock")


@pytest.fixture
def front(tmp_path: Path, node: RunningNode) -> Iterator[RunningNode]:
    """A node without an application that hands tasks to `node`, which has it."""
    (tmp_path / "front").mkdir()
    front = RunningNode(tmp_path / "front", "front").start("--discover", "none")
    node.start("--max-attempts", "1", "--discover", f"static://{front.via}", app=APP)
    yield front
    front.clean_up()


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
@pytest.mark.slow
def test_the_node_that_handed_a_task_on_gives_its_result_too(
    front: RunningNode, node: RunningNode, gate: Callable[[str], Gate]
) -> None:
    elsewhere = {name: FUNCTIONS[name].options(via=front.via, node="testnode") for name in ("slow", "fails")}
    identity = elsewhere["slow"].spool()
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(result(identity, LONG, via=front.via)))
    waiting.start()
    wait_for_note(node, "slow")
    gate("door").open()
    waiting.join()
    assert found == ["done"]
    assert result(identity, LONG, via=node.via) == "done", "the node that ran it knows it by the same id"
    steps = [("accepted", "front"), ("forwarded", "front"), ("accepted", "testnode"), ("done", "testnode")]
    for asked in (front, node):
        told = json.loads(asked.command("show", identity, "--json").stdout)["story"]
        assert [(step["event"], step["node"]) for step in told] == steps, "both tell the whole story"
    dead = elsewhere["fails"].spool()
    with pytest.raises(ResultMissing, match="it was given up: ValueError"):
        result(dead, LONG, via=front.via)
    for asked in (front, node):
        told = ask_about(dead, via=asked.via)
        assert told["state"] == "dead"
        assert [step["event"] for step in told["story"]] == ["accepted", "forwarded", "accepted", "attempt", "dead"]
    node.stop()
    with pytest.raises(Refused, match="it was forwarded to testnode, which does not answer now"):
        ask_about(dead, via=front.via)
    with pytest.raises(TimeoutError):
        result(identity, 0, via=front.via)
