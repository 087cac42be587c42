"""The error of a setting. It has a module of its own because each worker loads it, and the table of settings takes a while."""

from spoolnode.protocol.errors import SpoolnodeError


class BadConfig(SpoolnodeError, ValueError):
    """You erred: a setting is invalid. The node does not start."""
