"""How often a task is tried: as its function says, by what it raises, and over the deaths of workers and nodes."""

import subprocess
import sys
import time
from typing import Any

import pytest
from support import RunningNode, environment, eventually
from watch import NOTES, count, dead, notes, status, tasks, wait_for_note, wait_until_idle

import spoolnode

APP = (
    NOTES
    + """
import asyncio, json, signal
from spoolnode import GiveUp, Retry, after_task, current_task, spool

@after_task
def tell(task, outcome, error):
    note("after", outcome, type(error).__name__)

class Sudden(LookupError):
    pass

def end(how):
    task = current_task()
    note("attempt", task.attempt, "of", task.max_attempts)
    if how == "fail":
        raise ValueError("no")
    if how == "sudden":
        raise Sudden("no such customer")
    if how == "give up":
        raise GiveUp("no such customer")
    if how == "later":
        raise Retry(after=0.2)
    if how == "uncounted" and not is_open("over"):
        raise Retry(after=0.01, counts=False)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        wait("over")
    if how == "block":
        import ctypes
        ctypes.PyDLL(None).usleep(600_000_000)  # keeps the interpreter to itself

@spool(max_attempts=3, retry_base=0.02, retry_max=0.02, give_up_on=LookupError)
def job(how, body=""):
    end(how)

@spool(max_attempts=3, retry_base=0.02, retry_max=0.02, give_up_on=(KeyError, LookupError))
async def job_async(how):
    if how == "await":
        await asyncio.sleep(600)
    end(how)

@spool
def plain(how):
    end(how)

def spooler(env):
    end(env["how"])

uwsgi.spooler = spooler
"""
)
CALLS = {
    "function": "job.spool({how!r})",
    "async": "job_async.spool({how!r})",
    "options": "plain.options(max_attempts=3, retry_base=0.02, retry_max=0.02).spool({how!r})",
}


def enqueue(node: RunningNode, call: str) -> str:
    """Spools a call of one of the application's functions from a process of its own; its id."""
    sender = node.directory / "sender"
    sender.mkdir(exist_ok=True)
    (sender / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "-c", f"from app import *\nprint({call})"], cwd=sender, env=environment(SPOOLNODE_VIA=node.via),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def died(node: RunningNode) -> tuple[dict[str, Any], dict[str, Any]]:
    """The line in the log about the one task that was given up, and what `show` tells of it."""
    line = node.wait_for_log("dead")
    (task,) = eventually(lambda: dead(node), "it is among the dead")
    return line, task


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_is_tried_as_often_as_its_function_says_and_not_as_its_node(node: RunningNode, kind: str) -> None:
    node.start("--max-attempts", "1", "--retry-base", "3600", app=APP)
    enqueue(node, CALLS[kind].format(how="fail"))
    line, kept = died(node)
    assert (line["attempts"], kept["attempts"], kept["spool_retry"]) == (3, 3, "3,0.020000,0.020000")
    assert [note for note in notes(node) if note.startswith("attempt")] == [f"attempt {n} of 3" for n in (1, 2, 3)]
    assert count(node, "after failed ValueError") == 3


def test_a_node_without_the_function_tries_a_call_as_often_as_its_function_says(node: RunningNode) -> None:
    node.start("--max-attempts", "1", app="from spoolnode import spool\n@spool\ndef another(): pass\n")
    enqueue(node, CALLS["function"].format(how="fail"))
    line, _ = died(node)
    assert line["attempts"] == 3
    assert "no callable for this task" in line["reason"]


def test_the_deaths_of_workers_count_as_the_function_says(node: RunningNode) -> None:
    node.start("--max-attempts", "1", "--workers", "1", app=APP)
    enqueue(node, CALLS["function"].format(how="die"))
    line, _ = died(node)
    assert line["attempts"] == 3
    assert len(node.lines("worker_died")) == 3
    assert {line["function"] for line in [*node.lines("retry"), *node.lines("dead")]} == {"app:job"}


@pytest.mark.on_disk("a run that ends with its node is no attempt: the lease runs out, and the task starts again")
@pytest.mark.parametrize("body", ["", "x" * 300_000], ids=["in a batch", "in a file of its own"])
def test_after_kill_9_in_its_last_attempt_a_task_does_not_run_once_more(node: RunningNode, body: str) -> None:
    node.start(app=APP)
    enqueue(node, f"job.options(max_attempts=1).spool('hang', {body[:1]!r} * {len(body)})")
    wait_for_note(node, "attempt 1 of 1")
    node.kill9()
    node.start(app=APP)
    line, _ = died(node)
    assert (line["attempts"], line["reason"]) == (1, "the node ended while the task ran")
    assert count(node, "attempt 1 of 1") == 1


