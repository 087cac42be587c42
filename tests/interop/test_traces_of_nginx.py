"""nginx alone, with a request that belongs to a trace: so does the run."""

import json

import pytest
from real_programs import LINES, NGINX, Lines, Nginx
from support import RunningNode, need

APP = (
    LINES
    + """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import sentry_sdk
from spoolnode import spool
from spoolnode.contrib.opentelemetry import SpoolnodeInstrumentor
from spoolnode.contrib.sentry import SpoolnodeIntegration

sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=lambda _: None, integrations=[SpoolnodeIntegration()])
SpoolnodeInstrumentor().instrument(TracerProvider())

@spool
def mail(to):
    span = trace.get_current_span()
    write_line(json.dumps({
        "to": to, "opentelemetry": f"{span.get_span_context().trace_id:032x}", "above": f"{span.parent.span_id:016x}",
        "sentry": sentry_sdk.get_current_span().trace_id, "sentry_above": sentry_sdk.get_current_span().parent_span_id,
    }))
"""
)
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("header", ["traceparent", "Traceparent"])
def test_the_trace_of_a_request_to_nginx_reaches_the_run(node: RunningNode, nginx: Nginx, header: str) -> None:
    need(NGINX)
    node.start(app=APP)
    location = "location /m { uwsgi_pass ADDRESS; uwsgi_modifier1 17; uwsgi_param spool_func app:mail; uwsgi_param to $arg_to; }"
    nginx.start(location.replace("ADDRESS", node.via))
    status, *_ = nginx.ask("GET", "/m?to=ada", **{header: f"00-{TRACE}-{SPAN}-01"})
    assert status == 202
    (line,) = Lines(node.directory).wait()
    assert json.loads(line) == {
        "to": "ada", "opentelemetry": TRACE, "above": SPAN, "sentry": TRACE, "sentry_above": SPAN
    }  # fmt: skip
