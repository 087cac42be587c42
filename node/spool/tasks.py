"""A task in memory is a ref in a source: an offset in a `Batch`, or a path in `Files`.

A million tasks may wait, so a task is not an object: its source has the facts about it. Both kinds
answer to the same calls. What threads need to know of a source, and may, is its `place`.
"""

import secrets
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from spoolnode.node.disk.layout import number_of
from spoolnode.node.spool.functions import UNKNOWN, Spans
from spoolnode.node.spool.place import IN_FILES, InBatch, Place
from spoolnode.node.spool.queue import Ref
from spoolnode.protocol import batch as batchfile


class Outbound(NamedTuple):
    """A task for another node."""

    to: str
    number: int


class WaitingFile(NamedTuple):
    """A task for this node in a file of its own."""

    ref: str
    due: float = 0.0
    """When it is due; 0.0 is now."""
    key: bytes = b""
    """The fingerprint of its key; empty if it has none."""


class Taken(NamedTuple):
    """Tasks that were taken together, until they are given back or have ended."""

    source: "Source"
    refs: MutableSequence[Any]
    rank: int


class Removable(Protocol):
    """A queue of tasks."""

    def remove(self, source: Any, ref: Ref) -> int | None:
        """Removes one task. Returns its rank, or None if it is not there."""


class Ledger(Protocol):
    """Makes safe that tasks have ended."""

    def leave(self, batch: "Batch", count: int) -> None:
        """Notes that tasks have left a batch."""

    def touch(self, batch: "Batch") -> None:
        """Has the marks in a batch synced within a second."""

    def touch_directories(self, *directories: str) -> None:
        """Has the names in these directories below the spool synced within a second."""


class Source(ABC):
    """Where tasks lie, as the event loop knows it."""

    __slots__ = ()

    is_leased: ClassVar[bool] = False
    """Whether its tasks are a common store's, and may start only while the leases of this node hold."""
    number: int | None
    """Of a batch; None: each task has a file of its own. Workers are told."""
    place: Place
    """The same for other threads."""
    in_flight: set[Any]
    """Tasks of it that are with workers or links, or whose fate is being decided."""
    frozen: bool
    """Whether its tasks are being moved; then none may start."""
    arrived: bool
    """Whether it has tasks that came over links: then it proves that their numbers are taken."""

    @abstractmethod
    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        """Of tasks whose turn has come those that may be taken, and the files that others have become meanwhile."""

    @abstractmethod
    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        """Those of these tasks that were not removed meanwhile."""

    @abstractmethod
    def sequence_number(self, ref: Ref) -> int:
        """The sequence number of a task for another node; 0 if it is for this one."""

    @abstractmethod
    def accepted_at(self, ref: Ref) -> float:
        """When a task was accepted, in seconds since 1970."""

    @abstractmethod
    def alike(self, refs: MutableSequence[Any], start: int, most: int) -> tuple[int, int]:
        """The function of `refs[start]`, and how many tasks from there on are for the same one; `most` at most."""

    @abstractmethod
    def functions_of(self, refs: Iterable[Any]) -> list[int]:
        """The function that each of these tasks is for."""

    @abstractmethod
    def learn(self, ref: Ref, function: int) -> None:
        """A look at a task has told which function it is for."""

    @property
    @abstractmethod
    def has_unknown(self) -> bool:
        """Whether it may have tasks of which only a look tells which function they are for."""

    @abstractmethod
    def put_off(self, ref: Ref, due: float) -> bool:
        """A task waits until it is due (0.0: no more); False when it was removed meanwhile."""

    @abstractmethod
    def at_once(self, tasks: int, files: int) -> int:
        """How many may be read from the disk together: so many tasks, or so many files that must be opened."""

    @abstractmethod
    def withdraw(self, queue: Removable, ref: Ref) -> int | None:
        """Takes one task out of that queue; its rank, or None when it was not there."""

    def sent(self, refs: MutableSequence[Any]) -> MutableSequence[Any]:
        """Tasks as a worker is told of them."""
        return refs

    def admitted(self, refs: MutableSequence[Any], rank: int) -> MutableSequence[Any]:  # noqa: ARG002  # only a store asks more
        """Of tasks of one rank that are to start now those that may; the others come back when they may, or leave."""
        return refs

    def land(self, refs: Iterable[Any]) -> None:
        """Tasks are with no worker or link any more, and stay."""
        self.in_flight.difference_update(refs)

    def succeeded(self, refs: Sequence[Any]) -> None:  # noqa: B027  # only some sources want to know
        """Tasks have ended well; `left` follows."""

    def gave_up(self, ref: Ref, reason: str, attempts: int | None) -> None:  # noqa: B027  # only some sources want to know
        """A task was given up after so many attempts, if that is known; `left` follows."""

    @abstractmethod
    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:
        """Notes that tasks left the disk."""

    @abstractmethod
    def touch(self, ledger: Ledger) -> bool:
        """Tasks were marked, and that is to be safe within a second; False when nothing makes such marks safe."""


