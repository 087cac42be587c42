"""Asks a running node through its control socket: JSON over HTTP, with the standard library alone."""

import http.client
import json
import os
import socket
from typing import Any

from spoolnode.node.disk.layout import Layout
from spoolnode.protocol.errors import SpoolnodeError

ASK_SECONDS = 60.0
"""Seconds that an answer may take: listing a large spool takes long."""


class NotRunning(SpoolnodeError):
    """No node runs on this spool directory."""


class ControlError(SpoolnodeError):
    """The node declined with a reason, or could not be asked."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("node", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(spool: str, method: str, path: str, timeout: float = ASK_SECONDS) -> Any:
    """The node's answer, decoded.

    Raises:
        NotRunning: no node answers on that spool directory.
        ControlError: it declined, belongs to another user, or did not answer in time.
    """
    connection = _Connection(Layout(os.path.abspath(spool)).control, timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        content = json.loads(response.read())
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(f"no node runs on the spool {spool!r}") from error
    except PermissionError as error:
        raise ControlError(f"the node on the spool {spool!r} belongs to another user") from error
    except TimeoutError as error:
        raise ControlError(f"the node on the spool {spool!r} did not answer in {timeout:g} s") from error
    except OSError as error:
        raise ControlError(f"the node on the spool {spool!r} cannot be asked: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError) as error:
        raise ControlError(f"the node on the spool {spool!r} cannot be asked: {error}") from error
    finally:
        connection.close()
    if response.status >= 400:
        raise ControlError(content["error"])
    return content
