"""Which variables libraries unpickle: whoever may choose them runs code in the worker. They stay on the machine that made them.

`uwsgidecorators` (and the copies of it in other packages) unpickles `args` whenever it is there, and `kwargs` beside it;
uwsgi-tasks, for which `function_name` stands, also `setup` and the body. What else an application unpickles is its own affair.
The names count in whatever form they come: as plain variables, and as typed values that a library would get as bytes.
"""

from collections.abc import Collection, Mapping
from typing import Any

ARGUMENTS = frozenset({b"args", b"kwargs"})
"""Arguments of a call, pickled, when `uwsgidecorators` made it."""
LEGACY_FUNCTION = b"ud_spool_func"
_TASKS_FUNCTION = b"function_name"
_SETUP = b"setup"
SPECIAL = ARGUMENTS | {LEGACY_FUNCTION, _TASKS_FUNCTION, _SETUP}
"""All names that have a part in this."""


def are_pickled(present: Collection[bytes], *, body: bool) -> bool:
    """Whether of a task with these variables a library would unpickle something. `body`: it has one."""
    if b"args" in present:
        return True
    if _TASKS_FUNCTION in present:
        return body or _SETUP in present or b"kwargs" in present
    return LEGACY_FUNCTION in present and b"kwargs" in present


def typed_names(values: Mapping[str, Any]) -> set[bytes]:
    """The names among typed values that count: only of bytes and str can a pickle be made; what else is shown is none."""
    return {name.encode() for name, value in values.items() if isinstance(value, bytes | str) and _is_ascii_special(name)}


def _is_ascii_special(name: str) -> bool:
    return name.isascii() and name.encode() in SPECIAL
