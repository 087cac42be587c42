"""What operators do to tasks: list them, look at one, remove it, make it ready again, try a destination now."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from spoolnode.node.control.counting import Counting
from spoolnode.node.disk.layout import number_of, outbox_ref, ref_id
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader
from spoolnode.node.spool.tasks import Source
from spoolnode.node.work.workers import Workers
from spoolnode.protocol.errors import BadPacket, SpoolnodeError
from spoolnode.protocol.request import Terms

LINKS_AT_ONCE = 500
"""Destinations that are tried in one turn of the loop: about three milliseconds."""
STATES: dict[str, Callable[[Reader, float, int], Iterator[inspect.Info]]] = {
    "waiting": lambda reader, now, _limit: inspect.waiting_tasks(reader, now),
    "dead": lambda reader, now, limit: inspect.dead_tasks(reader, now, first=limit),
    "outbox": lambda reader, now, _limit: inspect.outbox_tasks(reader, now),
}
"""The lists of tasks, by name."""


class NoSuchTask(SpoolnodeError):
    """You erred: no task with that id is here (any more)."""


class NotAllowedNow(SpoolnodeError):
    """You erred: the task is in a place where this is impossible now."""


class TaskAdmin:
    """The tasks of one node, in the hands of its operators."""

    def __init__(
        self, storage: Storage, neighbours: Neighbours, workers: Workers, aside: Counting, report: Callable[..., None]
    ) -> None:
        self._storage = storage
        self._journal, self._spool, self._outbox = storage.journal, storage.spool, storage.outbox
        self._neighbours = neighbours
        self._workers = workers
        self._aside = aside
        self._report = report

    def __repr__(self) -> str:
        return f"<TaskAdmin of {self._spool.total} tasks and {self._outbox.total} in the outbox>"

    # -- looking --

    async def listed(self, state: str, limit: int) -> list[inspect.Info]:
        """The tasks in one of `STATES`, the soonest first; 0 lists all."""
        reader, listing = self._journal.reader, STATES[state]
        found: list[inspect.Info] = await _read(lambda: inspect.soonest(reader, listing(reader, time.time(), limit), limit))
        return found

    def running(self) -> dict[str, dict[str, Any]]:
        """Facts about the tasks that run now, by their ids."""
        return {row["id"]: row for row in self._workers.running()}

    async def show(self, identity: str) -> dict[str, Any]:
        """One task, with its contents. Raises `NoSuchTask`."""
        reader = self._journal.reader

        def read() -> dict[str, Any] | None:
            now = time.time()
            found = inspect.find_place(reader, identity, now) or inspect.find_arrived(reader, identity, now)
            return None if found is None else {**found[0]._asdict(), **inspect.contents(reader, found[1])}

        try:
            shown: dict[str, Any] | None = await _read(read)
        except (BadPacket, FileNotFoundError) as error:
            raise NoSuchTask(f"the task {identity} cannot be read: {error}") from error
        if shown is None:
            raise _unknown(identity)
        identity, running = shown["id"], self.running()
        if identity in running:
            shown |= {"state": "running", **running[identity]}
        if shown["state"] != "dead" and (reason := self._spool.retrying.reason(identity)):
            shown["last_error"] = reason
        return shown

    # -- changing --

    async def remove(self, identity: str) -> None:
        """Removes a task that waits or is dead. Raises `NoSuchTask`, `NotAllowedNow`, OSError."""
        while (found := await self._find(identity)) is not None and found[0].frozen:  # noqa: ASYNC110  # rare, and soon over
            await asyncio.sleep(0.01)  # it is moving to a file of its own
        if found is not None and found[1] in found[0].in_flight:
            raise NotAllowedNow(f"the task {identity} is {_holder(*found)}; only waiting tasks can be removed")
        if found is None or not await self._storage.remove(*found):
            path = await self._where(identity, inspect.DEAD, inspect.OUTBOX)
            await self._journal.moves.run(lambda: self._journal.store.remove(path))
            self._aside.expire()
        self._report("removed", id=identity)

    async def retry(self, identity: str) -> str | None:
        """Makes a task ready now, wherever it waits. Returns the destination for which it then waits; None if that is here.

        Raises `NoSuchTask`, `NotAllowedNow`, OSError.
        """
        found = await self._find(identity)
        to = self._outbox.where_to(*found) if found is not None else None
        if to is not None:
            if reason := self._try_now(to):
                raise NotAllowedNow(f"the task {identity} waits for {to}: {reason}")
        elif found is None or not self._spool.hurry(*found):
            place = await _read(lambda: inspect.find_place(self._journal.reader, identity))
            if place is not None and place[0].state != inspect.DEAD:
                raise NotAllowedNow(f"the task {identity} is ready, running or being sent already")
            to = await self._revive(await self._where(identity, inspect.DEAD))
        self._report("retry_asked", id=identity)
        return to

    async def retry_dead(self) -> int:
        """Makes all dead tasks ready again. Returns how many."""
        reader = self._journal.reader
        dead = await _read(lambda: list(inspect.dead_tasks(reader, time.time())))
        for info in dead:
            await self._revive(info.where)
            self._report("retry_asked", id=info.id)
        return len(dead)

    async def flush(self, asked: list[str]) -> list[dict[str, Any]]:
        """Tries these destinations now, or all that tasks wait for. Returns a row for each."""
        sizes = self._outbox.sizes()
        rows, aliases = [], self._aliases()
        for index, name in enumerate(asked or sizes, 1):
            waiting = [alias for alias in {name, *aliases.get(name, ())} if alias in sizes]
            reasons = [self._try_now(alias) for alias in waiting]
            tried, count = "" in reasons, sum(sizes[alias] for alias in waiting)
            reason = "" if tried else "".join(reasons[:1])
            rows.append({"destination": name, "waiting": count, "tried": tried, "reason": reason})
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows

    async def _find(self, identity: str) -> tuple[Source, Any] | None:
        """The place of a task that waits, or is with a worker or a link."""
        found = self._spool.find(identity)
        if found is None and self._outbox.files.known:
            place = await _read(lambda: inspect.find_place(self._journal.reader, identity))
            found = self._storage.at(place[0].where) if place is not None else None
        return found

    async def _where(self, identity: str, *states: str) -> str:
        """The file of a task that is in one of these states. Raises `NoSuchTask`."""
        found = await _read(lambda: inspect.find_place(self._journal.reader, identity))
        if found is None or found[0].state not in states:
            raise _unknown(identity)
        return str(found[0].where)

    async def _revive(self, where: str) -> str:
        """Puts a dead task back to the waiting ones. Returns the node that it waits for; empty is this one."""
        journal, outbox = self._journal, self._outbox
        with journal.placing():
            asked = await journal.moves.run(lambda: destination_again(journal.reader.block_of(where)))
            to = self._neighbours.route(Terms(destination=asked))[0] if asked else ""
            target = outbox_ref(to, ref_id(where), outbox.number(to)) if to else ""
            try:
                ref = await journal.moves.run(lambda: journal.store.revive(where, target))
            except BaseException:
                if target:
                    outbox.refused(to, number_of(target))
                raise
            if to:
                outbox.accept_file(ref, time.time())
            else:
                self._spool.files.notice(ref, 0.0, time.time(), sure=True)
        self._aside.expire()
        return to

    def _aliases(self) -> dict[str, set[str]]:
        """All names under which tasks may wait, for each name of a node and each tag."""
        found: dict[str, set[str]] = {}
        for row in self._neighbours.peers():
            called = {row["id"], row["name"], row["address"], *row["former_names"]} - {""}
            for name in (*called, *(f"tag:{tag}" for tag in row["tags"])):
                found.setdefault(name, set()).update(called)
        return found

    def _try_now(self, to: str) -> str:
        """Tries a destination that tasks wait for. Returns why that is impossible, or an empty text."""
        link = self._neighbours.link(to)
        if link is None or not link["known"]:
            return str(link["reason"]) if link is not None else "this node is not in a cluster"
        self._neighbours.flush(to)
        return ""


async def _read(job: Callable[[], Any]) -> Any:
    """Runs a long read in a thread of its own, so that tasks do not wait for it."""
    return await asyncio.get_running_loop().run_in_executor(None, job)


def _holder(source: Source, ref: Any) -> str:
    """Says where a task in flight is."""
    return "being sent to another node right now" if source.sequence_number(ref) else "with a worker"


def _unknown(identity: str) -> NoSuchTask:
    return NoSuchTask(f"there is no task {identity} here: it has ended, was removed, or never existed")
