"""A small node in a thread, made of the protocol's own reader: real sockets, no disk."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from spoolnode.context import WorkerContext
from spoolnode.protocol import answer
from spoolnode.protocol.packet import PING, Variables, decode_variables
from spoolnode.protocol.reader import Body, Request, RequestReader
from spoolnode.protocol.request import read_terms


class Hangup(Exception):
    """Raised by a script to close the connection without an answer."""


class Farewell(Exception):
    """Raised by a script to give its last answer: nothing that comes after it is read, and then the connection is closed."""

    def __init__(self, said: bytes) -> None:
        super().__init__(said)
        self.said = said


class SmallNode:
    """Answers as a node does. `script(n, task)` may say otherwise for the n-th task, counted from 1."""

    def __init__(self, listener: socket.socket, script: Callable[[int, "SmallNode"], bytes | None] | None = None) -> None:
        self.listener = listener
        self.script = script
        self.tasks: list[tuple[Variables, bytes]] = []
        self.connections: list[socket.socket] = []
        self.pings = 0
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        name = self.listener.getsockname()
        return name if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def wait_for_tasks(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.tasks) >= count, timeout=60)

    def hang_up(self) -> None:
        """Closes every connection, as a restart does, and waits until all are closed."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def stop(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.listener.close()
        self.hang_up()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                reader = RequestReader()
                while (request := self._next(connection, reader)) is not None:
                    assert isinstance(request, Request)
                    if request.modifier1 == PING:
                        self.pings += 1
                        connection.sendall(answer.status_pong({"name": "small"}))
                    else:
                        self._take(connection, reader, request)
            except Farewell as last:
                connection.sendall(last.said)
                connection.recv(1)  # only now, so that a client that goes on sending has not seen the end yet
            except (Hangup, ConnectionError):
                pass

    def _take(self, connection: socket.socket, reader: RequestReader, request: Request) -> None:
        length = read_terms(request.block, local=True).body
        body = bytearray()
        if length:
            reader.expect_body(length)
            while True:
                piece = self._next(connection, reader)
                if piece is None:
                    return
                assert isinstance(piece, Body)
                body += piece.data
                if piece.last:
                    break
        with self._changed:
            self.tasks.append((decode_variables(request.block), bytes(body)))
            number = len(self.tasks)
            self._changed.notify_all()
        said = self.script(number, self) if self.script else None
        connection.sendall(answer.stored(f"small_1_{number}") if said is None else said)

    def _next(self, connection: socket.socket, reader: RequestReader) -> Any:
        while (event := reader.next_event()) is None:
            data = connection.recv(65536)
            if not data:
                return None
            reader.receive(data)
        return event


StartNode = Callable[..., SmallNode]


def context(**facts: Any) -> WorkerContext:
    """The facts that a worker would know."""
    known: dict[str, Any] = {
        "spool": "/var/spool/x",
        "worker": 1,
        "node_pid": 77,
        "pids": lambda: [78, 79],
        "jobs": list,
        "get_task": lambda path: None,
    }
    return WorkerContext(**{**known, **facts})
