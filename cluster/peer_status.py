"""The status of a node, from its answer to a ping, and its load. Pure.

A status comes from the network: items with a wrong type or an impossible value are ignored.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, Self

from spoolnode.cluster.page import LONGEST as LONGEST_PAGE
from spoolnode.node.figures import UNKNOWN, Figures
from spoolnode.node.roster import MOST_TIMERS, LastRun, is_key
from spoolnode.protocol import names
from spoolnode.protocol.operate import INVITED, INVITES

REACHES = "reaches_you"
"""The item of an answer that says how well its sender reaches the node that asked."""
MOST_TAGS = 32
LONGEST_TEXT = 200
MOST = 10**12
"""The largest count, or number in a second, that is believed."""
SLOWEST = 1e-6
"""Tasks a second: a lower pace counts as unknown."""


class Reach(NamedTuple):
    """How well another node reaches this one, as it says."""

    state: str
    """The state that this node has there."""
    address: str
    """Where it is looked for."""
    reason: str
    """Why it failed last; empty if it has not failed since it was up."""


@dataclass(frozen=True, slots=True)
class Status:
    """The answer to a ping. A real uWSGI does not send one, so every part has a default."""

    id: str = ""
    name: str = ""
    cluster: str = ""
    protocol: int = 0
    """0 if unknown."""
    version: str = ""
    instance: str = ""
    """A random token of the process: tells a node from one on a copy of its spool directory."""
    tags: frozenset[str] = frozenset()
    workers: int = 0
    """0 is a node that runs no tasks."""
    waiting: int = 0
    running: int = 0
    pace: float = 0.0
    """Tasks a second that its workers do when they have work; 0.0 if unknown."""
    draining: bool = False
    accepting: bool = False
    time: float = 0.0
    """Its wall clock; 0.0 if unknown."""
    app: str = ""
    page: str = ""
    """The URL of its page, as it says; see `page`."""
    invites: bool = False
    """Whether operators of this node may see and do there what they may here."""
    shares: bool = False
    """Whether it takes its tasks from a common store."""
    timers: Mapping[str, LastRun] = field(default_factory=dict)
    """The timers of the whole cluster that it has, by their keys, and what it knows to have been run of each."""
    figures: Figures = UNKNOWN
    """Its numbers, for people."""
    reaches: Reach | None = None
    """How well it reaches this node; None if it does not say: to whom has not proved who it is, and in older versions."""
    key: str = ""
    """The fingerprint of the key that it has proved; set by the receiver."""

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """The status from these items, as far as they make sense."""
        node_id, name = _text(said, "id"), _text(said, "name")
        tags = said.get("tags")
        kept = [tag for tag in tags if isinstance(tag, str) and names.is_node_name(tag)] if isinstance(tags, list | tuple) else []
        return cls(
            id=node_id if names.is_node_id(node_id) else "",
            name=name if names.is_node_name(name) else "",
            cluster=_text(said, "cluster"),
            protocol=_count(said, "protocol"),
            version=_text(said, "version"),
            instance=_text(said, "instance"),
            tags=frozenset(kept[:MOST_TAGS]),
            workers=_count(said, "workers"),
            waiting=_count(said, "waiting"),
            running=_count(said, "running"),
            pace=_pace(said),
            draining=said.get("draining") is True,
            accepting=said.get("accepting") is True,
            time=_number(said, "time"),
            app=_text(said, "app"),
            page=_text(said, "page", LONGEST_PAGE),
            invites=said.get(INVITES) == INVITED,
            shares=isinstance(said.get("store"), Mapping),
            timers=_timers(said),
            figures=Figures.of(said),
            reaches=_reach(said.get(REACHES)),
            key=_text(said, "key"),
        )

    @property
    def takes_tasks(self) -> bool:
        """Whether it would store tasks."""
        return self.accepting and not self.draining

    @property
    def works(self) -> bool:
        """Whether it may be chosen to run a task."""
        return self.workers > 0 and self.takes_tasks


@dataclass(slots=True)
class Load:
    """The work of a node, and how quickly it does it."""

    tasks: int = 0
    """Waiting and running tasks."""
    workers: int = 1
    pace: float = 0.0
    """Tasks a second; 0.0 if unknown."""

    @classmethod
    def of(cls, status: Status, queued: int = 0) -> Self:
        """The load that a status reports, and `queued` tasks that are on their way to that node."""
        return cls(status.waiting + status.running + queued, status.workers, status.pace)

    def within(self, seconds: float) -> int:
        """The tasks that it does in that time. If the pace is unknown, one for each worker, so that a pace can be seen."""
        return int(self.pace * seconds) if self.pace else self.workers


def _pace(said: Mapping[str, Any]) -> float:
    pace = _number(said, "pace")
    return pace if SLOWEST <= pace <= MOST else 0.0


def _timers(said: Mapping[str, Any]) -> dict[str, LastRun]:
    """At most as many as a node has, each of a few bytes, whatever is said."""
    timers = said.get("timers")
    pairs = islice(timers.items(), MOST_TIMERS) if isinstance(timers, Mapping) else ()
    return {key: run for key, value in pairs if is_key(key) and (run := _run(value)) is not None}


def _run(value: object) -> LastRun | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    due, by = _number({"due": value[0]}, "due"), value[1]
    return LastRun(due, by if due and isinstance(by, str) and names.is_node_name(by) else "")


def _reach(value: object) -> Reach | None:
    if not isinstance(value, Mapping):
        return None
    reach = Reach(_text(value, "state"), _text(value, "address"), _text(value, "reason"))
    return reach if reach.state else None


def _text(said: Mapping[str, Any], key: str, longest: int = LONGEST_TEXT) -> str:
    value = said.get(key)
    return value[:longest] if isinstance(value, str) and value.isprintable() else ""


def _count(said: Mapping[str, Any], key: str) -> int:
    value = said.get(key)
    return min(value, MOST) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _number(said: Mapping[str, Any], key: str) -> float:
    value = said.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 < value < 1e12 and math.isfinite(value) else 0.0
