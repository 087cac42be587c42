"""The lists of tasks in the stream of a store in NATS: what is taken next, and pages of them.

Each list is a subject, so how many there are on it is known at once, and its first ones are found without the others.
"""

import asyncio
import heapq
import json
from collections.abc import Callable, Sequence
from typing import Any

from spoolnode.cluster.store.interface import StorePage, TaskState
from spoolnode.cluster.store.nats_changes import StreamTasks
from spoolnode.cluster.store.nats_entries import PREFIX, Placed, decode_entry, ready_at, ready_order, second_of
from spoolnode.cluster.store.nats_messages import Messages

LISTS = {
    TaskState.READY: f"{PREFIX}.ready.>",
    TaskState.LATER: f"{PREFIX}.later.>",
    TaskState.HELD: f"{PREFIX}.held.>",
    TaskState.DEAD: f"{PREFIX}.dead",
    TaskState.ENDED: f"{PREFIX}.ended",
}
"""The subjects of the lists of tasks in each state."""


class Lists:
    """The lists in the stream."""

    def __init__(self, messages: Messages, tasks: StreamTasks) -> None:
        self._messages = messages
        self._tasks = tasks

    async def first(self, most: int, places: Sequence[str]) -> list[Placed]:
        """The first ready tasks for these destinations: by rank, then by acceptance."""
        counted = await asyncio.gather(*(self._messages.counts(f"{ready_at(place)}.>") for place in dict.fromkeys(places)))
        lists = {subject: number for counts in counted for subject, number in counts.items()}
        first: list[Placed] = []
        for rank in sorted({ready_order(subject)[1] for subject in lists}):
            left = most - len(first)
            if left <= 0:
                break
            read = (
                self._read(subject, 1, min(number, left)) for subject, number in lists.items() if ready_order(subject)[1] == rank
            )
            queues = [sorted(queue, key=_accepted) if _are_back(queue) else queue for queue in await asyncio.gather(*read)]
            first += list(heapq.merge(*queues, key=_accepted))[:left]
        return first

    async def page(self, state: TaskState, limit: int, after: str) -> StorePage:
        """A page of a list, as `CommonStore.list` promises it."""
        if state == TaskState.HELD:
            return await self._held(limit, after)
        counted = await self._messages.counts(LISTS[state])
        subjects = sorted(counted, key=_order_of(state))
        cursor: tuple[str, int] = json.loads(after) if after else ("", 0)
        subject, seq = cursor
        found: list[Placed] = []
        for listed in subjects:
            if not subject or _order_of(state)(listed) >= _order_of(state)(subject):
                found += await self._of_one(listed, seq + 1 if listed == subject else 1, limit + 1 - len(found), counted[listed])
            if len(found) > limit:
                break
        last = found[limit - 1] if len(found) > limit else None
        return StorePage(
            [placed.entry.found for placed in found[:limit]], json.dumps([last.entry.subject, last.seq]) if last else ""
        )

    async def _of_one(self, subject: str, seq: int, most: int, number: int) -> list[Placed]:
        """Up to so many tasks of one list, from a number on, without entries that are no longer in force."""
        page: list[Placed] = []
        while len(page) < most:
            got = await self._read(subject, seq, min(most - len(page), number))
            if not got:
                break
            seq = got[-1].seq + 1
            now = self._messages.clock.now()
            page += [placed for placed in await self._tasks.in_force(got) if not placed.entry.is_forgotten(now)]
        return page

    async def _held(self, limit: int, after: str) -> StorePage:
        """All that is held is read for each page. It is never much, and its lists change whenever a lease is extended."""
        counted = await self._messages.counts(LISTS[TaskState.HELD])
        lists = await asyncio.gather(*(self._of_one(subject, 1, number, number) for subject, number in counted.items()))
        held = {_place(placed): placed.entry.found for found in lists for placed in found}
        rest = sorted(place for place in held if not after or place > tuple(json.loads(after)))
        return StorePage([held[place] for place in rest[:limit]], json.dumps(rest[limit - 1]) if len(rest) > limit else "")

    async def _read(self, subject: str, seq: int, most: int) -> list[Placed]:
        return [Placed(decode_entry(got.data), got.seq, got.stored) for got in await self._messages.few(subject, seq, most)]


def _accepted(placed: Placed) -> float:
    return placed.entry.accepted


def _are_back(queue: Sequence[Placed]) -> bool:
    return bool(queue) and queue[0].entry.is_back


def _place(placed: Placed) -> tuple[float, str, int]:
    """The place of a task in the order of acceptance."""
    return placed.entry.accepted, placed.entry.task.id, placed.entry.task.hops


def _order_of(state: TaskState) -> Callable[[str], Any]:
    """The order of the lists in which tasks in this state are."""
    return {TaskState.READY: ready_order, TaskState.LATER: second_of}.get(state, str)
