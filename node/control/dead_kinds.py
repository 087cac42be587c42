"""The dead tasks by kind: of which function they are, of which error they died, and why. Each file is read once. Blocks; works
with and without a running node.
"""

import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from spoolnode.node.control.choice import Choice
from spoolnode.node.control.pages import error_of, reason_of, with_reason
from spoolnode.node.spool import inspect
from spoolnode.node.spool.reader import Reader
from spoolnode.protocol import names
from spoolnode.protocol.errors import BadPacket
from spoolnode.protocol.packet import decode_variables

LONGEST_REASON = 200
"""Characters of each reason that are remembered: a hundred thousand of them take 25 MB at most."""
MOST_GROUPS = 1000
"""Groups that are told, the largest ones: reasons may all differ."""
MOST_AT_ONCE = 1000
"""The largest part: to sort more at once would hold up every thread."""
LOOK_REST = 20
"""Parts are taken from what the last look has found, for so many times as long as it took."""
SAME_MOMENT = 2.0
"""Seconds within which a directory may change twice and have the same time, on any file system."""


@dataclass(slots=True)
class KnownDead:
    """A dead task whose file was read."""

    died: float
    function: str
    error: str
    """See `error_of`."""
    reason: str
    """The beginning of its first line."""
    seen_by: int
    """The number of the last look that has found it."""


BY = {"kind": ("function", "error"), "function": ("function",), "reason": ("reason",)}
"""The facts that the tasks of a group share."""


@dataclass(slots=True)
class _Group:
    example: KnownDead
    tasks: int
    oldest_at: float
    newest_at: float


class DeadCount(NamedTuple):
    """The dead tasks that are meant, counted."""

    items: list[dict[str, Any]]
    """The largest groups: what their tasks share, how many they are, and when the first and the last of them died."""
    groups: int
    """All groups."""
    tasks: int
    """The tasks of all groups."""


class Part(NamedTuple):
    """The first of the dead tasks that are meant."""

    files: list[str]
    left: int
    """How many more there are."""


class DeadKinds:
    """Remembers the kind of each dead task: of a hundred thousand, only the new ones are read again."""

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._known: dict[str, KnownDead] = {}
        """By their files."""
        self._look_number = 0
        self._look_again_at = float("-inf")
        self._seen_changed_at: float | None = None
        """When the directory had changed before the last look."""

    def __repr__(self) -> str:
        return f"<DeadKinds of {len(self._known)} tasks>"

    def read(self, files: Sequence[str]) -> None:
        """Reads these dead tasks, so that the next count need not."""
        for where in files:
            self._now(where)

    def count(self, choice: Choice, by: str, more: Iterable[KnownDead] = ()) -> DeadCount:
        """The dead tasks that are meant, in groups, the largest first. `by`: a key of `BY`; `more`: others, from elsewhere."""
        self._look()
        key, groups = attrgetter(*BY[by]), dict[Any, _Group]()
        others = (known for known in more if _is_meant(choice, known))
        for known in chain((known for _, known in self._chosen(choice)), others):
            group = groups.setdefault(key(known), _Group(known, 0, known.died, known.died))
            group.tasks += 1
            group.oldest_at, group.newest_at = min(group.oldest_at, known.died), max(group.newest_at, known.died)
        largest = heapq.nsmallest(MOST_GROUPS, groups.items(), key=lambda item: (-item[1].tasks, item[0]))
        items = [
            {field: getattr(group.example, field) for field in BY[by]}
            | {"tasks": group.tasks, "oldest_at": group.oldest_at, "newest_at": group.newest_at}
            for _, group in largest
        ]
        return DeadCount(items, len(groups), sum(group.tasks for group in groups.values()))

    def take(self, choice: Choice, limit: int | None) -> Part:
        """The files of the dead tasks that are meant: all, or the first so many to die. The caller takes them out of dead/.

        With a limit it looks at the directory only now and then: a file may have gone, and the latest ones may be missing.
        """
        if limit is None or self._clock() > self._look_again_at:
            self._look()
        found = [where for where, _ in self._chosen(choice)]
        first = found if limit is None else heapq.nsmallest(limit, found, lambda where: (self._known[where].died, where))
        for where in first:
            del self._known[where]
        self._seen_changed_at = None  # if some stay there after all, the next look finds them
        return Part(first, len(found) - len(first))

    def _chosen(self, choice: Choice) -> Iterator[tuple[str, KnownDead]]:
        for where, known in self._known.items():
            if _is_meant(choice, known):
                yield where, known

    def _look(self) -> None:
        """Brings `_known` up to date, in place: to free a hundred thousand entries at once would hold up every thread."""
        began, changed = self._clock(), self._changed_at()
        if changed is not None and changed == self._seen_changed_at:
            return
        self._look_number += 1
        for where in inspect.dead_refs(self._reader):
            if (known := self._now(where)) is not None:
                known.seen_by = self._look_number
        for gone in [where for where, known in self._known.items() if known.seen_by != self._look_number]:
            del self._known[gone]
        self._seen_changed_at, ended = changed, self._clock()
        self._look_again_at = ended + LOOK_REST * (ended - began)

    def _changed_at(self) -> float | None:
        """When a file came to the directory or went; None if that may have been just now, so that more may come unseen."""
        try:
            changed = self._reader.disk.stat(self._reader.layout.dead).mtime
        except OSError:
            return None
        return changed if changed < time.time() - SAME_MOMENT else None

    def _now(self, where: str) -> KnownDead | None:
        """A task as its file is now; None if that has gone."""
        known = self._known.get(where)
        try:
            if known is None or known.died != self._died(where):
                known = self._known[where] = self._read(where)
        except FileNotFoundError:
            return None
        return known

    def _died(self, where: str) -> float:
        return self._reader.disk.stat(self._reader.layout.path(where)).mtime

    def _read(self, where: str) -> KnownDead:
        """A task that is not known yet. Raises FileNotFoundError."""
        try:
            died, encoded = self._reader.dated_block_of(where)
            block = with_reason(self._reader, where, dict(decode_variables(encoded)))
        except FileNotFoundError:
            raise
        except (OSError, BadPacket):  # it counts, though it cannot be read
            died, block = self._died(where), {}
        reason = reason_of(block)
        function = sys.intern(names.function_named(block).decode("utf-8", "replace"))  # thousands share a few
        return KnownDead(died, function, sys.intern(error_of(reason)), reason[:LONGEST_REASON], 0)


def _is_meant(choice: Choice, known: KnownDead) -> bool:
    return choice.has_time(known.died) and choice.has(known.function, known.error, known.reason)
