"""One connection, shared by threads: requests go out one after the other, answers come back in the same order.

There is no extra thread. Who waits at the head of the line (the *leader*) reads for all; when its own answer has come,
the next in line leads. A connection on which something went wrong is *retired*: it takes no new request, those under
way still get their answers, and it is closed when the last of them has left.

    _sending   held while one request is written, so that the order of bytes is the order of the line
    _state     guards the fields below; never held during a system call that may block

What an error says about the task rests on one fact: a server acts only on a whole request. So a request of which a part
was never handed to the kernel was not stored, and one that was handed over whole may have been.

Some refusals are a node's last word: it closes the connection after them, and what was sent meanwhile is lost. So after a
refusal nobody sends a task here before the node has answered anything else: see `is_doubtful`.
"""

import contextlib
import math
import select
import socket
import threading
from collections import deque
from time import monotonic

from spoolnode.errors import TimedOut, Unanswered, Unreachable
from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.errors import BadPacket
from spoolnode.wire import MAY_BE_STORED, NOT_STORED, QUESTION, Address, Message, is_refusal

_PEEK = 0.5
"""Seconds after which a sender that waits for room looks whether it has to read."""


class Gone(Exception):
    """The connection ended before a byte of this request was sent: sending it on another one is safe."""


class Doubtful(Exception):
    """Nothing was sent, for somebody was just refused here, and that may have been the connection's end."""


class Cut(Unreachable):
    """The connection ended while the request was being sent: nothing was stored, sending it on another one is safe."""


class Deadline:
    """When one send has taken too long. With a large body, which takes its time, that counts from its last progress."""

    def __init__(self, seconds: float, *, renews: bool = False) -> None:
        self.seconds = seconds
        self._renews = renews
        self._end = monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, never less than zero."""
        return max(0.0, self._end - monotonic())

    def progress(self) -> None:
        """The node has taken something."""
        if self._renews:
            self._end = monotonic() + self.seconds


class _Place:
    """One request's place in the line."""

    __slots__ = ("answer", "begun", "failure", "left", "news", "sent")

    def __init__(self) -> None:
        self.news = threading.Lock()
        """Released once: when the answer or the failure is there, or when it is on us to read."""
        self.news.acquire()
        self.begun = False
        self.sent = False
        self.left = False
        self.answer: Answer | None = None
        self.failure = ""

    @property
    def is_settled(self) -> bool:
        return self.answer is not None or bool(self.failure)


