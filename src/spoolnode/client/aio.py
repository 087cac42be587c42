"""The asynchronous client: one connection per running loop and address, shared by all tasks, kept open and pipelined.

The rules are those of `client`. A cancelled caller does not disturb others: the rest of its request is still sent, and its
answer is dropped when it comes. The connections of a loop close when the loop's asynchronous generators are shut down, which
`asyncio.run` does.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Self

from spoolnode.client import silence
from spoolnode.client.deadline import Deadline
from spoolnode.client.endpoint import Endpoint
from spoolnode.client.inside import INSIDE
from spoolnode.client.pipeline import Exchange, Given, Pipeline, PipelineState, Result, broken
from spoolnode.protocol.answer import Answer
from spoolnode.wire import LARGE, Address, Message, SocketAddress, task_id, task_ids, tell

MADE_AT_ONCE = 100
"""Requests that are made before the loop has another turn."""


class _LoopTurn:
    """A lock among the tasks of a loop: a `Turn`."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def acquire(self, deadline: Deadline) -> bool:
        try:
            async with asyncio.timeout(deadline.left):
                return await self._lock.acquire()
        except TimeoutError:
            return False

    def release(self) -> None:
        self._lock.release()


class _Caller:
    """A task that waits for the answers to its requests."""

    __slots__ = ("_deadline", "_unsettled", "news", "timer")

    def __init__(self, requests: int, deadline: Deadline, loop: asyncio.AbstractEventLoop) -> None:
        self._unsettled = requests
        self._deadline = deadline
        self.news: asyncio.Future[None] = loop.create_future()
        """Done when all are settled, or the time is up."""
        self.timer = loop.call_later(deadline.left, self._on_time)

    def _on_time(self) -> None:
        if left := self._deadline.left:  # there has been progress
            self.timer = self.news.get_loop().call_later(left, self._on_time)
        elif not self.news.done():
            self.news.set_result(None)

    def tell(self) -> None:
        """One more is settled."""
        self._unsettled -= 1
        if not self._unsettled and not self.news.done():
            self.news.set_result(None)


class _LoopExchange(Exchange):
    """A request for which a task waits."""

    __slots__ = ("caller",)

    def __init__(self, message: Message, deadline: Deadline, caller: _Caller) -> None:
        super().__init__(message, deadline)
        self.caller = caller


class LoopConnection:
    """A connected socket that the tasks of a loop share: a `ClientConnection`.

    It is not a transport of asyncio, because a transport does not tell how much of its data the kernel has taken.
    """

    def __init__(self, address: Address, connected: socket.socket) -> None:
        self._socket = connected
        self._pipeline: Pipeline[_LoopExchange] = Pipeline(address)
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._will_write = False
        """Whether the loop calls `_write` at the end of this turn."""
        self._awaits_room = False
        """Whether the loop calls it as soon as the kernel takes more."""
        self._loop.add_reader(connected.fileno(), self._read)

    @classmethod
    async def open(cls, address: Address, target: SocketAddress, deadline: Deadline) -> Self:
        """A new connection. Raises OSError: if a name has several addresses, that of the last one."""
        async with asyncio.timeout(deadline.left):
            return cls(address, await (_connected_unix(target) if isinstance(target, str) else _connected_tcp(*target)))

    def __repr__(self) -> str:
        return f"<LoopConnection of {self._pipeline!r}>"

    @property
    def is_usable(self) -> bool:
        if self._pipeline.is_idle and self._pipeline.is_open and self._readable.poll(0):  # the loop has not called us yet
            self.retire()
        return self._pipeline.is_open

    @property
    def is_doubtful(self) -> bool:
        return self._pipeline.is_doubtful

    async def exchange(self, message: Message, deadline: Deadline) -> Answer:
        is_first = self._pipeline.is_idle
        caller = _Caller(1, deadline, self._loop)
        own = _LoopExchange(message, deadline, caller)
        try:
            self._pipeline.begin(own)
            if is_first:
                self._write()
            elif not self._will_write and not self._awaits_room:
                self._will_write = True  # together with what others send in this turn
                self._loop.call_soon(self._write)
            await caller.news
            if not own.is_settled:
                self._give_up(own)
                raise self._pipeline.too_late(own)
        finally:
            caller.timer.cancel()
            self._pipeline.leave(own)
            self._close_if_over()
        return self._pipeline.result(own)

    async def exchange_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Result]:
        caller = _Caller(len(messages), deadline, self._loop)
        exchanges = [_LoopExchange(message, deadline, caller) for message in messages]
        try:
            for exchange in exchanges:
                self._pipeline.begin(exchange)
            self._write()
            await caller.news
        finally:
            caller.timer.cancel()
        return self._pipeline.results(exchanges)

    def retire(self) -> None:
        self._pipeline.retire()
        self._close_if_over()

    def close(self) -> None:
        self._tell(self._pipeline.end("the connection was closed"))
        if self._socket.fileno() >= 0:
            self._unregister()
            self._socket.close()

    # --- sending ---

    def _write(self) -> None:
        """Gives the kernel what it takes at once, and the rest as soon as it takes more: others use the loop, too."""
        self._will_write = False
        if not (pieces := self._pipeline.unsent()):
            return
        try:
            self._pipeline.sent(self._socket.send(pieces[0]) if len(pieces) == 1 else self._socket.sendmsg(pieces))
        except BlockingIOError:
            pass
        except OSError:
            self._cut()
        if self._pipeline.has_unsent is not self._awaits_room:
            self._await_room(not self._awaits_room)

    def _await_room(self, needed: bool) -> None:
        if needed and not self._awaits_room:
            self._loop.add_writer(self._socket.fileno(), self._write)
        elif self._awaits_room and not needed:
            self._loop.remove_writer(self._socket.fileno())
        self._awaits_room = needed

    def _cut(self) -> None:
        """Ends sending, because nothing can follow a request that was cut. What the node still answers is read."""
        self._tell(self._pipeline.cut())
        self._await_room(False)
        with contextlib.suppress(OSError):  # the connection may be down already
            self._socket.shutdown(socket.SHUT_WR)

    def _give_up(self, own: _LoopExchange) -> None:
        """Its time is up, so the node may be stuck."""
        self._pipeline.retire()
        if own.given is Given.PART:
            self._cut()

    # --- receiving ---

    def _read(self) -> None:
        # All that there is: if a reset comes together with an answer, uvloop does not call a second time.
        while self._pipeline.state is not PipelineState.ENDED:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self._tell(self._pipeline.end(broken(error)))
            else:
                self._tell(self._pipeline.receive(data))
        self.close()

    def _tell(self, settled: list[_LoopExchange]) -> None:
        for exchange in settled:
            exchange.caller.tell()

    # --- the end ---

    def _close_if_over(self) -> None:
        if self._pipeline.is_over:
            self.close()

    def _unregister(self) -> None:
        """The loop forgets the socket. One of another process must not be touched: a forked child shares its epoll."""
        if self._pid == os.getpid() and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
            self._await_room(False)


