"""A task as Python sees it <-> variables and body.

Plain strings travel as plain variables, so anything can read them. Values of other types travel together as msgpack in one
variable, `spool_values`; `extension` has the types that msgpack itself does not have. `body` carries large data of any size.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgpack

from spoolnode.protocol import extension, names
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.packet import MAX_BLOCK, Variables, decode_variables, encode_variables
from spoolnode.protocol.pickles import ARGUMENTS
from spoolnode.protocol.unfit import TYPES, fault, largest

TaskArguments = Mapping[str, Any]
"""A task as callers pass it and callables receive it."""

_ANNOUNCE_A_BODY = frozenset({"CONTENT_LENGTH", "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"})
"""From these a node concludes that a body follows. A task that came through a web server and is sent on has them."""


MAX_DEPTH = 64
"""Levels of nested lists and maps: code that shows a task or writes it as JSON must not run out of stack."""
_KEY = names.KEY.decode()
_PICKLED = frozenset(name.decode() for name in ARGUMENTS)
_TYPES = (str, bytes, int, float, type(None), date, timedelta)  # bool is an int, datetime a date
_TYPES_BY_NAME = ("decimal.Decimal", "uuid.UUID")  # not imported for this: a task may have none


class Encoded(NamedTuple):
    """A task ready to send."""

    block: bytes
    body: bytes


def encode_task(task: TaskArguments, extra: Iterable[tuple[bytes, bytes]] = ()) -> Encoded:
    """The variables and body that carry `task`; `extra` are spoolnode's own variables.

    `at` may be a number or a datetime, `priority` an int or str, `body` bytes or str, and `spool_key` is str.

    Raises:
        BadTask: the task cannot travel: it is empty, not a mapping, too large, or holds a value that msgpack cannot carry.
    """
    if not isinstance(task, Mapping):
        raise BadTask(f"a task is a dict of names and values; this is a {type(task).__name__}")
    variables: Variables = []
    typed: dict[str, Any] = {}
    body = b""
    for name, value in task.items():
        if not isinstance(name, str):
            raise BadTask(f"a task has the key {name!r} of type {type(name).__name__}; keys are str")
        names.check_variable_name(name)
        if name == "body":
            body = _body(value)
        elif name == _KEY or name in ("at", "priority"):
            variables.append((name.encode(), _reserved(name, value)))
        elif isinstance(value, str):
            variables.append((_text(name), _text(value, name)))
        elif _is_legacy_argument(name, value, task):
            variables.append((name.encode(), value))
        elif names.is_for_spooler(name):
            raise BadTask(f"`{name}` is a {type(value).__name__}; the spooler uses this name, so it must be a str")
        else:
            typed[name] = value
    if typed:
        variables.append((names.VALUES, pack(typed)))
    if body or not _ANNOUNCE_A_BODY.isdisjoint(task):
        variables.append((names.BODY_LENGTH, str(len(body)).encode()))
    block = _block([*variables, *extra], typed)
    if not block:
        raise BadTask("the task is empty; a task needs at least one variable")
    return Encoded(block, body)


def _block(variables: Variables, typed: dict[str, Any]) -> bytes:
    """The block of a task's variables. If it is too large, raises `BadTask` with the name of the caller's largest variable."""
    try:
        return encode_variables(variables)
    except BadTask:
        own = [(key.decode("utf-8", "replace"), len(value)) for key, value in variables if not key.startswith(names.OURS)]
        name, size = max([*own, *([largest(typed)] if typed else [])], key=lambda item: item[1], default=("", 0))
        total = sum(len(key) + len(value) + 4 for key, value in variables)
        raise BadTask(
            f"the task takes {total} bytes (the value of {name[:60]!r} alone takes {size}); the uwsgi protocol carries at most "
            f"{MAX_BLOCK} in all: put large data into `body`, which has its own limit (--max-body)"
        ) from None


def _is_legacy_argument(name: str, value: object, task: TaskArguments) -> bool:
    """Whether this is an argument of a call that `uwsgidecorators` made, which travels as it is."""
    return isinstance(value, bytes) and name in _PICKLED and "ud_spool_func" in task


def decode_block(block: bytes, body: bytes, task_name: str) -> dict[str, Any]:
    """As `decode_task`, from a block. Raises `BadPacket` also when the block is malformed."""
    # Most blocks are plain ASCII with values under 128 bytes (longer ones have a length byte that is not ASCII): then
    # one decoding serves for all slices. Half the time of the general way, and this runs for every task.
    if not block.isascii() or names.OURS in block or b"body" in block:
        return decode_task(decode_variables(block), body, task_name)
    text = block.decode("ascii")
    task: dict[str, Any] = {}
    position, end = 0, len(block)
    try:
        while position < end:
            key_start = position + 2
            key_end = key_start + (block[position] | block[position + 1] << 8)
            value_start = key_end + 2
            position = value_start + (block[key_end] | block[key_end + 1] << 8)
            task[text[key_start:key_end]] = text[value_start:position]
    except IndexError:
        position = end + 1
    if position != end or "" in task:
        decode_variables(block)  # says what is wrong
    task["spooler_task_name"] = task_name
    if body:
        task["body"] = body
    return task


def decode_task(variables: Variables, body: bytes, task_name: str) -> dict[str, Any]:
    """The task that a callable receives: str keys, the sent values, `spooler_task_name`, and `body` when there is one.

    If a variable came twice, the last one counts, as in uWSGI.

    Raises:
        BadPacket: `spool_values` is not a msgpack map of names.
    """
    task: dict[str, Any] = {}
    typed: bytes | None = None
    for key, value in variables:
        if key == names.VALUES:
            typed = value
        elif key == b"body":
            task["body"] = value
        elif not key.startswith(names.OURS):
            task[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
    if typed is not None:
        task.update((name, value) for name, value in unpack(typed).items() if not names.is_for_spooler(name))
    task["spooler_task_name"] = task_name
    if body:
        task["body"] = body
    return task


def pack(values: Mapping[str, Any]) -> bytes:
    """Values as msgpack. Raises `BadTask` for values that msgpack cannot carry."""
    try:
        packed = extension.packb(dict(values))
        check_typed(unpack(packed))  # what packs is not always read again: lists may be nested too deep for that
    except (TypeError, ValueError, OverflowError, BufferError, RecursionError, BadPacket) as error:
        said = fault(values) or f"a value cannot travel as msgpack: {error}; send {TYPES}"
        raise BadTask(f"{said}; nothing was sent") from error
    return packed


def unpack(data: bytes, what: str = "`spool_values`", read: Callable[[bytes], Any] = extension.unpackb) -> dict[str, Any]:
    """The values in a msgpack map, by their names.

    Raises:
        BadPacket: this is not such a map.
    """
    try:
        values = read(data)
    except (ValueError, TypeError, msgpack.UnpackException) as error:  # TypeError: a key that Python cannot hash
        raise BadPacket(f"{what} cannot be read as msgpack: {error!r}") from error
    if not isinstance(values, dict):
        raise BadPacket(f"{what} holds a {type(values).__name__}; it must be a map")
    for name in values:
        if not isinstance(name, str):
            raise BadPacket(f"{what} has a key of type {type(name).__name__}; its keys must be str")
    return values


def check_typed(values: Mapping[str, Any]) -> None:
    """Raises `BadPacket` unless these can be the typed values of a task: all later code can take their names and types."""
    for name in values:
        if names.is_for_spooler(name):
            raise BadPacket(f"`spool_values` holds {name[:60]!r}, a name that the spooler uses; send it as a plain variable")
    level: list[Any] = list(values.values())
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, list | tuple | set):
                inner += value
            elif isinstance(value, dict):
                inner += value
                inner += value.values()
            elif not isinstance(value, _TYPES) and _name_of(type(value)) not in _TYPES_BY_NAME:
                raise BadPacket(f"`spool_values` holds a {type(value).__name__}, a type of msgpack that a task may not have")
        if not inner:
            return
        level = inner
    raise BadPacket(f"`spool_values` holds lists and maps nested deeper than {MAX_DEPTH} levels")


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _key(value: object) -> bytes:
    if not isinstance(value, str | bytes):
        raise BadTask(f"`{_KEY}` is a {type(value).__name__}; it must be {names.RIGHT_KEY}")
    try:
        return names.read_key(value if isinstance(value, bytes) else _text(value, _KEY))
    except Refused as refusal:
        raise BadTask(refusal.text) from None


def _text(text: str, name: str = "") -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        shown = text[error.start : error.start + 20]
        what = f"the text of {name[:60]!r}" if name else "a name"
        raise BadTask(f"{what} cannot travel as UTF-8: {error.reason} at {shown!r}; send bytes as bytes") from error


def _body(value: object) -> bytes:
    if isinstance(value, str):
        return _text(value, "body")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise BadTask(f"`body` is a {type(value).__name__}; it must be bytes or str")


def _reserved(name: str, value: object) -> bytes:
    """`at`, `priority` or `spool_key` as it travels, validated here so that the caller hears of the mistake."""
    if name == _KEY:
        return _key(value)
    try:
        if name == "at" and isinstance(value, datetime):
            value = value.timestamp()
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadTask(f"`{name}` is a {type(value).__name__}; it must be a number")
        encoded = _text(f"{value:.6f}" if isinstance(value, float) else str(value), name)
        names.read_at(encoded) if name == "at" else names.read_priority(encoded)
    except BadTask:
        raise
    except Refused as refusal:
        raise BadTask(refusal.text) from None
    except (ValueError, OverflowError) as error:  # a year that no clock has, a number too long for `str`
        raise BadTask(f"`{name}` cannot be written as a number: {error}") from error
    return encoded
