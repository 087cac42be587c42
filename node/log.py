"""The log: one line an event, a stable word for the action, the task's id in every line about a task.

Text for people on a terminal, JSON for programs otherwise; always to standard error.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

WARNINGS = frozenset(
    {"retry", "dead", "timeout", "worker_died", "worker_broken", "quarantined", "refused", "accept_failed", "no_inotify"}
    | {"too_many_connections", "reload_failed", "scan_failed", "disk_low", "timer_failed", "connection_failed", "grace_over"}
    | {"not_scanned", "insecure", "handshake_failed", "tls_reload_failed", "certificate_expires", "link_failed", "link_paused"}
    | {"peer_down", "peer_rejected", "id_twice", "name_twice", "clock_off", "other_protocol", "other_cluster", "too_many_peers"}
    | {"discovery_failed", "discovery_full"}
)
ERRORS = frozenset({"move_failed", "sync_failed", "housekeeping_failed", "mistake"})
DEBUG = frozenset({"timer", "again", "accepted", "done", "forwarded", "peer_suspect", "link_open"})
RARELY_SECONDS = 1.0
"""Seconds between two lines of an action that a stranger can cause."""

Report = Callable[..., None]


def configure(level: str, form: str) -> Report:
    """Sets the log up; the function through which everything is reported: `report(action, **details)`."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = _for_people(colors=_in_colors()) if text else structlog.processors.JSONRenderer()
    logger = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S" if text else "iso", utc=not text),
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


def _in_colors() -> bool:
    """On a terminal that knows them, unless the user wants none (no-color.org)."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def rarely(report: Report) -> Report:
    """Like `report`, but at most one line a second for each action and cause; the next one says how many were left out."""
    last: dict[tuple[str, str], float] = {}
    left_out: dict[tuple[str, str], int] = {}

    def report_rarely(action: str, **details: Any) -> None:
        now, key = time.monotonic(), (action, details.get("why", ""))
        if now - last.get(key, float("-inf")) < RARELY_SECONDS:
            left_out[key] = left_out.get(key, 0) + 1
            return
        last[key] = now
        if count := left_out.pop(key, 0):
            details["left_out"] = count
        report(action, **details)

    return report_rarely


def _for_people(*, colors: bool) -> Any:
    """One line an event; the further lines of a text (a traceback) follow it, indented."""
    console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)

    def render(logger: Any, method: str, event: Any) -> str:
        further: list[str] = []
        if isinstance(event.get("reason"), str):
            event["reason"], *further = event["reason"].rstrip().split("\n")
        if isinstance(event.get("due"), float):
            event["due"] = f"in {max(event['due'] - time.time(), 0.0):.1f} s"
        return "".join([str(console(logger, method, event)), *(f"\n    {line}" for line in further)])

    return render


def _keep(logger: Any, method: str, event: Any) -> Any:
    del logger, method
    return event
