"""The ends of tasks that the database of stories knows, the last ones first. Blocks."""

import json
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from spoolnode.node.story import notes
from spoolnode.node.story.notes import ATTEMPT, DEAD, LATER_UNIT, UNKNOWN_SECONDS, joined

ENDS = (notes.DONE, DEAD, notes.REMOVED, notes.MERGED, notes.FORWARDED)
"""The ends of tasks on a node. A dead one can be retried, and then it ends again."""
MOST_ROWS = 20_000
"""Rows that are looked at in one go, and..."""
MOST_ENDS = 5_000
"""...ends: the thread that looks is the one that writes, and what it cannot write for long is lost."""
MOST_ATTEMPTS = 200
"""Rows in which the reason of a death is looked for: it stands just before it."""
_BEYOND = 1 << 32
"""A position behind all of a row."""
_FOUND = """
SELECT number, at, kind, key, offsets, later, detail, seconds FROM happened
WHERE number <= ? AND number > ? AND kind IN (?, ?, ?, ?, ?) ORDER BY number DESC
"""
_FUNCTIONS = "SELECT offsets, detail FROM happened WHERE key = ? AND kind IN (?, ?)"
_ATTEMPTS = "SELECT offsets, detail FROM happened WHERE key = ? AND number < ? AND kind = ? ORDER BY number DESC LIMIT ?"


class EndPlace(NamedTuple):
    """The place of an end among all."""

    number: int
    """Of its row."""
    position: int
    """In the row."""


class EndedTask(NamedTuple):
    """An end of a task."""

    id: str
    end: str
    at: float
    """Seconds since 1970."""
    function: str
    """Empty if it names none, or that is no longer known."""
    reason: str
    """The first line of why it died."""
    seconds: float | None
    """How long its last run took."""
    to: str | None
    """The destination that it was forwarded to."""
    place: EndPlace


IsWanted = Callable[[EndedTask], bool]


def ends(
    connection: sqlite3.Connection, after: EndPlace | None, most: int, is_wanted: IsWanted
) -> tuple[list[EndedTask], EndPlace | None]:
    """The next ends that are wanted, and the place behind which to go on; None if all were looked at.

    They may be fewer than `most` although there are more: it looks at a part only.
    """
    if after is None:
        (last,) = connection.execute("SELECT max(number) FROM happened").fetchone()
        after = EndPlace(last or 0, _BEYOND)
    found: list[EndedTask] = []
    lowest = after.number - MOST_ROWS
    for looked_at, task in enumerate(_between(connection, after, lowest), 1):
        if is_wanted(task):
            found.append(task)
        if len(found) == most or looked_at == MOST_ENDS:
            return found, task.place
    return found, EndPlace(lowest, _BEYOND) if lowest > 0 else None


def _between(connection: sqlite3.Connection, after: EndPlace, lowest: int) -> Iterator[EndedTask]:
    facts = _Facts(connection)
    for number, at, kind, key, offsets, later, detail, seconds in connection.execute(_FOUND, (after.number, lowest, *ENDS)):
        places, delays, ran, said = array("I", offsets), array("I", later), array("f", seconds or b""), json.loads(detail)
        begin = after.position if number == after.number else _BEYOND
        for position in range(min(begin, len(places)) - 1, -1, -1):  # the last one is the latest
            offset = places[position]
            function, reason = facts.death(key, number, offset) if kind == DEAD else (facts.function(key, offset), "")
            reason = str(said.get("reason") or reason)
            length = ran[position] if ran and ran[position] != UNKNOWN_SECONDS else None
            yield EndedTask(
                joined(key, offset), kind, at + delays[position] * LATER_UNIT, function, reason.partition("\n")[0],
                length, said.get("to"), EndPlace(number, position),
            )  # fmt: skip


class _Facts:
    """The facts that the steps before an end tell of its task. Those of tasks that share a key are looked up together."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._functions: dict[str, dict[int, str]] = {}
        """By key and offset."""
        self._attempts: tuple[tuple[str, int], dict[int, dict[str, Any]]] = (("", 0), {})
        """The last attempts before a row, and which one; by offset."""

    def function(self, key: str, offset: int) -> str:
        """The function of a task."""
        if key not in self._functions:
            rows = self._connection.execute(_FUNCTIONS, (key, notes.ACCEPTED, notes.FOUND))
            self._functions[key] = {
                place: str(function)
                for offsets, detail in rows
                if (function := json.loads(detail).get("function"))
                for place in array("I", offsets)
            }
        return self._functions[key].get(offset, "")

    def death(self, key: str, number: int, offset: int) -> tuple[str, str]:
        """The function of a task that died, and why it did."""
        if self._attempts[0] != (key, number):
            attempts: dict[int, dict[str, Any]] = {}
            for offsets, detail in self._connection.execute(_ATTEMPTS, (key, number, ATTEMPT, MOST_ATTEMPTS)):
                said = json.loads(detail)
                for place in array("I", offsets):
                    attempts.setdefault(place, said)
            self._attempts = (key, number), attempts
        said = self._attempts[1].get(offset, {})
        return str(said.get("function") or self.function(key, offset)), str(said.get("reason", ""))
