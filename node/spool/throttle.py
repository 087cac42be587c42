"""Decides how many tasks of a function may start now: none of a paused one, some of a limited one. Pure."""

from collections.abc import Callable, Mapping

from spoolnode.node.outcome import Limit
from spoolnode.node.spool.functions import Functions
from spoolnode.node.spool.limits import Limits

MANY = 1 << 30
"""More tasks than are ever taken together: the function is not held back."""


class Throttle:
    """The functions that are held back, by their numbers (see `functions`)."""

    def __init__(self, functions: Functions, clock: Callable[[], float]) -> None:
        """`clock`: monotonic seconds."""
        self._functions = functions
        self._clock = clock
        self._limits = Limits()
        self._paused: frozenset[int] = frozenset()
        self.is_shut = False
        """Whether everything is paused."""

    def __repr__(self) -> str:
        return f"<Throttle{', shut' * self.is_shut}: {', '.join(self.governed) or 'nothing'} held back>"

    def pause(self, functions: frozenset[str], *, everything: bool) -> None:
        """From now on exactly these functions are paused, or everything is."""
        self._paused = frozenset(map(self._functions.note, functions))
        self.is_shut = everything

    def limit(self, limits: Mapping[str, Limit]) -> None:
        """From now on exactly these functions are limited: the application says so."""
        self._limits.declare({self._functions.note(name): limit for name, limit in limits.items()})

    def limits(self) -> dict[str, dict[str, float]]:
        """The limits of each limited function, and how many of its tasks run; for people."""
        return {self._functions.name(function): self._limits.told(function) for function in self._limits}

    def governs(self, function: int) -> bool:
        """Whether tasks of a function may not start whenever a worker has room."""
        return function in self._paused or function in self._limits

    @property
    def governed(self) -> list[str]:
        """The functions whose tasks may not start whenever a worker has room."""
        return sorted(map(self._functions.name, {*self._paused, *self._limits}))

    @property
    def is_open(self) -> bool:
        """Whether nothing is held back."""
        return not (self._paused or self._limits or self.is_shut)

    def allowance(self, function: int) -> int:
        """How many tasks of a function may start now."""
        if self.is_shut or function in self._paused:
            return 0
        return self._limits.allowance(function, self._clock()) if function in self._limits else MANY

    def at_once(self, function: int) -> int:
        """How many tasks of a function may run at once; 0 is any number."""
        return self._limits.at_once(function)

    def may_move(self, function: int) -> int:
        """How many tasks of a function may go to another node, to run there at once."""
        return 0 if self.is_shut or function in self._paused else MANY

    def start(self, function: int, count: int) -> bool:
        """So many tasks of a function start. Returns whether each of them must be told of when it ends."""
        if function not in self._limits:
            return False
        self._limits.start(function, count, self._clock())
        return True

    def end(self, function: int, *, ran: bool) -> None:
        """One of them is no longer with a worker; `ran`: it has started."""
        (self._limits.end if ran else self._limits.undo)(function)

    def opens_in(self) -> float | None:
        """Seconds until a function whose rate is used up may start tasks again; None if there is none."""
        return self._limits.opens_in(self._clock())
