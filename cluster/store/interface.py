"""The page between a node and an engine that keeps the tasks of several nodes: a common store.

Replication, consensus and failover are the engine's. A driver turns these verbs into its language and does nothing else; all
drivers, and the fake in `memory`, keep the same promises: tests/store/ has them, and a new driver has only to pass it.

    publish --> ready <--> later            a task that is not due yet is `later`
                  |  ^        ^
                take | lease ran out, again
                  v  |        |
                 held --------+----> ended  (end; forgotten after `REMEMBERED` seconds)
                  |
                  +----------------> dead   (bury; back to ready: revive)

Every verb may raise `StoreAway`. Then it may have been done or not, and it is safe to say it again.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from spoolnode.cluster.store.roll import Roll
from spoolnode.protocol.errors import BadTask, SpoolnodeError
from spoolnode.protocol.names import LAST, accepted_in

ANY = "any"
"""The destination of a task that any node may take. The others are `tag:X`, or the name, the id or the address of a node."""
CHUNK = 256 << 10
"""Bytes of a body that travel at a time."""
TOGETHER = 250
"""Tasks that are surely published as one: all or none, also when the store is away."""
REMEMBERED = 3600.0
"""Seconds for which a store remembers a task that has ended: a repeat within that time is still the same task."""
MOST_KEPT = 256 << 10
"""Bytes of the largest result that a store keeps."""
MOST_COUNTED = 10_000
"""Tasks in one state that are counted one by one; how many there are beyond that may be estimated."""


class StoreAway(SpoolnodeError):
    """The store does not answer, or is not sure of what it was told. It may have been carried out; a repeat is safe."""


class StoreBusy(StoreAway):
    """The store is there, but a transaction of an application, which is still open, holds back the key of a task."""


class StoreUnfit(SpoolnodeError):
    """The store answers, and cannot be used as it is: its version, its tables, what we may do there."""


class TaskState(StrEnum):
    """Where a task is in its life in the store."""

    READY = "ready"
    """The next node that may run it takes it."""
    LATER = "later"
    """It is not due yet."""
    HELD = "held"
    """A node has taken it, until its lease runs out."""
    DEAD = "dead"
    """It was given up, and is kept with the reason."""
    ENDED = "ended"
    """It needs no more work; its id is remembered for a while."""


class HowEnded(StrEnum):
    """How a task has ended."""

    DONE = "done"
    REMOVED = "removed"
    """By hand: it was not run to its end."""
    MERGED = "merged"
    """Another task with its key does its work."""


class Publication(StrEnum):
    """The outcome of a publication. Each value is an acknowledgement: the store has the work."""

    STORED = "stored"
    REPEATED = "repeated"
    """The store has, or had, this very task: its id and its hops were published before."""
    DUPLICATE = "duplicate"
    """Another task with its key waits, and does the same work."""


class StoredTask(NamedTuple):
    """A task without its body."""

    id: str
    """As `names.is_task_id` wants it. With `hops` it is the message id: a repeat has both, and counts once."""
    block: bytes
    """Its variables, encoded as in a spool file. A store does not keep those of a task that has ended."""
    to: str = ANY
    """Its destination: `ANY`, `tag:X`, or the name, the id or the address of a node."""
    rank: int = LAST
    """Lower runs sooner; `names.LAST` without a priority."""
    due: float = 0.0
    """It is not taken before this time; seconds since 1970, by the clock of the store. 0.0 is at once."""
    key: bytes = b""
    """The fingerprint of its function and its key (see `protocol.unique`). Of those with one key, one waits; empty: no key."""
    attempts: int = 0
    """How often it has run without ending well, as its takers told."""
    hops: int = 0
    """How often it was handed on before it came here. It grows when a task leaves the store for a disk: if it comes back, it is
    not a repeat."""
    size: int = 0
    """Bytes of its body."""


class Content(ABC):
    """A body on its way into the store. It may be asked for more than once, when a publication is repeated."""

    size: int
    """Bytes in all. A content that yields more or fewer is refused, and nothing of it is stored."""

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """Its bytes in order, in pieces of 1 to `CHUNK` bytes."""


class BytesContent(Content):
    """A body in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, self.size, CHUNK):
            yield self._data[start : start + CHUNK]


NO_BODY = BytesContent(b"")


class NewTask(NamedTuple):
    """A task to be published; the size of its body is that of `body`."""

    task: StoredTask
    body: Content = NO_BODY


