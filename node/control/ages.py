"""The tasks that wait, counted by their age, for each function or each node that they wait for. Blocks; works with and without
a running node.
"""

import heapq
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from spoolnode.node.commons import LATER as STORED_LATER
from spoolnode.node.commons import CommonTask
from spoolnode.node.control.pages import variables_of
from spoolnode.node.control.store_pages import function_of
from spoolnode.node.spool import inspect
from spoolnode.node.spool.inspect import LATER, Info
from spoolnode.node.spool.reader import Reader
from spoolnode.protocol.names import function_named

BOUNDS = tuple(60.0 * 2**doubled for doubled in range(10))
"""Seconds: each age is twice the one before, from a minute to eight and a half hours."""
MOST_GROUPS = 1000
"""Groups that are told, the largest ones: any client can make up names."""
BY = ("function", "node")


@dataclass(slots=True)
class Aged:
    """Some of the tasks that wait."""

    tasks: int = 0
    later: int = 0
    """Those of them that wait for their time or for another attempt."""
    oldest_at: float | None = None
    """When the oldest of them was accepted, in seconds since 1970."""
    ages: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    """How many are younger than the first of `BOUNDS`, how many of the others than the next one..., and how many are older."""

    def add(self, accepted: float, now: float, *, is_later: bool) -> None:
        """Counts one more."""
        self.tasks += 1
        self.later += is_later
        self.oldest_at = accepted if self.oldest_at is None else min(self.oldest_at, accepted)
        self.ages[bisect_right(BOUNDS, now - accepted)] += 1


@dataclass(slots=True)
class Ages:
    """All tasks that wait."""

    groups: dict[str | None, Aged] = field(default_factory=dict)
    """By the name of a function, empty if they name none; or by the destination, None if they wait for this node."""
    total: Aged = field(default_factory=Aged)
    more_in_store: bool = False
    """Whether the common store has more than those that were counted."""
    missing: str = ""
    """Why its tasks were not counted; empty if they were."""

    def add(self, group: str | None, accepted: float, now: float, *, is_later: bool) -> None:
        """Counts one more."""
        for counted in (self.groups.setdefault(group, Aged()), self.total):
            counted.add(accepted, now, is_later=is_later)

    def largest(self) -> list[tuple[str | None, Aged]]:
        """The groups that are told, the largest first."""
        return heapq.nsmallest(MOST_GROUPS, self.groups.items(), key=lambda item: (-item[1].tasks, item[0] or ""))


def ages(reader: Reader, by: str, now: float, running: Container[str] = ()) -> Ages:
    """Counts the tasks that wait now. `by`: one of `BY`; `running`: the ids of tasks that run, and wait no more."""
    found = Ages()
    for info, group in _grouped(reader, by, now):
        if info.id in running:
            continue
        # Only a file from elsewhere does not say when it came. If its time has not come, it is as good as new.
        accepted = min(info.accepted or info.due or info.changed, now)
        found.add(group, accepted, now, is_later=info.state == LATER)
    return found


def add_stored(found: Ages, tasks: Iterable[CommonTask], by: str, now: float) -> None:
    """Counts tasks that wait in the common store."""
    for task in tasks:
        group = task.to if by == "node" else function_of(task)
        found.add(group, min(task.accepted, now), now, is_later=task.state == STORED_LATER)


def _grouped(reader: Reader, by: str, now: float) -> Iterator[tuple[Info, str | None]]:
    """Every task that waits, and its group."""
    for info, function in inspect.queued_tasks(reader, now):
        if by == "node":
            yield info, info.destination
        else:
            name = function_named(variables_of(reader, info)) if function is None else function
            yield info, name.decode("utf-8", "replace")


def as_answer(found: Ages, by: str, names: dict[str, str]) -> dict[str, Any]:
    """The answer of the API. `names`: those of nodes, by destinations."""
    items = []
    for group, counted in found.largest():
        about = {"function": group} if by == "function" else {"destination": group, "name": names.get(group or "", "")}
        items.append({**about, **_shown(counted)})
    return {
        "bounds_seconds": list(BOUNDS), "items": items, "groups": len(found.groups), "total": _shown(found.total),
        "more_in_store": found.more_in_store, "missing": found.missing,
    }  # fmt: skip


def _shown(counted: Aged) -> dict[str, Any]:
    return {"tasks": counted.tasks, "later": counted.later, "oldest_at": counted.oldest_at, "ages": counted.ages}
