"""All that a node asks of a common store, whose tasks several nodes share. The node knows only this page; without a store it has
`NoCommons`.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from spoolnode.protocol import names
from spoolnode.protocol.errors import Refused, SpoolnodeError

COMMONS = "any"
"""The destination, in outbox/, of the tasks that wait for the store. Of a node it is never the name."""
OWN_STORE = "store"
"""The source, of `--discover`, in which nodes that share the store find each other."""
STORE = "store"
"""In place of the id of a node: the store has a task, or may have it."""


class Unsure(Refused):
    """The store may have the task, or not. Its sender gets no answer then: the connection ends, as if the answer was lost."""


class CommonsAway(SpoolnodeError):
    """The store does not answer now. What was asked of it may have been done, and it is safe to ask again."""


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

    def not_shared(self, reason: str, *, may_have_it: bool) -> None:
        """The store is away. `may_have_it`: it was asked, so the task is to be stored only under the same message id."""


READY, LATER, HELD, DEAD, ENDED = "ready", "later", "held", "dead", "ended"
"""The states of a task in the store. One that is held runs on some node, or is about to."""


class CommonTask(NamedTuple):
    """A task in the store, without its body."""

    id: str
    state: str
    block: bytes
    """Its variables, encoded; empty if it has ended."""
    to: str
    """`any`, `tag:X`, or the name, the id or the address of a node."""
    rank: int
    due: float
    """Seconds since 1970; 0.0: at once."""
    attempts: int
    size: int
    """Bytes of its body."""
    accepted: float
    """Seconds since 1970, as `finished`."""
    finished: float = 0.0
    """When it was given up, or ended; 0.0 if neither."""
    reason: str = ""
    """Why it is dead, or why its last run failed."""
    result: bytes = b""
    """The value that it returned, if it has ended and that is kept."""
    ending: str = ""
    """How it has ended: done, removed, or merged into another task with its key."""
    node_id: str = ""
    """The node that holds it, or was the last one to run it; empty if that is not known..."""
    node: str = ""
    """...and its name."""


class CommonPage(NamedTuple):
    """Some tasks of a list."""

    tasks: list[CommonTask]
    next: str
    """Where the list goes on; empty at its end."""


class CommonTasks(Protocol):
    """The tasks in the store, in the hands of operators. Each verb raises `CommonsAway` if it is not answered within seconds.

    Those that change a task return it as it was before; None if the store does not know it. In a state that they do not name,
    nothing is done about it.
    """

    async def find(self, identity: str) -> CommonTask | None:
        """The task with that id; None if the store does not know it, or has forgotten its end."""

    async def body(self, identity: str) -> bytes:
        """The whole body of the task with that id; empty if it is not there any more."""

    async def list(self, state: str, limit: int, after: str = "") -> CommonPage:
        """Up to so many tasks in this state, from `next` of another page on. Each page costs the same."""

    async def retry(self, identity: str) -> CommonTask | None:
        """Makes a task ready that is dead, or due later."""

    async def remove(self, identity: str) -> CommonTask | None:
        """Removes a task that is ready, due later, or dead."""

    async def retry_dead(self, identities: Sequence[str]) -> Collection[str]:
        """Makes those of these tasks ready that are dead. Returns their ids."""

    async def remove_dead(self, identities: Sequence[str]) -> Collection[str]:
        """Removes those of these tasks that are dead. Returns their ids."""

    async def cancel(self, identity: str, reason: str) -> CommonTask | None:
        """Has a task that is ready, or due later, be dead for that reason."""

    async def give_on(self, places: Collection[str], to: str, at: str = "") -> tuple[int, str]:
        """Has some of the tasks that wait for these destinations wait for another one.

        Returns how many they were, and the place, `at`, where to go on; empty at the end.
        """


class Commons(Protocol):
    """The common store, as one node sees it."""

    @property
    def tasks(self) -> CommonTasks:
        """Its tasks, in the hands of operators."""

    @property
    def is_joined(self) -> bool:
        """Whether there is one."""

    @property
    def addresses(self) -> list[str]:
        """The addresses that mean this node in the store."""

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

    def flush(self, asked: Collection[str]) -> list[str]:
        """Tries destinations now for which tasks wait in the store, and which are left alone for a while because they took none:
        those that were asked for, or all. Returns them.
        """

    def status(self) -> dict[str, Any]:
        """The part of the node's status about it."""

    def refuses(self) -> str:
        """Why this node takes no tasks now; empty if it takes them."""

    def told(self) -> dict[str, Any]:
        """The word of the line `ready` about it."""

    def link(self) -> dict[str, Any] | None:
        """The state of the way to it, as of a link (see `neighbours`); None without one."""


class NoTasks:
    """The tasks of no store."""

    async def find(self, identity: str) -> CommonTask | None:  # noqa: ARG002  # as `CommonTasks` says
        return None

    retry = remove = find

    async def body(self, identity: str) -> bytes:  # noqa: ARG002  # as `CommonTasks` says
        return b""

    async def retry_dead(self, identities: Sequence[str]) -> Collection[str]:  # noqa: ARG002  # as `CommonTasks` says
        return ()

    remove_dead = retry_dead

    async def list(self, state: str, limit: int, after: str = "") -> CommonPage:  # noqa: ARG002  # as `CommonTasks` says
        return CommonPage([], "")

    async def cancel(self, identity: str, reason: str) -> CommonTask | None:  # noqa: ARG002  # as `CommonTasks` says
        return None

    async def give_on(self, places: Collection[str], to: str, at: str = "") -> tuple[int, str]:  # noqa: ARG002  # as above
        return 0, ""


class NoCommons:
    """No common store."""

    is_joined = False
    tasks: CommonTasks = NoTasks()

    @property
    def addresses(self) -> list[str]:
        return []

    def share(self, task: SharedTask, sharer: Sharer) -> None:  # noqa: ARG002  # as `Commons` says
        sharer.not_shared("this node has no store", may_have_it=False)

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

    def flush(self, asked: Collection[str]) -> list[str]:  # noqa: ARG002  # as `Commons` says
        return []

    def status(self) -> dict[str, Any]:
        return {}

    def refuses(self) -> str:
        return ""

    def told(self) -> dict[str, Any]:
        return {}

    def link(self) -> dict[str, Any] | None:
        return None


def place_in_store(asked: Mapping[bytes, bytes], node_id: str) -> str:
    """The destination in the store of a task with these variables, which waited on the disk of the node with that id."""
    to = asked.get(names.NODE, b"").decode("ascii", "replace")
    if to != "all":
        return to or COMMONS
    copy = asked.get(names.TO, b"").decode("ascii", "replace")
    return copy if copy not in ("", COMMONS) else node_id
