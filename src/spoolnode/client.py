"""The synchronous client: one connection per process and address, shared by all threads, kept open and pipelined.

    send(resolve("127.0.0.1:3031"), task_message({"ToGroup": "customers"}, None), timeout=5.0)

A forked child never uses its parent's connections. A connection that the node closed while nobody waited on it (it was
restarted) is noticed before it is used again, so that a restart costs a new connection and never an error.
"""

import atexit
import os
import socket
import struct
import threading
from typing import Any

from spoolnode import loading
from spoolnode.errors import Unanswered, Unreachable
from spoolnode.pipeline import Cut, Deadline, Doubtful, Gone, Pipeline
from spoolnode.protocol.answer import Answer
from spoolnode.wire import (
    LARGE,
    NOT_STORED,
    QUESTION,
    Address,
    Message,
    Target,
    body_would_be_dropped,
    copies,
    is_spoolnode,
    note,
    task_id,
    tell,
)

_TRIES = 3
"""How many connections are tried when each ends before a request was sent whole: a server that never listens."""


class _Peer:
    """What this process knows of one address: the shared connection, and whether a real uWSGI server is there."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._admission = threading.Lock()
        self._shared: Pipeline | None = None
        self._is_plain = False

    def ask(self, message: Message, timeout: float) -> Answer:
        """Sends one task; what the node answered. What surely was not stored is sent again."""
        deadline = Deadline(timeout, renews=len(message.body) >= LARGE)
        ended = 0
        while deadline.left:
            try:
                return self._exchange(message, deadline)
            except Doubtful:
                continue
            except (Gone, Cut) as error:
                ended += 1
                if ended == _TRIES:
                    raise Unreachable(f"{self._address}: closed {_TRIES} connections at once; {NOT_STORED}") from error
        raise self._too_late()

    def close(self) -> None:
        """Closes the shared connection."""
        if self._shared is not None:
            self._shared.close()

    def _exchange(self, message: Message, deadline: Deadline) -> Answer:
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

    def _exchange_alone(self, pipeline: Pipeline, message: Message, deadline: Deadline) -> Answer:
        """Uses a connection for one task."""
        try:
            answer = pipeline.exchange(message, deadline)
        finally:
            pipeline.retire()
        self._is_plain = not answer[2]  # a spoolnode may have taken the place of a uWSGI server
        return answer

    def _share(self, message: Message, deadline: Deadline) -> Pipeline | None:
        """The shared connection, opened by the first who needs it; None when a real uWSGI server is there."""
        if self._is_plain and not message.body:
            return None
        if not self._admission.acquire(timeout=deadline.left):
            raise self._too_late()
        try:
            if self._is_plain and not message.body:  # found out by who sent it before
                return None
            if self._shared is None or not self._shared.is_usable or not _outlived_refusals(self._shared, deadline):
                self._shared = self._open(deadline)
            return self._shared
        finally:
            self._admission.release()

    def _open(self, deadline: Deadline) -> Pipeline | None:
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

    def _connect(self, deadline: Deadline) -> Pipeline:
        for target in self._address.targets:
            try:
                return Pipeline(self._address, _connected(target, deadline))
            except OSError as error:
                last = error
        if isinstance(last, TimeoutError | BlockingIOError):
            raise Unreachable(f"{self._address}: cannot connect: timed out; {NOT_STORED}") from last
        why = last.strerror or str(last)
        raise Unreachable(f"{self._address}: cannot connect: {why}; {NOT_STORED}{self._address.hint}") from last

    def _too_late(self) -> Unreachable:
        return Unreachable(f"{self._address}: cannot connect in time; {NOT_STORED}")


def _outlived_refusals(pipeline: Pipeline, deadline: Deadline) -> bool:
    """Whether the node still listens on a connection on which it has just refused something."""
    if not pipeline.is_doubtful:
        return True
    try:
        return is_spoolnode(pipeline.exchange(QUESTION, deadline))
    except (Gone, Unanswered, Unreachable):
        return False


_peers: dict[tuple[int, str], _Peer] = {}
_peers_lock = threading.Lock()


def send(address: Address, message: Message, timeout: float) -> str:
    """Sends one task and waits until the node has stored it.

    Args:
        address: the node.
        message: the task.
        timeout: seconds for all of it: connecting, sending, waiting. With a body of `LARGE` bytes or more it begins anew
            whenever the node has taken some of it.

    Returns:
        The id of the task; empty when a real uWSGI server took it.

    Raises:
        Refused: the node declined it; nothing was stored.
        BadTask: a real uWSGI server would drop its body; nothing was stored.
        Unreachable: the node did not get it whole; nothing was stored.
        Unanswered: no answer came; it may have been stored. `TimedOut` when that was for lack of time.
    """
    if loading.is_silent():
        return loading.INSTEAD
    answer = _peer(address).ask(message, timeout)
    identity = task_id(address, answer)
    tell(answer)
    return identity


def send_copies(address: Address, message: Message, timeout: float) -> tuple[str, int, str]:
    """As `send`; the id of the first copy, how many were stored (more than one only for `node="all"`), and the node's note."""
    if loading.is_silent():
        return loading.INSTEAD, 1, ""
    answer = _peer(address).ask(message, timeout)
    return task_id(address, answer), copies(answer), note(answer)


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


def _connected(target: Target, deadline: Deadline) -> socket.socket:
    """A connected socket. Raises OSError, that of the last address when a name has several."""
    if isinstance(target, str):
        return _connected_to(socket.AF_UNIX, target, deadline)
    last: OSError = TimeoutError()
    for family, _, _, _, place in socket.getaddrinfo(*target, type=socket.SOCK_STREAM):
        try:
            connected = _connected_to(family, place, deadline)
        except OSError as error:
            last = error
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    raise last


def _connected_to(family: int, place: Any, deadline: Deadline) -> socket.socket:
    if not deadline.left:
        raise TimeoutError
    connected = socket.socket(family)
    try:
        if family == socket.AF_UNIX:
            # Not `settimeout`: a non-blocking connect to a unix socket whose backlog is full fails at once.
            time_limit = struct.pack("ll", *divmod(max(1, int(deadline.left * 1_000_000)), 1_000_000))
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time_limit)
        else:
            connected.settimeout(max(0.001, deadline.left))  # 0 would mean: do not wait
        connected.connect(place)
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
