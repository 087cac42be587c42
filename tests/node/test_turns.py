"""One read may bring thousands of requests, events or lines: they share the turns of the loop with all others, and keep
their order.
"""

import asyncio
import errno
import random
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from linked import NODE, Station, task
from packets import Wire

from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress import conversation as conversations
from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.node.ingress.room import Room
from spoolnode.node.ingress.services import Services
from spoolnode.node.ingress.stream import Stream
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool import group_commit
from spoolnode.node.spool.group_commit import TOLD_AT_ONCE
from spoolnode.node.spool.inbox import LOOKED_AT_ONCE, Inbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.node.turns import TURN_SECONDS, Turns
from spoolnode.node.work.process import PRINTED_AT_ONCE, WorkerProcess
from spoolnode.protocol.answer import is_stored
from spoolnode.protocol.packet import EXTENDED, PING, SPOOL_REQUEST, decode_variables, encode_variables, packet

MANY = 400


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(story)


def request(n: int) -> bytes:
    return packet(SPOOL_REQUEST, encode_variables([(b"n", b"%d" % n)]), EXTENDED)


class Counting(Services):
    """The surroundings of conversations, with a count of the tasks that they took."""

    def __init__(self, station: Station, clock: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(station.admission, dict, lambda *_, **__: None, lambda *_, **__: None, turns=Turns(clock))
        station.spool.group_commit.when_told(self.flush)
        self.order: list[int] = []
        """The numbers of the tasks, as they came to the group commit."""
        add = station.spool.group_commit.add

        def counted(block: bytes, *rest: Any, **named: Any) -> None:
            self.order.append(int(dict(decode_variables(block))[b"n"]))
            add(block, *rest, **named)

        station.spool.group_commit.add = counted  # type: ignore[method-assign] # the real one, and a look at what goes there

    async def shares(self, wanted: int) -> list[int]:
        """How many were taken at once and in each turn since, until `wanted` are."""
        found = [len(self.order)]
        while len(self.order) < wanted:
            await asyncio.sleep(0)
            found.append(len(self.order) - sum(found))
        return found


def test_a_burst_is_taken_in_shares_and_is_not_read_on_meanwhile() -> None:
    async def story() -> None:
        station = Station()
        services = Counting(station)
        wire = Wire(services)
        wire.say(b"".join(map(request, range(MANY))))
        assert not wire.is_read, "what comes meanwhile waits in the kernel"
        assert wire.talk.waits_for_us, "and the client is not called slow for it"
        assert max(await services.shares(MANY)) <= conversations.TAKEN_AT_ONCE
        assert wire.is_read
        await station.rest()
        assert (wire.stored, wire.pauses) == (MANY, 1)
        assert services.order == [*range(MANY)]

    run(story())


def test_others_have_their_turn_between_the_shares_of_a_burst() -> None:
    async def story() -> None:
        station = Station()
        services = Counting(station)
        bursting, other, late = Wire(services), Wire(services), Wire(services)
        bursting.say(b"".join(map(request, range(MANY))))
        other.say(b"".join(request(n) for n in range(MANY, MANY + 100)))
        await asyncio.sleep(0)
        late.say(request(2 * MANY))
        await station.rest()
        place = {n: index for index, n in enumerate(services.order)}
        assert len(place) == MANY + 101
        assert place[MANY + 99] < place[MANY - 1], "each gets as much as the others"
        assert place[2 * MANY] < place[MANY - 1], "and whoever has little need not wait for who has much"
        assert (bursting.stored, other.stored, late.stored) == (MANY, 100, 1)

    run(story())


def test_all_connections_together_keep_the_loop_no_longer_than_a_turn_may_last() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += TURN_SECONDS / 10  # so much has passed at each look: one before each request
        return now

    async def story() -> None:
        station = Station()
        services = Counting(station, clock)
        wires = [Wire(services) for _ in range(50)]
        for wire in wires:
            wire.say(b"".join(map(request, range(8))))
        shares = await services.shares(50 * 8)
        assert max(shares) <= 10 * conversations.LOOK_EACH
        assert min(shares) > 0, "each turn gets on"
        await station.rest()
        assert [wire.stored for wire in wires] == [8] * 50

    run(story())


def test_pings_in_a_burst_are_answered_in_order_with_the_tasks_around_them() -> None:
    async def story() -> None:
        station = Station()
        wire = Wire(Counting(station))
        ping = packet(PING, b"", EXTENDED)
        wire.say(b"".join(request(n) + ping for n in range(300)))
        await station.rest()
        assert [answer[0] == PING for answer in wire.answers] == [False, True] * 300
        assert wire.is_read

    run(story())


def test_what_is_put_off_ends_with_its_connection() -> None:
    async def story() -> None:
        station = Station()
        wire = Wire(Counting(station))
        wire.say(b"".join(map(request, range(MANY))))
        wire.talk.lost()
        await station.rest()
        assert station.journal.counts.accepted == conversations.TAKEN_AT_ONCE, "nobody was told of the others"
        assert station.run_all() == [*range(conversations.TAKEN_AT_ONCE)]

    run(story())


def test_whoever_sends_no_more_gets_all_answers_to_what_was_put_off() -> None:
    async def story() -> None:
        station = Station()
        wire = Wire(Counting(station))
        wire.say(b"".join(map(request, range(MANY))))
        assert wire.talk.half_closed(), "a loop may say so although it was told not to read"
        await station.rest()
        assert wire.stored == MANY
        assert wire.end

    run(story())


def test_half_a_request_at_the_end_of_what_was_put_off_ends_the_connection() -> None:
    async def story() -> None:
        station = Station()
        wire = Wire(Counting(station))
        wire.say(b"".join(map(request, range(MANY))) + request(MANY)[:5])
        assert wire.talk.half_closed()
        await station.rest()
        assert wire.end

    run(story())


def test_a_mistake_among_requests_that_were_put_off_is_said_after_the_answers_before_it() -> None:
    async def story() -> None:
        station = Station()
        wire = Wire(Counting(station))
        wire.say(b"".join(map(request, range(100))) + b"GET / HTTP/1.1\r\n\r\n" + request(100))
        await station.rest()
        assert wire.end
        assert [is_stored(*answer[1:]) for answer in wire.answers] == [True] * 100 + [False]
        assert station.run_all() == [*range(100)]

    run(story())


def test_what_a_slow_disk_has_gathered_is_told_in_shares_and_the_next_commit_does_not_wait() -> None:
    async def story() -> None:
        station = Station()
        services = Counting(station)
        (commits, *_) = station.threads
        wires = [Wire(services) for _ in range(4)]
        for wire in wires:
            wire.say(b"".join(request(n) for n in range(TOLD_AT_ONCE)))
        await services.shares(4 * TOLD_AT_ONCE)
        commits.work()  # a few, that were there when it began
        commits.answer()
        commits.work()  # all others
        wires[0].say(request(0))
        accepted = station.journal.counts.accepted
        commits.answer()
        shares = [station.journal.counts.accepted - accepted]
        assert commits.todo, "the disk works meanwhile"
        commits.work()
        commits.answer()  # what comes back meanwhile takes its turn
        while station.journal.counts.accepted < 4 * TOLD_AT_ONCE + 1:
            assert not station.spool.group_commit.is_idle
            await asyncio.sleep(0)
            shares.append(station.journal.counts.accepted - accepted - sum(shares))
        assert len(shares) > 3
        assert max(shares) <= TOLD_AT_ONCE
        assert [wire.stored for wire in wires] == [TOLD_AT_ONCE + 1, *[TOLD_AT_ONCE] * 3]
        assert station.spool.total == 4 * TOLD_AT_ONCE + 1

    run(story())


def test_of_tasks_that_share_a_commit_each_gets_its_own_time_priority_and_destination_whenever_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "TOLD_AT_ONCE", 2)

    async def story() -> None:
        station = Station()
        kinds: list[dict[str, str]] = [{}, {"at": "4000000000"}, {"priority": "3"}, {"spool_node": "beta"}]
        for n in range(9):
            station.admit(task(n, **kinds[n % 4]), link=None)
        await station.rest()
        assert station.outbox.sizes() == {"beta": 2}
        assert len(station.spool.waiting.later) == 2
        assert station.run_all() == [2, 6, 0, 4, 8, 1, 5], "those with a priority first, those that are due later last"

    run(story())


