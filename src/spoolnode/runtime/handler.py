"""Finds the callable that runs a task. The handler of a loaded application."""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from spoolnode.calls.hooks import HOOKS
from spoolnode.calls.registry import REGISTRY, Runnable, is_async
from spoolnode.calls.results import conclude, outcome_of, outcome_of_error
from spoolnode.compat import uwsgi_values, uwsgidecorators
from spoolnode.context import WorkerContext
from spoolnode.node.outcome import DONE, NO_CALLABLE, Call, Ending, Outcome
from spoolnode.protocol import names
from spoolnode.protocol.values import decode_block

_LEGACY_FUNCTION = b"ud_spool_func"


class Dispatcher:
    """Finds the callable of each task, in this order:

    1. `spool_func` names a function of our `@spool`, or a task of Django;
    2. `uwsgi.spooler` of `import uwsgi` (bytes), if the application has set it;
    3. `ud_spool_func` names a function of `uwsgidecorators`, which sets `uwsgi.spooler` when it is imported;
    4. `spoolnode.uwsgi.spooler`, or the callable that `--app module:callable` names (str).
    """

    def __init__(self, context: WorkerContext, named: Callable[[dict[str, Any]], object] | None) -> None:
        self._context = context
        self._named = named

    def __repr__(self) -> str:
        return f"<Dispatcher to {REGISTRY!r}{', or a named callable' if self._named else ''}>"

    def _rule(self, returned: object) -> Outcome:
        return outcome_of(returned, self._context.frequency)

    def __call__(self, call: Call) -> Outcome | Awaitable[Outcome]:
        """Runs a task. Raises what its callable raises."""
        if not HOOKS:
            return self._run(call)
        if self._is_async(call):
            return HOOKS.run_async(self._run, call, self.judge)
        return HOOKS.run(self._run, call, self.judge, self._wait)

    def judge(self, call: Call, error: BaseException) -> Outcome:
        """The meaning of what a task raised."""
        if call.cancelled:
            return Outcome(Ending.CANCELLED, call.cancelled)
        function = self._function(call)
        return outcome_of_error(error, function.give_up_on if function else ())

    def _run(self, call: Call) -> Outcome | Awaitable[Outcome]:
        # Most tasks name no function, and need not be decoded to know that.
        if names.FUNCTION in call.block:  # the name of the other variable ends like this one
            return self._run_named(call)
        return self._run_unnamed(call, None)

    def _is_async(self, call: Call) -> bool:
        """Whether the task names an async function of `@spool`."""
        function = self._function(call)
        return function is not None and is_async(function.function)

    def _function(self, call: Call) -> Runnable | None:
        """The function of `@spool` that the task names."""
        if names.FUNCTION not in call.block:
            return None
        name = dict(call.variables).get(names.FUNCTION, b"")
        return REGISTRY.find(name.decode("utf-8", "replace"))

    def _wait(self, awaitable: Awaitable[Any]) -> object:
        if (wait := self._context.inbox.wait_for) is None:
            raise RuntimeError("tasks run only in a worker, which has an event loop for what their hooks return")
        return wait(awaitable)

    def _run_named(self, call: Call) -> Outcome | Awaitable[Outcome]:
        named = dict(call.variables)
        function = named.get(names.FUNCTION)
        if function is not None:
            ours = REGISTRY.find(function.decode("utf-8", "replace"))
            return ours.run(call, self._context) if ours else Outcome(Ending.FAILED, _nobody(function))
        legacy = named.get(_LEGACY_FUNCTION)
        name = (legacy or b"").decode("utf-8", "replace")
        if name in REGISTRY.legacy and _set_in("uwsgi") in (uwsgidecorators.manage_spool_request, None):
            return uwsgidecorators.run_decorated(name, call, self._context)
        return self._run_unnamed(call, legacy)

    def _run_unnamed(self, call: Call, legacy: bytes | None) -> Outcome | Awaitable[Outcome]:
        if (in_bytes := bytes_spooler()) is not None:
            result = in_bytes(uwsgi_values.environment(call.variables, call.body, call.file_name))
        elif (in_str := str_spooler() or self._named) is not None:
            result = in_str(decode_block(call.block, call.body, call.file_name))
        else:
            return Outcome(Ending.FAILED, _nobody(legacy))
        return DONE if result is None else conclude(result, self._rule)

    @property
    def has_callable(self) -> bool:
        """Whether there is anything to run."""
        found = (
            REGISTRY.functions,
            REGISTRY.finder,
            REGISTRY.legacy,
            REGISTRY.timers,
            bytes_spooler(),
            str_spooler(),
            self._named,
        )
        return any(found)


def bytes_spooler() -> Callable[[uwsgi_values.Environment], object] | None:
    """The callable that the application itself has set as `uwsgi.spooler` after `import uwsgi`."""
    found = _set_in("uwsgi")
    return uwsgidecorators.previous_spooler if found is uwsgidecorators.manage_spool_request else found


def str_spooler() -> Callable[[dict[str, Any]], object] | None:
    """The callable that the application has set as `uwsgi.spooler` after `from spoolnode import uwsgi`."""
    return _set_in("spoolnode.uwsgi")


def _set_in(module: str) -> Callable[[Any], object] | None:
    # Not getattr: a module without the name would compose an AttributeError first, for every task.
    found = sys.modules.get(module)
    return None if found is None else found.__dict__.get("spooler")


def _nobody(function: bytes | None) -> str:
    if function is None:
        return f"{NO_CALLABLE}the application has set no `uwsgi.spooler`, and --app names no callable"
    name = function.decode("utf-8", "replace")
    own = name.rpartition(":")[2]
    # First those of the same name in another module: the sender may have run that module as a script.
    known = sorted([*REGISTRY.functions, *REGISTRY.legacy], key=lambda other: (other.rpartition(":")[2] != own, other))
    return f"{NO_CALLABLE}it names the function {name!r}, the application has {', '.join(known[:10]) or 'none'}"
