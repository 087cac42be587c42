"""Nodes that will never come back: they are forgotten, and what waits for them here and in the common store goes on."""

from typing import Any

from spoolnode.node.control.in_store import InStore
from spoolnode.node.neighbours import CannotForget, Neighbours, UnknownNode
from spoolnode.protocol import names

_NOTHING = {"id": "", "name": "", "unsent": 0, "in_doubt": 0, "sources": []}
_DONE = {"moved": 0, "dead": 0, "left": 0}


class GoneNodes:
    """Forgets nodes, for operators."""

    def __init__(self, neighbours: Neighbours, in_store: InStore) -> None:
        self._neighbours = neighbours
        self._in_store = in_store

    def __repr__(self) -> str:
        return f"<GoneNodes of {self._neighbours!r}>"

    def look(self, node: str) -> dict[str, Any]:
        """A node that may be forgotten, and the tasks that wait for it here. Raises `CannotForget`."""
        return {**self._look(node)[0], "has_store": self._in_store.is_there}

    def _look(self, node: str) -> tuple[dict[str, Any], list[str]]:
        """The same, and all destinations that mean that node."""
        try:
            found = {**self._neighbours.forgettable(node)}
        except UnknownNode:
            if not self._in_store.is_there:
                raise
            return {**_NOTHING}, [node]  # nodes of one store need not know each other
        return found, found.pop("destinations")

    async def forget(self, node: str, move_to: str, *, move_doubts: bool) -> dict[str, Any]:
        """Forgets a node; `move_to` gets what waits for it, also in the store. Raises `CannotForget`, OSError."""
        is_known = True
        try:
            places = self._neighbours.forgettable(node)["destinations"]
            done = await self._neighbours.forget(node, move_to, move_doubts=move_doubts)
        except UnknownNode as error:
            if not self._in_store.is_there:
                raise
            if not move_to:
                raise UnknownNode(
                    f"no node {node} is known here, and no task waits for it on this disk; `--move-to` passes on what waits for "
                    "it in the common store"
                ) from error
            is_known, places, done = False, [node], {**_NOTHING, **_DONE}
            _check(node, move_to)
        moved, missing = await self._in_store.give_on(places, move_to) if move_to else (0, "")
        if not (is_known or moved or missing):
            raise UnknownNode(f"no node {node} is known here, and no task waits for it, neither here nor in the common store")
        told = {name: value for name, value in done.items() if name != "destinations"}
        return {**told, "has_store": self._in_store.is_there, "moved_in_store": moved, "missing": missing}


def _check(node: str, move_to: str) -> None:
    """Raises `CannotForget` if tasks for that node cannot go there."""
    if move_to == "all" or not names.is_destination(move_to):
        raise CannotForget(f"tasks cannot be moved to {move_to!r}: name a node, tag:X or any")
    if move_to == node:
        raise CannotForget(f"{move_to} is the node that is to be forgotten")
