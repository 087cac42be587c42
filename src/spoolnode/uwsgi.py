"""The API of the page "The uWSGI Spooler" in uWSGI's manual, for Python 3 and without uWSGI.

    from spoolnode import uwsgi

    def myspooler(env): ...

    uwsgi.spooler = myspooler
    uwsgi.send_to_spooler({'Name': 'Serena', 'System': 'Linux', 'Tizio': 'Caio'})

Keys and values are str here, other values arrive as they were sent, `body` is bytes. With `import uwsgi` instead, an
application in a worker gets the module of `spoolnode.compat`, where keys and values are bytes as in uWSGI.
"""

from collections.abc import Callable
from typing import Any

from spoolnode import api
from spoolnode.api import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.values import TaskArguments

__all__ = ["SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY", "send_to_spooler", "spool", "spooler"]

spooler: Callable[[dict[str, Any]], object] | None = None
"""Set it to the callable that runs this application's tasks."""


def send_to_spooler(task: TaskArguments | None = None, /, **variables: Any) -> str:
    """Stores a task, a dict or keywords, and returns its id. Raises what `spoolnode.send_to_spooler` raises."""
    if task is not None and variables:
        raise BadTask("a task is a dict or keywords, not both; nothing was sent")
    return api.send_to_spooler(variables if task is None else task)


spool = send_to_spooler
