"""The tasks of limited functions that may run, in the stream of a store in NATS.

Each function has a list of leases, in one message. Each change replaces it, on condition that it is still the one that was read.
Those whose leases are lost do not count, so nothing else has to take them off the list.
"""

import asyncio
import random
from collections.abc import Sequence

import msgpack

from spoolnode.cluster.store.interface import Lease, TaskState
from spoolnode.cluster.store.nats_changes import ROLLUP, TRIES, StreamTasks, expects
from spoolnode.cluster.store.nats_entries import limit_subject
from spoolnode.cluster.store.nats_messages import Conflict, Messages, NewMessage


class NatsLimits:
    """See `CommonStore.admit`."""

    def __init__(self, messages: Messages, tasks: StreamTasks) -> None:
        self._messages = messages
        self._tasks = tasks

    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        """As the interface says."""
        subject = limit_subject(function)
        for _ in range(TRIES):
            got = await self._messages.last(subject)
            listed = [Lease(*lease) for lease in msgpack.unpackb(got.data)] if got else []
            running = await self._held([lease for lease in listed if lease not in over], is_fresh=True)
            new = [lease for lease in await self._held(leases, is_fresh=False) if lease not in running]
            new = new[: max(most - len(running), 0)]
            try:
                if new:
                    headers = {**ROLLUP, **expects(got.seq if got else 0)}
                    await self._messages.commit([NewMessage(subject, msgpack.packb([*running, *new]), headers)])
                return frozenset([*running, *new]).intersection(leases)
            except Conflict:  # another node was faster
                await asyncio.sleep(random.uniform(0, 0.02))
        return frozenset()

    async def _held(self, leases: Sequence[Lease], *, is_fresh: bool) -> list[Lease]:
        found = await self._tasks.held(leases, is_fresh=is_fresh)
        return [lease for lease in leases if lease in found and found[lease].entry.state == TaskState.HELD]
