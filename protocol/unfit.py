"""Finds the value of a task that cannot travel, and says what to send instead. Only for the text of errors."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

from spoolnode.protocol import extension

TYPES = "str, bytes, int, float, bool, None, list, dict, tuple, set, datetime, date, timedelta, Decimal or UUID"
"""The types that can travel."""
_DEEPEST = 200
"""Levels of a value that are searched. A deeper one is reported as nested too deep (msgpack itself carries about 500)."""
_TOO_DEEP = "nested too deep, or contains itself"

_INSTEAD = {
    "Fraction": "str(value), or float(value)",
    "complex": "[value.real, value.imag]",
    "time": "value.isoformat()",
    "frozenset": "set(value)",
    "range": "list(value)",
    "deque": "list(value)",
    "generator": "list(value)",
    "PosixPath": "str(value)",
}
"""A value to send in place of one of these types."""


def fault(values: Mapping[str, Any]) -> str:
    """A sentence about the first of these values that cannot travel as msgpack; empty if each of them alone can."""
    for name, value in values.items():
        found = fault_in(value, name)
        if found:
            return found
    return ""


def fault_in(value: Any, path: str, depth: int = 0) -> str:
    """The same about one value; `path` says where it is, as Python would write it."""
    if _travels(value):
        return ""
    if depth == _DEEPEST:
        return _too_deep(path)
    for key in value if isinstance(value, dict) else ():
        if not _travels(key):
            return f"`{path}` has a key, {_short(key)}, that is {_why_not(key)}"
    for inner_path, inner in _inner(value, path):
        found = fault_in(inner, inner_path, depth + 1)
        if found:
            return found
    return _too_deep(path) if (why := _why_not(value)) == _TOO_DEEP else f"`{path}` is {why}"


def _too_deep(path: str) -> str:
    return f"`{path.partition('[')[0]}` is {_TOO_DEEP}"


def largest(values: Mapping[str, Any]) -> tuple[str, int]:
    """The name and the size in bytes, as msgpack, of the largest of values that can travel."""
    sizes = ((name, len(extension.packb(value))) for name, value in values.items())
    return max(sizes, key=lambda item: item[1])


def _travels(value: Any) -> bool:
    try:
        extension.unpackb(extension.packb([value]))
    except (TypeError, ValueError, OverflowError, BufferError, RecursionError, msgpack.UnpackException):
        return False
    return True


def _inner(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The items of a value, each with its path."""
    if isinstance(value, dict):
        yield from ((f"{path}[{_short(key)}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{number}]", item) for number, item in enumerate(value))
    elif isinstance(value, set):
        yield from ((f"{path} (its member {_short(item)})", item) for item in value)


def _why_not(value: Any) -> str:
    name = type(value).__name__
    if isinstance(value, int):
        return f"a number of {value.bit_length()} bits, outside -2**63 to 2**64-1: send str(value)"
    if isinstance(value, str):
        return "a text that is not UTF-8: send it as bytes, os.fsencode(value)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"a {name} that cannot be read in one piece: send bytes(value)"
    if isinstance(value, list | tuple | dict | set):  # and each item of it travels
        return _TOO_DEEP
    return f"of type {name}, which cannot travel: send {_INSTEAD.get(name, TYPES)}"


def _short(value: Any) -> str:
    shown = repr(value) if isinstance(value, str | bytes | int | float | tuple | None) else type(value).__name__
    return shown if len(shown) <= 40 else shown[:37] + "..."
