"""A connection to another node that carries bytes and answers, for links and pings: a thin shell over an asyncio transport."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from spoolnode.protocol.answer import Answer, AnswerReader, is_stored, read_answer, read_status
from spoolnode.protocol.errors import BadPacket, Refused, SpoolnodeError
from spoolnode.protocol.packet import PING


class ChannelLost(SpoolnodeError):
    """The other side erred: the connection ended, or its bytes are not an answer."""


class Impostor(ChannelLost):
    """The other side is not the node that it claims to be, by its certificate or its key."""


class Channel(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.heard: Callable[[list[Answer]], None] | None = None
        """Called with the answers that came; None: `ask` waits for them."""
        self.ended: Callable[[], None] = lambda: None
        """Called when the connection has ended."""
        self.reason = ""
        """Why it has ended; empty as long as it is open."""
        self.error: Exception | None = None
        self.certified = ""
        """The node's name in the other side's certificate; empty without TLS."""
        self._transport: Any = None
        self._reader = AnswerReader()
        self._answers: deque[Answer] = deque()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return not self.reason

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answers: list[Answer] = []
        try:
            for answer in self._reader.answers(data):
                answers.append(answer)
        except BadPacket as error:
            self.close(str(error))
        if self.heard is not None:
            self.heard(answers)
        elif len(self._answers) + len(answers) > 1:
            self.abort("it sent an unexpected answer")
        else:
            self._answers += answers
            self._news.set()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._end(str(exc) if exc else "the other side closed the connection")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def write(self, data: bytes) -> None:
        """Sends bytes. Raises `ChannelLost` if the connection has ended."""
        if self.reason or self._transport.is_closing():  # uvloop's transports raise RuntimeError, asyncio's do not
            raise ChannelLost(self.reason or "the connection broke")
        self._transport.write(data)

    async def drained(self, limit: float) -> None:
        """Returns when there is room for more. Raises `ChannelLost` if there never will be."""
        try:
            async with asyncio.timeout(limit):
                await self._writable.wait()
        except TimeoutError:
            raise ChannelLost(f"the other side reads nothing for {limit:g} s") from None
        if self.reason:
            raise ChannelLost(self.reason)

    async def ask(self, packet: bytes, limit: float) -> Answer:
        """Sends a packet and returns its answer. Raises `ChannelLost`."""
        if self._answers:
            self.abort("it sent an unexpected answer")
            raise ChannelLost(self.reason)
        self.write(packet)
        try:
            async with asyncio.timeout(limit):
                while not self._answers:
                    if self.reason:
                        raise ChannelLost(self.reason)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self.close("")
            raise ChannelLost(f"no answer within {limit:g} s") from None
        return self._answers.popleft()

    def close(self, reason: str) -> None:
        """Ends the connection; written bytes are still sent."""
        if self._transport is not None:
            self._transport.close()
        self._end(reason or "closed by this side")

    def abort(self, reason: str) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self.reason:
            return
        self.reason = reason
        self._news.set()
        self._writable.set()
        self.ended()


def read_pong(answer: Answer) -> dict[str, Any] | None:
    """The status in the answer to a hello; None if a real uWSGI server answered, which has none.

    Raises:
        Refused: the other side refuses us.
        BadPacket: it is not such an answer.
    """
    modifier1, modifier2, block = answer
    if modifier1 == PING:
        return read_status(block) if block else None
    refusal = refusal_in(modifier2, block)
    if refusal is None:
        raise BadPacket("a hello was answered as if it were a task")
    raise refusal


def refusal_in(modifier2: int, block: bytes) -> Refused | None:
    """The refusal in the answer to a task; None if it is stored. Raises `BadPacket` if the answer is neither."""
    if is_stored(modifier2, block):
        return None
    try:
        read_answer(modifier2, block)
    except Refused as refusal:
        return refusal
    return None
