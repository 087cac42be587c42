"""A node: everything put together, and its process from the start to the end."""

import asyncio
import contextlib
import gc
import os
import random
import resource
import secrets
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from spoolnode.node import log
from spoolnode.node.background import spawn
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.commons import OWN_STORE, Commons, NoCommons
from spoolnode.node.config import Config
from spoolnode.node.control.access import Access, read_token
from spoolnode.node.control.actions import Actions
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.asked_results import AskedResults
from spoolnode.node.control.asked_tasks import AskedTasks
from spoolnode.node.control.cancels import Cancels
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.events import Events
from spoolnode.node.control.hidden import Hidden
from spoolnode.node.control.http import Control
from spoolnode.node.control.https import HttpCertificate
from spoolnode.node.control.in_store import InStore
from spoolnode.node.control.operated import OperatedByOthers
from spoolnode.node.control.operating import Operating
from spoolnode.node.control.public import PublicServer
from spoolnode.node.control.routes import table
from spoolnode.node.control.sessions import Sessions
from spoolnode.node.control.status import NodeStatus, ThisProcess
from spoolnode.node.control.stop import Stop
from spoolnode.node.control.stories import Stories
from spoolnode.node.control.views import Views
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.host import Host, SharingHost
from spoolnode.node.housekeeping import Housekeeping
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.listener import Listener, bind_all, name_of
from spoolnode.node.ingress.services import OtherRequests, Services
from spoolnode.node.ingress.shared import Sharing, Way
from spoolnode.node.ingress.tls import Certified
from spoolnode.node.life import Life
from spoolnode.node.neighbours import Alone, Neighbours
from spoolnode.node.notify import Notifier
from spoolnode.node.outbox.links import boot_id
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.places import Places
from spoolnode.node.reload import LoadAnswer, Reloads, watch_sources
from spoolnode.node.spool.clock import Watch
from spoolnode.node.spool.hold import Hold, lock_spool
from spoolnode.node.spool.identity import read_identity
from spoolnode.node.spool.inbox import Inbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.node.story.broadcast import Broadcast
from spoolnode.node.story.database import StoryDatabase
from spoolnode.node.story.keeper import StoryKeeper, Untold
from spoolnode.node.timekeeper import Timekeeper
from spoolnode.node.work.leftovers import end_leftovers, reap_orphans
from spoolnode.node.work.pool import WorkerPool
from spoolnode.node.work.supervisor import AppBroken
from spoolnode.node.work.warden import Warden
from spoolnode.node.work.workers import Hands
from spoolnode.protocol.headers import variable_of

Join = Callable[[Host], Neighbours]
Share = Callable[[SharingHost], Commons]


