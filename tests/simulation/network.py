"""A network in memory that behaves like TCP over a bad one.

    network.listen(process, "10.0.0.1:3031", accept)         accept(host of the peer) -> asyncio.Protocol
    transport, protocol = await network.connect("10.0.0.1:3031", factory)        from the process whose callback this is

As with TCP: bytes of one direction of a connection arrive in order and cut anywhere; each connection has its own delays, so
connections overtake each other. A direction between two machines can be blocked: what is on its way waits and is sent again
some time after it opens; when nothing is acknowledged for long the sender's side ends with TimeoutError, while the other
side knows nothing. Lost packets are delays. Nothing listens: ConnectionRefusedError. The process dies: what its kernel has
taken still arrives, then the end or a reset. The machine loses its power: a part of what was on its way arrives, then
silence; a side that speaks to it after it is back gets a reset.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any

from .loop import OWNER, SimLoop

WINDOW = 64 << 10
"""Bytes of one direction that are on their way, or unread by the other side, at most."""
HIGH, LOW = 64 << 10, 16 << 10
"""When a protocol is asked to pause writing, and when to go on; bytes not on their way yet."""
QUICK = (0.0002, 0.002)
"""The delay of a good network, in seconds from and to."""
UNACKNOWLEDGED = 15.0
"""Seconds after which who dialled gives a connection up on which nothing is acknowledged (TCP_USER_TIMEOUT)."""
SILENCE = 25.0
"""Seconds after which who dialled notices that an idle connection leads nowhere (TCP keep-alive)."""
END, RESET, OPEN = "end", "reset", "open"
"""Signals that travel besides bytes."""


class Way:
    """One direction between two machines."""

    __slots__ = ("blocked", "delay", "loss", "waiting")

    def __init__(self) -> None:
        self.blocked = False
        self.delay = QUICK
        self.loss = 0.0
        """The part of all packets that is lost at first."""
        self.waiting: list[Callable[[], None]] = []
        """Transfers that go on when it opens."""

    def travel(self, random: Random) -> float:
        """Seconds that a packet takes."""
        least, most = self.delay
        delay = least + (most - least) * random.random()
        if self.loss and random.random() < self.loss:
            delay += 0.2 * 2 ** int(3 * random.random())  # it is sent again
        return delay


class Network:
    """All machines' connections."""

    def __init__(self, loop: SimLoop, random: Random) -> None:
        self.loop = loop
        self.random = random
        self.nobody = Context()
        """The context of callbacks that belong to no process."""
        self._ways: dict[tuple[str, str], Way] = {}
        self._listening: dict[str, tuple[Any, Callable[[str], asyncio.Protocol]]] = {}
        self._machines: dict[str, Any] = {}
        self.connections = 0
        loop.connect = self.connect

    def attach(self, host: str, machine: Any) -> None:
        """The machine at that address; it may have several."""
        self._machines[host] = machine

    def detach(self, host: str) -> None:
        """Takes an address away."""
        self._machines.pop(host, None)

    def is_on(self, host: str) -> bool:
        """Whether anything at that address could answer."""
        machine = self._machines.get(host)
        return machine is not None and machine.is_on

    def way(self, source: str, target: str) -> Way:
        """The direction from one address to another."""
        way = self._ways.get((source, target))
        if way is None:
            way = self._ways[source, target] = Way()
        return way

    # -- faults --

    def block(self, source: str, target: str) -> None:
        """Blocks the way from there to there."""
        self.way(source, target).blocked = True

    def open(self, source: str, target: str) -> None:
        """Opens the way again; waiting bytes are sent again within a few seconds, as TCP does."""
        way = self.way(source, target)
        way.blocked = False
        waiting, way.waiting = way.waiting, []
        for go_on in waiting:
            self.loop.call_later(0.02 + 3 * self.random.random() ** 3, go_on, context=self.nobody)

    def heal(self) -> None:
        """All is well everywhere."""
        for (source, target), way in list(self._ways.items()):
            self.open(source, target)
            way.delay, way.loss = QUICK, 0.0

    def power_is_back(self, host: str) -> None:
        """Bytes that waited for that machine arrive now."""
        for (source, target), way in list(self._ways.items()):
            if target == host and not way.blocked:
                self.open(source, target)

    # -- connections --

    def listen(self, process: Any, address: str, accept: Callable[[str], asyncio.Protocol]) -> None:
        """Takes connections until the process has died, or `close`."""
        self._listening[address] = process, accept

    def close(self, address: str) -> None:
        """Stops taking connections."""
        self._listening.pop(address, None)

    def listener(self, address: str) -> tuple[Any, Callable[[str], asyncio.Protocol]] | None:
        """The listener at an address."""
        found = self._listening.get(address)
        return None if found is None or found[0].dead else found

    async def connect(self, address: str, factory: Callable[[], asyncio.Protocol]) -> tuple["End", asyncio.Protocol]:
        """A connection to the listener at that address.

        Raises:
            OSError: nothing listens there, or no answer comes.
        """
        self.connections += 1
        return await Wire(self, OWNER.get(), address).dial(factory)


