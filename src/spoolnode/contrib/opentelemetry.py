"""OpenTelemetry: a span for each run, in the trace of the sender.

    SpoolnodeInstrumentor().instrument()

This line belongs in the application's module, which senders and workers import.
"""

from contextvars import ContextVar, Token
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider

from spoolnode.calls.current_task import CurrentTask
from spoolnode.calls.hooks import FAILURES, HOOKS, after_task, before_task, before_worker_ends
from spoolnode.protocol.version import VERSION
from spoolnode.trace import SOURCES, current_trace

FLUSH_MILLISECONDS = 2000
"""How long a worker that ends waits for its last spans to be exported."""


class SpoolnodeInstrumentor:
    """Makes the spans, in the manner of OpenTelemetry's own instrumentations."""

    provider: TracerProvider | None = None

    def instrument(self, tracer_provider: TracerProvider | None = None) -> None:
        """Begins. A second call only replaces the provider.

        Args:
            tracer_provider: where the spans go; None: to the global provider.
        """
        SpoolnodeInstrumentor.provider = tracer_provider
        if _before not in HOOKS.before:
            before_task(_before)
            after_task(_after)
            before_worker_ends(_flush)
            SOURCES.append(_headers)


class _Run:
    """The span of one run, current from before the task until after it."""

    def __init__(self, task: CurrentTask) -> None:
        self.task = task
        self.span = _span(task)
        self._span_token = context.attach(trace.set_span_in_context(self.span))
        self._token: Token[_Run | None] = _run.set(self)

    def end(self) -> None:
        """Ends the span."""
        self.span.end()
        try:
            _run.reset(self._token)
        except ValueError:
            return  # a function that returned an awaitable has its end in another context, which ends with it
        context.detach(self._span_token)


_run: ContextVar[_Run | None] = ContextVar("spoolnode_opentelemetry_run", default=None)


def _span(task: CurrentTask) -> Span:
    tracer = trace.get_tracer("spoolnode", VERSION, SpoolnodeInstrumentor.provider)
    return tracer.start_span(
        f"process {task.function or 'task'}",
        context=propagate.extract(current_trace(), Context()),
        kind=SpanKind.CONSUMER,
        attributes={
            "messaging.system": "spoolnode",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": task.function,
            "messaging.message.id": task.id,
            "spoolnode.origin_id": task.origin_id,
            "spoolnode.attempt": task.attempt,
            "spoolnode.node": task.node,
        },
    )


def _headers() -> dict[str, str]:
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


def _before(task: CurrentTask) -> None:
    _Run(task)


def _after(task: CurrentTask, outcome: str, error: BaseException | None) -> None:
    run = _run.get()
    if run is None or run.task is not task:
        run = _Run(task)  # a hook before ours has failed
    if outcome in FAILURES:
        run.span.set_status(StatusCode.ERROR, f"{type(error).__name__}: {error}" if error else outcome)
        if error is not None:
            run.span.record_exception(error)
    run.end()


def _flush() -> None:
    provider: Any = SpoolnodeInstrumentor.provider or trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):  # that of the SDK
        provider.force_flush(FLUSH_MILLISECONDS)
