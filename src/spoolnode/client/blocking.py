"""A connection that threads share: each sends for itself, and one of the waiting threads reads for all.

It needs no extra thread. The first thread in the line that waits (the *leader*) reads; when its own answer has come, the next
one leads. The methods are coroutines so that both clients can share `Endpoint`, but they never suspend: `run_blocking`
needs no loop.

    _sending   held while one request is written, so that the order of bytes is the order of the line
    _state     guards the pipeline and the leader; never held during a system call that may block
"""

import contextlib
import math
import select
import socket
import struct
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, Self, TypeVar

from spoolnode.client.deadline import Deadline
from spoolnode.client.pipeline import Exchange, Given, Pipeline, Result, broken
from spoolnode.protocol.answer import Answer
from spoolnode.wire import Address, Message, SocketAddress

PEEK_SECONDS = 0.5
"""After this time a sender that waits for room checks whether it has become the leader."""

R = TypeVar("R")


def run_blocking(steps: Coroutine[Any, Any, R]) -> R:
    """Runs a coroutine that blocks where others suspend. Returns or raises what it does."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    steps.close()
    raise RuntimeError(f"{steps} has suspended, and no loop will resume it")


class ThreadTurn:
    """A lock among threads: a `Turn`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    async def acquire(self, deadline: Deadline) -> bool:
        return self._lock.acquire(timeout=deadline.left)

    def release(self) -> None:
        self._lock.release()


class _ThreadExchange(Exchange):
    """A request for which a thread waits."""

    __slots__ = ("news",)

    def __init__(self, message: Message, deadline: Deadline) -> None:
        super().__init__(message, deadline)
        self.news = threading.Lock()
        """Released once: when it is settled, or when its thread has to read."""
        self.news.acquire()


