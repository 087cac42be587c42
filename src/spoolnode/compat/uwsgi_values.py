"""Tasks in the form of uWSGI under Python 3: bytes. Each function says what we add to its rules."""

import os
from collections.abc import Mapping
from typing import Any

from spoolnode.protocol import names, pickles
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import Variables, encode_variables
from spoolnode.protocol.values import Encoded, pack, unpack

Environment = dict[bytes | str, bytes]


def environment(variables: Variables, body: bytes, task_name: str) -> Environment:
    """The dict that `uwsgi.spooler` receives: bytes keys and values, and under str keys `spooler_task_name` and `body`.

    Typed values of our own API come as bytes too: bytes as they are, everything else as the UTF-8 of its `str()`,
    a tuple as that of a list.
    Spoolnode's own variables are left out.

    Raises:
        BadPacket: a library would unpickle a part, and the task did not come through this machine's own socket or directory.
    """
    env: Environment = {}
    ours: dict[bytes, bytes] = {}
    for key, value in variables:
        if key.startswith(names.OURS):
            ours[key] = value
        else:
            env[key] = value
    if ours:
        typed = unpack(ours[names.VALUES]) if names.VALUES in ours else {}
        _check_pickles(env, ours, {} if names.FUNCTION in ours else typed, has_body=bool(body))
        env.update((_text(name), _shown(value)) for name, value in typed.items() if not names.is_for_spooler(name))
    env.pop(b"spooler_task_name", None)
    env["spooler_task_name"] = os.fsencode(task_name)
    if body:
        env["body"] = body
    return env


def _check_pickles(env: Environment, ours: dict[bytes, bytes], typed: Mapping[str, Any], *, has_body: bool) -> None:
    """Checks again what the admission has checked, at the place where it would do harm.

    A task without typed values that did not come from another node was put into the directory by hand, or by a uWSGI.
    """
    if names.PICKLED in ours or not (typed or names.ORIGIN in ours):
        return
    plain = {key for key in env if isinstance(key, bytes)}
    if pickles.are_pickled(plain | pickles.typed_names(typed), body=has_body):
        raise BadPacket(
            "it has pickled arguments (`args`, `kwargs`) and did not come through this machine's own socket or directory; "
            "they are not unpickled"
        )


def encode_for_uwsgi(task: object) -> Encoded:
    """The variables and the body of a task for `uwsgi.spool`. The caller's dict stays as it is.

    Beyond uWSGI's rules, keys and values may be str. `at`, `priority`, `spooler` and `spool_node` travel as they are;
    the node validates them.

    Raises:
        ValueError: it is not a dict, a value is neither bytes nor str, or it is too large (`BadTask`).
    """
    if not isinstance(task, Mapping):
        raise ValueError("The argument of spooler callable must be a dictionary")
    variables: Variables = []
    body = b""
    for key, value in task.items():
        name = _key(key)
        if name == b"body" and isinstance(value, bytes | bytearray | memoryview | str):
            body = _value(name, value)
        else:
            variables.append((name, _value(name, value)))
    if body:
        variables.append((names.BODY_LENGTH, str(len(body)).encode()))
    # A node takes no request without variables. uWSGI does, and its callable gets an empty dict.
    return Encoded(encode_variables(variables or [(names.VALUES, pack({}))]), body)


def _key(key: object) -> bytes:
    if isinstance(key, str):
        return _text(key)
    if isinstance(key, bytes):
        return key
    raise ValueError(f"spooler callable dictionary must contains only bytes: the key {key!r} is neither bytes nor str")


def _value(name: bytes, value: object) -> bytes:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes | bytearray | memoryview | list | tuple) or hasattr(value, "__bytes__"):
        try:
            return bytes(value)
        except (TypeError, ValueError):
            pass
    raise ValueError(
        f"spooler callable dictionary must contains only bytes: the value of {name.decode('utf-8', 'replace')!r} "
        f"is of type {type(value).__name__}"
    )


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(value: object) -> bytes:
    if isinstance(value, tuple):
        value = list(value)  # the text of a tuple begins with `(`, as a pickle may: a library could be made to load it
    return value if isinstance(value, bytes) else _text(str(value))
