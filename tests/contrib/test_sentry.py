"""Sentry, on real nodes: one event for each failed run, and one trace from the sender to the run."""

import json
import subprocess
import sys
from typing import Any

import pytest
from support import PATIENCE, RunningNode, environment, eventually, whole_lines

APP = """
import json, os, warnings
import sentry_sdk
from sentry_sdk.transport import Transport
from spoolnode import SPOOL_IGNORE, GiveUp, Retry, before_task, current_task, spool, spoolraw
from spoolnode.contrib.sentry import SpoolnodeIntegration

HERE = os.getcwd()

class Kept(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            kept = item.payload.json
            if kept:
                descriptor = os.open(HERE + "/kept", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                os.write(descriptor, (json.dumps({"is": item.type, **kept}, default=str) + "\\n").encode())
                os.close(descriptor)

sentry_sdk.init(
    dsn="http://key@127.0.0.1:1/1", transport=Kept, traces_sample_rate=1.0,
    integrations=[SpoolnodeIntegration()], default_integrations=False,
)

@before_task
def check(task):
    if task.function == "app:unprepared":
        raise LookupError("not prepared")

@spool
def fails():
    sentry_sdk.set_tag("of", "fails")
    raise ValueError("told to")

@spool
async def fails_too():
    raise ValueError("told to, in a loop")

async def inner():
    sentry_sdk.set_tag("of", "wrapped")
    raise ValueError("told to, by an awaitable")

@spool
def wrapped():
    return inner()

@spool
def works():
    pass

@spool
def retries():
    if current_task().attempt == 1:
        raise Retry(after=0.01)

@spool
def gives_up():
    raise GiveUp("no such customer")

@spoolraw
def ignores():
    return SPOOL_IGNORE

@spool
def unprepared():
    pass
"""


def kept(node: RunningNode, kind: str) -> list[dict[str, Any]]:
    """The events or transactions that the workers sent, in order."""
    lines = [json.loads(line) for line in whole_lines(node.directory / "kept")]
    return [line for line in lines if line["is"] == kind]


def send(node: RunningNode, code: str, **changes: str) -> str:
    """Runs this beside the application, as its web process would; its output."""
    done = subprocess.run(
        [sys.executable, "-c", f"import app, sentry_sdk\n{code}"], cwd=node.directory,
        env=environment(SPOOLNODE_VIA=node.via, **changes), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", "told to"),
        ("fails_too", "told to, in a loop"),
        ("wrapped", "told to, by an awaitable"),
        ("gives_up", "no such customer"),
        ("unprepared", "not prepared"),
    ],
)
def test_a_failed_run_is_one_event_with_the_facts_of_its_task(node: RunningNode, function: str, said: str) -> None:
    node.start("--max-attempts", "2", "--retry-base", "0.01", app=APP)
    identity = send(node, f"print(app.{function}.spool())")
    attempts = 1 if function == "gives_up" else 2
    node.wait_for_log("dead")
    events = kept(node, "event")
    assert [event["exception"]["values"][0]["value"] for event in events] == [said] * attempts
    for attempt, event in enumerate(events, 1):
        assert event["contexts"]["task"] == {
            "id": identity, "origin_id": identity, "function": f"app:{function}",
            "attempt": attempt, "max_attempts": 2, "node": "testnode",
        }  # fmt: skip
        assert event["tags"]["task.id"] == identity
        assert event["transaction"] == f"app:{function}"
        assert event["exception"]["values"][0]["mechanism"]["handled"] is False


def test_a_run_that_works_or_asks_for_another_is_no_event_and_nothing_of_it_reaches_the_next(node: RunningNode) -> None:
    node.start("--workers", "1", "--max-attempts", "3", "--retry-base", "0.01", app=APP)
    send(node, "app.works.spool(); app.retries.spool()")
    eventually(lambda: node.status()["done"] == 2)
    assert kept(node, "event") == []
    functions = ("fails", "ignores", "wrapped", "ignores")
    for number, function in enumerate(functions, 1):
        send(node, f"app.{function}.options(max_attempts=1).spool()")
        node.wait_for_log("dead", count=number)
    events = kept(node, "event")
    assert [event["tags"]["task.function"] for event in events] == [f"app:{function}" for function in functions]
    assert [event["tags"].get("of") for event in events] == ["fails", None, "wrapped", None]
    assert events[1]["message"] == "The run failed without an exception: ignored"


def test_one_trace_leads_from_the_sender_through_another_node_to_the_run(node: RunningNode, other: RunningNode) -> None:
    other.start(app=APP)
    node.start("--discover", f"static://{other.via}", app=APP)
    eventually(lambda: node.status()["peers"] == {"up": 1}, "the nodes see each other")
    code = """
with sentry_sdk.start_transaction(name="request") as request:
    print(request.trace_id)
    app.works.options(node="other").spool()
"""
    trace = send(node, code)
    (run,) = eventually(lambda: [found for found in kept(other, "transaction") if found["transaction"] == "app:works"])
    assert run["contexts"]["trace"]["trace_id"] == trace
    assert run["contexts"]["trace"]["op"] == "queue.task"
    (request,) = kept(node, "transaction")
    assert run["contexts"]["trace"]["parent_span_id"] == request["contexts"]["trace"]["span_id"]


def test_sentry_does_not_warn_of_the_stand_in_for_uwsgi(node: RunningNode) -> None:
    strict = "import uwsgi, warnings\nwarnings.simplefilter('error')\n" + APP.replace("transport=Kept, ", "")
    node.start(app=strict)
    done = subprocess.run(
        [sys.executable, "-c", "from spoolnode import compat\ncompat.install()\nimport app"], cwd=node.directory,
        env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
