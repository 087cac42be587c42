"""The variables of a task as a store keeps them: without those that mean something only on the way here."""

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.packet import MAX_BLOCK, decode_variables, encode_variables

ROOM = 40
"""Bytes of a block that are left for the way back to a disk, which counts a hop."""
_GONE = names.OF_LINKS | {names.BODY_LENGTH, names.ATTEMPTS, names.ASKED, b"spooler"}
"""Those of the link that it came over, and of the directory that it was meant for; what it said to its node about a store."""


def kept_variables(block: bytes) -> bytes:
    """The variables in a request, or in a spool file, as a store keeps them.

    Raises:
        BadTask: they leave too little room for what is added on the way back to a disk.
    """
    kept = encode_variables(item for item in decode_variables(block) if item[0] not in _GONE)
    if len(kept) > MAX_BLOCK - ROOM:
        room = MAX_BLOCK - ROOM
        raise BadTask(f"the task has {len(kept)} bytes of variables; a store takes {room} at most: put a large value into `body`")
    return kept
