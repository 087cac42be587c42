"""A request that comes while a node closes its connections is answered if it came before the end of its connection."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.conversation import TAKEN_AT_ONCE, Conversation
from spoolnode.node.ingress.room import Room
from spoolnode.node.ingress.services import Services
from spoolnode.node.ingress.stream import Stream
from spoolnode.protocol.answer import AnswerReader, read_answer
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.packet import EXTENDED, SPOOL_REQUEST, encode_variables, packet

TASK = packet(SPOOL_REQUEST, encode_variables([(b"n", b"1")]), EXTENDED)


class Closed:
    """The admission of a node that is stopping."""

    def open(self, *args: Any, **options: Any) -> None:
        """Refuses."""
        raise Refused(Reason.BUSY, "this node is stopping")


def say_nothing(*args: Any, **details: Any) -> None:
    """In place of a log."""


async def connected(connections: Connections) -> socket.socket:
    """The client's end of a connection to a node that is stopping."""
    services = Services(Closed(), dict, say_nothing, say_nothing)  # type: ignore[arg-type]  # a fake
    client, ours = socket.socketpair()
    ours.setblocking(False)

    def stream() -> Stream:
        caller = Caller("unix", is_local=True, is_allowed=True)
        return Stream(connections, lambda link: Conversation(services, link, caller, max_block=65535), b"", stranger=False)

    connections.came()
    await asyncio.get_running_loop().connect_accepted_socket(stream, ours)
    return client


async def all_from(client: socket.socket) -> bytes:
    """All that the node says, up to the end of the connection."""
    client.setblocking(False)
    said = b""
    while data := await asyncio.get_running_loop().sock_recv(client, 65536):
        said += data
    client.close()
    return said


@pytest.mark.parametrize("count", [2, TAKEN_AT_ONCE * 3], ids=["in one turn", "in several turns"])
@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_what_came_before_the_end_is_refused_and_its_sender_is_not_in_doubt(
    factory: Callable[[], asyncio.AbstractEventLoop], count: int
) -> None:
    async def story() -> None:
        connections = Connections(Room(100, 1000), 60.0)
        with ExitStack() as opened:
            clients = [opened.enter_context(await connected(connections)) for _ in range(3)]
            silent = opened.enter_context(await connected(connections))
            for client in clients:
                client.sendall(TASK * count)  # the loop has not looked since
            await connections.close()
            for client in clients:
                answers = list(AnswerReader().answers(await all_from(client)))
                assert len(answers) == count
                for _, modifier2, block in answers:
                    with pytest.raises(Refused, match="is stopping"):
                        read_answer(modifier2, block)
            assert await all_from(silent) == b""
            assert not connections.streams

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(story(), 60.0))


def test_a_connection_on_which_more_comes_all_the_time_is_closed_in_the_end() -> None:
    async def story() -> None:
        connections = Connections(Room(100, 1000), 60.0)
        client = await connected(connections)
        (stream,) = connections.streams
        stream.pause()  # type: ignore[attr-defined]  # it is one of ours, and reads nothing more
        client.sendall(TASK)
        await connections.close()
        with pytest.raises(ConnectionResetError):
            await all_from(client)
        client.close()

    with asyncio.Runner() as runner:
        runner.run(asyncio.wait_for(story(), 60.0))
