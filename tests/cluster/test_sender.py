"""The real sender, with a real spool on a real disk, against a scripted other side on loopback: what is sent, in which order,
the effect of each answer, and what stays when the connection breaks.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quick import QUICK
from support import PATIENCE

from spoolnode.cluster import sender as senders
from spoolnode.cluster.channel import Channel
from spoolnode.cluster.destinations import Target
from spoolnode.cluster.dial import Dialed, DialFailure, dial
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.link import LinkState
from spoolnode.cluster.liveness import PeerState
from spoolnode.cluster.sender import ATTEMPTS_AT_ONCE, NotIt, Sender
from spoolnode.cluster.timing import USUAL, Timing
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.fakes import GuardedDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.upload import Upload
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.turns import Gate
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.hello import Hello, read_hello
from spoolnode.protocol.packet import decode_variables, encode_variables
from spoolnode.protocol.request import read_terms

NODE = "0123456789ab"
BETA = "bbbbbbbbbbbb"
LARGE = b"large" * 100_000
BUSY = Refused(Reason.BUSY, "this node is draining")
NEVER = Refused(Reason.FORBIDDEN, "not from you")

Says = bytes | None
"""The other side's answer to a task; None: it ends the connection."""


class Waiter:
    """A client that enqueues."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def stored(self, task_id: str, copies: int = 1) -> None:
        """It is safe."""
        self.done.set()

    def refused(self, refusal: Refused) -> None:
        """It is not."""
        raise AssertionError(refusal)


class Other:
    """The other side: answers hellos with `status`, and tasks as `script` says, with "stored" when it is at its end."""

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = {"id": BETA, "name": "beta"}
        self.refusal: Refused | None = None
        self.script: list[Says] = []
        self.hellos: list[Hello] = []
        self.got: list[tuple[int, dict[bytes, bytes], bytes]] = []
        """modifier2, variables and body of each task, over all connections."""
        self.connections = 0
        self.port = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Other":
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *args: object) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def order(self) -> list[str]:
        """The tasks that came, by their `n`."""
        return [variables[b"n"].decode() for _, variables, _ in self.got]

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            while True:
                head = await reader.readexactly(4)
                block = await reader.readexactly(int.from_bytes(head[1:3], "little"))
                if head[0] == 100:
                    self.hellos.append(read_hello(block))
                    writer.write(self._pong())
                    continue
                if not await self._task(head[3], dict(decode_variables(block)), reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._open.discard(writer)
            writer.close()

    def _pong(self) -> bytes:
        if self.refusal is not None:
            return answer.refused(self.refusal)
        return answer.PONG if self.status is None else answer.status_pong(self.status)

    async def _task(
        self, modifier2: int, variables: dict[bytes, bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        body = await reader.readexactly(int(variables.get(b"spool_body", b"0")))
        self.got.append((modifier2, variables, body))
        await self.gate.wait()
        says = self.script.pop(0) if self.script else (answer.stored("known") if modifier2 else answer.STORED)
        if says is None:
            return False
        writer.write(says)
        return bool(modifier2)  # in the plain dialect one answer is all


class Hosting:
    """The cluster of a node with one sender: it knows one other node."""

    def __init__(self, node: "SendingNode") -> None:
        self.node_id = NODE
        self.outbox, self.shipping = node.outbox, node.storage.shipping
        self.rng = random.Random(1)
        self.report = node.report
        self.gate = Gate(ATTEMPTS_AT_ONCE)
        self.was_met: list[dict[str, Any]] = []
        self.were_missed: list[tuple[str, DialFailure | None, str]] = []
        self._node = node

    async def dial(self, address: str, protocol: Callable[[], Channel], name: str) -> Dialed[Channel]:
        return await dial(address, protocol, None, name)

    def introduce(self) -> Introduction:
        return Introduction(Hello(NODE, "alpha", "default"), None, "")

    def resolve(self, to: str) -> Target | None:
        assert to == self._node.to
        return Target(BETA, "beta", (self._node.other.address,), PeerState.UP) if self._node.known else None

    def answers_to(self, to: str, peer: str) -> bool:
        return any(to in (said.get("id"), said.get("name")) for said in self.was_met[-1:] if peer)

    def vouch(self, status: dict[str, Any], certified: str) -> None: ...

    def met(self, status: dict[str, Any], rtt: float, address: str) -> None:
        del rtt, address
        self.was_met.append(status)

    def missed(self, address: str, kind: DialFailure | None, reason: str) -> None:
        self.were_missed.append((address, kind, reason))

    def exchanged(self, peer: str) -> None: ...

    async def is_us(self, to: str) -> None:
        self._node.ours.append(to)
        await self._node.moving.re_place(to, 100, lambda _asked: "")


class SendingNode:
    """A spool with tasks for others, and a sender of them."""

    def __init__(self, directory: Path, other: Other, to: str = "beta", timing: Timing = QUICK) -> None:
        self.other = other
        self.to = to
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.ours: list[str] = []
        self.known = True
        policy = RetryPolicy(max_attempts=3, base=0.001)
        layout = Layout(str(directory / "spool"))
        self.disk = GuardedDisk(RealDisk(), layout)
        self.journal = Journal(self.disk, layout, NODE, sync=False, report=self.report)
        self.storage = Storage(self.journal, policy, random.Random(1))
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        self.storage.load("boot")
        self.disk.in_force = True
        self.admission = Admission(self.storage, lambda terms: [terms.destination], max_body=1 << 30, min_free=0)
        self.hosting = Hosting(self)
        self.sender = Sender(to, self.hosting, timing)
        self.sender.link._rng = _Zero()  # no backoff: these tests ask what happens, not when
        self.outbox.when_woken(lambda _to: self.sender.wake())

    def report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    async def enqueue(self, *numbers: object, body: bytes = b"") -> None:
        """Tasks for the destination; returns when they are safe."""
        waiters = []
        for n in numbers:
            variables = [(b"n", str(n).encode()), (b"spool_node", self.to.encode())]
            block, waiter = encode_variables(variables), Waiter()
            terms = read_terms(block, local=False)._replace(body=len(body))
            waiters.append(waiter)
            task = self.admission.open(block, terms, waiter)
            if isinstance(task, Upload):
                await task.write(body)
                await task.finish(waiter)
            elif task is not None:
                task.take(body)
        for waiter in waiters:
            await waiter.done.wait()

    @property
    def waiting(self) -> int:
        """Tasks on disk for the destination."""
        return self.outbox.sizes().get(self.to, 0)

    def said(self, action: str) -> list[dict[str, Any]]:
        """The reports."""
        return [details for reported, details in self.reports if reported == action]

    async def close(self) -> None:
        """Ends it."""
        await self.sender.stop()
        await self.admission.close()
        await self.storage.close()
        assert not self.disk.violations


class _Zero(random.Random):
    def random(self) -> float:
        """The least."""
        return 0.0


async def until(condition: Callable[[], Any], what: str) -> None:
    """Returns when it is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


