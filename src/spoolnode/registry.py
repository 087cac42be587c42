"""What an application has registered by being imported: functions by name, timers, hooks. One per process."""

import sys
from collections.abc import Awaitable, Callable
from os.path import basename
from typing import Any, Protocol

from spoolnode.compat.context import WorkerContext
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Call, Outcome, Timer


class Runnable(Protocol):
    """A decorated function, as the dispatcher sees it."""

    function: Callable[..., Any]

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """Runs the function for a task that names it."""
        ...


class Registry:
    """The functions of `@spool` by full name, those of uwsgidecorators by bare name, and the timers of both."""

    def __init__(self) -> None:
        self.functions: dict[str, Runnable] = {}
        self.legacy: dict[str, Runnable] = {}
        self.timers: list[Timer] = []
        self.post_fork: list[Callable[[], object]] = []
        self._timer_functions: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"<Registry {sorted(self.functions)} {sorted(self.legacy)} {len(self.timers)} timers>"

    def add(self, name: str, runnable: Runnable) -> None:
        """Registers a function; the same one imported again (a reload, a script that is also a module) replaces it.

        Raises:
            BadDecoration: another function has this name.
        """
        known = self.functions.get(name)
        if known is not None and not _are_same(known.function, runnable.function):
            raise BadDecoration(
                f"two functions are called {name!r}: {full_name(known.function)} and {full_name(runnable.function)}; "
                "give one of them another name="
            )
        self.functions[name] = runnable

    def add_timer(self, timer: Timer, function: Callable[[], object]) -> None:
        """Registers a timer; one of the same name and times replaces the earlier (a reload)."""
        if timer in self.timers:
            self._timer_functions[self.timers.index(timer)] = function
            return
        self.timers.append(timer)
        self._timer_functions.append(function)

    def call_timer(self, index: int) -> object:
        """Calls a timer's function; an awaitable that it returns is for the caller to await."""
        return self._timer_functions[index]()

    def clear(self) -> None:
        """Forgets everything (for tests, and before an application is loaded anew in the same process)."""
        for held in (self.functions, self.legacy, self.timers, self.post_fork, self._timer_functions):
            held.clear()


def full_name(function: Callable[..., Any]) -> str:
    """`module:qualname`. A module that runs as `__main__` gets the name by which a worker imports it."""
    module = getattr(function, "__module__", None) or "?"
    if module == "__main__":
        module = _name_of_main()
    return f"{module}:{function.__qualname__}"


def _name_of_main() -> str:
    main = sys.modules["__main__"]
    if main.__spec__ is not None:  # python -m package.module
        return main.__spec__.name
    file = getattr(main, "__file__", None)
    return basename(file).removesuffix(".py") if file else "__main__"


def _are_same(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    return full_name(one) == full_name(other)


REGISTRY = Registry()
"""This process's."""
