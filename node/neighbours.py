"""What a node asks of the cluster. The node itself knows only this page; without a cluster `Alone` stands in."""

from typing import Any, NamedTuple, Protocol

from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.hello import Hello
from spoolnode.protocol.request import Terms


class Greeting(NamedTuple):
    """What a hello is to who hears it."""

    sender: str = ""
    """In whose name the numbers of its link are kept (see `numbers`); empty as long as it has not proved its key."""
    is_proved: bool = False
    """Whether it is proved to be that sender, so that what it says of its link's low watermark is believed."""
    said: tuple[tuple[str, str], ...] = ()
    """What the answer tells besides the status."""


class Neighbours(Protocol):
    """The other nodes, as this one sees them."""

    def route(self, terms: Terms) -> list[str]:
        """Where a task should go: names of outboxes; empty is here. More than one: a copy for each."""

    def unknown(self, destination: str) -> str:
        """A sentence when nobody is known to be this destination, so that what is sent there waits; else empty."""

    def greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:
        """A node introduces itself.

        Args:
            hello: what it says.
            peer: the address from which it does.
            certified: the name in its certificate, if it showed one.
            nonce: of this connection: what it has to prove its key with.

        Raises:
            Refused: nothing is taken from it.
        """

    async def start(self) -> None:
        """Finds peers, and sends them what waits for them."""

    async def leave(self) -> None:
        """Says goodbye: no peer shall send anything more."""

    async def stop(self) -> None:
        """Ends all links; what was not acknowledged stays in the outbox."""

    async def drain(self, seconds: float) -> int:
        """Hands the waiting tasks of this node to peers, for at most so many seconds; how many went."""

    def flush(self, destination: str) -> bool:
        """Tries a destination now, whatever its backoff says; whether anything waits for it and somebody is there to be tried."""

    def tick(self) -> None:
        """A second has passed."""

    def status(self) -> dict[str, Any]:
        """For the status of the node."""

    def peers(self) -> list[dict[str, Any]]:
        """A row for each peer."""

    def link(self, destination: str) -> dict[str, Any] | None:
        """How the link stands to a destination: `known`, `state`, `retry_in`, `reason`, ...; None without a cluster."""

    def accept(self, name: str, node_id: str) -> None:
        """The operator says which node has a name that several claim."""

    def reload(self) -> None:
        """Certificates may have changed."""


class Alone:
    """No cluster: tasks for others are kept."""

    def __init__(self, name: str, node_id: str, addresses: list[str], tags: list[str]) -> None:
        self._here = {"any", "all", name, node_id, *addresses, *(f"tag:{tag}" for tag in tags)}

    def route(self, terms: Terms) -> list[str]:
        return ["" if terms.destination in self._here else terms.destination]

    def unknown(self, destination: str) -> str:  # noqa: ARG002  # as `Neighbours` says
        return ""

    def greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:  # noqa: ARG002  # as `Neighbours` says
        raise Refused(Reason.FORBIDDEN, "this node is in no cluster: it takes no tasks over links")

    async def start(self) -> None:
        pass

    async def leave(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def drain(self, seconds: float) -> int:  # noqa: ARG002  # as `Neighbours` says
        return 0

    def flush(self, destination: str) -> bool:  # noqa: ARG002  # as `Neighbours` says
        return False

    def tick(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}

    def peers(self) -> list[dict[str, Any]]:
        return []

    def link(self, destination: str) -> dict[str, Any] | None:  # noqa: ARG002  # as `Neighbours` says
        return None

    def accept(self, name: str, node_id: str) -> None:
        pass

    def reload(self) -> None:
        pass
