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
"""The id in the answer for a task that is stored already; its sender knows the real one."""


class Copies:
    """Waits for all copies of one task, then tells the waiter of the whole."""

    def __init__(self, waiter: Waiter, count: int) -> None:
        self._waiter = waiter
        self._open = count
        self._stored: list[str] = []
        self._refusal: Refused | None = None

    def __repr__(self) -> str:
        return f"<copies, {self._open} due, {len(self._stored)} stored>"

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that one is safe."""
        del copies
        self._stored.append(task_id)
        self._one_less()

    def refused(self, refusal: Refused) -> None:
        """Notes that one was not stored, because the disk fails."""
        self._refusal = refusal
        self._one_less()

    def _one_less(self) -> None:
        self._open -= 1
        if self._open:
            return
        if self._stored:
            self._waiter.stored(self._stored[0], len(self._stored))  # stored tasks will run, so this is not a refusal
        elif self._refusal is not None:
            self._waiter.refused(self._refusal)


class Leaving:
    """A task for another node on its way to this disk. It gives its number back if it is not stored."""

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
        """Gives the number back: the task will never be sent."""
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
        """Takes its number: it is safe, and proves it."""
        self._storage.journal.received.take(self._link, self._number)

    def stored(self, task_id: str, copies: int = 1) -> None:
        """Notes that it is safe."""
        self.taken()
        self._waiter.stored(task_id, copies)

    def forget(self) -> None:
        """Forgets that it is under way: it may come again."""
        self._storage.journal.received.refuse(self._link, self._number)

    def refused(self, refusal: Refused) -> None:
        """Refuses it: the disk did not take it."""
        self.forget()
        self._waiter.refused(refusal)


@lru_cache(maxsize=1024)
def _sender(link: Key) -> bytes:
    """The variables that name the sender of a task."""
    origin, _, key = link[0].partition("/")
    said = [(names.ORIGIN, origin), *([(names.SENDER, key)] if key else []), (names.TO, link[1])]
    return encode_variables([(name, value.encode()) for name, value in said])
