"""Decides how many connections may be open at once, and which one closes when every place is taken, so that slow clients do
not keep others out. Pure."""

from itertools import islice
from typing import Protocol

MAX_RESERVED = 256
"""Descriptors that are kept for workers, files, links and the owner; at most half of all."""
OWN_PLACES = 64
"""Connections on the node's own socket beyond the limit."""
DAWDLES_SECONDS = 1.0
"""A client that has sent a part of a request, and nothing for this long, may have to go..."""
IDLE_SECONDS = 10.0
"""...and one that has been idle for this long. A client notices before it uses such a connection again."""
MOST_LOOKED_AT = 32


class Guest(Protocol):
    """A connection."""

    since: float
    """The monotonic time of its last progress."""

    @property
    def is_incomplete(self) -> bool:
        """Whether the client owes us bytes."""
        ...

    def give_way(self) -> None:
        """Closes the connection."""

    @property
    def waits_for_us(self) -> bool:
        """Whether the client waits for us."""
        ...


class Room:
    """The places of a listener."""

    def __init__(self, wanted: int, descriptors: int) -> None:
        """
        Args:
            wanted: the operator's limit on connections.
            descriptors: how many this process may have. A connection takes one, and a second one while its body is written.
        """
        free = descriptors - min(MAX_RESERVED, descriptors // 2)
        self.limit = min(wanted, free * 3 // 4)
        self.uploads = free // 4
        self._new: dict[Guest, None] = {}
        """Connections that have not finished a request yet, oldest first."""
        self._known: dict[Guest, None] = {}
        """Connections that have, the one with the oldest progress first."""

    def __repr__(self) -> str:
        return f"<room for {self.limit}, {len(self._new)} new and {len(self._known)} known>"

    def enter(self, guest: Guest) -> None:
        """Adds a connection."""
        self._new[guest] = None

    def progressed(self, guest: Guest) -> None:
        """Notes that a connection has sent a request, or a good part of a body."""
        if self._new.pop(guest, guest) is None or self._known.pop(guest, guest) is None:
            self._known[guest] = None

    def leave(self, guest: Guest) -> None:
        """Removes a connection."""
        self._new.pop(guest, None)
        self._known.pop(guest, None)

    def must_go(self, now: float) -> Guest | None:
        """Chooses a guest to give way to a new one, and removes it; None if all are busy.

        The oldest that has never finished a request comes first: honest ones soon finish one. Then one that dawdles or is idle.
        """
        for guest in islice(self._new, MOST_LOOKED_AT):
            if guest.is_incomplete:
                self.leave(guest)
                return guest
        for guest in islice(self._known, MOST_LOOKED_AT):
            quiet = now - guest.since
            if not guest.waits_for_us and quiet > (DAWDLES_SECONDS if guest.is_incomplete else IDLE_SECONDS):
                self.leave(guest)
                return guest
        return None
