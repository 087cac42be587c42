"""The tests' own encoder of uwsgi bytes, written from uWSGI's documentation: no test asks the code about itself."""

from collections.abc import Iterable, Iterator

HELLO_WORLD = bytes.fromhex("11 0e 00 00 05 00 68 65 6c 6c 6f 05 00 77 6f 72 6c 64")
"""The packet {hello: world} with modifier1 17, byte for byte as uWSGI's documentation has it."""
HELLO_BLOCK = HELLO_WORLD[4:]


def u16(number: int) -> bytes:
    return bytes([number % 256, number // 256])


def item(key: bytes, value: bytes) -> bytes:
    return u16(len(key)) + key + u16(len(value)) + value


def block(variables: dict[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(item(*pair) for pair in (variables.items() if isinstance(variables, dict) else variables))


def packet(modifier1: int, content: bytes = b"", modifier2: int = 0) -> bytes:
    return bytes([modifier1]) + u16(len(content)) + bytes([modifier2]) + content


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """`data` as a connection may bring it, `size` bytes at a time."""
    return (data[start : start + size] for start in range(0, len(data), size))


FEEDINGS = {"byte by byte": 1, "in threes": 3, "in sevens": 7, "whole": 1 << 30}
"""How the same bytes may arrive: name -> bytes at a time."""

MALFORMED_BLOCKS = {
    "a lone byte": b"\x05",
    "a key length and nothing else": b"\x05\x00",
    "a zero key length and nothing else": b"\x00\x00",
    "a key that is cut": b"\x05\x00hell",
    "a key without a value length": b"\x05\x00hello",
    "half a value length": b"\x05\x00hello\x05",
    "a value length without its value": b"\x05\x00hello\x05\x00",
    "a value that is cut": b"\x05\x00hello\x05\x00worl",
    "an empty key": b"\x00\x00\x05\x00world",
    "an empty key and an empty value": b"\x00\x00\x00\x00",
    "a key length of 65535": b"\xff\xff" + b"x" * 100,
    "a value length of 65535": b"\x01\x00k\xff\xff" + b"x" * 100,
    "one byte after a whole variable": HELLO_BLOCK + b"\x05",
    "two bytes after a whole variable": HELLO_BLOCK + b"\x05\x00",
    "zeros after a whole variable": HELLO_BLOCK + bytes(8),
    "an empty key after a whole variable": HELLO_BLOCK + b"\x00\x00\x01\x00x",
    "a cut variable after a whole one": HELLO_BLOCK + HELLO_BLOCK[:-1],
    "text": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "lengths in the wrong byte order": b"\x00\x05hello\x00\x05world",
}
"""Blocks of variables that uWSGI cannot read either: the fault -> the bytes."""
