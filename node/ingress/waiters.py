"""Waiters between the group commit and the answer: copies of one task, tasks that leave, tasks that arrive."""

from functools import lru_cache

from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.group_commit import Waiter
from spoolnode.node.spool.sequence import Key
from spoolnode.protocol import names
from spoolnode.protocol.errors import Reason, Refused
from spoolnode.protocol.forward import RECEIVER_ROOM
from spoolnode.protocol.packet import MAX_BLOCK, encode_variables

KNOWN = "known"
"""The id in the answer to a repeated task; its sender knows the real one."""


class Copies:
    """Waits for all copies of a task, then tells the waiter of the task."""

    def __init__(self, waiter: Waiter, count: int) -> None:
        self._waiter = waiter
        self._open = count
        self._stored: list[str] = []
        self._copies = 0
        self._refusal: Refused | None = None

    def __repr__(self) -> str:
        return f"<copies, {self._open} due, {len(self._stored)} stored>"

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that a copy is safe, or that another task waits in its place."""
        self._stored.append(task_id)
        self._copies += copies
        self._one_less()

    def refused(self, refusal: Refused) -> None:
        """Notes that a copy was not stored because the disk failed."""
        self._refusal = refusal
        self._one_less()

    def _one_less(self) -> None:
        self._open -= 1
        if self._open:
            return
        if self._stored:
            self._waiter.stored(self._stored[0], self._copies)  # stored tasks will run, so this is not a refusal
        elif self._refusal is not None:
            self._waiter.refused(self._refusal)


class Leaving:
    """A task for another node, on its way to this disk. It returns its number if it is not stored."""

    __slots__ = ("_number", "_storage", "_to", "_waiter")

    def __init__(self, storage: Storage, to: str, number: int, waiter: Waiter) -> None:
        self._storage = storage
        self._to = to
        self._number = number
        self._waiter = waiter

    def __repr__(self) -> str:
        return f"<leaving task {self._number} for {self._to}>"

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that it is safe."""
        self._waiter.stored(task_id, copies)

    def refused(self, refusal: Refused) -> None:
        """Returns the number: the task will never be sent."""
        self._storage.outbox.refused(self._to, self._number)
        self._waiter.refused(refusal)


class Arrival:
    """A task from a link, on its way to this disk. Its number is taken only when it is safe there."""

    __slots__ = ("_link", "_number", "_storage", "_waiter", "block")

    def __init__(self, storage: Storage, link: Key, number: int, block: bytes, waiter: Waiter) -> None:
        self._storage = storage
        self._link = link
        self._number = number
        self._waiter = waiter
        self.block = block + _sender(link)
        """Its variables, with its sender."""
        if len(self.block) > MAX_BLOCK:
            raise Refused(
                Reason.TOO_LARGE, f"the variables take {len(block)} bytes; over a link they may take {MAX_BLOCK - RECEIVER_ROOM}"
            )

    def __repr__(self) -> str:
        return f"<arriving task {self._number} of {self._link[0]} for {self._link[1]}>"

    def taken(self) -> None:
        """Marks its number as received: the task is safe, and its record proves the number."""
        self._storage.journal.received.take(self._link, self._number)

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that it is safe."""
        self.taken()
        self._waiter.stored(task_id, copies)

    def forget(self) -> None:
        """Forgets that the task is under way: it may come again."""
        self._storage.journal.received.refuse(self._link, self._number)

    def refused(self, refusal: Refused) -> None:
        """Refuses the task: the disk did not take it."""
        self.forget()
        self._waiter.refused(refusal)


@lru_cache(maxsize=1024)
def _sender(link: Key) -> bytes:
    """The variables that name the sender of a task."""
    origin, _, key = link[0].partition("/")
    said = [(names.ORIGIN, origin), *([(names.SENDER, key)] if key else []), (names.TO, link[1])]
    return encode_variables([(name, value.encode()) for name, value in said])
