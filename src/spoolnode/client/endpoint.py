"""Sends a task to an address: chooses the connection, and decides when to send again. Both clients run these coroutines.

The connections of the asynchronous client suspend them; those of the blocking client never do, and block instead (see
`blocking.run_blocking`).
"""

import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeVar

from spoolnode.client.deadline import Deadline
from spoolnode.client.pipeline import Doubtful, Result, Unsent
from spoolnode.errors import Unanswered, Unreachable
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import BadTask, Reason, SpoolnodeError
from spoolnode.wire import (
    LARGE,
    NOT_STORED,
    QUESTION,
    Address,
    Message,
    SocketAddress,
    body_would_be_dropped,
    is_spoolnode,
    refusal_reason,
)

TRIES = 3
"""How many connections are tried if each ends before the request was sent whole: such a server never listens."""


class ClientConnection(Protocol):
    """A socket with its `Pipeline`."""

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests. Also notices that the server has closed the idle connection."""

    @property
    def is_doubtful(self) -> bool:
        """Whether `QUESTION` has to be asked first."""

    async def exchange(self, message: Message, deadline: Deadline) -> Answer:
        """Sends a request and waits for its answer.

        Raises:
            Unsent: it was not sent whole; another connection may be tried.
            Doubtful: nothing was sent; ask `QUESTION` first.
            Unreachable: the time was up, and it was not sent whole.
            Unanswered: it was sent whole, and no answer came.
        """

    async def exchange_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Result]:
        """Sends requests on a connection that nothing else has used since it was opened, and waits for their answers.

        Raises:
            Unsent: none was sent; another connection may be tried.
        """

    def retire(self) -> None:
        """Takes no further requests, and closes when those under way have ended."""

    def close(self) -> None:
        """Closes at once, whatever is under way."""


class Turn(Protocol):
    """A lock that waits for no longer than a deadline."""

    async def acquire(self, deadline: Deadline) -> bool:
        """Waits for the lock. Returns whether it is ours now."""

    def release(self) -> None:
        """Gives the lock to the next one."""


C = TypeVar("C", bound=ClientConnection)
Connect = Callable[[Address, SocketAddress, Deadline], Coroutine[Any, Any, C]]
"""Opens a connection. Raises OSError."""


class Endpoint(Generic[C]):
    """A client's knowledge of one address: the shared connection, and whether a real uWSGI server is there."""

    def __init__(self, address: Address, connect: Connect[C], turn: Turn) -> None:
        self._address = address
        self._connect_to = connect
        self._opening = turn
        """Held by the one that opens the shared connection, or asks whether it is still good."""
        self._shared: C | None = None
        self._is_plain = False

    def __repr__(self) -> str:
        return f"<Endpoint {self._address}: {'a uWSGI server' if self._is_plain else self._shared or 'not connected'}>"

    async def send(self, message: Message, deadline: Deadline) -> Answer:
        """Sends one task and returns the answer. A task that was certainly not stored is sent again.

        Raises:
            BadTask: a real uWSGI server would drop its body; nothing was stored.
            Unreachable: the node did not get it whole; nothing was stored.
            Unanswered: no answer came; it may have been stored.
        """
        answer = await self._send(message, deadline)
        if not _is_busy(answer):
            return answer
        # If it is stopping, the one that takes its place listens on the same socket: a new connection waits there.
        if self._shared is not None:
            self._shared.retire()
        try:
            return await self._send(message, deadline)
        except Unreachable:
            return answer

    async def _send(self, message: Message, deadline: Deadline) -> Answer:
        ended = 0
        while deadline.left:
            try:
                return await self._exchange(message, deadline)
            except Doubtful:
                continue
            except Unsent as error:
                ended += 1
                if ended == TRIES:
                    raise self._hung_up() from error
        raise self._too_late()

    async def send_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Answer | SpoolnodeError]:
        """Sends tasks, pipelined on a connection of their own, so that others need not wait behind them.

        Returns for each task the answer, or the error that `send` would raise.
        """
        results = await self._send_all(messages, deadline)
        busy = [index for index, result in enumerate(results) if not isinstance(result, SpoolnodeError) and _is_busy(result)]
        if busy:  # as in `send`
            again = await self._send_all([messages[index] for index in busy], deadline)
            for index, result in zip(busy, again, strict=True):
                results[index] = results[index] if isinstance(result, Unreachable) else result
        return results

    async def _send_all(self, messages: Sequence[Message], deadline: Deadline) -> list[Answer | SpoolnodeError]:
        results: dict[int, Answer | SpoolnodeError] = {}
        waiting = [index for index, message in enumerate(messages) if len(message.body) < LARGE]
        for _ in range(TRIES):
            if waiting:
                together = await self._send_together([messages[index] for index in waiting], deadline)
                sent = zip(waiting, together, strict=True)
                results.update((index, result) for index, result in sent if not isinstance(result, Unsent))
                waiting = [index for index in waiting if index not in results]
        results.update((index, self._hung_up()) for index in waiting)
        for index, message in enumerate(messages):
            if len(message.body) >= LARGE:
                results[index] = await self._answer_or_error(message, deadline)
        return [results[index] for index in range(len(messages))]

    def close(self) -> None:
        """Closes the shared connection."""
        if self._shared is not None:
            self._shared.close()

    async def _exchange(self, message: Message, deadline: Deadline) -> Answer:
        own = None
        if len(message.body) >= LARGE:
            own = await self._open(deadline)
        elif (shared := self._usable() or await self._share(message, deadline)) is not None:
            return await shared.exchange(message, deadline)
        if own is None:
            if message.body:
                raise body_would_be_dropped(self._address)
            own = await self._connect(deadline.to_connect())
        return await self._exchange_alone(own, message, deadline)

    async def _exchange_alone(self, own: C, message: Message, deadline: Deadline) -> Answer:
        """Sends one task on a connection of its own."""
        try:
            answer = await own.exchange(message, deadline)
        finally:
            own.retire()
        self._is_plain = not answer[2]  # a spoolnode may have taken the place of a uWSGI server
        return answer

    async def _send_together(self, messages: Sequence[Message], deadline: Deadline) -> Sequence[Result | SpoolnodeError]:
        try:
            own = await self._open(deadline)
        except Unreachable as error:
            return [error] * len(messages)
        if own is None:
            return [await self._answer_or_error(message, deadline) for message in messages]
        try:
            return await own.exchange_all(messages, deadline)
        except Unsent as error:
            return [error] * len(messages)
        finally:
            own.close()

    async def _answer_or_error(self, message: Message, deadline: Deadline) -> Answer | SpoolnodeError:
        try:
            return await self.send(message, deadline)
        except (BadTask, Unreachable, Unanswered) as error:
            return error

    def _usable(self) -> C | None:
        """The shared connection, if there is nothing to ask or to open first."""
        shared = self._shared
        return shared if shared is not None and shared.is_usable and not shared.is_doubtful else None

    async def _share(self, message: Message, deadline: Deadline) -> C | None:
        """The shared connection, opened when it is first needed; None if a real uWSGI server is there."""
        if self._is_plain and not message.body:
            return None
        if not await self._opening.acquire(deadline):
            raise self._too_late()
        try:
            if self._is_plain and not message.body:  # found out by the one before
                return None
            if self._shared is None or not self._shared.is_usable or not await _outlived_refusals(self._shared, deadline):
                self._shared = await self._open(deadline)
            return self._shared
        finally:
            self._opening.release()

    async def _open(self, deadline: Deadline) -> C | None:
        """A connection to a spoolnode; None if a real uWSGI server is there."""
        deadline = deadline.to_connect()
        opened = await self._connect(deadline)
        try:
            answer = await opened.exchange(QUESTION, deadline)
        except (Unsent, Unanswered, Unreachable) as error:
            opened.retire()
            raise Unreachable(f"{self._address}: accepts connections but answers no ping; {NOT_STORED}") from error
        except BaseException:  # also when the send is cancelled: nothing else knows this connection yet
            opened.retire()
            raise
        self._is_plain = not is_spoolnode(answer)
        if self._is_plain:
            opened.retire()
            return None
        return opened

    async def _connect(self, deadline: Deadline) -> C:
        for target in self._address.targets:
            try:
                return await self._connect_to(self._address, target, deadline)
            except OSError as error:
                last = error
        if isinstance(last, TimeoutError | BlockingIOError):
            raise Unreachable(f"{self._address}: cannot connect: timed out; {NOT_STORED}") from last
        # Only the system's words: asyncio puts the address before them.
        why = os.strerror(last.errno) if last.errno and last.errno > 0 else last.strerror or str(last)
        raise Unreachable(f"{self._address}: cannot connect: {why}; {NOT_STORED}{self._address.hint}") from last

    def _hung_up(self) -> Unreachable:
        return Unreachable(f"{self._address}: closed {TRIES} connections at once; {NOT_STORED}")

    def _too_late(self) -> Unreachable:
        return Unreachable(f"{self._address}: cannot connect in time; {NOT_STORED}")


def _is_busy(answer: Answer) -> bool:
    return not answer[1] and refusal_reason(answer) is Reason.BUSY


async def _outlived_refusals(shared: ClientConnection, deadline: Deadline) -> bool:
    """Whether the node still listens on a connection on which it has just refused something."""
    if not shared.is_doubtful:
        return True
    try:
        return is_spoolnode(await shared.exchange(QUESTION, deadline))
    except (Unsent, Unanswered, Unreachable):
        return False
