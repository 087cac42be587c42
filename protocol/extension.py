"""Types that msgpack does not have <-> its extension types, so that a value arrives as it was sent.

| code | type | data |
|---|---|---|
| 1 | datetime | text, ISO 8601: `2026-03-29T03:30:00.5+02:00`; without an offset when it has none |
| 2 | date | text, ISO 8601 |
| 3 | timedelta | msgpack: `[days, seconds, microseconds]` |
| 4 | UUID | its 16 bytes, most significant first |
| 5 | Decimal | text, as Python writes it: `1.50`, `1E+3`, `NaN` |
| 6 | set | msgpack: a list of its members, in the order of their bytes |
| 7 | tuple | msgpack: a list of its members |

Of a time zone only the offset travels: the same moment, without the rules for other days. An object of a subclass arrives as
one of the class in the table, or of the class that msgpack has.
"""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import msgpack

MOST_NESTED = 64
"""How deep extension values may be nested: each level is a nested call."""

DATETIME, DATE, TIMEDELTA, UUID, DECIMAL, SET, TUPLE = range(1, 8)


def packb(value: object) -> bytes:
    """A value as msgpack, with these types.

    Raises:
        TypeError, ValueError, OverflowError, BufferError, RecursionError: it, or something in it, cannot travel.
    """
    # Strict: without it a tuple travels as a list.
    return bytes(msgpack.packb(value, default=_convert, strict_types=True))


def unpackb(data: bytes) -> Any:
    """The value.

    Raises:
        ValueError, TypeError, msgpack.UnpackException: this is not msgpack, or an extension type that is not in the table.
    """
    return _unpackb(data, 0)


def check(data: bytes) -> Any:
    """The value, with an `ExtType` in place of each value of these types once it is known to be readable. Raises as `unpackb`.

    A node looks at what strangers send in this way: of sets and keys of these types, many can be made up that have one hash
    (UUIDs, tuples of -1 and -2), and to put them into a set or dict would take seconds.
    """
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=partial(_checked, depth=0))


def _unpackb(data: bytes, depth: int) -> Any:
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=partial(_read, depth=depth))


def _checked(code: int, data: bytes, *, depth: int) -> msgpack.ExtType:
    if code in (SET, TUPLE):
        _check_depth(depth)
        _check_list(code, msgpack.unpackb(data, strict_map_key=False, ext_hook=partial(_checked, depth=depth + 1)))
    else:
        _read(code, data, depth=depth)
    return msgpack.ExtType(code, data)


def _convert(value: object) -> object:
    """A value that msgpack can carry, in place of one that it cannot."""
    for kind in type(value).__mro__:
        convert = _CONVERSIONS.get(f"{kind.__module__}.{kind.__qualname__}")
        if convert is not None:
            return convert(value)
    raise TypeError(f"cannot serialize an object of type {type(value).__name__}")


def _extension(code: int, data: Callable[[Any], bytes]) -> Callable[[Any], object]:
    return lambda value: msgpack.ExtType(code, data(value))


# By name: a program that uses no UUID need not import the module that defines it.
_CONVERSIONS: dict[str, Callable[[Any], object]] = {
    "datetime.datetime": _extension(DATETIME, lambda value: datetime.isoformat(value).encode()),
    "datetime.date": _extension(DATE, lambda value: date.isoformat(value).encode()),
    "datetime.timedelta": _extension(TIMEDELTA, lambda value: packb([value.days, value.seconds, value.microseconds])),
    "uuid.UUID": _extension(UUID, lambda value: value.bytes),
    "decimal.Decimal": _extension(DECIMAL, lambda value: str(value).encode()),
    "builtins.set": _extension(SET, lambda value: _list(sorted(map(packb, value)))),
    "builtins.tuple": _extension(TUPLE, lambda value: packb(list(value))),
    "builtins.str": str.__str__,
    "builtins.int": int.__index__,
    "builtins.float": float.__float__,
    "builtins.bytes": lambda value: bytes(memoryview(value)),
    "builtins.bytearray": bytes,
    "builtins.list": list,
    "builtins.dict": dict,
}


def _list(packed: list[bytes]) -> bytes:
    """A list of values that are already packed."""
    return b"".join([msgpack.Packer().pack_array_header(len(packed)), *packed])


def _read(code: int, data: bytes, *, depth: int) -> object:
    if code in (SET, TUPLE):
        _check_depth(depth)
        members = _check_list(code, _unpackb(data, depth + 1))
        return set(members) if code == SET else tuple(members)
    try:
        return _read_plain(code, data)
    except ArithmeticError as error:  # more days than a timedelta has; text that is not a decimal number
        raise ValueError(f"the extension type {code} cannot hold {data[:20]!r}: {type(error).__name__}") from None


def _check_depth(depth: int) -> None:
    if depth == MOST_NESTED:
        raise ValueError(f"sets and tuples are nested deeper than {MOST_NESTED}")


def _check_list(code: int, members: object) -> list[Any]:
    if not isinstance(members, list):
        raise ValueError(f"the extension type {code} holds a {type(members).__name__}; it must be a list")
    return members


def _read_plain(code: int, data: bytes) -> object:
    if code == TIMEDELTA:
        days, seconds, microseconds = _check_list(code, msgpack.unpackb(data))
        return timedelta(days, seconds, microseconds)
    if code == DATETIME:
        return datetime.fromisoformat(data.decode("ascii"))
    if code == DATE:
        return date.fromisoformat(data.decode("ascii"))
    if code == UUID:
        import uuid  # noqa: PLC0415  # most programs never get one

        return uuid.UUID(bytes=data)
    if code == DECIMAL:
        import decimal  # noqa: PLC0415  # as above

        return decimal.Decimal(data.decode("ascii"))
    raise ValueError(f"the extension type {code} is unknown; 1 to 7 are known")