class Wire:
    """One connection: two ends."""

    def __init__(self, network: Network, process: Any, address: str) -> None:
        self.network = network
        self.random = Random(network.random.getrandbits(32))
        self.serial = network.connections
        self.address = address
        self.near = End(self, process, process.machine.host, address.rpartition(":")[0])
        self.far: End | None = None
        self._made: asyncio.Future[None] = network.loop.create_future()

    # -- the handshake --

    async def dial(self, factory: Callable[[], asyncio.Protocol]) -> tuple["End", asyncio.Protocol]:
        """Returns when the connection is made."""
        error = TimeoutError(110, "Connection timed out")
        limit = self.network.loop.call_later(20 + 100 * self.random.random(), self._fail, error)
        self._send(self.near.host, self.near.peer, self._asked)
        try:
            await self._made
        finally:
            limit.cancel()
        protocol = factory()
        self.near.register()
        self.near.put(OPEN, 0)
        self.near.begin(protocol)
        return self.near, protocol

    def _send(self, source: str, target: str, arrive: Callable[[], None]) -> None:
        """A packet of the handshake."""
        network = self.network
        way = network.way(source, target)

        def try_to() -> None:
            if way.blocked or not network.is_on(target):
                way.waiting.append(try_to)
            else:
                arrive()

        network.loop.call_later(way.travel(self.random), try_to, context=network.nobody)

    def _asked(self) -> None:
        is_there = self.network.listener(self.address) is not None
        self._send(self.near.peer, self.near.host, self._yes if is_there else self._no)

    def _yes(self) -> None:
        if not self._made.done() and not self.near.process.dead:
            self._made.set_result(None)

    def _no(self) -> None:
        self._fail(ConnectionRefusedError(111, "Connection refused"))

    def _fail(self, error: OSError) -> None:
        if not self._made.done() and not self.near.process.dead:
            self._made.set_exception(error)

    def accept(self) -> None:
        """At the other machine: the connection is made."""
        found = self.network.listener(self.address)
        process, accept = found or (NOBODY, None)
        self.far = End(self, process, self.near.peer, self.near.host)
        if accept is None:
            self.far.put(RESET, 0)
        else:
            self.far.register()
            self.network.loop.run_as(process, self._accepted, accept)

    def _accepted(self, accept: Callable[[str], asyncio.Protocol]) -> None:
        assert self.far is not None
        self.far.begin(accept(self.near.host))


class _Nobody:
    """The process of a connection that was not taken."""

    dead = True


NOBODY = _Nobody()


