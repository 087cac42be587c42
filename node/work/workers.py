"""The workers together, as the rest of a node sees them. `pool` is the real thing; the simulation has another."""

from typing import Any, Protocol


class Workers(Protocol):
    """All workers of a node."""

    seconds: float
    """Time that all runs of tasks together took."""
    busy: float
    """Time that the workers' main threads spent on tasks."""
    deaths: int
    """Workers that died while they should not."""

    @property
    def ready(self) -> int:
        """How many are up."""

    @property
    def worker_pids(self) -> list[int]:
        """The processes of the present ones, up or not."""

    @property
    def leaving(self) -> int:
        """Old workers that still finish what they run."""

    @property
    def held(self) -> int:
        """Tasks that are with them."""

    def running(self) -> list[dict[str, Any]]:
        """The tasks that run now."""

    def dispatch(self) -> None:
        """Gives them what is ready."""

    async def stop(self) -> None:
        """Lets what runs end, for a while; the rest is put back."""

    def stop_now(self) -> None:
        """Ends at once; what runs is put back."""
