"""How far tasks are, as they say themselves: a worker passes it on, at most twice a second a task; the node remembers it."""

import time
from _thread import allocate_lock, start_new_thread  # not `threading`, which an application may replace (gevent)
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import sleep
from typing import Any

PAUSE = 0.5
"""Seconds between two messages about one task."""
MOST_TEXT = 200
"""Characters of what a task says about its progress."""


class ProgressTeller:
    """In a worker: passes on what tasks say. The last word of a task is always passed on."""

    def __init__(self, send: Callable[[list[Any]], None]) -> None:
        """`send`: says something to the node, from any thread."""
        self._send = send
        self._lock = allocate_lock()
        self._latest: dict[str, tuple[float, str]] = {}
        """Not passed on yet, by the ids of the tasks."""
        self._resting: set[str] = set()
        """The tasks of which something was passed on just now."""

    def say(self, identity: str, done: float, text: str) -> None:
        """A task says how far it is."""
        with self._lock:
            self._latest[identity] = (done, text[:MOST_TEXT])
            if identity in self._resting:
                return  # its thread passes it on
            self._resting.add(identity)
        start_new_thread(self._pass_on, (identity,))

    def _pass_on(self, identity: str) -> None:
        while True:
            with self._lock:
                said = self._latest.pop(identity, None)
                if said is None:
                    self._resting.discard(identity)
                    return
            with suppress(OSError):  # in a child that the task forked, which has no way to the node
                self._send(["progress", identity, *said])
            sleep(PAUSE)


class ProgressHeard:
    """In the node: how far the running tasks are."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._of)

    def hear(self, identity: str, done: float, text: str) -> dict[str, Any]:
        """A task says how far it is. Returns that as it is shown."""
        said = self._of[identity] = {"progress": done, "progress_text": text, "progress_at": time.time()}
        return said

    def of(self, identity: str) -> dict[str, Any]:
        """The last word of a task; empty if it has said nothing."""
        return self._of.get(identity, {})

    def forget(self, identities: Iterable[str]) -> None:
        """These tasks do not run any more."""
        for identity in identities:
            self._of.pop(identity, None)