def wrong_size(new: NewTask, found: int) -> BadTask:
    """The error about a body that has not the size it should have."""
    return BadTask(f"the body of {new.task.id} has {found} bytes, and should have {new.body.size}: nothing was stored")


class Lease(NamedTuple):
    """The right of one taker to one task. It is lost when it has run out and the store has given the task away."""

    id: str
    hops: int
    turn: int
    """How often the task has been taken, this time included. An older lease has a lower one and is refused."""


NO_RESULTS: Mapping[Lease, bytes] = MappingProxyType({})


class Leased(NamedTuple):
    """A task that was taken."""

    lease: Lease
    task: StoredTask


class Again(NamedTuple):
    """How a task that is held goes back to wait. `None` leaves a value as it is."""

    lease: Lease
    due: float = 0.0
    """Not before this time; seconds since 1970. 0.0 is at once."""
    attempts: int | None = None
    to: str | None = None
    """Another destination."""
    reason: str | None = None
    """Why its last run failed."""


class Burial(NamedTuple):
    """Why a task is given up."""

    lease: Lease
    reason: str
    attempts: int | None = None
    """How often it has run; None leaves the number as it is."""


class FoundTask(NamedTuple):
    """A task as `find` and `list` show it."""

    task: StoredTask
    state: TaskState
    accepted: float
    """When it was published first; seconds since 1970, by the clock of the store."""
    reason: str = ""
    """Why it is dead, or why its last run failed. Of one that has ended: `ending`, if that is not `DONE`."""
    finished: float = 0.0
    """When it was given up, or ended, by the clock of the store; 0.0 if neither."""
    result: bytes = b""
    """The value that it returned, if that is kept."""
    by: str = ""
    """The one that has taken it, or took it last, as `take` was told; empty if none has."""

    @property
    def accepted_at(self) -> float:
        """When a node accepted it, in seconds since 1970: one that was kept while the store was away was published later."""
        return min(accepted_in(self.task.id) or self.accepted, self.accepted)

    @property
    def ending(self) -> HowEnded | None:
        """How it has ended; None if it has not."""
        if self.state != TaskState.ENDED:
            return None
        return {ending.value: ending for ending in HowEnded}.get(self.reason, HowEnded.DONE)


class StorePage(NamedTuple):
    """Some tasks of a list."""

    tasks: list[FoundTask]
    next: str
    """Where the list goes on; empty at its end."""


class Tally(NamedTuple):
    """A number of tasks."""

    number: int
    is_exact: bool
    """False: there are more than `MOST_COUNTED`, and the number is the engine's own estimate."""


class Safety(NamedTuple):
    """The worth of an acknowledgement now, as the engine itself reports it."""

    engine: str
    """Its name and version."""
    survives_crash: bool
    """Acknowledged tasks survive that the server's process dies."""
    survives_power_cut: bool
    """They survive that the server's machine loses power; with several servers, that all lose it at once."""
    survives_lost_disk: bool
    """They survive that the server's disk is lost: another server has them on its own."""
    facts: list[tuple[str, str]]
    """The settings and figures of the engine that say so."""
    advice: list[str]
    """Of each thing that is not safe, a sentence with what would make it safe."""


