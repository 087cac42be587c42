"""The control interface on a real socket, over a real spool directory: what operators ask, and what they are told."""

import asyncio
import json
import os
import random
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from linked import NODE

from spoolnode.node.config import BadConfig, Config
from spoolnode.node.control.admin import TaskAdmin
from spoolnode.node.control.counting import Counting
from spoolnode.node.control.http import MAX_HTTP, Control
from spoolnode.node.control.status import NodeStatus, ThisProcess
from spoolnode.node.control.stop import Stop
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.ingress.admission import Admission
from spoolnode.node.ingress.services import Services
from spoolnode.node.neighbours import Alone
from spoolnode.node.outbox.storage import Storage
from spoolnode.node.spool.journal import Journal
from spoolnode.node.spool.retry import RetryPolicy

TASK = b"\x11\x06\x00\x00\x01\x00a\x01\x00b"
WAITS = f"{NODE}_1_80"
DEAD = f"{NODE}_2_80"
NO_SOCKETS: Any = SimpleNamespace(addresses=[], connections=SimpleNamespace(count=0))
NO_WORKERS: Any = SimpleNamespace(
    ready=0, worker_pids=[], leaving=0, running=list, held=0, deaths=0, seconds=0.0, busy=0.0, stop_now=lambda: None
)


class Node:
    """A node without sockets and workers; all that its control knows of it is real."""

    def __init__(self, root: Path, config: Config) -> None:
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
            config=config, id=NODE, process=ThisProcess("", os.getpid(), 0.0), storage=storage, admission=admission,
            services=services, listener=NO_SOCKETS, workers=NO_WORKERS, neighbours=neighbours,
            aside=aside, stop=self.stop, log_dropped=lambda: 0,
        )  # fmt: skip
        admin = TaskAdmin(storage, neighbours, NO_WORKERS, aside, self.report)
        self.loading: asyncio.Future[str] | None = None
        self.parts = config, storage, neighbours, status, admin, self.stop, lambda: self.loading, self.report
        self.control = Control(*self.parts)

    def report(self, action: str, **details: Any) -> None:
        self.reports.append((action, details))

    async def ask(self, method: str, path: str) -> tuple[int, Any]:
        """The status and the answer, decoded."""
        connector = aiohttp.UnixConnector(self.layout.control)
        async with aiohttp.ClientSession(connector=connector) as session, session.request(method, f"http://node{path}") as answer:
            return answer.status, json.loads(await answer.read())


def run(root: Path, story: Callable[[Node], Coroutine[Any, Any, None]], **settings: Any) -> None:
    """A node on a directory in which one task waits and one is dead."""
    for path in ("", "dead"):
        (root / path).mkdir()
    (root / f"uwsgi_spoolfile_on_{WAITS}").write_bytes(TASK)
    os.utime(root / f"uwsgi_spoolfile_on_{WAITS}", (1, 1))
    (root / "dead" / f"uwsgi_spoolfile_on_{DEAD}").write_bytes(TASK)

    async def main() -> None:
        node = Node(root, Config(spool=str(root), **settings))
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


