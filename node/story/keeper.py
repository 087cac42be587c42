"""Keeps the story of each task: takes notes on the event loop, and has a thread write them.

The loop never waits for the thread. What it cannot keep up with, or cannot write for long, is dropped and counted.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Any, Protocol

from spoolnode.node.disk.threads import DiskThread
from spoolnode.node.story.database import BeganAgain, StoryDatabase
from spoolnode.node.story.ended import EndedTask, EndPlace, IsWanted
from spoolnode.node.story.notes import ACCEPTED, Happened, Note, rows_of

GATHER_SECONDS = 0.25
"""How long notes are gathered before they are written together."""
REST_SECONDS = 1.0
"""The pause before a write that failed is tried again."""
MOST_NOTED = 65_536
"""Tasks whose notes may wait to be written."""


class Story(Protocol):
    """Is told what happens to tasks."""

    @property
    def dropped(self) -> int:
        """Tasks of which something was not written."""

    @property
    def rows(self) -> int | None:
        """How many rows the database has, about; None if that is not known."""

    def note(
        self, kind: str, batch: int | None, refs: MutableSequence[Any], seconds: Sequence[float] = (), **detail: Any
    ) -> None:
        """The same happened to all these tasks, just now.

        Args:
            batch: the number of the batch in which they are; None: each has a file of its own.
            seconds: how long each ran, if that is known.
        """

    def accepted(
        self, batch: int | None, refs: MutableSequence[Any], callers: Sequence[str], origins: Mapping[Any, bytes],
        functions: Mapping[Any, bytes], **detail: Any,
    ) -> None:  # fmt: skip
        """Tasks were accepted.

        Args:
            callers: who sent each.
            origins: the ids that tasks from other nodes have there, by ref.
            functions: the names of their functions, of those that name one.
        """

    async def steps(self, identity: str) -> list[Happened]:
        """The story of a task so far; empty if nothing is known, or the database cannot be read now."""

    async def ends(
        self, after: EndPlace | None, most: int, is_wanted: IsWanted
    ) -> tuple[list[EndedTask], EndPlace | None]:  # fmt: skip
        """See `ended.ends`; empty if the database cannot be read now."""

    async def close(self) -> None:
        """Returns when all notes are written, or cannot be."""


class Untold:
    """For a node that keeps no story."""

    dropped = 0
    rows = None

    def note(
        self, kind: str, batch: int | None, refs: MutableSequence[Any], seconds: Sequence[float] = (), **detail: Any
    ) -> None:
        """Does nothing."""

    def accepted(
        self, batch: int | None, refs: MutableSequence[Any], callers: Sequence[str], origins: Mapping[Any, bytes],
        functions: Mapping[Any, bytes], **detail: Any,
    ) -> None:  # fmt: skip
        """Does nothing."""

    async def steps(self, identity: str) -> list[Happened]:  # noqa: ARG002  # of any
        """Knows nothing."""
        return []

    async def ends(
        self, after: EndPlace | None, most: int, is_wanted: IsWanted  # noqa: ARG002  # of any
    ) -> tuple[list[EndedTask], EndPlace | None]:  # fmt: skip
        """Knows nothing."""
        return [], None

    async def close(self) -> None:
        """Does nothing."""


class StoryKeeper:
    """The notes of one node, and the thread that writes them."""

    def __init__(
        self, database: StoryDatabase, node_id: str, node: str, report: Callable[..., None],
        thread: Callable[[str], DiskThread] = DiskThread,
    ) -> None:  # fmt: skip
        """`node`: the node's name."""
        self._database = database
        self._node_id, self._node = node_id, node
        self._report = report
        self._thread = thread("story")
        self._loop = asyncio.get_running_loop()
        self._notes: list[Note] = []
        self._noted = 0
        """The tasks in them, and in those that are just being written."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._is_failing = False
        self.dropped = 0
        """Tasks of which something was not written."""

    def __repr__(self) -> str:
        return f"<StoryKeeper, {self._noted} to write, {self.dropped} dropped>"

    @property
    def rows(self) -> int | None:
        """See `Story`."""
        return self._database.rows

    def note(
        self, kind: str, batch: int | None, refs: MutableSequence[Any], seconds: Sequence[float] = (), **detail: Any
    ) -> None:
        """See `Story`."""
        self._add(Note(kind, time.time(), batch, refs, detail, seconds))

    def accepted(
        self, batch: int | None, refs: MutableSequence[Any], callers: Sequence[str], origins: Mapping[Any, bytes],
        functions: Mapping[Any, bytes], **detail: Any,
    ) -> None:  # fmt: skip
        """See `Story`."""
        self._add(Note(ACCEPTED, time.time(), batch, refs, detail, (), callers, origins, functions))

    def _add(self, note: Note) -> None:
        count = len(note.refs)
        if self._noted + count > MOST_NOTED:
            self.dropped += count
            return
        self._noted += count
        self._notes.append(note)
        if self._timer is None and not self._is_writing:
            self._timer = self._loop.call_later(GATHER_SECONDS, self._write)

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._notes:
            self._write()

    def _write(self) -> None:
        self._timer = None
        notes, self._notes = self._notes, []
        count = sum(len(note.refs) for note in notes)
        self._is_writing = True

        def written(result: None, error: BaseException | None) -> None:
            del result
            self._is_writing = False
            if error is not None:
                self._notes = notes + self._notes
            else:
                self._noted -= count
            self._say(error)
            if self._notes:
                self._timer = self._loop.call_later(REST_SECONDS if error is not None else GATHER_SECONDS, self._write)

        self._thread.submit(lambda: self._database.write(rows_of(notes, self._node_id, self._node)), written)

    def _say(self, error: BaseException | None) -> None:
        """Says once that the story cannot be written, and once that it can be again."""
        if isinstance(error, BeganAgain):
            self._report("history_began_again", reason=str(error))
        elif (error is not None) != self._is_failing:
            self._is_failing = error is not None
            action = "history_stopped" if error is not None else "history_goes_on"
            self._report(action, reason=str(error or "it can be written again"))

    async def steps(self, identity: str) -> list[Happened]:
        """See `Story`."""
        self._write_now()
        try:
            steps: list[Happened] = await self._thread.run(lambda: self._database.steps(identity))
        except (BeganAgain, OSError, sqlite3.Error):
            return []  # the next write finds out, too, and says so
        return steps

    async def ends(
        self, after: EndPlace | None, most: int, is_wanted: IsWanted
    ) -> tuple[list[EndedTask], EndPlace | None]:  # fmt: skip
        """See `Story`."""
        self._write_now()
        try:
            found: tuple[list[EndedTask], EndPlace | None]
            found = await self._thread.run(lambda: self._database.ends(after, most, is_wanted))
        except (BeganAgain, OSError, sqlite3.Error):
            return [], None  # as above
        return found

    async def close(self) -> None:
        """See `Story`."""
        self._write_now()
        await self._thread.run(self._database.close)
        await self._thread.close()
