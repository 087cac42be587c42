"""The order in which the parts of a node start and stop. The simulation uses it, too.

Start: the node takes over tasks that waited for itself, opens the sockets for operators and workers, and loads the application.
Only then does it take dropped files, tell its peers, and hand out tasks.

Stop: the node lets running tasks end, and says goodbye to its peers. It takes in tasks meanwhile, because that needs only the
disk; a node that is drained does not. Then it stops listening, hears the requests that have begun, and refuses what comes.
Waiting tasks are handed over, if asked for, or get files of their own. Then links, disk threads and connections end, in this
order, so that every promise is kept and every answer is sent.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.commons import COMMONS, Commons, NoCommons
from spoolnode.node.config import Config
from spoolnode.node.control.stop import Stop
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.ingress.services import Services
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.reload import Reloads
from spoolnode.node.work.supervisor import AppBroken
from spoolnode.node.work.workers import Workers
from spoolnode.protocol.request import Terms

SETTLE_AT_STOP = 1000
"""Tasks in batches that get files of their own at each clean stop: about half a second."""


class Sockets(Protocol):
    """The sockets for clients and peers."""

    def open(self) -> None:
        """Listens."""

    def open_own(self) -> None:
        """Listens on the node's own socket too. Raises BadConfig."""

    def close(self) -> None:
        """Stops listening. Connections that wait for an answer still get it."""

    async def finish(self) -> None:
        """Returns when the requests that have begun are whole, or after a while."""

    async def close_streams(self) -> None:
        """Ends the connections that are left. What has come on them is read before."""


class Drops(Protocol):
    """The directories where tasks are dropped as files."""

    def start(self) -> None:
        """Starts to take files."""

    def stop(self) -> None:
        """Stops taking files."""


class Desk(Protocol):
    """The control interface."""

    async def start(self) -> None:
        """Starts to answer. Raises BadConfig."""

    async def stop(self) -> None:
        """Stops answering."""


async def nothing() -> None:
    """Does nothing."""


@dataclass(eq=False, kw_only=True)
class Life:
    """The parts of a node that start and stop."""

    config: Config
    report: Callable[..., None]
    stop: Stop
    storage: Storage
    services: Services
    listener: Sockets
    inbox: Drops
    neighbours: Neighbours
    workers: Workers
    reloads: Reloads
    control: Desk
    housekeeping: Housekeeping
    ready: Callable[[], None]
    """Called once the node is up, before the first task is handed out."""
    before_load: Callable[[], Awaitable[None]] = nothing
    """Called once operators can ask, before the application loads."""
    commons: Commons = field(default_factory=NoCommons)

    async def start(self) -> None:
        """Starts all parts. If that raises (AppBroken, BadConfig, OSError), all of them have ended again."""
        # The listener is open before the workers start: an application may enqueue while it is imported.
        self.listener.open()
        await self._claim_outbox()
        try:
            await self.control.start()
            self.listener.open_own()
            await self.before_load()
            if self.config.app and not self.stop.is_asked:
                await self.reloads.first()
        except (AppBroken, BadConfig, OSError):
            self.listener.close()
            await self._end()
            raise
        self.inbox.start()
        await self.neighbours.start()
        await self.commons.start()
        self.stop.started()
        self.ready()
        self.housekeeping.start()

    async def shut_down(self) -> None:
        """Ends all parts, with grace unless it is asked for again."""
        running, hint = len(self.workers.running()), "a second SIGTERM ends it at once"
        self.report("stopping", running=running, grace=self.config.grace, hint=hint)
        if self.stop.drains:
            self.services.admission.stop("this node is draining")
            self.listener.close()
        self.inbox.stop()
        await self.reloads.stop()
        self.commons.leave()
        await asyncio.gather(self.neighbours.leave(), self.workers.stop())
        await self._close_door()
        if self.stop.drains and not self.stop.is_hasty:
            await self._drain()
        if self.stop.leaves_files or self.storage.journal.in_batches <= SETTLE_AT_STOP:
            # People, and a uWSGI server, find what waits as spool files.
            await self.storage.settle_all(lambda: not self.stop.is_hasty)
        await self._end()
        self.report("stopped", waiting=self.storage.spool.total, outbox=self.storage.outbox.total)

    async def _close_door(self) -> None:
        """Takes in no more tasks. In sockets that were handed over, new connections wait for the next start."""
        self.listener.close()
        if not self.stop.is_hasty:
            await self.listener.finish()
        self.services.admission.stop("this node is draining" if self.stop.drains else "this node is stopping")

    async def _claim_outbox(self) -> None:
        """Takes over tasks that waited for a destination that is this node now (it got that name, or that address)."""
        for to, count in self.storage.outbox.sizes().items():
            if to == COMMONS:
                await self._claim_from_commons(count)
                continue
            is_here = self.neighbours.route(Terms(destination=to)) == [""]
            if is_here and (claimed := await self.storage.moving.re_place(to, count, lambda _asked: "")):
                self.report("claimed", destination=to, tasks=claimed)

    async def _claim_from_commons(self, count: int) -> None:
        """Tasks that waited for a common store go where their senders asked, if this node has no store any more."""
        if not self.commons.is_joined and (
            claimed := await self.storage.moving.re_place(
                COMMONS, count, lambda asked: self.neighbours.route(Terms(destination=asked.destination))[0]
            )
        ):
            self.report("claimed", destination=COMMONS, tasks=claimed)

    async def _drain(self) -> None:
        try:
            await self.stop.unless_hasty(self._hand_over())
        except Exception as error:  # noqa: BLE001  # the rest of the stop must not depend on it; it is reported in full
            self.report("mistake", reason="the drain ended early", traceback="".join(traceback.format_exception(error)))
        left = self.storage.spool.total + self.storage.outbox.total
        self.report("drained", left=left, kept="on disk, for the next start" if left else "nothing")

    async def _hand_over(self) -> None:
        await self.neighbours.drain(self.config.grace)

    async def _end(self) -> None:
        await self.housekeeping.stop()
        self.workers.stop_now()
        await self.neighbours.stop()
        await self.commons.stop()
        await self.control.stop()
        await self.services.admission.close()
        await self.storage.close()
        self.services.flush()
        await self.listener.close_streams()  # what came meanwhile is read, and refused, so that its senders are not in doubt
        # The last answers leave with the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)