def test_socket_is_its_owners_alone_and_one_that_a_dead_node_left_is_replaced(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert stat.S_IMODE(os.stat(node.layout.control).st_mode) == 0o600
        os.unlink(node.layout.control)
        Path(node.layout.control).write_text("somebody made a file of that name")
        again = Control(*node.parts)
        await again.start()
        assert (await node.ask("GET", "/peers")) == (200, [])
        await again.stop()
        assert await node.control.listen_again({node.layout.control}) == [node.layout.control]
        assert await node.control.listen_again(set()) == []
        assert (await node.ask("GET", "/peers")) == (200, [])
        assert stat.S_IMODE(os.stat(node.layout.control).st_mode) == 0o600

    run(tmp_path / "spool", story)


def test_tasks_are_listed_by_their_state_and_shown_with_their_contents(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        for state, identity in (("waiting", WAITS), ("dead", DEAD)):
            status, rows = await node.ask("GET", f"/tasks?state={state}")
            assert (status, [row["id"] for row in rows]) == (200, [identity])
            status, shown = await node.ask("GET", f"/tasks/{identity}")
            assert (status, shown["id"], shown["state"]) == (200, identity, state)
        assert (await node.ask("GET", "/tasks?state=outbox")) == (200, [])
        status, numbers = await node.ask("GET", "/status")
        assert (numbers["waiting"], numbers["dead"]) == (1, 1)

    run(tmp_path / "spool", story)


def test_task_that_waits_or_is_dead_is_removed_and_one_that_runs_is_not(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        taken = node.storage.spool.take(1)
        assert taken is not None
        status, answer = await node.ask("DELETE", f"/tasks/{WAITS}")
        assert (status, answer["error"]) == (409, f"the task {WAITS} is with a worker; only waiting tasks can be removed")
        node.storage.spool.give_back(taken)
        for identity in (WAITS, DEAD):
            assert (await node.ask("DELETE", f"/tasks/{identity}")) == (200, {"id": identity, "removed": True})
            assert (await node.ask("DELETE", f"/tasks/{identity}"))[0] == 404
        assert node.storage.spool.total == 0
        assert [details["id"] for action, details in node.reports if action == "removed"] == [WAITS, DEAD]
        assert (await node.ask("GET", "/status"))[1]["dead"] == 0, "it is counted again"

    run(tmp_path / "spool", story)


@pytest.mark.parametrize("path", [f"/tasks/{DEAD}/retry", "/dead/retry"])
def test_dead_task_is_made_ready(tmp_path: Path, path: str) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("GET", "/status"))[1]["dead"] == 1
        status, answer = await node.ask("POST", path)
        assert (status, int(answer["ready"])) == (200, 1)
        assert node.storage.spool.total == 2
        assert (await node.ask("GET", "/status"))[1]["dead"] == 0
        assert [details["id"] for action, details in node.reports if action == "retry_asked"] == [DEAD]

    run(tmp_path / "spool", story)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/tasks?state=odd", 400, "state is 'odd'; it must be one of waiting, dead, outbox"),
        ("GET", "/tasks?limit=-1", 400, "limit is '-1'; it must be a number, 0 for all"),
        ("GET", "/tasks/a%20b", 400, "'a b' is"),
        ("GET", f"/tasks/{NODE}_9_80", 404, f"{NODE}_9_80"),
        ("POST", f"/tasks/{NODE}_9_80/retry", 404, f"{NODE}_9_80"),
        ("POST", "/reload?wait=x", 400, "wait='x': it must be a number of seconds"),
        ("POST", "/reload", 409, "this node has no application, so there is nothing to reload"),
        ("POST", "/accept?name=a/b", 400, "'a/b' cannot be a node's name"),
        ("POST", "/accept?name=beta&id=x", 400, "'x' is"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(tmp_path: Path, method: str, path: str, status: int, sentence: str) -> None:
    async def story(node: Node) -> None:
        told, answer = await node.ask(method, path)
        assert told == status
        assert sentence in answer["error"]

    run(tmp_path / "spool", story)


def test_stop_and_drain_are_asked_for_and_a_second_drain_is_not(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("POST", "/drain")) == (200, {"draining": True, "waiting": 1, "outbox": 0})
        assert node.stop.drains
        assert (await node.ask("POST", "/drain")) == (409, {"error": "this node is draining already"})
        assert (await node.ask("POST", "/stop")) == (200, {"stopping": True})
        assert not node.stop.leaves_files
        await node.ask("POST", "/stop?files=1")
        assert node.stop.leaves_files
        assert [action for action, _ in node.reports] == ["draining", "stopping_now", "stopping_now"]

    run(tmp_path / "spool", story)


@pytest.mark.parametrize(("reason", "outcome"), [("", "reloaded"), ("ImportError: no", "failed")])
def test_reload_says_what_became_of_it_if_it_is_waited_for(tmp_path: Path, reason: str, outcome: str) -> None:
    async def story(node: Node) -> None:
        node.loading = asyncio.get_running_loop().create_future()
        assert (await node.ask("POST", "/reload")) == (200, {"outcome": "asked", "reason": ""})
        assert (await node.ask("POST", "/reload?wait=0.01")) == (200, {"outcome": "loading", "reason": ""})
        asyncio.get_running_loop().call_later(0.02, node.loading.set_result, reason)
        assert (await node.ask("POST", "/reload?wait=60")) == (200, {"outcome": outcome, "reason": reason})

    run(tmp_path / "spool", story)


def test_health_and_metrics_are_told_over_tcp_and_no_connection_keeps_others_out(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        host, _, port = node.control.http_address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_HTTP + 5)]
        async with aiohttp.ClientSession(f"http://{node.control.http_address}") as session:
            for free, trouble, status in ((1 << 40, "", 200), (1, "the disk is full", 503)):
                node.admission.note_free(free)
                async with session.get("/healthz") as answer:
                    assert (answer.status, await answer.text()) == (status, f"{trouble or 'ok'}\n")
            async with session.get("/metrics") as answer:
                assert "spoolnode_dead 1.0" in await answer.text()
            async with session.get("/tasks") as answer:
                assert answer.status == 404, "what changes something is not for the network"
        assert await idle[0][0].read() == b"", "the oldest gave its place to a new one"
        for _, writer in idle:
            writer.close()

    run(tmp_path / "spool", story, http="127.0.0.1:0")


def test_address_that_is_taken_is_an_error_of_the_settings_and_leaves_no_socket(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        config = Config(spool=str(tmp_path / "other"), http=node.control.http_address)
        (tmp_path / "other").mkdir()
        other = Node(tmp_path / "other", config)
        with pytest.raises(BadConfig, match="--http"):
            await other.control.start()
        assert not os.path.lexists(other.layout.control)
        await other.storage.close()

    run(tmp_path / "spool", story, http="127.0.0.1:0")
