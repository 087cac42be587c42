"""The synchronous client: one connection per process and address, shared by all threads, kept open and pipelined.

    send(resolve("127.0.0.1:3031"), task_message({"ToGroup": "customers"}, None), timeout=30.0)

A forked child never uses its parent's connections. A connection that the node closed while nobody waited on it (it was
restarted) is noticed before it is used again, so that a restart costs a new connection and never an error.
"""

import atexit
import os
import socket
import struct
import threading
from time import monotonic

from spoolnode.errors import Unanswered, Unreachable
from spoolnode.pipeline import Gone, Pipeline, left
from spoolnode.wire import (
    LARGE,
    NOT_STORED,
    QUESTION,
    Address,
    Answer,
    Message,
    body_would_be_dropped,
    copies,
    is_spoolnode,
    task_id,
)

_TRIES = 3
"""How many connections are tried when each ends before a byte was sent: a server that never listens."""


class _Peer:
    """What this process knows of one address: the shared connection, and whether a real uWSGI server is there."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._door = threading.Lock()
        self._shared: Pipeline | None = None
        self._is_plain = False

    def ask(self, message: Message, deadline: float) -> Answer:
        """Sends one task; what the node answered."""
        for _ in range(_TRIES):
            try:
                return self._exchange(message, deadline)
            except Gone:
                continue
        raise Unreachable(f"{self._address}: closed {_TRIES} connections at once; {NOT_STORED}")

    def close(self) -> None:
        """Closes the shared connection."""
        if self._shared is not None:
            self._shared.close()

    def _exchange(self, message: Message, deadline: float) -> Answer:
        if len(message.body) < LARGE:
            pipeline = self._share(message, deadline)
            if pipeline is not None:
                return pipeline.exchange(message, deadline)
        else:
            pipeline = self._open(deadline)
        if pipeline is None:
            if message.body:
                raise body_would_be_dropped(self._address)
            pipeline = self._connect(deadline)
        return self._exchange_alone(pipeline, message, deadline)

    def _exchange_alone(self, pipeline: Pipeline, message: Message, deadline: float) -> Answer:
        """Uses a connection for one task."""
        try:
            answer = pipeline.exchange(message, deadline)
        finally:
            pipeline.retire()
        self._is_plain = not answer[2]  # a spoolnode may have taken the place of a uWSGI server
        return answer

    def _share(self, message: Message, deadline: float) -> Pipeline | None:
        """The shared connection, opened by the first who needs it; None when a real uWSGI server is there."""
        if self._is_plain and not message.body:
            return None
        if not self._door.acquire(timeout=left(deadline)):
            raise Unreachable(f"{self._address}: cannot connect in time; {NOT_STORED}")
        try:
            if self._is_plain and not message.body:  # found out by who held the door before
                return None
            if self._shared is None or not self._shared.is_usable:
                self._shared = self._open(deadline)
            return self._shared
        finally:
            self._door.release()

    def _open(self, deadline: float) -> Pipeline | None:
        """A connection to a spoolnode; None when a real uWSGI server is there."""
        pipeline = self._connect(deadline)
        try:
            answer = pipeline.exchange(QUESTION, deadline)
        except (Gone, Unanswered, Unreachable) as error:
            pipeline.retire()
            raise Unreachable(f"{self._address}: accepts connections but answers no ping; {NOT_STORED}") from error
        except BaseException:
            pipeline.retire()
            raise
        self._is_plain = not is_spoolnode(answer)
        if self._is_plain:
            pipeline.retire()
            return None
        return pipeline

    def _connect(self, deadline: float) -> Pipeline:
        try:
            return Pipeline(self._address, _connected(self._address, left(deadline)))
        except OSError as error:
            what = "timed out" if isinstance(error, TimeoutError | BlockingIOError) else (error.strerror or str(error))
            raise Unreachable(f"{self._address}: cannot connect: {what}; {NOT_STORED}{self._address.hint}") from error


_peers: dict[tuple[int, str], _Peer] = {}
_peers_lock = threading.Lock()


def send(address: Address, message: Message, timeout: float) -> str:
    """Sends one task and waits until the node has stored it.

    Args:
        address: the node.
        message: the task.
        timeout: seconds for all of it: connecting, sending, waiting.

    Returns:
        The id of the task; empty when a real uWSGI server took it.

    Raises:
        Refused: the node declined it; nothing was stored.
        BadTask: a real uWSGI server would drop its body; nothing was stored.
        Unreachable: the node did not get it whole; nothing was stored.
        Unanswered: no answer came; it may have been stored. `TimedOut` when that was for lack of time.
    """
    return task_id(address, _peer(address).ask(message, monotonic() + timeout))


def send_copies(address: Address, message: Message, timeout: float) -> tuple[str, int]:
    """As `send`; the id of the first copy, and how many were stored (more than one only for `node="all"`)."""
    answer = _peer(address).ask(message, monotonic() + timeout)
    return task_id(address, answer), copies(answer)


def close() -> None:
    """Closes this process's idle connections; a later send opens them again."""
    with _peers_lock:
        peers = list(_peers.values())
        _peers.clear()
    for peer in peers:
        peer.close()


def _peer(address: Address) -> _Peer:
    key = (os.getpid(), address.text)  # the pid also guards against a fork that Python was not told of
    peer = _peers.get(key)
    if peer is None:
        with _peers_lock:
            peer = _peers.setdefault(key, _Peer(address))
    return peer


def _connected(address: Address, timeout: float) -> socket.socket:
    if not timeout:
        raise TimeoutError
    if isinstance(address.target, tuple):
        connected = socket.create_connection(address.target, timeout)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected
    connected = socket.socket(socket.AF_UNIX)
    try:
        # Not `settimeout`: a non-blocking connect to a unix socket whose backlog is full fails at once.
        time_limit = struct.pack("ll", *divmod(max(1, int(timeout * 1_000_000)), 1_000_000))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time_limit)
        connected.connect(address.target)
    except BaseException:
        connected.close()
        raise
    return connected


def _after_fork_in_child() -> None:
    """Closes the child's copies (the parent's connections stay open) and forgets locks that another thread may hold."""
    global _peers_lock  # noqa: PLW0603 - the lock may have been held by a thread that the child does not have
    _peers_lock = threading.Lock()
    peers = list(_peers.values())
    _peers.clear()
    for peer in peers:
        peer.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(close)
