"""Errors that a caller of spoolnode may have to handle, besides `BadTask` and `Refused` of the protocol.

Each message names the node's address, what happened, and whether the task may have been stored.
"""

from spoolnode.protocol.errors import SpoolnodeError


class Unreachable(SpoolnodeError, ConnectionError):
    """The node did not get the whole task. Nothing was stored: it is safe to send it again, or elsewhere."""


class Unanswered(SpoolnodeError, ConnectionError):
    """The node got the task, but no answer came. It may or may not have been stored: if you send it again, it may run twice."""


class TimedOut(Unanswered, TimeoutError):
    """`Unanswered`, because the answer did not come in time."""


class BadDecoration(SpoolnodeError, ValueError):
    """You erred: a decorator cannot work with what it got. Raised while the application is imported."""


class Unavailable(SpoolnodeError, ValueError):
    """You erred: a function of uWSGI's modules was called that cannot work in a worker of spoolnode."""
