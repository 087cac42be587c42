"""The end of a task's run, and the calling convention between a worker and the application's handler."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

from spoolnode.protocol.packet import Variables, decode_variables, encode_variables


class Ending(Enum):
    """How a run ended, and what happens to its task."""

    DONE = "done"
    """It leaves the disk."""
    RETRY = "retry"
    """It returned SPOOL_RETRY, which is not a failure. Its attempts count from zero; the pause grows each time up to `delay`."""
    RETRY_AFTER = "retry_after"
    """It raised `Retry`: counts as a failed attempt, and runs again after `delay` seconds."""
    RETRY_UNCOUNTED = "retry_uncounted"
    """It raised `Retry(counts=False)`: the same, but this attempt does not count."""
    IGNORED = "ignored"
    """No callable took it: counts as a failed attempt, with backoff."""
    AGAIN = "again"
    """It ended well and runs again after `delay` seconds; its attempts count from zero (`@spoolforever`)."""
    FAILED = "failed"
    """An exception, a timeout or the death of the worker: counts as a failed attempt, with backoff."""
    GIVE_UP = "give_up"
    """It raised `GiveUp`, or an exception of its `give_up_on`: goes to dead/ at once."""
    CANCELLED = "cancelled"
    """It was cancelled while it ran: goes to dead/ at once."""


ASKED = frozenset({Ending.RETRY, Ending.RETRY_UNCOUNTED, Ending.AGAIN})
"""A task that ends so asked for another run; it has not failed."""


class Cancelled(BaseException):
    """Raised in a task that is cancelled, unless it is async. Not an `Exception`, so that a task ends all the same."""


class Outcome(NamedTuple):
    """How one run ended."""

    kind: Ending
    reason: str = ""
    """Why it has to run again, for people."""
    delay: float = 0.0
    """Seconds, for AGAIN and the kinds of RETRY only."""
    function: str = ""
    """The function that the task was for, if the worker named it."""
    origin_id: str = ""
    """The id that the task got when it was first accepted, if the worker named it."""
    seconds: float = -1.0
    """How long it ran; below zero if that is unknown."""
    error: str = ""
    """The class of the exception with which it failed, as in `builtins.ValueError`; empty without one."""
    value: bytes | None = None
    """The result of a task that ended well, to be kept; None if it is not kept."""


NO_CALLABLE = "no callable for this task: "
"""The beginning of the reason if the application has nothing that takes the task. An exception's begins with its class."""
DONE = Outcome(Ending.DONE)
FAILED = Outcome(Ending.FAILED)


def class_path(error: BaseException) -> str:
    """The class of an exception, by a name that can be imported. What its metaclass says otherwise does not count."""
    module, name = (str(type.__dict__[part].__get__(type(error))) for part in ("__module__", "__qualname__"))
    return f"{module}.{name}"


class Call:
    """One task for the application's handler."""

    __slots__ = ("block", "body", "cancelled", "file_name")

    def __init__(self, block: bytes, body: bytes, file_name: str) -> None:
        self.block = block
        """Its variables, as they lie on disk."""
        self.body = body
        self.cancelled = ""
        """Why it is to end before its time; empty if it is not."""
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
"""Runs one task. The worker's event loop runs an awaitable that it returns. If it raises, the judge says what that means."""
Judge = Callable[[Call, BaseException], Outcome]
"""The meaning of what a task raised. Without a reason in it, the exception itself is the reason."""


class Timer(NamedTuple):
    """A call that the application wants at certain times, in any one worker of each node, or of the whole cluster."""

    name: str
    seconds: float
    """The period; 0 for a cron entry."""
    cron: tuple[int, int, int, int, int]
    """minute, hour, day, month, weekday as in uwsgidecorators: -1 is any, -n every n."""
    times: int = 0
    """How many times it is called since the node knows it; 0: without end."""
    expression: str = ""
    """An expression of crontab(5) with its five fields; if it is there, `cron` says nothing."""
    zone: str = ""
    """The name of the time zone of a cron entry; empty: the local time of the machine."""
    task: bytes = b""
    """Of a timer that is the whole cluster's: the variables of the task that each of its due times is. Else empty."""
    catch_up: bool = False
    """Whether what was due while no node was up is run once at the next start."""


def read_timer(said: Sequence[Any]) -> Timer:
    """A timer from the form that node and worker exchange: `list(timer)`."""
    name, seconds, cron, *others = said
    return Timer(name, seconds, tuple(cron), *others)


class AskedCall(NamedTuple):
    """A call that the application asked for, made between two tasks."""

    name: str
    function: Callable[[], object]


class Mailbox:
    """The way from a loaded application to the main thread of its worker. They are None until the worker runs."""

    def __init__(self) -> None:
        self.put: Callable[[AskedCall], None] | None = None
        """Has the main thread make a call as soon as it is free; for any thread."""
        self.call_next: Callable[[], None] | None = None
        """For a task in the main thread: waits for the next call (of a timer, or asked for) and makes it."""
        self.wait_for: Callable[[Awaitable[Any]], object] | None = None
        """For the main thread: runs an awaitable in the worker's event loop, and returns or raises as it ends."""


class Limit(NamedTuple):
    """How many tasks of a function may run on each node; 0 is any number."""

    at_once: int = 0
    starts: int = 0
    """So many may start..."""
    seconds: float = 0.0
    """...within so many seconds."""


class App(NamedTuple):
    """A loaded application: what a worker runs."""

    handler: Handler
    judge: Judge
    timers: list[Timer]
    call_timer: Callable[[Timer], object]
    """Calls one of `timers`; the caller awaits an awaitable that it returns. Raises KeyError for another one."""
    inbox: Mailbox
    warning: str = ""
    """A warning for the operator; a sentence, or empty."""
    end: Callable[[], object] = lambda: None
    """Called when the worker ends of its own accord."""
    limits: Mapping[str, Limit] = MappingProxyType({})
    """The limits of its functions, by their names."""
