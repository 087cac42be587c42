"""A node: everything put together, started in order, stopped in order."""

import asyncio
import contextlib
import gc
import os
import random
import resource
import secrets
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from spoolnode.node import log
from spoolnode.node.background import spawn
from spoolnode.node.config import BadConfig, Config
from spoolnode.node.control.http import Control
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, is_priority
from spoolnode.node.housekeeping import HOUSEKEEPING_SECONDS, Housekeeping
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.conversation import Services
from spoolnode.node.ingress.listener import Listener
from spoolnode.node.ingress.tls import Certified
from spoolnode.node.neighbours import Alone, Greeting, Neighbours
from spoolnode.node.outbox.links import boot_id
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.reload import LoadAnswer, Reloads, stamps, watch_files, watch_source
from spoolnode.node.spool.clock import Watch
from spoolnode.node.spool.hold import Hold, lock_spool
from spoolnode.node.spool.inbox import Inbox
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.recovery import prepare
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.spool.store import Store
from spoolnode.node.work import strays
from spoolnode.node.work.pool import AppBroken, WorkerPool
from spoolnode.node.work.warden import Warden
from spoolnode.protocol.headers import variable_of
from spoolnode.protocol.hello import PROTOCOL, Hello
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.request import Terms
from spoolnode.protocol.version import VERSION

"""How often marks are synced, old batches closed and settled, and the free space looked at."""
SETTLE_AT_STOP = 1000
"""Tasks in batches that get files of their own at each clean stop: about half a second."""
PING_SECONDS = 0.05
"""How old the status in the answer to a ping may be."""


Join = Callable[["Node"], Neighbours]


