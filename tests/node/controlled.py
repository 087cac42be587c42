"""For tests of the control interface: a node without sockets and workers, on a real spool directory."""

import asyncio
import json
import os
import random
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
from linked import NODE

from spoolnode.node.commons import Commons, NoCommons
from spoolnode.node.config import Config
from spoolnode.node.control.access import Access, read_token
from spoolnode.node.control.actions import Actions
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.cancels import Cancels
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.events import Events
from spoolnode.node.control.hidden import Hidden
from spoolnode.node.control.http import Control
from spoolnode.node.control.in_store import InStore
from spoolnode.node.control.operating import Operating
from spoolnode.node.control.public import PublicServer
from spoolnode.node.control.routes import PREFIX, table
from spoolnode.node.control.sessions import Sessions
from spoolnode.node.control.status import NodeStatus, ThisProcess
from spoolnode.node.control.stop import Stop
from spoolnode.node.control.stories import Stories
from spoolnode.node.control.views import Views
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.services import Services
from spoolnode.node.neighbours import Alone
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy
from spoolnode.node.story.broadcast import Broadcast

TASK = b"\x11\x06\x00\x00\x01\x00a\x01\x00b"
WAITS = f"{NODE}_1_80"
DEAD = f"{NODE}_2_80"
NO_SOCKETS: Any = SimpleNamespace(addresses=[], connections=SimpleNamespace(count=0))
NO_TIMERS: Any = SimpleNamespace(told=dict, rows=list)
NO_WORKERS: Any = SimpleNamespace(
    ready=0,
    worker_pids=[],
    leaving=0,
    running=list,
    held=0,
    deaths=0,
    seconds=0.0,
    busy=0.0,
    stop_now=lambda: None,
    watch=lambda started: None,
)


class Node:
    """A node without sockets and workers; all that its control knows of it is real."""

    def __init__(self, root: Path, config: Config, commons: Commons | None = None) -> None:
        self.layout = Layout(str(root))
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.storage = storage = Storage(
            Journal(RealDisk(), self.layout, NODE, sync=False, report=self.report), RetryPolicy(), random.Random(1)
        )
        neighbours = Alone("alpha", NODE, [], [])
        self.admission = admission = Admission(storage, neighbours.route, max_body=1 << 20, min_free=config.min_free)
        self.stop = Stop(NO_WORKERS, self.report, drains=False)
        self.stop.started()
        aside = Counting(storage.journal.reader)
        services = Services(admission, dict, self.report, self.report)
        status = NodeStatus(
            config=config, id=NODE, process=ThisProcess("", os.getpid(), 0.0), storage=storage,
            services=services, listener=NO_SOCKETS, workers=NO_WORKERS, neighbours=neighbours,
            aside=aside, stop=self.stop, log_dropped=lambda: 0, timers=NO_TIMERS,
        )  # fmt: skip
        stories = Stories(storage.journal.story, neighbours, NODE)
        in_store = InStore(commons or NoCommons(), storage.journal, self.report)
        cancels = Cancels(storage, neighbours, NO_WORKERS, aside, admission.keep_out, in_store)
        admin = TaskAdmin(storage, neighbours, NO_WORKERS, stories, cancels, aside, in_store, self.report)
        self.loading: asyncio.Future[str] | None = None
        events = Events(Broadcast(storage.journal.story, NODE), NO_WORKERS, neighbours)
        views = Views(storage, neighbours, status, admin, Hidden(config.hide))
        actions = Actions(config.app, storage, neighbours, admin, self.stop, lambda: self.loading)
        self.clock = 0.0
        secrets = (f"secret-{number}" for number in count())
        access = Access(
            NODE, config.http_name, read_token(config.http_token_file), Sessions(lambda: self.clock, partial(next, secrets))
        )
        routes = table(views, events, actions, Operating(neighbours), access)
        self.public = PublicServer(config, routes, status, access, self.report)
        self.parts = self.layout.control, routes, self.public, self.report
        self.control = Control(*self.parts)

    def report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        """The status and the answer, decoded. `path`: below `/api/v1`."""
        connector = aiohttp.UnixConnector(self.layout.control)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://node{PREFIX}{path}") as answer,
        ):
            return answer.status, json.loads(await answer.read())


def run(
    root: Path, story: Callable[[Node], Coroutine[Any, Any, None]], commons: Commons | None = None, **settings: Any
) -> None:  # fmt: skip
    """A node on a directory in which one task waits and one is dead."""
    for path in ("", "dead"):
        (root / path).mkdir()
    (root / f"uwsgi_spoolfile_on_{WAITS}").write_bytes(TASK)
    os.utime(root / f"uwsgi_spoolfile_on_{WAITS}", (1, 1))
    (root / "dead" / f"uwsgi_spoolfile_on_{DEAD}").write_bytes(TASK)

    async def main() -> None:
        node = Node(root, Config(**{"spool": str(root), "http": "none", **settings}), commons)
        node.storage.load()
        await node.control.start()
        try:
            async with asyncio.timeout(60):
                await story(node)
        finally:
            await node.control.stop()
            await node.storage.close()
        assert not os.path.lexists(node.layout.control)

    asyncio.run(main())
