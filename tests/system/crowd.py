"""Clients that enqueue without a pause and write down what they were told."""

import contextlib
import itertools
import random
import socket
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from history import Ledger
from talk import Address, connect, request

from spoolnode.protocol.answer import REFUSED, STORED, AnswerReader
from spoolnode.protocol.names import NODE
from spoolnode.protocol.packet import ANSWER

WINDOW = 5
"""Requests that an extended client sends before it reads."""
LARGE_BODY = 300_000


class Crowd:
    """Client threads on the addresses of one node; each task is one of a quota that grows with `allow`.

    With `nodes` each task is for one of these destinations.
    """

    def __init__(
        self, addresses: list[Address], clients: int, rng: random.Random, kinds: list[str], nodes: Sequence[str] = ()
    ) -> None:
        self.ledger = Ledger()
        self._nodes = nodes
        self.quota = 0
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._kinds = kinds
        self._threads = []
        for index in range(clients):
            work = self._talk_extended if index % 2 else self._talk_plain
            address = addresses[index // 2 % len(addresses)]
            self._threads.append(threading.Thread(target=self._live, args=(work, address, random.Random(rng.random()))))

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def allow(self, count: int) -> None:
        """So many tasks more."""
        with self._lock:
            self.quota += count

    def _live(self, work: Callable[[Address, random.Random], None], address: Address, rng: random.Random) -> None:
        while not self._over.is_set():
            try:
                # The node is down or dying half of the time: that is what we are here for.
                with contextlib.suppress(OSError):
                    work(address, rng)
                self._over.wait(0.01)
            except Exception as error:
                self.problems.append(repr(error))
                raise

    def _next(self) -> int | None:
        with self._lock:
            if len(self.ledger.sent) >= self.quota:
                return None
            number = next(self._numbers)
            self.ledger.sent.add(number)
            return number

    def _talk_plain(self, address: Address, rng: random.Random) -> None:
        """One connection for each task, as uWSGI's own clients have."""
        with connect(address, 10.0) as sock:
            number = self._next()
            if number is None:
                return
            wrong = rng.random() < 0.02
            task = self._task(number, rng)
            data = request(task, extra=[*self._destination(rng), *([(b"spool_seq", b"1")] if wrong else [])])
            answer = b""
            try:
                sock.sendall(data)
                while len(answer) < 4 and (piece := sock.recv(4 - len(answer))):
                    answer += piece
            except OSError:
                answer = b""
            self._note(number, answer == STORED, answer == REFUSED)

    def _talk_extended(self, address: Address, rng: random.Random) -> None:
        """Many requests before the first answer, on a connection that stays until the node closes it."""
        with connect(address, 10.0) as sock:
            reader = AnswerReader()
            is_open = True
            while is_open and not self._over.is_set():
                numbers = [number for _ in range(rng.randint(1, WINDOW)) if (number := self._next()) is not None]
                if not numbers:
                    return
                is_open = self._send_window(sock, reader, numbers, rng)

    def _send_window(self, sock: socket.socket, reader: AnswerReader, numbers: list[int], rng: random.Random) -> bool:
        """Whether all were answered; else the node has closed the connection."""
        wrong = {number for number in numbers if rng.random() < 0.02}
        data = b"".join(
            request(
                {**self._task(number, rng), **({"spooler": "/elsewhere"} if number in wrong else {})},
                extended=True,
                extra=self._destination(rng),
            )
            for number in numbers
        )
        answered = 0
        try:
            sock.sendall(data)
            while answered < len(numbers) and (data := sock.recv(65536)):
                for modifier1, modifier2, block in reader.answers(data):
                    self._note(numbers[answered], (modifier1, modifier2) == (ANSWER, 1) and bool(block), modifier2 == 0)
                    answered += 1
            return answered == len(numbers)
        finally:
            self.ledger.unknown.update(numbers[answered:])

    def _note(self, number: int, stored: bool, refused: bool) -> None:
        if stored:
            self.ledger.acknowledged[number] = time.time()
        elif refused:
            self.ledger.refused.add(number)
        else:
            self.ledger.unknown.add(number)

    def _destination(self, rng: random.Random) -> list[tuple[bytes, bytes]]:
        return [(NODE, rng.choice(self._nodes).encode())] if self._nodes else []

    def _task(self, number: int, rng: random.Random) -> dict[str, Any]:
        lot = rng.random()
        body = rng.randbytes(LARGE_BODY if lot < 0.01 else rng.randint(1, 4000) if lot < 0.1 else 0)
        task: dict[str, Any] = {
            "n": number if lot > 0.8 else str(number),
            "kind": rng.choice(self._kinds),
            "takes": f"{rng.expovariate(300):.4f}",
            "sum": str(zlib.crc32(body)),
        }
        if body:
            task["body"] = body
        if 0.1 < lot < 0.2:
            task["priority"] = rng.randint(0, 12)
        if 0.2 < lot < 0.25:
            task["at"] = time.time() + rng.random()
        if 0.7 < lot < 0.8:
            task["more"] = {"list": [1, 2.5, None, True], "bytes": rng.randbytes(20)}
        return task