def test_a_failed_commit_refuses_all_that_shared_it_in_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "TOLD_AT_ONCE", 2)

    async def story() -> None:
        station = Station()
        first = [station.admit(task(n), link=None) for n in range(5)]
        await station.turn()
        (commits, *_) = station.threads
        later = [station.admit(task(n), link=None) for n in range(5, 8)]
        station.disk.fail_at(1, errno.EIO)
        commits.work()
        commits.answer()
        assert sum(heard.answers for heard in first) == 2
        await station.rest()
        assert [len(heard.refusals) for heard in (*first, *later)] == [1] * 8
        assert station.run_all() == []
        again = station.admit(task(9), link=None)
        await station.rest()
        assert again.stored_as
        assert station.run_all() == [9]

    run(story())


async def each_turn(count: Callable[[], int], wanted: int) -> list[int]:
    """How much was done in each turn of the loop, until so much is."""
    done = [count()]
    async with asyncio.timeout(60):
        while count() < wanted:
            await asyncio.sleep(0)
            done.append(count() - sum(done))
    return done


def watched(path: Path) -> tuple[Storage, Inbox]:
    """A spool directory, with an inbox that has started."""
    prepare(Store(RealDisk(), Layout(str(path)), NODE), lambda *_, **__: None)
    journal = Journal(RealDisk(), Layout(str(path)), NODE, sync=False, report=lambda *_, **__: None)
    storage = Storage(journal, RetryPolicy(3), random.Random(1))
    storage.load()
    inbox = Inbox(storage.spool.files, storage.journal, lambda *_, **__: None)
    inbox.start()
    return storage, inbox


