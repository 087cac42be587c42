"""The facts about a worker and its node, for the look-alikes. The node supplies them; nothing here does I/O."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from spoolnode.node.outcome import Mailbox
from spoolnode.protocol.packet import Variables

DEFAULT_FREQUENCY = 30.0
"""uWSGI's `spooler-frequency`, in seconds."""


@dataclass(slots=True)
class WorkerContext:
    """One worker's facts."""

    spool: str
    """The spool directory, absolute and without symbolic links."""
    worker: int
    """This worker's number, from 1."""
    node_pid: int
    pids: Callable[[], list[int]]
    """The process ids of all workers of the node."""
    jobs: Callable[[], list[str]]
    """The absolute paths that the waiting tasks have, or would have as spool files."""
    get_task: Callable[[str], tuple[Variables, bytes] | None]
    """The variables and the body of the task with such a path; None if it does not exist."""
    options: Mapping[str, bytes | bool] = field(default_factory=dict)
    """The node's settings by their names in uWSGI: `uwsgi.opt`."""
    is_first: bool = True
    """Whether this worker is the first to load the application since the node started, or since the last reload."""
    is_reload: bool = False
    """Whether the application has been loaded before since the node started."""
    frequency: float = DEFAULT_FREQUENCY
    """Seconds until a task runs again that asked for it (at most, for SPOOL_RETRY); `set_spooler_frequency` changes it."""
    configured_frequency: float = field(init=False)
    """The same, from the node's settings."""
    inbox: Mailbox = field(default_factory=Mailbox)
    """Takes the calls that the application asks for itself (`uwsgi.signal`)."""
    is_loading: bool = False
    """Whether the application is being loaded: imported, and then its `@postfork` functions are called."""
    is_importing: bool = False
    """Whether it is being imported, which in uWSGI happens before there is a spooler process."""

    def __post_init__(self) -> None:
        self.configured_frequency = self.frequency
