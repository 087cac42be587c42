"""The leases of one node: until when they hold, when they are extended, which are lost. Pure: the clock is passed in.

All are extended together, a third of their length after the first of them was taken or extended last. A lease is reckoned from
before the request that made it, so by this clock it ends before it does in the store.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import inf

from spoolnode.cluster.store.interface import Lease


@dataclass(slots=True)
class _Held:
    lease: Lease
    until: float


class LeaseBook:
    """The tasks that this node holds, by the names of their files."""

    def __init__(self, seconds: float) -> None:
        """`seconds`: the length of a lease."""
        self.seconds = seconds
        self._held: dict[str, _Held] = {}

    def __repr__(self) -> str:
        return f"<LeaseBook: {len(self._held)} leases until {self.until:g}>"

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, ref: object) -> bool:
        return ref in self._held

    def take(self, ref: str, lease: Lease, asked: float) -> None:
        """A task was taken, with a request that was sent at `asked`. If it is here already, this renews its lease."""
        self._held[ref] = _Held(lease, asked + self.seconds)

    def get(self, ref: str) -> Lease | None:
        """The lease of a task; None if it is lost."""
        held = self._held.get(ref)
        return held.lease if held else None

    def release(self, ref: str, lease: Lease) -> None:
        """The store knows what became of a task under this lease."""
        if self.get(ref) == lease:
            del self._held[ref]

    @property
    def until(self) -> float:
        """When the first lease ends."""
        return min((held.until for held in self._held.values()), default=inf)

    @property
    def extended_at(self) -> float:
        """When they are to be extended."""
        return self.until - self.seconds * 2 / 3

    def all(self) -> dict[str, Lease]:
        """All leases."""
        return {ref: held.lease for ref, held in self._held.items()}

    def extended(self, asked: dict[str, Lease], lost: Collection[Lease], since: float) -> list[str]:
        """These leases were extended, with a request that was sent at `since`, but for those that are lost.

        Returns the tasks that are lost. A lease that was renewed or released meanwhile is left alone.
        """
        gone = []
        for ref, lease in asked.items():
            held = self._held.get(ref)
            if held is None or held.lease != lease:
                continue
            if lease in lost:
                del self._held[ref]
                gone.append(ref)
            else:
                held.until = max(held.until, since + self.seconds)
        return gone
