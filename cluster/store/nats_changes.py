"""Changes of tasks in the stream of a store in NATS: look, decide, write on condition that nothing has changed; else look again.

See `nats_entries` for what is written, and why only one of several writers succeeds.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from spoolnode.cluster.store.interface import REMEMBERED, HowEnded, Lease, TaskState
from spoolnode.cluster.store.nats_entries import (
    Placed,
    TaskEntry,
    body_subject,
    decode_entry,
    encode_entry,
    key_subject,
    mark_subject,
    upload_subject,
)
from spoolnode.cluster.store.nats_messages import Conflict, Messages, NewMessage

TRIES = 20
"""How often a change looks again, before the store counts as too busy."""
_TTL = {"Nats-TTL": f"{REMEMBERED + 600:.0f}s"}
"""The server itself removes tasks that have ended, some time after the store has forgotten them."""
ROLLUP = {"Nats-Rollup": "sub"}
"""The headers of a message that replaces all earlier ones of its subject."""


class Change(NamedTuple):
    """One task, as it is to be."""

    entry: TaskEntry
    before: int = 0
    """The number of its mark as it was read; 0: it was not there."""
    was: TaskEntry | None = None
    key_before: int | None = None
    """The number of the last message of its key, if it takes that key now."""
    upload_before: int = 0
    """The number of the message that says that its body is being uploaded."""

    @property
    def messages(self) -> list[NewMessage]:
        """The messages that are written. The mark is right behind the entry."""
        task = self.entry.task
        forgets = _TTL if self.entry.state == TaskState.ENDED else {}
        told = [
            NewMessage(self.entry.subject, encode_entry(self.entry), forgets),
            NewMessage(mark_subject(task.id, task.hops), b"", {**ROLLUP, **expects(self.before), **forgets}),
        ]
        if self.key_before is not None:
            holder = mark_subject(task.id, task.hops).encode()
            told.insert(0, NewMessage(key_subject(task.key), holder, {**ROLLUP, **expects(self.key_before)}))
        if self.upload_before:
            uploaded = upload_subject(task.id, task.hops, self.entry.upload)
            told.insert(0, NewMessage(uploaded, b"", {**ROLLUP, **expects(self.upload_before)}))
        return told


Look = Callable[[bool], Awaitable[list[Change]]]
"""Decides what to change; False: from memory, which is quicker, and right unless others have changed it."""


class StreamTasks:
    """The tasks in the stream, one by one."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        self._clock = messages.clock
        self._ours: dict[str, Placed] = {}
        """The tasks that were taken here, by the subjects of their marks."""

    async def of_mark(self, subject: str) -> tuple[Placed | None, int]:
        """The task with marks on that subject, and the number of its last mark. It may have been forgotten: then only that."""
        seen = -1
        while True:
            mark = await self._messages.last(subject)
            if mark is None:
                return None, 0
            got = await self._messages.at(mark.seq - 1)
            if got is not None:
                placed = Placed(decode_entry(got.data), got.seq)
                return (None if placed.entry.is_forgotten(self._clock.now()) else placed), mark.seq
            if mark.seq == seen:  # the server removes the two at the same time, but not in one step
                return None, mark.seq
            seen = mark.seq

    async def with_id(self, identity: str) -> list[Placed]:
        """All tasks with that id, the one with the most hops first."""
        subjects = await self._messages.counts(mark_subject(identity, "*"))
        subjects_found = sorted(subjects, key=lambda subject: -int(subject.rpartition(".")[2]))
        found = await asyncio.gather(*(self.of_mark(subject) for subject in subjects_found))
        return [placed for placed, _ in found if placed]

    async def held(self, leases: Sequence[Lease], *, is_fresh: bool = True) -> dict[Lease, Placed]:
        """The tasks that these leases are about, whatever became of them, in the turn of the lease.

        `is_fresh`: reads them all, also those that are known here. Before one is missed, the leader is asked again.
        """
        found = await self._held(leases, is_fresh=is_fresh)
        missed = [lease for lease in leases if lease not in found or found[lease].entry.state != TaskState.HELD]
        if missed:
            await self._messages.catch_up()
            found |= await self._held(missed, is_fresh=True)
        return found

    async def _held(self, leases: Sequence[Lease], *, is_fresh: bool) -> dict[Lease, Placed]:

        async def read(lease: Lease) -> Placed | None:
            mark = mark_subject(lease.id, lease.hops)
            ours = self._ours.pop(mark, None) if is_fresh else self._ours.get(mark)
            if ours and ours.entry.turn == lease.turn and not is_fresh:
                return ours
            return (await self.of_mark(mark))[0]

        pairs = zip(leases, await asyncio.gather(*map(read, leases)), strict=True)
        return {lease: placed for lease, placed in pairs if placed and placed.entry.turn == lease.turn}

    async def in_force(self, listed: Sequence[Placed]) -> list[Placed]:
        """Those of these entries that say how their task is now. The others are removed: their writers could not.

        An entry whose mark has not been there yet is neither: a new leader may not have all that was acknowledged, for a moment.
        """
        marks = await asyncio.gather(*(self._messages.last(_mark(placed.entry)) for placed in listed))
        forgotten = self._clock.now() - REMEMBERED
        pairs = list(zip(listed, marks, strict=True))
        await self._delete(
            placed.seq for placed, mark in pairs if (mark.seq > placed.mark if mark else placed.stored < forgotten)
        )
        return [placed for placed, mark in pairs if mark and mark.seq == placed.mark]

    async def waiting(self, changed: Sequence[Change]) -> list[Change]:
        """Completes changes to tasks that wait: they take their keys, and end if another one has it. The first one of a group has
        it before the others."""
        taken: set[bytes] = set()
        done = []
        for change in changed:
            key = change.entry.task.key
            if not (key and change.entry.is_waiting):
                done.append(change)
                continue
            before = None if key in taken else await self.free_key(change.entry)
            taken.add(key)
            done.append(
                change._replace(entry=change.entry.ended(self._clock.now(), HowEnded.MERGED)) if before is None
                else change._replace(key_before=before)
            )  # fmt: skip
        return done

    async def free_key(self, entry: TaskEntry) -> int | None:
        """The number of the last message of its key, if no other task that waits has it; else None."""
        got = await self._messages.last(key_subject(entry.task.key))
        if got is None:
            return 0
        holder = got.data.decode()
        if holder == _mark(entry):
            return got.seq
        if await self._waits_with(entry.task.key, holder):
            await self._messages.catch_up()  # a task is not given up for one that waits no longer
            if await self._waits_with(entry.task.key, holder):
                return None
        return got.seq

    async def _waits_with(self, key: bytes, holder: str) -> bool:
        placed, _ = await self.of_mark(holder)
        return placed is not None and placed.entry.is_waiting and placed.entry.task.key == key

    async def change(self, look: Look) -> list[Change]:
        """Writes what `look` decides, all of it or none, and looks again as long as others are faster."""
        for number in range(TRIES):
            changes = await look(number > 0)
            if await self.write(changes):
                return changes
            await asyncio.sleep(random.uniform(0, 0.02))
        raise self._messages.connection.away("too many change the same tasks at once")

    async def write(self, changes: Sequence[Change]) -> bool:
        """Writes changes, at most `TOGETHER`, in one batch; False: another one was faster, and nothing was written."""
        if changes:
            try:
                seq = await self._messages.commit([message for change in changes for message in change.messages])
            except Conflict:
                return False
            self._remember(changes, seq)
            await self._clear(changes)
        return True

    def _remember(self, changes: Sequence[Change], seq: int) -> None:
        """Keeps in mind where the tasks are that are held now; their messages begin at that number."""
        for change in changes:
            seq += len(change.messages)
            if change.entry.state == TaskState.HELD:
                self._ours[_mark(change.entry)] = Placed(change.entry, seq - 2)
            else:
                self._ours.pop(_mark(change.entry), None)

    async def _clear(self, changes: Sequence[Change]) -> None:
        """Removes what the changes have left behind. What a dying process leaves is removed by the next one that meets it."""
        await self._delete(change.before - 1 for change in changes if change.before)
        for change in changes:
            task = change.entry.task
            if change.was and change.was.is_waiting and task.key and not change.entry.is_waiting:
                await self._give_key_back(change.entry)
            if change.was and change.was.upload and not change.entry.upload:
                await self._messages.purge(body_subject(task.id, task.hops, change.was.upload, ">"))
            if change.upload_before:
                await self._messages.purge(upload_subject(task.id, task.hops, change.entry.upload))

    async def _give_key_back(self, entry: TaskEntry) -> None:
        got = await self._messages.last(key_subject(entry.task.key))
        if got and got.data.decode() == _mark(entry):
            await self._messages.delete(got.seq)

    async def _delete(self, numbers: Iterable[int]) -> None:
        await asyncio.gather(*(self._messages.delete(number) for number in numbers))


def expects(number: int) -> dict[str, str]:
    """The headers of a message that is stored only behind that one, the last of its subject; 0: behind none."""
    return {"Nats-Expected-Last-Subject-Sequence": str(number)}


def _mark(entry: TaskEntry) -> str:
    return mark_subject(entry.task.id, entry.task.hops)
