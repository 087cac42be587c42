"""Chooses the node for a task. Pure: reports and times are passed in.

`any` and `tag:X` pick two nodes at random and choose the one with less to do. This is nearly as good as the least loaded of
all, and many nodes that choose by the same old reports do not all choose the same. Between two reports of a node, tasks placed
on it since are added, and those that it has probably done are subtracted.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass

from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.peer_status import Load, Status

HERE = ""
"""The destination that is this node."""
ANY, ALL, TAG = "any", "all", "tag:"


@dataclass(slots=True)
class _Node:
    """One node as placement sees it; this one is `HERE`."""

    id: str
    tags: frozenset[str]
    up: bool
    works: bool
    """Whether it may be chosen to run a task."""
    tasks: float
    """Tasks as reported, and placed since."""
    workers: int
    pace: float
    at: float
    """When they were reported."""

    def tasks_at(self, now: float) -> float:
        """The number that it probably has now."""
        return max(self.tasks - self.pace * (now - self.at), 0.0)


class Placement:
    """Chooses. It must hear each status of a peer that is up, when a peer is no longer up, and the own status once a second.

    Args:
        identity: the identity of this node.
        rng: for the choices.
    """

    def __init__(self, identity: Identity, rng: random.Random) -> None:
        self._rng = rng
        self._ours = {HERE, identity.id, identity.name, *identity.addresses}
        self._nodes: dict[str, _Node] = {}
        self._any: list[_Node] | None = None
        """The nodes that may be chosen; None if they must be found again."""
        self._tagged: dict[str, list[_Node]] = {}

    def is_also(self, address: str) -> None:
        """Notes that this address is this node."""
        self._ours.add(address)

    def reported(self, node_id: str, status: Status, now: float, queued: int = 0) -> bool:
        """Takes the status of a peer that is up (or of this node, as `HERE`); `queued` tasks wait in our outbox for it.

        Returns whether it may now be chosen for tasks for which it might not be chosen before.
        """
        load = Load.of(status, queued)
        new = _Node(node_id, status.tags, True, status.works, float(load.tasks), load.workers, load.pace, now)
        old = self._nodes.get(node_id)
        if old and (old.tags, old.up, old.works) == (new.tags, True, new.works):
            old.tasks, old.workers, old.pace, old.at = new.tasks, new.workers, new.pace, now
            return False
        self._nodes[node_id] = new
        self._any = None
        return new.works

    def unavailable(self, node_id: str) -> None:
        """Notes that a peer is suspect, leaving, down or rejected. Its tags are remembered."""
        if (node := self._nodes.get(node_id)) and node.up:
            node.up = False
            self._any = None

    def retain(self, node_ids: Iterable[str]) -> None:
        """Forgets all others."""
        gone = self._nodes.keys() - {HERE, *node_ids}
        for node_id in gone:
            del self._nodes[node_id]
        if gone:
            self._any = None

    def placed(self, node_id: str, count: int) -> None:
        """Counts tasks that went there without `choose` (which counts its own)."""
        if node := self._nodes.get(node_id):
            node.tasks += count

    def choose(self, destination: str, now: float) -> list[str]:
        """Where a task goes: ids of nodes, `HERE`, or the unchanged destination. More than one only for `all`."""
        if destination == ANY:
            return [self._choose(self._eligible(), now) or HERE]
        if destination == ALL:
            return self._everybody()
        if destination.startswith(TAG):
            return [self._choose_tagged(destination, now)]
        return [HERE] if destination in self._ours else [destination]

    def knows(self, destination: str) -> bool:
        """Whether a node with that tag is known, up or not."""
        tag = destination.removeprefix(TAG)
        return bool(self._with_tag(destination)) or any(tag in node.tags and node.workers for node in self._nodes.values())

    def _choose(self, nodes: list[_Node], now: float) -> str | None:
        """Picks two at random, chooses the one with less to do, and counts the task there."""
        if not nodes:
            return None
        node = nodes[0]
        if len(nodes) > 1:
            rng = self._rng.random
            first = int(rng() * len(nodes))
            second = int(rng() * (len(nodes) - 1))
            node = _lighter(nodes[first], nodes[second + (second >= first)], now)
        node.tasks += 1
        return node.id

    def _choose_tagged(self, destination: str, now: float) -> str:
        """A node with that tag; if none may be chosen, one that is not up; else the tag itself, under which the task waits."""
        place = self._choose(self._with_tag(destination), now)
        if place is not None:
            return place
        tag = destination.removeprefix(TAG)
        known = [node.id for node in self._nodes.values() if tag in node.tags and node.workers and node.id != HERE]
        return self._rng.choice(known) if known else destination

    def _everybody(self) -> list[str]:
        """All nodes that run tasks: elsewhere a copy would wait for ever. If there are none, this node."""
        nodes = self._eligible()
        for node in nodes:
            node.tasks += 1
        return [node.id for node in nodes] or [HERE]

    def _eligible(self) -> list[_Node]:
        if self._any is None:
            self._any = [node for node in self._nodes.values() if node.up and node.works]
            self._tagged = {}
        return self._any

    def _with_tag(self, destination: str) -> list[_Node]:
        eligible = self._eligible()
        nodes = self._tagged.get(destination)
        if nodes is None:
            tag = destination.removeprefix(TAG)
            nodes = [node for node in eligible if tag in node.tags]
            if nodes:  # unknown tags may be made up: they take no memory
                self._tagged[destination] = nodes
        return nodes


def _lighter(one: _Node, other: _Node, now: float) -> _Node:
    """The node where a task would wait less; of two idle ones, the one with more free workers."""
    first, second = one.tasks_at(now), other.tasks_at(now)
    one_idle, other_idle = first < one.workers, second < other.workers
    if one_idle != other_idle:
        return one if one_idle else other
    if one_idle or not one.pace or not other.pace:
        return one if first * other.workers <= second * one.workers else other
    return one if first * other.pace <= second * one.pace else other