class CommonStore(ABC):
    """Tasks that several nodes share. Several coroutines may use it at once."""

    roll: Roll
    """The nodes that are there, for those that look for each other."""
    publications = 1
    """How many publications of one node it does well to have under way at a time. With one, all that comes meanwhile goes along
    with the next; with more, node and servers work at the same time."""

    @abstractmethod
    async def publish(self, tasks: Sequence[NewTask]) -> list[Publication]:
        """Stores tasks, all of them or none, and tells of each what it was. When it returns, they are as safe as `check` says.

        Of a group of more than `TOGETHER`, a part may be stored when `StoreAway` is raised; a repeat stores the rest.

        Tasks of one destination and rank are taken in the order in which they were published, as nearly as two publications at
        the same moment allow. Those that wait again, or were not due at first, come before the new ones that were published after
        them; among themselves, in the order of the engine.

        Raises:
            BadTask: a body did not have its size. Nothing of the group is stored.
        """

    @abstractmethod
    async def take(self, most: int, places: Sequence[str], lease: float, by: str = "") -> list[Leased]:
        """Takes up to so many ready tasks for these destinations: lowest rank first, then the one that was accepted first.

        Each is given to one taker, which has it for `lease` seconds; then it may be given to another one, within a second.
        While others take at the same moment, it may return fewer tasks than there are. `by`: what `find` and `list` say of the
        taker from then on; empty: what they said before.
        """

    @abstractmethod
    async def claim(self, identities: Sequence[str], lease: float) -> list[Leased]:
        """Takes these very tasks, as far as they wait: due or not, and whatever their destination. For moving tasks, not for
        running them.
        """

    @abstractmethod
    async def admit(self, function: str, most: int, leases: Sequence[Lease], over: Sequence[Lease] = ()) -> frozenset[Lease]:
        """Lets held tasks of a limited function run, the first ones first, as long as at most `most` of it do, over all takers.
        Returns those of these that may run, also if they were admitted before.

        Each taker goes by its own `most`. A task counts until its lease is lost, or it has ended, is buried or waits again. While
        others ask at the same moment, it may admit fewer than there is room for. `over`: tasks of the asker that run no more, of
        which the store is still to be told; they do not count.
        """

    @abstractmethod
    def body(self, lease: Lease) -> AsyncIterator[bytes]:
        """The body of a task that is held, in chunks. It ends early, with `StoreAway`, if the lease is lost meanwhile."""

    @abstractmethod
    async def extend(self, leases: Sequence[Lease], seconds: float) -> frozenset[Lease]:
        """Lets these leases run out so many seconds from now. Returns those that are lost: their tasks may run elsewhere."""

    @abstractmethod
    async def end(self, leases: Sequence[Lease], results: Mapping[Lease, bytes] = NO_RESULTS) -> frozenset[Lease]:
        """Ends tasks that need no more work. Returns the leases that are lost; nothing was done about these.

        `results`: what tasks returned, of those that keep it, up to `MOST_KEPT` bytes each. `find` has it as long as the store
        remembers the task.

        A repeat of one that was ended under the same lease is not lost.
        """

    @abstractmethod
    async def again(self, orders: Sequence[Again]) -> frozenset[Lease]:
        """Lets tasks wait again. Returns the leases that are lost; nothing was done about these.

        The task with its new values is there before the old one is gone. If another task with its key waits, it ends instead: the
        other one does its work.
        """

    @abstractmethod
    async def bury(self, burials: Sequence[Burial]) -> frozenset[Lease]:
        """Gives tasks up. They are kept, with their bodies. Returns the leases that are lost; nothing was done about these."""

    @abstractmethod
    async def find(self, identity: str) -> FoundTask | None:
        """The task with that id, the one with the most hops; None if the store does not know it, or has forgotten it."""

    @abstractmethod
    async def peek(self, identity: str) -> bytes:
        """The body of a task that waits, is held or is dead, for those who look; empty if it is not there any more.

        It is read at once, so only `find` tells whether it is small enough for that.
        """

    @abstractmethod
    async def places(self, most: int) -> list[str]:
        """Up to so many of the destinations for which tasks are ready. The cost grows with their number, not with the store."""

    @abstractmethod
    async def list(self, state: TaskState, limit: int, after: str = "") -> StorePage:
        """Up to so many tasks in this state, from `next` of another page on. What a page costs should not grow with the store.

        Each state has its own order: ready ones by destination and rank, as they are taken; later ones by the second in which
        they are due; ended ones by the time of their end; dead ones as the engine keeps them; held ones by acceptance. A task
        that is there all the time is in exactly one page.
        """

    @abstractmethod
    async def count(self) -> dict[TaskState, Tally]:
        """How many tasks are in each state but ended. What it costs should not grow with the store."""

    @abstractmethod
    async def remove(self, identity: str) -> TaskState | None:
        """Removes a task that waits or is dead, and its body. Returns the state in which it was; None if it is not there.

        One that is held is not removed. The id is remembered as that of a task that has ended.
        """

    @abstractmethod
    async def revive(self, identities: Sequence[str], to: str | None = None) -> frozenset[str]:
        """Lets dead tasks wait again, ready at once, their attempts counted from zero; `to`: with another destination.

        They come before new ones, as with `again`; and if another task with its key waits, one ends instead. Returns the ids of
        those that were dead; nothing was done about the others.
        """

    @abstractmethod
    async def watch(self, places: Sequence[str], seconds: float) -> bool:
        """Waits until a task may be ready for one of these destinations: True, within a second. False after `seconds`."""

    @abstractmethod
    async def check(self) -> Safety:
        """Asks the engine what an acknowledgement is worth now."""

    @abstractmethod
    async def close(self) -> None:
        """Closes all connections. What is held stays held until its leases run out."""
