"""Asks a running node through its control socket: JSON over HTTP, with nothing but the standard library."""

import http.client
import json
import os
import socket
from typing import Any

from spoolnode.node.layout import Layout
from spoolnode.protocol.errors import SpoolnodeError

TIMEOUT = 60.0
"""Seconds that an answer may take: listing a large spool is long work."""


class NotRunning(SpoolnodeError):
    """No node runs on this spool directory."""


class ControlError(SpoolnodeError):
    """The node declined, and says why."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("node", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(spool: str, method: str, path: str) -> Any:
    """The node's answer, decoded.

    Raises:
        NotRunning: no node answers on that spool directory.
        ControlError: it declined.
    """
    connection = _Connection(Layout(os.path.abspath(spool)).control)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        content = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(f"no node runs on the spool {spool!r}: {error.strerror}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise ControlError(content["error"])
    return content
