"""The asynchronous client: one connection per running loop and address, shared by all tasks, kept open and pipelined.

The rules are those of `client`. A cancelled caller disturbs nobody: its request has been handed over whole, and its
answer is dropped when it comes. The connections of a loop close when the loop's asynchronous generators are shut down,
which `asyncio.run` does.
"""

import asyncio
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import AsyncGenerator
from time import monotonic
from typing import cast

from spoolnode import loading
from spoolnode.errors import TimedOut, Unanswered, Unreachable
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.errors import BadPacket
from spoolnode.wire import (
    LARGE,
    MAY_BE_STORED,
    NOT_STORED,
    QUESTION,
    Address,
    Message,
    Target,
    body_would_be_dropped,
    is_refusal,
    is_spoolnode,
    task_id,
    tell,
)

_LOOK = 0.1
"""Seconds between two looks whether a large body moves on."""


class _Link(asyncio.Protocol):
    """One connection and the requests under way on it, in order."""

    transport: asyncio.Transport  # of any loop: uvloop's has the same methods, but is no subclass

    def __init__(self, address: Address) -> None:
        self._address = address
        self._line: deque[asyncio.Future[Answer]] = deque()
        self._reader = AnswerReader()
        self._failure = "the connection was closed"
        self._retired = False
        self.is_doubtful = False
        """Whether the last answer was a refusal: some refusals are a node's last word on a connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for answer in self._reader.answers(data):
                if not self._line:
                    raise BadPacket("an answer that nobody waits for")
                self.is_doubtful = is_refusal(answer)
                waiting = self._line.popleft()
                if not waiting.done():
                    waiting.set_result(answer)
        except BadPacket as error:
            self._failure = f"sent what is no answer ({error})"
            self._retired = True
            self.transport.abort()
        self._close_when_unused()

    def connection_lost(self, exc: Exception | None) -> None:
        self._retired = True
        failure = f"the connection broke ({exc})" if exc else self._failure
        while self._line:
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_exception(Unanswered(f"{self._address}: {failure} before it answered; {MAY_BE_STORED}"))

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent here; also sees a close that the loop has not told of yet."""
        if self._retired or self.transport.is_closing():
            return False
        if not self._line and _is_readable(self.transport):
            self.retire()
        return not self._retired

    async def exchange(self, message: Message) -> Answer:
        """Sends a request and waits for its answer. Raises `Unanswered` when none comes."""
        return await self._send(message)

    async def exchange_large(self, message: Message, patience: float) -> Answer:
        """As `exchange`, on a connection of its own. Gives up when the node has taken nothing more for `patience` seconds.

        Raises:
            Unreachable: then, and it had not taken all: nothing was stored.
            TimeoutError: then, and it had.
        """
        waiting = self._send(message)
        try:
            unsent, since = self.transport.get_write_buffer_size(), monotonic()
            while not waiting.done():
                left = since + patience - monotonic()
                if left <= 0 and unsent:
                    raise Unreachable(f"{self._address}: timed out while the task was being sent; {NOT_STORED}")
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([waiting], timeout=min(left, _LOOK))
                if (rest := self.transport.get_write_buffer_size()) != unsent:
                    unsent, since = rest, monotonic()
            return waiting.result()
        finally:
            waiting.cancel()

    def _send(self, message: Message) -> asyncio.Future[Answer]:
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._line.append(waiting)
        # All of it at once, never in parts: a caller that is cancelled leaves no half request behind.
        for piece in message.pieces():
            self.transport.write(piece)
        return waiting

    def retire(self) -> None:
        """No further request; closes when nobody waits any more."""
        self._retired = True
        self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self._retired and all(waiting.done() for waiting in self._line):
            self.transport.abort()


