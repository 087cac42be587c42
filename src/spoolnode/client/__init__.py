"""The synchronous client: one connection per process and address, shared by all threads, kept open and pipelined.

    send(resolve("127.0.0.1:3031"), task_message({"ToGroup": "customers"}, None), timeout=5.0)

A forked child never uses its parent's connections. A connection that the node closed while it was idle (at a
restart) is noticed before it is used again, so a restart costs a new connection, but never an error.
"""

import atexit
import os
import threading
from collections.abc import Sequence

from spoolnode.client import silence
from spoolnode.client.blocking import ThreadConnection, ThreadTurn, run_blocking
from spoolnode.client.deadline import Deadline
from spoolnode.client.endpoint import Endpoint
from spoolnode.client.inside import INSIDE
from spoolnode.protocol.answer import Answer
from spoolnode.wire import LARGE, Address, Message, copies, note, task_id, task_ids, tell

_endpoints: dict[tuple[int, str], Endpoint[ThreadConnection]] = {}
_endpoints_lock = threading.Lock()


def send(address: Address, message: Message, timeout: float) -> str:
    """Sends one task and waits until the node has stored it.

    Args:
        address: the node.
        message: the task.
        timeout: seconds for all of it: connecting, sending, waiting. With a body of `LARGE` bytes or more they start
        again whenever the node has taken some of it.

    Returns:
        The id of the task; empty if a real uWSGI server took it.

    Raises:
        Refused: the node declined it; nothing was stored.
        BadTask: a real uWSGI server would drop its body; nothing was stored.
        Unreachable: the node did not get it whole; nothing was stored.
        Unanswered: no answer came; it may have been stored. `TimedOut` if the time was up.
    """
    if silence.is_silent():
        return silence.UNSENT_ID
    answer = _ask(address, message, timeout)
    identity = task_id(address, answer)
    tell(answer)
    return identity


def send_all(address: Address, messages: Sequence[Message], timeout: float) -> list[str]:
    """Sends tasks together and waits until the node has stored them. Returns their ids, in order.

    Args:
        address: the node.
        messages: the tasks.
        timeout: seconds in which the node must take or answer something.

    Raises:
        Unreachable: the node got none of them.
        NotAllStored: it says for each task what is known.
    """
    if silence.is_silent():
        return [silence.UNSENT_ID] * len(messages)
    if (receiver := INSIDE.receiver(address)) is not None:
        return task_ids(address, [receiver.take(address, message) for message in messages])
    deadline = Deadline(timeout, renews=True)
    if address.is_alone:
        return task_ids(address, run_blocking(_endpoint(address).send_all(messages, deadline)))
    from spoolnode.client.in_turn import send_all_in_turn  # few addresses need it

    return task_ids(address, run_blocking(send_all_in_turn(address, messages, deadline, _endpoint, _write)))


def send_copies(address: Address, message: Message, timeout: float) -> tuple[str, int, str]:
    """As `send`. Returns the id of the first copy, the number of copies (1 unless `node="all"`), and the node's note."""
    if silence.is_silent():
        return silence.UNSENT_ID, 1, ""
    answer = _ask(address, message, timeout)
    return task_id(address, answer), copies(answer), note(answer)


def close() -> None:
    """Closes this process's idle connections; a later send opens them again."""
    with _endpoints_lock:
        endpoints = list(_endpoints.values())
        _endpoints.clear()
    for endpoint in endpoints:
        endpoint.close()


def _ask(address: Address, message: Message, timeout: float) -> Answer:
    if (receiver := INSIDE.receiver(address)) is not None:
        return receiver.take(address, message)
    deadline = Deadline(timeout, renews=len(message.body) >= LARGE)
    if address.is_alone:
        return run_blocking(_endpoint(address).send(message, deadline))
    from spoolnode.client.in_turn import send_in_turn  # few addresses need it

    return run_blocking(send_in_turn(address, message, deadline, _endpoint, _write))


async def _write(root: str, message: Message) -> Answer:
    from spoolnode.client.as_file import store

    return store(root, message)


def _endpoint(address: Address) -> Endpoint[ThreadConnection]:
    key = (os.getpid(), address.text)  # the pid also guards against a fork that Python does not know of
    endpoint = _endpoints.get(key)
    if endpoint is None:
        with _endpoints_lock:
            endpoint = _endpoints.setdefault(key, Endpoint(address, ThreadConnection.open, ThreadTurn()))
    return endpoint


def _after_fork_in_child() -> None:
    """Closes the child's copies (the parent's connections stay open) and forgets locks that another thread may have held."""
    global _endpoints_lock  # noqa: PLW0603 - the lock may have been held by a thread that the child does not have
    _endpoints_lock = threading.Lock()
    endpoints = list(_endpoints.values())
    _endpoints.clear()
    for endpoint in endpoints:
        endpoint.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(close)
