"""The connections that are open: how many they are, and the rounds in which those that take too long are ended."""

import asyncio
import time
from typing import Protocol

from spoolnode.node.ingress.room import OWN_PLACES, Guest, Room

SWEEP_SECONDS = 0.5


class Swept(Guest, Protocol):
    """One of them."""

    def sweep(self, now: float, limit: float) -> None:
        """Ends it if it owes us bytes for longer than `limit` seconds."""

    def close(self) -> None:
        """Ends it when all is sent."""


class Connections:
    """All connections of a listener."""

    def __init__(self, room: Room, timeout: float) -> None:
        """`timeout`: seconds that a client gets for a request (`--request-timeout`)."""
        self.room = room
        self.count = 0
        """Those that are open, also before they are streams."""
        self.strangers = 0
        """Streams from where nothing is taken."""
        self.streams: set[Swept] = set()
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{self.count} connections, {len(self.streams)} streams, {self.room!r}>"

    def came(self) -> None:
        """One more is open."""
        self.count += 1

    def gone(self) -> None:
        """One less."""
        self.count -= 1

    def enter(self, stream: Swept, *, stranger: bool, own: bool) -> None:
        """One has become a stream. `own`: it came over the node's own socket, and never gives way."""
        self.streams.add(stream)
        self.strangers += stranger
        if not own:
            self.room.enter(stream)

    def leave(self, stream: Swept, *, stranger: bool) -> None:
        """A stream has ended."""
        self.streams.discard(stream)
        self.strangers -= stranger
        self.room.leave(stream)

    def has_place(self, *, own: bool = False) -> bool:
        """Whether the connection that was just counted is within the limit."""
        return self.count <= self.room.limit + (OWN_PLACES if own else 0)

    def end_one(self) -> bool:
        """Ends a connection that dawdles, for a new one; False when there is none."""
        guest = self.room.must_go(time.monotonic())
        if guest is not None:
            guest.give_way()
        return guest is not None

    def sweep(self) -> None:
        """Ends the streams that take too long, from now on in rounds."""
        now = time.monotonic()
        for stream in list(self.streams):
            stream.sweep(now, self._timeout)
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self.sweep)

    def close(self) -> None:
        """Ends all streams."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for stream in list(self.streams):
            stream.close()
