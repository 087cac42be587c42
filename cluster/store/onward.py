"""Gives on the tasks of the store that are to run elsewhere, on a uWSGI server or a node without the store, each under its lease.

1. take some of the tasks for a destination
2. give each on, as long as the leases hold
3. what cannot be given on now goes back; what never can goes to the dead, so that it does not hold up the others
"""

from collections import deque
from collections.abc import Awaitable, Callable

from spoolnode.cluster.store.contact import Contact
from spoolnode.cluster.store.interface import Lease, StoredTask
from spoolnode.cluster.store.leases import LeaseBook
from spoolnode.cluster.store.takers import Itself
from spoolnode.cluster.store.taking import Taker
from spoolnode.cluster.store.telling import Teller
from spoolnode.node.host import SharingHost
from spoolnode.node.story.notes import DEAD
from spoolnode.protocol.errors import BadTask
from spoolnode.protocol.forward import undeliverable
from spoolnode.protocol.names import file_name

TAKEN_AT_ONCE = 16
"""Tasks that are taken together."""

Give = Callable[[str, Lease, StoredTask], Awaitable[None]]
"""Gives a task on that is held under a name. Raises `BadTask` if that can never be done."""


class Onward:
    """The tasks of the store that one node gives on."""

    def __init__(
        self, contact: Contact, book: LeaseBook, teller: Teller, taker: Taker, node: SharingHost, itself: Itself,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        """
        Args:
            itself: this node, as it takes tasks.
            clock: that of leases, in seconds.
        """
        self._contact = contact
        self._book = book
        self._teller = teller
        self._taker = taker
        self._node = node
        self._itself = itself
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Onward of {self._node.id}>"

    async def give_some(self, place: str, give: Give) -> int:
        """Takes some tasks for a destination, and has each given on.

        Returns how many were taken. Raises `StoreAway`, and what `give` raises, but for `BadTask`.
        """
        asked = self._clock()
        leased = await self._contact.ask(lambda store: store.take(TAKEN_AT_ONCE, [place], self._book.seconds, self._itself.by))
        left = deque(
            (ref, lease, task)
            for lease, task in leased
            if self._taker.hold(ref := f"tmp/{file_name(task.id)}", lease, asked, has_key=bool(task.key))
        )
        try:
            while left and self._clock() < self._book.until:
                ref, lease, task = left[0]
                if self._book.get(ref) == lease:
                    await self._give(place, give, ref, lease, task)
                left.popleft()
        finally:
            for ref, _, _ in left:
                self._teller.again(ref)
        return len(leased)

    async def _give(self, place: str, give: Give, ref: str, lease: Lease, task: StoredTask) -> None:
        try:
            await give(ref, lease, task)
        except BadTask as error:
            self._bury(place, ref, task.id, str(error))

    def _bury(self, place: str, ref: str, identity: str, why: str) -> None:
        journal, reason = self._node.storage.journal, undeliverable(place, why)
        self._teller.buried(ref, reason, None)
        self._node.report("dead", id=identity, destination=place, outcome="undeliverable", reason=why)
        journal.counts.undelivered += 1
        journal.story.note(DEAD, None, [file_name(identity)], reason=reason)
