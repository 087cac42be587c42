"""The end of a task's run, and the calling convention between a worker and the application's handler."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from spoolnode.protocol.packet import Variables, decode_variables, encode_variables


class Ending(Enum):
    """How a run ended, and what happens to its task."""

    DONE = "done"
    """It leaves the disk."""
    RETRY = "retry"
    """It asked to run again, which is not a failure. Its attempts count from zero; the pause grows each time up to `delay`."""
    IGNORED = "ignored"
    """No callable took it: counts as a failed attempt, with backoff."""
    AGAIN = "again"
    """It ended well and runs again after `delay` seconds; its attempts count from zero (`@spoolforever`)."""
    FAILED = "failed"
    """An exception, a timeout or the death of the worker: counts as a failed attempt, with backoff."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended."""

    kind: Ending
    reason: str = ""
    """Why it has to run again, for people."""
    delay: float = 0.0
    """Seconds, for AGAIN and RETRY only."""
    function: str = ""
    """The function that the task was for, if the worker named it."""


DONE = Outcome(Ending.DONE)


class Call:
    """One task for the application's handler."""

    __slots__ = ("block", "body", "file_name")

    def __init__(self, block: bytes, body: bytes, file_name: str) -> None:
        self.block = block
        """Its variables, as they lie on disk."""
        self.body = body
        self.file_name = file_name
        """The name of its spool file, which uWSGI calls `spooler_task_name`."""

    @classmethod
    def of(cls, variables: Variables, body: bytes, file_name: str) -> "Call":
        """A call with these variables."""
        return cls(encode_variables(variables), body, file_name)

    @property
    def variables(self) -> Variables:
        """Its variables, decoded. Raises `BadPacket` if they are malformed."""
        return decode_variables(self.block)


Handler = Callable[[Call], Outcome | Awaitable[Outcome]]
"""Runs one task. If it raises, the task has failed. The worker's event loop runs an awaitable that it returns."""


class Timer(NamedTuple):
    """A call that the application wants at certain times, in any one worker."""

    name: str
    seconds: float
    """The period; 0 for a cron entry."""
    cron: tuple[int, int, int, int, int]
    """minute, hour, day, month, weekday as in uwsgidecorators: -1 is any, -n every n."""
    times: int = 0
    """How many times it is called since the node knows it; 0: without end."""


def read_timer(said: Sequence[Any]) -> Timer:
    """A timer from the form that node and worker exchange: `list(timer)`."""
    name, seconds, cron, times = said
    return Timer(name, seconds, tuple(cron), times)


class AskedCall(NamedTuple):
    """A call that the application asked for, made between two tasks."""

    name: str
    function: Callable[[], object]


@dataclass(slots=True)
class Mailbox:
    """The way from a loaded application to the main thread of its worker. They are None until the worker runs."""

    put: Callable[[AskedCall], None] | None = None
    """Has the main thread make a call as soon as it is free; for any thread."""
    call_next: Callable[[], None] | None = None
    """For a task in the main thread: waits for the next call (of a timer, or asked for) and makes it."""
    wait_for: Callable[[Awaitable[Any]], object] | None = None
    """For the main thread: runs an awaitable in the worker's event loop, and returns or raises as it ends."""


class App(NamedTuple):
    """A loaded application: what a worker runs."""

    handler: Handler
    timers: list[Timer]
    call_timer: Callable[[Timer], object]
    """Calls one of `timers`; the caller awaits an awaitable that it returns. Raises KeyError for another one."""
    inbox: Mailbox
    warning: str = ""
    """A warning for the operator; a sentence, or empty."""
