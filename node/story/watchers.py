"""Wakes what waits for something to happen to a task."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator


class Watchers:
    """The tasks that something waits for, by their ids here."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    def __bool__(self) -> bool:
        return bool(self._events)

    def tell(self, identity: str) -> None:
        """Something happened to that task."""
        for event in self._events.get(identity, ()):
            event.set()

    @contextlib.contextmanager
    def watching(self, identities: Iterable[str]) -> Iterator[asyncio.Event]:
        """Yields an event that is set when something happens to one of these tasks."""
        event, watched = asyncio.Event(), list(identities)
        for identity in watched:
            self._events.setdefault(identity, set()).add(event)
        try:
            yield event
        finally:
            for identity in watched:
                events = self._events[identity]
                events.discard(event)
                if not events:
                    del self._events[identity]
