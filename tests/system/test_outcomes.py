"""How a task ends: the result or the exception of its callable, and what becomes of the task then."""

from collections.abc import Iterator
from typing import Any

import pytest
from support import RunningNode, eventually
from watch import NOTES, dead

import spoolnode

ENDS = (
    NOTES
    + """
class Odd(Exception):
    def __str__(self):
        raise ValueError("not even its text")

RESULTS = {"none": None, "ok": -2, "text": "done", "list": [], "dict": {}, "retry": -1, "ignore": 0, "false": False,
           "true": True, "one": 1}
ERRORS = {"error": ValueError("the reason"), "exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "odd": Odd(),
          "long": ValueError("x" * 200_000), "surrogate": ValueError("\\udc80 gone")}

def end(how):
    if how in RESULTS:
        return RESULTS[how]
    raise ERRORS[how]

async def end_later(how):
    return end(how)

def spooler(env):
    return end_later(env["how"]) if env.get("as") == "async" else end(env["how"])

uwsgi.spooler = spooler
"""
)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose tasks get two attempts, and a time limit that none of them reaches."""
    node = RunningNode(tmp_path_factory.mktemp("ends"))
    try:
        yield node.start("--max-attempts", "2", "--retry-base", "0.02", "--timeout", "60", app=ENDS)
    finally:
        node.clean_up()


def enqueue(node: RunningNode, **task: Any) -> str:
    """Sends one task; its id."""
    return spoolnode.send_to_spooler(task, via=node.via)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", ["none", "ok", "text", "list", "dict"])
def test_a_callable_that_ends_well_ends_its_task(ends: RunningNode, how: str, kind: str) -> None:
    identity = enqueue(ends, how=how, **{"as": kind})
    ends.wait_for_log("done", id=identity)
    assert not ends.lines("retry", id=identity)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("how", "outcome", "reason"),
    [
        ("true", "failed", "the callable returned True"),
        ("one", "failed", "the callable returned 1"),
        ("ignore", "ignored", "it returned 0"),
        ("false", "ignored", "it returned False"),
        ("error", "failed", "ValueError: the reason"),
        ("exit", "failed", "SystemExit: 3"),
        ("interrupt", "failed", "KeyboardInterrupt"),
        ("odd", "failed", "Odd"),
        ("long", "failed", "xxx"),
        ("surrogate", "failed", "gone"),
    ],
)
def test_a_task_that_did_not_end_well_is_tried_again_and_kept_with_the_reason(
    ends: RunningNode, how: str, outcome: str, reason: str, kind: str
) -> None:
    identity = enqueue(ends, how=how, **{"as": kind})
    ends.wait_for_log("retry", id=identity, attempts=1, outcome=outcome, reason=reason)
    ends.wait_for_log("dead", id=identity, attempts=2, outcome=outcome, reason=reason)
    (kept,) = eventually(
        lambda: [task for task in dead(ends) if task["id"] == identity], "it is in the list, or a store has it there"
    )
    assert reason in kept["spool_reason"]
    assert kept["attempts"] == 2
    assert not ends.lines("worker_died")


def test_a_failure_comes_with_its_traceback(ends: RunningNode) -> None:
    identity = enqueue(ends, how="error")
    reason = ends.wait_for_log("retry", id=identity)["reason"]
    assert reason.startswith("ValueError: the reason\n")
    assert 'app.py", line' in reason
    assert "in end" in reason


def test_a_dead_task_can_be_run_again(ends: RunningNode) -> None:
    identity = enqueue(ends, how="ignore")
    ends.wait_for_log("dead", id=identity)
    done = ends.command("dead", "retry", identity)
    assert done.returncode == 0, done.stderr
    ends.wait_for_log("dead", id=identity, count=2)
    assert len(ends.lines("retry", id=identity)) == 2, "its attempts began anew"
