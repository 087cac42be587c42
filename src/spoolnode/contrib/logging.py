"""Takes the application's `logging` into the log of the node: each record whole, with its level and its task.

    LOGGING = {
        "version": 1,
        "handlers": {"node": {"class": "spoolnode.contrib.logging.NodeHandler"}},
        "root": {"handlers": ["node"], "level": "INFO"},
    }

Outside of workers it writes to standard error, as `logging.StreamHandler` does.
"""

import logging
from typing import TextIO

from spoolnode.node.work import current
from spoolnode.node.work.messages import MAX_TEXT

_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))
"""The levels that a node has, above "debug"; CRITICAL is an error there."""


class NodeHandler(logging.StreamHandler[TextIO]):
    """Sends records to the node."""

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one record. As in all handlers, a failure is told on standard error and breaks nothing."""
        if (say := current.records.say) is None:
            super().emit(record)
            return
        try:
            level = next((name for least, name in _LEVELS if record.levelno >= least), "debug")
            say(level, record.name, self.format(record)[:MAX_TEXT])
        except Exception:  # noqa: BLE001  # whatever it is, as in all handlers
            self.handleError(record)