class Pipeline:
    """A connected socket, and the requests under way on it."""

    def __init__(self, address: Address, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._address = address
        self._socket = connected
        self._sending = threading.Lock()
        self._state = threading.Lock()
        self._line: deque[_Place] = deque()
        self._leader: _Place | None = None
        self._users = 0
        self._retired = False
        self._doubtful = False
        self._reader = AnswerReader()
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def __repr__(self) -> str:
        return f"<Pipeline to {self._address}: {len(self._line)} waiting{', retired' if self._retired else ''}>"

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent here; looks whether the server has closed while nobody was waiting."""
        with self._state:
            if not self._retired and not self._users and self._readable.poll(0):
                self._retire()
            return not self._retired

    @property
    def is_doubtful(self) -> bool:
        """Whether the last answer was a refusal: then the node may have closed, and only `QUESTION` is sent."""
        return self._doubtful

    def exchange(self, message: Message, deadline: Deadline) -> Answer:
        """Sends a request and waits for its answer.

        Raises:
            Gone: nothing was sent; use another connection.
            Doubtful: nothing was sent; ask `QUESTION` first.
            Cut: the connection ended while it was being sent; use another connection.
            Unreachable: the request was not sent whole; nothing was stored.
            Unanswered: it was, and no answer came.
        """
        place = _Place()
        try:
            self._send(place, message, deadline)
            return self._wait(place, deadline)
        finally:
            self._leave(place)

    def retire(self) -> None:
        """No further request; closes when those under way have ended."""
        with self._state:
            self._retire()

    def close(self) -> None:
        """Closes at once, whatever is under way."""
        self._retired = True
        self._socket.close()

    # --- the sending half ---

    def _send(self, place: _Place, message: Message, deadline: Deadline) -> None:
        if not self._sending.acquire(timeout=deadline.left):
            raise Unreachable(f"{self._address}: timed out while other tasks were being sent; {NOT_STORED}")
        try:
            self._join(place, message)
            try:
                for piece in message.pieces():
                    self._write(place, piece, deadline)
                place.sent = True
            except Unreachable:
                raise
            except OSError as error:
                if not place.begun and not place.is_settled:
                    raise Gone from error
                # Otherwise the node may have answered before it closed: `_wait` reads what it said.
            finally:
                if place.begun and not place.sent:
                    self._end_sending()
        finally:
            self._sending.release()

    def _join(self, place: _Place, message: Message) -> None:
        with self._state:
            if not self._retired and not self._users and self._readable.poll(0):
                self._retire()
            if self._retired:
                raise Gone
            if self._doubtful and message is not QUESTION:
                raise Doubtful
            self._users += 1
            self._line.append(place)
            if self._leader is None:
                self._leader = place

    def _write(self, place: _Place, piece: bytes, deadline: Deadline) -> None:
        rest = memoryview(piece)
        while rest:
            try:
                count = self._socket.send(rest)
            except BlockingIOError:
                self._await_room(place, deadline)
                if place.is_settled:  # refused before all of it was sent
                    raise BrokenPipeError("the node ended the request early") from None
            else:
                place.begun = True
                deadline.progress()
                rest = rest[count:]

    def _await_room(self, place: _Place, deadline: Deadline) -> None:
        """Waits until more can be sent; the leader reads meanwhile, or a node that refuses a body would stall it."""
        leads = self._leader is place
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT | (select.POLLIN if leads else 0))
        patience = deadline.left
        if not patience:
            raise Unreachable(f"{self._address}: timed out while the task was being sent; {NOT_STORED}")
        for _, event in poll.poll(_milliseconds(min(patience, _PEEK))):
            if leads and event & select.POLLIN:
                self._read(deadline)

    def _end_sending(self) -> None:
        """Nothing can follow a request that was cut: let the node see the end, and read what it still answers."""
        self.retire()
        with contextlib.suppress(OSError):  # the connection may be down already
            self._socket.shutdown(socket.SHUT_WR)

    # --- the receiving half ---

    def _wait(self, place: _Place, deadline: Deadline) -> Answer:
        while not place.is_settled:
            if self._leader is place:
                self._read(deadline)
            elif not place.news.acquire(timeout=deadline.left):
                raise self._timed_out(place, deadline)
            if not place.is_settled and not deadline.left:
                raise self._timed_out(place, deadline)
        if place.answer is not None:
            return place.answer
        if not place.begun:
            raise Gone
        if place.sent:
            raise Unanswered(f"{self._address}: {place.failure} before it answered; {MAY_BE_STORED}")
        raise Cut(f"{self._address}: {place.failure} while the task was being sent; {NOT_STORED}")

    def _timed_out(self, place: _Place, deadline: Deadline) -> Unreachable | TimedOut:
        if place.sent:
            return TimedOut(f"{self._address}: no answer within {deadline.seconds:g} s; {MAY_BE_STORED}")
        return Unreachable(f"{self._address}: timed out while the task was being sent; {NOT_STORED}")

    def _read(self, deadline: Deadline) -> None:
        """The leader's work: waits for bytes once, and hands out the answers in them."""
        if not self._readable.poll(_milliseconds(deadline.left)):
            return
        failure = ""
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            data, failure = b"", f"the connection broke ({error.strerror or error})"
        if not data:
            failure = failure or "the connection was closed"
        answers: list[Answer] = []
        try:
            for answer in self._reader.answers(data):
                answers.append(answer)
        except BadPacket as error:
            failure = f"sent what is no answer ({error})"
        self._hand_out(answers, failure)

    def _hand_out(self, answers: list[Answer], failure: str) -> None:
        with self._state:
            for answer in answers:
                if not self._line:
                    failure = failure or "sent an answer that nobody waits for"
                    break
                self._doubtful = is_refusal(answer)
                place = self._line.popleft()
                place.answer = answer
                self._tell(place)
            if failure:
                self._retire()
                while self._line:
                    place = self._line.popleft()
                    place.failure = failure
                    self._tell(place)
            if self._leader is not None and self._leader.is_settled:
                self._choose_leader()

    def _tell(self, place: _Place) -> None:
        if place is not self._leader and not place.left:
            place.news.release()

    def _choose_leader(self) -> None:
        self._leader = next((place for place in self._line if not place.left), None)
        if self._leader is not None:
            self._leader.news.release()

    # --- leaving ---

    def _leave(self, place: _Place) -> None:
        """The caller goes, with its answer or without; without, its place stays so that the order remains right."""
        with self._state:
            if not place.is_settled and place not in self._line:
                return  # it never joined
            self._users -= 1
            place.left = True
            if not place.is_settled:
                self._retired = True
                if self._leader is place:
                    self._choose_leader()
            if self._retired:
                self._retire()

    def _retire(self) -> None:
        self._retired = True
        if not self._users:
            self._socket.close()


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
