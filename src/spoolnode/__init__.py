"""A job spooler for a group of machines, without a broker. This package is its face: `from spoolnode import ...`.

Each name is imported only when it is used: `import spoolnode` alone costs nothing.
"""

from importlib import import_module

from spoolnode.protocol.version import VERSION as __version__

TYPE_CHECKING = False  # type checkers take it for that of typing, which is expensive to import
if TYPE_CHECKING:
    from spoolnode import uwsgi
    from spoolnode.api import (
        SPOOL_IGNORE,
        SPOOL_OK,
        SPOOL_RETRY,
        asend_many,
        asend_to_spooler,
        aspool_in,
        send_many,
        send_to_spooler,
        spool_in,
    )
    from spoolnode.calls.current_task import CurrentTask, current_task
    from spoolnode.calls.hooks import after_task, before_task
    from spoolnode.calls.timers import cron, timer
    from spoolnode.client.cancel_request import acancel, cancel
    from spoolnode.client.fetching import aresult, result
    from spoolnode.decorators import spool, spoolforever, spoolraw
    from spoolnode.errors import (
        BadDecoration,
        GiveUp,
        NotAllStored,
        NotCancelled,
        ResultMissing,
        Retry,
        TimedOut,
        Unanswered,
        Unreachable,
    )
    from spoolnode.protocol.errors import BadPacket, BadTask, Reason, Refused, SpoolnodeError

__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "BadDecoration",
    "BadPacket",
    "BadTask",
    "CurrentTask",
    "GiveUp",
    "NotAllStored",
    "NotCancelled",
    "Reason",
    "Refused",
    "ResultMissing",
    "Retry",
    "SpoolnodeError",
    "TimedOut",
    "Unanswered",
    "Unreachable",
    "__version__",
    "acancel",
    "after_task",
    "aresult",
    "asend_many",
    "asend_to_spooler",
    "aspool_in",
    "before_task",
    "cancel",
    "cron",
    "current_task",
    "result",
    "send_many",
    "send_to_spooler",
    "spool",
    "spool_in",
    "spoolforever",
    "spoolraw",
    "timer",
    "uwsgi",
]

_HOMES = {
    "spoolnode.api": (
        *("SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY"),
        *("asend_many", "asend_to_spooler", "aspool_in", "send_many", "send_to_spooler", "spool_in"),
    ),
    "spoolnode.decorators": ("spool", "spoolforever", "spoolraw"),
    "spoolnode.calls.current_task": ("CurrentTask", "current_task"),
    "spoolnode.calls.hooks": ("after_task", "before_task"),
    "spoolnode.calls.timers": ("cron", "timer"),
    "spoolnode.client.cancel_request": ("acancel", "cancel"),
    "spoolnode.client.fetching": ("aresult", "result"),
    "spoolnode.errors": (
        "BadDecoration",
        "GiveUp",
        "NotAllStored",
        "NotCancelled",
        "ResultMissing",
        "Retry",
        "TimedOut",
        "Unanswered",
        "Unreachable",
    ),
    "spoolnode.protocol.errors": ("BadPacket", "BadTask", "Reason", "Refused", "SpoolnodeError"),
}
_HOME_OF = {name: home for home, members in _HOMES.items() for name in members}


def __getattr__(name: str) -> object:
    if name == "uwsgi":
        return import_module("spoolnode.uwsgi")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'spoolnode' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value  # the next time costs nothing
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