def run(
    tmp_path: Path, story: Callable[[SendingNode, Other], Awaitable[None]], to: str = "beta", timing: Timing = QUICK
) -> None:  # fmt: skip
    """Runs a story with both sides."""

    async def main() -> None:
        async with asyncio.timeout(PATIENCE * 2), Other() as other:
            sender = SendingNode(tmp_path, other, to, timing)
            try:
                await story(sender, other)
            finally:
                await sender.close()

    asyncio.run(main())


def test_tasks_go_in_their_order_with_their_numbers_and_leave_the_disk(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        await sender.enqueue(*range(50))
        await until(lambda: not sender.waiting, "all has left")
        assert other.order == [str(n) for n in range(50)]
        numbers = [int(variables[b"spool_seq"]) for _, variables, _ in other.got]
        assert numbers == list(range(numbers[0], numbers[0] + 50))
        assert len({variables[b"spool_id"] for _, variables, _ in other.got}) == 50
        assert all(modifier2 == 1 for modifier2, _, _ in other.got)
        assert other.connections == 1
        assert sender.outbox.forwarded == 50

    run(tmp_path, story)


def test_a_hello_says_the_destination_and_a_watermark_below_which_nothing_follows(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        await sender.enqueue(1)
        await until(lambda: not sender.waiting, "it has left")
        assert [(hello.id, hello.to) for hello in other.hellos] == [(NODE, "beta")]
        assert other.hellos[0].low_watermark <= int(other.got[0][1][b"spool_seq"])

    run(tmp_path, story)


@pytest.mark.parametrize("size", [0, 5, 100_000, len(LARGE)])
def test_bodies_of_any_size_arrive_whole(tmp_path: Path, size: int) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        await sender.enqueue(1, body=LARGE[:size])
        await sender.enqueue(2)
        await until(lambda: not sender.waiting, "both have left")
        assert {variables[b"n"]: body for _, variables, body in other.got} == {b"1": LARGE[:size], b"2": b""}

    run(tmp_path, story)


def test_what_was_not_answered_is_sent_again_with_the_same_number_and_first(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [answer.stored("a"), None]
        await sender.enqueue(*range(5))
        await until(lambda: not sender.waiting, "all has left")
        first, second = other.order[:2], other.order[2:]
        assert first == ["0", "1"]
        assert second == ["1", "2", "3", "4"]
        repeated = [variables[b"spool_seq"] for _, variables, _ in other.got if variables[b"n"] == b"1"]
        assert len(set(repeated)) == 1
        assert other.connections == 2
        assert sender.said("link_failed")[0]["in_doubt"] == 4

    run(tmp_path, story)


def test_what_may_have_arrived_goes_to_no_other_node_under_the_same_name(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [None]
        other.gate.clear()
        await sender.enqueue(1)
        await until(lambda: other.got, "it was sent")
        other.status = {"id": "cccccccccccc", "name": "beta"}
        other.gate.set()
        await sender.enqueue(2)
        await until(lambda: "2" in other.order, "the other one gets what was never sent")
        await until(lambda: sender.waiting == 1, "the first waits for the first")
        assert other.order == ["1", "2"]
        other.status = {"id": BETA, "name": "beta"}
        await sender.enqueue(3)
        await until(lambda: "3" in other.order, "it goes on the connection that is open")
        other.script = [None]  # it ends
        await sender.enqueue(4)
        await until(lambda: "1" in other.order[1:], "and the first gets there")
        await until(lambda: sender.waiting == 1, "what was in doubt at the other one waits for that")
        assert sorted(other.order) == ["1", "1", "2", "3", "4"]

    run(tmp_path, story)


def test_busy_keeps_the_task_and_pauses_the_link_and_says_why(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [answer.refused(BUSY)]
        await sender.enqueue(1)
        await until(lambda: not sender.waiting, "it has left at the second try")
        assert other.order == ["1", "1"]
        assert sender.said("link_paused") == [{"destination": "beta", "reason": BUSY.text}]
        assert not sender.said("dead")

    run(tmp_path, story)


def test_a_repeat_that_is_refused_for_now_stays_in_doubt_and_is_given_to_nobody_else(tmp_path: Path) -> None:
    # A node that drains refuses everything, also what it took a moment ago: it must not run elsewhere.
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [None, answer.refused(BUSY)]
        other.refusal = None
        await sender.enqueue(1)
        await until(lambda: len(other.got) >= 2, "it was sent twice")
        sender.known = False
        await until(lambda: sender.sender.link.state is not LinkState.OPEN or len(other.got) > 2, "the link pauses")
        moved = await sender.moving.re_place("beta", 10, lambda _asked: "")
        assert moved == 0
        sender.known = True
        sender.sender.nudge()
        await until(lambda: not sender.waiting, "it has left")

    run(tmp_path, story)


def test_what_is_never_taken_goes_to_dead_with_the_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [answer.stored("a"), answer.refused(NEVER)]
        await sender.enqueue(1, 2, 3)
        await until(lambda: not sender.waiting, "nothing waits")
        assert other.order == ["1", "2", "3"]
        (dead,) = (tmp_path / "spool/dead").iterdir()
        assert b"not delivered to beta: not from you" in dead.read_bytes()
        assert sender.said("dead")[0]["reason"] == "not from you"
        assert sender.outbox.forwarded == 2

    run(tmp_path, story)


@pytest.mark.parametrize("rubbish", [b"HTTP/1.1 200 OK\r\n\r\n", answer.stored("a") * 2, b"\xff\x02\x00\x01xx", b"\xff\0\0\x07"])
def test_an_answer_that_is_none_ends_the_link_and_loses_nothing(tmp_path: Path, rubbish: bytes) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.script = [rubbish]
        await sender.enqueue(1)
        await until(lambda: not sender.waiting, "it has left all the same")
        assert other.order in (["1", "1"], ["1"])
        await sender.enqueue(2)
        await until(lambda: not sender.waiting, "and the next one too")
        assert not sender.said("mistake")

    run(tmp_path, story)


def test_a_refused_hello_sends_nothing_and_waits_a_minute(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.refusal = Refused(Reason.FORBIDDEN, "you showed no certificate")
        await sender.enqueue(1)
        await until(lambda: sender.hosting.were_missed, "it is noted")
        assert sender.hosting.were_missed == [(other.address, DialFailure.UNTRUSTED, "you showed no certificate")]
        await until(lambda: sender.sender.link.state is LinkState.WAITING, "it waits")
        assert sender.sender.link.retry_at - asyncio.get_running_loop().time() > 50
        assert other.got == []
        assert sender.waiting == 1
        other.refusal = None
        sender.sender.nudge()
        await until(lambda: not sender.waiting, "somebody asks")

    run(tmp_path, story, timing=USUAL)


@pytest.mark.parametrize(
    "status", [{"id": "cccccccccccc", "name": "gamma"}, {"id": "", "name": "beta"}, {}, {"id": 7, "name": []}]
)
def test_somebody_else_at_the_address_of_a_name_gets_nothing_and_the_reason_is_said(tmp_path: Path, status: Any) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status = status
        await sender.enqueue(1)
        await until(lambda: sender.said("link_failed"), "it is said")
        assert sender.hosting.were_missed == [], "whoever is there is well"
        assert "not 'beta'" in sender.said("link_failed")[0]["reason"]
        assert other.got == []
        assert sender.waiting == 1

    run(tmp_path, story)


def test_a_sender_says_where_it_sends_to_and_how_its_link_is(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        assert repr(sender.sender) == "<sender to beta: <link idle, 0 tasks under way>>"
        other.gate.clear()
        await sender.enqueue(1)
        await until(lambda: other.got, "it is under way")
        assert repr(sender.sender) == f"<sender to beta at {other.address}: <link open, 1 tasks under way>>"
        other.gate.set()

    run(tmp_path, story)


def test_at_an_address_whoever_is_there_is_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE * 2), Other() as other:
            other.status = {"id": "cccccccccccc", "name": "gamma"}
            sender = SendingNode(tmp_path, other, other.address)
            try:
                await sender.enqueue(1)
                await until(lambda: not sender.waiting, "it has left")
            finally:
                await sender.close()

    asyncio.run(main())


def test_a_destination_that_is_this_node_is_claimed_and_nothing_is_sent(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status = {"id": NODE, "name": "beta"}  # a name that this node has, or had
        await sender.enqueue(1, 2)
        await until(lambda: sender.ours, "it is claimed")
        await until(lambda: not sender.waiting, "nothing waits for others")
        assert other.got == []
        assert sender.spool.total == 2

    run(tmp_path, story)


def test_who_says_our_own_id_at_the_address_of_another_node_makes_us_claim_nothing(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status = {"id": NODE, "name": "alpha"}
        await sender.enqueue(1)
        await until(lambda: sender.said("link_failed"), "it is said")
        assert not sender.ours
        assert sender.waiting == 1

    run(tmp_path, story)


def test_a_watermark_that_is_refused_ends_the_link_and_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "WATERMARK_EVERY", 5)

    async def story(sender: SendingNode, other: Other) -> None:
        await sender.enqueue(*range(5))
        await until(lambda: not sender.waiting, "they have left")
        other.refusal = Refused(Reason.FORBIDDEN, "your id belongs to another key")
        await sender.enqueue(*range(5, 10))
        await until(lambda: other.connections > 1, "the link has ended")
        assert sender.waiting
        assert not sender.said("dead")

    run(tmp_path, story)


def test_a_peer_that_is_not_wanted_gets_nothing(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        def met(*_: object) -> None:
            raise NotIt("it belongs to another cluster")

        sender.hosting.met = met  # type: ignore[method-assign] # what the cluster of a node does then
        await sender.enqueue(1)
        await until(lambda: sender.said("link_failed"), "it is said")
        assert other.got == []
        assert sender.waiting == 1

    run(tmp_path, story)


def test_nobody_listening_is_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    async def main() -> None:
        other = Other()
        async with asyncio.timeout(PATIENCE * 2):
            async with other:
                pass
            sender = SendingNode(tmp_path, other)
            try:
                await sender.enqueue(1)
                await until(lambda: sender.hosting.were_missed, "nobody is there")
                assert sender.hosting.were_missed[0][1] is DialFailure.REFUSED
                async with other:
                    sender.sender.nudge()
                    await until(lambda: not sender.waiting, "it has left")
            finally:
                await sender.close()

    asyncio.run(main())


def test_stopping_in_the_middle_keeps_what_is_under_way_for_the_next_start(tmp_path: Path) -> None:
    async def first(sender: SendingNode, other: Other) -> None:
        other.gate.clear()
        await sender.enqueue(1, 2)
        await until(lambda: other.got, "it is sent")
        numbers.extend(variables[b"spool_seq"] for _, variables, _ in other.got)

    async def second(sender: SendingNode, other: Other) -> None:
        sender.sender.wake()
        await until(lambda: not sender.waiting, "it has left")
        assert other.order == ["1", "2"]
        assert other.got[0][1][b"spool_seq"] == numbers[0]
        assert other.hellos[0].low_watermark <= int(numbers[0])

    numbers: list[bytes] = []
    run(tmp_path, first)
    run(tmp_path, second)


def test_a_silent_other_side_is_given_up(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.gate.clear()
        await sender.enqueue(1)
        await until(lambda: sender.said("link_failed"), "it is given up")
        assert "no answer within 2 s" in sender.said("link_failed")[0]["reason"]
        other.gate.set()
        await until(lambda: not sender.waiting, "it has left")

    run(tmp_path, story, timing=replace(QUICK, answer=2.0))


def test_a_watermark_is_told_again_on_a_link_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "WATERMARK_EVERY", 5)

    async def story(sender: SendingNode, other: Other) -> None:
        for n in range(20):
            await sender.enqueue(n)
            await until(lambda: not sender.waiting, "it has left")
            await sender.journal.sync_marks()
        assert other.connections == 1
        watermarks = [hello.low_watermark for hello in other.hellos]
        assert len(watermarks) >= 3
        assert watermarks == sorted(watermarks)
        assert watermarks[-1] > watermarks[0]

    run(tmp_path, story)


def test_an_idle_connection_is_kept_for_a_while_and_then_closed(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        await sender.enqueue(1)
        await until(lambda: sender.sender.link.state is LinkState.IDLE and other.got, "it rests")
        await sender.enqueue(2)
        await until(lambda: not sender.waiting, "it has left")
        assert other.connections == 2
        assert not sender.said("link_failed")

    run(tmp_path, story, timing=replace(QUICK, idle=0.1))


# -- a real uWSGI, as it answers --


def test_a_uwsgi_server_gets_one_plain_request_a_connection(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status = None
        await sender.enqueue(*range(20))
        await until(lambda: not sender.waiting, "all has left")
        assert other.order == [str(n) for n in range(20)]
        assert {modifier2 for modifier2, _, _ in other.got} == {0}
        assert {key for _, variables, _ in other.got for key in variables} == {b"n"}
        assert other.connections == 21

    run(tmp_path, story, to="10.0.0.7:3031")


def test_a_uwsgi_server_that_refuses_pauses_the_link(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status, other.script = None, [answer.REFUSED]
        await sender.enqueue(1, 2)
        await until(lambda: not sender.waiting, "all has left")
        assert sorted(other.order) == ["1", "1", "2"]
        assert "is its spooler on" in sender.said("link_paused")[0]["reason"]

    run(tmp_path, story, to="10.0.0.7:3031")


def test_a_uwsgi_server_that_breaks_off_may_get_a_task_twice_and_never_loses_one(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status, other.script = None, [answer.STORED, None]
        await sender.enqueue(1, 2, 3)
        await until(lambda: not sender.waiting, "all has left")
        assert other.order == ["1", "2", "2", "3"]

    run(tmp_path, story, to="10.0.0.7:3031")


def test_a_task_with_a_body_is_given_up_before_a_uwsgi_server_could_drop_it(tmp_path: Path) -> None:
    async def story(sender: SendingNode, other: Other) -> None:
        other.status = None
        await sender.enqueue(1, body=b"small")
        await sender.enqueue(2, body=LARGE)
        await sender.enqueue(3)
        await until(lambda: not sender.waiting, "nothing waits")
        assert other.order == ["3"]
        assert len(list((tmp_path / "spool/dead").iterdir())) == 2
        assert all("drop" in details["reason"] for details in sender.said("dead"))

    run(tmp_path, story, to="10.0.0.7:3031")
