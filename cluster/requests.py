"""Requests to another node that are not tasks, each on a connection of its own: questions, and what an operator asks for."""

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from spoolnode.cluster.channel import Channel, ChannelLost, read_pong
from spoolnode.cluster.destinations import Destinations
from spoolnode.cluster.dial import DialError, DialFailure, refusal_of
from spoolnode.cluster.introduction import Introduction
from spoolnode.cluster.sender import Dial, NotIt
from spoolnode.cluster.timing import Timing
from spoolnode.node.neighbours import NoMutualTLS, OutcomeUnknown
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.operate import ANSWER_SECONDS, Operation, OperationAnswer, OperationReader

OPERATE_SECONDS = ANSWER_SECONDS + 5.0
"""Seconds that the answer to an operator's request may take."""


class Requests:
    """Asks the nodes that destinations mean.

    Args:
        introduce: the introduction for one more connection.
        vouch: checks that a status fits the certificate, or the key.
        certified: whether this node has a certificate. Then all its connections are mutual TLS.
    """

    def __init__(
        self, destinations: Destinations, dial: Dial, introduce: Callable[[], Introduction],
        vouch: Callable[[dict[str, Any], str], None], timing: Timing, *, certified: bool,
    ) -> None:  # fmt: skip
        self._destinations = destinations
        self._dial = dial
        self._introduce = introduce
        self._vouch = vouch
        self._timing = timing
        self._certified = certified

    def __repr__(self) -> str:
        return f"<Requests, {'with' if self._certified else 'without'} a certificate>"

    async def ask(self, node: str, question: bytes, seconds: float, link: str) -> Answer:
        """The answer to a question. Raises `SpoolnodeError`, OSError."""
        channel = await self._reach(node, link)
        try:
            return await channel.ask(question, seconds)
        finally:
            channel.close("it was answered")

    async def operate(self, node: str, operation: Operation) -> OperationAnswer:
        """The answer to an operator's request. Raises as `Neighbours.operate`."""
        if not self._certified:
            raise NoMutualTLS("this node has no certificate (--tls-cert)")
        try:
            channel = await self._reach(node, "")
        except DialError as error:
            if error.kind is DialFailure.UNTRUSTED:
                raise NoMutualTLS(error.text) from error
            raise
        try:
            return await _exchange(channel, operation.encode())
        finally:
            channel.close("it was answered")

    async def _reach(self, node: str, link: str) -> Channel:
        """A connection on which that node has answered our hello."""
        resolve = self._destinations.resolve
        targets = [target for name in (node, link) if name and (target := resolve(name)) is not None]
        problem: Exception = ChannelLost(f"no address of the node {node} is known")
        for address, name in {address: target.name for target in targets for address in target.addresses}.items():
            try:
                dialed = await self._dial(address, Channel, name if self._certified else "")
            except (DialError, OSError) as error:
                problem = error
                continue
            channel = dialed.protocol
            channel.certified = dialed.name
            try:
                await self._introduce_to(node, channel, link)
            except BaseException as error:  # also when it is cancelled
                channel.close("it is not the node that was asked for")
                if (refused := refusal_of(channel.error, address)) is not None:
                    raise refused from error
                raise
            return channel
        raise problem

    async def _introduce_to(self, node: str, channel: Channel, link: str) -> None:
        """Says hello on a new connection. Raises `NotIt` if another node is there, `Impostor`, `ChannelLost`, `Refused`."""
        introduction = self._introduce()
        status = read_pong(await channel.ask(introduction.packet(link), self._timing.answer))
        if status is None:
            raise NotIt("a uWSGI server is there")
        status = introduction.hear(status)
        self._vouch(status, channel.certified)
        identity = str(status.get("id", ""))
        if ":" not in node and not self._destinations.answers_to(node, identity):
            raise NotIt(f"the node {status.get('name', '')!r} ({identity}) is there now")
        if introduction.must_prove:
            read_pong(await channel.ask(introduction.packet(link), self._timing.answer))


async def _exchange(channel: Channel, packet: bytes) -> OperationAnswer:
    """Sends a request, whose answer comes in several packets."""
    reader, heard = OperationReader(), asyncio.Queue[Answer | None]()
    channel.heard = partial(_put, heard)
    channel.ended = partial(heard.put_nowait, None)
    channel.write(packet)
    try:
        async with asyncio.timeout(OPERATE_SECONDS):
            while (answer := await heard.get()) is not None:
                if (whole := reader.add(answer)) is not None:
                    return whole
    except TimeoutError:
        raise OutcomeUnknown(f"no answer came within {OPERATE_SECONDS:g} s") from None
    except BadPacket as error:
        raise OutcomeUnknown(str(error)) from error
    raise OutcomeUnknown(channel.reason)


def _put(heard: asyncio.Queue[Answer | None], answers: Iterable[Answer]) -> None:
    for answer in answers:
        heard.put_nowait(answer)
