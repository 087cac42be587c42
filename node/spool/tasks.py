"""A task in memory is a ref in a source: an offset in a `Batch`, or a path in `Files`.

A million tasks may wait, so a task is no object: each source knows of all its tasks what is to be known of one.
"""

import secrets
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from spoolnode.node.disk.layout import is_outbound, number_of, ref_id
from spoolnode.node.spool.queue import Ref
from spoolnode.protocol import batch as batchfile
from spoolnode.protocol.names import task_id


class Outbound(NamedTuple):
    """A task that is for another node."""

    to: str
    number: int


@dataclass(eq=False, slots=True)
class Batch:
    """One file of incoming/, as the node knows it."""

    number: int
    descriptor: int = -1
    """-1 while nothing is written yet, or the file is closed again."""
    salt: int = field(default_factory=lambda: secrets.randbits(32))
    """Goes into the crc of its records (see `protocol.batch`)."""
    seed: int = 0
    """Where that crc begins."""
    end: int = batchfile.HEADER_SIZE
    """Where the next record goes."""
    live: int = 0
    """Committed tasks in it that are not finished."""
    accepted: float = 0.0
    """When its first task was accepted."""
    closed: bool = False
    """It takes no more tasks, and the spool has heard of all that it took."""
    closed_at: float = 0.0
    """Monotonic time of that."""
    frozen: bool = False
    """Its tasks are being moved; none may start."""
    in_flight: set[int] = field(default_factory=set)
    """Tasks of it that are with workers, or whose fate is being decided."""
    moved: dict[int, str] = field(default_factory=dict)
    """Where its tasks went when it was settled."""
    void: set[int] = field(default_factory=set)
    """Records that are no tasks and may still look like some: refused, or moved, and perhaps not marked."""
    refused: set[int] = field(default_factory=set)
    """Those of them that never were tasks."""
    arrived: bool = False
    """It has tasks that came over links: it proves that their numbers are taken."""
    outbound: "array[int]" = field(default_factory=lambda: array("I"))
    """Which of its tasks are for other nodes, in order..."""
    numbers: "array[int]" = field(default_factory=lambda: array("Q"))
    """...and the numbers that their links gave them."""

    def __post_init__(self) -> None:
        self.seed = batchfile.seed_of(self.number, self.salt)

    def id_of(self, ref: Ref, node_id: str) -> str:
        """The id of a task, on the node of that id."""
        return task_id(node_id, self.number, int(ref))

    def sequence_number(self, ref: Ref) -> int:
        """The number of a task that is for another node; 0 when it is for this one."""
        offset = int(ref)
        at = bisect_left(self.outbound, offset)
        return self.numbers[at] if at < len(self.outbound) and self.outbound[at] == offset else 0

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        """Those of these tasks that nobody has removed meanwhile: of a batch, all of them."""
        return list(refs)


@dataclass(eq=False, slots=True)
class Files:
    """The source of all tasks that have a spool file of their own."""

    number: ClassVar[None] = None
    """They lie in no batch."""
    known: dict[str, float] = field(default_factory=dict)
    """When each is due (in the outbox: when it was accepted); a file is in here from when it is noticed until it is gone."""
    in_flight: set[str] = field(default_factory=set)
    """Those that are with a worker."""
    frozen: bool = False
    directories: set[str] = field(default_factory=set)
    """Where they are or were: "" for the top, "5/" for a priority."""

    def note(self, ref: str, due: float) -> None:
        """A file is there."""
        self.known[ref] = due
        if "/" in ref:
            self.directories.add(ref[: ref.rindex("/") + 1])

    def id_of(self, ref: Ref, node_id: str) -> str:  # noqa: ARG002  # a batch needs it
        """The id of a task."""
        return ref_id(str(ref))

    def sequence_number(self, ref: Ref) -> int:
        """The number of a task that is for another node; 0 when it is for this one."""
        return number_of(str(ref)) if is_outbound(str(ref)) else 0

    def still_here(self, refs: Iterable[Any]) -> list[Any]:
        """Those of these tasks that nobody has removed meanwhile."""
        return [ref for ref in refs if ref in self.known]


Source = Batch | Files
"""Where a task lies. What both of them answer is asked of them; where they differ in kind, `number` is None for files."""


@dataclass(slots=True)
class Counts:
    """What happened since the start."""

    accepted: int = 0
    done: int = 0
    failed: int = 0
    died: int = 0
    found: int = 0
