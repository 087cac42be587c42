"""The control interface on a real socket, over a real spool directory: what operators ask, and what they are told."""

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from controlled import DEAD, NO_WORKERS, WAITS, Node, run
from linked import NODE

from spoolnode.node.badconfig import BadConfig
from spoolnode.node.config import Config
from spoolnode.node.control.http import Control
from spoolnode.node.control.public import MAX_HTTP
from spoolnode.node.spool import inspect


def test_socket_is_its_owners_alone_and_one_that_a_dead_node_left_is_replaced(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert stat.S_IMODE(os.stat(node.layout.control).st_mode) == 0o600
        os.unlink(node.layout.control)
        Path(node.layout.control).write_text("somebody made a file of that name")
        again = Control(*node.parts)
        await again.start()
        assert (await node.ask("GET", "/nodes")) == (200, {"items": []})
        await again.stop()
        assert await node.control.listen_again({node.layout.control}) == [node.layout.control]
        assert await node.control.listen_again(set()) == []
        assert (await node.ask("GET", "/nodes")) == (200, {"items": []})
        assert stat.S_IMODE(os.stat(node.layout.control).st_mode) == 0o600

    run(tmp_path / "spool", story)


def test_tasks_are_listed_by_their_state_and_shown_with_their_contents(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        for state, identity in (("waiting", WAITS), ("dead", DEAD)):
            status, page = await node.ask("GET", f"/tasks?state={state}")
            assert (status, [row["id"] for row in page["items"]]) == (200, [identity])
            status, shown = await node.ask("GET", f"/tasks/{identity}")
            assert (status, shown["id"], shown["state"]) == (200, identity, state)
        assert (await node.ask("GET", "/tasks?state=outbox")) == (200, {"items": [], "next": None, "missing": ""})
        status, numbers = await node.ask("GET", "/node")
        assert (numbers["waiting"], numbers["dead"]) == (1, 1)

    run(tmp_path / "spool", story)


def test_task_that_moves_to_a_file_of_its_own_while_it_is_shown_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, moves = inspect.find_place, iter([FileNotFoundError("its batch")])

    def look(*args: Any) -> Any:
        for gone in moves:
            raise gone
        return find(*args)

    async def story(node: Node) -> None:
        monkeypatch.setattr(inspect, "find_place", look)
        assert (await node.ask("GET", f"/tasks/{WAITS}"))[0] == 200

    run(tmp_path / "spool", story)


def test_task_that_ends_while_those_that_run_are_listed_is_listed_with_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[{"id": WAITS, "worker": 1, "pid": 2, "seconds": 0.5}]])
    monkeypatch.setattr(NO_WORKERS, "running", lambda: next(looks, []))

    async def story(node: Node) -> None:
        (row,) = (await node.ask("GET", "/tasks?state=running"))[1]["items"]
        assert (row["state"], row["worker"], row["running_seconds"]) == ("running", 1, 0.5)

    run(tmp_path / "spool", story)


