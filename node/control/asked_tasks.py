"""All that a program may know about a task: where it stands, its arguments, its story, and its result if that was kept."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from spoolnode.node.commons import ENDED, HELD, CommonsAway, CommonTask
from spoolnode.node.control.in_store import InStore, has_left
from spoolnode.node.control.store_pages import STATES
from spoolnode.node.control.stories import Stories
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.kept import read_kept
from spoolnode.node.spool.reader import Reader
from spoolnode.node.story.notes import DONE, MERGED, REMOVED, Happened
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.fetch import MAX_RESULT
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.values import pack

MOST_STEPS = 100
"""Steps of a story that are told: the first one, and the last ones."""


class AskedTasks:
    """The tasks of one node that are on its disk, or have left a result there, and those of its common store."""

    def __init__(
        self, storage: Storage, stories: Stories, running: Callable[[], list[dict[str, Any]]], in_store: InStore
    ) -> None:  # fmt: skip
        """`running`: rows about the tasks that run now."""
        self._journal = storage.journal
        self._stories = stories
        self._running = running
        self._in_store = in_store

    def __repr__(self) -> str:
        return f"<AskedTasks of {self._journal.layout.root}>"

    async def told(self, identity: str, steps: Sequence[Happened]) -> bytes | None:
        """The answer about a task, as docs/wire-format.md has it; None if it is not here. Raises `Refused`.

        Args:
            identity: its id here, or the one from its first node.
            steps: its story on this node.
        """
        known = list(dict.fromkeys([identity, *(step.id for step in steps), *(step.origin_id or "" for step in steps)]))
        has_ended = bool(steps) and steps[-1].kind in (DONE, REMOVED, MERGED)
        running = {row["id"]: row["seconds"] for row in self._running()}  # first: what ends meanwhile is not taken for waiting
        reader = self._journal.reader
        found = await asyncio.to_thread(_found, reader, known, is_on_disk=not has_ended)
        if found is None and not has_left(steps):
            found = await self._found_in_store(known)
        if found is None:
            return None
        here = found.pop("id", identity)
        if found["state"] != inspect.DEAD and here in running:
            found |= {"state": "running", "seconds": running[here]}
        story = await self._stories.whole(identity, found.pop("taker", ""))
        # As JSON: what tasks raise may hold text that is not fit for UTF-8.
        return pack({**found, "story": json.dumps(story[:1] + story[1:][-MOST_STEPS:])})

    async def _found_in_store(self, known: list[str]) -> dict[str, Any] | None:
        try:
            stored = await self._in_store.look_up(known)
            if stored is None or stored.state == ENDED:
                if stored is None or not stored.result:
                    return None
                return {"state": "done", "kept": stored.result, "taker": stored.node_id}
            state = "running" if stored.state == HELD else STATES[stored.state]
            return {"state": state, **await self._call_in(stored), "taker": stored.node_id}
        except CommonsAway as error:
            raise Refused(Reason.BUSY, str(error)) from error

    async def _call_in(self, stored: CommonTask) -> dict[str, Any]:
        """The function of a task in the store and its arguments, as `_call`; without them if their body has just gone."""
        variables = dict(decode_variables(stored.block))
        is_in_body = names.VALUES not in variables and 0 < stored.size <= MAX_RESULT
        body = await self._in_store.body(stored) if is_in_body else b""
        call = _call(variables, body)
        return call if names.VALUES in variables or len(body) == stored.size else {"function": call["function"]}


def _found(reader: Reader, known: list[str], *, is_on_disk: bool) -> dict[str, Any] | None:
    """A task with one of these ids, as the disk has it. Its result comes last: it may run again."""
    for identity in filter(names.is_task_id, known) if is_on_disk else ():
        place = inspect.find_place(reader, identity, time.time())
        if place is not None:
            try:
                file = inspect.read_file(reader, place[1])
            except (BadPacket, OSError):  # it has gone since
                continue
            return {"id": identity, "state": place[0].state, **_call(dict(file.variables), file.body)}
    for identity in filter(names.is_task_id, known):
        if (kept := read_kept(reader.layout, identity)) is not None:
            return {"state": "done", "kept": kept}
    return None


def _call(variables: dict[bytes, bytes], body: bytes) -> dict[str, Any]:
    """The function of a task and its arguments as they lie there, unless they are too large to be told."""
    packed = variables.get(names.VALUES, body)
    function = names.function_named(variables).decode("utf-8", "replace")
    return {"function": function, **({"values": packed} if len(packed) <= MAX_RESULT else {})}
