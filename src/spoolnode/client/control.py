"""Asks a running node through its control socket: `/api/v1`, with the standard library alone."""

import http.client
import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from spoolnode.client.cancel_request import user
from spoolnode.errors import NotCancelled
from spoolnode.node.disk.layout import Layout
from spoolnode.protocol.cancel import CancelOutcome
from spoolnode.protocol.errors import SpoolnodeError

ASK_SECONDS = 60.0
"""Seconds that an answer may take: listing a large spool takes long."""
SILENCE_SECONDS = 60.0
"""Seconds after which a node that should send events counts as gone: every 15 it sends at least an empty line."""


API = "/api/v1"


class NotRunning(SpoolnodeError):
    """No node runs on this spool directory."""


class ControlError(SpoolnodeError):
    """The node declined with a reason, or could not be asked."""


class NotThere(ControlError):
    """The node does not know that task, or that path."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("node", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(spool: str, method: str, path: str, timeout: float = ASK_SECONDS) -> Any:
    """The node's answer, decoded. `path`: below `/api/v1`.

    Raises:
        NotRunning: no node answers on that spool directory.
        ControlError: it declined, belongs to another user, or did not answer in time.
    """
    with closing(_connection(spool, timeout)) as connection, _explained(spool, timeout):
        return json.loads(_answer(connection, method, path).read())


@contextmanager
def listening(spool: str, path: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Yields the events that the node sends from now on, which end when the node does. Raises as `ask`.

    `path`: of server-sent events, below `/api/v1`.
    """
    with closing(_connection(spool, SILENCE_SECONDS)) as connection:
        with _explained(spool, SILENCE_SECONDS):
            response = _answer(connection, "GET", path)
            response.readline()  # it comes when nothing is missed any more
        yield _events(response)


def _connection(spool: str, timeout: float) -> _Connection:
    return _Connection(Layout(os.path.abspath(spool)).control, timeout)


def _answer(connection: _Connection, method: str, path: str) -> http.client.HTTPResponse:
    connection.request(method, API + path)
    response = connection.getresponse()
    if response.status >= 400:
        kind = NotThere if response.status == 404 else ControlError
        raise kind(json.loads(response.read())["detail"])
    return response


@contextmanager
def _explained(spool: str, timeout: float) -> Iterator[None]:
    """Raises what goes wrong with a question as the errors that `ask` names."""
    try:
        yield
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


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    try:
        for line in iter(response.readline, b""):
            if line.startswith(b"data: ") and line.endswith(b"\n"):
                yield json.loads(line.removeprefix(b"data: "))
    except (OSError, http.client.HTTPException):
        return  # it was killed, or hangs


def ask_to_cancel(spool: str, identity: str, how: str, grace: float) -> str:
    """Cancels a task, on whatever node it is. Returns the sentence about one that had ended well before; else nothing.

    Args:
        how: the means by which the user cancels it, for the reason that is kept with the task.
        grace: seconds that it gets to end, if it runs.

    Raises:
        NotRunning: no node answers on that spool directory.
        ControlError: the task is unknown, or cannot be cancelled.
        NotCancelled: it is not known what becomes of it.
    """
    query = urlencode({"by": f"{user()} ({how})", "grace_seconds": f"{grace:g}"})
    answer = ask(spool, "POST", f"/tasks/{quote(identity)}/cancel?{query}", ASK_SECONDS + grace)
    if answer["outcome"] == CancelOutcome.UNSURE.value:
        raise NotCancelled(answer["reason"], is_unsure=True)
    return "" if answer["outcome"] == CancelOutcome.CANCELLED.value else str(answer["reason"])


def perhaps_sent(identity: str, to: str) -> NotCancelled:
    """The error about a cancelled task that may have been sent."""
    text = f"the task {identity} is not sent any more, but {to} may have taken it before: cancel it there, too"
    return NotCancelled(text, is_unsure=True)
