"""Sentry: an event for each failed run, and one trace from the sender to the run.

    sentry_sdk.init(dsn=..., integrations=[SpoolnodeIntegration()])

This line belongs in the application's module, which senders and workers import.
"""

from contextlib import ExitStack, suppress
from contextvars import ContextVar, Token
from typing import Any

import sentry_sdk
from sentry_sdk.integrations import Integration
from sentry_sdk.scope import Scope, use_isolation_scope
from sentry_sdk.utils import capture_internal_exceptions, event_from_exception

from spoolnode.calls.current_task import CurrentTask
from spoolnode.calls.hooks import FAILURES, after_task, before_task, before_worker_ends
from spoolnode.trace import SOURCES, current_trace

FLUSH_SECONDS = 2.0
"""How long a worker that ends waits for its last events to be sent."""


class SpoolnodeIntegration(Integration):
    """Give it to `sentry_sdk.init`."""

    identifier = "spoolnode"

    @staticmethod
    def setup_once() -> None:
        """Registers the hooks. Sentry calls it once in a process."""
        before_task(_before)
        after_task(_after)
        before_worker_ends(_flush)
        SOURCES.append(_headers)


class _Run:
    """The scope and the transaction of one run."""

    def __init__(self, task: CurrentTask) -> None:
        self.task = task
        self._leaving = ExitStack()
        facts = {
            "id": task.id,
            "origin_id": task.origin_id,
            "function": task.function,
            "attempt": task.attempt,
            "max_attempts": task.max_attempts,
            "node": task.node,
        }
        left_over = _run.get()
        self._base: Scope = left_over._base if left_over else sentry_sdk.get_isolation_scope()
        scope = self._leaving.enter_context(use_isolation_scope(self._base.fork()))
        scope.clear_breadcrumbs()
        scope.set_context("task", facts)
        for name in ("id", "origin_id", "function", "node"):
            scope.set_tag(f"task.{name}", facts[name])
        transaction = sentry_sdk.continue_trace(
            _trace(), op="queue.task", name=task.function or "task", source="task", origin="auto.queue.spoolnode"
        )
        self._transaction = self._leaving.enter_context(
            sentry_sdk.start_transaction(transaction, custom_sampling_context={"task": facts})
        )
        self._token: Token[_Run | None] = _run.set(self)

    def end(self, outcome: str) -> None:
        """Ends the transaction, and leaves the scope."""
        self._transaction.set_status("internal_error" if outcome in FAILURES else "ok")
        self._leaving.close()
        with suppress(ValueError):  # a function that returned an awaitable ends in another context, and is left over in this one
            _run.reset(self._token)


_run: ContextVar[_Run | None] = ContextVar("spoolnode_sentry_run", default=None)


def _is_on() -> bool:
    """Whether Sentry reports, and with this integration: a later `init` may have left it out."""
    return sentry_sdk.get_client().get_integration(SpoolnodeIntegration) is not None


def _headers() -> dict[str, str]:
    if not _is_on():
        return {}
    headers = {"sentry-trace": sentry_sdk.get_traceparent(), "baggage": sentry_sdk.get_baggage()}
    return {name: value for name, value in headers.items() if value}


def _trace() -> dict[str, str]:
    """The headers of the task's trace, as Sentry reads them: if nginx or another tracer began it, they are W3C's."""
    headers = current_trace()
    parts = headers.get("traceparent", "").split("-")
    if "sentry-trace" not in headers and len(parts) == 4:
        _, trace, span, flags = parts
        headers["sentry-trace"] = f"{trace}-{span}-{'1' if flags == '01' else '0'}"
    return headers


def _before(task: CurrentTask) -> None:
    with capture_internal_exceptions():  # a mistake here must not become a failure of the task
        if _is_on():
            _Run(task)


def _after(task: CurrentTask, outcome: str, error: BaseException | None) -> None:
    if not _is_on():
        return
    run = _run.get()
    if run is None or run.task is not task:
        run = _Run(task)  # a hook before ours has failed
    if outcome in FAILURES:
        _report(outcome, error)
    run.end(outcome)


def _report(outcome: str, error: BaseException | None) -> None:
    if error is None:
        sentry_sdk.capture_message(f"The run failed without an exception: {outcome}", level="error")
        return
    options: dict[str, Any] = sentry_sdk.get_client().options
    event, hint = event_from_exception(
        error, client_options=options, mechanism={"type": SpoolnodeIntegration.identifier, "handled": False}
    )
    sentry_sdk.capture_event(event, hint=hint)


def _flush() -> None:
    sentry_sdk.flush(FLUSH_SECONDS)
