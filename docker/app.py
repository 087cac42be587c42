"""The application of the three nodes in docker-compose.yml: it works on each task for a moment, and prints it."""

import socket
import time
from typing import Any

from spoolnode import SPOOL_OK, spool, uwsgi

NODE = socket.gethostname()


@spool
def resize(file: str, width: int) -> None:
    """A function whose calls can be stored: `resize.spool("a.png", width=640)`."""
    time.sleep(0.2)
    print(f"{NODE} resized {file} to {width} pixels")  # noqa: T201  # its purpose


def everything_else(task: dict[str, Any]) -> int:
    """Gets the tasks that name no function: here all that come through nginx and `spoolnode send`."""
    time.sleep(float(task.get("seconds", 0.2)))
    text = task["body"].decode(errors="replace") if "body" in task else task.get("text", "nothing")
    print(f"{NODE} ran {text!r}")  # noqa: T201  # its purpose
    return SPOOL_OK


uwsgi.spooler = everything_else
