"""The arguments of a spooled call, as a worker finds them in its task.

Our clients send `{"args": [...], "kwargs": {...}}` as msgpack in `spool_values`, or as the body if that is large. A program
without msgpack, or nginx, sends plain variables: they become keyword arguments, as text, and a body becomes `body`, as bytes.
"""

from collections.abc import Callable
from typing import Any

from spoolnode.node.outcome import Call
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import Variables
from spoolnode.protocol.values import unpack
from spoolnode.trace import HEADERS


def arguments_of(call: Call, takes: Callable[[str], bool] = lambda _: True) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the keyword arguments. Raises `BadPacket` if they are malformed.

    Args:
        call: the task.
        takes: whether the function has a parameter of that name. A variable in capitals is left out if it has none:
            a web server sends many (HTTP_HOST, QUERY_STRING) that are not meant for it.
    """
    packed = dict(call.variables).get(names.VALUES)
    if packed is None:
        plain = _plain(call.variables)
        if plain or not call.body:
            body = {"body": call.body} if call.body else {}
            return [], {name: value for name, value in plain.items() if not name.isupper() or takes(name)} | body
        packed = call.body
    values = unpack(packed)
    args, kwargs = values.get("args", []), values.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadPacket('the arguments of a spooled call must be {"args": [...], "kwargs": {...}}')
    return args, kwargs


def _plain(variables: Variables) -> dict[str, str]:
    """The variables that are arguments. If one came twice, the last one counts, as in uWSGI."""
    plain: dict[str, str] = {}
    for key, value in variables:
        name = key.decode("utf-8", "surrogateescape")
        if not key.startswith(names.OURS) and not names.is_for_spooler(name) and name not in HEADERS:
            plain[name] = value.decode("utf-8", "surrogateescape")
    return plain
