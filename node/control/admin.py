"""The tasks in the hands of operators: lists them, shows one, removes or cancels it, retries it, tries a destination now."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container
from typing import Any

from spoolnode.node.commons import COMMONS
from spoolnode.node.control import resources
from spoolnode.node.control.ages import Ages, ages
from spoolnode.node.control.cancels import Cancels, holder
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.dead_kinds import DeadCount
from spoolnode.node.control.gone_nodes import GoneNodes
from spoolnode.node.control.in_store import DonePart, InStore, of_store
from spoolnode.node.control.operator_errors import NoSuchTask, NotAllowedNow, unknown
from spoolnode.node.control.pages import Page, Wanted, as_in_the_store, page, variables_of
from spoolnode.node.control.store_pages import StorePlace
from spoolnode.node.control.stored_dead import StoredKinds
from spoolnode.node.control.stories import Stories
from spoolnode.node.disk.layout import number_of, outbox_ref, ref_id
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.revival import destination_again
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import inspect
from spoolnode.node.spool.inspect import Info
from spoolnode.node.spool.place import place_at
from spoolnode.node.story.notes import REMOVED, RETRIED
from spoolnode.node.work.workers import Workers
from spoolnode.protocol.cancel import CancelAnswer, CancelOutcome, CancelRequest
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.names import file_name, function_named
from spoolnode.protocol.packet import decode_variables
from spoolnode.protocol.request import Terms
from spoolnode.protocol.unique import unique_key_in

LINKS_AT_ONCE = 500
"""Destinations that are tried in one turn of the loop: about three milliseconds."""


class TaskAdmin:
    """The tasks of one node, in the hands of its operators."""

    def __init__(
        self, storage: Storage, neighbours: Neighbours, workers: Workers, stories: Stories, cancels: Cancels,
        aside: Counting, in_store: InStore, report: Callable[..., None],
    ) -> None:  # fmt: skip
        self._storage = storage
        self._journal, self._spool, self._outbox = storage.journal, storage.spool, storage.outbox
        self._neighbours = neighbours
        self._workers = workers
        self._stories = stories
        self._cancels = cancels
        self._aside = aside
        self._in_store = in_store
        self.gone_nodes = GoneNodes(neighbours, in_store)
        """Forgets nodes that will never come back."""
        self._ages_lock = asyncio.Lock()
        self._report = report

    def __repr__(self) -> str:
        return f"<TaskAdmin of {self._spool.total} tasks and {self._outbox.total} in the outbox>"

    # -- looking --

    async def page(self, wanted: Wanted, running: Container[str]) -> Page:
        """A part of a list of tasks. `running`: the ids of those that run."""
        held = self._storage.held.spots()
        if wanted.place is not None:
            return await self._in_store.page(wanted, [], frozenset(map(ref_id, held)))
        # What the status counts, and not what files say: that is not known of all that others left.
        tried = {source.place: held for source, held in self._spool.retrying.by_source().items()}

        def has_failed(info: Info) -> bool:
            place, ref = place_at(info.where)
            return tried.get(place, {}).get(ref) == 0

        found: Page = await _read(lambda: page(self._journal.reader, wanted, time.time(), running, has_failed, held))
        return found if found.next else await self._in_store.page(wanted, found.items, frozenset(map(ref_id, held)))

    async def ages(self, by: str) -> Ages:
        """Counts the tasks that wait by their age. `by`: one of `ages.BY`."""
        async with self._ages_lock:  # one at a time: each look is long
            running = self.running()
            found: Ages = await _read(lambda: ages(self._journal.reader, by, time.time(), running))
            await self._in_store.waiting(found, by, time.time())
            return found

    def running(self) -> dict[str, dict[str, Any]]:
        """Facts about the tasks that run now, by their ids."""
        return {row["id"]: row for row in self._workers.running()}

    def running_by_function(self) -> Counter[str]:
        """How many tasks of each function run; those of which only a look at the disk would tell are under an empty name."""
        return Counter(map(self.function_of, self.running()))

    def function_of(self, identity: str) -> str:
        """The function of a task that waits or runs here; empty if it names none, or only a look at the disk would tell."""
        found = self._storage.find_here(identity)
        if found is None:
            return ""
        source, ref = found
        return self._spool.starting.functions.name(source.alike([ref], 0, 1)[0])

    async def show(self, identity: str) -> dict[str, Any]:
        """One task, with its contents as long as it is here or in the store; its story. Raises `NoSuchTask`, `CommonsAway`."""
        reader, held = self._journal.reader, self._storage.held.spot(identity)

        def look() -> dict[str, Any] | None:
            now = time.time()
            found = inspect.find_held(reader, held, now) if held else None
            found = found or inspect.find_place(reader, identity, now) or inspect.find_arrived(reader, identity, now)
            if found is None:
                return None
            info = as_in_the_store(found[0], variables_of(reader, found[0]))
            return {**info._asdict(), **inspect.contents(reader, found[1])}

        def read() -> dict[str, Any] | None:
            try:
                return look()
            except FileNotFoundError:  # the tasks of its batch became files between two steps of the look
                return look()

        try:
            shown: dict[str, Any] | None = await _read(read)
        except (BadPacket, FileNotFoundError) as error:
            raise NoSuchTask(f"the task {identity} cannot be read: {error}") from error
        if shown is None:
            stored = await self._in_store.follow(identity, await self._journal.story.steps(identity))
            if stored is not None:
                story = await self._stories.whole(identity, stored.node_id)
                return of_store(stored, story, self._stories.without_run(stored, story))
        story = await self._stories.whole(identity if shown is None else shown["id"])
        missing = self._stories.without_beginning(identity, story) if self._in_store.is_there else ""
        told = {"missing": missing, "story": story} if missing else {"story": story}
        if shown is None:
            if not story:
                raise _unknown(identity)
            return {"id": story[0]["id"], "state": inspect.ENDED, **told}
        shown = resources.of_contents(shown)
        identity, running = shown["id"], self.running()
        if identity in running:
            shown |= resources.of_run(running[identity])
        if shown["state"] != "dead" and (reason := self._spool.retrying.reason(identity)):
            shown["last_error"] = reason
        return {**shown, **told}

    # -- changing --

    async def remove(self, identity: str) -> None:
        """Removes a task that waits or is dead. Raises `NoSuchTask`, `NotAllowedNow`, `CommonsAway`, OSError."""
        identity = await self._id_here(identity)
        while (found := await self._storage.find(identity)) is not None and found[0].frozen:  # noqa: ASYNC110  # rare, and soon over
            await asyncio.sleep(0.01)  # it is moving to a file of its own
        if found is not None and found[1] in found[0].in_flight:
            raise NotAllowedNow(f"the task {identity} is {holder(*found)}; only waiting tasks can be removed")
        if found is None or not await self._storage.remove(*found):
            await self._remove_elsewhere(identity)
        else:
            self._note_removed(identity)

    async def _remove_elsewhere(self, identity: str) -> None:
        """Removes a task that does not wait for the workers of this node."""
        found = await self._storage.look_up(identity)
        if self._in_store.is_there and (found is None or is_leased(found)):
            await self._in_store.remove(identity)
        else:
            await self._remove_file(await self._where(identity, inspect.DEAD, inspect.OUTBOX))

    async def _remove_file(self, where: str) -> None:
        await self._journal.moves.run(lambda: self._journal.store.remove(where))
        self._aside.expire()
        self._note_removed(ref_id(where))

    def _note_removed(self, identity: str) -> None:
        self._report("removed", id=identity)
        self._journal.story.note(REMOVED, None, [file_name(identity)])
        self._journal.watchers.tell(identity)

    async def cancel(self, request: CancelRequest) -> CancelAnswer:
        """Ends a task for good, wherever it is. Raises `NoSuchTask`, `NotAllowedNow`."""
        answer = await self._cancels.cancel(request)
        if answer.outcome is CancelOutcome.UNKNOWN:
            raise NoSuchTask(answer.text)
        if answer.outcome is CancelOutcome.NOT_CANCELLED:
            raise NotAllowedNow(answer.text)
        return answer

    async def retry(self, identity: str) -> str | None:
        """Makes a task ready now, wherever it waits. Returns the destination for which it then waits; None if that is here.

        Raises `NoSuchTask`, `NotAllowedNow`, `CommonsAway`, OSError.
        """
        identity = await self._id_here(identity)
        found = await self._storage.find(identity)
        to = self._outbox.where_to(*found) if found is not None else None
        if to is not None:
            if reason := self._try_now(to):
                raise NotAllowedNow(f"the task {identity} waits for {to}: {reason}")
        elif found is None or not self._spool.hurry(*found):
            place = await self._storage.look_up(identity)
            if self._in_store.is_there and (place is None or is_leased(place)):
                return await self._in_store.retry(identity)
            if place is not None and place.state != inspect.DEAD:
                raise NotAllowedNow(f"the task {identity} is ready, running or being sent already")
            to = await self._revive(await self._where(identity, inspect.DEAD))
        self._note_retry(identity)
        return to

    async def dead_by(self, by: str, choice: Choice) -> tuple[DeadCount, StoredKinds]:
        """Counts the dead tasks that are meant, here and in the store. `by`: see `Counting.dead_by`."""
        stored = await self._in_store.dead.look()
        return await self._aside.dead_by(by, choice, stored.known), stored

    async def dead_of_functions(self) -> DeadCount:
        """Counts the dead tasks by function; those in the store as they were known last."""
        return await self._aside.dead_by("function", Choice(), self._in_store.dead.last().known)

    async def retry_dead(
        self, choice: Choice, limit: int | None = None, place: StorePlace | None = None
    ) -> tuple[DonePart, int]:  # fmt: skip
        """Makes dead tasks ready again: those that are meant, or the first so many; those in the store come last.

        `place`: where to go on in the store. Returns how far it has come, and how many are left on the disk.
        """
        return await self._each_dead(choice, limit, place, self._retry_file, self._in_store.retry_dead)

    async def remove_dead(
        self, choice: Choice, limit: int | None = None, place: StorePlace | None = None
    ) -> tuple[DonePart, int]:  # fmt: skip
        """Removes dead tasks, chosen as for `retry_dead`. Returns the same."""
        return await self._each_dead(choice, limit, place, self._remove_file, self._in_store.remove_dead)

    async def _each_dead(
        self, choice: Choice, limit: int | None, place: StorePlace | None, act: Callable[[str], Awaitable[None]],
        act_in_store: Callable[[Choice, int | None, StorePlace | None], Awaitable[DonePart]],
    ) -> tuple[DonePart, int]:  # fmt: skip
        count = 0
        if place is None:
            part = await self._aside.take_dead(choice, limit)
            for where in part.files:
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    await act(where)
                    count += 1
            if part.left:
                return DonePart(count, None), part.left
        acted = await act_in_store(choice, None if limit is None else limit - count, place)
        return acted._replace(tasks=count + acted.tasks), 0

    async def _retry_file(self, where: str) -> None:
        await self._revive(where)
        self._note_retry(ref_id(where))

    def _note_retry(self, identity: str) -> None:
        self._report("retry_asked", id=identity)
        self._journal.story.note(RETRIED, None, [file_name(identity)])

    async def flush(self, asked: list[str]) -> list[dict[str, Any]]:
        """Tries these destinations now, or all that tasks wait for. Returns a row for each."""
        sizes, aliases = self._outbox.sizes(), self._aliases()
        called = {name: {name, *aliases.get(name, ())} for name in asked}
        stored = self._in_store.flush(set().union(*called.values()))
        rows = []
        for index, name in enumerate(asked or dict.fromkeys([*sizes, *stored]), 1):
            meant = called.get(name, {name, *aliases.get(name, ())})
            waiting = [alias for alias in meant if alias in sizes]
            reasons = [self._try_now(alias) for alias in waiting]
            tried, count = "" in reasons, sum(sizes[alias] for alias in waiting)
            reason = "" if tried else "".join(reasons[:1])
            is_stored = not meant.isdisjoint(stored)
            rows.append({"destination": name, "waiting": count, "tried": tried, "in_store": is_stored, "reason": reason})
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return rows

    async def _id_here(self, identity: str) -> str:
        """The id of a task on this disk. The sender of one that waits for the store was told the id that it has there."""
        if not self._outbox.size(COMMONS) or await self._storage.look_up(identity) is not None:
            return identity
        found: tuple[Info, Any] | None = await _read(lambda: inspect.find_arrived(self._journal.reader, identity))
        return found[0].id if found is not None and found[0].destination == COMMONS else identity

    async def _where(self, identity: str, *states: str) -> str:
        """The file of a task that is in one of these states. Raises `NoSuchTask`."""
        found = await self._storage.look_up(identity)
        if found is None or found.state not in states:
            raise _unknown(identity)
        return found.where

    async def _revive(self, where: str) -> str:
        """Puts a dead task back to the waiting ones. Returns the node that it waits for; empty is this one."""
        journal, outbox = self._journal, self._outbox
        with journal.placing():
            block = await journal.moves.run(lambda: journal.reader.block_of(where))
            asked = destination_again(block)
            to = self._neighbours.route(Terms(destination=asked))[0] if asked else ""
            target = outbox_ref(to, ref_id(where), outbox.number(to)) if to else ""
            try:
                ref = await journal.moves.run(lambda: journal.store.revive(where, target))
            except Exception:  # not when it is cancelled: the thread still gives the task this number
                if target:
                    outbox.refused(to, number_of(target))
                raise
            if to:
                outbox.accept_file(ref, time.time())
            else:
                # It has a name for its limits and its story from the beginning: no worker needs to look first.
                function = function_named(dict(decode_variables(block)))
                self._spool.files.learn(ref, self._spool.starting.functions.number(function))
                self._spool.files.put(ref, 0.0, unique_key_in(block))
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
        if to == COMMONS and self._in_store.is_there:
            return self._in_store.why_away  # it is looked for all the time
        link = self._neighbours.link(to)
        if link is None or not link["known"]:
            return str(link["reason"]) if link is not None else "this node is not in a cluster"
        self._neighbours.flush(to)
        return ""


async def _read(job: Callable[[], Any]) -> Any:
    """Runs a long read in a thread of its own, so that tasks do not wait for it."""
    return await asyncio.get_running_loop().run_in_executor(None, job)


def is_leased(info: Info) -> bool:
    """Whether a task is one of the common store, which this node holds."""
    return info.where.startswith("tmp/")


def _unknown(identity: str) -> NoSuchTask:
    return NoSuchTask(unknown(identity))
