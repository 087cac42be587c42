"""How the run of a task ended, and the calling convention between a worker and the application's handler."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from spoolnode.protocol.packet import Variables, decode_variables, encode_variables


class Ending(Enum):
    """What becomes of a task after its run."""

    DONE = "done"
    """It leaves the disk."""
    RETRY = "retry"
    """It asked to be run again: that is no failure. Its attempts start anew, and the pause grows with each round to `delay`."""
    IGNORED = "ignored"
    """No callable felt responsible: counts as an attempt, with backoff."""
    AGAIN = "again"
    """It ended well and is to run again after `delay` seconds; its attempts start anew (`@spoolforever`)."""
    FAILED = "failed"
    """An exception, a timeout or the death of the worker: counts as an attempt, with backoff."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended."""

    kind: Ending
    reason: str = ""
    """Why it has to run again, for people."""
    delay: float = 0.0
    """Seconds, for AGAIN and RETRY only."""
    function: str = ""
    """The name of the function that the task was for, if the worker said it."""


DONE = Outcome(Ending.DONE)


class Call:
    """One task, handed to the application's handler."""

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
        """Its variables, decoded. Raises `BadPacket` when they are malformed."""
        return decode_variables(self.block)


Handler = Callable[[Call], Outcome | Awaitable[Outcome]]
"""Runs one task. An exception that it raises is a failure of the task. An awaitable is run in the worker's event loop."""


class Timer(NamedTuple):
    """Something that the application wants called at times, in any one worker."""

    name: str
    seconds: float
    """The period; 0 for a cron entry."""
    cron: tuple[int, int, int, int, int]
    """minute, hour, day, month, weekday as in uwsgidecorators: -1 is any, -n every n."""
    times: int = 0
    """How often it is called in all, since the node heard of it; 0: without end."""


def read_timer(said: Sequence[Any]) -> Timer:
    """A timer as node and worker say it to each other: `list(timer)`."""
    name, seconds, cron, times = said
    return Timer(name, seconds, tuple(cron), times)


class AskedCall(NamedTuple):
    """A call that the application asked for itself, to be made between two tasks."""

    name: str
    function: Callable[[], object]


@dataclass(slots=True)
class Mailbox:
    """How a loaded application reaches the main thread of its worker. Until the worker runs nobody listens."""

    put: Callable[[AskedCall], None] | None = None
    """Has a call made as soon as the main thread has nothing else to do; for any thread."""
    call_next: Callable[[], None] | None = None
    """For a task in the main thread: waits for the next call of a timer, or that was asked for, and makes it."""
    wait_for: Callable[[Awaitable[Any]], object] | None = None
    """For the main thread: runs an awaitable in the worker's event loop, and returns or raises as it ends."""


class App(NamedTuple):
    """A loaded application: what a worker runs."""

    handler: Handler
    timers: list[Timer]
    call_timer: Callable[[Timer], object]
    """Calls one of `timers`; an awaitable that it returns is to be awaited. Raises KeyError for another one."""
    inbox: Mailbox
    warning: str = ""
    """What whoever runs it should be told of it; a sentence, or nothing."""
