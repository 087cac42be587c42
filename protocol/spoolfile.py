"""The spool file: one task on disk, in uWSGI's own format, readable by both.

    17 | u16le size of the variables | attempts | variables | body (to the end of the file)

uWSGI reads neither of the two modifiers, so they carry our progress: modifier1 is `WAITING` until the callable has
ended well, modifier2 counts the attempts. Each is one byte and is written in place.
"""

from typing import NamedTuple

from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import HEADER, SPOOL_REQUEST, Variables, check_variables, decode_variables

WAITING = SPOOL_REQUEST
FINISHED = 0xFD
"""The value of modifier1 once a task needs no more work."""
VOID = 0xFC
"""The value of modifier1 in the record of a request that was refused after all: it was never a task."""
STATE_AT = 0
"""Where modifier1 lies in the header."""
ATTEMPTS_AT = 3
"""Where modifier2 lies in the header."""
MAX_ATTEMPTS = 0xFF
"""The most that one byte can count."""


class Short(BadPacket):
    """The file ends before its variables do: it is still being written, or was cut."""


class SpoolFile(NamedTuple):
    """One task as it lies on disk."""

    state: int
    attempts: int
    variables: Variables
    body: bytes


def head(block: bytes, attempts: int = 0) -> bytes:
    """Header and variables of a waiting task; the body follows them."""
    return HEADER.pack(WAITING, len(block), attempts) + block


def parse(data: bytes) -> SpoolFile:
    """The task in the bytes of a spool file. Raises what `split` does."""
    state, attempts, block, body = split(data)
    return SpoolFile(state, attempts, decode_variables(block), body)


def split(data: bytes) -> tuple[int, int, bytes, bytes]:
    """State, attempts, block of variables (checked, not decoded) and body in the bytes of a spool file.

    Raises:
        Short: it ends too soon.
        BadPacket: its variables are malformed.
    """
    if len(data) < HEADER.size:
        raise Short(f"the file has {len(data)} bytes; a spool file has at least {HEADER.size}")
    state, size, attempts = HEADER.unpack_from(data)
    end = HEADER.size + size
    if len(data) < end:
        raise Short(f"the file has {len(data)} bytes; with the {size} bytes of variables announced it has at least {end}")
    block = data[HEADER.size : end]
    check_variables(block)
    return state, attempts, block, data[end:]
