"""When a send is repeated on another connection, and when it must not be: the same for threads, asyncio and uvloop."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from support import PATIENCE

from spoolnode import Refused, Unanswered, Unreachable, asend_to_spooler, client, send_to_spooler, wire
from spoolnode.client.endpoint import TRIES
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Reason

Send = Callable[..., str]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
PONG = answer.status_pong({"name": "n"})


@pytest.fixture(params=["threads", *LOOPS])
def send(request: pytest.FixtureRequest) -> Iterator[Send]:
    """`send_to_spooler`, or the same in one loop."""
    if request.param == "threads":
        yield send_to_spooler
        client.close()
        return
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda *args, **kwargs: runner.run(asend_to_spooler(*args, **kwargs))


@contextlib.contextmanager
def serving(listener: socket.socket, serve: Callable[[], None]) -> Iterator[str]:
    """Runs `serve` in a thread; the listener's address."""
    thread = threading.Thread(target=serve)
    thread.start()
    name = listener.getsockname()
    try:
        yield name if isinstance(name, str) else "{}:{}".format(*name)
    finally:
        thread.join(PATIENCE)
        listener.close()
    assert not thread.is_alive()


def accept(listener: socket.socket) -> socket.socket:
    """A connection on which the first question has been answered."""
    connection, _ = listener.accept()
    assert connection.recv(4)
    connection.sendall(PONG)
    return connection


def reset(connection: socket.socket) -> None:
    """Ends it the hard way: the other side learns at once that nothing more is read."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_request_of_which_not_a_byte_went_is_sent_on_another_connection(send: Send, tmp_path: Path) -> None:
    """The node reads no more, and has not said so yet: to a unix socket the kernel then gives nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "node.sock"))
    listener.listen()
    deaf = threading.Event()

    def serve() -> None:
        with accept(listener) as first:
            first.recv(65536)
            first.shutdown(socket.SHUT_RD)
            first.sendall(answer.stored("n_1_1"))
            deaf.set()
            with accept(listener) as second:
                second.recv(65536)
                second.sendall(answer.stored("n_2_1"))

    with serving(listener, serve) as address:
        assert send({"a": "1"}, via=address) == "n_1_1"
        assert deaf.wait(PATIENCE)
        assert send({"a": "2"}, via=address) == "n_2_1"


def test_request_that_was_cut_is_sent_again_on_another_connection(send: Send) -> None:
    """The first connection ends in the middle of the body: it was not whole, so it was not stored."""
    listener = socket.create_server(("127.0.0.1", 0))
    task = {"body": bytes(20_000_000)}
    size = sum(map(len, wire.task_message(task, None).pieces()))

    def serve() -> None:
        for turn in range(2):
            with accept(listener) as connection:
                got = 0
                while got < (size if turn else 1000):
                    got += len(connection.recv(1 << 20))
                if turn:
                    connection.sendall(answer.stored("n_1_1"))

    with serving(listener, serve) as address:
        assert send(task, via=address) == "n_1_1"


def test_node_that_cuts_every_request_is_unreachable(send: Send) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for _ in range(TRIES):
            with accept(listener) as connection:
                connection.recv(1000)
                reset(connection)

    with (
        serving(listener, serve) as address,
        pytest.raises(Unreachable, match=f"closed {TRIES} connections at once"),
    ):
        send({"body": bytes(20_000_000)}, via=address)


def test_body_refused_while_it_is_being_sent_is_a_refusal_and_is_not_sent_again(send: Send) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    refused = threading.Event()

    def serve() -> None:
        with accept(listener) as connection:
            connection.recv(4)
            connection.sendall(answer.refused(Refused(Reason.TOO_LARGE, "too large")))
            refused.wait(PATIENCE)

    with serving(listener, serve) as address:
        with pytest.raises(Refused, match="too large"):
            send({"body": bytes(50_000_000)}, via=address, send_timeout=PATIENCE)
        refused.set()


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_reset_that_comes_together_with_an_answer_is_noticed(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    """The loop is busy while the node answers the first task, and dies with the second one unread."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "node.sock"))
    listener.listen()
    got_it, go, dead = threading.Event(), threading.Event(), threading.Event()

    def serve() -> None:
        with accept(listener) as connection:
            connection.recv(4)
            got_it.set()
            go.wait(PATIENCE)
            connection.sendall(answer.stored("n_1_1"))
        dead.set()

    async def main(address: str) -> None:
        sent = [asyncio.create_task(asend_to_spooler({"n": str(n)}, via=address, send_timeout=PATIENCE)) for n in range(2)]
        await asyncio.to_thread(got_it.wait, PATIENCE)
        go.set()
        assert dead.wait(PATIENCE)  # the loop hears nothing meanwhile
        assert await sent[0] == "n_1_1"
        with pytest.raises(Unanswered, match="the connection broke"):
            await asyncio.wait_for(sent[1], PATIENCE)

    with serving(listener, serve) as address, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main(address))


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_task_sent_after_a_connection_broke_under_another_is_not_in_doubt(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The loop is busy while the node resets the connection: tasks sent before are in doubt, tasks sent now are not."""
    listener = socket.create_server(("127.0.0.1", 0))
    got_it, go, broken = threading.Event(), threading.Event(), threading.Event()

    def serve() -> None:
        first = accept(listener)
        first.recv(65536)
        got_it.set()
        go.wait(PATIENCE)
        reset(first)
        broken.set()
        with accept(listener) as second:
            second.recv(65536)
            second.sendall(answer.stored("n_2_1"))

    async def main(address: str) -> None:
        before = asyncio.create_task(asend_to_spooler({"a": "1"}, via=address))
        await asyncio.to_thread(got_it.wait, PATIENCE)
        go.set()
        assert broken.wait(PATIENCE)  # the loop hears nothing meanwhile
        now = asyncio.create_task(asend_to_spooler({"a": "2"}, via=address))
        with pytest.raises(Unanswered, match="may or may not have been stored"):
            await before
        assert await now == "n_2_1"

    with serving(listener, serve) as address, asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main(address))