@dataclass(eq=False, slots=True, repr=False)
class Batch(Source):
    """One file of incoming/."""

    number: int
    place: InBatch = field(init=False)
    descriptor: int = -1
    """-1 before anything is written, and after the file is closed."""
    salt: int = field(default_factory=lambda: secrets.randbits(32))
    """A part of the seed of its records' crc (see `protocol.batch`)."""
    seed: int = 0
    """The seed of that crc."""
    end: int = batchfile.HEADER_SIZE
    """Where the next record goes."""
    live: int = 0
    """Committed tasks in it that are not finished."""
    accepted: float = 0.0
    """When its first task was accepted."""
    closed: bool = False
    """Whether it takes no more tasks, and the spool has heard of all that it took."""
    closed_at: float = 0.0
    """The monotonic time of closing."""
    frozen: bool = False
    in_flight: set[int] = field(default_factory=set)
    moved: dict[int, str] = field(default_factory=dict)
    """Where its tasks went when it was settled."""
    void: set[int] = field(default_factory=set)
    """Records that are not tasks, but may still look like tasks: refused or moved, and perhaps not marked."""
    refused: set[int] = field(default_factory=set)
    """Those of them that were never tasks."""
    arrived: bool = False
    outbound: "array[int]" = field(default_factory=lambda: array("I"))
    """Its tasks for other nodes, in order..."""
    numbers: "array[int]" = field(default_factory=lambda: array("Q"))
    """...and the sequence numbers that their links gave them."""
    functions: Spans = field(default_factory=Spans)
    """The functions that its tasks are for."""

    def __post_init__(self) -> None:
        self.place = InBatch(self.number)
        self.seed = batchfile.seed_of(self.number, self.salt)

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "closed" if self.closed else "open"
        return f"<batch {self.number}, {state}: {self.live} live, {len(self.in_flight)} in flight, {len(self.moved)} settled>"

    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        if not self.moved:
            return refs, []
        return [ref for ref in refs if ref not in self.moved], [self.moved[ref] for ref in refs if ref in self.moved]

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        return list(refs)  # one that is removed is out of its queue before

    def sequence_number(self, ref: Ref) -> int:
        offset = int(ref)
        at = bisect_left(self.outbound, offset)
        return self.numbers[at] if at < len(self.outbound) and self.outbound[at] == offset else 0

    def accepted_at(self, ref: Ref) -> float:  # noqa: ARG002  # it knows of its first one
        return self.accepted

    def alike(self, refs: MutableSequence[Any], start: int, most: int) -> tuple[int, int]:
        if (only := self.functions.only) is not None:
            return only, min(most, len(refs) - start)
        return _alike(self.functions.at, refs[start : start + most])

    def functions_of(self, refs: Iterable[Any]) -> list[int]:
        return self.functions.each(refs)

    def learn(self, ref: Ref, function: int) -> None:
        self.functions.learn(int(ref), function)

    @property
    def has_unknown(self) -> bool:
        return UNKNOWN in self.functions

    def put_off(self, ref: Ref, due: float) -> bool:  # noqa: ARG002  # the queues know
        return True

    def at_once(self, tasks: int, files: int) -> int:  # noqa: ARG002  # one file has them all
        return tasks

    def withdraw(self, queue: Removable, ref: Ref) -> int | None:
        return queue.remove(self, ref)

    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:
        ledger.leave(self, len(refs))

    def touch(self, ledger: Ledger) -> bool:
        ledger.touch(self)
        return True