class Node:
    """One running node."""

    def __init__(
        self, config: Config, report: log.Report, warden: Warden, join: Join | None = None, trust: Certified | None = None
    ) -> None:
        """A node that is not started.

        Args:
            warden: ends what tasks have started when this process is killed.
            join: makes what connects it to others; without it, it is alone.
            trust: its certificate, when it takes TLS.
        """
        self.config = config
        self._join = join
        self._trust = trust
        self._warden = warden
        self.instance = warden.instance
        """Tells this process from another one with the same node id (a copied spool directory)."""
        self.layout = Layout(config.spool)
        self.home = os.path.join(_here(), config.chdir)
        """The application's working directory, with the links in it."""
        self._hold: Hold
        self.report = report
        self.started = time.time()
        self._began = time.monotonic()
        self._clock = Watch(self._began, self.started)
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._signals = 0
        self._ignored: set[signal.Signals] = set()
        self._is_up = False
        self._is_lost = False
        """The spool directory is not where it was."""
        self._drains = config.drain_on_stop
        """Waiting tasks are handed over at the end."""
        self.leaves_files = False
        """All that waits is to have files of its own at the end."""
        self._draining: asyncio.Task[int] | None = None
        self._ping_at = float("-inf")
        self._ping_status: dict[str, Any] = {}

    # -- life --

    def _check_home(self) -> None:
        if not os.path.isdir(self.home):
            raise BadConfig(f"--chdir is {self.config.chdir!r}: there is no directory {self.home}")

    async def run(self) -> int:
        """Runs until a signal says stop; the exit status.

        Raises:
            BadConfig: it cannot start with these settings.
            AppBroken: the application does not load.
        """
        self._check_home()
        _raise_descriptor_limit()
        self._loop.set_exception_handler(self._report_mistake)
        self._handle_signals()  # they are heard from the first turn of the loop on, when everything is there that they need
        with lock_spool(self.layout) as hold:
            self._hold = hold
            try:
                await self._start()
            except AppBroken:
                if self._stop.is_set():
                    return 0  # it was still loading when we were told to stop, and was killed for that
                raise
            await self._stop.wait()
            await self._shut_down()
            with contextlib.suppress(OSError):  # the next start then finds nothing alive
                os.unlink(self.layout.instance)
        return 0

    async def _start(self) -> None:
        config, layout = self.config, self.layout
        prepare(Store(RealDisk(), layout, ""), self.report)
        self.id, secret = read_identity(layout, self.report)
        self.key = NodeKey(bytes.fromhex(secret)) if secret else None
        self._own = own_files(layout, self.id, secret)
        policy = RetryPolicy(config.max_attempts, config.retry_base, config.retry_max)
        self.journal = Journal(
            RealDisk(), layout, self.id, sync=config.sync == "always",
            report=self.report, trace=self.report if config.log_level == "debug" else None,
        )  # fmt: skip
        self.storage = Storage(self.journal, policy, random.Random())  # jitter
        self.spool, self.outbox, self.moving = self.storage.spool, self.storage.outbox, self.storage.moving
        self.inbox = Inbox(self.spool, self.report)
        self.inbox.watch()
        self.storage.load(boot_id(time.time()))
        self._warn_of_unscanned()
        self.admission = Admission(self.storage, self._route, max_body=config.max_body, min_free=config.min_free)
        self._rarely = rarely = log.rarely(self.report)
        self.services = Services(
            self.admission, self._pinged, self.report, rarely, self._greet, self.admission.hear_watermark, self._unknown,
            keep_headers=frozenset(variable_of(header) for header in config.keep_header),
        )  # fmt: skip
        self.spool.group_commit.when_told(self.services.flush)
        self.listener = Listener(config, self.services, self._trust)
        self.pool = WorkerPool(config, self.spool, self._facts(), self.report, self._warden)
        self.reloads = Reloads(self.pool.load, AppBroken, self.pool.room, partial(self.report, app=config.app))
        self.control = Control(self)
        self.housekeeping = Housekeeping(
            self.storage, self.pool, self.admission, self.report,
            hold=config.hold, min_free=config.min_free, look_around=self._look_around, clock=self._clock,
        )  # fmt: skip
        self.housekeeping.note_free(self.housekeeping.measure())
        # The listener is open before the workers start: an application may enqueue while it is imported.
        self.listener.open(layout.socket)
        addresses = [*config.listen, *self.listener.addresses]
        self.neighbours = self._join(self) if self._join else Alone(config.name, self.id, addresses, config.tag)
        await self._claim_outbox()
        try:
            await self.control.start()
            self.listener.open_own()
            await self._end_strays()
            await self._watch_source()
            if config.app and not self._stop.is_set():
                await self.reloads.first()
        except (AppBroken, BadConfig, OSError):
            self.listener.close()
            await self._close_rest()
            raise
        self.inbox.start()
        await self.neighbours.start()
        if os.getpid() == 1:
            spawn(self._reap())
        self._is_up = True
        self.report(
            "ready", listen=self.listener.addresses, name=config.name, id=self.id, spool=layout.root, pid=os.getpid(),
            workers=config.workers if config.app else 0, app=config.app or "none: tasks are accepted and kept",
            waiting=self._ready_tasks, later=len(self.spool.later), sync=config.sync,
            **({"http": self.control.http_address} if config.http else {}),
        )  # fmt: skip
        self.housekeeping.start()

    async def _end_strays(self) -> None:
        """Ends what tasks of runs that were killed have started; from now on this is a run that may be killed."""
        earlier = await self.journal.moves.run(partial(strays.read_instances, self.layout.instance))
        await self._remember_instances([*earlier, self.instance])
        for instance in earlier:
            in_group = await asyncio.to_thread(strays.end_cgroup, strays.cgroup_of(instance))
            killed, left = await asyncio.to_thread(strays.end, strays.mark_of(instance))
            killed += in_group
            if killed or left:
                reason = "tasks of a node that was killed had started them"
                self.report("strays_ended", processes=killed, left=left, reason=reason)
        if earlier:
            await self._remember_instances([self.instance])

    async def _remember_instances(self, instances: list[str]) -> None:
        try:
            await self.journal.moves.run(partial(strays.write_instances, self.layout.instance, instances))
        except OSError as error:  # the warden does without; only when it is killed too the next start does not know
            self.report("strays_unknown", reason=f"{self.layout.instance}: {error.strerror}")

    def _report_mistake(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception that nobody caught: a mistake of ours, which must not be lost among lines of another form."""
        del loop
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self.report("mistake", reason=context["message"], traceback=trace)

    def _pinged(self) -> dict[str, Any]:
        """The status for a ping, not made anew for each: who may enqueue may ping, thousands of times at once."""
        now = self._loop.time()
        if now - self._ping_at > PING_SECONDS:
            self._ping_at, self._ping_status = now, _for_anybody(self.status())
        return self._ping_status

    def _route(self, terms: Terms) -> list[str]:
        return self.neighbours.route(terms)

    def _unknown(self, destination: str) -> str:
        return self.neighbours.unknown(destination)

    def _greet(self, hello: Hello, peer: str, certified: str, nonce: str) -> Greeting:
        return self.neighbours.greet(hello, peer, certified, nonce)

    async def _claim_outbox(self) -> None:
        """Tasks that waited for a destination which is this node now (it got that name, or that address) are ours to run."""
        for to, count in self.outbox.sizes().items():
            is_here = self.neighbours.route(Terms(destination=to)) == [""]
            if is_here and (claimed := await self.moving.re_place(to, count, lambda _asked: "")):
                self.report("claimed", destination=to, tasks=claimed)

    def _facts(self) -> dict[str, Any]:
        """What workers are told."""
        return {
            "node_pid": os.getpid(), "root": self.layout.root, "node_id": self.id, "app": self.config.app,
            "timeout": self.config.timeout, "socket": self.layout.socket, "chdir": self.home,
            "frequency": self.config.spooler_frequency, "settings": dict(self.config.__dict__),
        }  # fmt: skip

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.ask_to_stop)
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

    def ask_to_stop(self) -> None:
        """The first time: stop with grace. The second time, or while the application still loads: stop now."""
        self._signals += 1
        if self._draining is not None:
            self._draining.cancel()
        self._stop.set()
        if self._signals > 1 or not self._is_up:
            self.report("stopping_now", running=len(self.pool.running()))
            self.pool.stop_now()

    def ask_to_reload(self) -> LoadAnswer | None:
        """Replaces the workers, and reads the certificates again; None when there is no application, or no more of it."""
        self.neighbours.reload()
        return self.reloads.ask() if self.config.app and not self._stop.is_set() else None

    async def _shut_down(self) -> None:
        self.report(
            "stopping", running=len(self.pool.running()), grace=self.config.grace, hint="a second SIGTERM ends it at once"
        )
        self.admission.stop("this node is draining" if self._drains else "this node is stopping")
        self.listener.close()
        self.inbox.stop()
        await self.reloads.stop()
        await asyncio.gather(self.neighbours.leave(), self.pool.stop())
        if self._drains and self._signals < 2:
            await self._drain()
        await self._leave_files()
        await self._close_rest()
        self.report("stopped", waiting=self.spool.total, outbox=self.outbox.total)

    async def _leave_files(self) -> None:
        """What waits is left as spool files, if it is little or was asked for: so people, and a uWSGI server, find it."""
        if self.leaves_files or self.journal.in_batches <= SETTLE_AT_STOP:
            await self.spool.settle_all(lambda: self._signals < 2)

    def ask_to_drain(self) -> None:
        """Takes nothing more in, lets what runs end, hands the waiting tasks over, and stops."""
        self._drains = True
        self.report("draining", waiting=self.spool.total)
        self.ask_to_stop()

    async def _drain(self) -> None:
        self._draining = self._loop.create_task(self.neighbours.drain(self.config.grace))
        try:
            await self._draining
        except asyncio.CancelledError:
            pass  # a second signal
        except Exception as error:  # noqa: BLE001  # the rest of the stop must not depend on it; it is reported in full
            self.report("mistake", reason="the drain ended early", traceback="".join(traceback.format_exception(error)))
        left = self.spool.total + self.outbox.total
        self.report("drained", left=left, kept="on disk, for the next start" if left else "nothing")

    async def _close_rest(self) -> None:
        await self.housekeeping.stop()
        self.pool.stop_now()
        await self.neighbours.stop()
        await self.control.stop()
        await self._loop.run_in_executor(None, self.admission.close)
        await self.storage.close()
        self.services.flush()
        self.listener.close_streams()
        # The last answers leave with the next turns of the loop.
        for _ in range(3):
            await asyncio.sleep(0)

    # -- by the clock --

    async def _look_around(self) -> None:
        await self._look_at_places()
        self.neighbours.tick()
        await self.control.recount()  # what pings tell

    async def _reap(self) -> None:
        """As the first process of a container we get what others have left behind, and must wait for its end."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            strays.reap(self.pool.pids())

    async def _look_at_places(self) -> None:
        """Somebody may have removed our files, or moved the directory away: says so, and makes anew what can be made anew."""
        was_lost, self._is_lost = self._is_lost, False
        try:
            sockets = [*self.listener.paths, self.layout.control]
            made, gone = await self.journal.moves.run(lambda: self._mend(sockets))
            made += await self.storage.save_missing()
            made += [*self.listener.listen_again(gone), *await self.control.listen_again(gone)]
            if made:
                self.report("made_anew", names=made, reason="they were gone, or there was no room for them")
        except (FileNotFoundError, NotADirectoryError) as error:
            self._is_lost = True
            if not was_lost:
                hint = "no task is taken until it is there again"
                self.report("spool_lost", spool=self.layout.root, reason=error.strerror, hint=hint)
        except (OSError, BadConfig) as error:
            self._rarely("move_failed", move="make anew", reason=str(error))
        if was_lost and not self._is_lost:
            self.report("spool_back", spool=self.layout.root)
        self.admission.pause("the spool directory of this node was removed or moved away" if self._is_lost else "")

    def _mend(self, sockets: list[str]) -> tuple[list[str], set[str]]:
        """What was made anew in the directory, and which of these sockets have lost their names. Blocks."""
        made = self._hold.mend(self.journal.store, self._own)
        return made, {path for path in sockets if not os.path.lexists(path)}

    def _warn_of_unscanned(self) -> None:
        """uWSGI takes any priority name and never runs what is not a number; whoever moves over hears of it."""
        ours = {os.path.basename(path) for path in self.layout.directories}
        for name in self.journal.reader.disk.directories(self.layout.root):
            if name not in ours and not is_priority(name):
                self.report("not_scanned", directory=name, reason="only directories named by digits hold priorities")

    async def _watch_source(self) -> None:
        """From before the first load on: what changes while the application loads must not be missed."""
        if self.config.reload:
            spawn(watch_source(self.home, self.ask_to_reload))
        if self.config.touch_reload:
            spawn(watch_files(await stamps(self.config.touch_reload), self._touched))

    def _touched(self, path: str) -> None:
        self.report("touched", file=path)
        self.ask_to_reload()

    # -- looking --

    def status(self) -> dict[str, Any]:
        """The node in numbers."""
        spool, counts = self.spool, self.journal.counts
        later = len(spool.later)
        held, aside = self.pool.held, self.control.aside
        rates = self.housekeeping.rates.per_second(time.monotonic(), self.housekeeping.counters())
        return {
            "name": self.config.name, "id": self.id, "spool": self.layout.root, "listen": self.listener.addresses,
            "tags": self.config.tag, "pid": os.getpid(), "uptime": round(time.monotonic() - self._began, 3),
            "state": self._state, "sync": self.config.sync, "app": self.config.app,
            "workers": len([worker for worker in self.pool.workers if worker.ready]),
            "worker_pids": [worker.pid for worker in self.pool.workers], "old_workers": self.pool.leaving,
            "total": spool.total, "waiting": self._ready_tasks, "running": len(self.pool.running()),
            "held": held, "later": later, "retrying": len(spool.retrying),
            "dead": aside.dead, "outbox": self.outbox.sizes(), "corrupt": aside.corrupt, "oldest_waiting": self.oldest_waiting(),
            "rates": {name: rate for name, rate in rates.items() if name != "busy"},
            "accepted": counts.accepted, "found": counts.found, "done": counts.done, "failed": counts.failed,
            "given_up": counts.died, "refused": {reason.name.lower(): n for reason, n in self.services.refusals.items()},
            "worker_deaths": self.pool.deaths, "task_seconds": round(self.pool.seconds, 6),
            "connections": self.listener.connections, "free": self.admission.free, "min_free": self.config.min_free,
            "outbox_total": self.outbox.total, "handshake_failures": self.services.handshake_failures,
            "forwarded": self.outbox.forwarded, "repeats": spool.repeats, **self._for_peers(), **self.neighbours.status(),
            "log_dropped": self.report.dropped if isinstance(self.report, log.Log) else 0,
        }  # fmt: skip

    @property
    def _ready_tasks(self) -> int:
        """Tasks that wait for a worker, and not for their time."""
        return max(self.spool.total - len(self.spool.later) - self.pool.held, 0)

    def _for_peers(self) -> dict[str, Any]:
        """The part of the status that other nodes decide by."""
        return {
            "cluster": self.config.cluster, "protocol": PROTOCOL, "version": VERSION, "instance": self.instance,
            "pace": self._pace(), "time": time.time(),
            "draining": self._stop.is_set(), "accepting": not self.admission.closed and not self.admission.is_low,
        }  # fmt: skip

    def _pace(self) -> float:
        """Tasks a second that the workers do when they have work, as seen over the last minute; 0.0 when nothing was seen."""
        rates = self.housekeeping.rates.per_second(time.monotonic(), self.housekeeping.counters())
        ended, busy = rates["done"] + rates["failed"], rates["busy"]
        return round(len(self.pool.workers) * ended / busy, 3) if busy > 0 else 0.0

    @property
    def _state(self) -> str:
        if not self._stop.is_set():
            return "running"
        return "draining" if self._drains else "stopping"

    def problem(self) -> str:
        """Why this node should get no work now; empty when it is well."""
        if self._stop.is_set():
            return "stopping"
        if self.admission.closed:
            return self.admission.closed
        if self.admission.is_low:
            return "the disk is full"
        if self.config.app and not any(worker.ready for worker in self.pool.workers):
            return "no worker is up"
        return ""

    def oldest_waiting(self) -> float | None:
        """Seconds that the oldest ready task has waited; None when none waits."""
        oldest = self.spool.queue.oldest()
        return None if oldest is None else round(max(time.time() - oldest, 0.0), 3)


def _for_anybody(status: dict[str, Any]) -> dict[str, Any]:
    """A status without what grows with the number of destinations: an answer to a ping has 64 KiB."""
    return {name: value for name, value in status.items() if name != "outbox"}


def _here() -> str:
    """Where we were started, with the links in it (a deployment may turn them), as the shell says."""
    here, said = os.getcwd(), os.environ.get("PWD", "")
    return said if os.path.isabs(said) and os.path.exists(said) and os.path.samefile(said, here) else here


def _raise_descriptor_limit() -> None:
    """Each connection takes a descriptor; the usual soft limit of 1024 is lower than --max-connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # then connections wait in the kernel, and `accept_failed` says why
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_identity(layout: Layout, report: log.Report) -> tuple[str, str]:
    """The id of this spool directory's node and its secret, in hexadecimal: made once, together, and never changed.

    The secret is safe before anybody hears of it. A new id comes with a new secret: who removes the id from a copy of a directory
    makes another node of it. Where a full disk takes no secret the node does without until the next start: then it is empty.

    Raises:
        BadConfig: a file holds something else.
    """
    identity = _read_own(layout.node_id, 12)
    secret = _read_own(layout.node_key, 64) if identity else ""
    store = Store(RealDisk(), layout, "")
    if not secret:
        secret = secrets.token_hex(32)
        try:
            store.replace(layout.node_key, f"{secret}\n".encode())
        except OSError as error:
            secret = ""
            report("sync_failed", file="node.key", reason=str(error))
    if not identity:
        identity = secrets.token_hex(6)
        store.replace(layout.node_id, f"{identity}\n".encode())
    return identity, secret


def own_files(layout: Layout, identity: str, secret: str) -> dict[str, bytes]:
    """What `read_identity` has read, for those who write it again, in this order: an id without its key would get another one."""
    own = {layout.node_key: secret, layout.node_id: identity}
    return {path: f"{content}\n".encode() for path, content in own.items() if content}


def _read_own(path: str, digits: int) -> str:
    """The hexadecimal digits in a file of this node; empty when it is not there."""
    try:
        # Not blocking: it may be a pipe. No more than is shown: it may be anything.
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(100).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
    except IsADirectoryError:
        raise BadConfig(f"{path} is a directory; it must be a file with {digits} hexadecimal digits") from None
    if len(text) != digits or not set(text) <= set("0123456789abcdef"):
        shown = repr(text[:40]) if digits == 12 else "something else"  # a damaged secret is one all the same
        raise BadConfig(f"{path} holds {shown}; it must hold {digits} hexadecimal digits")
    return text


def run_node(
    config: Config, report: log.Report, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    join: Join | None = None, trust: Certified | None = None,
) -> int:  # fmt: skip
    """Runs a node in the foreground; its exit status."""

    # By default (700) the collector looks again and again at every task in flight, none of which is garbage: 8 % of the CPU. With
    # far more, what thousands of connections have left is freed in one go, at 2 us each, and everybody waits.
    gc.set_threshold(5_000, 5, 2_000)

    async def life() -> int:
        return await Node(config, report, warden, join, trust).run()

    warden = Warden(secrets.token_hex(8))
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            status = runner.run(life())
    except (AppBroken, BadConfig, OSError):
        warden.dismiss()
        raise
    warden.dismiss()
    return status
