"""The errors of an operator who asks for the impossible. Each has the sentence that says so."""

from spoolnode.protocol.errors import SpoolnodeError


class NoSuchTask(SpoolnodeError):
    """You erred: no task with that id is here (any more)."""


class NotAllowedNow(SpoolnodeError):
    """You erred: the task is in a place where this is impossible now."""


def unknown(identity: str) -> str:
    """Says that a task is not here."""
    return f"there is no task {identity} here: it has ended, was removed, or never existed"
