"""The log: one line an event, a stable word for the action, the task's id in every line about a task.

Text for people on a terminal, JSON for programs otherwise; always to standard error.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

WARNINGS = frozenset(
    {"retry", "dead", "timeout", "worker_died", "worker_broken", "quarantined", "refused", "accept_failed", "no_inotify"}
    | {"too_many_connections", "reload_failed", "scan_failed", "disk_low", "timer_failed", "connection_failed", "grace_over"}
    | {"not_scanned", "insecure"}
)
ERRORS = frozenset({"move_failed", "sync_failed", "housekeeping_failed", "mistake"})
DEBUG = frozenset({"timer", "again", "accepted", "done"})
RARELY_SECONDS = 1.0
"""Seconds between two lines of an action that a stranger can cause."""

Report = Callable[..., None]


def configure(level: str, form: str) -> Report:
    """Sets the log up; the function through which everything is reported: `report(action, **details)`."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0) if text else structlog.processors.JSONRenderer()
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=not text),
            structlog.processors.EventRenamer("action") if not text else _keep,
            renderer,
        ],
    )

    def report(action: str, **details: Any) -> None:
        if action in ERRORS:
            logger.error(action, **details)
        elif action in WARNINGS:
            logger.warning(action, **details)
        elif action in DEBUG:
            logger.debug(action, **details)
        else:
            logger.info(action, **details)

    return report


def rarely(report: Report) -> Report:
    """Like `report`, but at most one line an action and second; the next line says how many were left out."""
    last: dict[str, float] = {}
    left_out: dict[str, int] = {}

    def report_rarely(action: str, **details: Any) -> None:
        now = time.monotonic()
        if now - last.get(action, float("-inf")) < RARELY_SECONDS:
            left_out[action] = left_out.get(action, 0) + 1
            return
        last[action] = now
        if count := left_out.pop(action, 0):
            details["left_out"] = count
        report(action, **details)

    return report_rarely


def _keep(logger: Any, method: str, event: Any) -> Any:
    del logger, method
    return event