class _Peer:
    """What this loop knows of one address: the shared connection, and whether a real uWSGI server is there."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._admission = asyncio.Lock()
        self._shared: _Link | None = None
        self._is_plain = False

    async def send(self, message: Message, timeout: float) -> str:  # noqa: ASYNC109 - ours says what was stored
        """Sends one task; the id that the node gave it."""
        link: _Link | None = None
        shared = len(message.body) < LARGE
        try:
            async with asyncio.timeout(timeout) as limit:
                link = await (self._share(message) if shared else self._open())
                if link is None:
                    if message.body:
                        raise body_would_be_dropped(self._address)
                    shared = False
                    link = await self._connect()
                if len(message.body) >= LARGE:
                    limit.reschedule(None)
                    answer = await link.exchange_large(message, timeout)
                else:
                    answer = await link.exchange(message)
        except TimeoutError as error:
            if isinstance(error, Unanswered):
                raise
            if link is None:
                raise Unreachable(f"{self._address}: cannot connect in time; {NOT_STORED}") from error
            link.retire()
            raise TimedOut(f"{self._address}: no answer within {timeout:g} s; {MAY_BE_STORED}") from error
        finally:
            if link is not None and not shared:
                link.retire()
        self._is_plain = not answer[2]  # a spoolnode may have taken the place of a uWSGI server
        identity = task_id(self._address, answer)
        tell(answer)
        return identity

    def close(self) -> None:
        """Closes the shared connection."""
        if self._shared is not None:
            self._shared.transport.abort()

    async def _share(self, message: Message) -> _Link | None:
        """The shared connection, opened by the first who needs it; None when a real uWSGI server is there."""
        if self._shared is not None and self._shared.is_usable and not self._shared.is_doubtful:
            return self._shared
        async with self._admission:
            if self._is_plain and not message.body:
                return None
            if self._shared is None or not self._shared.is_usable or not await _outlived_refusals(self._shared):
                self._shared = await self._open()
            return self._shared

    async def _open(self) -> _Link | None:
        """A connection to a spoolnode; None when a real uWSGI server is there."""
        link = await self._connect()
        answer: Answer | None = None
        try:
            answer = await link.exchange(QUESTION)
        except Unanswered as error:
            raise Unreachable(f"{self._address}: accepts connections but answers no ping; {NOT_STORED}") from error
        finally:
            if answer is None or not is_spoolnode(answer):
                link.retire()
        self._is_plain = not is_spoolnode(answer)
        return None if self._is_plain else link

    async def _connect(self) -> _Link:
        for target in self._address.targets:
            try:
                return await self._connect_to(target)
            except TimeoutError:
                raise
            except OSError as error:
                last = error
        why = last.strerror or str(last)
        raise Unreachable(f"{self._address}: cannot connect: {why}; {NOT_STORED}{self._address.hint}") from last

    async def _connect_to(self, target: Target) -> _Link:
        loop = asyncio.get_running_loop()
        if isinstance(target, tuple):
            _, link = await loop.create_connection(lambda: _Link(self._address), *target)
        else:
            connected = await _connected_unix(target)
            _, link = await loop.create_unix_connection(lambda: _Link(self._address), sock=connected)
        return link


async def _outlived_refusals(link: _Link) -> bool:
    """Whether the node still listens on a connection on which it has just refused something."""
    if not link.is_doubtful:
        return True
    try:
        return is_spoolnode(await link.exchange(QUESTION))
    except Unanswered:
        return False


_loops: dict[tuple[int, asyncio.AbstractEventLoop], tuple[dict[str, _Peer], AsyncGenerator[None]]] = {}


async def send(address: Address, message: Message, timeout: float) -> str:  # noqa: ASYNC109 - as `client.send`
    """As `client.send`, without blocking the loop."""
    if loading.is_silent():
        return loading.INSTEAD
    peers = await _peers_of_this_loop()
    peer = peers.get(address.text)
    if peer is None:
        peer = peers[address.text] = _Peer(address)
    return await peer.send(message, timeout)


async def _peers_of_this_loop() -> dict[str, _Peer]:
    key = (os.getpid(), asyncio.get_running_loop())
    if key not in _loops:
        for old in [old for old in _loops if old[1].is_closed() or old[0] != key[0]]:
            del _loops[old]
        peers: dict[str, _Peer] = {}
        closer = _close_with_loop(peers)
        _loops[key] = peers, closer
        await anext(closer)
    return _loops[key][0]


async def _close_with_loop(peers: dict[str, _Peer]) -> AsyncGenerator[None]:
    """A generator that the loop knows of, and ends before it closes: that is our moment to close the connections."""
    try:
        yield
    finally:
        for peer in peers.values():
            peer.close()
        await asyncio.sleep(0)  # a transport closes its socket in the next turn of the loop


async def _connected_unix(path: str) -> socket.socket:
    """A connected socket. asyncio takes the refusal of a full backlog for progress, so we try until there is room."""
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
    except BaseException:
        connected.close()
        raise


def _is_readable(transport: asyncio.Transport) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))
