"""The handlers of `/api/v1` that change something."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from spoolnode.node.control import resources
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.parameters import Asked, asked_by, begin_of, choice_of, part_of, seconds_of, task_of
from spoolnode.node.control.stop import Stop
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.reload import LoadAnswer
from spoolnode.protocol.cancel import ANSWER_SECONDS, LONGEST_GRACE, MOST_BY, CancelRequest
from spoolnode.protocol.names import is_node_id, is_node_name
from spoolnode.protocol.printable import printable


class Actions:
    """All that can be done to one node."""

    def __init__(
        self, app: str, storage: Storage, neighbours: Neighbours, admin: TaskAdmin, stop: Stop,
        reload: Callable[[], LoadAnswer | None],
    ) -> None:  # fmt: skip
        """
        Args:
            app: the application; empty if there is none.
            reload: asks for a reload; None when the node has no application, or is stopping.
        """
        self._app = app
        self._storage = storage
        self._neighbours = neighbours
        self._admin = admin
        self._stop = stop
        self._ask_to_reload = reload

    def __repr__(self) -> str:
        return f"<Actions on {self._admin!r}>"

    async def remove(self, request: Asked) -> dict[str, Any]:
        """Removes a task that waits (also for another node) or is dead."""
        identity = task_of(request)
        await self._admin.remove(identity)
        return {"id": identity, "removed": True}

    async def retry(self, request: Asked) -> dict[str, Any]:
        """Makes a task ready now, whether it waits for its time, for another node, or is dead."""
        identity = task_of(request)
        return {"id": identity, "ready": True, "destination": await self._admin.retry(identity) or None}

    async def cancel(self, request: Asked) -> dict[str, Any]:
        """Ends a task for good, wherever it is; says whether it was cancelled, had ended well before, or may be elsewhere."""
        identity, grace = task_of(request), min(seconds_of(request, "grace_seconds", 5.0), LONGEST_GRACE)
        by = printable(request.query.get("by", asked_by.get()))[:MOST_BY]
        answer = await self._admin.cancel(CancelRequest(identity, by, grace, grace + ANSWER_SECONDS))
        return {"id": identity, "outcome": answer.outcome.value, "reason": answer.text}

    async def retry_dead(self, request: Asked) -> dict[str, Any]:
        """Makes dead tasks ready again: those that are chosen, or all."""
        done, left = await self._admin.retry_dead(choice_of(request), part_of(request), begin_of(request))
        return {"ready": done.tasks, "left": left, "next": done.next, "missing": done.missing}

    async def remove_dead(self, request: Asked) -> dict[str, Any]:
        """Removes dead tasks: those that are chosen, or all."""
        done, left = await self._admin.remove_dead(choice_of(request), part_of(request), begin_of(request))
        return {"removed": done.tasks, "left": left, "next": done.next, "missing": done.missing}

    async def pause(self, request: Asked) -> dict[str, Any]:
        """Starts no tasks of a function, or none at all."""
        return resources.of_pauses(await self._storage.pauses.pause(request.query.get("function", "")))

    async def resume(self, request: Asked) -> dict[str, Any]:
        """Starts them again."""
        paused = await self._storage.pauses.resume(request.query.get("function", ""))
        self._storage.spool.waiting.changed()
        return resources.of_pauses(paused)

    async def flush(self, request: Asked) -> dict[str, Any]:
        """Tries destinations now, or all of them."""
        return {"items": await self._admin.flush(request.query.getall("to", []))}

    async def accept(self, request: Asked) -> dict[str, Any]:
        """Gives a name that several nodes claim to one of them."""
        name, identity = request.query.get("name", ""), request.query.get("id", "")
        if not is_node_name(name):
            right = "1 to 63 letters, digits, '.', '_' or '-'"
            raise web.HTTPBadRequest(text=f"{name!r} cannot be a node's name; it must be {right}")
        if not is_node_id(identity):
            right = "the 12 hexadecimal digits that `spoolnode peers` shows"
            raise web.HTTPBadRequest(text=f"{identity!r} is not a node's id; it must be {right}")
        self._neighbours.accept(name, identity)
        return {"name": name, "id": identity}

    async def forget(self, request: Asked) -> dict[str, Any]:
        """Forgets a node that will never come back."""
        query = request.query
        node, move_to, in_doubt = query.get("node", ""), query.get("move_to", ""), query.get("in_doubt", "dead")
        if in_doubt not in ("dead", "move"):
            raise web.HTTPBadRequest(text=f"in_doubt is {in_doubt[:80]!r}; it must be dead or move")
        if in_doubt == "move" and not move_to:
            raise web.HTTPBadRequest(text="in_doubt=move needs move_to, which says where they go")
        return await self._admin.gone_nodes.forget(node, move_to, move_doubts=in_doubt == "move")

    async def reload(self, request: Asked) -> dict[str, Any]:
        """Asks for a reload, and waits for its outcome for so many seconds."""
        seconds = seconds_of(request, "wait_seconds", 0.0)
        answer = self._ask_to_reload()
        if answer is None:
            why = "this node is stopping" if self._app else "this node has no application, so there is nothing to reload"
            raise web.HTTPConflict(text=why)
        if not seconds:
            return {"outcome": "asked", "reason": ""}
        await asyncio.wait({answer}, timeout=seconds)
        if not answer.done() or answer.cancelled():
            return {"outcome": "stopping" if answer.done() else "loading", "reason": ""}
        return {"outcome": "failed" if answer.result() else "reloaded", "reason": answer.result()}

    async def settle(self, request: Asked) -> dict[str, Any]:
        """Gives each waiting task a spool file of its own."""
        del request
        journal = self._storage.journal
        before = journal.in_batches
        await self._storage.settle_all()
        return {"settled": before - journal.in_batches, "left": journal.in_batches}

    async def drain(self, request: Asked) -> dict[str, Any]:
        """Hands the waiting tasks to others and stops."""
        del request
        if self._stop.is_asked:
            raise web.HTTPConflict(text=f"this node is {self._stop.state} already")
        before = {"waiting": self._storage.spool.total, "outbox": self._storage.outbox.total}
        self._stop.ask_to_drain(waiting=before["waiting"])
        return {"draining": True, **before}

    async def stop(self, request: Asked) -> dict[str, Any]:
        """Stops, as SIGTERM does; with `files`, each waiting task gets a file of its own before."""
        files = request.query.get("files", "false")
        if files not in ("true", "false"):
            raise web.HTTPBadRequest(text=f"files is {files[:80]!r}; it must be true or false")
        self._stop.ask(files=files == "true")
        return {"stopping": True}
