"""The handlers of `/api/v1` that look, and change nothing."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from spoolnode.node.control import resources
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.ages import as_answer
from spoolnode.node.control.ended_page import ended_page
from spoolnode.node.control.function_hours import together
from spoolnode.node.control.hidden import Hidden
from spoolnode.node.control.pages import Listed
from spoolnode.node.control.parameters import Asked, ages_by_of, by_of, choice_of, ends_of, task_of, wanted_of
from spoolnode.node.control.status import LINKS_AT_ONCE, NodeStatus
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.story.ended import EndedTask

ROWS_AT_ONCE = 1000
"""Tasks of a page that are sent together: encoding many at once would block the interpreter, in any thread."""


class Views:
    """All that can be seen of one node."""

    def __init__(self, storage: Storage, neighbours: Neighbours, status: NodeStatus, admin: TaskAdmin, hidden: Hidden) -> None:
        self._storage = storage
        self._neighbours = neighbours
        self._status = status
        self._admin = admin
        self._hidden = hidden

    def __repr__(self) -> str:
        return f"<Views of {self._status!r}>"

    async def node(self, request: Asked) -> dict[str, Any]:
        """The state of the node, in numbers."""
        del request
        await self._status.aside.recount()
        return resources.of_node(self._status.now())

    async def nodes(self, request: Asked) -> dict[str, Any]:
        """The other nodes, as this one sees them."""
        del request
        return _items([resources.of_peer(row) for row in self._neighbours.peers()])

    async def cluster(self, request: Asked) -> dict[str, Any]:
        """All nodes in numbers, this one first."""
        del request
        await self._status.aside.recount()
        here = resources.of_this_in_cluster(self._status.now(), self._status.address)
        return _items([here, *(resources.of_peer_in_cluster(row) for row in self._neighbours.peers())])

    async def history(self, request: Asked) -> AsyncIterator[bytes]:
        """The last hour, minute by minute."""
        del request
        told = time.time(), self._status.history(), self._status.functions()
        return _encoded_by(partial(_encoded_history, *told))

    async def warnings(self, request: Asked) -> dict[str, Any]:
        """Troubles and remedies, for people."""
        del request
        return _items([each._asdict() for each in self._status.advice()])

    async def links(self, request: Asked) -> dict[str, Any]:
        """The destinations that tasks wait for, and why they still wait."""
        del request
        outbox, rows = self._storage.outbox, []
        for index, (to, waiting) in enumerate(outbox.sizes().items(), 1):
            rows.append(resources.of_link(to, waiting, outbox.in_doubt(to), self._status.link(to)))
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return _items(rows)

    async def forgettable(self, request: Asked) -> dict[str, Any]:
        """The tasks that wait for a node that can be forgotten."""
        return self._admin.gone_nodes.look(request.query.get("node", ""))

    async def timers(self, request: Asked) -> dict[str, Any]:
        """The timers of the application."""
        del request
        return _items([resources.of_timer(row) for row in self._status.timers.rows()])

    async def pauses(self, request: Asked) -> dict[str, Any]:
        """The pauses of the node."""
        del request
        return resources.of_pauses(self._storage.pauses.now)

    async def functions(self, request: Asked) -> dict[str, Any]:
        """The functions that are limited, are paused, run, ran in the last hour, or have dead tasks."""
        del request
        dead = Counter[str]()
        for group in (await self._admin.dead_of_functions()).items:
            dead[group["function"]] += group["tasks"]
        running = self._admin.running_by_function()
        starting, paused = self._storage.spool.starting, self._storage.pauses.now
        limits, held_back = starting.throttle.limits(), starting.held_back()
        hours = self._status.functions()
        known = sorted({*limits, *held_back, *paused.functions, *running, *dead, *hours} - {""})
        return _items(
            [
                resources.of_function(
                    name, is_paused=paused.everything or name in paused.functions, limit=limits.get(name),
                    held_back=held_back.get(name, 0), running=running[name], dead=dead[name],
                    hour=together(hours.get(name, ())),
                )
                for name in known
            ]
        )  # fmt: skip

    async def dead(self, request: Asked) -> dict[str, Any]:
        """The dead tasks by kind, by function or by reason."""
        count, stored = await self._admin.dead_by(by_of(request), choice_of(request))
        return {**count._asdict(), "more_in_store": stored.has_more, "missing": stored.missing}

    async def ages(self, request: Asked) -> dict[str, Any]:
        """The tasks that wait, counted by their age."""
        by = ages_by_of(request)
        found = await self._admin.ages(by)
        destinations = [group for group, _ in found.largest() if group and by == "node"]
        links = {to: self._neighbours.link(to) for to in destinations}
        return as_answer(found, by, {to: link["name"] for to, link in links.items() if link is not None})

    async def task(self, request: Asked) -> dict[str, Any]:
        """One task with its contents and its story."""
        return self._hidden.in_task(await self._admin.show(task_of(request)))

    async def tasks(self, request: Asked) -> AsyncIterator[bytes]:
        """A page of a list of tasks, piece by piece."""
        encode: Callable[[list[Any]], bytes]
        rows: list[Any]
        missing = ""
        if (ends := ends_of(request)) is not None:
            rows, cursor = await ended_page(self._storage.journal.story.ends, ends)
            encode = _encoded_ends
        else:
            running = self._admin.running()  # once: a row of those that run has its worker, though it may end meanwhile
            rows, cursor, missing = await self._admin.page(wanted_of(request), running)
            errors = self._storage.spool.retrying.reason
            encode = partial(_encoded, running=running, paused=self._storage.pauses.now, error=errors)
        return _pieces(rows, cursor, missing, encode)


async def _pieces(
    rows: list[Any], cursor: str | None, missing: str, encode: Callable[[list[Any]], bytes]
) -> AsyncIterator[bytes]:  # fmt: skip
    """A page; it takes the rows."""
    head = before = b'{"items": ['
    while rows:
        piece = rows[:ROWS_AT_ONCE]
        del rows[:ROWS_AT_ONCE]  # freed a few at a time, too
        yield before + await asyncio.get_running_loop().run_in_executor(None, encode, piece)
        before = b", "
    yield (head if before is head else b"") + f'], "next": {json.dumps(cursor)}, "missing": {json.dumps(missing)}}}'.encode()


async def _encoded_by(encode: Callable[[], bytes]) -> AsyncIterator[bytes]:
    """An answer that is too large to be encoded on the event loop."""
    yield await asyncio.get_running_loop().run_in_executor(None, encode)


def _items(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"items": rows}


def _encoded_history(*told: Any) -> bytes:
    """The hour of a hundred functions is fifty thousand numbers: they are encoded in a thread, one function at a time."""
    found = resources.of_history(*told)
    functions = ", ".join(map(json.dumps, found.pop("functions")))
    return f'{json.dumps(found)[:-1]}, "functions": [{functions}]}}'.encode()


def _encoded_ends(rows: list[EndedTask]) -> bytes:
    return ", ".join(json.dumps(resources.of_ended(task)) for task in rows).encode()


def _encoded(rows: list[Listed], **facts: Any) -> bytes:
    return ", ".join(json.dumps(resources.of_task(row, **facts)) for row in rows).encode()
