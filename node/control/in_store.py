"""The tasks of the common store as operators of this node see them, and what they do to them, in the words of this node."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Sequence
from typing import Any, NamedTuple

from spoolnode.node.commons import COMMONS, DEAD, ENDED, HELD, LATER, READY, STORE, Commons, CommonsAway, CommonTask
from spoolnode.node.control.ages import Ages, add_stored
from spoolnode.node.control.choice import Choice
from spoolnode.node.control.operator_errors import NoSuchTask, NotAllowedNow, unknown
from spoolnode.node.control.pages import Listed, Page, Wanted
from spoolnode.node.control.resources import of_contents
from spoolnode.node.control.store_pages import AT_ONCE, MOST_LOOKS, StorePlace, info_of, is_chosen, listed, stored_page
from spoolnode.node.control.stored_dead import MOST_READ, StoredDead
from spoolnode.node.spool import inspect
from spoolnode.node.spool.journal import Journal
from spoolnode.node.story import notes
from spoolnode.node.story.notes import Happened
from spoolnode.protocol import cancel, names
from spoolnode.protocol.cancel import CancelAnswer, CancelOutcome, CancelRequest
from spoolnode.protocol.packet import decode_variables

_FINAL = (notes.DONE, notes.REMOVED, notes.MERGED, notes.FORWARDED)
_ENDED = {
    notes.DONE: "had ended well{} before it could be cancelled",
    notes.REMOVED: "was removed before, and not cancelled",
    notes.MERGED: "was not run: another task with its key did its work",
}
"""The answer about a task that is to be cancelled and has ended."""
AskNode = Callable[[CommonTask], Awaitable[CancelAnswer]]
"""Has the node that holds a task cancel it."""


class DonePart(NamedTuple):
    """How far an action on many tasks has come."""

    tasks: int
    """Tasks about which it was done."""
    next: str | None
    """Where it goes on; None at its end."""
    missing: str = ""
    """Why others were not reached; empty if all were."""


class InStore:
    """The tasks in the common store, for the operators of one node."""

    def __init__(self, commons: Commons, journal: Journal, report: Callable[..., None]) -> None:
        self._commons = commons
        self._journal = journal
        self._report = report
        self.dead = StoredDead(commons.tasks)
        """Its dead tasks by kind."""

    def __repr__(self) -> str:
        return f"<InStore of {self._commons!r}>"

    @property
    def is_there(self) -> bool:
        """Whether there is a store."""
        return self._commons.is_joined

    @property
    def why_away(self) -> str:
        """Why it does not answer; empty if it does."""
        link = self._commons.link()
        return f"the common store is away ({link['reason']})" if link is not None and link["reason"] else ""

    def flush(self, asked: Collection[str]) -> list[str]:
        """Tries destinations again at once: those that were asked for, or all. Returns those that were left alone for a while."""
        return self._commons.flush(asked)

    async def find(self, identities: Iterable[str]) -> CommonTask | None:
        """The task with one of these ids, unless it has ended. Raises `CommonsAway`."""
        found = await self.look_up(identities)
        return None if found is None or found.state == ENDED else found

    async def look_up(self, identities: Iterable[str]) -> CommonTask | None:
        """The task with one of these ids, also one that has ended lately. Raises `CommonsAway`."""
        for identity in dict.fromkeys(identities) if self.is_there else ():
            found = await self._commons.tasks.find(identity)
            if found is not None:
                return found
        return None

    async def body(self, found: CommonTask) -> bytes:
        """The whole body of a task; empty if it is not there any more. Raises `CommonsAway`."""
        return await self._commons.tasks.body(found.id)

    async def follow(self, identity: str, steps: Sequence[Happened]) -> CommonTask | None:
        """A task that has this story here, also one that has ended lately. Raises `CommonsAway`.

        None: the store does not know it, or is not asked, since the story says that it has ended.
        """
        return None if has_left(steps) else await self.look_up(names_of(steps, identity))

    async def page(self, wanted: Wanted, on_disk: list[Listed], here: Container[str]) -> Page:
        """A part of a list, behind the last tasks that are on the disk. It says why tasks are missing: the store is away.

        `here`: the ids of those that this node holds.
        """
        if not self.is_there:
            return Page(on_disk, None)
        try:
            return await stored_page(self._commons.tasks, wanted, on_disk, here)
        except CommonsAway as error:
            return Page(on_disk, None, f"the tasks of the common store are missing here: {error}")

    async def waiting(self, found: Ages, by: str, now: float) -> None:
        """Counts its tasks that wait by their age, besides those that were found on the disk; not all of very many."""
        try:
            for state in (READY, LATER) if self.is_there else ():
                found.more_in_store |= await self._count(state, found, by, now)
        except CommonsAway as error:
            found.missing = f"not all tasks of the common store are counted: {error}"

    async def _count(self, state: str, found: Ages, by: str, now: float) -> bool:
        """Counts those in one state. Returns whether there are more."""
        after, is_first, left = "", True, MOST_READ
        while (is_first or after) and left > 0:
            page = await self._commons.tasks.list(state, AT_ONCE, after)
            await asyncio.to_thread(add_stored, found, page.tasks, by, now)
            after, is_first, left = page.next, False, left - len(page.tasks)
        return bool(after)

    # -- changing --

    async def retry(self, identity: str) -> str:
        """Makes a task ready now. Returns for whom it then waits; empty: any node. Raises as `remove` does."""
        was = self._known(await self._commons.tasks.retry(identity), identity)
        if was.state == HELD:
            raise NotAllowedNow(f"the task {identity} {held_by(was)}; it can be retried when it is dead, or waits for its time")
        if was.state == READY:
            raise NotAllowedNow(f"the task {identity} is ready already: it waits in the common store for {_whom(was.to)}")
        self._note_retry(identity)
        return "" if was.to == COMMONS else was.to

    async def remove(self, identity: str) -> None:
        """Removes a task that waits or is dead. Raises `NoSuchTask`, `NotAllowedNow`, `CommonsAway`."""
        was = self._known(await self._commons.tasks.remove(identity), identity)
        if was.state == HELD:
            raise NotAllowedNow(f"the task {identity} {held_by(was)}; only waiting and dead tasks can be removed")
        self._note_removed(identity)

    async def retry_dead(self, choice: Choice, room: int | None, place: StorePlace | None) -> DonePart:
        """Makes dead tasks ready: those that are meant, or so many of them, from a place on."""
        return await self._each_dead(choice, room, place, self._commons.tasks.retry_dead, self._note_retry)

    async def remove_dead(self, choice: Choice, room: int | None, place: StorePlace | None) -> DonePart:
        """Removes dead tasks, chosen as for `retry_dead`."""
        return await self._each_dead(choice, room, place, self._commons.tasks.remove_dead, self._note_removed)

    async def _each_dead(
        self, choice: Choice, room: int | None, place: StorePlace | None,
        act: Callable[[Sequence[str]], Awaitable[Collection[str]]], note: Callable[[str], None],
    ) -> DonePart:  # fmt: skip
        if not self.is_there:
            return DonePart(0, None)
        count, looks, after, is_first = 0, 0, place.after if place else "", True
        try:
            while is_first or after:
                if room is not None and (count >= room or looks == MOST_LOOKS):
                    return DonePart(count, StorePlace(DEAD, after).encode())
                most = AT_ONCE if room is None else min(AT_ONCE, room - count)
                page = await self._commons.tasks.list(DEAD, most, after)
                meant = [task.id for task in page.tasks if is_chosen(listed(task), choice)]
                done = await act(meant) if meant else ()
                for identity in done:
                    note(identity)
                count, looks, after, is_first = count + len(done), looks + 1, page.next, False
        except CommonsAway as error:
            return DonePart(count, None, f"not all dead tasks of the common store were reached: {error}")
        return DonePart(count, None)

    async def give_on(self, places: Collection[str], to: str) -> tuple[int, str]:
        """Has all tasks that wait for these destinations wait for another one.

        Returns how many they were, and why others were not reached; empty if all were.
        """
        count, at, is_first = 0, "", True
        try:
            while is_first or at:
                moved, at = await self._commons.tasks.give_on(places, to, at)
                count, is_first = count + moved, False
        except CommonsAway as error:
            return count, f"not all tasks of the common store were moved: {error}"
        return count, ""

    def _note_retry(self, identity: str) -> None:
        self.dead.expire()
        self._report("retry_asked", id=identity)
        self._journal.story.note(notes.RETRIED, None, [names.file_name(identity)])

    def _note_removed(self, identity: str) -> None:
        self.dead.expire()
        self._report("removed", id=identity)
        self._journal.story.note(notes.REMOVED, None, [names.file_name(identity)])
        self._journal.watchers.tell(identity)

    def _known(self, found: CommonTask | None, identity: str) -> CommonTask:
        if found is None or found.state == ENDED:
            raise NoSuchTask(unknown(identity))
        return found

    async def cancel(self, request: CancelRequest, ask_holder: AskNode) -> CancelAnswer | None:
        """Ends a task that waits: it is dead then, as cancelled. None: the store does not know it.

        `ask_holder`: is called for one that a node holds.
        """
        steps = await self._journal.story.steps(request.identity)
        if not self.is_there or has_left(steps):
            return None
        identity, reason = request.identity, cancel.cancelled_by(request.by)
        try:
            was = await self._commons.tasks.cancel(identity, reason)
        except CommonsAway as error:
            return CancelAnswer(CancelOutcome.UNSURE, f"the task {identity} is not on this node's disk, and {error}")
        if was is None:
            return None
        if was.state == ENDED:
            outcome = CancelOutcome.DONE if was.ending == notes.DONE else CancelOutcome.NOT_CANCELLED
            return CancelAnswer(outcome, f"the task {identity} {_ENDED[was.ending].format(_on(was))}")
        if was.state == HELD:
            return await ask_holder(was)
        if was.state == DEAD and not cancel.is_cancelled(was.reason):
            text = f"the task {identity} is dead in the common store; it has ended, and was not cancelled"
            return CancelAnswer(CancelOutcome.NOT_CANCELLED, text)
        if was.state != DEAD:
            self._journal.counts.cancelled += 1
            self._journal.story.note(notes.DEAD, None, [names.file_name(identity)], reason=reason)
            self._report("dead", id=identity, attempts=was.attempts, outcome="cancelled", reason=reason)
        return CancelAnswer(CancelOutcome.CANCELLED)


def has_left(steps: Sequence[Happened]) -> bool:
    """Whether a story says that its task is neither here nor in the store any more."""
    return bool(steps) and steps[-1].kind in _FINAL and not is_in_store(steps[-1])


def is_in_store(step: Happened) -> bool:
    """Whether a task went from this disk into the store with this step."""
    return step.kind == notes.FORWARDED and step.detail.get("peer") == STORE


def names_of(steps: Iterable[Happened], *others: str) -> list[str]:
    """The names that a task has had, each once."""
    return [*dict.fromkeys([*others, *(step.origin_id or step.id for step in steps)])]


def of_store(found: CommonTask, story: list[dict[str, Any]], missing: str) -> dict[str, Any]:
    """A task of the store, with its story. Raises `BadPacket`.

    Args:
        story: it, as nodes have told it.
        missing: the sentence about what they have not told.
    """
    told = {"missing": missing} if missing else {}
    whole = {**told, "story": _to_its_end(found, story)}
    if found.state == ENDED:
        return {"id": found.id, "state": inspect.ENDED, **whole}
    node = {"node": found.node} if found.state == HELD and found.node else {}
    error = {"last_error": found.reason} if found.state != DEAD and found.reason else {}
    return {**of_contents({**info_of(found)._asdict(), **_opened(found)}), **node, **error, **whole}


def _to_its_end(found: CommonTask, story: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The story with the end that the store knows, if it has no end yet."""
    event = found.ending if found.state == ENDED else notes.DEAD if found.state == DEAD else ""
    if not event or (story and story[-1]["event"] == event):
        return story
    node = found.node if event in (notes.DONE, notes.DEAD) else ""
    step = {"at": found.finished, "event": event, "id": found.id, "node": node, "reason": found.reason}
    return [*story, {name: value for name, value in step.items() if value}]


def held_by(found: CommonTask) -> str:
    """Says which node holds a task."""
    return f"is held: {found.node or 'a node'} has taken it from the common store, and runs it or is about to"


def _on(found: CommonTask) -> str:
    return f" on {found.node}" if found.node else ""


def _opened(found: CommonTask) -> dict[str, Any]:
    """The contents of a task as `inspect.contents` has them; only the node that runs it can read its body. Raises `BadPacket`."""
    beside = [(names.REASON, found.reason.encode("utf-8", "replace"))] if found.state == DEAD else []
    shown = inspect.contents_of(decode_variables(found.block), b"", beside)
    return {**shown, "body_size": found.size}


def _whom(to: str) -> str:
    return "any node" if to == COMMONS else to
