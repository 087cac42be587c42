"""The registry of an application's functions (by name), timers and hooks, filled by its import. One per process."""

import sys
from collections.abc import Awaitable, Callable
from os.path import basename
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Protocol

from spoolnode.context import WorkerContext
from spoolnode.errors import BadDecoration
from spoolnode.node.outcome import Call, Limit, Outcome, Timer

NO_LIMIT = Limit()


class Runnable(Protocol):
    """A decorated function, as the dispatcher sees it."""

    function: Callable[..., Any]
    give_up_on: tuple[type[BaseException], ...]
    """The exceptions after which its task is not tried again."""

    def run(self, call: Call, context: WorkerContext) -> Outcome | Awaitable[Outcome]:
        """Runs the function for a task that names it."""
        ...


class Registry:
    """The functions of `@spool` by full name, those of uwsgidecorators by bare name, and the timers of both."""

    def __init__(self) -> None:
        self.functions: dict[str, Runnable] = {}
        self.legacy: dict[str, Callable[..., Any]] = {}
        self.limits: dict[str, Limit] = {}
        """The limits of those functions that have some."""
        self.post_fork: list[Callable[[], object]] = []
        self.finder: Callable[[str], Runnable | None] | None = None
        """Looks for a function that was not registered: a framework may have functions of its own."""
        self._timers: dict[Timer, Callable[[], object]] = {}

    def __repr__(self) -> str:
        return f"<Registry {sorted(self.functions)} {sorted(self.legacy)} {len(self.timers)} timers>"

    def add(self, name: str, runnable: Runnable, limit: Limit = NO_LIMIT) -> None:
        """Registers a function; the same one imported again (a reload, a script that is also a module) replaces it.

        Raises:
            BadDecoration: another function has this name.
        """
        known = self.functions.get(name)
        if known is not None and not name.startswith(INTERACTIVE) and not _is_again(runnable.function, known.function):
            raise BadDecoration(
                f"two functions are called {name!r}: {_place(known.function)} and {_place(runnable.function)}; "
                "give one of them another name="
            )
        self.functions[name] = runnable
        self.limit(name, limit)

    def limit(self, name: str, limit: Limit) -> None:
        """Sets the limits of the function of that name."""
        self.limits.pop(name, None)
        if limit != NO_LIMIT:
            self.limits[name] = limit

    def find(self, name: str) -> Runnable | None:
        """The function of that name."""
        known = self.functions.get(name)
        if known is None and self.finder is not None and (known := self.finder(name)) is not None:
            self.functions[name] = known
        return known

    @property
    def timers(self) -> list[Timer]:
        """All timers."""
        return list(self._timers)

    def add_timer(self, timer: Timer, function: Callable[[], object]) -> None:
        """Registers a timer. The same function imported again replaces it; another one gets a number after its name."""
        name, number = timer.name, 1
        while timer in self._timers and not _is_again(function, self._timers[timer]):
            number += 1
            timer = timer._replace(name=f"{name}#{number}")
        self._timers[timer] = function

    def call_timer(self, timer: Timer) -> object:
        """Calls a timer's function; the caller awaits an awaitable that it returns.

        Raises:
            KeyError: the timer is unknown.
            BadDecoration: it contains a `yield`, so none of it has run.
            BaseException: what the function raises.
        """
        result = self._timers[timer]()
        if isinstance(result, GeneratorType | AsyncGeneratorType):
            raise BadDecoration(f"{timer.name} contains a `yield`: it returned a generator, and none of it has run")
        return result

    def wrap_timers(self, around: Callable[[Callable[[], object]], Callable[[], object]]) -> None:
        """Replaces the function of each timer by what `around` makes of it."""
        for timer, function in self._timers.items():
            self._timers[timer] = around(function)

    def clear(self) -> None:
        """Forgets everything (for tests, and before an application is loaded again in the same process)."""
        for held in (self.functions, self.legacy, self.limits, self.post_fork, self._timers):
            held.clear()


INTERACTIVE = "__main__:"
"""The beginning of the full names of functions that no worker can import: typed into an interpreter, or read from a pipe."""


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
    # A shell, a notebook, or a pipe (`<stdin>`): no worker can import that.
    return basename(file).removesuffix(".py") if file and not file.startswith("<") else INTERACTIVE.removesuffix(":")


def _is_again(function: Callable[..., Any], known: Callable[..., Any]) -> bool:
    """Whether this is a known function, defined again: the same name, at the same place of the source."""
    return _place(function) == _place(known) and "<" not in _innermost(function).__qualname__


def _place(function: Callable[..., Any]) -> str:
    """The full name of a function and where it is written, for people."""
    inner = _innermost(function)
    code = getattr(inner, "__code__", None)
    return f"{full_name(inner)} ({code.co_filename}:{code.co_firstlineno})" if code is not None else full_name(inner)


_CO_COROUTINE = 0x80
"""Of `inspect`, which takes long to import."""


def is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an `async def` itself, not something that wraps one."""
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def _innermost(function: Any) -> Any:
    """The function as it was written, without its wrappers."""
    for inside in ("__wrapped__", "func"):  # of functools.wraps (and of static methods), and of functools.partial
        if hasattr(function, inside):
            return _innermost(getattr(function, inside))
    return function


REGISTRY = Registry()
"""The registry of this process."""
