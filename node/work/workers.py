"""All workers, as the rest of a node sees them. `pool` implements it; the simulation has another implementation."""

from collections.abc import Callable, Collection
from typing import Any, Protocol

from spoolnode.node.outcome import Timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.queue import Ref
from spoolnode.node.spool.tasks import Source

Started = Callable[[str, int, int], None]
"""Takes the id of a task, and the number and the process id of its worker."""


class Hands(Protocol):
    """The workers, as a common store sees them."""

    def appetite(self) -> int:
        """How many more tasks could start soon, besides those that wait here."""

    def when_hungry(self, call: Callable[[], None]) -> None:
        """`call` is to be called when there may be room for more tasks."""

    def call_back(self, refs: Collection[str]) -> None:
        """Has workers give back these tasks of a common store, unless they have started. From now on they start none of them."""

    def hold_leases(self, until: float) -> None:
        """Tasks of a common store may start until then, by `slots.lease_clock`."""


class Workers(Protocol):
    """All workers of a node."""

    @property
    def seconds(self) -> float:
        """Seconds that all runs of tasks took together."""

    @property
    def busy(self) -> float:
        """Seconds that the main threads of workers spent on tasks."""

    @property
    def deaths(self) -> int:
        """Workers that died unexpectedly."""

    @property
    def schedule(self) -> Schedule:
        """The timers of the application that this node calls for itself."""

    @property
    def shared_timers(self) -> list[Timer]:
        """Those that are the whole cluster's."""

    @property
    def ready(self) -> int:
        """Workers that are up."""

    @property
    def worker_pids(self) -> list[int]:
        """The process ids of the present workers, up or not."""

    @property
    def leaving(self) -> int:
        """Old workers that still finish their tasks."""

    @property
    def held(self) -> int:
        """Tasks that workers hold."""

    def running(self) -> list[dict[str, Any]]:
        """The tasks that run now."""

    def watch(self, started: Started | None) -> None:
        """Has each start of a task told to `started` from now on; with None, no longer."""

    def dispatch(self) -> None:
        """Gives ready tasks to workers."""

    async def cancel(self, source: Source, ref: Ref, reason: str, grace: float) -> None:
        """Has a task end before its time that a worker holds, and returns when it has ended, however it did."""

    async def stop(self) -> None:
        """Lets running tasks end, for a while, and puts the rest back."""

    def stop_now(self) -> None:
        """Ends at once, and puts running tasks back."""
