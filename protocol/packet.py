"""The uwsgi packet: a 4-byte header and a block of variables.

    u8 modifier1 | u16 little-endian size of the block | u8 modifier2 | block
    block = repetition of: u16le key length, key, u16le value length, value

Source: the uWSGI project's page "The uwsgi Protocol"; tolerance of the block reader as measured on uWSGI 2.0.31.
"""

import struct
from collections.abc import Iterable

from spoolnode.protocol.errors import BadPacket, BadTask

WEB_REQUEST = 0
"""modifier1 of a request to a web application: a web server sends it unless told otherwise."""
SPOOL_REQUEST = 17
"""modifier1 of a request to spool, and of a waiting task on disk."""
PING = 100
"""modifier1 of a ping and of its answer."""
ANSWER = 255
"""modifier1 of a generic answer."""

PLAIN = 0
"""modifier2 of a request in uWSGI's own dialect: one request, four bytes back, close."""
EXTENDED = 1
"""modifier2 of a request in our dialect: the connection stays open, answers are packets, in order."""

HEADER = struct.Struct("<BHB")
MAX_BLOCK = 0xFFFF
"""The largest block of variables that the header can announce, in bytes."""

Variables = list[tuple[bytes, bytes]]


def packet(modifier1: int, block: bytes = b"", modifier2: int = 0) -> bytes:
    """A whole packet. `block` is at most `MAX_BLOCK` bytes (`encode_variables` sees to it)."""
    return HEADER.pack(modifier1, len(block), modifier2) + block


def encode_variables(variables: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The block for these variables, in their order.

    Raises:
        BadTask: a key is empty, or the block would be larger than `MAX_BLOCK`. Nothing is ever cut.
    """
    parts: list[bytes] = []
    for key, value in variables:
        if not key:
            raise BadTask("a variable has an empty name; a name needs at least one byte")
        if len(key) > MAX_BLOCK or len(value) > MAX_BLOCK:
            raise _too_large(key, len(value))
        parts += (len(key).to_bytes(2, "little"), key, len(value).to_bytes(2, "little"), value)
    block = b"".join(parts)
    if len(block) > MAX_BLOCK:
        largest, value = max(zip(parts[1::4], parts[3::4], strict=True), key=lambda item: len(item[1]))
        raise BadTask(
            f"the variables take {len(block)} bytes ({largest[:60].decode('utf-8', 'replace')!r} alone takes {len(value)}); "
            f"the uwsgi protocol carries at most {MAX_BLOCK}: put the large value into `body`"
        )
    return block


def _too_large(key: bytes, size: int) -> BadTask:
    name = key[:40].decode("utf-8", "replace")
    return BadTask(
        f"the variable {name!r} has a name of {len(key)} bytes and a value of {size} bytes; "
        f"the uwsgi protocol carries at most {MAX_BLOCK} in all: put the large value into `body`"
    )


def check_variables(block: bytes) -> None:
    """Raises what `decode_variables` raises, in a third of the time."""
    position, end = 0, len(block)
    try:
        while position < end:
            key = block[position] | block[position + 1] << 8
            if not key:
                break
            position += key + 2
            position += 2 + (block[position] | block[position + 1] << 8)
    except IndexError:
        position = end + 1
    if position != end:
        decode_variables(block)  # says what is wrong


def decode_variables(block: bytes) -> Variables:
    """The variables of a block, in their order, duplicates included.

    Raises:
        BadPacket: the block is not a whole number of variables, or a name is empty.
    """
    variables: Variables = []
    position, end = 0, len(block)
    try:
        while position < end:
            key_start = position + 2
            key_end = key_start + (block[position] | block[position + 1] << 8)
            value_start = key_end + 2
            position = value_start + (block[key_end] | block[key_end + 1] << 8)
            if key_end == key_start:
                raise BadPacket(f"the variable at byte {key_start - 2} has an empty name")
            variables.append((block[key_start:key_end], block[value_start:position]))
    except IndexError:
        position = end + 1
    if position != end:
        raise BadPacket(f"the variables run past the end of their block of {end} bytes")
    return variables
