"""One other node, as this one knows it: its identity, its addresses, its state, its pings. Pure."""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any, Self

from spoolnode.cluster.candidate import Candidate
from spoolnode.cluster.liveness import Liveness, PeerState
from spoolnode.cluster.page import page_of
from spoolnode.cluster.peer_status import Status
from spoolnode.node.figures import UNKNOWN

MOST_ADDRESSES = 8
STRANGERS = "mdns"
"""The source that anything on the network segment can write to."""


@dataclass(slots=True)
class Pings:
    """The pings of one peer; see `pings`."""

    exchanged_at: float
    """When it last showed a sign of life."""
    status_at: float
    """When its status last came."""
    in_flight: int = 0
    """More than one only if two peers turned out to be one."""
    begun_at: float = float("-inf")
    not_before: float = float("-inf")
    next_at: float | None = None
    silence: float = 0.0
    """Seconds without an exchange after which it is pinged, while it is up."""
    at_once: bool = False
    """Whether an exchange does not put off the next one."""
    clock: float | None = None
    """How many seconds its clock was ahead of ours at the last answer; None if it has not told its time."""
    again: bool = False
    """Whether something happened while one was in flight, so that its result may be older."""


@dataclass(eq=False, repr=False)
class Peer:
    """One other node."""

    id: str
    """Empty as long as only its address is known, and always for a real uWSGI."""
    liveness: Liveness
    pings: Pings
    name: str = ""
    addresses: tuple[str, ...] = ()
    """Where to reach it, the best first."""
    status: Status | None = None
    """Its last answer."""
    rtt: float = 0.0
    candidates: dict[tuple[str, str], Candidate] = field(default_factory=dict)
    known_at: tuple[str, ...] = ()
    """Addresses that no source names (now)."""
    said_at: tuple[str, ...] = ()
    """Addresses from calls in its name while it answers elsewhere; they become `known_at` when it no longer does."""
    named_at: set[str] = field(default_factory=set)
    """Addresses that an operator has named: tasks may be given there."""
    outside: tuple[str, ...] = ()
    """An address that may not get tasks."""
    double: str = ""
    """The address where another process claimed this id."""
    answers_at: str = ""
    absorbed_by: "Peer | None" = None

    @classmethod
    def new(cls, node_id: str, now: float) -> Self:
        """A new peer, without any facts yet."""
        return cls(node_id, Liveness(now), Pings(exchanged_at=now, status_at=now))

    def __repr__(self) -> str:
        what = " ".join(part for part in (self.name, self.id) if part) or "of unknown id"
        where = self.addresses[0] if self.addresses else "no address"
        return f"<peer {what} at {where}, {self.state.value}{f': {self.reason}' if self.reason else ''}>"

    @property
    def state(self) -> PeerState:
        """Its state."""
        return self.liveness.state

    @property
    def reason(self) -> str:
        """Why it failed last; empty if it has not failed since it was up."""
        return self.liveness.reason

    @property
    def sources(self) -> list[str]:
        """The URIs of the sources that name it."""
        return sorted({source for source, _ in self.candidates})

    @property
    def is_only_hinted(self) -> bool:
        """Whether only strangers name it, neither the configuration nor the node itself."""
        return all(source.startswith(STRANGERS) for source, _ in self.candidates)

    @property
    def answers(self) -> bool:
        """Whether it answers at an address where it has proved its identity."""
        return self.state in (PeerState.UP, PeerState.LEAVING) and self.status is not None and bool(self.answers_at)

    def locate(self, ours: Container[str], may_give: Callable[[str], bool]) -> None:
        """Puts its addresses in order: where it answers, those that sources name, then the rest.

        As long as it is up, no announcement leads away from where it answers. After that, announced addresses come first.

        Args:
            ours: addresses of this node.
            may_give: whether tasks may be given to an address that only strangers name.
        """
        named = [address for candidate in self.candidates.values() for address in candidate.addresses]
        answers = [self.answers_at] if self.answers_at else []
        is_trusted = self.state in (PeerState.UP, PeerState.LEAVING) or self.answers_at in named
        ordered = [*answers, *named, *self.known_at] if is_trusted else [*named, *answers, *self.known_at]
        ordered = [address for address in ordered if address not in ours]
        addresses = [address for address in ordered if address in self.named_at or may_give(address)]
        self.outside = tuple(address for address in ordered if address not in addresses)[:1]
        self.addresses = tuple(dict.fromkeys(addresses))[:MOST_ADDRESSES]

    def reach(self) -> dict[str, str]:
        """How well this node reaches it, as it is told."""
        return {"state": self.state.value, "address": next(iter(self.addresses), ""), "reason": self.reason}

    def row(self, now: float) -> dict[str, Any]:
        """Its row of the table for people."""
        status = self.status or Status()
        return {
            "name": self.name,
            "id": self.id,
            "address": next(iter((*self.addresses, *self.outside)), ""),
            "state": self.state.value,
            "since": round(now - self.liveness.since, 1),
            "load": round((status.waiting + status.running) / status.workers, 2) if status.workers else None,
            "waiting": status.waiting,
            "workers": status.workers,
            "figures": status.figures if self.answers or self.state is PeerState.SUSPECT else UNKNOWN,
            "tags": sorted(status.tags),
            "reaches_us": status.reaches._asdict() if self.answers and status.reaches else None,
            "sources": self.sources,
            "rtt": self.rtt,
            "clock": None if self.pings.clock is None else round(self.pings.clock, 3),
            "version": status.version,
            "open": status.invites and self.state is PeerState.UP,
            "page": page_of(status.page, self.answers_at),
            "strikes": self.liveness.strikes,
            "rejections": self.liveness.rejections,
            "reason": self.reason,
        }
