"""Tasks that another node should run than the one where they are: those chosen for a node that is down are chosen again, a node
with too much to do shares, one that drains hands over what waits.

`placement` and `sharing` decide how many each node gets; the tasks go by `Storage.moving`.
"""

import asyncio
import contextlib
from collections.abc import Callable

from spoolnode.cluster import sharing
from spoolnode.cluster.liveness import ALIVE, PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peer_status import Load
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.placement import ANY, HERE, TAG, Placement
from spoolnode.cluster.timing import Timing
from spoolnode.node.background import spawn
from spoolnode.node.config import Config
from spoolnode.node.log import Report
from spoolnode.node.outbox.envelope import AskedPlace
from spoolnode.node.outbox.moving import Kept
from spoolnode.node.outbox.storage import Storage
from spoolnode.protocol import names

CHUNK = 256
"""Tasks that are moved together: each group takes one round of fsyncs, and the node answers in between."""
MOST_LOOKS = 8
"""Most groups of tasks that one round of sharing looks at."""


class Redistribution:
    """The moves of one node.

    Args:
        table: the peers.
        placement: chooses nodes, and hears what was placed.
        storage: the tasks.
        config: `--share`; and whether this node runs tasks.
        report: told of what was moved.
        own_load: how much this node has to do.
        wake: to be called when peers are to be pinged at once.
        timing: how long to wait for what.
    """

    def __init__(
        self, table: PeerTable, placement: Placement, storage: Storage, config: Config, report: Report,
        own_load: Callable[[], Load], wake: Callable[[], None], timing: Timing,
    ) -> None:  # fmt: skip
        self._table = table
        self._placement = placement
        self._storage = storage
        self._config = config
        self._report = report
        self._own_load = own_load
        self._wake = wake
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._again: set[str] = set()
        """Destinations whose tasks are chosen again."""
        self._moving = False
        self.is_leaving = False
        """Nothing moves by itself any more."""
        self.happened = asyncio.Event()
        """Something happened at a peer or on a link."""

    def peer_changed(self, peer: Peer) -> None:
        """Its state is another one."""
        if peer.state is PeerState.UP:
            self.look_again()
        elif self._is_lost(peer.id):
            self._again.add(peer.id)
        self.happened.set()
        self.move_soon()

    def look_again(self) -> None:
        """Looks again for nodes for tasks that wait for a tag, or for a node that is down."""
        self._again.update(to for to in self._storage.outbox.sizes() if to.startswith(TAG) or self._is_lost(to))
        self.move_soon()

    def move_soon(self) -> None:
        """Moves what should be elsewhere, unless that is under way already."""
        if not self._moving and not self.is_leaving:
            self._moving = True
            spawn(self._move())

    async def _move(self) -> None:
        """Chooses again for tasks of peers that are down, and offers the excess to others."""
        try:
            while self._again:
                await self._choose_again(self._again.pop())
            if self._config.share:
                await self._share(self._config.share)
        finally:
            self._moving = False

    def _is_lost(self, to: str) -> bool:
        """Whether this is the id of a node that is down, or not known since the start."""
        peer = self._table.get(to)
        if peer is None:
            return names.is_node_id(to) and self._loop.time() - self._started > self._timing.unknown
        return peer.state in (PeerState.DOWN, PeerState.REJECTED)

    async def _choose_again(self, to: str) -> None:
        chosen: set[str] = set()

        def choose(asked: AskedPlace) -> str | None:
            place = another(asked)
            if place is not None:
                chosen.add(place)
            return place

        def another(asked: AskedPlace) -> str | None:
            if not asked.destination:  # it was shared, or moved by a drain
                return HERE if self._config.app and not self.is_leaving else None
            if asked.destination != ANY and not asked.destination.startswith(TAG):
                return None
            (place,) = self._placement.choose(asked.destination, self._loop.time())
            return None if place == to else place

        if moved := await self._storage.moving.re_place(to, CHUNK, choose):
            named = {"name": name} if (name := self._table.destinations.name_of(to)) else {}
            places = sorted(self._for_people(place) for place in chosen)
            self._report("chosen_again", destination=to, **named, tasks=moved, chosen=", ".join(places))

    def _for_people(self, place: str) -> str:
        name = self._table.destinations.name_of(place)
        return "this node" if place == HERE else f"{name} ({place})" if name else place

    async def _share(self, seconds: float) -> None:
        own = self._own_load()
        aside: list[Kept] = []
        try:
            for peer, count in sharing.offers(own, self._loads(), seconds, self._storage.spool.waiting.ready.size).items():
                moved = 0
                while moved < count and len(aside) < MOST_LOOKS:
                    went = await self._give(peer, min(CHUNK, count - moved), aside)
                    if went is None:
                        break
                    moved += went
                if moved:
                    self._report("shared", peer=peer, tasks=moved)
        finally:
            self._storage.moving.put_back(aside)

    async def _give(self, peer: str, count: int, aside: "list[Kept]") -> int | None:
        tags = self._tags(peer)

        def choose(asked: AskedPlace) -> str | None:
            return peer if self._may_move(asked, tags) and sharing.may_be_shared(asked.hops) else None

        moved = await self._storage.moving.give_away(count, choose, aside)
        self._placement.placed(peer, moved or 0)
        return moved

    def _may_move(self, asked: AskedPlace, tags: frozenset[str]) -> bool:
        """Whether a task that waits here may go to a node with these tags: not if it was addressed to this node."""
        if asked.destination.startswith(TAG):
            return asked.destination.removeprefix(TAG) in tags
        return asked.destination in ("", ANY)

    async def drain(self, seconds: float) -> int:
        """Hands the waiting tasks of this node to peers, for at most so many seconds; how many went."""
        spool = self._storage.spool
        handed, deadline = 0, self._loop.time() + seconds
        aside: list[Kept] = []
        since = await self._ask_all(deadline)
        try:
            while self._loop.time() < deadline:
                shares = sharing.spread(min(CHUNK, spool.waiting.ready.size + len(spool.waiting.later)), self._loads(since))
                went = await self._spread(shares, aside) if shares else None
                if went is None:
                    break
                handed += went
        finally:
            self._storage.moving.put_back(aside)
        while self._loop.time() < deadline and self._undelivered():
            await self._news(deadline)
        return handed

    async def _ask_all(self, deadline: float) -> float:
        """Pings all live peers: a drain has only one chance, and their last answers may be too old for it.

        Returns:
            The time since which answers count; if none has come, all count.
        """
        began = self._loop.time()
        asked = [peer for peer in self._table if peer.state in ALIVE]
        for peer in asked:
            self._table.ask_again(peer, began)
        self._wake()
        deadline = min(deadline, began + min(self._timing.ask, (deadline - began) / 4))
        while self._loop.time() < deadline and any(peer.pings.status_at < began and peer.state in ALIVE for peer in asked):
            await self._news(deadline)
        return began if any(peer.pings.status_at >= began for peer in asked) else float("-inf")

    async def _news(self, deadline: float) -> None:
        """Waits for an event of a peer or a link, for at most a second."""
        self.happened.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(1.0, max(deadline - self._loop.time(), 0.01))):
                await self.happened.wait()

    async def _spread(self, shares: dict[str, int], aside: "list[Kept]") -> int | None:
        places = [peer for peer, count in shares.items() for _ in range(count)]
        tags = {peer: self._tags(peer) for peer in shares}

        def choose(asked: AskedPlace) -> str | None:
            fitting = next((place for place in places if self._may_move(asked, tags[place])), None)
            if fitting is not None and asked.hops < names.MAX_HOPS:
                places.remove(fitting)
                return fitting
            return None

        return await self._storage.moving.give_away(len(places), choose, aside, later=True)

    def _undelivered(self) -> bool:
        """Whether tasks wait for a peer that is up."""
        for to in self._storage.outbox.sizes():
            target = self._table.destinations.resolve(to)
            if target is not None and target.state is PeerState.UP:
                return True
        return False

    def _loads(self, since: float = float("-inf")) -> dict[str, Load]:
        """The loads of the peers that can run tasks and have answered `since`."""
        sizes = self._storage.outbox.sizes()
        fresh = [peer for peer in self._table if peer.pings.status_at >= since]
        up = [peer for peer in fresh if peer.state is PeerState.UP and peer.status is not None and peer.status.works]
        return {peer.id: Load.of(peer.status, sizes.get(peer.id, 0)) for peer in up if peer.status is not None and peer.id}

    def _tags(self, peer: str) -> frozenset[str]:
        known = self._table.get(peer)
        return known.status.tags if known is not None and known.status is not None else frozenset()