def test_task_that_waits_or_is_dead_is_removed_and_one_that_runs_is_not(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        taken = node.storage.spool.take(1)
        assert taken is not None
        status, answer = await node.ask("DELETE", f"/tasks/{WAITS}")
        assert (status, answer["detail"]) == (409, f"the task {WAITS} is with a worker; only waiting tasks can be removed")
        node.storage.spool.give_back(taken)
        for identity in (WAITS, DEAD):
            assert (await node.ask("DELETE", f"/tasks/{identity}")) == (200, {"id": identity, "removed": True})
            assert (await node.ask("DELETE", f"/tasks/{identity}"))[0] == 404
        assert node.storage.spool.total == 0
        assert [details["id"] for action, details in node.reports if action == "removed"] == [WAITS, DEAD]
        assert (await node.ask("GET", "/node"))[1]["dead"] == 0, "it is counted again"

    run(tmp_path / "spool", story)


@pytest.mark.parametrize("path", [f"/tasks/{DEAD}/retry", "/dead/retry"])
def test_dead_task_is_made_ready(tmp_path: Path, path: str) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("GET", "/node"))[1]["dead"] == 1
        status, answer = await node.ask("POST", path)
        assert (status, int(answer["ready"])) == (200, 1)
        assert node.storage.spool.total == 2
        assert (await node.ask("GET", "/node"))[1]["dead"] == 0
        assert [details["id"] for action, details in node.reports if action == "retry_asked"] == [DEAD]

    run(tmp_path / "spool", story)


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        (
            "GET",
            "/tasks?state=odd",
            400,
            "state has 'odd'; each must be one of running, waiting, later, held, retrying, dead, outbox, or ended alone",
        ),
        ("GET", "/tasks?limit=-1", 400, "limit is '-1'; it must be a number from 1 to 100000"),
        ("GET", "/tasks?limit=0", 400, "limit is '0'"),
        ("GET", "/tasks?cursor=x", 400, "cursor is 'x'; it must be `next` of a page before"),
        (
            "GET",
            "/tasks?stat=dead",
            400,
            "/tasks has no parameter 'stat'; it takes state, function, error, reason, since_at, until_at",
        ),
        ("GET", "/node?limit=1", 400, "it takes none"),
        ("GET", "/odd", 404, "Not Found"),
        ("PUT", "/node", 405, "Method Not Allowed"),
        ("POST", "/stop?files=1", 400, "files is '1'; it must be true or false"),
        ("POST", f"/tasks/{NODE}_9_80/cancel?grace_seconds=nan", 400, "grace_seconds is 'nan'"),
        ("GET", "/tasks/a%20b", 400, "'a b' is"),
        ("GET", f"/tasks/{NODE}_9_80", 404, f"{NODE}_9_80"),
        ("POST", f"/tasks/{NODE}_9_80/retry", 404, f"{NODE}_9_80"),
        ("POST", "/reload?wait_seconds=x", 400, "wait_seconds is 'x'; it must be a number of seconds"),
        ("POST", "/reload", 409, "this node has no application, so there is nothing to reload"),
        ("POST", "/accept?name=a/b", 400, "'a/b' cannot be a node's name"),
        ("POST", "/accept?name=beta&id=x", 400, "'x' is"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(tmp_path: Path, method: str, path: str, status: int, sentence: str) -> None:
    async def story(node: Node) -> None:
        told, answer = await node.ask(method, path)
        assert (told, answer["status"], answer["type"]) == (status, status, "about:blank")
        assert sentence in answer["detail"]

    run(tmp_path / "spool", story)


def test_stop_and_drain_are_asked_for_and_a_second_drain_is_not(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("POST", "/drain")) == (200, {"draining": True, "waiting": 1, "outbox": 0})
        assert node.stop.drains
        assert (await node.ask("POST", "/drain")) == (
            409, {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "this node is draining already"}
        )  # fmt: skip
        assert (await node.ask("POST", "/stop")) == (200, {"stopping": True})
        assert not node.stop.leaves_files
        await node.ask("POST", "/stop?files=true")
        assert node.stop.leaves_files
        assert [action for action, _ in node.reports if action != "asked"] == ["draining", "stopping_now", "stopping_now"]

    run(tmp_path / "spool", story)


@pytest.mark.parametrize(("reason", "outcome"), [("", "reloaded"), ("ImportError: no", "failed")])
def test_reload_says_what_became_of_it_if_it_is_waited_for(tmp_path: Path, reason: str, outcome: str) -> None:
    async def story(node: Node) -> None:
        node.loading = asyncio.get_running_loop().create_future()
        assert (await node.ask("POST", "/reload")) == (200, {"outcome": "asked", "reason": ""})
        assert (await node.ask("POST", "/reload?wait_seconds=0.01")) == (200, {"outcome": "loading", "reason": ""})
        asyncio.get_running_loop().call_later(0.02, node.loading.set_result, reason)
        assert (await node.ask("POST", "/reload?wait_seconds=60")) == (200, {"outcome": outcome, "reason": reason})

    run(tmp_path / "spool", story)


def test_metrics_are_told_over_tcp_and_no_connection_keeps_others_out(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        host, _, port = node.control.http_address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_HTTP + 5)]
        async with aiohttp.ClientSession(f"http://{node.control.http_address}") as session:
            async with session.get("/metrics") as answer:
                assert "spoolnode_dead 1.0" in await answer.text()
            async with session.get("/api/v1/tasks") as answer:
                assert answer.status == 401, "what is in tasks is not for anyone"
        assert await idle[0][0].read() == b"", "the oldest gave its place to a new one"
        for _, writer in idle:
            writer.close()

    run(tmp_path / "spool", story, http="127.0.0.1:0")


def test_dead_task_that_is_retried_was_not_found_as_a_file(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("GET", "/node"))[1]["found"] == 1, "the other one"
        assert (await node.ask("POST", f"/tasks/{DEAD}/retry"))[1]["ready"]
        _, numbers = await node.ask("GET", "/node")
        assert (numbers["waiting"], numbers["found"]) == (2, 1)
        assert [details for action, details in node.reports if action == "found"] == []

    run(tmp_path / "spool", story)


def test_task_that_was_cancelled_is_neither_dead_in_the_metrics_nor_counted_as_given_up(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        assert (await node.ask("POST", f"/tasks/{WAITS}/cancel"))[1]["outcome"] == "cancelled"
        status, numbers = await node.ask("GET", "/node")
        assert (status, numbers["dead"], numbers["given_up"], numbers["cancelled"]) == (200, 2, 0, 1)
        async with aiohttp.ClientSession(f"http://{node.control.http_address}") as session, session.get("/metrics") as answer:
            told = await answer.text()
        assert "spoolnode_dead 1.0\n" in told
        assert "spoolnode_given_up_total 0.0\n" in told
        assert "spoolnode_cancelled_total 1.0\n" in told

    run(tmp_path / "spool", story, http="127.0.0.1:0")


def test_node_that_takes_no_tasks_is_not_ready_and_says_why_and_is_alive(tmp_path: Path) -> None:
    async def story(node: Node) -> None:
        async def probes() -> list[tuple[int, str]]:
            async with aiohttp.ClientSession(f"http://{node.control.http_address}") as session:
                answers = [await session.get(path) for path in ("/livez", "/readyz", "/healthz")]
                return [(answer.status, await answer.text()) for answer in answers]

        well = 200, "ok\n"
        node.admission.note_free(1 << 40)
        assert await probes() == [well, well, well]
        for happens, reason in (
            (lambda: node.admission.note_free(1), "the disk is full"),
            (lambda: node.admission.pause("its directory is gone"), "its directory is gone"),
            (node.stop.ask, "stopping"),
        ):
            happens()
            assert await probes() == [well, (503, f"{reason}\n"), (503, f"{reason}\n")]

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