class ThreadConnection:
    """A connected socket that threads share: a `ClientConnection`."""

    def __init__(self, address: Address, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._pipeline: Pipeline[_ThreadExchange] = Pipeline(address)
        self._sending = threading.Lock()
        self._state = threading.Lock()
        self._leader: _ThreadExchange | None = None
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    @classmethod
    async def open(cls, address: Address, target: SocketAddress, deadline: Deadline) -> Self:
        """A new connection. Raises OSError: if a name has several addresses, that of the last one."""
        if isinstance(target, str):
            return cls(address, _connected(socket.AF_UNIX, target, deadline))
        last: OSError = TimeoutError()
        for family, _, _, _, place in socket.getaddrinfo(*target, type=socket.SOCK_STREAM):
            try:
                connected = _connected(family, place, deadline)
            except OSError as error:
                last = error
            else:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return cls(address, connected)
        raise last

    def __repr__(self) -> str:
        return f"<ThreadConnection of {self._pipeline!r}>"

    @property
    def is_usable(self) -> bool:
        with self._state:
            if self._pipeline.is_idle and self._readable.poll(0):
                self._retire()
            return self._pipeline.is_open

    @property
    def is_doubtful(self) -> bool:
        return self._pipeline.is_doubtful

    async def exchange(self, message: Message, deadline: Deadline) -> Answer:
        own = _ThreadExchange(message, deadline)
        try:
            self._send(own)
            self._wait(own)
        finally:
            self._leave(own)
        return self._pipeline.result(own)

    async def exchange_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Result]:
        exchanges = [_ThreadExchange(message, deadline) for message in messages]
        for exchange in exchanges:
            self._pipeline.begin(exchange)
        while self._pipeline.first_waiting is not None and deadline.left:
            self._move(deadline)
        return self._pipeline.results(exchanges)

    def retire(self) -> None:
        with self._state:
            self._retire()

    def close(self) -> None:
        self._pipeline.retire()
        self._socket.close()

    # --- sending ---

    def _send(self, own: _ThreadExchange) -> None:
        if not self._sending.acquire(timeout=own.deadline.left):
            raise self._pipeline.too_late(own)
        try:
            with self._state:
                self._pipeline.begin(own)
                if self._leader is None:
                    self._leader = own
            try:
                self._write(own)
            finally:
                if own.given is not Given.ALL:
                    self._cut()
        finally:
            self._sending.release()

    def _write(self, own: _ThreadExchange) -> None:
        """Gives the request to the kernel. Returns early if that is impossible: `_wait` reads what the node said before."""
        while own.rest and not own.is_settled:
            try:
                count = self._socket.send(own.rest[0])
            except BlockingIOError:
                self._await_room(own)
            except OSError:
                return
            else:
                self._pipeline.sent(count)

    def _await_room(self, own: _ThreadExchange) -> None:
        """Waits until more can be sent; the leader reads meanwhile, or a node that refuses a body would stall it."""
        if not own.deadline.left:
            raise self._pipeline.too_late(own)
        leads = self._leader is own
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT | (select.POLLIN if leads else 0))
        for _, event in poll.poll(_milliseconds(min(own.deadline.left, PEEK_SECONDS))):
            if leads and event & select.POLLIN:
                self._read(own.deadline)

    def _move(self, deadline: Deadline) -> None:
        """Waits until there is something to read, or more can be sent, and does that. For a connection of one thread."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._pipeline.has_unsent else 0))
        for _, event in poll.poll(_milliseconds(deadline.left)):
            if event & ~select.POLLOUT:
                self._read(deadline)
            if event & select.POLLOUT and (pieces := self._pipeline.unsent()):
                try:
                    self._pipeline.sent(self._socket.sendmsg(pieces))
                except OSError:
                    self._cut()

    def _cut(self) -> None:
        """Ends sending, because nothing can follow a request that was cut. What the node still answers is read."""
        with self._state:
            self._tell(self._pipeline.cut())
        with contextlib.suppress(OSError):  # the connection may be down already
            self._socket.shutdown(socket.SHUT_WR)

    # --- receiving ---

    def _wait(self, own: _ThreadExchange) -> None:
        """Returns when the request is settled."""
        while not own.is_settled:
            if self._leader is own:
                self._read(own.deadline)
            else:
                own.news.acquire(timeout=own.deadline.left)
            if not own.is_settled and not own.deadline.left:
                raise self._pipeline.too_late(own)

    def _read(self, deadline: Deadline) -> None:
        """The leader's work: waits for bytes once, and hands out the answers in them."""
        if not self._readable.poll(_milliseconds(deadline.left)):
            return
        failure = ""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            failure = broken(error)
        with self._state:
            self._tell(self._pipeline.end(failure) if failure else self._pipeline.receive(data))

    def _tell(self, settled: list[_ThreadExchange]) -> None:
        for exchange in settled:
            if exchange is not self._leader and not exchange.has_left:
                exchange.news.release()
        if self._leader is not None and self._leader.is_settled:
            self._choose_leader()

    def _choose_leader(self) -> None:
        self._leader = self._pipeline.first_waiting
        if self._leader is not None:
            self._leader.news.release()

    # --- leaving ---

    def _leave(self, own: _ThreadExchange) -> None:
        """The caller goes, with or without its answer."""
        with self._state:
            self._pipeline.leave(own)
            if not own.is_settled:
                self._pipeline.retire()  # something is wrong here, or it was interrupted while it read
                if self._leader is own:
                    self._choose_leader()
            if self._pipeline.is_over:
                self._socket.close()

    def _retire(self) -> None:
        self._pipeline.retire()
        if self._pipeline.is_over:
            self._socket.close()


def _connected(family: int, place: Any, deadline: Deadline) -> socket.socket:
    if not deadline.left:
        raise TimeoutError
    connected = socket.socket(family)
    try:
        if family == socket.AF_UNIX:
            # Not `settimeout`: a non-blocking connect to a unix socket whose backlog is full fails at once.
            time_limit = struct.pack("ll", *divmod(max(1, int(deadline.left * 1_000_000)), 1_000_000))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time_limit)
        else:
            connected.settimeout(max(0.001, deadline.left))  # 0 would mean not to wait
        connected.connect(place)
    except BaseException:  # also Ctrl-C, or the exception of a signal handler, while it waits
        connected.close()
        raise
    return connected


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
