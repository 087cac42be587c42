"""Carries the tasks of one destination to it: the shell around a `Link`, with the connection, the disk and the clock.

It sleeps until tasks wait and the link may begin; connects; says hello; and then keeps the window full: it takes tasks
from the outbox, sends them, and lets each leave the disk when the other side has confirmed it.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import groupby
from traceback import format_exception
from typing import Any, Protocol

from spoolnode.cluster.channel import Channel, ChannelLost, Impostor, read_pong, refusal_in
from spoolnode.cluster.destinations import Target
from spoolnode.cluster.dial import Dialed, DialError, DialFailure, refusal_of
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.link import Fate, Link, LinkState, Sent, WrongState
from spoolnode.cluster.liveness import PeerState
from spoolnode.cluster.plain import NOT_NOW, UWSGI, is_taken, plain_packet
from spoolnode.cluster.timing import Timing
from spoolnode.node.outbox.destination import ANYONE, UNSENT
from spoolnode.node.outbox.envelope import Envelope
from spoolnode.node.outbox.outbox import Outbox
from spoolnode.node.outbox.shipping import Shipment, Shipping
from spoolnode.node.spool.tasks import Taken
from spoolnode.node.turns import Gate
from spoolnode.protocol import names
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import BadPacket, Reason, Refused
from spoolnode.protocol.packet import HEADER, PING

TAKEN_AT_ONCE = 1024
"""Tasks that are read from the disk together, if they are in a batch..."""
FILES_AT_ONCE = 16
"""...and if each is a file, of up to 192 KiB."""
ATTEMPTS_AT_ONCE = 16
"""Links that begin to connect in one turn of the loop: each takes about a tenth of a millisecond."""
WATERMARK_EVERY = 8192
"""After this many tasks the other side is told the low watermark again, so that it can forget."""

Dial = Callable[..., Awaitable[Dialed[Channel]]]


class NotIt(ChannelLost):
    """Another node than the destination is there."""


class Ourselves(ChannelLost):
    """The destination is this node."""


class SenderHost(Protocol):
    """The cluster, as its senders need it."""

    node_id: str
    outbox: Outbox
    shipping: Shipping
    """Gives them the tasks of the outbox."""
    dial: Dial
    rng: random.Random
    report: Callable[..., None]
    gate: Gate
    """Each attempt goes through it: thousands of destinations may be tried at the same time."""

    def introduce(self) -> Introduction:
        """Makes the introduction for a new connection."""

    def resolve(self, to: str) -> Target | None:
        """The node that a destination means now."""

    def answers_to(self, to: str, peer: str) -> bool:
        """Whether an id or name means the node with that id."""

    def vouch(self, status: dict[str, Any], certified: str) -> None:
        """Checks a status. Raises `Impostor` if it is not of the node in the certificate, or of the known owner of its id."""

    def met(self, status: dict[str, Any], rtt: float, address: str) -> None:
        """Called with the answer to a hello, its seconds, and the address. Raises `NotIt` if the node must get nothing."""

    def missed(self, address: str, kind: DialFailure | None, reason: str) -> None:
        """Called if an address did not answer, or broke off."""

    def exchanged(self, peer: str) -> None:
        """Called if the node with that id has taken a task."""

    async def is_us(self, to: str) -> None:
        """Called if a destination turned out to be this node."""


class Sender:
    """The sender of one destination."""

    def __init__(self, to: str, host: SenderHost, timing: Timing) -> None:
        self.to = to
        self.link = Link(host.rng, timing)
        self._host = host
        self._timing = timing
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._peer = ANYONE
        self._address = ""
        self._since_watermark = 0
        self._written = self._answered = 0
        """Tasks on this connection, and how many of them were answered."""
        self._watermarks: deque[int] = deque()
        """For each hello with a low watermark, the tasks that were written before it: its answer comes between theirs."""
        self._introduction = host.introduce()
        self._task = self._loop.create_task(self._run())

    def __repr__(self) -> str:
        return f"<sender to {self.to}{f' at {self._address}' if self._address else ''}: {self.link!r}>"

    def wake(self) -> None:
        """Looks again: tasks wait, or something has changed."""
        self._wake.set()

    def nudge(self) -> None:
        """Tries now, whatever the backoff says."""
        self.link.nudge(self._loop.time())
        self._wake.set()

    def give_up(self, reason: str) -> None:
        """Ends the connection, if there is one: the node at its other end is gone. Tasks in doubt are sent again."""
        if self._channel is not None:
            self._channel.abort(reason)

    async def stop(self) -> None:
        """Ends the link. Tasks in doubt stay, with their numbers."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def has_work(self) -> bool:
        """Whether tasks wait that could be sent."""
        return self._host.outbox.has_work(self.to, ANYONE)

    # -- the life of a link --

    async def _run(self) -> None:
        try:
            while True:
                target = await self._due()
                try:
                    await self._try_all(target)
                except Exception as error:  # noqa: BLE001  # what waits must not wait for ever; it is reported in full
                    self._host.report("mistake", reason=f"link to {self.to}", traceback="".join(format_exception(error)))
                    self._end_attempt("a mistake of this node")
        finally:
            self._end_attempt("this node is stopping")

    def _end_attempt(self, reason: str) -> None:
        if self.link.state not in (LinkState.IDLE, LinkState.WAITING):
            self._fail(reason)

    async def _due(self) -> Target:
        """Waits for work, a peer to send it to, the end of the backoff, and this link's turn."""
        has_turn = False
        while True:
            now = self._loop.time()
            pause: float | None = None
            if self.has_work:
                target = self._host.resolve(self.to)
                if target is not None and target.addresses and self.link.may_begin(now):
                    if has_turn:
                        return target
                    await self._host.gate.passed()
                    has_turn = True
                    continue  # much may have changed meanwhile
                left = self.link.retry_at - now
                pause = left if self.link.state is LinkState.WAITING and left > 0 else self._timing.search
            await self._sleep(pause)

    async def _sleep(self, pause: float | None) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _try_all(self, target: Target) -> None:
        """Makes one attempt: tries the addresses of the destination in turn, until one answers."""
        self.link.begin(self._loop.time())
        problem, kind = "", None
        for address in target.addresses:
            try:
                dialed = await self._host.dial(address, Channel, target.name)
            except DialError as error:
                problem, kind = error.text, error.kind
                self._host.missed(address, error.kind, error.text)
                continue
            self._address = address
            dialed.protocol.certified = dialed.name
            await self._use(dialed.protocol)
            return
        self._fail(problem, untrusted=kind is DialFailure.UNTRUSTED)

    async def _use(self, channel: Channel) -> None:
        self._channel = channel
        channel.ended = self.wake
        try:
            self.link.connected(self._loop.time())
            if await self._greet(channel):
                await self._carry(channel)
            else:
                channel.close("it is a uWSGI server")
                await self._carry_plain()
        except Refused as refusal:
            self._host.missed(self._address, DialFailure.UNTRUSTED, refusal.text)
            self._fail(f"refused: {refusal.text}", untrusted=True)
        except Ourselves:
            self._fail("it is this node")
            await self._host.is_us(self.to)
        except (ChannelLost, BadPacket) as error:
            self._lost(channel, error)
        except OSError as error:
            self._fail(f"the disk of this node failed: {error}")
        finally:
            channel.ended = lambda: None
            channel.heard = None
            if self.link.state in (LinkState.GREETING, LinkState.OPEN):
                self._fail("this node is stopping", quiet=True)
            channel.abort("done")
            self._channel, self._peer = None, ANYONE

    def _lost(self, channel: Channel, error: Exception) -> None:
        if self.link.closing:  # it refused, and then closed because more was coming: the connection has not failed
            self._fail(self.link.reason)
            return
        refused = refusal_of(channel.error, self._address)
        kind = refused.kind if refused is not None else None
        if not isinstance(error, NotIt):  # another node is there, and answers; the table knows which one
            self._host.missed(
                self._address, DialFailure.UNTRUSTED if isinstance(error, Impostor) else kind, str(refused or error)
            )
        self._fail(str(refused or error), untrusted=kind is DialFailure.UNTRUSTED, quiet=self._is_leaving())

    def _is_leaving(self) -> bool:
        """Whether the other side has said goodbye: then the end of the link is not news."""
        target = self._host.resolve(self.to)
        return target is not None and target.state is PeerState.LEAVING

    async def _greet(self, channel: Channel) -> bool:
        """Says hello. Returns whether a spoolnode answered. Raises `Refused`, `ChannelLost`, `BadPacket`, OSError."""
        began = self._loop.time()
        introduction = self._introduction = self._host.introduce()
        status = read_pong(await channel.ask(self._hello(), self._timing.answer))
        if status is None:
            if ":" not in self.to:
                raise NotIt(f"{self._address} is a uWSGI server now, not the node {self.to!r}")
            self._peer = UWSGI
            await self._host.outbox.meet(self.to, UWSGI)
            self.link.greeted(self._loop.time())
            return False
        status = introduction.hear(status)
        self._host.vouch(status, channel.certified)
        self._host.met(status, self._loop.time() - began, self._address)
        identity, name = str(status.get("id", "")), str(status.get("name", ""))
        if not names.is_node_id(identity) or (":" not in self.to and not self._host.answers_to(self.to, identity)):
            raise NotIt(f"{self._address} is the node {name!r} ({identity}), not {self.to!r}")
        if identity == self._host.node_id:
            raise Ourselves("it is this node")
        if introduction.must_prove:
            read_pong(await channel.ask(self._hello(), self._timing.answer))
        await self._host.outbox.meet(self.to, identity)
        self._peer = identity
        self._since_watermark = self._written = self._answered = 0
        self._watermarks.clear()
        self.link.greeted(self._loop.time())
        self._host.report("link_open", destination=self.to, peer=identity, name=name, address=self._address)
        return True

    def _hello(self) -> bytes:
        return self._introduction.packet(self.to, self._host.outbox.low_watermark(self.to))

    def _fail(self, reason: str, *, untrusted: bool = False, quiet: bool = False) -> None:
        """Ends the link; tasks in doubt go back to the outbox."""
        first = not self.link.failures
        doubtful = self.link.failed(self._loop.time(), reason, untrusted=untrusted)
        self._return(doubtful, doubtful=True)
        if first and not quiet:  # later failures are in `spoolnode peers`: a destination may be down for days
            doubt = {"in_doubt": len(doubtful)} if doubtful else {}
            target = self._host.resolve(self.to)
            named = {"name": target.name} if target is not None and target.name not in ("", self.to) else {}
            self._host.report("link_failed", destination=self.to, **named, reason=reason, **doubt)

    def _pause(self) -> None:
        """Pauses: the other side takes nothing now."""
        first = not self.link.failures
        self.link.pause(self._loop.time())
        if first:
            self._host.report("link_paused", destination=self.to, reason=self.link.reason)

    def _return(self, items: list[Sent], *, doubtful: bool) -> None:
        """Puts tasks back into the outbox, the newest first, so that the oldest comes first again.

        A task that was in doubt before stays so: a node may refuse a repeat (because it drains, say) and have the task
        nevertheless.
        """
        for (source, rank, before), group in groupby(reversed(items), key=lambda sent: (sent.source, sent.rank, sent.doubtful)):
            refs = [sent.ref for sent in group]
            owner = self._peer if doubtful or before else UNSENT
            self._host.shipping.give_back(self.to, owner, Taken(source, refs[::-1], rank))

    def _bring_back(self, load: Shipment, envelopes: list[Envelope]) -> None:
        """Takes back tasks that were not sent."""
        owner = self._peer if load.doubtful else UNSENT
        self._host.shipping.give_back(self.to, owner, load.rest(envelopes))

    # -- an open link --

    async def _carry(self, channel: Channel) -> None:
        """Keeps the window full until the work or the link ends."""
        channel.heard = self._on_answers
        while True:
            now = self._loop.time()
            if channel.reason:
                raise ChannelLost(channel.reason)
            if self.link.is_stuck(now):
                raise ChannelLost(f"no answer within {self._timing.answer:g} s")
            if self.link.closing and not self.link.flight:
                self._pause()
                return
            self._wake.clear()
            if not await self._send_some(channel):
                await self._idle(channel)
                if self.link.state is LinkState.IDLE:
                    return

    async def _idle(self, channel: Channel) -> None:
        """Waits for room, answers or work. Ends the link if none comes."""
        pause = 1.0 if self.link.flight else self._timing.idle
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            if not self.link.flight and not channel.reason and not self._host.outbox.has_work(self.to, self._peer):
                self.link.rest()

    async def _send_some(self, channel: Channel) -> bool:
        """Sends the tasks that there is room for. Returns whether any were sent."""
        room = min(self.link.room(), TAKEN_AT_ONCE)
        if not room:
            return False
        load = await self._host.shipping.take(self.to, self._peer, room, FILES_AT_ONCE)
        if load is None:
            return False
        envelopes = load.envelopes
        try:
            while envelopes:
                await self._send_envelopes(channel, load, envelopes)
        finally:
            if envelopes:
                self._bring_back(load, envelopes)
        return True

    async def _send_envelopes(self, channel: Channel, load: Shipment, envelopes: list[Envelope]) -> None:
        """Sends the small ones up to the first large one together, or that one. Those that were begun leave the list."""
        if channel.reason or self.link.state is not LinkState.OPEN:
            raise ChannelLost(channel.reason)
        small = next((index for index, envelope in enumerate(envelopes) if envelope.body_end), len(envelopes))
        now = self._loop.time()
        if self._since_watermark >= WATERMARK_EVERY:
            self._since_watermark = 0
            self._watermarks.append(self._written)
            channel.write(self._hello())
        going, envelopes[:small] = envelopes[:small], []
        for envelope in going:
            self.link.sent(_sent(load, envelope), now)
        self._since_watermark += len(going)
        self._written += len(going)
        if going:
            channel.write(b"".join([envelope.head for envelope in going]))
            await channel.drained(self._timing.answer)
        elif envelopes:
            envelope = envelopes.pop(0)
            self.link.sent(_sent(load, envelope), now)
            self._written += 1
            await self._send_large(channel, envelope)

    async def _send_large(self, channel: Channel, envelope: Envelope) -> None:
        """Streams a body from the disk."""
        async with self._host.shipping.body(envelope) as pieces:
            channel.write(envelope.head)
            left = envelope.body_end - envelope.body_at
            async for piece in pieces:
                channel.write(piece)
                await channel.drained(self._timing.answer)
                self.link.progress(self._loop.time())
                left -= len(piece)
        if left:
            raise ChannelLost(f"the file {envelope.ref} became shorter while it was sent")

    def _on_answers(self, answers: list[Answer]) -> None:
        """Takes answers: tasks leave, come back, or are given up."""
        try:
            self._sort(answers)
        except (BadPacket, WrongState) as error:
            if self._channel is not None:
                self._channel.abort(f"it sent an unexpected answer: {error}")
        self._wake.set()

    def _sort(self, answers: list[Answer]) -> None:
        now = self._loop.time()
        taken: dict[tuple[int, int], list[Sent]] = {}
        later: list[Sent] = []
        try:
            for modifier1, modifier2, block in answers:
                if self._watermarks and self._watermarks[0] == self._answered:
                    self._watermarks.popleft()
                    if modifier1 != PING:
                        raise BadPacket(f"a low watermark was not taken: {refusal_in(modifier2, block)}")
                    continue
                refusal = refusal_in(modifier2, block)
                self._answered += 1
                sent, fate = self.link.answered(refusal, now)
                if fate is Fate.TAKEN:
                    taken.setdefault((id(sent.source), sent.rank), []).append(sent)
                elif fate is Fate.LATER:
                    later.append(sent)
                elif refusal is not None:
                    unsure = sent.doubtful or refusal.reason is Reason.CONFLICT
                    owner = self._peer if unsure else UNSENT
                    self._host.shipping.give_up(self.to, owner, Taken(sent.source, [sent.ref], sent.rank), refusal.text)
        finally:
            self._return(later, doubtful=False)
            for group in taken.values():
                self._hand(group)
            if taken:
                self._host.exchanged(self._peer)

    def _hand(self, group: list[Sent]) -> None:
        taken = Taken(group[0].source, [sent.ref for sent in group], group[0].rank)
        self._host.shipping.handed(self.to, self._peer, taken, [sent.number for sent in group])

    # -- a real uWSGI server --

    async def _carry_plain(self) -> None:
        """Sends one task on each connection, as uWSGI takes them. Only its answer makes sure that it has a task."""
        while not self.link.closing:
            self._wake.clear()
            load = await self._host.shipping.take(self.to, UWSGI, FILES_AT_ONCE, FILES_AT_ONCE)
            if load is None:
                if self.has_work:  # in doubt with another node, or frozen: connecting again at once would not change that
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._timing.idle):
                            await self._wake.wait()
                self.link.rest()
                return
            envelopes = load.envelopes
            try:
                while envelopes and not self.link.closing:
                    await self._send_plain(load, envelopes.pop(0))
            finally:
                self._bring_back(load, envelopes)
        self._pause()

    async def _send_plain(self, load: Shipment, envelope: Envelope) -> None:
        sent = _sent(load, envelope)
        try:
            question = _plain_packet(envelope)
        except Refused as refusal:
            self._host.shipping.give_up(self.to, UNSENT, load.rest([envelope]), refusal.text)
            return
        try:
            channel = (await self._host.dial(self._address, Channel, "")).protocol
        except DialError as error:
            self._return([sent], doubtful=False)
            raise ChannelLost(error.text) from error
        self.link.sent(sent, self._loop.time())
        try:
            answer = await channel.ask(question, self._timing.answer)
        finally:
            channel.close("done")
        if is_taken(answer):
            self.link.answered(None, self._loop.time())
            self._hand([sent])
        else:
            self.link.answered(NOT_NOW, self._loop.time())
            self._return([sent], doubtful=False)


def _sent(load: Shipment, envelope: Envelope) -> Sent:
    return Sent(load.source, load.rank, envelope.ref, envelope.number, envelope.size, load.doubtful)


def _plain_packet(envelope: Envelope) -> bytes:
    end = HEADER.size + HEADER.unpack_from(envelope.head)[1]
    return plain_packet(envelope.head[HEADER.size : end], has_body=envelope.body_end > 0 or len(envelope.head) > end)
