"""Gives the tasks that wait in a store for a node, which will not come back, to another destination."""

from collections.abc import Collection, Sequence

from spoolnode.cluster.store.interface import TOGETHER, Again, CommonStore, Leased, TaskState

HOLD_SECONDS = 30.0
"""How long a task is held for the change: if this ends in between, it waits again as before."""


READY = "ready"
"""The beginning: the tasks that are ready."""
LATER = "later:"
"""Those that are due later, from the page on whose cursor follows."""


async def redirect(store: CommonStore, places: Collection[str], to: str) -> int:
    """Has all that waits for these destinations wait for `to`. Returns how many tasks that were.

    Those that nodes hold are left alone. If it is interrupted, a repeat does the rest. Raises `StoreAway`.
    """
    count, at = 0, READY
    while at:
        moved, at = await redirect_some(store, places, to, at)
        count += moved
    return count


async def redirect_some(store: CommonStore, places: Collection[str], to: str, at: str) -> tuple[int, str]:
    """Does the same with some of them. Returns how many they were, and where to go on; empty at the end.

    `at`: `READY`, or what the call before returned.
    """
    if at == READY:
        ready = await store.take(TOGETHER, [*places], HOLD_SECONDS)
        return (await _given(store, ready, to), READY) if ready else (0, LATER)
    page = await store.list(TaskState.LATER, TOGETHER, at.removeprefix(LATER))
    later = [found.task.id for found in page.tasks if found.task.to in places]
    moved = await _given(store, await store.claim(later, HOLD_SECONDS), to) if later else 0
    return moved, f"{LATER}{page.next}" if page.next else ""


async def _given(store: CommonStore, leased: Sequence[Leased], to: str) -> int:
    lost = await store.again([Again(lease, due=task.due, to=to) for lease, task in leased])
    return len(leased) - len(lost)
