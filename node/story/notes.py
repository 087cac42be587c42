"""The notes that the event loop takes about tasks, and how thousands of notes become a few rows of the database. Pure.

Most tasks are plain: accepted together, done together. So a row holds many tasks of one batch to which the same happened within
a moment. An id like `0a1b2c3d4e5f_1790000000000000_4096` is a key (what stands before the last `_`) and an offset; any other id
is a key after a `=`, with the offset 0.
"""

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any, NamedTuple

from spoolnode.node.disk.layout import ref_id
from spoolnode.protocol.names import SPOOL_PREFIX, id_of_record

ACCEPTED, FOUND, FORWARDED, ATTEMPT, DONE, DEAD = "accepted", "found", "forwarded", "attempt", "done", "dead"
REMOVED, RETRIED, INTERRUPTED, PROGRESS, MERGED = "removed", "retried", "interrupted", "progress", "merged"
"""The things that happen to a task. An attempt is one that did not end well. A merged task is not run: one that
waited with the same key does its work."""
FIRST = frozenset({ACCEPTED, FOUND})
"""The beginnings of stories."""
LATER_UNIT = 1e-5
"""In seconds: two steps of one task lie further apart. A row may grow for twelve hours."""
UNKNOWN_SECONDS = -1.0
"""The length of a run that was not measured. Others are at least 0."""
MAX_TEXT = 4096
"""Characters of a reason that are kept."""

_OWN = "([0-9a-f]{12}_[0-9]{1,17})_([0-9]{1,9})"
_NODES_OWN = re.compile(_OWN, re.ASCII)
_FILE_OF_OWN = re.compile(SPOOL_PREFIX + _OWN, re.ASCII)


class Note(NamedTuple):
    """Something that happened to tasks at one time."""

    kind: str
    at: float
    """Seconds since 1970."""
    batch: int | None
    """The batch in which the tasks are; None: each has a file of its own."""
    refs: MutableSequence[Any]
    detail: dict[str, Any]
    seconds: Sequence[float] = ()
    """How long each of them ran, if that is known."""
    callers: Sequence[str] = ()
    """The sender of each of them, if they were accepted."""
    origins: Mapping[Any, bytes] = {}
    """The ids that tasks have elsewhere, by ref..."""
    functions: Mapping[Any, bytes] = {}
    """...and their functions, of those that name one."""


class Row(NamedTuple):
    """A row of the database: several tasks of one key, to which the same happened."""

    at: float
    """When it happened to the first of them."""
    kind: str
    key: str
    offsets: bytes
    """One u32 for each task."""
    later: bytes
    """How much later it happened to each: u32, in units of `LATER_UNIT`."""
    detail: str
    """JSON."""
    seconds: bytes | None
    """How long each ran: f32."""
    origin: str | None
    """The key that the tasks have on the node that accepted them first..."""
    origins: bytes | None
    """...and their offsets there, one u32 for each."""
    weight: int
    """How many tasks begin with this row, or how many attempts it holds: what `--history-tasks` counts."""


class Happened(NamedTuple):
    """One step of the story of one task."""

    at: float
    kind: str
    id: str
    detail: dict[str, Any]
    seconds: float | None
    origin_id: str | None

    def shown(self) -> dict[str, Any]:
        """The step as JSON."""
        said = {"at": self.at, "event": self.kind, "id": self.id, "origin_id": self.origin_id, "seconds": self.seconds}
        return {**{name: value for name, value in said.items() if value is not None}, **self.detail}


class _Growing:
    """A row that takes further tasks."""

    __slots__ = ("at", "detail", "later", "offsets", "origins", "seconds")

    def __init__(self, at: float, detail: str) -> None:
        self.at = at
        self.detail = detail
        self.offsets = array("I")
        self.later = array("I")
        self.seconds = array("f")
        self.origins = array("I")

    def add(self, at: float, offsets: Sequence[int], seconds: Sequence[float], origins: Sequence[int]) -> None:
        """Takes tasks to which the same happened at that time."""
        count = len(offsets)
        self.offsets.extend(offsets)
        self.later.extend([min(max(int((at - self.at) / LATER_UNIT), 0), 0xFFFFFFFF)] * count)
        self.seconds.extend(seconds or [UNKNOWN_SECONDS] * count)
        self.origins.extend(origins)


def parted(identity: str) -> tuple[str, int]:
    """Key and offset of an id."""
    found = _NODES_OWN.fullmatch(identity)
    return (found[1], int(found[2])) if found else (f"={identity}", 0)


def joined(key: str, offset: int) -> str:
    """The id of that key and offset."""
    return key[1:] if key.startswith("=") else f"{key}_{offset}"


