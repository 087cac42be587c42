"""Simulated clients: they send tasks over the network and note what they hear."""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from spoolnode.protocol import names
from spoolnode.protocol.answer import REFUSED, STORED, AnswerReader, read_answer, read_copies
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.packet import EXTENDED, PLAIN, SPOOL_REQUEST, encode_variables, packet

from .history import ALL, History, Task
from .machine import Machine

PATIENCE = 20.0
"""Seconds without an answer after which a client gives up its connection."""


class Client:
    """Sends its tasks, in bursts, to one node; tasks without an answer when the connection ends are not sent again."""

    def __init__(self, machine: Machine, history: History, trace: Callable[..., None], node: Any, plain: bool = False) -> None:
        self.machine = machine
        self.history = history
        self.trace = trace
        self.node = node
        """The node that it sends to."""
        self.plain = plain
        """It speaks uWSGI's own dialect: a connection for each task."""
        self.random: Random = machine.random
        self._todo: deque[tuple[Task, bytes]] = deque()
        self._talk: _Talk | None = None
        self._connecting = False

    @property
    def address(self) -> str:
        """Where its node is now."""
        return str(self.node.address)

    @property
    def is_done(self) -> bool:
        """Whether it has nothing to send and waits for nothing."""
        return not self._todo and self._talk is None and not self._connecting

    def send(self, tasks: list[tuple[Task, bytes]]) -> None:
        """Sends these, now or as soon as there is a connection. In the client's process."""
        self._todo.extend(tasks)
        self._go_on()

    def _go_on(self) -> None:
        if self._talk is not None:
            if not self.plain:
                self._talk.say()
        elif self._todo and not self._connecting:
            self._connecting = True
            self.machine.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self.machine.network.connect(self.address, lambda: _Talk(self))
        except OSError:  # nothing listens, or no answer comes in time
            self.machine.loop.call_later(0.1 + self.random.random(), self._go_on)
        finally:
            self._connecting = False

    def next(self) -> tuple[Task, bytes] | None:
        """The task to send next."""
        return self._todo.popleft() if self._todo else None

    def began(self, talk: "_Talk") -> None:
        """There is a connection."""
        self._talk = talk

    def ended(self) -> None:
        """The connection has ended."""
        self._talk = None
        if self._todo:
            self.machine.loop.call_later(0.2 * self.random.random(), self._go_on)


class _Talk(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reader = AnswerReader()
        self._waiting: deque[Task] = deque()
        self._limit: asyncio.TimerHandle | None = None
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._client.began(self)
        self.say()

    def say(self) -> None:
        """Sends what there is to send."""
        while (item := self._client.next()) is not None:
            task, data = item
            self._client.trace(self._client.machine.name, "sends", n=task.n, at=self._client.address)
            self._waiting.append(task)
            self._transport.write(data)
            if self._client.plain:
                break
        self._wait()

    def _wait(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._waiting:
            self._limit = self._client.machine.loop.call_later(PATIENCE, self._transport.abort)
        else:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        for answer in self._reader.answers(data):
            self._hear(self._waiting.popleft(), answer)
        self._wait()

    def _hear(self, task: Task, answer: tuple[int, int, bytes]) -> None:
        history, trace, name = self._client.history, self._client.trace, self._client.machine.name
        _, modifier2, block = answer
        try:
            if self._client.plain:
                said = packet(255, block, modifier2)
                assert said in (STORED, REFUSED)
                identity, copies = "" if said == STORED else None, 0 if task.asked == ALL else 1
            else:
                identity, copies = read_answer(modifier2, block), read_copies(block)
        except Refused as refusal:
            history.refused(task.n, refusal.text)
            trace(name, "refused", n=task.n, reason=refusal.text)
            return
        if identity is None:
            history.refused(task.n, "failed")  # a plain refusal has no reason: it may be the disk
            trace(name, "refused", n=task.n)
        else:
            history.acknowledged(task.n, copies, identity)
            trace(name, "acknowledged", n=task.n, id=identity, copies=copies)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
        if self._waiting:
            self._client.trace(self._client.machine.name, "lost", unanswered=[task.n for task in self._waiting], why=exc)
        self._client.ended()


def request_of(task: Task, *, plain: bool, variables: list[tuple[bytes, bytes]], pad: int = 0) -> bytes:
    """The bytes that ask for this task."""
    items = [(b"n", str(task.n).encode()), *variables]
    if pad:
        items.append((b"pad", b"x" * pad))
    if task.body:
        items.append((names.BODY_LENGTH, str(len(task.body)).encode()))
    return packet(SPOOL_REQUEST, encode_variables(items), PLAIN if plain else EXTENDED) + task.body