class End(asyncio.Transport):
    """One end of a connection: an asyncio transport."""

    def __init__(self, wire: Wire, process: Any, host: str, peer: str) -> None:
        self.wire = wire
        self.process = process
        self.host = host
        self.peer = peer
        self._network = wire.network
        self._loop = wire.network.loop
        self._random = wire.random
        self._way = wire.network.way(host, peer)
        self._back = wire.network.way(peer, host)
        self._protocol: Any = None
        # Sending.
        self._buffer = bytearray()
        """Written, and not on its way."""
        self._in_flight = 0
        """Bytes on their way, or not acknowledged."""
        self._last = 0.0
        """When the last of them arrives."""
        self._sent: deque[asyncio.TimerHandle] = deque()
        """Arrivals to come."""
        self._held: deque[tuple[bytes | str, int]] = deque()
        """Bytes that did not get through yet."""
        self._asked_to_pause = False
        self._end_wanted = self._end_sent = False
        self._stalled: object = None
        # Receiving.
        self._inbox: deque[tuple[bytes | str, int]] = deque()
        """Arrived, and not read."""
        self._reading = True
        self._unacknowledged = 0
        # The end.
        self._closing = False
        self._lost = False

    def __hash__(self) -> int:
        return self.wire.serial  # not its place in memory: the order of a set is to be the same each time

    # -- what a protocol sees --

    def register(self) -> None:
        """The kernel knows it."""
        self.process.ends[self] = None
        self.process.machine.kernel.append(self)

    def begin(self, protocol: asyncio.Protocol) -> None:
        """The connection is made."""
        self._protocol = protocol
        protocol.connection_made(self)
        if self._inbox:
            self._read()

    def write(self, data: Any) -> None:
        """Sends bytes, as soon as there is room."""
        if self._lost or self._end_wanted or not data or self.process.dead:
            return
        self._buffer += data
        self._push()
        if len(self._buffer) > HIGH and not self._asked_to_pause:
            self._asked_to_pause = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """Sends bytes."""
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Sends no more."""
        self._end_wanted = True
        self._push()

    def can_write_eof(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """They are what they are."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self.peer, 0), "sockname": (self.host, 0)}.get(name, default)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            if self._inbox:
                self._loop.call_soon(self._read, context=self.process.context)

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """The end, once everything is sent."""
        if not self._closing and not self.process.dead:
            self._closing = self._end_wanted = True
            self._push()

    def abort(self) -> None:
        """The end, at once."""
        if not self._lost and not self.process.dead:
            self._buffer.clear()
            self.put(RESET, 0)
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        """The process has no more to do with it."""
        if self._lost:
            return
        self._lost = self._closing = self._end_wanted = self._end_sent = True
        self._buffer.clear()
        self.process.ends.pop(self, None)
        self._loop.call_soon(self._protocol.connection_lost, error, context=self.process.context)

    # -- sending --

    def _push(self) -> None:
        """Puts on its way what there is room for."""
        buffer = self._buffer
        while buffer and self._in_flight < WINDOW:
            count = min(len(buffer), WINDOW - self._in_flight)
            if count > 1 and self._random.random() < 0.2:
                count = self._random.randrange(1, count)  # cut anywhere
            self.put(bytes(buffer[:count]), count)
            del buffer[:count]
        if not buffer and self._end_wanted:
            if not self._end_sent:
                self._end_sent = True
                # As on Linux: a side that closes without having read everything resets the connection.
                self.put(RESET if self._closing and self._unread() else END, 0)
            if self._closing:
                self._lose(None)

    def _unread(self) -> bool:
        return any(isinstance(what, bytes) for what, _ in self._inbox)

    def put(self, what: bytes | str, size: int) -> None:
        """Puts something on its way."""
        self._in_flight += size
        sent, now = self._sent, self._loop.now
        while sent and sent[0].when() <= now:
            sent.popleft()
        self._last = max(self._last, now + self._way.travel(self._random))
        sent.append(self._loop.call_at(self._last, self._arrive, what, size, context=self._network.nobody))

    def _arrive(self, what: bytes | str, size: int) -> None:
        """At the other machine, if nothing is in the way."""
        if self._held:
            self._held.append((what, size))  # in order
        elif self._way.blocked or not self._network.is_on(self.peer):
            self._held.append((what, size))
            self._way.waiting.append(self._try_again)
            self._stall()
        else:
            self._deliver(what, size)

    def _try_again(self) -> None:
        if self._way.blocked or not self._network.is_on(self.peer):
            if self._held:
                self._way.waiting.append(self._try_again)
            return
        held, self._held = self._held, deque()
        for what, size in held:
            self._deliver(what, size)

    def _deliver(self, what: bytes | str, size: int) -> None:
        if what is OPEN:
            self.wire.accept()
            return
        other = self.wire.far if self is self.wire.near else self.wire.near
        if other is None:
            return
        if other._lost or other.process.dead:
            if what is not RESET:
                other.put(RESET, 0)  # the kernel there knows no such connection
        elif what is RESET:
            if self._random.random() < 0.5:
                other._inbox.clear()  # what was not read yet may be read after it, or not
            self._loop.run_as(other.process, other._reset)
        else:
            other._inbox.append((what, size))
            if other._protocol is not None and other._reading and not other._closing:
                self._loop.run_as(other.process, other._read)

    def _acknowledged(self, size: int) -> None:
        """The other side has read so many bytes."""
        self._in_flight -= size
        self._stalled = None
        if self._lost or self.process.dead:
            return
        if self._buffer:
            self._push()
        if self._asked_to_pause and len(self._buffer) <= LOW and not self._closing:
            self._asked_to_pause = False
            self._protocol.resume_writing()

    # -- when nothing is acknowledged --

    def _stall(self) -> None:
        """Something does not get through: after a while this side gives up."""
        if self._stalled is None and not self._lost and not self.process.dead:
            self._stalled = mark = object()
            limit = UNACKNOWLEDGED if self is self.wire.near else 900.0  # who dials says so, who listens does not
            self._loop.call_later(limit, self._give_up, mark, context=self.process.context)

    def _give_up(self, mark: object) -> None:
        if self._stalled is mark and not self._lost:
            self.forget_flight(0.0)
            self._lose(TimeoutError(110, "Connection timed out"))

    def forget_flight(self, kept: float) -> None:
        """Bytes on their way do not arrive, except for a part at the beginning."""
        self._held.clear()
        alive = [handle for handle in self._sent if not handle._cancelled and handle.when() > self._loop.now]
        survivors = int(len(alive) * kept)
        for handle in alive[survivors:]:
            what = handle._args[0]
            if kept and isinstance(what, bytes) and len(what) > 1 and handle is alive[survivors]:
                part = what[: self._random.randrange(1, len(what))]
                handle._args = (part, len(part))
            else:
                handle.cancel()

    # -- reading --

    def _read(self) -> None:
        """Hands what has arrived to the protocol."""
        inbox = self._inbox
        while inbox and self._reading and not self._closing:
            what, size = inbox.popleft()
            if isinstance(what, bytes):
                self._acknowledge(size)
                self._protocol.data_received(what)
            elif not self._protocol.eof_received():
                self.close()

    def _reset(self) -> None:
        if self._protocol is None:
            self._lost = self._closing = True
            return
        if self._reading and not self._lost:
            self._read()
        self._lose(ConnectionResetError(104, "Connection reset by peer"))

    def _acknowledge(self, size: int) -> None:
        sender = self.wire.far if self is self.wire.near else self.wire.near
        if sender is None or sender.process.dead:
            return
        if self._way.blocked:
            self._unacknowledged += size
            if self._unacknowledged == size:
                self._way.waiting.append(self._acknowledge_late)
                sender._stall()
        elif sender._asked_to_pause or sender._buffer:
            self._loop.call_soon(sender._acknowledged, size, context=sender.process.context)
        else:
            sender._in_flight -= size
            sender._stalled = None

    def _acknowledge_late(self) -> None:
        size, self._unacknowledged = self._unacknowledged, 0
        if size:
            self._acknowledge(size)

    # -- death --

    def process_died(self) -> None:
        """kill -9: the kernel closes the socket."""
        self._lost = True
        self._buffer.clear()
        if not self._end_sent:
            self._end_sent = True
            self.put(RESET if self._unread() or self._random.random() < 0.3 else END, 0)

    def power_cut(self) -> None:
        """The machine is off: a part of the bytes on their way arrives, then silence."""
        self._lost = True
        self._buffer.clear()
        self.forget_flight(self._random.random())
        if self is self.wire.far:
            near = self.wire.near
            self._loop.call_later(SILENCE * self._random.uniform(0.4, 1), near._probe, context=near.process.context)

    def _probe(self) -> None:
        """The other machine has gone without a word."""
        if self._way.blocked or self._back.blocked or not self._network.is_on(self.peer):
            self._lose(TimeoutError(110, "Connection timed out"))
        else:
            self._lose(ConnectionResetError(104, "Connection reset by peer"))
