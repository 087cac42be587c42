"""When a task runs again: after a failure, because it asks for that, because it runs for ever, or because it is a timer."""

import itertools
import time
from typing import Any

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, count, notes, spool_files, status, tasks, wait_for_note, wait_until_idle

import spoolnode


def enqueue(node: RunningNode, **task: Any) -> str:
    """Sends one task; its id."""
    return spoolnode.send_to_spooler(task, via=node.via)


def test_the_pause_grows_with_each_attempt(node: RunningNode) -> None:
    app = NOTES + "def fail(env):\n    note(time.time())\n    return 0\nuwsgi.spooler = fail\n"
    node.start("--max-attempts", "5", "--retry-base", "0.1", app=app)
    enqueue(node, a="b")
    node.wait_for_log("dead", attempts=5)
    starts = [float(note) for note in notes(node)]
    assert len(starts) == 5
    for attempt, (one, next_one) in enumerate(itertools.pairwise(starts)):
        assert next_one - one >= 0.5 * 0.1 * 2**attempt, "half of the bound is the least"
        assert next_one - one < 0.1 * 2**attempt + 8.0


LOOPS = (
    NOTES
    + """
from spoolnode import SPOOL_OK, SPOOL_RETRY, spool

def loop(env):
    note("round")
    if is_open("fails"):
        raise ValueError("once")
    return SPOOL_OK if is_open("over") else SPOOL_RETRY

@spool
def function():
    return loop({})

def first(env):
    function.spool()

async def later():
    return loop({})

def spooler(env):
    return {"async": lambda _: later(), "function": first, "callable": loop}[env["as"]](env)

uwsgi.spooler = spooler
"""
)


@pytest.mark.parametrize("kind", ["callable", "function", "async"])
def test_a_task_that_asks_to_be_called_again_has_not_failed_however_often_it_asks(
    node: RunningNode, gate: Any, kind: str
) -> None:
    node.start("--max-attempts", "3", "--spooler-frequency", "10ms", app=LOOPS)
    over = gate("over")
    enqueue(node, **{"as": kind})
    wait_for_note(node, "round", 30)
    now = status(node)
    assert (now["failed"], now["retrying"], now["dead"]) == (0, 0, 0)
    over.open()
    eventually(lambda: status(node)["done"] == (2 if kind == "function" else 1), "it is over")
    wait_until_idle(node)
    node.stop()
    assert not [line["action"] for line in node.log if line["action"] in ("retry", "dead")]


def test_rounds_that_a_task_asked_for_are_no_attempts(node: RunningNode, gate: Any) -> None:
    node.start("--max-attempts", "2", "--spooler-frequency", "10ms", "--retry-base", "10ms", app=LOOPS)
    identity = enqueue(node, **{"as": "callable"})
    wait_for_note(node, "round", 5)
    gate("fails").open()
    node.wait_for_log("retry", id=identity, attempts=1, reason="ValueError: once")
    node.wait_for_log("dead", id=identity, attempts=2)


def test_the_pause_of_a_task_that_asks_grows_to_the_frequency(node: RunningNode) -> None:
    app = NOTES + "def loop(env):\n    note(time.time())\n    return -1\nuwsgi.spooler = loop\n"
    node.start("--retry-base", "0.1", "--spooler-frequency", "0.3", app=app)
    enqueue(node, a="b")
    eventually(lambda: len(notes(node)) >= 6, "six rounds")
    pauses = [later - sooner for sooner, later in itertools.pairwise(float(line) for line in notes(node))]
    assert all(pause >= least - 0.01 for pause, least in zip(pauses, [0.05, 0.1, 0.2, 0.3, 0.3], strict=False))


RETRIES = NOTES + "def fail(env):\n    note('run')\n    return 0\nuwsgi.spooler = fail\n"


