"""The variables that libraries unpickle. A client that chooses them runs code in the worker, so they stay on one machine.

`uwsgidecorators` (and its copies in other packages) unpickles `args` if it is there, and `kwargs` beside it.
uwsgi-tasks, which is known by `function_name`, also unpickles `setup` and the body, or a variable called `body`.
What else an application unpickles is its own affair.
The names count in every form: as plain variables, and as typed values, which a library would get as bytes.
"""

from collections.abc import Collection, Mapping
from typing import Any

from spoolnode.protocol.names import LEGACY_FUNCTION

ARGUMENTS = frozenset({b"args", b"kwargs"})
"""The arguments of a call, pickled if `uwsgidecorators` made it."""
_TASKS_FUNCTION = b"function_name"
_FUNCTIONS = frozenset({LEGACY_FUNCTION, _TASKS_FUNCTION})
_OF_TASKS = frozenset({b"kwargs", b"setup", b"body"})
SPECIAL = ARGUMENTS | _FUNCTIONS | _OF_TASKS
"""All names that matter here."""


def are_pickled(present: Collection[bytes], *, body: bool) -> bool:
    """Whether a library would unpickle something of a task with these variables. `body`: whether it has one."""
    if b"args" in present:
        return True
    if _TASKS_FUNCTION in present:
        return body or not _OF_TASKS.isdisjoint(present)
    return LEGACY_FUNCTION in present and b"kwargs" in present


def typed_names(values: Mapping[str, Any]) -> set[bytes]:
    """The names among typed values that count.

    Only bytes and str can be a pickle. But the name of a function counts with any value.
    """
    special = {name.encode(): value for name, value in values.items() if name.isascii() and name.encode() in SPECIAL}
    return {name for name, value in special.items() if name in _FUNCTIONS or isinstance(value, bytes | str)}