class Node:
    """One running node. To its cluster it is a `Host`."""

    def __init__(
        self, config: Config, report: log.Report, warden: Warden, join: Join | None = None, trust: Certified | None = None,
        sockets: Sequence[socket.socket] = (), share: Share | None = None,
    ) -> None:  # fmt: skip
        """Prepares a node; `run` starts it.

        Args:
            warden: ends what tasks have started when this process is killed.
            join: makes the part that connects it to other nodes; without it, the node is alone.
            trust: its certificate, when it takes TLS.
            sockets: those that were handed over, which it listens on instead of those of `config`.
            share: makes the part that connects it to a common store.
        """
        self.config = config
        self.report = report
        self.instance = warden.instance
        self.home = os.path.join(_here(), config.chdir)
        """The application's working directory, with the links in it."""
        self._join, self._share = join, share
        self._trust = trust
        self._handed_over = [*sockets]
        self._warden = warden
        self._layout = Layout(config.spool)
        self._loop = asyncio.get_running_loop()
        self._began = time.monotonic()
        self._clock = Watch(self._began, time.time())
        self._ignored: set[signal.Signals] = set()
        self._notifier = Notifier.of(os.environ)

    def __repr__(self) -> str:
        return f"<Node {self.config.name} in {self._layout.root}>"

    async def run(self) -> int:
        """Runs until a signal says stop. Returns the exit status.

        Raises:
            BadConfig: it cannot start with these settings.
            AppBroken: the application does not load.
        """
        self._check_home()
        _raise_descriptor_limit()
        self._loop.set_exception_handler(self._report_mistake)
        self._handle_signals()  # they are heard from the first turn of the loop on, when everything is there that they need
        with lock_spool(self._layout) as hold:
            self._read_spool()
            self._put_together(hold)
            await self._commons.open()
            try:
                await self._life.start()
            except AppBroken:
                if self._stop.is_asked:
                    return 0  # it was still loading when we were told to stop, and was killed for that
                raise
            await self._stop.wait()
            self._notifier.stopping()
            self._timekeeper.stop()
            await self._life.shut_down()
            with contextlib.suppress(OSError):  # the next start then finds nothing alive
                os.unlink(self._layout.instance)
        return 0

    def _check_home(self) -> None:
        if not os.path.isdir(self.home):
            raise BadConfig(f"--chdir is {self.config.chdir!r}: there is no directory {self.home}")

    # -- assembly --

    def _read_spool(self) -> None:
        """Finds the tasks on the disk, and the identity of this node."""
        config, layout, report = self.config, self._layout, self.report
        prepare(Store(RealDisk(), layout, ""), report)
        identity = read_identity(layout, report)
        self.id, self.key = identity.id, identity.key()
        self._own = identity.files(layout)
        self._broadcast = Broadcast(self._keeper() or Untold(), self.id)
        journal = Journal(
            RealDisk(), layout, self.id, sync=config.sync == "always",
            report=partial(report, node=config.name),
            trace=partial(report, node=config.name) if config.log_level == "debug" else None, story=self._broadcast,
        )  # fmt: skip
        policy = RetryPolicy(config.max_attempts, config.retry_base, config.retry_max)
        self.storage = Storage(journal, policy, random.Random())  # jitter
        self._inbox = Inbox(self.storage.spool.files, journal, report)
        self._inbox.watch()
        self.storage.load(boot_id(time.time()))
        self._inbox.warn_of_unscanned()

    def _keeper(self) -> StoryKeeper | None:
        """Keeps the stories of tasks; None without --history."""
        config = self.config
        if not config.history:
            return None
        database = StoryDatabase(self._layout, seconds=config.history, tasks=config.history_tasks, min_free=config.min_free)
        return StoryKeeper(database, self.id, config.name, self.report)

    def _put_together(self, hold: Hold) -> None:
        """Builds all parts, and starts none of them."""
        config, layout, storage, report, rarely = self.config, self._layout, self.storage, self.report, log.rarely(self.report)
        sockets = self._handed_over or bind_all(config)
        self.addresses = [name_of(sock) for sock in sockets]
        alone = Alone(config.name, self.id, [*config.listen, *self.addresses], config.tag)
        self._neighbours = neighbours = self._join(self) if self._join else alone
        self._commons = commons = self._share(self) if self._share else NoCommons()
        self._admission = admission = Admission(
            storage, neighbours.route, max_body=config.max_body, min_free=config.min_free, sharing=self._sharing()
        )  # fmt: skip
        services = Services(
            admission, self.pinged, report, rarely, neighbours.greet, admission.hear_watermark, self._unknown,
            keep_headers=frozenset(variable_of(header) for header in config.keep_header),
        )  # fmt: skip
        self.storage.spool.group_commit.when_told(services.flush)
        commons.when_told(services.flush)
        listener = Listener(config, services, sockets, layout.socket, self._trust, are_handed_over=bool(self._handed_over))
        self._pool = pool = WorkerPool(config, self.storage.spool, self.storage.verdicts, self._facts(), report, self._warden)
        stories = Stories(storage.journal.story, neighbours, self.id)
        in_store = InStore(commons, storage.journal, partial(report, node=config.name))
        tasks = AskedTasks(storage, stories, pool.running, in_store)
        self._results = AskedResults(storage, neighbours, stories, tasks, in_store, config.keep_results)
        self._reloads = Reloads(pool.load, AppBroken, pool.room, partial(report, app=config.app))
        self._stop = Stop(pool, report, drains=config.drain_on_stop)
        self._aside = Counting(self.storage.journal.reader)
        self._timekeeper = timekeeper = Timekeeper(config.name, self.id, storage.journal, admission, neighbours, pool, report)
        self._status = status = NodeStatus(
            config=config, id=self.id, process=ThisProcess(self.instance, os.getpid(), self._began),
            storage=storage, services=services, listener=listener, workers=pool,
            neighbours=neighbours, aside=self._aside, stop=self._stop, commons=commons,
            log_dropped=lambda: report.dropped if isinstance(report, log.Log) else 0, timers=timekeeper,
        )  # fmt: skip
        cancels = Cancels(storage, neighbours, pool, self._aside, admission.keep_out, in_store)
        admin = TaskAdmin(storage, neighbours, pool, stories, cancels, self._aside, in_store, partial(report, node=config.name))
        self._broadcast.function_of = admin.function_of
        views = Views(storage, neighbours, status, admin, Hidden(config.hide))
        actions = Actions(config.app, storage, neighbours, admin, self._stop, self.ask_to_reload)
        sessions = Sessions(time.monotonic, partial(secrets.token_urlsafe, 32))
        certificate = HttpCertificate.of(config)
        token = read_token(config.http_token_file)
        access = Access(self.id, config.http_name, token, sessions, is_secure=certificate is not None)
        events = Events(self._broadcast, pool, neighbours)
        routes = table(views, events, actions, Operating(neighbours), access)
        operated = OperatedByOthers(config, routes, report)
        services.other_requests = OtherRequests(self._results.answer, cancels.answer, operated.answer)
        public = PublicServer(config, routes, status, access, report, certificate)
        self._control = Control(layout.control, routes, public, report)
        self._places = Places(hold, self._own, storage, admission, listener, self._control, report, rarely)
        housekeeping = Housekeeping(
            storage, pool, admission, config, report, sample=status.sample, look_around=self._look_around, clock=self._clock
        )
        housekeeping.note_free(housekeeping.measure())
        self._life = Life(
            config=config, report=report, stop=self._stop, storage=storage, services=services,
            listener=listener, inbox=self._inbox, neighbours=neighbours, workers=pool, reloads=self._reloads,
            control=self._control, housekeeping=housekeeping, before_load=self._before_load, ready=self._ready, commons=commons,
        )  # fmt: skip

    def _sharing(self) -> Sharing | None:
        """The way of requests into the common store; None without one."""
        if not self._commons.is_joined:
            return None
        config, neighbours = self.config, self._neighbours
        here = frozenset([config.name, self.id, *self._commons.addresses])
        keeps = config.store_away == "accept"
        return Sharing(self.storage, Way(self._commons, neighbours.route, neighbours.is_apart, self.id, here, keeps))

    def _unknown(self, destination: str) -> str:
        """A sentence for the sender of a task to an unknown node. Nodes that share a store need not know each other."""
        knows_all = not self._commons.is_joined or OWN_STORE in self.config.discover
        return self._neighbours.unknown(destination) if knows_all else ""

    def _facts(self) -> dict[str, Any]:
        """The facts that each worker is told."""
        return {
            "node_pid": os.getpid(), "root": self._layout.root, "node_id": self.id, "app": self.config.app,
            "timeout": self.config.timeout, "socket": self._layout.socket, "chdir": self.home,
            "frequency": self.config.spooler_frequency, "settings": dict(self.config.__dict__),
        }  # fmt: skip

    # -- life --

    async def _before_load(self) -> None:
        await end_leftovers(self.storage.journal.moves, self._layout.instance, self.instance, self.report)
        # From before the first load on: what changes while the application loads must not be missed.
        await watch_sources(self.config, self.home, self.ask_to_reload, self.report)

    def _ready(self) -> None:
        if os.getpid() == 1:
            spawn(reap_orphans(self._pool.pids))
        self._timekeeper.start()
        spawn(self._aside.read_dead())
        config = self.config
        self.report(
            "ready", listen=self.addresses, name=config.name, id=self.id, spool=self._layout.root, pid=os.getpid(),
            workers=config.workers if config.app else 0, app=config.app or "none: tasks are accepted and kept",
            waiting=self._status.ready_tasks, later=len(self.storage.spool.waiting.later), sync=config.sync,
            **({"http": self._control.http_address} if self._control.http_address else {}), **self._commons.told(),
        )  # fmt: skip
        self._notifier.ready()
        self._tell_status()

    async def _look_around(self) -> None:
        self._tell_status()
        await self._places.look()
        self._neighbours.tick()
        self._commons.tick()
        await self._results.tidy()
        await self._aside.recount()  # what pings tell

    def _tell_status(self) -> None:
        spool, running = self.storage.spool, len(self._pool.running())
        self._notifier.status(f"{running} running, {self._status.ready_tasks} waiting, {len(spool.waiting.later)} due later")

    def _report_mistake(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Logs an uncaught exception: a mistake of ours, which must not be lost among lines of another form."""
        del loop
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self.report("mistake", reason=context["message"], traceback=trace)

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ask_to_stop)
        self._loop.add_signal_handler(signal.SIGHUP, self.ask_to_reload)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            self._loop.add_signal_handler(number, self._ignore, number)

    def _ignore(self, number: signal.Signals) -> None:
        """Rules of log rotation that were made for other servers send it; said once."""
        if number not in self._ignored:
            self._ignored.add(number)
            self.report(
                "signal_ignored", signal=number.name, hint="the log goes to standard error; SIGHUP reloads, SIGTERM stops"
            )

    def _ask_to_stop(self) -> None:
        self._stop.ask()

    def ask_to_reload(self) -> LoadAnswer | None:
        """Replaces the workers, and reads the certificates again. Returns None without an application, or when stopping."""
        self._neighbours.reload()
        self._control.reload()
        if self._stop.is_asked:
            return None
        answer = self._reloads.ask() if self.config.app else None
        self._notifier.reloading(answer)
        return answer

    # -- looking --

    def is_apart(self, destination: str) -> bool:
        """Whether only a link reaches this destination: a node without the common store."""
        return self._neighbours.is_apart(destination)

    @property
    def hands(self) -> Hands:
        """Its workers, as its common store sees them."""
        return self._pool

    @property
    def admission(self) -> Admission:
        """Takes tasks, also those that its common store has for nodes without it."""
        return self._admission

    def status(self) -> dict[str, Any]:
        """The node in numbers."""
        return self._status.now()

    def pinged(self) -> dict[str, Any]:
        """The answer to a ping."""
        return {**self._status.for_ping(), "page": self._control.page}


def _here() -> str:
    """The directory where we were started, with its links (a deployment may change them), as the shell says."""
    here, said = os.getcwd(), os.environ.get("PWD", "")
    return said if os.path.isabs(said) and os.path.exists(said) and os.path.samefile(said, here) else here


def _raise_descriptor_limit() -> None:
    """Each connection takes a descriptor; the usual soft limit of 1024 is lower than --max-connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # then connections wait in the kernel, and `accept_failed` says why
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_node(
    config: Config, report: log.Report, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    join: Join | None = None, trust: Certified | None = None, sockets: Sequence[socket.socket] = (), share: Share | None = None,
) -> int:  # fmt: skip
    """Runs a node in the foreground; its exit status."""

    # By default (700) the collector looks again and again at every task in flight, none of which is garbage: 8 % of the CPU. With
    # far more, what thousands of connections have left is freed in one go, at 2 us each, and all else waits.
    gc.set_threshold(5_000, 5, 2_000)

    async def life() -> int:
        return await Node(config, report, warden, join, trust, sockets, share).run()

    warden = Warden(secrets.token_hex(8))
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            status = runner.run(life())
    except (AppBroken, BadConfig, OSError):
        warden.dismiss()
        raise
    warden.dismiss()
    return status
