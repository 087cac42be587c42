"""Forgets a node that will never come back: its tasks go elsewhere or to dead/, and its name and id are free.

A task in doubt may have run there. So it goes to dead/, with a reason that says so, unless an operator wants it moved, too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

from spoolnode.cluster.known_file import KnownFile
from spoolnode.cluster.liveness import PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.placement import ALL, ANY, TAG, Placement
from spoolnode.cluster.redistribution import CHUNK
from spoolnode.node.log import Report
from spoolnode.node.neighbours import CannotForget, UnknownNode
from spoolnode.node.outbox.destination import NOBODY, UNSENT, Destination
from spoolnode.node.outbox.envelope import AskedPlace
from spoolnode.node.outbox.storage import Storage
from spoolnode.protocol import names

ROUNDS = 50
"""How often tasks are looked for that a link still holds, or that are moving to files of their own..."""
ROUND_SECONDS = 0.1
"""...and the pause after each round."""
GONE = (PeerState.DOWN, PeerState.REJECTED)
"""The states of a peer that may be forgotten."""
BURIED_TOGETHER = 32

Cut = Callable[[Iterable[str]], Awaitable[None]]
"""Ends the links to these destinations."""


class Meant(NamedTuple):
    """The node to be forgotten."""

    id: str
    """Empty if it is not known."""
    name: str
    peer: Peer | None
    destinations: tuple[str, ...]
    """All under which tasks may wait for it."""


class Forgetting:
    """Forgets nodes, for one node."""

    def __init__(
        self, table: PeerTable, known_file: KnownFile, placement: Placement, storage: Storage, cut: Cut, report: Report
    ) -> None:  # fmt: skip
        self._table = table
        self._known_file = known_file
        self._placement = placement
        self._storage = storage
        self._outbox = storage.outbox
        self._cut = cut
        self._report = report
        self._loop = asyncio.get_running_loop()

    def look(self, node: str) -> dict[str, Any]:
        """The tasks that wait here for a node that may be forgotten. Raises `CannotForget`."""
        meant = self._meant(node)
        in_doubt = sum(self._outbox.in_doubt(to) for to in meant.destinations)
        waiting = sum(self._outbox.size(to) for to in meant.destinations)
        sources = meant.peer.sources if meant.peer is not None else []
        return {
            "id": meant.id, "name": meant.name, "unsent": waiting - in_doubt, "in_doubt": in_doubt, "sources": sources,
            "destinations": [*meant.destinations],
        }  # fmt: skip

    async def forget(self, node: str, move_to: str, *, move_doubts: bool) -> dict[str, Any]:
        """Forgets a node.

        Args:
            node: its name, id or address.
            move_to: the destination that its tasks go to; empty is dead/.
            move_doubts: whether those in doubt go there, too.

        Returns:
            The answer of `look`, and how many tasks were `moved`, are `dead`, and are still there (`left`).

        Raises:
            CannotForget: it was not forgotten.
            OSError: the disk fails. Tasks that have moved stay moved.
        """
        meant, found = self._meant(node), self.look(node)
        if move_to:
            self._check(move_to, meant)
        if meant.peer is not None:
            self._table.forget(meant.peer)
            self._placement.retain(peer.id for peer in self._table)
        self._table.known.forget(meant.id)
        await self._known_file.save()
        await self._cut(meant.destinations)
        moved = dead = 0
        for _ in range(ROUNDS):
            for to in meant.destinations:
                if move_to:
                    moved += await self._move(to, move_to, meant, doubts=move_doubts)
                dead += await self._bury(to, doubts_only=bool(move_to))
            if not self._left(meant):
                break
            await asyncio.sleep(ROUND_SECONDS)
        await self._storage.journal.sync_marks()
        for to in meant.destinations:
            self._outbox.prune(to)
        await self._outbox.save()
        done = {"moved": moved, "dead": dead, "left": self._left(meant)}
        self._report("forgotten", node=meant.id or node, name=meant.name, **done, in_doubt=found["in_doubt"])
        return {**found, **done}

    def _left(self, meant: Meant) -> int:
        return sum(self._outbox.size(to) for to in meant.destinations)

    def _meant(self, node: str) -> Meant:
        if node in (ANY, ALL) or node.startswith(TAG) or not names.is_destination(node):
            raise CannotForget(f"{node!r} is not a node: name it by its name, its id or its address")
        if self._table.is_here(node):
            raise CannotForget(f"{node} is this node itself")
        known = self._table.known
        peer = self._table.destinations.meant(node) or self._table.find(node) or self._not_seen(known.holder(node) or node)
        if peer is None and known.holder(node) == "":
            raise CannotForget(self._table.destinations.why_not(node))
        if peer is not None and peer.state not in GONE:
            raise CannotForget(_why_not(peer))
        identity = (peer.id if peer is not None else "") or known.holder(node) or (node if names.is_node_id(node) else "")
        called = known.names().get(identity, []) if identity else []
        name = (peer.name if peer is not None else "") or next(iter(called), "")
        addresses = [address for address in peer.addresses if self._table.find(address) is peer] if peer is not None else []
        keys = tuple(dict.fromkeys(key for key in (node, identity, *called, *addresses) if key))
        if peer is None and not called and not any(self._outbox.size(key) for key in keys):
            raise UnknownNode(f"no node {node} is known here, and no task waits for it")
        return Meant(identity, name, peer, keys)

    def _not_seen(self, identity: str) -> Peer | None:
        """The peer that only a source names, and that has not answered since the start, at the last address of that node."""
        peer = self._table.find(self._table.known.address(identity))
        return peer if peer is not None and not peer.id else None

    def _check(self, move_to: str, meant: Meant) -> None:
        if move_to == ALL or not names.is_destination(move_to):
            raise CannotForget(f"tasks cannot be moved to {move_to!r}: name a node, tag:X or any")
        if move_to in meant.destinations:
            raise CannotForget(f"{move_to} is the node that is to be forgotten")
        is_known = move_to == ANY or self._table.is_here(move_to) or names.is_address(move_to)
        if move_to.startswith(TAG):
            is_known = self._placement.knows(move_to)
        if not is_known and self._table.destinations.meant(move_to) is None:
            raise CannotForget(f"tasks cannot be moved to {move_to}: no such node is known here")

    async def _move(self, to: str, move_to: str, meant: Meant, *, doubts: bool) -> int:
        def choose(asked: AskedPlace) -> str | None:
            del asked
            (place,) = self._placement.choose(move_to, self._loop.time())
            return None if place in meant.destinations else place

        moved = 0
        for owner in self._owners(to) if doubts else (NOBODY,):
            moved += await self._storage.moving.re_place(to, CHUNK, choose, owner)
        return moved

    async def _bury(self, to: str, *, doubts_only: bool) -> int:
        """Moves tasks to dead/. Returns how many went."""
        found, before = self._outbox.destination(to), self._outbox.size(to)
        for owner in self._owners(to):
            queue = found.queue(UNSENT if owner == NOBODY else owner)
            if doubts_only and owner == NOBODY:
                continue
            for _ in range(-(-queue.size // BURIED_TOGETHER)):  # not for ever if the disk takes none
                self._bury_some(found, owner)
            await self._storage.journal.moves.run(lambda: None)  # the disk has moved these
        return before - self._outbox.size(to)

    def _bury_some(self, found: Destination, owner: str) -> None:
        chosen = found.take(owner, BURIED_TOGETHER, BURIED_TOGETHER)
        if chosen is not None:
            taken, whose = chosen
            reason = "the node was forgotten"
            self._storage.shipping.give_up(found.name, whose, taken, f"{reason}, and may have the task" if whose else reason)

    def _owners(self, to: str) -> list[str]:
        """The nodes with which tasks are in doubt, and at last the one for those that were never sent."""
        return [*(owner for owner, queue in self._outbox.destination(to).doubts.items() if queue.size), NOBODY]


def _why_not(peer: Peer) -> str:
    who = peer.name or peer.id or next(iter(peer.addresses), "the node")
    state = "has not been tried yet" if peer.state is PeerState.UNKNOWN else f"is {peer.state.value}"
    return f"{who} {state}; only a node that is down can be forgotten"
