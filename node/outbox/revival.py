"""Pure: where a dead task goes again. The node and the commands that work without one decide it here."""

from spoolnode.protocol.forward import undelivered


def destination_again(block: bytes) -> str:
    """Where the task with this block is to go when it is revived, as a sender would say it; empty is here.

    A task that has run here, and failed, runs here again. One that could not be delivered goes where its sender asked.
    """
    to, asked = undelivered(block) or ("", "")
    if not asked:
        return ""  # it was ours to run: this node had handed it on to lighten its load
    # What a sender left to us is chosen again; each copy for `all` has a node of its own.
    return asked if asked == "any" or asked.startswith("tag:") else to
