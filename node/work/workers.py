"""All workers, as the rest of a node sees them. `pool` implements it; the simulation has another implementation."""

from typing import Any, Protocol


class Workers(Protocol):
    """All workers of a node."""

    seconds: float
    """Seconds that all runs of tasks took together."""
    busy: float
    """Seconds that the main threads of workers spent on tasks."""
    deaths: int
    """Workers that died unexpectedly."""

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

    def dispatch(self) -> None:
        """Gives ready tasks to workers."""

    async def stop(self) -> None:
        """Lets running tasks end, for a while, and puts the rest back."""

    def stop_now(self) -> None:
        """Ends at once, and puts running tasks back."""
