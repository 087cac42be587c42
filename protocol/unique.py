"""Which tasks do the same work: those for one function with one `spool_key`. Of these, one waits at a time.

A sender makes the key, so it travels with the task, and holds on the node that runs it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, BadTask, Refused
from spoolnode.protocol.extension import packb
from spoolnode.protocol.packet import decode_variables

if TYPE_CHECKING:
    import hashlib

_SIZE = 16
"""Bytes of a fingerprint. Nothing else of a key is kept in memory."""


def unique_key(variables: Mapping[bytes, bytes]) -> bytes:
    """A fingerprint of a task's function and its `spool_key`, equal for tasks that do the same work; empty without a key.

    Raises `Refused` if the key is malformed.
    """
    key = names.read_key(variables.get(names.KEY, b""))
    if not key:
        return b""
    function = names.function_named(variables)
    return _hashed(len(function).to_bytes(4, "little") + function + key).digest()


def unique_key_in(block: bytes) -> bytes:
    """The same of a task on disk, which may be malformed; then it has no key."""
    if names.KEY not in block:
        return b""
    try:
        return unique_key(dict(decode_variables(block)))
    except (BadPacket, Refused):
        return b""


def _hashed(data: bytes) -> "hashlib.blake2b":
    import hashlib  # noqa: PLC0415  # few tasks have a key, and it would make each start of a worker longer

    return hashlib.blake2b(data, digest_size=_SIZE)


def key_of_arguments(arguments: Mapping[str, Any]) -> str:
    """A key for a call with these arguments, the same in every process. The order of a dict does not matter, but types do.

    Raises `BadTask` if one of them cannot travel.
    """
    try:
        return _hashed(packb(_ordered(arguments))).hexdigest()
    except (TypeError, ValueError, OverflowError, BufferError, RecursionError) as error:
        raise BadTask(f"an argument cannot travel as msgpack: {error}; nothing was sent") from error


def _ordered(value: Any) -> Any:
    """The same value, with all dicts in the order of their packed names."""
    if isinstance(value, Mapping):
        return {name: _ordered(value[name]) for name in sorted(value, key=packb)}
    if isinstance(value, list | tuple):
        members = [_ordered(member) for member in value]
        return tuple(members) if isinstance(value, tuple) else members
    return value
