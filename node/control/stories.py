"""The whole story of a task: what this node knows, and what the other nodes of its story tell when they are asked."""

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from spoolnode.node.commons import HELD, STORE, CommonTask
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.story.keeper import Story
from spoolnode.node.story.notes import FIRST, FORWARDED
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.protocol.fetch import STORY, Question, read_fetched
from spoolnode.protocol.names import is_node_id

MOST_NODES = 8
"""Nodes that are asked about one task."""
ASK_SECONDS = 3.0
"""How long all of them together may take."""


class Stories:
    """The stories of one node's tasks, for people."""

    def __init__(self, story: Story, neighbours: Neighbours, node_id: str) -> None:
        self._story = story
        self._neighbours = neighbours
        self._node_id = node_id

    def __repr__(self) -> str:
        return f"<Stories of {self._node_id}>"

    async def own(self, identity: str) -> list[dict[str, Any]]:
        """The steps that happened on this node."""
        return [step.shown() for step in await self._story.steps(identity)]

    async def whole(self, identity: str, taker: str = "") -> list[dict[str, Any]]:
        """All steps, in order. Those of a node that does not answer in time are missing.

        `taker`: the id of the node that was the last one to take it from the common store.
        """
        told = {self._node_id: await self.own(identity)}
        others = [node_id for node_id in (identity[:12], taker) if self._neighbours.knows(node_id)]
        try:
            async with asyncio.timeout(ASK_SECONDS):
                while (node_id := _next(told, others)) and len(told) <= MOST_NODES:
                    told[node_id] = []
                    told[node_id] = await self._ask(node_id, _origin(told[self._node_id], identity))
        except TimeoutError:
            pass
        return self._named(as_one_story(told))

    def without_run(self, stored: CommonTask, story: list[dict[str, Any]]) -> str:
        """Says that what happened to a task of the store on the node that took it is missing; empty if it is not."""
        node, node_id = stored.node, stored.node_id
        is_told = node_id in ("", self._node_id) or any(step.get("node") == node for step in story)
        return "" if is_told or (stored.state == HELD and self._neighbours.knows(node_id)) else _missing(node)

    def without_beginning(self, identity: str, story: list[dict[str, Any]]) -> str:
        """Says that the beginning of a story is missing; empty if it is not.

        A task of the store has the id that it got from the node that took it in.
        """
        first = identity[:12]
        is_told = first == self._node_id or any(step["event"] in FIRST for step in story)
        return "" if is_told or not is_node_id(first) else _missing(f"the node {first}")

    async def _ask(self, node_id: str, origin_id: str) -> list[dict[str, Any]]:
        """The steps on another node; empty if it does not tell."""
        data = b""
        try:
            while True:
                question = Question(origin_id, 0.0, len(data), about=STORY)
                answer = await self._neighbours.ask(node_id, question.encode(), ASK_SECONDS)
                fetched = read_fetched(*answer[1:])
                data += fetched.piece
                if not fetched.piece or len(data) >= fetched.size:
                    return _steps(json.loads(data or b"[]"))
        except (SpoolnodeError, OSError, ValueError):
            return []

    def _named(self, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same with the names of nodes in place of their ids."""
        peers = {row["id"]: row["name"] for row in self._neighbours.peers() if row["name"]} if steps else {}
        for step in steps:
            if step["event"] == FORWARDED:
                step["to"] = peers.get(str(step.get("peer")), step.get("to"))
        return steps


def _missing(where: str) -> str:
    return f"what happened to it on {where} is missing here; `spoolnode show` on that node may have it"


def _origin(steps: list[dict[str, Any]], identity: str) -> str:
    """The id that the task has on every node."""
    return next((str(step["origin_id"]) for step in steps if "origin_id" in step), identity)


def _next(told: Mapping[str, list[dict[str, Any]]], others: Iterable[str]) -> str:
    """The id of a node that has more to tell and was not asked; empty if all were. `others`: ids of such nodes."""
    steps = [step for found in told.values() for step in found]
    origins = [str(step["origin_id"])[:12] for step in steps if "origin_id" in step]
    peers = [str(step.get("peer")) for step in steps if step["event"] == FORWARDED]
    return next((node_id for node_id in [*origins, *peers, *others] if is_node_id(node_id) and node_id not in told), "")


def as_one_story(told: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The steps on each node, by its id, as one story. Pure.

    What a node that a task was forwarded to tells comes after that step. Times do not say so: clocks differ, and a task may have
    ended there before this node heard that it had arrived. Only of one that nodes gave to each other through the common store
    nothing else says it.
    """
    if not any(step["event"] == FORWARDED and step.get("peer") != STORE for steps in told.values() for step in steps):
        return sorted((step for steps in told.values() for step in steps), key=lambda step: float(step["at"]))
    left = {node_id: deque(sorted(steps, key=lambda step: float(step["at"]))) for node_id, steps in told.items()}
    origins = {str(step["origin_id"])[:12] for steps in told.values() for step in steps if "origin_id" in step}
    waiting = sorted(left, key=lambda node_id: node_id not in origins)  # the node where it all began is the first
    story: list[dict[str, Any]] = []
    while waiting:
        steps = left[waiting[0]]
        if not steps:
            waiting.pop(0)
            continue
        step = steps.popleft()
        story.append(step)
        peer = step.get("peer")
        if step["event"] == FORWARDED and peer in waiting:
            waiting.remove(peer)
            waiting.insert(0, peer)
    return story


def _steps(said: Any) -> list[dict[str, Any]]:
    """The steps in the answer of another node, which may say anything."""
    steps = [step for step in said if isinstance(step, dict)] if isinstance(said, list) else []
    return [step for step in steps if isinstance(step.get("at"), float) and isinstance(step.get("event"), str)]
