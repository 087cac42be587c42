"""All that a node asks of a common store, whose tasks several nodes share. The node knows only this page; without a store it has
`NoCommons`.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, Protocol

COMMONS = "any"
"""The destination, in outbox/, of the tasks that wait for the store. Of a node it is never the name."""


class SharedBody(Protocol):
    """A body on its way into the store. It may be asked for more than once."""

    size: int
    """Bytes in all."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes in order."""


class SharedTask(NamedTuple):
    """A task on its way into the store."""

    id: str
    """With `hops` it is the message id: what is stored under it already is not stored again."""
    block: bytes
    """Its variables, encoded."""
    to: str
    """`any`, `tag:X`, or the name, the id or the address of a node."""
    rank: int
    due: float
    key: bytes
    hops: int
    body: bytes | SharedBody = b""


class Sharer(Protocol):
    """Waits for the fate of one task. Exactly one of the methods is called, on the event loop."""

    def shared(self, *, is_duplicate: bool) -> None:
        """The store has it; `is_duplicate`: another task with its key waits there, and does its work."""

    def not_shared(self, reason: str) -> None:
        """The store is away. It may have the task all the same: it is to be stored only under the same message id."""


class Commons(Protocol):
    """The common store, as one node sees it."""

    @property
    def is_joined(self) -> bool:
        """Whether there is one."""

    def share(self, task: SharedTask, sharer: Sharer) -> None:
        """Stores a task, together with others that come at the same time."""

    def when_told(self, call: Callable[[], None]) -> None:
        """`call` is called after sharers were told: the time to send the gathered answers."""

    async def open(self) -> None:
        """Connects. A store that is away is looked for again and again. Raises BadConfig if it cannot be used as it is."""

    async def start(self) -> None:
        """Takes tasks from now on."""

    def leave(self) -> None:
        """Takes no more tasks. Those that have not started go back."""

    async def stop(self) -> None:
        """Tells the store all that is still to be told, and ends."""

    def tick(self) -> None:
        """Called each second while something happens here, else each few seconds."""

    def status(self) -> dict[str, Any]:
        """The part of the node's status about it."""

    def told(self) -> dict[str, Any]:
        """The word of the line `ready` about it."""

    def link(self) -> dict[str, Any] | None:
        """The state of the way to it, as of a link (see `neighbours`); None without one."""


class NoCommons:
    """No common store."""

    is_joined = False

    def share(self, task: SharedTask, sharer: Sharer) -> None:  # noqa: ARG002  # as `Commons` says
        sharer.not_shared("this node has no store")

    def when_told(self, call: Callable[[], None]) -> None:
        pass

    async def open(self) -> None:
        pass

    async def start(self) -> None:
        pass

    def leave(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def tick(self) -> None:
        pass

    def status(self) -> dict[str, Any]:
        return {}

    def told(self) -> dict[str, Any]:
        return {}

    def link(self) -> dict[str, Any] | None:
        return None
