"""The answers on one connection: each gets its place when its request is read, and is sent in that order."""

from collections import deque

from spoolnode.node.commons import Unsure
from spoolnode.node.ingress.services import Talker
from spoolnode.protocol import answer
from spoolnode.protocol.errors import Refused

MAX_PIPELINED = 8192
"""Unanswered requests of one connection; then it is not read until half of them are answered."""
MAX_UNANSWERED = 8 << 20
"""Bytes of the unanswered requests of one connection, likewise: they are in memory until their commit is done."""
MAX_UNSENT = 1 << 18
"""Bytes of answers made for one connection before they are sent; then its next requests wait."""


class AnswerPlace:
    """The place of one answer in the order of its connection; a `Waiter`."""

    __slots__ = ("_talker", "data", "is_unsure", "is_web", "note", "size", "unsent")

    def __init__(self, talker: Talker, size: int) -> None:
        self._talker = talker
        self.is_web = False
        """Whether the answer is HTTP."""
        self.data = b""
        """The answer; empty until it is known."""
        self.is_unsure = False
        """Whether it will never be known. In its place the connection ends."""
        self.note = ""
        """A sentence for the sender, if the task is stored."""
        self.size = size
        """Bytes of the request; they are in memory until the answer is known."""
        self.unsent = 0
        """Bytes of an answer that was ready at once: a client could ask for any number of them."""

    def __repr__(self) -> str:
        language = "HTTP" if self.is_web else "extended" if self._talker.extended else "plain"
        return f"<answer place, {language}, {f'{len(self.data)} bytes ready' if self.data else 'waiting'}>"

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that the task is safe."""
        talker = self._talker
        if self.is_web:
            self.data = answer.http_stored(task_id, copies, self.note)
        elif talker.extended and self.note:
            self.data = answer.stored_noted(task_id, self.note)
        elif talker.extended:
            self.data = answer.stored(task_id) if copies == 1 else answer.stored_copies(task_id, copies)
        else:
            self.data = answer.STORED
        talker.services.talking.add(talker)

    def say(self, data: bytes) -> None:
        """Notes an answer that took a while."""
        self.data = data
        self._talker.services.talking.add(self._talker)

    def refused(self, refusal: Refused) -> None:
        """Notes that the task is refused, counts it and logs it."""
        talker = self._talker
        services = talker.services
        services.talking.add(talker)
        if isinstance(refusal, Unsure):
            self.is_unsure = True
            services.report_rarely("not_answered", peer=talker.caller.address, reason=refusal.text)
            return
        services.count_refusal(refusal)
        services.report_rarely("refused", peer=talker.caller.address, why=refusal.reason.name.lower(), reason=refusal.text)
        if self.is_web:
            self.data = answer.http_refused(refusal)
        elif talker.extended:
            self.data = answer.refused(refusal)
        else:
            self.data = answer.REFUSED


class Answers:
    """The answers that are still due on one connection."""

    __slots__ = ("_places", "_talker", "_unanswered", "_unsent", "are_unread")

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self._places: deque[AnswerPlace] = deque()
        self._unanswered = 0
        """In bytes of their requests."""
        self._unsent = 0
        """Bytes of the answers that were ready at once."""
        self.are_unread = False
        """Whether the client does not read those that were sent."""

    def __repr__(self) -> str:
        return f"<answers, {len(self._places)} due{', unread' if self.are_unread else ''}>"

    def __len__(self) -> int:
        return len(self._places)

    def place(self, size: int = 0) -> AnswerPlace:
        """Adds the place of the next answer, to a request of `size` bytes."""
        place = AnswerPlace(self._talker, size)
        self._places.append(place)
        self._unanswered += size
        return place

    def refuse(self, refusal: Refused, *, is_web: bool) -> None:
        """Adds the answer to a request that is not even looked at. `is_web`: in HTTP, outside of the extended dialect."""
        place = self.place()
        place.is_web = is_web and not self._talker.extended
        place.refused(refusal)

    def grow(self, place: AnswerPlace, size: int) -> None:
        """Adds bytes to the request of this place: its body is in memory now."""
        place.size += size
        self._unanswered += size

    def say(self, data: bytes) -> None:
        """Adds an answer that is ready at once."""
        place = AnswerPlace(self._talker, 0)
        place.data, place.unsent = data, len(data)
        self._unsent += place.unsent
        self._places.append(place)
        self._talker.services.talking.add(self._talker)

    def due(self) -> list[bytes]:
        """Removes the answers whose turn has come, and returns them to be sent."""
        ready, places = [], self._places
        while places and places[0].data:
            said = places.popleft()
            self._unanswered -= said.size
            self._unsent -= said.unsent
            ready.append(said.data)
        return ready

    @property
    def are_over(self) -> bool:
        """Whether the next one will never be known."""
        return bool(self._places) and self._places[0].is_unsure

    @property
    def can_be_said(self) -> bool:
        """Whether sending would make room."""
        return bool(self._places and self._places[0].data) and not self.are_unread

    def are_full(self, share: int = 1) -> bool:
        """Whether nothing more may be taken until some are sent, and read. `share`: of 2, until half of them are."""
        return (
            self.are_unread
            or len(self._places) > MAX_PIPELINED // share
            or self._unanswered > MAX_UNANSWERED // share
            or self._unsent > MAX_UNSENT // share
        )