@dataclass(eq=False, slots=True, repr=False)
class Files(Source):
    """Tasks that have a file of their own: those that wait here (see `files`), or those in the outbox."""

    known: dict[str, float] = field(default_factory=dict)
    """The time that counts for each; a file is in here from when it is noticed until it is gone."""
    functions: dict[str, int] = field(default_factory=dict)
    """The functions of those of which that is known."""
    number: None = None
    place: Place = IN_FILES
    in_flight: set[str] = field(default_factory=set)
    frozen: bool = False
    arrived: bool = False

    def __repr__(self) -> str:
        return f"<files: {len(self.known)}, {len(self.in_flight)} in flight>"

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        return [ref for ref in refs if ref in self.known]

    def alike(self, refs: MutableSequence[Any], start: int, most: int) -> tuple[int, int]:
        return _alike(lambda ref: self.functions.get(ref, UNKNOWN), refs[start : start + most])

    def functions_of(self, refs: Iterable[Any]) -> list[int]:
        return [self.functions.get(ref, UNKNOWN) for ref in refs]

    def learn(self, ref: Ref, function: int) -> None:
        self.functions[str(ref)] = function

    @property
    def has_unknown(self) -> bool:
        return True

    def at_once(self, tasks: int, files: int) -> int:
        return min(tasks, files)

    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:
        for ref in refs:
            self.known.pop(ref, None)
            self.functions.pop(ref, None)
        ledger.touch_directories(*{ref.rpartition("/")[0] for ref in refs})

    def touch(self, ledger: Ledger) -> bool:  # noqa: ARG002  # a sync for each of them would cost too much
        return False


@dataclass(eq=False, slots=True, repr=False)
class OutboxFiles(Files):
    """All tasks that wait for other nodes and have a file of their own; `known` says when each was accepted."""

    marked: set[str] = field(default_factory=set)
    """Those that are marked as sent; their marks are made safe at a stop."""

    def left(self, refs: Sequence[Any], ledger: Ledger) -> None:
        super(OutboxFiles, self).left(refs, ledger)
        self.marked.difference_update(refs)

    def ready(self, refs: MutableSequence[Any]) -> tuple[MutableSequence[Any], list[str]]:
        return [ref for ref in refs if ref in self.known and ref not in self.in_flight], []

    def sequence_number(self, ref: Ref) -> int:
        return number_of(str(ref))

    def accepted_at(self, ref: Ref) -> float:
        return self.known.get(str(ref), 0.0)

    def put_off(self, ref: Ref, due: float) -> bool:  # noqa: ARG002  # nothing waits for its time there
        return ref in self.known

    def withdraw(self, queue: Removable, ref: Ref) -> int | None:
        return queue.remove(self, ref)


def _alike(function_of: Callable[[Any], int], refs: Sequence[Any]) -> tuple[int, int]:
    """The function of the first of these tasks, and how many from there on are for the same one."""
    function = function_of(refs[0])
    return function, next((index for index, ref in enumerate(refs) if function_of(ref) != function), len(refs))


@dataclass(slots=True)
class Counts:
    """Counters since the start."""

    accepted: int = 0
    done: int = 0
    failed: int = 0
    died: int = 0
    """Tasks whose runs were given up."""
    undelivered: int = 0
    """Tasks for other nodes that were given up."""
    cancelled: int = 0
    found: int = 0
    repeats: int = 0
    """Tasks that came over a link a second time."""
