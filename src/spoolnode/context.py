"""The facts about a worker and its node, for the look-alikes. The node supplies them; nothing here does I/O."""

from collections.abc import Callable, Mapping

from spoolnode.node.outcome import Mailbox
from spoolnode.protocol.packet import Variables

DEFAULT_FREQUENCY = 30.0
"""uWSGI's `spooler-frequency`, in seconds."""


class WorkerContext:
    """One worker's facts."""

    def __init__(  # noqa: PLR0913  # the facts that a node tells its worker
        self,
        spool: str,
        worker: int,
        node_pid: int,
        pids: Callable[[], list[int]],
        jobs: Callable[[], list[str]],
        get_task: Callable[[str], tuple[Variables, bytes] | None],
        options: Mapping[str, bytes | bool] | None = None,
        *,
        is_first: bool = True,
        is_reload: bool = False,
        frequency: float = DEFAULT_FREQUENCY,
        is_loading: bool = False,
    ) -> None:
        self.spool = spool
        """The spool directory, absolute and without symbolic links."""
        self.worker = worker
        """This worker's number, from 1."""
        self.node_pid = node_pid
        self.pids = pids
        """The process ids of all workers of the node."""
        self.jobs = jobs
        """The absolute paths that the waiting tasks have, or would have as spool files."""
        self.get_task = get_task
        """The variables and the body of the task with such a path; None if it does not exist."""
        self.options = options or {}
        """The node's settings by their names in uWSGI: `uwsgi.opt`."""
        self.is_first = is_first
        """Whether this worker is the first to load the application since the node started, or since the last reload."""
        self.is_reload = is_reload
        """Whether the application has been loaded before since the node started."""
        self.frequency = frequency
        """Seconds until a task runs again that asked for it (at most, for SPOOL_RETRY); `set_spooler_frequency` changes it."""
        self.configured_frequency = frequency
        """The same, from the node's settings."""
        self.inbox = Mailbox()
        """Takes the calls that the application asks for itself (`uwsgi.signal`)."""
        self.is_loading = is_loading
        """Whether the application is being loaded: imported, and then its `@postfork` functions are called."""
        self.is_importing = False
        """Whether it is being imported, which in uWSGI happens before there is a spooler process."""
