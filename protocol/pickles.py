"""Which variables libraries unpickle: whoever may choose them runs code in the worker. They stay on the machine that made them.

`uwsgidecorators` (and the copies of it in other packages) unpickles `args` whenever it is there, and `kwargs` beside it;
uwsgi-tasks, for which `function_name` stands, also `setup` and the body, or a variable called `body`.
What else an application unpickles is its own affair.
The names count in whatever form they come: as plain variables, and as typed values, which a library would get as bytes.
"""

from collections.abc import Collection, Mapping
from typing import Any

ARGUMENTS = frozenset({b"args", b"kwargs"})
"""Arguments of a call, pickled, when `uwsgidecorators` made it."""
LEGACY_FUNCTION = b"ud_spool_func"
_TASKS_FUNCTION = b"function_name"
_FUNCTIONS = frozenset({LEGACY_FUNCTION, _TASKS_FUNCTION})
_OF_TASKS = frozenset({b"kwargs", b"setup", b"body"})
SPECIAL = ARGUMENTS | _FUNCTIONS | _OF_TASKS
"""All names that have a part in this."""


def are_pickled(present: Collection[bytes], *, body: bool) -> bool:
    """Whether of a task with these variables a library would unpickle something. `body`: it has one."""
    if b"args" in present:
        return True
    if _TASKS_FUNCTION in present:
        return body or not _OF_TASKS.isdisjoint(present)
    return LEGACY_FUNCTION in present and b"kwargs" in present


def typed_names(values: Mapping[str, Any]) -> set[bytes]:
    """The names among typed values that count.

    Only bytes and str can be a pickle; what else is shown is none. But a function is called by whatever value its name has.
    """
    special = {name.encode(): value for name, value in values.items() if name.isascii() and name.encode() in SPECIAL}
    return {name for name, value in special.items() if name in _FUNCTIONS or isinstance(value, bytes | str)}