@pytest.mark.parametrize("kind", CALLS)
def test_a_task_that_gives_up_is_dead_at_once_with_its_reason(node: RunningNode, kind: str) -> None:
    node.start(app=APP)
    enqueue(node, CALLS[kind].format(how="give up"))
    line, kept = died(node)
    assert (line["attempts"], line["outcome"]) == (1, "give_up")
    reason, _, traceback = kept["spool_reason"].partition("\n")
    assert reason == "no such customer"
    assert 'raise GiveUp("no such customer")' in traceback
    assert count(node, "after give_up GiveUp") == 1


def test_a_dictionary_gives_up_as_a_function_does(node: RunningNode) -> None:
    node.start(app=APP)
    spoolnode.send_to_spooler({"how": "give up"}, via=node.via)
    line, kept = died(node)
    assert (line["attempts"], kept["spool_reason"].partition("\n")[0]) == (1, "no such customer")


@pytest.mark.parametrize("kind", ["function", "async"])
def test_an_exception_on_which_a_function_gives_up_is_its_last(node: RunningNode, kind: str) -> None:
    node.start(app=APP)
    enqueue(node, CALLS[kind].format(how="sudden"))
    line, _ = died(node)
    assert (line["attempts"], line["outcome"]) == (1, "give_up")
    assert line["reason"].startswith("app.Sudden: no such customer\nTraceback")
    assert count(node, "after give_up Sudden") == 1


@pytest.mark.parametrize("kind", ["function", "async"])
def test_a_retry_waits_as_long_as_it_says_and_counts(node: RunningNode, kind: str) -> None:
    node.start(app=APP)
    enqueue(node, CALLS[kind].format(how="later"))
    line, _ = died(node)
    assert (line["attempts"], line["outcome"]) == (3, "retry_after")
    first, second = node.lines("retry")
    assert first["reason"].startswith("it asked to run again after 0.2 s\n")
    assert count(node, "after retry_after Retry") == 3
    assert second["due"] - first["due"] >= 0.2


def test_a_retry_that_does_not_count_goes_on_for_ever_and_is_no_failure(node: RunningNode) -> None:
    node.start("--max-attempts", "2", app=APP)
    spoolnode.send_to_spooler({"how": "uncounted"}, via=node.via)
    wait_for_note(node, "attempt 1 of 2", times=4)
    assert (status(node)["failed"], status(node)["dead"]) == (0, 0)
    (node.directory / "gate.over").touch()
    wait_until_idle(node)
    assert set(notes(node)) == {"attempt 1 of 2", "after retry_uncounted Retry", "after done NoneType"}


def test_a_retry_that_does_not_count_leaves_the_failures_before_it_counted(node: RunningNode) -> None:
    app = APP.replace(
        "    task = current_task()\n", "    task = current_task()\n    how = 'fail' if task.attempt == 1 else how\n", 1
    )
    node.start("--retry-base", "0.01", app=app)
    spoolnode.send_to_spooler({"how": "uncounted"}, via=node.via)
    wait_for_note(node, "attempt 2 of 20", times=3)
    (node.directory / "gate.over").touch()
    wait_until_idle(node)
    assert count(node, "attempt 1 of 20") == 1


def test_a_task_that_asked_for_an_hour_is_due_in_an_hour(node: RunningNode) -> None:
    node.start(app=APP.replace("after=0.2", "after=3600"))
    before = time.time()
    enqueue(node, CALLS["function"].format(how="later"))
    (task,) = eventually(lambda: [task for task in tasks(node) if task["due_at"]], "it waits for its time")
    assert before + 3600 <= task["due_at"] <= time.time() + 3600


LINE_OF = {
    "job.options(timeout=10, max_attempts=1).spool('hang')": ("in wait", "in end", "in job"),
    "job.options(timeout=10, max_attempts=1).spool('block')": ("in end", "in job"),
    "job_async.options(timeout=10, max_attempts=1).spool('await')": ("in sleep", "in job_async"),
    "job_async.options(timeout=10, max_attempts=1).spool('block')": ("in end", "in job_async"),
}


@pytest.mark.parametrize("call", LINE_OF)
def test_the_reason_of_a_timeout_holds_the_limit_and_where_the_function_was(node: RunningNode, call: str) -> None:
    node.start("--workers", "1", app=APP)
    enqueue(node, call)
    line, kept = died(node)
    assert line["reason"].startswith("it ran longer than 10 s (timeout)")
    for place in LINE_OF[call]:
        assert place in kept["spool_reason"]
    assert str(node.directory / "app.py") in kept["spool_reason"]
    assert "spoolnode" not in kept["spool_reason"].replace(str(node.directory), ""), "our own frames say nothing"
    others = [line["reason"] for line in node.lines("worker_died")]
    assert others == ["was killed: a task ran longer than its timeout"] * ("await" not in call)
