"""The numbers of tasks in a common store: old by some seconds at most, asked for in the background, and never more often."""

import asyncio
from collections.abc import Awaitable, Callable

from simulation.loop import in_virtual_time
from store_tasks import new
from test_taking import TimedStore

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import CommonStore, Tally, TaskState
from spoolnode.cluster.store.tallies import COUNT_REST, COUNT_SECONDS, StoreCount


class Counted(TimedStore):
    """A store that notes when it was counted."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []
        self.takes = 0.0
        self.is_large = False

    async def count(self) -> dict[TaskState, Tally]:
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        found = await super().count()
        return {**found, TaskState.READY: Tally(50_000, False)} if self.is_large else found


def story(tell: Callable[[Counted, StoreCount], Awaitable[None]]) -> None:
    """Tells a story in virtual time, whose moments are also the time of day."""

    async def main() -> None:
        store = Counted()

        async def connect() -> CommonStore:
            return store

        contact = Contact(connect, lambda _action, **_details: None)
        await contact.open()
        await tell(store, StoreCount(contact, asyncio.get_running_loop().time))
        await contact.close()

    in_virtual_time(main)


def test_the_store_is_asked_once_in_a_few_seconds_however_often_it_is_to_be_recounted() -> None:
    async def tell(store: Counted, count: StoreCount) -> None:
        for _ in range(100):
            await count.recount()
            await asyncio.sleep(COUNT_SECONDS / 10)
        assert len(store.asked) == 10

    story(tell)


def test_a_count_that_takes_long_is_never_asked_twice_at_once_and_rests_longer() -> None:
    async def tell(store: Counted, count: StoreCount) -> None:
        store.takes = 2.0
        await asyncio.gather(*(count.recount() for _ in range(5)))
        assert len(store.asked) == 1
        ended = asyncio.get_running_loop().time()
        while len(store.asked) < 2:
            await count.recount()
            await asyncio.sleep(0.5)
        assert store.asked[1] - ended >= COUNT_REST * store.takes

    story(tell)


def test_while_the_store_is_away_the_last_numbers_stand_with_their_age() -> None:
    async def tell(store: Counted, count: StoreCount) -> None:
        assert count.told() == {"tasks": None, "estimated": [], "counted_at": None}
        await store.publish([new("a"), new("b")])
        await count.recount()
        counted_at = asyncio.get_running_loop().time()
        numbers = {"ready": 2, "later": 0, "held": 0, "dead": 0}
        assert count.told() == {"tasks": numbers, "estimated": [], "counted_at": counted_at}
        await store.publish([new("c")])
        store.is_away = True
        for _ in range(10):
            await asyncio.sleep(COUNT_SECONDS)
            await count.recount()
        assert count.told() == {"tasks": numbers, "estimated": [], "counted_at": counted_at}
        assert len(store.asked) == 2  # the second one found it away
        store.is_away = False
        await asyncio.sleep(COUNT_SECONDS)
        await count.recount()
        assert count.told()["tasks"] == {**numbers, "ready": 3}

    story(tell)


def test_a_count_that_was_not_answered_is_repeated_as_soon_as_any_other() -> None:
    async def tell(store: Counted, count: StoreCount) -> None:
        store.takes, store.is_away = 10.0, True
        await count.recount()
        store.takes, store.is_away = 0.0, False
        await asyncio.sleep(COUNT_SECONDS)
        await count.recount()
        assert count.told()["counted_at"] is not None

    story(tell)


def test_a_number_that_is_estimated_says_so() -> None:
    async def tell(store: Counted, count: StoreCount) -> None:
        store.is_large = True
        await count.recount()
        assert count.told()["estimated"] == ["ready"]
        assert count.told()["tasks"]["ready"] == 50_000

    story(tell)
