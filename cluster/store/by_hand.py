"""The tasks in a common store in the hands of operators, through any node: shown, retried, removed, cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Again, Burial, CommonStore, FoundTask, Lease, StoreAway, StorePage, TaskState
from spoolnode.cluster.store.redirect import READY, redirect_some
from spoolnode.cluster.store.takers import taker_of
from spoolnode.node.background import spawn
from spoolnode.node.commons import DEAD, CommonPage, CommonsAway, CommonTask

T = TypeVar("T")

ANSWER_SECONDS = 5.0
"""How long an operator waits for the store."""
CLAIM_SECONDS = 10.0
"""For how long a task is held that is to be changed: if the node dies meanwhile, it then waits again as before."""
REMOVED_AT_ONCE = 50
"""Dead tasks that are removed while an operator waits for one answer: each takes two."""
LOOKS = 3
"""How often a task is looked at that has left its state whenever it was to be changed."""

Act = Callable[[CommonStore, str], Awaitable[bool]]
"""Changes the task with that id. Returns whether it was still in its state."""


class ByHand:
    """The tasks in the store of one node, for its operators. See `CommonTasks`."""

    def __init__(self, contact: Contact) -> None:
        self._contact = contact

    def __repr__(self) -> str:
        return f"<ByHand: {self._contact!r}>"

    async def find(self, identity: str) -> CommonTask | None:
        """See `CommonTasks`."""
        return await self._ask(lambda store: _find(store, identity))

    async def body(self, identity: str) -> bytes:
        """See `CommonTasks`."""
        return await self._ask(lambda store: _peeked(store, identity))

    async def list(self, state: str, limit: int, after: str = "") -> CommonPage:
        """See `CommonTasks`."""
        found = await self._ask(lambda store: _listed(store, TaskState(state), limit, after))
        return CommonPage([_shown(task) for task in found.tasks], found.next)

    async def retry(self, identity: str) -> CommonTask | None:
        """See `CommonTasks`."""
        return await self._change(identity, {TaskState.DEAD: _revive, TaskState.LATER: _hurry})

    async def remove(self, identity: str) -> CommonTask | None:
        """See `CommonTasks`."""
        return await self._change(identity, dict.fromkeys((TaskState.READY, TaskState.LATER, TaskState.DEAD), _remove))

    async def retry_dead(self, identities: Sequence[str]) -> frozenset[str]:
        """See `CommonTasks`."""
        return await self._ask(lambda store: _revived(store, identities))

    async def remove_dead(self, identities: Sequence[str]) -> frozenset[str]:
        """See `CommonTasks`."""
        removed = set[str]()
        for start in range(0, len(identities), REMOVED_AT_ONCE):
            group = identities[start : start + REMOVED_AT_ONCE]
            removed |= await self._ask(partial(_removed, identities=group))
        return frozenset(removed)

    async def cancel(self, identity: str, reason: str) -> CommonTask | None:
        """See `CommonTasks`."""

        async def bury(store: CommonStore, identity: str) -> bool:
            lease = await _claim(store, identity)
            return lease is not None and not await store.bury([Burial(lease, reason)])

        return await self._change(identity, dict.fromkeys((TaskState.READY, TaskState.LATER), bury))

    async def give_on(self, places: Collection[str], to: str, at: str = "") -> tuple[int, str]:
        """See `CommonTasks`."""
        return await self._ask(lambda store: redirect_some(store, places, to, at or READY))

    async def _change(self, identity: str, acts: Mapping[TaskState, Act]) -> CommonTask | None:
        return await self._ask(lambda store: _changed(store, identity, acts))

    async def _ask(self, question: Callable[[CommonStore], Coroutine[Any, Any, T]]) -> T:
        if not self._contact.is_there:  # to ask it all the same could take long: it is looked for in any case
            raise CommonsAway(f"the common store is away ({self._contact.reason}); ask again later")
        asked = spawn(self._answered(question))
        await asyncio.wait([asked], timeout=ANSWER_SECONDS)
        if not asked.done():  # to cut it in two is worse than to let it end unseen: the driver gives it up by itself
            raise CommonsAway(f"the common store has not answered for {ANSWER_SECONDS:g} s, and may still do what was asked")
        answer: T | CommonsAway = asked.result()
        if isinstance(answer, CommonsAway):
            raise answer
        return answer

    async def _answered(self, question: Callable[[CommonStore], Awaitable[T]]) -> T | CommonsAway:
        try:
            return await self._contact.ask(question)
        except StoreAway as error:
            return CommonsAway(f"the common store is away ({error}); ask again later")
        except CommonsAway as error:
            return error


async def _changed(store: CommonStore, identity: str, acts: Mapping[TaskState, Act]) -> CommonTask | None:
    """Does what belongs to the state of a task. Returns it as it was before."""
    for _ in range(LOOKS):
        found = await store.find(identity)
        act = acts.get(found.state) if found is not None else None
        if found is None or act is None or await act(store, identity):
            return None if found is None else _shown(found)
    raise CommonsAway(f"the task {identity} changes in the common store just now; ask again")


async def _find(store: CommonStore, identity: str) -> CommonTask | None:
    found = await store.find(identity)
    return None if found is None else _shown(found)


async def _peeked(store: CommonStore, identity: str) -> bytes:
    return await store.peek(identity)


async def _listed(store: CommonStore, state: TaskState, limit: int, after: str) -> StorePage:
    return await store.list(state, limit, after)


async def _revived(store: CommonStore, identities: Sequence[str]) -> frozenset[str]:
    return await store.revive(identities)


async def _removed(store: CommonStore, identities: Sequence[str]) -> frozenset[str]:
    """Removes dead tasks, each after a look: to remove one that waits again was not asked for."""
    was = [await _changed(store, identity, {TaskState.DEAD: _remove}) for identity in identities]
    return frozenset(task.id for task in was if task is not None and task.state == DEAD)


async def _revive(store: CommonStore, identity: str) -> bool:
    return bool(await store.revive([identity]))


async def _hurry(store: CommonStore, identity: str) -> bool:
    lease = await _claim(store, identity)
    return lease is not None and not await store.again([Again(lease)])


async def _remove(store: CommonStore, identity: str) -> bool:
    return await store.remove(identity) not in (None, TaskState.HELD)


async def _claim(store: CommonStore, identity: str) -> Lease | None:
    """Holds a task that waits, so that it is changed before another node takes it."""
    claimed = await store.claim([identity], CLAIM_SECONDS)
    return claimed[0].lease if claimed else None


def _shown(found: FoundTask) -> CommonTask:
    task, ending = found.task, found.ending
    return CommonTask(
        task.id, found.state.value, task.block, task.to, task.rank, task.due, task.attempts, task.size, found.accepted_at,
        found.finished, "" if ending else found.reason, found.result, ending.value if ending else "", *taker_of(found.by),
    )  # fmt: skip
