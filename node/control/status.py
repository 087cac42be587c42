"""The node in numbers: for operators, for metrics, and for the nodes that ping it.

All names in it are a promise: people, Prometheus and other nodes read them.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from spoolnode.node.commons import COMMONS, Commons, NoCommons
from spoolnode.node.config import Config
from spoolnode.node.control.advice import Advice, Situation, advice
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.function_hours import FunctionHours, Runs
from spoolnode.node.control.last_hour import LastHour
from spoolnode.node.control.metrics import Numbers
from spoolnode.node.control.rates import Rates
from spoolnode.node.control.stop import Stop
from spoolnode.node.figures import Figures
from spoolnode.node.ingress.connections import Connections
from spoolnode.node.ingress.services import Services
from spoolnode.node.neighbours import Neighbours
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.roster import LastRun
from spoolnode.node.work.workers import Workers
from spoolnode.protocol.hello import PROTOCOL
from spoolnode.protocol.version import VERSION

PING_SECONDS = 0.05
"""How old the status in the answer to a ping may be, in seconds."""
LINKS_AT_ONCE = 500
"""Destinations that are checked in one turn of the loop: about three milliseconds."""


class Listening(Protocol):
    """The sockets of a node."""

    addresses: list[str]
    """The addresses where it listens, with the ports that the system chose for port 0."""
    connections: Connections


class Timers(Protocol):
    """The timers of the application."""

    def told(self) -> dict[str, LastRun]:
        """The part of the status about those of the whole cluster."""

    def rows(self) -> list[dict[str, Any]]:
        """All of them, for people."""


class ThisProcess(NamedTuple):
    """One run of the node."""

    instance: str
    """A token that tells it from another process with the same id (a copied spool directory)."""
    pid: int
    began: float
    """In monotonic seconds."""


class _Past(NamedTuple):
    """Notes for rates and plots."""

    rates: Rates
    nodes: LastHour[Figures]
    """By their ids."""
    functions: FunctionHours


@dataclass(eq=False, kw_only=True)
class NodeStatus:
    """The status of one node, collected from its parts."""

    config: Config
    id: str
    process: ThisProcess
    storage: Storage
    services: Services
    listener: Listening
    workers: Workers
    neighbours: Neighbours
    aside: Counting
    stop: Stop
    log_dropped: Callable[[], int]
    """Returns the number of log lines that could not be written."""
    timers: Timers
    commons: Commons = field(default_factory=NoCommons)
    _past: _Past = field(default_factory=lambda: _Past(Rates(), LastHour(), FunctionHours()))
    _pinged: tuple[float, dict[str, Any]] = (float("-inf"), {})
    """When the last status for a ping was made, and the status."""

    def __repr__(self) -> str:
        total, outbox = self.storage.spool.total, self.storage.outbox.total
        return f"<NodeStatus of {self.config.name}: {self.stop.state}, {total} tasks, {outbox} in the outbox>"

    def now(self) -> dict[str, Any]:
        """The node in numbers."""
        spool, outbox, counts = self.storage.spool, self.storage.outbox, self.storage.journal.counts
        workers, aside, services, admission = self.workers, self.aside.found, self.services, self.services.admission
        running = workers.running()
        rates = self._per_second()
        return {
            "name": self.config.name, "id": self.id, "spool": self.storage.journal.layout.root,
            "listen": self.listener.addresses, "tags": self.config.tag, "pid": self.process.pid,
            "uptime": round(time.monotonic() - self.process.began, 3),
            "state": self.stop.state, "sync": self.config.sync, "app": self.config.app,
            "workers": workers.ready, "worker_pids": workers.worker_pids, "old_workers": workers.leaving,
            "total": spool.total, "waiting": self.ready_tasks, "running": len(running),
            "held": workers.held, "later": len(spool.waiting.later), "retrying": self._retrying(running),
            "dead": aside.dead, "outbox": outbox.sizes(), "corrupt": aside.corrupt, "oldest_waiting": self.oldest_waiting(),
            "rates": {name: rate for name, rate in rates.items() if name != "busy"},
            "accepted": counts.accepted, "found": counts.found, "done": counts.done, "failed": counts.failed,
            "given_up": counts.died + counts.undelivered, "undelivered": counts.undelivered, "cancelled": counts.cancelled,
            "refused": {reason.name.lower(): n for reason, n in services.refusals.items()},
            "worker_deaths": workers.deaths, "task_seconds": round(workers.seconds, 6),
            "connections": self.listener.connections.count, "free": admission.free, "min_free": self.config.min_free,
            "outbox_total": outbox.total, "handshake_failures": services.handshake_failures,
            "forwarded": outbox.forwarded, "repeats": counts.repeats, "duplicates": spool.duplicates.count,
            **self._for_peers(rates), **self.neighbours.status(), **self.commons.status(),
            "log_dropped": self.log_dropped(), "history_dropped": self.storage.journal.story.dropped, **self.paused(),
        }  # fmt: skip

    def paused(self) -> dict[str, Any]:
        """Whether everything is paused, and which functions are."""
        paused = self.storage.pauses.now
        return {"paused": paused.everything, "paused_functions": sorted(paused.functions)}

    def for_ping(self) -> dict[str, Any]:
        """The status for a ping. It is kept for a moment: clients may ping thousands of times at once."""
        now = time.monotonic()
        if now - self._pinged[0] > PING_SECONDS:
            self._pinged = now, _for_ping(self.now()) | {"timers": self.timers.told()}
        return self._pinged[1]

    def link(self, to: str) -> dict[str, Any] | None:
        """The state of the way to a destination."""
        return self.commons.link() if to == COMMONS else self.neighbours.link(to)

    async def in_full(self) -> dict[str, Any]:
        """The same with the links, which only operators want."""
        await self.aside.recount()
        links = {}
        for index, (to, size) in enumerate(self.storage.outbox.sizes().items(), 1):
            link = self.link(to)
            if link is not None:
                links[to] = {"waiting": size, "in_doubt": self.storage.outbox.in_doubt(to), **link}
            if index % LINKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return {**self.now(), "links": links}

    async def for_metrics(self) -> Numbers:
        """The same with what only metrics tell."""
        spool, journal, status = self.storage.spool, self.storage.journal, await self.in_full()
        if status["dead"]:  # those that were cancelled need not alarm an operator
            status["dead"] = max(status["dead"] - await self.aside.cancelled(), 0)
        return Numbers(
            status=status, is_ready=not self.refuses(), peers=self.neighbours.peers(),
            limits=spool.starting.throttle.limits(), held_back=spool.starting.held_back(), history_rows=journal.story.rows,
            functions=spool.timings.told(),
        )  # fmt: skip

    def refuses(self) -> str:
        """Why no tasks should be sent to this node; empty if it takes them. It stores them also when no worker is up."""
        if self.stop.is_asked:
            return "stopping"
        if self.services.admission.closed:
            return self.services.admission.closed
        return "the disk is full" if self.services.admission.is_low else self.commons.refuses()

    def problem(self) -> str:
        """Why this node should not get work now; empty if it is well."""
        if reason := self.refuses():
            return reason
        return "no worker is up" if self.config.app and not self.workers.ready else ""

    @property
    def ready_tasks(self) -> int:
        """Tasks that wait for a worker, not for their time."""
        spool = self.storage.spool
        return max(spool.total + len(self.storage.held.known) - len(spool.waiting.later) - self.workers.held, 0)

    def _retrying(self, running: list[dict[str, Any]]) -> int:
        """Tasks that wait for another attempt: those that failed, without those that are just being tried again."""
        retrying, spool = self.storage.spool.retrying, self.storage.spool
        again = (spool.find(row["id"]) for row in running) if len(retrying) else iter(())
        return len(retrying) - sum(1 for found in again if found is not None and retrying.has(*found))

    def oldest_waiting(self) -> float | None:
        """Seconds that the oldest ready task has waited; None if none waits."""
        oldest = self.storage.spool.waiting.ready.oldest()
        return None if oldest is None else round(max(time.time() - oldest, 0.0), 3)

    def sample(self) -> None:
        """Notes the counters, from time to time: rates are since then."""
        now = time.monotonic()
        self._past.rates.sample(now, self._counters())
        self._past.nodes.sample(now, self._figures)
        self._past.functions.sample(now, self.storage.spool.timings.told)

    def history(self) -> dict[str, list[Figures | None]]:
        """The last hour of each node, minute by minute."""
        return self._past.nodes.series(time.monotonic(), self._figures())

    def functions(self) -> dict[str, list[Runs | None]]:
        """The last hour of each function, minute by minute."""
        return self._past.functions.series(time.monotonic(), self.storage.spool.timings.told())

    def advice(self) -> list[Advice]:
        """Troubles and remedies, for people."""
        return advice(
            Situation(
                now=time.time(), status=self.now(), wants_workers=bool(self.config.app and self.config.workers),
                refuses=self.refuses(), peers=self.neighbours.peers(), nodes=self.history(), functions=self.functions(),
                lacking=self.storage.spool.retrying.lacking,
            )
        )  # fmt: skip

    def _figures(self) -> dict[str, Figures]:
        """The numbers of each node, by its id."""
        others = {row["id"]: row["figures"] for row in self.neighbours.peers() if row["id"]}
        return {self.id: Figures.of(self.now()), **others}

    @property
    def address(self) -> str:
        """Where other nodes reach it."""
        return self.config.advertise or next(iter(self.listener.addresses), "")

    def _per_second(self) -> dict[str, float]:
        return self._past.rates.per_second(time.monotonic(), self._counters())

    def _counters(self) -> dict[str, float]:
        """The values that only rise and whose rates are shown."""
        counts = self.storage.journal.counts
        return {
            "accepted": counts.accepted, "found": counts.found, "done": counts.done, "failed": counts.failed,
            "busy": self.workers.busy,
        }  # fmt: skip

    def _for_peers(self, rates: dict[str, float]) -> dict[str, Any]:
        """The part of the status by which other nodes decide."""
        admission = self.services.admission
        return {
            "cluster": self.config.cluster, "protocol": PROTOCOL, "version": VERSION, "instance": self.process.instance,
            "pace": self._pace(rates), "time": time.time(),
            "draining": self.stop.is_asked, "accepting": not (admission.closed or admission.is_low),
        }  # fmt: skip

    def _pace(self, rates: dict[str, float]) -> float:
        """Tasks a second that the workers do when they have work, over the last minute; 0.0 if unknown."""
        ended, busy = rates["done"] + rates["failed"], rates["busy"]
        return round(len(self.workers.worker_pids) * ended / busy, 3) if busy > 0 else 0.0


def _for_ping(status: dict[str, Any]) -> dict[str, Any]:
    """A status without the parts that grow with the number of names: an answer to a ping has room for 64 KiB."""
    return {name: value for name, value in status.items() if name not in ("outbox", "paused_functions")}
