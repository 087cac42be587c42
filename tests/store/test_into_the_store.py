"""Tasks on their way into a common store: each is there once when it was acknowledged, whatever answers get lost."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from linked import LINK, NODE, Heard, Station, task
from packets import Reports, Wire, services_of
from simulation.disk import Pace, SimExecutor
from simulation.loop import in_virtual_time
from test_taking import HostOf, OneNode, TimedStore, not_dialed, rest

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import REMEMBERED, CommonStore, NewTask, Publication, Safety, StoreAway, TaskState
from spoolnode.cluster.store.joined import Joined
from spoolnode.cluster.store.publishing import ALONE_AT_ONCE, LARGE, Publisher
from spoolnode.cluster.store.sending import Sending
from spoolnode.node.background import spawn
from spoolnode.node.commons import NoCommons, SharedTask, Sharer, place_in_store
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.shared import Sharing, Way
from spoolnode.protocol.answer import read_copies
from spoolnode.protocol.names import LAST
from spoolnode.protocol.packet import EXTENDED, SPOOL_REQUEST, decode_variables, encode_variables, packet


class Entrance(NoCommons):
    """One node that shares what it takes in."""

    is_joined = True

    def __init__(self, store: CommonStore, *, keeps: bool = True) -> None:
        self.station = Station()
        self._store = store
        self.contact = Contact(self._connect, lambda _action, **_details: None)
        self._publisher = Publisher(self.contact)
        way = Way(self, lambda _terms: ["", "other"], lambda to: to == "apart", NODE, frozenset(["me"]), keeps)
        storage = self.station.storage
        threads: Any = SimExecutor(asyncio.get_running_loop(), Pace(random.Random(1)))  # type: ignore[arg-type] # it is one
        self.station.admission = Admission(
            storage, lambda terms: [terms.destination], threads, max_body=1 << 20, min_free=0, sharing=Sharing(storage, way)
        )
        self._sending = Sending(self.contact, storage, NODE, lambda _action, **_details: None)

    async def _connect(self) -> CommonStore:
        return self._store

    def share(self, task: SharedTask, sharer: Sharer) -> None:
        self._publisher.add(task, sharer)

    def when_told(self, call: Callable[[], None]) -> None:
        self._publisher.told = call

    async def open(self) -> None:
        await self.contact.open()
        self.sending = spawn(self._sending.run())

    async def stop(self) -> None:
        self.sending.cancel()
        await asyncio.gather(self.sending, return_exceptions=True)
        await self.contact.close()

    async def pass_time(self, seconds: float = 1.0) -> None:
        """Time passes, and the disk does its work."""
        for _ in range(8):
            await asyncio.sleep(seconds / 8)
            await self.station.rest()


async def numbers_in(store: TimedStore) -> list[str]:
    """The tasks in a store, by their variable n."""
    page = await store.list(TaskState.READY, 1000)
    return sorted(dict(decode_variables(found.task.block))[b"n"].decode() for found in page.tasks)


@pytest.mark.parametrize("seed", range(4))
def test_each_acknowledged_task_is_in_the_store_once_and_a_refused_one_at_most_once(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        store = TimedStore(rng=rng)
        node = Entrance(store, keeps=seed % 2 == 0)
        await node.open()
        heard: dict[str, Heard] = {}
        store.lost_requests = store.lost_answers = 0.25
        for number in range(60):
            heard[str(number)] = node.station.admit(task(number), rng.choice([b"", b"body"]), link=None)
            if rng.random() < 0.1:
                store.is_away = not store.is_away
            if rng.random() < 0.5:
                await node.pass_time()
        store.is_away, store.lost_requests, store.lost_answers = False, 0.0, 0.0
        for _ in range(60):
            await node.pass_time()
        there = await numbers_in(store)
        assert len(set(there)) == len(there)
        assert {number for number, waiter in heard.items() if waiter.stored_as} <= set(there)
        assert all(waiter.answers == 1 for waiter in heard.values())
        assert not node.station.outbox.sizes()
        assert seed % 2 or not any(waiter.refusals for waiter in heard.values())
        await node.stop()

    in_virtual_time(main)


@pytest.mark.parametrize("is_answered", [True, False])
def test_a_task_that_this_node_takes_before_the_store_has_said_that_it_has_it_is_acknowledged_first(is_answered: bool) -> None:
    class SlowToAnswer(TimedStore):
        async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
            outcomes = await super().publish(tasks)
            await asyncio.sleep(5)
            if not is_answered:
                raise StoreAway("the answer was lost")
            return outcomes

    class Waiter:
        def shared(self, *, is_duplicate: bool) -> None:
            happened.append(f"stored {is_duplicate}")

        def not_shared(self, reason: str, *, may_have_it: bool) -> None:
            raise AssertionError((reason, may_have_it))

    happened: list[str] = []

    async def main() -> None:
        node = OneNode(SlowToAnswer(), random.Random(1))
        joined = Joined(HostOf(node), Contact(node.connect, node.report), not_dialed, asyncio.get_running_loop().time)
        await joined.open()
        await joined.start()
        joined.share(SharedTask("a", encode_variables([(b"n", b"1")]), "any", LAST, 0.0, b"", 0), Waiter())
        await rest(node, seconds=3.0)
        happened.extend(f"starts {identity}" for identity in node.begin())
        await rest(node, seconds=30.0)
        node.end("tmp/uwsgi_spoolfile_on_a")
        await rest(node, seconds=3.0)
        await joined.stop()
        assert happened == ["stored False", "starts a"]

    in_virtual_time(main)


@pytest.mark.parametrize("note", ["", "it says spool_id"])
def test_a_task_that_was_stored_and_kept_here_because_no_answer_came_is_one_task(note: str) -> None:
    async def main() -> None:
        store = TimedStore()
        node = Entrance(store)
        await node.open()
        store.lost_answers = 1.0
        waiter = node.station.admit(task(1, note=note), link=None)
        for _ in range(5):
            await node.pass_time()
        assert node.station.outbox.sizes() == {"any": 1}
        store.lost_answers = 0.0
        for _ in range(5):
            await node.pass_time()
        assert await numbers_in(store) == ["1"]
        assert not node.station.outbox.sizes()
        assert await store.find(waiter.stored_as[0]) is not None
        await node.stop()

    in_virtual_time(main)


class Told:
    """A sharer that hears that its task is stored."""

    def __init__(self) -> None:
        self.is_stored = False

    def shared(self, *, is_duplicate: bool) -> None:
        self.is_stored = not is_duplicate

    def not_shared(self, reason: str, *, may_have_it: bool) -> None:
        raise AssertionError(reason)


def test_many_large_tasks_leave_connections_to_the_store_for_other_requests() -> None:
    class Slow(TimedStore):
        now_publishing = most = 0

        async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
            self.now_publishing += 1
            self.most = max(self.most, self.now_publishing)
            await asyncio.sleep(5)
            self.now_publishing -= 1
            return await super().publish(tasks)

    async def main() -> None:
        store = Slow()

        async def connect() -> CommonStore:
            return store

        contact = Contact(connect, lambda _action, **_details: None)
        await contact.open()
        publisher = Publisher(contact)
        told = [Told() for _ in range(10)]
        for number, sharer in enumerate(told):
            publisher.add(SharedTask(f"t{number}", task(number), "any", 0, 0.0, b"", 0, bytes(LARGE + 1)), sharer)
        await publisher.finish()
        assert all(sharer.is_stored for sharer in told)
        assert store.most == ALONE_AT_ONCE
        await contact.close()

    in_virtual_time(main)


def test_copies_for_all_nodes_and_tasks_for_nodes_apart_go_where_they_should() -> None:
    async def main() -> None:
        store = TimedStore()
        node = Entrance(store)
        await node.open()
        all_, apart = (node.station.admit(task(1, spool_node=to), link=None) for to in ("all", "apart"))
        await node.pass_time()
        page = await store.list(TaskState.READY, 10)
        assert sorted(found.task.to for found in page.tasks) == sorted([NODE, "other"])
        assert all_.copies == 2
        assert node.station.outbox.sizes() == {"apart": 1}
        assert apart.stored_as
        await node.stop()

    in_virtual_time(main)


@pytest.mark.parametrize(
    ("asked", "to"),
    [
        ({}, "any"),
        ({b"spool_node": b"any"}, "any"),
        ({b"spool_node": b"tag:gpu"}, "tag:gpu"),
        ({b"spool_node": b"mail1", b"spool_to": b"any"}, "mail1"),
        ({b"spool_node": b"all", b"spool_to": b"aaaaaaaaaaaa"}, "aaaaaaaaaaaa"),
        ({b"spool_node": b"all"}, NODE),
    ],
)
def test_a_task_that_waited_here_goes_to_where_its_sender_asked(asked: dict[bytes, bytes], to: str) -> None:
    assert place_in_store(asked, NODE) == to


def test_a_task_that_came_over_a_link_is_put_off_while_the_store_is_away_and_taken_once() -> None:
    async def main() -> None:
        store = TimedStore()
        node = Entrance(store)
        await node.open()
        store.is_away = True
        first = node.station.admit(task(1, number=7, spool_id="origin", spool_node="me"))
        for _ in range(5):
            await node.pass_time()
        assert first.refusals
        store.is_away = False
        for _ in range(5):
            await node.pass_time()
        again = [node.station.admit(task(1, number=7, spool_id="origin", spool_node="me"))]
        await node.pass_time()
        again.append(node.station.admit(task(1, number=7, spool_id="origin", spool_node="me")))
        assert [waiter.stored_as for waiter in again] == [["origin"], ["known"]]
        found = await store.find("origin")
        assert found is not None
        assert found.task.to == "me"
        assert await numbers_in(store) == ["1"]
        await node.stop()

    in_virtual_time(main)


@pytest.mark.parametrize("body", [b"", bytes(LARGE + 1)], ids=["small", "large"])
def test_a_link_whose_task_the_store_may_have_ends_without_an_answer_and_a_repeat_is_one_task(body: bytes) -> None:
    async def main() -> None:
        store = TimedStore()
        node = Entrance(store)
        await node.open()

        async def send() -> Wire:
            services = services_of(node.station, Reports())
            node.when_told(services.flush)
            caller = Caller("peer", is_local=False, is_allowed=True)
            caller.link = LINK
            wire = Wire(services, caller)
            length = {"spool_body": str(len(body))} if body else {}
            sent = task(1, number=7, spool_id="origin", spool_node="any", **length)
            wire.say(packet(SPOOL_REQUEST, sent, EXTENDED) + body)
            for _ in range(6):
                await node.pass_time()
            return wire

        store.lost_answers = 1.0
        first = await send()
        assert (first.answers, first.end) == ([], "closed")
        store.lost_answers = 0.0
        await node.pass_time(3.0)
        assert (await send()).stored == 1
        assert await numbers_in(store) == ["1"]
        await node.stop()

    in_virtual_time(main)


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "lost"])
@pytest.mark.parametrize("failing", [{"other"}, {NODE, "other"}], ids=["one copy", "all copies"])
def test_of_a_large_task_for_all_each_copy_is_there_once_though_the_store_was_lost_meanwhile(
    failing: set[str], is_stored: bool
) -> None:
    class Lost(TimedStore):
        failing: frozenset[str] | set[str] = frozenset()

        async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
            if not any(new.task.to in self.failing for new in tasks):
                return await super().publish(tasks)
            if is_stored:
                await super().publish(tasks)
            raise StoreAway("lost")

    async def main() -> None:
        store = Lost()
        node = Entrance(store)
        await node.open()
        store.failing = failing
        body = bytes(LARGE + 1)
        reports = Reports()
        services = services_of(node.station, reports)
        node.when_told(services.flush)
        wire = Wire(services)
        wire.say(packet(SPOOL_REQUEST, task(1, spool_node="all", spool_body=str(len(body))), EXTENDED) + body)
        for _ in range(6):
            await node.pass_time()
        assert [read_copies(block) for _, _, block in wire.answers] == [2]
        assert node.station.outbox.sizes() == {"any": len(failing)}
        store.failing = set()
        for _ in range(6):
            await node.pass_time()
        assert not node.station.outbox.sizes()
        page = await store.list(TaskState.READY, 10)
        assert sorted((found.task.to, found.task.size) for found in page.tasks) == [(NODE, len(body)), ("other", len(body))]
        assert node.station.files("tmp") == []
        await node.stop()

    in_virtual_time(main)


class CutOff(TimedStore):
    """A store that a node can be cut off from as it publishes task 1: that is carried out, and the answer is lost."""

    is_cut = has_lost = False

    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        done = await super().publish(tasks)
        if self.is_cut and any(dict(decode_variables(new.task.block))[b"n"] == b"1" for new in tasks):
            self.has_lost = True
            raise StoreAway("cut off")
        return done

    async def check(self) -> Safety:
        if self.is_cut and self.has_lost:
            raise StoreAway("cut off")
        return await super().check()


@pytest.mark.parametrize("size", [0, LARGE + 1], ids=["small", "large"])
@pytest.mark.parametrize("is_sent_from_disk", [False, True], ids=["from a client", "from the disk"])
@pytest.mark.parametrize("has_run", [False, True])
def test_a_task_without_an_answer_is_not_sent_again_when_the_store_may_have_forgotten_that_it_ran(
    is_sent_from_disk: bool, has_run: bool, size: int
) -> None:
    async def main() -> None:
        store = CutOff()
        node = Entrance(store)
        await node.open()
        if is_sent_from_disk:
            store.is_away = True
            node.station.admit(task(0), link=None)  # now the store is known to be away
            await node.pass_time(3.0)
        else:
            store.is_cut = True
        services = services_of(node.station, Reports())
        node.when_told(services.flush)
        wire = Wire(services)
        length = {"spool_body": str(size)} if size else {}
        wire.say(packet(SPOOL_REQUEST, task(1, **length), EXTENDED) + bytes(size))
        await node.pass_time(6.0)
        store.is_away, store.is_cut = False, True
        await node.pass_time(60.0)
        taken = await store.take(10, ["any"], 60.0)
        leases = [lease for lease, found in taken if dict(decode_variables(found.block))[b"n"] == b"1"]
        assert len(leases) == 1
        if has_run:
            await store.end(leases)
        await asyncio.sleep(2 * REMEMBERED)
        store.is_cut = False
        await node.pass_time(60.0)
        assert not node.station.outbox.sizes()
        assert ("1" in await numbers_in(store)) is not has_run
        assert len([name for name in node.station.files("dead") if name.startswith("uwsgi")]) >= has_run
        await node.stop()

    in_virtual_time(main)


def test_a_task_of_which_the_store_was_never_asked_is_sent_however_late() -> None:
    async def main() -> None:
        store = CutOff()
        node = Entrance(store)
        await node.open()
        store.is_away = True
        node.station.admit(task(0), link=None)
        await node.pass_time(3.0)
        node.station.admit(task(1), link=None)
        await asyncio.sleep(2 * REMEMBERED)
        store.is_away = False
        await node.pass_time(60.0)
        assert "1" in await numbers_in(store)
        await node.stop()

    in_virtual_time(main)
