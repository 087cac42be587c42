"""OpenTelemetry, on real nodes: a span for each run, in the trace of the sender, whoever that is."""

import json
import subprocess
import sys
from typing import Any

import pytest
from support import PATIENCE, RunningNode, environment, eventually, whole_lines

APP = """
import json, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from spoolnode import send_to_spooler, spool, uwsgi
from spoolnode.contrib.opentelemetry import SpoolnodeInstrumentor

HERE = os.getcwd()

class Kept(InMemorySpanExporter):
    def export(self, spans):
        for span in spans:
            descriptor = os.open(HERE + "/kept", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(descriptor, (span.to_json(None) + "\\n").encode())
            os.close(descriptor)
        return super().export(spans)

provider = TracerProvider()
provider.add_span_processor(PROCESSOR)
SpoolnodeInstrumentor().instrument(provider)
SpoolnodeInstrumentor().instrument(provider)
tracer = provider.get_tracer("app")

@spool
def works():
    with tracer.start_as_current_span("inside"):
        pass

@spool
async def works_too():
    works()

async def inner():
    works()

@spool
def wrapped():
    return inner()

@spool
def large(text):
    works()

@spool
def fails():
    raise ValueError("told to")

@spool
def passes_on():
    works.spool()

def spooler(task):
    works()

uwsgi.spooler = spooler
"""
AT_ONCE = APP.replace("PROCESSOR", "SimpleSpanProcessor(Kept())")
IN_AN_HOUR = APP.replace("PROCESSOR", "BatchSpanProcessor(Kept(), schedule_delay_millis=3_600_000)")


def spans(node: RunningNode, name: str) -> list[dict[str, Any]]:
    """The spans of that name that this node's workers, or a sender beside them, have exported."""
    return [span for span in map(json.loads, whole_lines(node.directory / "kept")) if span["name"] == name]


def send(node: RunningNode, code: str) -> None:
    """Runs this beside the application within a span, as a request to its web process would be."""
    done = subprocess.run(
        [sys.executable, "-c", f"import app\nwith app.tracer.start_as_current_span('request'):\n    {code}"], cwd=node.directory,
        env=environment(SPOOLNODE_VIA=node.via), capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def is_child(span: dict[str, Any], parent: dict[str, Any]) -> bool:
    """Whether it belongs to the same trace, right below that span."""
    return bool(
        span["context"]["trace_id"] == parent["context"]["trace_id"] and span["parent_id"] == parent["context"]["span_id"]
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("app.works.spool()", "process app:works"),
        ("app.works_too.spool()", "process app:works_too"),
        ("app.wrapped.spool()", "process app:wrapped"),
        ("app.large.spool('x' * 100_000)", "process app:large"),
        ("app.works.spool_many([()])", "process app:works"),
        ("app.send_to_spooler({'a': 'b'})", "process task"),
    ],
)
def test_a_run_is_a_span_below_that_of_the_sender_and_what_it_does_is_below_it(node: RunningNode, code: str, name: str) -> None:
    node.start(app=AT_ONCE)
    send(node, code)
    (run,) = eventually(lambda: spans(node, name), "the span of the run")
    (request,), (inside,) = spans(node, "request"), spans(node, "inside")
    assert is_child(run, request)
    assert is_child(inside, run)
    assert run["kind"] == "SpanKind.CONSUMER"
    assert run["attributes"]["spoolnode.attempt"] == 1
    assert run["attributes"]["spoolnode.node"] == "testnode"
    assert run["status"]["status_code"] == "UNSET"


def test_each_attempt_that_fails_is_a_span_with_its_error(node: RunningNode) -> None:
    node.start("--max-attempts", "2", "--retry-base", "0.01", app=AT_ONCE)
    send(node, "app.fails.spool()")
    node.wait_for_log("dead")
    runs = spans(node, "process app:fails")
    assert [run["attributes"]["spoolnode.attempt"] for run in runs] == [1, 2]
    assert len({run["attributes"]["messaging.message.id"] for run in runs}) == 1
    for run in runs:
        assert run["status"] == {"status_code": "ERROR", "description": "ValueError: told to"}
        (event,) = run["events"]
        assert event["attributes"]["exception.message"] == "told to"


@pytest.mark.on_disk("a task without a destination may run on either node")
def test_a_trace_leads_through_another_node_and_on_to_what_the_task_spools(node: RunningNode, other: RunningNode) -> None:
    other.start(app=AT_ONCE)
    node.start("--discover", f"static://{other.via}", app=AT_ONCE)
    eventually(lambda: node.status()["peers"] == {"up": 1}, "the nodes see each other")
    send(node, "app.passes_on.options(node='other').spool()")
    (last,) = eventually(lambda: spans(other, "process app:works"), "the last run")
    (first,) = eventually(lambda: spans(other, "process app:passes_on"), "the end of the run that spooled it")
    (request,) = spans(node, "request")
    assert is_child(first, request)
    assert is_child(last, first)


def test_a_task_without_a_trace_begins_one_of_its_own(node: RunningNode) -> None:
    node.start("--workers", "1", app=AT_ONCE)
    for function in ("app:wrapped", "app:works", "app:works"):
        assert node.command("call", function).returncode == 0
    eventually(lambda: len(spans(node, "process app:works")) == 2)
    runs = [*spans(node, "process app:wrapped"), *spans(node, "process app:works")]
    assert [run["parent_id"] for run in runs] == [None] * 3
    assert len({run["context"]["trace_id"] for run in runs}) == 3


def test_a_worker_that_ends_exports_what_it_still_has(node: RunningNode) -> None:
    node.start(app=IN_AN_HOUR)
    assert node.command("call", "app:works").returncode == 0
    eventually(lambda: node.status()["done"] == 1)
    assert spans(node, "process app:works") == []
    node.stop()
    assert len(spans(node, "process app:works")) == 1
