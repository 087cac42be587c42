"""Time passes for the tasks of a store in NATS: those that are due become ready, and so do those that are held no longer.

The lists of such tasks are cut by seconds (`nats_entries.at_second`). A sweep asks only about the seconds that have passed since
the last one, and about those shortly before, for clocks that differ; all of them it asks about at first, and now and then.
"""

import asyncio
from collections.abc import Sequence

from spoolnode.cluster.store.interface import TaskState
from spoolnode.cluster.store.nats_bodies import Bodies
from spoolnode.cluster.store.nats_changes import Change, StreamTasks
from spoolnode.cluster.store.nats_entries import PREFIX, WIDTH, Placed, decode_entry, in_bucket, second_of
from spoolnode.cluster.store.nats_messages import Messages

SWEEP = 0.5
"""Seconds between two sweeps."""
ALL = 600.0
"""Seconds between two that ask about all seconds there ever were; then left-behind bodies are removed, too."""
AT_ONCE = 100
"""Tasks that a sweep changes in one batch."""
ROUNDS = 20
"""Batches of one sweep, at most."""


class Times:
    """The sweeps of one driver. Those of others do the same: who is first does it."""

    def __init__(self, messages: Messages, tasks: StreamTasks, bodies: Bodies) -> None:
        self._messages = messages
        self._clock = messages.clock
        self._tasks = tasks
        self._bodies = bodies
        self._next = self._next_all = 0.0
        self._until = 0.0
        """The time of the store at the last sweep."""

    async def sweep(self) -> None:
        """Sweeps, if it is time to."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        self._next = now + SWEEP
        time = self._clock.now()
        is_all = now >= self._next_all or time - self._until > WIDTH
        for state in (TaskState.LATER, TaskState.HELD):
            await self._sweep(await self._passed(state, time, is_all=is_all))
        self._until = time
        if is_all:
            self._next_all = now + ALL
            await self._bodies.clear()

    async def _passed(self, state: TaskState, time: float, *, is_all: bool) -> dict[str, int]:
        """The lists of the seconds that have passed or begun, the oldest first, with the numbers of their entries."""
        bucket = int(time) // WIDTH
        asked = [f"{PREFIX}.{state.value}.>"] if is_all else [in_bucket(state, number) for number in (bucket - 1, bucket)]
        lists: dict[str, int] = {}
        for subjects in asked:
            lists |= await self._messages.counts(subjects)
        return {subject: lists[subject] for subject in sorted(lists, key=second_of) if second_of(subject) <= time}

    async def _sweep(self, lists: dict[str, int]) -> None:
        for subject, number in lists.items():
            seq = 1
            for _ in range(min(ROUNDS, -(-number // AT_ONCE))):
                got = await self._messages.few(subject, seq, min(number, AT_ONCE))
                if not got:
                    break
                seq = got[-1].seq + 1
                await self._make_ready([Placed(decode_entry(message.data), message.seq, message.stored) for message in got])

    async def _make_ready(self, listed: Sequence[Placed]) -> None:
        now = self._clock.now()
        past = [placed for placed in listed if (placed.entry.until or placed.entry.task.due) <= now]
        changes = [Change(one.entry.waits(now, due=one.entry.task.due), one.mark, one.entry) for one in past]
        done = [change for change in changes if _has_its_key(change)]
        done += await self._tasks.waiting([change for change in changes if not _has_its_key(change)])
        if not await self._tasks.write(done):
            await self._tasks.in_force(past)  # others were faster; the next sweep sees what they left


def _has_its_key(change: Change) -> bool:
    """Whether it needs no key, or has it since it waited before."""
    return not change.entry.task.key or bool(change.was and change.was.is_waiting)
