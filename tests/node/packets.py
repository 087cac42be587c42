"""The other end of a conversation, without a socket: says bytes, and remembers what it was told and asked."""

from typing import Any

from linked import Station

from spoolnode.node.ingress.caller import Caller
from spoolnode.node.ingress.conversation import Conversation
from spoolnode.node.ingress.services import Services
from spoolnode.node.turns import Turns
from spoolnode.protocol.answer import AnswerReader, is_stored


class Wire:
    """A connection that remembers."""

    def __init__(self, services: Services, caller: Caller | None = None, *, max_block: int = 0xFFFF) -> None:
        self.told = b""
        """All bytes of the answers."""
        self.is_read = True
        self.pauses = 0
        self.end = ""
        """How it was ended: closed, or lingers."""
        caller = caller or Caller("here", is_local=True, is_allowed=True)
        self.talk = Conversation(services, self, caller, max_block=max_block)

    def say(self, data: bytes) -> None:
        """Bytes come from this end."""
        self.talk.receive(data)

    def write(self, data: bytes) -> None:
        self.told += data

    def close(self) -> None:
        self.end = "closed"

    def linger(self) -> None:
        self.end = "lingers"

    def pause(self) -> None:
        assert self.is_read
        self.is_read = False
        self.pauses += 1

    def resume(self) -> None:
        assert not self.is_read
        self.is_read = True

    def touch(self) -> None:
        self.talk.made_progress()

    @property
    def answers(self) -> list[tuple[int, int, bytes]]:
        """The whole answers, in the extended dialect."""
        return [*AnswerReader().answers(self.told)]

    @property
    def stored(self) -> int:
        """How many tasks it was told are stored."""
        return sum(is_stored(*answer[1:]) for answer in self.answers)


class Reports:
    """The log lines of a node."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, action: str, **details: Any) -> None:
        self.lines.append((action, details))


def services_of(station: Station, reports: Reports, **more: Any) -> Services:
    """The services of a node, for its conversations. Its turns have no end but the number of requests."""
    status = {"name": "it"}
    services = Services(station.admission, lambda: status, reports, reports, turns=Turns(lambda: 0.0), **more)
    station.spool.group_commit.when_told(services.flush)
    return services
