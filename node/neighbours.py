"""All that a node asks of the cluster. The node knows only this page; without a cluster it has `Alone`."""

from typing import Any, NamedTuple, Protocol

from spoolnode.node.roster import Colleague
from spoolnode.protocol.answer import Answer
from spoolnode.protocol.errors import Reason, Refused, SpoolnodeError
from spoolnode.protocol.hello import Hello
from spoolnode.protocol.names import is_destination
from spoolnode.protocol.operate import Operation, OperationAnswer
from spoolnode.protocol.request import Terms


class Greeting(NamedTuple):
    """The result of a hello."""

    sender: str = ""
    """The owner of the sequence numbers of its link (see `sequence`); empty as long as it has not proved its key."""
    is_proved: bool = False
    """Whether it has proved that it is this sender, so that its low watermark is believed."""
    said: tuple[tuple[str, Any], ...] = ()
    """Items that the answer has besides the status."""


class NoMutualTLS(SpoolnodeError):
    """Another node gets nothing of an operator, because the two have no mutual TLS between them. Nothing was sent."""


class OutcomeUnknown(SpoolnodeError):
    """The other side erred: it got a request of an operator, and its answer did not come, or cannot be read."""


class CannotForget(SpoolnodeError):
    """You erred: this is not a node that can be forgotten, or its tasks cannot go there."""


class UnknownNode(CannotForget):
    """You erred, unless the node is known elsewhere: here it is not, and no task waits for it on this disk."""


class Neighbours(Protocol):
    """The other nodes, as this one sees them."""

    def route(self, terms: Terms) -> list[str]:
        """The outboxes that a task should go to, each with a copy of it. Empty: the task stays here."""

    def unknown(self, destination: str) -> str:
        """A sentence if no known node is this destination, so that its tasks wait; else empty."""

    def is_apart(self, destination: str) -> bool:
        """Whether no node that is known to share a common store is this destination, and one without a store is."""

    def greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:
        """A node introduces itself.

        Args:
            hello: its introduction.
            peer: the address that it comes from.
            certified: the name in its certificate, if it showed one.
            nonce: that of this connection, for the proof of its key.

        Raises:
            Refused: this node takes nothing from it.
        """

    async def start(self) -> None:
        """Finds peers, and sends them the tasks that wait for them."""

    async def leave(self) -> None:
        """Says goodbye, so that no peer sends anything more."""

    async def stop(self) -> None:
        """Ends all links. Tasks that were not acknowledged stay in the outbox."""

    async def drain(self, seconds: float) -> int:
        """Hands the waiting tasks of this node to peers, for at most `seconds`. Returns how many went."""

    def flush(self, destination: str) -> bool:
        """Tries a destination now, despite its backoff. Returns whether tasks wait for it and it has a known address."""

    def tick(self) -> None:
        """Called each second."""

    def status(self) -> dict[str, Any]:
        """The part of the node's status about the cluster."""

    def peers(self) -> list[dict[str, Any]]:
        """A row for each peer."""

    def link(self, destination: str) -> dict[str, Any] | None:
        """The state of the link to a destination: `known`, `state`, `retry_in`, `reason`, ...; None without a cluster."""

    def accept(self, name: str, node_id: str) -> None:
        """Gives a name that several nodes claim to the one that the operator chose."""

    def forgettable(self, node: str) -> dict[str, Any]:
        """A node that may be forgotten: `id`, `name`, tasks that wait for it (`unsent`, `in_doubt`), the `sources` that name it.

        `destinations` are all that mean it. Raises `CannotForget`.
        """

    async def forget(self, node: str, move_to: str, *, move_doubts: bool) -> dict[str, Any]:
        """Forgets a node that will never come back; its tasks go to `move_to`, or to dead/ if that is empty.

        Tasks in doubt go to dead/, or with `move_doubts` where the others go. Returns the answer of `forgettable` with how many
        tasks were `moved`, are `dead`, and are `left`. Raises `CannotForget`, OSError.
        """

    def reload(self) -> None:
        """Called when certificates may have changed."""

    @property
    def settling(self) -> float:
        """Seconds after the start in which other nodes may not be known yet."""

    def colleagues(self) -> list[Colleague]:
        """The other nodes that have timers of the whole cluster."""

    def knows(self, node_id: str) -> bool:
        """Whether a node with that id is known, up or not. One that was forgotten is not."""

    async def ask(self, node: str, question: bytes, seconds: float, link: str = "") -> Answer:
        """The answer of another node to a request.

        Args:
            node: its id, or another destination that means it.
            link: a destination: the request comes over a link for it, so that the node knows whose numbers are meant.

        Raises:
            SpoolnodeError, OSError: it cannot be asked.
        """

    async def operate(self, node: str, operation: Operation) -> OperationAnswer:
        """The answer of another node to a request of an operator.

        Args:
            node: its id.

        Raises:
            NoMutualTLS, Refused, OutcomeUnknown: as they say.
            SpoolnodeError, OSError: it cannot be asked.
        """


class Alone:
    """No cluster: tasks for others are kept."""

    def __init__(self, name: str, node_id: str, addresses: list[str], tags: list[str]) -> None:
        self._here = {"any", "all", name, node_id, *addresses, *(f"tag:{tag}" for tag in tags)}

    def route(self, terms: Terms) -> list[str]:
        return ["" if terms.destination in self._here else terms.destination]

    def unknown(self, destination: str) -> str:  # noqa: ARG002  # as `Neighbours` says
        return ""

    def is_apart(self, destination: str) -> bool:  # noqa: ARG002  # as `Neighbours` says
        return False

    def greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:  # noqa: ARG002  # as `Neighbours` says
        raise Refused(Reason.FORBIDDEN, "this node is not in a cluster: it takes no tasks over links")

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

    def forgettable(self, node: str) -> dict[str, Any]:
        if node in self._here or node.startswith("tag:") or not is_destination(node):
            raise CannotForget(f"{node!r} is not another node: name it by its name, its id or its address")
        raise UnknownNode(f"this node is not in a cluster, so it knows no node {node}")

    async def forget(self, node: str, move_to: str, *, move_doubts: bool) -> dict[str, Any]:  # noqa: ARG002  # as `Neighbours` says
        return self.forgettable(node)

    def reload(self) -> None:
        pass

    @property
    def settling(self) -> float:
        return 0.0

    def colleagues(self) -> list[Colleague]:
        return []

    def knows(self, node_id: str) -> bool:  # noqa: ARG002  # see `Neighbours`
        return False

    async def ask(self, node: str, question: bytes, seconds: float, link: str = "") -> Answer:  # noqa: ARG002  # see `Neighbours`
        raise SpoolnodeError(f"this node is not in a cluster, so it cannot ask {node}")

    async def operate(self, node: str, operation: Operation) -> OperationAnswer:  # noqa: ARG002  # as `Neighbours` says
        raise SpoolnodeError(f"this node is not in a cluster, so it cannot ask {node}")
