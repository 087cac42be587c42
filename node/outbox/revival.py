"""Decides where a revived dead task goes, for the node and for commands that work without one. Pure."""

from spoolnode.protocol.forward import undelivered


def destination_again(block: bytes) -> str:
    """Where the task with this block goes when it is revived, as a sender would write it; empty is here.

    A task that has run here, and failed, runs here again. One that could not be delivered goes where its sender asked.
    """
    to, asked = undelivered(block) or ("", "")
    if not asked:
        return ""  # it was ours to run: this node had handed it on to lighten its load
    # A choice that the sender left to us is made again; each copy for `all` has a node of its own.
    return asked if asked == "any" or asked.startswith("tag:") else to
