"""The open connections: their number, and the regular sweep that ends those that take too long."""

import asyncio
import time
from typing import Protocol

from spoolnode.node.ingress.room import OWN_PLACES, Guest, Room

SWEEP_SECONDS = 0.5
FINISH_LOOKS, FINISH_PAUSE = 100, 0.01
"""How often a stopping node looks for the rest of requests, and the seconds in between."""
LAST_READS = 100
"""How often a stopping node reads what has come, before it closes a connection on which more comes all the time."""


class Swept(Guest, Protocol):
    """A connection, as the sweep sees it."""

    def sweep(self, now: float, limit: float) -> None:
        """Ends the connection if its client has owed us bytes for longer than `limit` seconds."""

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come that were not read."""

    def close(self) -> None:
        """Ends the connection when all is sent."""


class Connections:
    """All connections of a listener."""

    def __init__(self, room: Room, timeout: float) -> None:
        """`timeout`: seconds that a client gets for a request (`--request-timeout`)."""
        self.room = room
        self.count = 0
        """Open connections, including those that are not streams yet."""
        self.strangers = 0
        """Streams from addresses that are not allowed."""
        self.streams: set[Swept] = set()
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._sweeper: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<{self.count} connections, {len(self.streams)} streams, {self.room!r}>"

    def came(self) -> None:
        """Counts a new connection."""
        self.count += 1

    def gone(self) -> None:
        """Counts a connection that has ended."""
        self.count -= 1

    def enter(self, stream: Swept, *, stranger: bool, own: bool) -> None:
        """Adds a stream. `own`: it came over the node's own socket, and never gives way."""
        self.streams.add(stream)
        self.strangers += stranger
        if not own:
            self.room.enter(stream)

    def leave(self, stream: Swept, *, stranger: bool) -> None:
        """Removes a stream that has ended."""
        self.streams.discard(stream)
        self.strangers -= stranger
        self.room.leave(stream)

    def has_place(self, *, own: bool = False) -> bool:
        """Whether the connection that was just counted is within the limit."""
        return self.count <= self.room.limit + (OWN_PLACES if own else 0)

    def end_one(self) -> bool:
        """Ends a slow connection to make room for a new one. Returns False if there is none."""
        guest = self.room.must_go(time.monotonic())
        if guest is not None:
            guest.give_way()
        return guest is not None

    def sweep(self) -> None:
        """Ends the streams that take too long, now and at regular intervals."""
        now = time.monotonic()
        for stream in list(self.streams):
            stream.sweep(now, self._timeout)
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self.sweep)

    async def finish(self) -> None:
        """Returns when no request is half sent, or a second has passed."""
        for _ in range(FINISH_LOOKS):
            if not any(stream.is_incomplete for stream in self.streams):
                return
            await asyncio.sleep(FINISH_PAUSE)

    async def close(self) -> None:
        """Ends all streams, each in a moment in which all that came is read, and so answered.

        A request that comes after that moment gets no answer, and its sender cannot know whether it was stored. TCP cannot do
        better: a request may be on its way while the end of the connection is on its way to the sender.
        """
        if self._sweeper is not None:
            self._sweeper.cancel()
        for _ in range(LAST_READS):
            left = [stream for stream in self.streams if stream.has_unread]
            for stream in self.streams.difference(left):
                stream.close()
            if not left:
                return
            await asyncio.sleep(0)
        for stream in list(self.streams):
            stream.close()
