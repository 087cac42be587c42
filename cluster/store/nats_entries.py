"""Subjects and bytes in the stream of a store in NATS. No I/O.

A task is two messages, one behind the other, written together:

- its *entry*, on the subject of the list where it waits (`spoolnode.ready.any.7.new`), with all there is to say about it
- its *mark*, on the subject of the task (`spoolnode.task.ID.HOPS`), empty

The mark decides. An entry is in force as long as the mark behind it is the last one of its task. Every change of a task writes a
new entry and a new mark in one atomic batch, on condition that the mark is still the one that was read; of several writers, one
is first. The mark before goes with it (a rollup), and the entry before is removed a moment later. One that was left behind,
because its writer died, is recognised by its missing mark.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import msgpack

from spoolnode.cluster.store.interface import REMEMBERED, FoundTask, HowEnded, StoredTask, TaskState

PREFIX = "spoolnode"
"""The beginning of all subjects."""
STREAM = "spoolnode"
WIDTH = 64
"""Seconds of a bucket of times: with a wildcard, all of it is asked about at once."""
WAITING = (TaskState.READY, TaskState.LATER)


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A task at one moment of its life."""

    task: StoredTask
    state: TaskState
    accepted: float
    turn: int = 0
    until: float = 0.0
    """When the lease runs out, or when the task ended or died."""
    reason: str = ""
    upload: str = ""
    """The name under which its body was uploaded."""
    is_back: bool = False
    """It has waited before: it comes before those that are new, since it was accepted before them."""
    result: bytes = b""
    by: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether it has its key for itself."""
        return self.state in WAITING

    @property
    def subject(self) -> str:
        """The subject of the list where it is."""
        if self.state == TaskState.READY:
            return f"{ready_at(self.task.to)}.{self.task.rank}.{'back' if self.is_back else 'new'}"
        if self.state == TaskState.LATER:
            return at_second(TaskState.LATER, self.task.due)
        return at_second(TaskState.HELD, self.until) if self.state == TaskState.HELD else f"{PREFIX}.{self.state.value}"

    @property
    def found(self) -> FoundTask:
        """As people see it."""
        finished = self.until if self.state in (TaskState.DEAD, TaskState.ENDED) else 0.0
        return FoundTask(self.task, self.state, self.accepted, self.reason, finished, self.result, self.by)

    def is_forgotten(self, now: float) -> bool:
        """Whether it ended so long ago that a task with its id is a new one."""
        return self.state == TaskState.ENDED and self.until + REMEMBERED <= now

    def waits(self, now: float, **changes: Any) -> "TaskEntry":
        """The same task, when it waits again; `changes` are those of its `task`."""
        task = self.task._replace(**changes)
        state = TaskState.LATER if task.due > now else TaskState.READY
        return replace(self, task=task, state=state, until=0.0, is_back=True)

    def ended(self, now: float, how: HowEnded, result: bytes = b"") -> "TaskEntry":
        """The same task, when it needs no more work."""
        task = self.task._replace(block=b"", size=0)
        return replace(self, task=task, state=TaskState.ENDED, until=now, reason=how.value, upload="", result=result)


class Placed(NamedTuple):
    """An entry, and where it is in the stream. Its mark is the next message."""

    entry: TaskEntry
    seq: int
    stored: float = 0.0
    """When it was stored, as far as that was read."""

    @property
    def mark(self) -> int:
        """The sequence number of its mark."""
        return self.seq + 1


def encode_entry(entry: TaskEntry) -> bytes:
    """The bytes of an entry."""
    t = entry.task
    values = (
        t.id, t.block, t.to, t.rank, t.due, t.key, t.attempts, t.hops, t.size,
        entry.state.value, entry.accepted, entry.turn, entry.until, entry.reason, entry.upload, entry.is_back,
        entry.result, entry.by,
    )  # fmt: skip
    packed: bytes = msgpack.packb(values, unicode_errors="surrogatepass")
    return packed


def decode_entry(data: bytes) -> TaskEntry:
    """An entry from its bytes. A later version may append values."""
    values = msgpack.unpackb(data, unicode_errors="surrogatepass")
    state, *others = values[9:18]
    return TaskEntry(StoredTask(*values[:9]), TaskState(state), *others)


def token(text: str) -> str:
    """Any text as one token of a subject."""
    return quote(text, safe="").replace(".", "%2E")


def ready_at(place: str) -> str:
    """The beginning of the subjects of what is ready for a destination."""
    return f"{PREFIX}.ready.{token(place)}"


def ready_order(subject: str) -> tuple[str, int, bool]:
    """The place of a list of ready tasks among those lists: destination, rank, and first those that have waited before."""
    place, rank, kind = subject.split(".")[2:]
    return unquote(place), int(rank), kind == "new"


def at_second(state: TaskState, time: float) -> str:
    """The subject of tasks whose time is in this second."""
    return f"{PREFIX}.{state.value}.{int(time) // WIDTH}.{int(time)}"


def in_bucket(state: TaskState, bucket: int) -> str:
    """The subjects of tasks whose time is in this bucket."""
    return f"{PREFIX}.{state.value}.{bucket}.*"


def second_of(subject: str) -> int:
    """The second in a subject of `at_second`."""
    return int(subject.rpartition(".")[2])


def mark_subject(identity: str, hops: int | str) -> str:
    """The subject of the marks of a task; with `*` for its hops, of all tasks with that id."""
    return f"{PREFIX}.task.{token(identity)}.{hops}"


def key_subject(key: bytes) -> str:
    """The subject on which the tasks with one key meet."""
    return f"{PREFIX}.key.{hashlib.sha256(key).hexdigest()[:40]}"


def limit_subject(function: str) -> str:
    """The subject of the list of the tasks of a limited function that were let run. It is among those of keys, which every stream
    has."""
    return f"{PREFIX}.key.limit.{hashlib.sha256(function.encode('utf-8', 'surrogateescape')).hexdigest()[:40]}"


def upload_subject(identity: str, hops: int, upload: str) -> str:
    """The subject that says that a body is being uploaded."""
    return f"{PREFIX}.upload.{token(identity)}.{hops}.{upload}"


def body_subject(identity: str, hops: int, upload: str, number: int | str) -> str:
    """The subject of a chunk of a body; with `>`, of all of that upload."""
    return f"{PREFIX}.body.{token(identity)}.{hops}.{upload}.{number}"