@pytest.mark.parametrize(
    "place", ["in its batch", pytest.param("in a file", marks=pytest.mark.on_disk("a store keeps no file for it"))]
)
def test_a_task_that_waits_for_its_retry_survives_kill_9_and_is_not_hurried(node: RunningNode, place: str) -> None:
    node.start("--retry-base", "600", app=RETRIES)
    identity = enqueue(node, a="b")
    node.wait_for_log("retry", id=identity, attempts=1)
    eventually(lambda: [task["state"] for task in tasks(node) if task["attempts"]] == ["later"], "a store has heard of it")
    if place == "in a file":
        eventually(lambda: spool_files(node), "the task has a file of its own")
    node.kill9()
    node.start("--retry-base", "600", app=RETRIES)
    (task,) = tasks(node)
    assert (task["id"], task["attempts"]) == (identity, 1)
    assert status(node)["later"] == 1 or task["state"] == "later", "on the disk, or in a store"
    assert count(node, "run") == 1
    node.command("retry", identity)
    node.wait_for_log("retry", id=identity, attempts=2)
    assert count(node, "run") == 2


def test_a_task_that_runs_forever_runs_again_after_the_frequency_and_also_after_kill_9(node: RunningNode) -> None:
    app = NOTES + (
        "import uwsgi\nuwsgi.set_spooler_frequency(1)\nfrom spoolnode import spoolforever\n"
        "@spoolforever\ndef job(what):\n    note('run', what, round(time.time(), 3))\n"
        "def first(env):\n    job.spool('x')\nuwsgi.spooler = first\n"
    )
    node.start(app=app)
    enqueue(node, a="b")
    eventually(lambda: len(notes(node)) >= 3, "three runs")
    node.kill9()
    before = len(notes(node))
    node.start(app=app)
    eventually(lambda: len(notes(node)) >= before + 2, "two more runs")
    times = [float(line.split()[2]) for line in notes(node)]
    assert all(later - earlier >= 0.9 for earlier, later in itertools.pairwise(times[: min(3, before)]))
    node.stop()
    assert not node.lines("retry")
    assert not node.lines("dead")


def test_timers_call_their_functions_and_are_not_made_up_for(node: RunningNode, gate: Any) -> None:
    app = NOTES + (
        "from spoolnode import timer\n@timer(0.1)\ndef tick():\n    note('tick')\n"
        "def job(env):\n    note('busy')\n    wait('timers')\n    note('over')\nuwsgi.spooler = job\n"
    )
    node.start(app=app)
    wait_for_note(node, "tick", 5)
    closed: Gate = gate("timers")
    enqueue(node, a="b")
    wait_for_note(node, "busy")
    # Two seconds by the node's own clock: a task that is due then.
    before = count(node, "tick")
    eventually(lambda: _busy_for(node) > 2, "the worker was busy for two seconds")
    opened = time.monotonic()
    closed.open()
    wait_for_note(node, "over")
    wait_for_note(node, "tick", before + 1)
    wait_until_idle(node)
    lines = notes(node)
    due = (time.monotonic() - opened) / 0.1
    assert lines[lines.index("over") :].count("tick") < due + 10, "twenty calls were missed; they are not caught up with"


def _busy_for(node: RunningNode) -> float:
    (task,) = tasks(node)
    return float(task.get("running_seconds", 0.0))


def test_a_timer_that_fails_is_reported_and_called_again(node: RunningNode) -> None:
    app = NOTES + "from spoolnode import timer\n@timer(0.1)\ndef tick():\n    raise ValueError('tock')\n"
    node.start(app=app)
    node.wait_for_log("timer_failed", count=3, reason="ValueError: tock")
    assert not node.lines("worker_died")


NAMED = """
from spoolnode import spool, uwsgi

def plain(*args):
    raise ValueError("no")

async def later():
    raise ValueError("no")

spool(name="app:job")(plain)
spool(later)
uwsgi.spooler = plain
"""


def test_the_log_names_the_function_of_what_failed(node: RunningNode) -> None:
    node.start("--max-attempts", "2", "--retry-base", "0.02", app=NAMED)
    for name in ("app:job", "app:later"):
        spoolnode.spool(name=name)(print).options(via=node.via).spool()
    spoolnode.send_to_spooler({"ud_spool_func": "resize"}, via=node.via)
    spoolnode.send_to_spooler({"a": "b"}, via=node.via)
    for action in ("retry", "dead"):
        node.wait_for_log(action, count=4)
        assert sorted(line["function"] for line in node.lines(action)) == ["", "app:job", "app:later", "resize"]
