"""uWSGI's signals, as far as a spooler needs them: numbers from 0 to 255, each with a handler, raised by hand or by a timer.

Every worker has the handlers, because every worker imports the application. A timer belongs to the node, which has any one
worker call the handler, whatever its target. After `uwsgi.signal` the worker itself calls the handler when the current task is
over. Signals are not tasks: one that is raised when the worker dies is lost, as in uWSGI.
"""

import sys
from collections.abc import Callable

from spoolnode.calls.registry import REGISTRY, full_name
from spoolnode.context import WorkerContext
from spoolnode.errors import BadDecoration, Unavailable
from spoolnode.node.outcome import AskedCall, Timer

ANY = (-1, -1, -1, -1, -1)
"""The cron fields of a timer that has a period."""
SignalHandler = Callable[[int], object]


class Signals:
    """The signals of one worker."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._handlers: dict[int, SignalHandler] = {}
        self.received = 0
        """The last signal whose handler was called."""

    def __repr__(self) -> str:
        return f"<Signals: handlers of {', '.join(map(str, self._handlers)) or 'none'}>"

    def register(self, number: int, target: str, handler: SignalHandler) -> None:
        """`uwsgi.register_signal`: as there, only while the application is loaded, and each number once.

        Raises:
            ValueError: it is too late, or the number is taken or invalid.
        """
        if not isinstance(target, str):
            raise TypeError(f"register_signal() argument 2 must be str, not {type(target).__name__}")
        self._check(number)
        if not self._context.is_loading:
            raise ValueError(f"unable to register signal {number}: that is possible only while the application is imported")
        if number in self._handlers:
            raise ValueError(f"unable to register signal {number}: it has the handler {_name(self._handlers[number])}")
        if not callable(handler):
            raise ValueError(f"unable to register signal {number}: its handler is {handler!r}, which is not a function")
        self._handlers[number] = handler

    def registered(self, number: int) -> bool | None:
        """`uwsgi.signal_registered`: True, or None as there."""
        return True if self._check(number) in self._handlers else None

    def raise_(self, number: int, node: str = "") -> None:
        """`uwsgi.signal`: this worker calls the handler when the current task is over.

        Raises:
            OSError: a node is named.
        """
        if not isinstance(node, str):
            raise TypeError(f"signal() argument 2 must be str, not {type(node).__name__}")
        if node:
            raise OSError(f"unable to deliver signal {number} to node {node}: a spoolnode takes no signals; send it a task")
        self._check(number)
        if self._context.inbox.put is None:
            sys.stderr.write(
                f"uwsgi.signal({number}): not heard; only a worker hears signals, and only when the application is loaded\n"
            )
        else:
            self._context.inbox.put(AskedCall(self._label(number), lambda: self._deliver(number)))

    def wait(self, number: int | None = None) -> bytes:
        """`uwsgi.signal_wait`: waits until a handler was called, or that of `number`; `received` says which.

        Raises:
            Unavailable: no task runs in this thread.
        """
        if self._context.inbox.call_next is None:
            raise Unavailable("uwsgi.signal_wait: signals are not heard while the application is imported")
        self.received = -1  # until a handler is called; timers of our own @timer have no signal
        while self.received < 0 or number not in (None, self.received):
            self._context.inbox.call_next()
        return b""

    def add_timer(self, number: int, seconds: float, times: int = 0) -> None:
        """`uwsgi.add_timer` and `add_rb_timer`: raises the signal every `seconds` seconds, `times` times (0: without end).

        A period of 0 is never over, as in uWSGI.
        """
        self._check(number)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0:
            raise BadDecoration(f"the timer of signal {number} has a period of {seconds!r}; it must be a number of seconds")
        if seconds:
            self._add(number, Timer(self._label(number), float(seconds), ANY, times))

    def add_cron(self, number: int, fields: tuple[int, int, int, int, int]) -> bool:
        """`uwsgi.add_cron`: raises the signal at these times. Raises `BadDecoration` if they are invalid."""
        from spoolnode.calls.timers import check_cron

        check_cron(fields)
        self._check(number)
        self._add(number, Timer(self._label(number), 0.0, fields))
        return True

    def _add(self, number: int, timer: Timer) -> None:
        if not self._context.is_loading:
            raise Unavailable(f"signal {number} gets no timer now: that is possible only while the application is imported")
        REGISTRY.add_timer(timer, lambda: self._deliver(number))

    def _deliver(self, number: int) -> object:
        handler = self._handlers.get(number)
        if handler is None:
            raise ValueError(f"signal {number} has no handler: uwsgi.register_signal({number}, ...) was not called")
        self.received = number
        return handler(number)

    def _label(self, number: int) -> str:
        handler = self._handlers.get(number)
        return f"signal {number}" if handler is None else f"signal {number}, {_name(handler)}"

    @staticmethod
    def _check(number: int) -> int:
        if not isinstance(number, int):
            raise TypeError(f"'{type(number).__name__}' object cannot be interpreted as an integer")
        if not 0 <= number <= 255:
            raise ValueError(f"signals have numbers from 0 to 255; this is {number}")
        return number


def _name(handler: Callable[..., object]) -> str:
    return full_name(handler) if hasattr(handler, "__qualname__") else repr(handler)