def test_files_that_come_by_the_thousand_are_noticed_a_few_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "spool"
        storage, inbox = watched(path)
        spool = storage.spool
        for n in range(3000):
            (path / f"uwsgi_spoolfile_on_there_{n}").write_bytes(request(n))
        shares = await each_turn(lambda: spool.counts.found, 3000)
        assert max(shares) <= 2 * LOOKED_AT_ONCE, "events tell of them, and the first scan finds them"
        inbox.stop()
        await storage.close()

    run(story())


def test_what_is_known_of_many_files_at_once_is_told_a_few_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "spool"
        storage, inbox = watched(path)
        spool = storage.spool
        with storage.journal.placing():  # a move is under way, and events gather
            for n in range(3000):
                (path / f"uwsgi_spoolfile_on_there_{n}").write_bytes(request(n))
            for _ in range(200):
                await asyncio.sleep(0)
        shares = await each_turn(lambda: spool.counts.found, 3000)
        assert max(shares) <= LOOKED_AT_ONCE
        inbox.stop()
        await storage.close()

    run(story())


def test_lines_that_a_task_prints_by_the_thousand_are_told_a_few_at_a_time_and_all_of_them() -> None:
    many = 20_000

    async def story() -> None:
        printed: list[str] = []
        gone = asyncio.Event()
        worker = WorkerProcess(
            0, [sys.executable, "-c", f"import os; os.write(1, b''.join(b'%d\\n' % n for n in range({many})))"],
            {"settings": {"env": []}}, "mark", 1, lambda *_: None, lambda _worker, _stream, line: printed.append(line),
            lambda _worker: gone.set(),
        )  # fmt: skip
        worker.start()
        assert max(await each_turn(lambda: len(printed), many)) <= PRINTED_AT_ONCE
        assert printed == [str(n) for n in range(many)]
        await gone.wait()

    run(story())


class Transport(asyncio.Transport):
    """Remembers whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def write(self, data: Any) -> None: ...

    def write_eof(self) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


def test_a_connection_that_ends_in_its_first_bytes_goes_on_being_read_so_that_its_answers_arrive() -> None:
    async def story() -> None:
        malformed = bytes([99, 0, 0, 1])
        services = Services(cast(Any, None), dict, lambda *_, **__: None, lambda *_, **__: None)
        connections = Connections(Room(10, 1000), timeout=10.0)

        def converse(stream: Any) -> Conversation:
            return Conversation(services, stream, Caller("peer", is_local=True, is_allowed=True), max_block=8192)

        stream = Stream(connections, converse, packet(PING, b"", EXTENDED) * 40 + malformed, stranger=False)
        transport = Transport()
        stream.connection_made(transport)
        for _ in range(5):
            await asyncio.sleep(0)
        assert transport.reads

    run(story())