def rows_of(notes: Iterable[Note], node_id: str, node: str) -> list[Row]:
    """The rows for these notes, taken on the node with that id and name."""
    growing: dict[tuple[str, str, str, str, str, str], _Growing] = {}
    for note in notes:  # lone tasks come as a note each: nothing is done for one that a row can do
        detail = json.dumps(note.detail) if note.detail else ""
        for part in _parts(note, node_id):
            alike = note.kind, part.key, part.origin, part.caller, part.function, detail
            if (row := growing.get(alike)) is None:
                row = growing[alike] = _Growing(note.at, _detail(node, part, note))
            row.add(note.at, part.offsets, part.seconds, part.origins)
    return [_finished(kind, key, origin, row) for (kind, key, origin, *_), row in growing.items()]


def _detail(node: str, part: "_Part", note: Note) -> str:
    said = {"from": part.caller, "function": part.function}
    return json.dumps({"node": node, **{name: text for name, text in said.items() if text}, **note.detail})


class _Part(NamedTuple):
    """The tasks of one note that can share a row."""

    key: str
    caller: str
    function: str
    origin: str
    offsets: MutableSequence[int]
    seconds: Sequence[float]
    origins: MutableSequence[int]


def _parts(note: Note, node_id: str) -> Iterable[_Part]:
    if note.batch is None:
        return _file_parts(note)
    key = id_of_record(node_id, note.batch, 0)[:-2]
    first = note.callers[0] if note.callers else ""
    if not note.functions and not note.origins and note.callers.count(first) == len(note.callers):
        return [_Part(key, first, "", "", note.refs, note.seconds, [])]
    together: dict[tuple[str, bytes, str], _Part] = {}
    for offset, caller in zip(note.refs, note.callers, strict=True):  # no more than this: there may be 60,000 a second
        function, (origin, origin_offset) = note.functions.get(offset, b""), _origin(note, offset)
        if (part := together.get((caller, function, origin))) is None:
            part = _Part(key, caller, function.decode("utf-8", "replace"), origin, [], (), [])
            together[caller, function, origin] = part
        part.offsets.append(offset)
        if origin:
            part.origins.append(origin_offset)
    return together.values()


def _file_parts(note: Note) -> Iterator[_Part]:
    """Tasks of a common store have files, too, and those that came at the same moment have one key."""
    together: dict[tuple[str, str, bytes, str], list[tuple[int, int, int]]] = {}
    for position, ref in enumerate(note.refs):
        plain = _FILE_OF_OWN.fullmatch(ref)
        key, offset = (plain[1], int(plain[2])) if plain else parted(ref_id(ref))
        caller, (origin, origin_offset) = note.callers[position] if note.callers else "", _origin(note, ref)
        alike = together.setdefault((key, caller, note.functions.get(ref, b""), origin), [])
        alike.append((position, offset, origin_offset))
    for (key, caller, function, origin), found in together.items():
        offsets, origins = [offset for _, offset, _ in found], [offset for _, _, offset in found] if origin else []
        seconds = [note.seconds[position] for position, _, _ in found] if note.seconds else ()
        yield _Part(key, caller, function.decode("utf-8", "replace"), origin, offsets, seconds, origins)


def _origin(note: Note, ref: Any) -> tuple[str, int]:
    """Key and offset of the id that a task has elsewhere."""
    return parted(note.origins[ref].decode("ascii", "replace")) if ref in note.origins else ("", 0)


def _finished(kind: str, key: str, origin: str, row: _Growing) -> Row:
    is_measured = row.seconds and max(row.seconds) >= 0
    weight = len(row.offsets) if kind in FIRST or kind == ATTEMPT else 0
    return Row(
        row.at, kind, key, row.offsets.tobytes(), row.later.tobytes(), row.detail,
        row.seconds.tobytes() if is_measured else None,
        origin or None, row.origins.tobytes() if origin else None, weight,
    )  # fmt: skip


def steps_in(row: Row, offset: int, *, by_origin: bool = False) -> list[Happened]:
    """All that a row tells of the task with that offset, or, with `by_origin`, with that offset on its first node."""
    searched = _numbers((row.origins if by_origin else row.offsets) or b"")
    return [_step(row, position) for position, found in enumerate(searched) if found == offset]


def _step(row: Row, position: int) -> Happened:
    seconds = array("f", row.seconds or b"")
    length = seconds[position] if seconds else UNKNOWN_SECONDS
    return Happened(
        row.at + _numbers(row.later)[position] * LATER_UNIT, row.kind, joined(row.key, _numbers(row.offsets)[position]),
        json.loads(row.detail), None if length == UNKNOWN_SECONDS else length,
        joined(row.origin, _numbers(row.origins or b"")[position]) if row.origin is not None else None,
    )  # fmt: skip


def _numbers(data: bytes) -> "array[int]":
    return array("I", data)
