"""The log: one line an event, a stable word for the action, the task's id in every line about a task.

Text for people on a terminal and in systemd's journal, JSON for programs otherwise; always to standard error. Reporting never
breaks what it reports: it does not wait for the reader of the log (see `logwriter`), and never raises.

The journal takes a level from a number before each line (sd-daemon(3)), and has times of its own.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog

from spoolnode.node.logwriter import LineWriter
from spoolnode.protocol.names import is_node_id
from spoolnode.protocol.printable import printable_lines

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

WARNINGS = frozenset(
    {
        "retry",
        "dead",
        "timeout",
        "worker_died",
        "worker_broken",
        "worker_confused",
        "left_behind",
        "strays_unknown",
        "quarantined",
        "refused",
        "accept_failed",
        "no_inotify",
    }
    | {
        "too_many_connections",
        "few_descriptors",
        "reload_failed",
        "app_warning",
        "reload_superseded",
        "worker_not_started",
        "scan_failed",
        "disk_low",
        "timer_failed",
        "connection_failed",
        "grace_over",
    }
    | {"not_scanned", "insecure", "handshake_failed", "tls_reload_failed", "certificate_expires", "link_failed", "link_paused"}
    | {"peer_down", "peer_rejected", "id_twice", "id_claimed", "name_twice", "clock_off", "other_protocol", "other_cluster"}
    | {"too_many_peers", "timers_damaged"}
    | {
        "outside_allow",
        "known_damaged",
        "timers_damaged",
        "unknown_destination",
        "unknown_variable",
        "link_closed",
        "crl_expires",
    }
    | {"discovery_failed", "discovery_full", "log_dropped", "clock_set_back", "unreadable", "made_anew"}
    | {"store_away", "not_answered", "lease_lost", "leases_lapsed", "leases_left"}
    | {"history_stopped", "history_began_again", "http_not_served"}
)
ERRORS = frozenset({"spool_lost", "move_failed", "sync_failed", "housekeeping_failed", "store_unfit", "mistake"})
DEBUG = frozenset({"timer", "timer_due", "again", "accepted", "done", "forwarded", "peer_suspect", "link_open"})
PRIORITIES = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}
"""The journal's names of the levels."""
RARELY_SECONDS = 1.0
"""Seconds between two lines about an action that a stranger can cause."""

FLUSH_SECONDS = 2.0
"""How long a stopping node waits for a reader of the log that does not read."""

Report = Callable[..., None]
"""The function that reports: `report(action, **details)`."""


class Log:
    """Everything that a node reports goes through a log: `log(action, **details)`."""

    def __init__(self, level: str, form: str) -> None:
        """A log on standard error; `form` is text, json or auto."""
        stderr = sys.stderr  # None if we were started without one
        self._is_journal = stderr is not None and _is_journal(stderr.fileno())
        for_people = self._is_journal or (stderr is not None and stderr.isatty())
        text = form == "text" or (form == "auto" and for_people)
        self._least = LEVELS[level]
        self._encoding = (stderr and stderr.encoding) or "utf-8"
        self._processors: list[Any] = [
            structlog.processors.add_log_level,
            _keep if text and self._is_journal else _time(text=text),
            structlog.processors.EventRenamer("action") if not text else _keep,
            _for_people(colors=_in_colors()) if text else structlog.processors.JSONRenderer(),
        ]
        self._writer = LineWriter(
            stderr.fileno() if stderr is not None else 2, lambda lines: self._line("warning", "log_dropped", {"lines": lines})
        )

    def __call__(self, action: str, **details: Any) -> None:
        """Writes a line. Never waits and never raises, because many callers are in the middle of a change.

        `details`: one called `level` takes the place of the action's own.
        """
        level = details.pop("level", "") or _level_of(action)
        if LEVELS[level] < self._least:
            return
        try:
            line = self._line(level, action, details)
        except Exception as error:  # noqa: BLE001  # a detail that cannot be shown; the line says so instead
            line = self._line(level, action, {"unprintable": type(error).__name__})
        self._writer.put(line)

    @property
    def dropped(self) -> int:
        """Lines that could not be written, since the start."""
        return self._writer.dropped

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Returns when all that can be written is written, or after `seconds`."""
        self._writer.flush(seconds)

    def _line(self, level: str, action: str, details: dict[str, Any]) -> bytes:
        event: Any = {"event": action, **details}
        for process in self._processors:
            event = process(None, level, event)
        line = f"{event}\n".encode(self._encoding, "backslashreplace")
        if not self._is_journal:
            return line
        priority = PRIORITIES[level]
        return priority + line[:-1].replace(b"\n", b"\n" + priority) + b"\n"


def _level_of(action: str) -> str:
    return "error" if action in ERRORS else "warning" if action in WARNINGS else "debug" if action in DEBUG else "info"


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected it to its journal: then JOURNAL_STREAM names its device and inode."""
    found = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _time(*, text: bool) -> Any:
    return structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S" if text else "iso", utc=not text)


def _in_colors() -> bool:
    """Whether to use colours: on a terminal that has them, unless the user wants none (no-color.org)."""
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
        for name, value in event.items():
            if isinstance(value, str):
                event[name] = printable_lines(value)  # names, reasons and the output of tasks come from anywhere
        if event.get("name") and is_node_id(str(event.get("destination"))):
            event["destination"] = f"{event.pop('name')} ({event['destination']})"
        further: list[str] = []
        for name in ("reason", "text"):
            if isinstance(event.get(name), str):
                event[name], *more = event[name].rstrip().split("\n")
                further += more
        if isinstance(event.get("due"), float):
            event["due"] = f"in {max(event['due'] - time.time(), 0.0):.1f} s"
        return "".join([str(console(logger, method, event)), *(f"\n    {line}" for line in further)])

    return render


def _keep(logger: Any, method: str, event: Any) -> Any:
    del logger, method
    return event