_loops: dict[tuple[int, asyncio.AbstractEventLoop], tuple[dict[str, Endpoint[LoopConnection]], AsyncGenerator[None]]] = {}


async def asend(address: Address, message: Message, timeout: float) -> str:  # noqa: ASYNC109 - as `client.send`
    """As `client.send`, without blocking the loop."""
    if silence.is_silent():
        return silence.UNSENT_ID
    answer = await _aask(address, message, timeout)
    identity = task_id(address, answer)
    tell(answer)
    return identity


async def _aask(address: Address, message: Message, timeout: float) -> Answer:  # noqa: ASYNC109 - as above
    if (receiver := INSIDE.receiver(address)) is not None:
        return await receiver.atake(address, message)
    endpoint_of = await _endpoints_of_this_loop()
    deadline = Deadline(timeout, renews=len(message.body) >= LARGE)
    if address.is_alone:
        return await endpoint_of(address).send(message, deadline)
    from spoolnode.client.in_turn import send_in_turn  # few addresses need it

    return await send_in_turn(address, message, deadline, endpoint_of, _write)


async def asend_all(address: Address, messages: Iterable[Message], timeout: float) -> list[str]:  # noqa: ASYNC109 - as above
    """As `client.send_all`, without blocking the loop. Cancelled, some of the tasks may have been stored."""
    made: list[Message] = []
    for message in messages:
        made.append(message)
        if not len(made) % MADE_AT_ONCE:
            await asyncio.sleep(0)
    if silence.is_silent():
        return [silence.UNSENT_ID] * len(made)
    if (receiver := INSIDE.receiver(address)) is not None:
        return task_ids(address, [await receiver.atake(address, message) for message in made])
    endpoint_of, deadline = await _endpoints_of_this_loop(), Deadline(timeout, renews=True)
    if address.is_alone:
        return task_ids(address, await endpoint_of(address).send_all(made, deadline))
    from spoolnode.client.in_turn import send_all_in_turn  # few addresses need it

    return task_ids(address, await send_all_in_turn(address, made, deadline, endpoint_of, _write))


async def _write(root: str, message: Message) -> Answer:
    from spoolnode.client.as_file import store

    return await asyncio.to_thread(store, root, message)


async def _endpoints_of_this_loop() -> Callable[[Address], Endpoint[LoopConnection]]:
    key = (os.getpid(), asyncio.get_running_loop())
    if key not in _loops:
        for old in [old for old in _loops if old[1].is_closed() or old[0] != key[0]]:
            _close(_loops.pop(old)[0])
        endpoints: dict[str, Endpoint[LoopConnection]] = {}
        closer = _close_with_loop(endpoints)
        _loops[key] = endpoints, closer
        await anext(closer)
    known = _loops[key][0]

    def endpoint_of(address: Address) -> Endpoint[LoopConnection]:
        endpoint = known.get(address.text)
        if endpoint is None:
            endpoint = known[address.text] = Endpoint(address, LoopConnection.open, _LoopTurn())
        return endpoint

    return endpoint_of


async def _close_with_loop(endpoints: dict[str, Endpoint[LoopConnection]]) -> AsyncGenerator[None]:
    """A generator that the loop ends before it closes, which is the time to close the connections."""
    try:
        yield
    finally:
        _close(endpoints)


def _close(endpoints: dict[str, Endpoint[LoopConnection]]) -> None:
    for endpoint in endpoints.values():
        endpoint.close()


async def _connected_unix(path: str) -> socket.socket:
    """A connected socket. asyncio mistakes the refusal of a full backlog for progress, so we try until there is room."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.setblocking(False)
        pause = 0.001
        while True:
            with contextlib.suppress(BlockingIOError):
                connected.connect(path)
                return connected
            await asyncio.sleep(pause)
            pause = min(0.05, pause * 2)
    except BaseException:  # also when the send is cancelled
        connected.close()
        raise


async def _connected_tcp(host: str, port: int) -> socket.socket:
    last: OSError = TimeoutError()
    for family, _, _, _, place in await _addresses(host, port):
        connected = socket.socket(family)
        try:
            connected.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connected, place)
        except OSError as error:
            connected.close()
            last = error
        except BaseException:  # as above
            connected.close()
            raise
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise last


async def _addresses(host: str, port: int) -> list[Any]:
    """The result of `getaddrinfo`; only a name takes a thread."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
