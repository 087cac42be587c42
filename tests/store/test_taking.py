"""Decides what a node takes from a common store, and keeps: in virtual time, with a store that loses requests and answers."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from linked import Station
from simulation.loop import EPOCH, in_virtual_time
from store_tasks import new

from spoolnode.cluster.dial import DialError, DialFailure
from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import (
    Again,
    CommonStore,
    Lease,
    Publication,
    Safety,
    StoreAway,
    StoreUnfit,
    TaskState,
)
from spoolnode.cluster.store.joined import Joined
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.memory import MemoryStore
from spoolnode.cluster.store.takers import Itself
from spoolnode.cluster.store.taking import BODIES_AT_ONCE, Taker
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.background import spawn
from spoolnode.node.config import Config
from spoolnode.node.disk.disk import discard
from spoolnode.node.outcome import Ending, Outcome
from spoolnode.node.spool.tasks import Taken
from spoolnode.node.work.balance import View, appetite
from spoolnode.protocol.spoolfile import FINISHED, STATE_AT

LEASE = 30.0


class TimedStore(MemoryStore):
    """A store in memory whose time is that of the loop."""

    @property  # type: ignore[override] # time is not set here
    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    @now.setter
    def now(self, value: float) -> None:
        pass

    async def watch(self, places: Any, seconds: float) -> bool:  # time alone wakes no watcher of a store in memory
        await asyncio.sleep(0.5)
        return any(await super().count())


class OneNode:
    """One node: the real code takes, keeps and tells; its workers are the test."""

    places = ("any", "me")

    def __init__(self, store: CommonStore, rng: random.Random) -> None:
        self.rng = rng
        self.station = Station()
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.wants = 3
        self.until = 0.0
        self.running: dict[str, float] = {}
        self.is_cut = False
        """Whether it does not reach the store."""
        self.unanswered: set[str] = set()
        """The verbs that the store does not answer."""
        self._store = store
        loop = asyncio.get_running_loop()
        contact = Contact(self.connect, self.report)
        self.contact, self.book = contact, LeaseBook(LEASE)
        self.teller = Teller(contact, self.book, self.report, self.station.spool.retrying.reason)
        itself = Itself([*self.places], "0123456789ab me")
        self.taker = Taker(
            contact, self.book, self.teller, self.station.storage, self, itself, self.report, loop.time
        )  # fmt: skip

    async def connect(self) -> CommonStore:
        """As `Open`."""
        return Reached(self, self._store)  # type: ignore[return-value] # it passes all on

    def report(self, action: str, **details: Any) -> None:
        """As `Report`."""
        self.said.append((action, details))

    async def start(self) -> None:
        """Takes tasks."""
        await self.contact.open()
        self.parts = [spawn(part) for part in (self.taker.run(), self.taker.keep(), self.teller.run())]

    async def stop(self) -> None:
        """Ends at once."""
        for part in self.parts:
            part.cancel()
        await asyncio.gather(*self.parts, return_exceptions=True)
        await self.contact.close()

    # -- as `Hands` --

    def appetite(self) -> int:
        return self.wants - len(self.running) - self.station.spool.starting.count

    def when_hungry(self, call: Callable[[], None]) -> None:
        self.station.spool.waiting.when_changed(call)
        self._hungry = call

    def call_back(self, refs: Any) -> None:
        """Its workers hold only what runs."""

    def hold_leases(self, until: float) -> None:
        self.until = until

    # -- its workers --

    def begin(self) -> list[str]:
        """They start what there is; the ids of those tasks."""
        started = []
        while len(self.running) < self.wants and (taken := self.station.spool.take(1)) is not None:
            (ref,) = taken.refs
            if asyncio.get_running_loop().time() >= self.until:
                self.station.spool.give_back(taken)
                break
            self.running[ref] = asyncio.get_running_loop().time()
            started.append(self.id_of(ref))
        return started

    def id_of(self, ref: str) -> str:
        """The id of a task."""
        return self.station.spool.id_of(self.station.storage.held, ref)

    def end(self, ref: str) -> str:
        """One ends well; its id."""
        held = self.station.storage.held
        del self.running[ref]
        path, base, _ = held.place.header(self.station.journal.layout, ref)
        if base:
            self.station.disk.store(path, base + STATE_AT, bytes([FINISHED]))
        else:
            discard(self.station.disk, path)
        assert self.station.journal.is_finished(held, [ref]) == {ref}, "as it is seen after the death of its worker"
        self.station.spool.done(held, [ref])
        self._hungry()
        return self.id_of(ref)

    def fail(self, ref: str) -> None:
        """One fails."""
        del self.running[ref]
        self.station.storage.verdicts.failed(self.station.storage.held, ref, 0, Outcome(Ending.FAILED, "why"))
        self._hungry()

    def give_back(self, ref: str) -> None:
        """A worker gives one back that it has not started."""
        del self.running[ref]
        self.station.spool.give_back(Taken(self.station.storage.held, [ref], 0))


async def not_dialed(address: str, *_: Any) -> Any:
    """No task is for an address."""
    raise AssertionError(address)


class HostOf:
    """That node, as its common store sees it."""

    id, addresses, key, instance = "me", list[str](), None, ""
    config = Config(store="memory", store_lease=LEASE)

    def __init__(self, node: OneNode) -> None:
        self.hands, self.storage, self.report = node, node.station.storage, node.report

    def is_apart(self, destination: str) -> bool:
        """None is."""
        return False

    def status(self) -> dict[str, Any]:
        """Nobody asks."""
        return {}


class Reached:
    """The store, as a node reaches it."""

    def __init__(self, node: OneNode, store: CommonStore) -> None:
        self._node, self._store = node, store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in ("body", "publications"):
            return method

        async def call(*args: Any) -> Any:
            await asyncio.sleep(self._node.rng.random() * 0.01)
            if (self._node.is_cut and name != "close") or name in self._node.unanswered:
                raise StoreAway("cut")
            answer = await method(*args)
            if self._node.is_cut and name != "close":
                raise StoreAway("cut meanwhile")
            return answer

        return call


def story(tell: Callable[[TimedStore], Awaitable[None]], **store: Any) -> None:
    """Tells a story in virtual time."""

    async def main() -> None:
        await tell(TimedStore(**store))

    in_virtual_time(main)


async def rest(*nodes: OneNode, seconds: float = 0.05) -> None:
    """A little time passes, and the disks are done."""
    for _ in range(4):
        await asyncio.sleep(seconds / 4)
        for node in nodes:
            await node.station.rest()


async def holding(store: CommonStore, *names: str, body: bytes = b"") -> OneNode:
    """A node that has taken these tasks: they wait there."""
    node = OneNode(store, random.Random(1))
    await node.start()
    await store.publish([new(name, body) for name in names])
    await rest(node, seconds=2.0)
    return node


class Fates:
    """What has become of the tasks of several nodes that a seed disturbs."""

    def __init__(self, nodes: list[OneNode], rng: random.Random) -> None:
        self._nodes = nodes
        self._rng = rng
        self._cut_at: dict[OneNode, float] = {}
        self.started: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self.excused: set[str] = set()
        """Those that may run twice: they were to run again, or were with a node that was cut off."""

    async def second(self) -> None:
        """A second passes."""
        for node in self._nodes:
            now = asyncio.get_running_loop().time()
            if node.is_cut or node.book.until <= now:
                self.excused.update(node.id_of(ref) for ref in {*node.book.all()} - {*node.station.storage.held.waiting})
            self.started.update(node.begin())
            for ref in [ref for ref, since in node.running.items() if now - since > self._rng.random() * 40]:
                self._end(node, ref)
            self._disturb(node, now)
        await rest(*self._nodes, seconds=1.0)

    def _end(self, node: OneNode, ref: str) -> None:
        fate = self._rng.random()
        if fate < 0.8:
            self.ended[node.end(ref)] += 1
            return
        self.excused.add(node.id_of(ref))
        (node.fail if fate < 0.9 else node.give_back)(ref)

    def _disturb(self, node: OneNode, now: float) -> None:
        if self._rng.random() < 0.01:
            node.is_cut, self._cut_at[node] = True, now
        if node.is_cut and now - self._cut_at[node] > self._rng.random() * 120:
            node.is_cut = False
        if self._rng.random() < 0.1:
            node.taker.tick()


@pytest.mark.parametrize("seed", range(6))
def test_with_lost_answers_and_cuts_each_task_ends_and_none_starts_under_a_lease_that_ran_out(seed: int) -> None:
    async def tell(store: TimedStore) -> None:
        rng = random.Random(seed)
        nodes = [OneNode(store, rng) for _ in range(3)]
        for node in nodes:
            await node.start()
        tasks = [f"t{number}" for number in range(40)]
        for identity in tasks:
            await store.publish([new(identity, b"body" if rng.random() < 0.2 else b"", to=rng.choice(["any", "me"]))])
        store.lost_requests = store.lost_answers = 0.1
        fates = Fates(nodes, rng)
        while len(fates.ended) < len(tasks):
            assert asyncio.get_running_loop().time() < 3000, f"{set(tasks) - set(fates.ended)} have not ended"
            await fates.second()
        assert {identity for identity, times in fates.started.items() if times > 1} <= fates.excused

        store.lost_requests = store.lost_answers = 0.0
        for node in nodes:
            node.is_cut = False
        await until_empty(store, nodes)

    story(tell, rng=random.Random(seed))


async def until_empty(store: TimedStore, nodes: list[OneNode]) -> None:
    """Runs what is left, and stops the nodes, which hold nothing then."""
    while any(tally.number for tally in (await store.count()).values()):
        assert asyncio.get_running_loop().time() < 6000, f"the store still has {await store.count()}"
        for node in nodes:
            for ref in list(node.running):
                node.end(ref)
            node.begin()
        await rest(*nodes, seconds=1.0)
    for node in nodes:
        assert not node.book.all()
        assert not node.station.storage.held.known
        await node.stop()


def test_what_a_node_holds_is_extended_as_long_as_it_runs() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        assert node.begin() == ["a"]
        for _ in range(20):
            await rest(node, seconds=LEASE / 2)
            assert not await store.take(1, ["any"], LEASE)
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node)
        assert (await store.find("a")).state is TaskState.ENDED  # type: ignore[union-attr] # it is known
        await node.stop()

    story(tell)


def test_a_node_that_is_cut_off_starts_nothing_says_so_and_goes_on_when_it_is_back() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a", "b", "c")
        node.wants = 1
        assert node.begin() == ["a"]
        node.is_cut = True
        await rest(node, seconds=LEASE + 5)
        lapsed = [details for action, details in node.said if action == "leases_lapsed"]
        assert [(details["waiting"], details["running"]) for details in lapsed] == [(2, 1)]
        node.wants = 3
        assert node.begin() == []
        assert len(await store.take(5, ["any"], 1.0)) == 3
        await asyncio.sleep(1.1)
        node.is_cut = False
        await rest(node, seconds=5.0)
        assert [details["id"] for action, details in node.said if action == "lease_lost"] == ["a"]
        assert sorted(node.begin()) == ["b", "c"]
        await node.stop()

    story(tell)


def test_a_node_that_held_nothing_any_more_when_the_store_came_back_takes_again() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        node.is_cut = True
        await rest(node, seconds=LEASE + 5)
        assert node.begin() == []
        node.is_cut, node.unanswered = False, {"extend"}
        await rest(node, seconds=6.0)
        node.unanswered = set()
        await rest(node, seconds=6.0)
        assert node.begin() == ["a"]
        await node.stop()

    story(tell)


def test_an_end_is_told_again_until_the_store_has_heard_it() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        assert node.begin() == ["a"]
        node.is_cut = True
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node, seconds=LEASE / 2)
        node.is_cut = False
        await rest(node, seconds=5.0)
        assert (await store.find("a")).state is TaskState.ENDED  # type: ignore[union-attr] # it is known
        assert not [action for action, _ in node.said if action == "lease_lost"]
        await node.stop()

    story(tell)


def test_a_task_is_given_up_whatever_characters_its_reason_has() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        assert node.begin() == ["a"]
        node.station.storage.held.gave_up("tmp/uwsgi_spoolfile_on_a", "no customer \udcff\0é", 1)
        await rest(node)
        found = await store.find("a")
        assert found is not None
        assert (found.state, found.reason) == (TaskState.DEAD, "no customer \\udcff\\x00é")
        await node.stop()

    story(tell)


def test_a_store_that_is_back_and_does_not_let_us_in_is_an_error_that_is_told_once() -> None:
    class Locked(TimedStore):
        is_locked = False

        async def check(self) -> Safety:
            if self.is_locked:
                raise StoreUnfit("a wrong password")
            return await super().check()

    async def main() -> None:
        store = Locked()
        node = await holding(store)
        node.is_cut = True
        await rest(node, seconds=4.0)
        node.is_cut, store.is_locked = False, True
        await rest(node, seconds=30.0)
        store.is_locked = False
        await rest(node, seconds=4.0)
        assert [action for action, _ in node.said] == ["store_away", "store_unfit", "store_back"]
        assert node.said[1][1] == {"reason": "a wrong password"}
        await node.stop()

    in_virtual_time(main)


def test_a_mistake_in_a_part_is_reported_and_the_part_goes_on_where_it_was() -> None:
    class Mistaken(TimedStore):
        mistakes = 0

        async def bury(self, burials: Any) -> frozenset[Lease]:
            self.mistakes += 1
            if self.mistakes < 3:
                raise ValueError("odd")
            return await super().bury(burials)

    async def main() -> None:
        store = Mistaken()
        node = OneNode(store, random.Random(1))
        joined = Joined(HostOf(node), Contact(node.connect, node.report), not_dialed, asyncio.get_running_loop().time)
        await joined.open()
        await joined.start()
        await store.publish([new("a"), new("b")])
        await rest(node, seconds=2.0)
        assert sorted(node.begin()) == ["a", "b"]
        node.station.storage.held.gave_up("tmp/uwsgi_spoolfile_on_a", "why", 1)
        await rest(node, seconds=4.0)
        assert (await store.find("a")).state is TaskState.DEAD  # type: ignore[union-attr] # it is known
        assert [details["reason"] for action, details in node.said if action == "mistake"] == ["the common store"] * 2
        node.end("tmp/uwsgi_spoolfile_on_b")
        await rest(node, seconds=2.0)
        assert (await store.find("b")).state is TaskState.ENDED  # type: ignore[union-attr] # it is known
        await joined.stop()

    in_virtual_time(main)


def test_a_node_stops_although_a_request_misses_that_it_is_cancelled() -> None:
    class Deaf(TimedStore):
        misses = 0

        async def watch(self, places: Sequence[str], seconds: float) -> None:
            try:
                await super().watch(places, seconds)
            except asyncio.CancelledError:  # what a client does whose answer comes at that moment (Python's wait_for)
                self.misses += 1
                if self.misses > 1:
                    raise

    async def main() -> None:
        store = Deaf()
        node = OneNode(store, random.Random(1))
        joined = Joined(HostOf(node), Contact(node.connect, node.report), not_dialed, asyncio.get_running_loop().time)
        await joined.open()
        await joined.start()
        await rest(node, seconds=2.0)
        async with asyncio.timeout(60):
            await joined.stop()
        assert store.misses

    in_virtual_time(main)


def test_a_task_that_ended_here_while_the_lease_ran_out_is_not_run_again_if_it_comes_back() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a", "b")
        assert node.begin() == ["a", "b"]
        node.is_cut = True
        await rest(node, seconds=LEASE + 5)
        for name in "ab":
            node.end(f"tmp/uwsgi_spoolfile_on_{name}")
        (other,) = await store.take(1, ["any"], LEASE)
        assert other.lease.id == "a"
        node.is_cut = False
        await rest(node, seconds=6.0)
        await store.again([Again(other.lease)])  # another node has tried it since, so it is not ours to end
        await rest(node, seconds=6.0)
        assert (await store.find("b")).state is TaskState.ENDED  # type: ignore[union-attr] # it is known
        assert node.begin() == ["a"]
        await node.stop()

    story(tell)


def test_the_result_of_a_task_that_ended_here_while_the_lease_ran_out_is_told_when_it_comes_back() -> None:
    async def main() -> None:
        store, book, said = MemoryStore(), LeaseBook(LEASE), list[str]()

        async def connect() -> CommonStore:
            return store

        contact = Contact(connect, lambda action, **_: said.append(action))
        await contact.open()
        teller = Teller(contact, book, lambda action, **_: said.append(action), lambda _: "")
        await store.publish([new("a")])
        ((lease, _),) = await store.take(1, ["any"], LEASE)
        book.take("tmp/a", lease, 0.0)
        store.advance(LEASE + 1)
        teller.returned("tmp/a", b"result")
        await teller.tell()
        assert said == ["lease_lost"]
        ((again, _),) = await store.take(1, ["any"], LEASE)
        book.take("tmp/a", again, LEASE + 1)
        assert teller.renew("tmp/a", again, has_key=False)
        await teller.tell()
        found = await store.find("a")
        assert found is not None
        assert (found.state, found.result, teller._results) == (TaskState.ENDED, b"result", {})
        await contact.close()

    asyncio.run(main())


@pytest.mark.parametrize("is_told", [True, False], ids=["the store hears of its end too late", "the store never hears of it"])
def test_a_task_with_a_key_that_comes_back_after_its_end_runs_again_as_a_duplicate_may_have_counted_on_it(
    is_told: bool,
) -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store)
        await store.publish([new("a", key=b"k")])
        await rest(node, seconds=2.0)
        assert node.begin() == ["a"]
        node.is_cut = True
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node, seconds=LEASE + 5)
        assert await store.publish([new("b", key=b"k")]) == [Publication.DUPLICATE]
        node.is_cut, node.unanswered = False, set() if is_told else {"end"}
        await rest(node, seconds=6.0)
        assert node.begin() == ["a"]
        node.unanswered = set()
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node, seconds=6.0)
        assert (await store.find("a")).state is TaskState.ENDED  # type: ignore[union-attr] # it is known
        await node.stop()

    story(tell)


async def failing(node: OneNode, ref: str) -> None:
    """A task has just failed, and its file is still to say how often."""
    node.station.storage.held.place.set_attempts(node.station.by_hand, ref, 1)  # as a worker does
    node.fail(ref)
    moves = node.station.journal.moves
    while ref in node.station.storage.held.known:
        moves.work()  # type: ignore[attr-defined] # it is stepped
        moves.answer()  # type: ignore[attr-defined] # likewise
        await asyncio.sleep(0)


def test_a_task_that_is_taken_again_just_when_it_has_failed_here_waits_in_the_store_with_its_attempts() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        assert node.begin() == ["a"]
        node.is_cut = True
        await rest(node, seconds=LEASE + 5)
        await failing(node, "tmp/uwsgi_spoolfile_on_a")
        node.is_cut = False
        await asyncio.sleep(6.0)
        assert node.book.get("tmp/uwsgi_spoolfile_on_a") == Lease("a", 0, 2)
        node.wants = 0
        await rest(node)
        found = await store.find("a")
        assert found is not None
        assert found.state in (TaskState.READY, TaskState.LATER)
        assert found.task.attempts == 1
        assert not node.station.storage.held.known
        await node.stop()

    story(tell)


def test_a_node_that_leaves_tells_the_store_of_a_task_that_has_just_failed() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a")
        assert node.begin() == ["a"]
        await failing(node, "tmp/uwsgi_spoolfile_on_a")
        ending = spawn(node.taker.end())
        await asyncio.sleep(1.0)
        await rest(node)
        await ending
        assert (await store.find("a")).state in (TaskState.READY, TaskState.LATER)  # type: ignore[union-attr] # it is known
        await node.stop()

    story(tell)


def test_a_paused_node_gives_back_what_waits_and_takes_nothing() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a", "b")
        node.station.spool.starting.throttle.pause(frozenset(), everything=True)
        node.taker.tick()
        await rest(node, seconds=2.0)
        assert (await store.count())[TaskState.READY].number == 2
        node.station.spool.starting.throttle.pause(frozenset(), everything=False)
        node.taker.tick()
        await rest(node, seconds=6.0)
        assert sorted(node.begin()) == ["a", "b"]
        await node.stop()

    story(tell)


@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_task_whose_lease_is_lost_while_its_file_is_written_does_not_start(body: bytes) -> None:
    class LateOnce(TimedStore):
        """As for a node that is stopped between its request and the answer."""

        delay = LEASE + 5

        async def take(self, most: int, places: Any, lease: float, by: str = "") -> Any:
            taken = await super().take(most, places, lease, by)
            delay, self.delay = self.delay if taken else 0.0, 0.0 if taken else self.delay
            await asyncio.sleep(delay)
            return taken

        async def body(self, lease: Lease) -> Any:
            yield body

    async def tell(store: TimedStore) -> None:
        node = OneNode(store, random.Random(1))
        await node.start()
        await store.publish([new("a", body)])
        await asyncio.sleep(LEASE + 2)
        assert len(await store.take(1, ["any"], 600.0)) == 1  # another node has it now
        await asyncio.sleep(6)
        assert not len(node.book)  # the store has said so
        await rest(node)
        await store.publish([new("b", body)])  # with a lease that holds, all that waits may start
        await rest(node, seconds=2.0)
        assert node.begin() == ["b"]
        await node.stop()

    in_virtual_time(lambda: tell(LateOnce()))


@pytest.mark.parametrize("error", [StoreUnfit("a chunk is missing"), StoreAway("cut"), ValueError("odd")])
def test_a_task_whose_body_cannot_be_read_goes_back_and_runs_when_it_can(error: Exception) -> None:
    class BadBody(TimedStore):
        is_bad = True

        async def body(self, lease: Lease) -> Any:
            if self.is_bad:
                raise error
            async for chunk in super().body(lease):
                yield chunk

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        store = BadBody()
        node = await holding(store, "a", body=b"body")
        store.is_bad = False
        await rest(node, seconds=LEASE / 3)
        assert node.begin() == ["a"]
        told = {details["reason"] for action, details in node.said if action == "move_failed"}
        assert told == ({str(error)} if isinstance(error, StoreUnfit) else set())
        await node.stop()

    in_virtual_time(main)


def test_a_task_whose_body_is_not_whole_in_the_store_does_not_run() -> None:
    class CutBody(TimedStore):
        async def body(self, lease: Lease) -> Any:
            async for chunk in super().body(lease):
                yield chunk[:-1]

    async def main() -> None:
        node = await holding(CutBody(), "a", body=b"body")
        assert node.begin() == []
        (told,) = {details["reason"] for action, details in node.said if action == "move_failed"}
        assert told == "the body of a has 3 bytes in the store, and should have 4"
        await node.stop()

    in_virtual_time(main)


def test_a_task_that_is_taken_again_while_its_body_still_comes_runs_once_and_whole() -> None:
    class SlowBody(TimedStore):
        reads = 0

        async def body(self, lease: Lease) -> Any:
            self.reads += 1
            if self.reads == 1:
                await asyncio.sleep(2 * LEASE)
            async for chunk in super().body(lease):
                yield chunk

    async def main() -> None:
        store = SlowBody()
        node = await holding(store, "a", body=b"body")
        node.is_cut = True
        await rest(node, seconds=LEASE + 5)
        node.is_cut = False
        started = []
        for _ in range(6 * int(LEASE)):
            await rest(node, seconds=1.0)
            started += node.begin()
        assert started == ["a"]
        held = node.station.read(node.station.storage.held, "tmp/uwsgi_spoolfile_on_a")
        assert held is not None
        assert held.body == b"body"
        await node.stop()

    in_virtual_time(main)


def test_tasks_that_are_taken_together_share_a_file_which_goes_with_the_last_of_them() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a", "b", "c", "d")
        assert len(node.station.files("tmp")) == 1
        assert node.begin() == ["a", "b", "c"]
        node.end("tmp/uwsgi_spoolfile_on_a")
        await failing(node, "tmp/uwsgi_spoolfile_on_b")
        await rest(node)
        assert (await store.find("b")).task.attempts == 1  # type: ignore[union-attr] # it is known
        node.station.storage.held.give_back(["tmp/uwsgi_spoolfile_on_d"], 1_900_000_000.0)
        await rest(node)
        assert len(node.station.files("tmp")) == 1, "one of them still runs"
        node.give_back("tmp/uwsgi_spoolfile_on_c")
        assert node.begin() == ["c"]
        node.station.storage.held.gave_up("tmp/uwsgi_spoolfile_on_c", "why", 1)
        await rest(node)
        assert node.station.files("tmp") == []
        await node.stop()

    story(tell)


def test_what_a_node_is_just_taking_when_it_leaves_goes_back() -> None:
    async def tell(store: TimedStore) -> None:
        node = OneNode(store, random.Random(1))
        await node.start()
        await store.publish([new("a"), new("b")])
        while not (await store.count())[TaskState.HELD].number:
            await asyncio.sleep(0.001)
        assert not node.station.storage.held.known
        ending = spawn(node.taker.end())
        await asyncio.sleep(0.001)
        assert not ending.done()
        await rest(node, seconds=2.0)
        assert ending.done()
        assert (await store.count())[TaskState.READY].number == 2
        await node.stop()

    story(tell)


def test_a_node_that_leaves_gives_back_tasks_whose_bodies_have_no_turn_yet() -> None:
    class SlowBody(TimedStore):
        async def body(self, lease: Lease) -> Any:
            await asyncio.sleep(20)
            yield b"body"

    async def main() -> None:
        store = SlowBody()
        node = OneNode(store, random.Random(1))
        node.wants = BODIES_AT_ONCE + 3
        await node.start()
        await store.publish([new(f"t{number}", b"body") for number in range(node.wants)])
        await rest(node, seconds=2.0)
        assert len(node.book) == node.wants
        ending = spawn(node.taker.end())
        await rest(node, seconds=2.0)
        await rest(node)
        assert ending.done()
        assert (await store.count())[TaskState.READY].number == node.wants
        assert not len(node.book)
        await node.stop()

    in_virtual_time(main)


def test_a_node_that_leaves_gives_back_at_once_what_has_not_started() -> None:
    async def tell(store: TimedStore) -> None:
        node = await holding(store, "a", "b", "c")
        node.wants = 1
        assert node.begin() == ["a"]
        node.taker.leave()
        await rest(node)
        assert {state: tally.number for state, tally in (await store.count()).items() if tally.number} == {
            TaskState.READY: 2, TaskState.HELD: 1,
        }  # fmt: skip
        ending = spawn(node.taker.end())
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node)
        await ending
        assert (await store.count())[TaskState.HELD].number == 0
        await node.stop()

    story(tell)


def test_leases_are_extended_together_after_a_third_of_their_length() -> None:
    book = LeaseBook(30.0)
    first, second = Lease("a", 0, 1), Lease("b", 0, 1)
    book.take("a", first, 100.0)
    book.take("b", second, 105.0)
    assert (book.until, book.extended_at) == (130.0, 110.0)
    assert book.extended(book.all(), {second}, 110.0) == ["b"]
    assert (book.until, len(book)) == (140.0, 1)


def test_an_answer_about_a_lease_says_nothing_of_a_later_one() -> None:
    book = LeaseBook(30.0)
    old, later = Lease("a", 0, 1), Lease("a", 0, 2)
    book.take("a", old, 100.0)
    asked = book.all()
    book.take("a", later, 101.0)
    assert book.extended(asked, {old}, 102.0) == []
    book.release("a", old)
    assert book.get("a") == later


@pytest.mark.parametrize(
    ("views", "waiting", "wanted"),
    [
        ([View(0, 1, 0, 64, False)], 0, 1),
        ([View(1, 1, 0, 64, False)], 0, 0),
        ([View(0, 100, 0, 64, False)], 0, 200),
        ([View(100, 100, 0, 64, False)], 20, 80),
        ([View(100, 100, 0, 64, False)], 60, 0),
        ([View(5, 100, 0, 64, True)], 0, 0),
        ([View(0, 1, 0, 64, False)] * 3, 1, 2),
        ([], 0, 0),
    ],
)
def test_a_node_takes_what_its_workers_can_start_soon(views: list[View], waiting: int, wanted: int) -> None:
    assert appetite(views, waiting) == wanted


def test_an_address_that_is_left_alone_is_tried_again_when_that_is_asked_for() -> None:
    gone, other = "192.0.2.7:3031", "192.0.2.8:3031"
    tried: list[str] = []

    async def refused(address: str, *_: Any) -> Any:
        tried.append(address)
        raise DialError(DialFailure.REFUSED, f"nothing listens on {address}")

    async def main() -> None:
        store = TimedStore()
        node = OneNode(store, random.Random(1))
        joined = Joined(HostOf(node), Contact(node.connect, node.report), refused, asyncio.get_running_loop().time)
        await joined.open()
        await joined.start()
        await store.publish([new("a", to=gone), new("b", to=other)])
        await rest(node, seconds=3600.0)
        for asked, expected in ([gone], [gone]), (["elsewhere"], []), ([], [gone, other]):
            tried.clear()
            assert sorted(joined.flush(asked)) == expected
            await rest(node, seconds=0.1)
            assert sorted(tried) == expected
            await rest(node, seconds=3600.0)
        await joined.stop()

    in_virtual_time(main)
