"""Tells those who listen what happens to tasks, while it happens. Without a listener it costs nothing.

A listener that does not keep up loses the oldest events that wait for it, and is told how many: nothing here waits for it.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any

from spoolnode.node.disk.layout import ref_id
from spoolnode.node.story.ended import EndedTask, EndPlace, IsWanted
from spoolnode.node.story.keeper import Story
from spoolnode.node.story.notes import ACCEPTED, Happened
from spoolnode.protocol.names import id_of_record

MOST_HELD = 1000
"""Events that wait for one listener."""


class Audience:
    """One client that listens to everything, or to one task, or to the tasks of one function."""

    def __init__(self, task: str, function: str) -> None:
        self._task = task
        self._function = function
        self._held: deque[dict[str, Any]] = deque()
        self._has_some = asyncio.Event()
        self._lost = 0

    def hear(self, event: dict[str, Any]) -> None:
        """Something happened."""
        if self._task not in ("", event["id"], event.get("origin_id")):
            return
        if self._function and self._function != event["function"]:
            return
        if len(self._held) == MOST_HELD:
            self._held.popleft()
            self._lost += 1
        self._held.append(event)
        self._has_some.set()

    async def next(self) -> tuple[int, list[dict[str, Any]]]:
        """Waits until something has happened. Returns how many events were lost before, and those that wait."""
        await self._has_some.wait()
        self._has_some.clear()
        lost, events = self._lost, list(self._held)
        self._lost = 0
        self._held.clear()
        return lost, events


class Broadcast:
    """The story of one node's tasks, told to listeners and to `story`, which keeps it."""

    def __init__(self, story: Story, node_id: str) -> None:
        self._story = story
        self._node_id = node_id
        self._listeners: set[Audience] = set()
        self.function_of: Callable[[str], str] = lambda _identity: ""
        """Returns the function of a task by its id; empty if that is not known."""

    def __repr__(self) -> str:
        return f"<Broadcast of {self._story!r} to {len(self._listeners)}>"

    @property
    def is_heard(self) -> bool:
        """Whether there is a listener."""
        return bool(self._listeners)

    @contextlib.contextmanager
    def listening(self, task: str = "", function: str = "") -> Iterator[Audience]:
        """Yields a listener that hears what happens from now on."""
        listener = Audience(task, function)
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def tell(self, event: str, identity: str, function: str = "", **detail: Any) -> None:
        """Something happened to a task, or a node, with that id."""
        said = {**detail, "event": event, "at": time.time(), "id": identity, "function": function}
        for listener in self._listeners:
            listener.hear(said)

    # -- the story --

    async def ends(
        self, after: EndPlace | None, most: int, is_wanted: IsWanted
    ) -> tuple[list[EndedTask], EndPlace | None]:  # fmt: skip
        """See `Story`."""
        return await self._story.ends(after, most, is_wanted)

    @property
    def dropped(self) -> int:
        """See `Story`."""
        return self._story.dropped

    @property
    def rows(self) -> int | None:
        """See `Story`."""
        return self._story.rows

    def note(
        self, kind: str, batch: int | None, refs: MutableSequence[Any], seconds: Sequence[float] = (), **detail: Any
    ) -> None:
        """See `Story`."""
        if self._listeners:
            for position, ref in enumerate(refs):
                identity = self._id_of(batch, ref)
                ran = {"seconds": seconds[position]} if position < len(seconds) else {}
                self.tell(kind, identity, **{"function": self.function_of(identity), **ran, **detail})
        self._story.note(kind, batch, refs, seconds, **detail)

    def accepted(
        self, batch: int | None, refs: MutableSequence[Any], callers: Sequence[str], origins: Mapping[Any, bytes],
        functions: Mapping[Any, bytes], **detail: Any,
    ) -> None:  # fmt: skip
        """See `Story`."""
        if self._listeners:
            for ref, caller in zip(refs, callers, strict=True):
                function, origin = (
                    functions.get(ref, b"").decode("utf-8", "replace"),
                    origins.get(ref, b"").decode("ascii", "replace"),
                )
                more = {"origin_id": origin} if origin else {}
                self.tell(ACCEPTED, self._id_of(batch, ref), function, **{"from": caller}, **more, **detail)
        self._story.accepted(batch, refs, callers, origins, functions, **detail)

    async def steps(self, identity: str) -> list[Happened]:
        """See `Story`."""
        return await self._story.steps(identity)

    async def close(self) -> None:
        """See `Story`."""
        await self._story.close()

    def _id_of(self, batch: int | None, ref: Any) -> str:
        return ref_id(ref) if batch is None else id_of_record(self._node_id, batch, ref)
