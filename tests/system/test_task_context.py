"""A task's facts about itself, and the hooks around it: real workers of real nodes."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support import RunningNode, environment, eventually
from watch import NOTES, notes, wait_for_note, wait_until_idle

import spoolnode

APP = (
    NOTES
    + """
import asyncio, json, threading
from contextvars import copy_context
from dataclasses import asdict
from spoolnode import after_task, before_task, current_task, spool

def tell(place):
    task = current_task()
    note(place, json.dumps(task and asdict(task), default=str))

tell("import")

@spool(timeout=60)
def here():
    tell("task")
    thread = threading.Thread(target=copy_context().run, args=(tell, "thread"))
    thread.start()
    thread.join()
    thread = threading.Thread(target=tell, args=("stranger",))
    thread.start()
    thread.join()

@spool
async def later():
    await asyncio.sleep(0)
    tell("async")
    await asyncio.to_thread(tell, "to_thread")

@spool
def fails_once():
    tell("attempt")
    if current_task().attempt == 1:
        raise ValueError("the first time")

def spooler(env):
    tell("plain")

uwsgi.spooler = spooler
"""
)


def enqueue(node: RunningNode, *calls: str) -> list[str]:
    """Spools these calls of the application's functions, from a process of their own; their ids."""
    program = f"import app\nfor id in [{', '.join(calls)}]: print(id)"
    (node.directory / "sender").mkdir(exist_ok=True)
    source = (node.directory / "app.py").read_text()
    (node.directory / "sender" / "app.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=node.directory / "sender", env=environment(SPOOLNODE_VIA=node.via),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def told(node: RunningNode, place: str) -> list[Any]:
    """The facts of `current_task()` that the application wrote down at that place."""
    lines = [note.partition(" ") for note in notes(node)]
    return [json.loads(said) for where, _, said in lines if where == place]


def test_a_task_knows_its_id_its_function_its_node_and_its_times(node: RunningNode) -> None:
    node.start("--max-attempts", "7", app=APP)
    before = datetime.now(UTC)
    (identity,) = enqueue(node, "app.here.spool()")
    wait_until_idle(node)
    (task,) = told(node, "task")
    accepted, deadline = (datetime.fromisoformat(task.pop(name)) for name in ("accepted_at", "deadline"))
    assert task == {
        "id": identity, "origin_id": identity, "attempt": 1, "max_attempts": 7, "function": "app:here", "node": "testnode",
            "due_at": None,
    }  # fmt: skip
    assert before - timedelta(seconds=1) < accepted < deadline - timedelta(seconds=59)


def test_a_thread_with_the_context_and_an_async_task_know_it_and_others_do_not(node: RunningNode) -> None:
    node.start(app=APP)
    first, second = enqueue(node, "app.here.spool()", "app.later.spool()")
    wait_until_idle(node)
    places = {place: [task and task["id"] for task in told(node, place)] for place in ("thread", "async", "to_thread")}
    assert places == {"thread": [first], "async": [second], "to_thread": [second]}
    assert told(node, "stranger") == told(node, "import") == [None]


def test_the_next_attempt_is_the_same_task_with_the_next_number(node: RunningNode) -> None:
    node.start("--retry-base", "0.01", app=APP)
    (identity,) = enqueue(node, "app.fails_once.spool()")
    eventually(lambda: len(told(node, "attempt")) == 2, "it has run twice")
    assert [(task["id"], task["attempt"]) for task in told(node, "attempt")] == [(identity, 1), (identity, 2)]


def test_a_task_of_plain_variables_and_one_in_a_file_know_theirs_too(node: RunningNode) -> None:
    node.start(app=APP)
    spoolnode.send_to_spooler({"body": b"x" * 200_000, "a": "b"}, via=node.via)
    spoolnode.send_to_spooler({"a": "b"}, via=node.via)
    wait_until_idle(node)
    tasks = told(node, "plain")
    assert [(task["attempt"], task["function"], task["deadline"]) for task in tasks] == [(1, "", None)] * 2
    assert all(datetime.now(UTC) - datetime.fromisoformat(task["accepted_at"]) < timedelta(minutes=5) for task in tasks)


HOOKS = (
    NOTES
    + """
import asyncio, functools
from contextvars import ContextVar
from spoolnode import after_task, before_task, spool

span = ContextVar("span", default="")
tokens = {}

@before_task
def first(task):
    note("first", task.function)
    tokens[task.id] = span.set("open")

@before_task
async def second(task):
    await asyncio.sleep(0)
    note("second", span.get())

@after_task
def third(task, outcome, error):
    span.reset(tokens.pop(task.id))  # fails in another context
    note("third", outcome, repr(error))

@after_task
async def fourth(task, outcome, error):
    await asyncio.sleep(0)
    note("fourth", outcome)
    raise RuntimeError("a hook after the task")

@spool
def good():
    note("good", span.get())

@spool
async def good_async():
    await asyncio.sleep(0)
    note("good", span.get())

def in_a_loop_of_its_own(function):
    @functools.wraps(function)
    def wrapper():
        asyncio.run(function())
    return wrapper

@spool
@in_a_loop_of_its_own
async def good_wrapped():
    note("good", span.get())

@spool
def bad():
    raise ValueError("no")

@spool
async def bad_async():
    raise ValueError("no")
"""
)


@pytest.mark.parametrize("function", ["good", "good_async", "good_wrapped"])
def test_hooks_run_around_a_task_in_its_context_those_after_it_in_the_opposite_order(node: RunningNode, function: str) -> None:
    node.start(app=HOOKS)
    enqueue(node, f"app.{function}.spool()")
    wait_until_idle(node)
    assert notes(node) == [f"first app:{function}", "second open", "good open", "fourth done", "third done None"]
    node.wait_for_log("print", stream="stderr", text="RuntimeError: a hook after the task")
    assert node.status()["done"] == 1


@pytest.mark.parametrize("function", ["bad", "bad_async"])
def test_hooks_hear_of_a_failure_and_change_nothing_of_it(node: RunningNode, function: str) -> None:
    node.start("--max-attempts", "1", app=HOOKS)
    enqueue(node, f"app.{function}.spool()")
    failed = node.wait_for_log("dead")
    assert failed["reason"].startswith("ValueError: no")
    assert notes(node)[-2:] == ["fourth failed", "third failed ValueError('no')"]


def test_what_a_hook_before_a_task_raises_is_a_failure_of_the_task_with_its_traceback(node: RunningNode, tmp_path: Path) -> None:
    app = HOOKS.replace('note("first", task.function)', 'raise LookupError("no database")')
    node.start("--max-attempts", "1", app=app)
    enqueue(node, "app.good.spool()")
    failed = node.wait_for_log("dead")
    assert failed["reason"].startswith("LookupError: no database")
    assert "in first" in failed["reason"]
    assert "good open" not in notes(node)


def test_a_child_that_a_task_forks_calls_no_hook(node: RunningNode) -> None:
    app = HOOKS + "\n@spool\ndef forks():\n    if os.fork() == 0:\n        sys.exit(3)\n    os.wait()\n    note('parent')\n"
    node.start(app=app)
    enqueue(node, "app.forks.spool()")
    wait_for_note(node, "third done None")
    wait_until_idle(node)
    assert notes(node) == ["first app:forks", "second open", "parent", "fourth done", "third done None"]
