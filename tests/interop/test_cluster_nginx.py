"""nginx alone names the node: `uwsgi_param spool_node beta;` in front of alpha, and the task runs on beta."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_programs import LINES, NGINX, Lines, Nginx
from support import RunningNode, eventually, need
from test_nginx import APP, MANUAL, accepted, block, given, is_whole

pytestmark = pytest.mark.slow

WHOLE = random.Random(17).randbytes(3_000_000)


@pytest.fixture
def beta(place: Path) -> Iterator[RunningNode]:
    """The second node, not started yet."""
    (place / "beta").mkdir()
    running = RunningNode(place / "beta", "beta")
    yield running
    running.clean_up()


@pytest.fixture
def alpha(tmp_path: Path, nginx: Nginx, beta: RunningNode) -> Iterator[RunningNode]:
    """The node behind nginx; it knows where beta will be."""
    need(NGINX)
    assert LINES in APP
    beta.start("--listen", "127.0.0.1:0", app=APP)
    (tmp_path / "alpha").mkdir()
    running = RunningNode(tmp_path / "alpha", "alpha")
    running.start("--discover", f"static://{beta.via}", app=APP)
    running.wait_for_log("peer_up", name="beta")
    nginx.start(
        "".join(
            [
                MANUAL,
                block("/beta", "uwsgi_param spool_node beta;"),
                block("/chosen", "uwsgi_param spool_node $arg_node;"),
                block("/params", "uwsgi_param spool_node beta;", "include /etc/nginx/uwsgi_params;"),
                block("/unbuffered", "uwsgi_param spool_node beta;", "uwsgi_request_buffering off;"),
            ]
        ).replace("ADDRESS", running.via)
    )
    yield running
    running.clean_up()


def lines(node: RunningNode) -> Lines:
    """The tasks that ran there."""
    return Lines(node.directory)


def copies(answer: tuple[int, dict[str, str], bytes]) -> int:
    """How many times a task was stored."""
    content: dict[str, Any] = json.loads(answer[2])
    return int(content.get("copies", 1))


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_task_that_nginx_sends_to_another_node_is_accepted_at_once_and_runs_there(
    nginx: Nginx, alpha: RunningNode, beta: RunningNode
) -> None:
    identity = accepted(nginx.ask("GET", "/beta"))
    (task,) = given(lines(beta).wait())
    assert task["env"]["ToGroup"] == "customers"
    assert task["length"] == 0
    assert lines(alpha)() == []
    alpha.wait_for_log("forwarded", id=identity, to="beta")
    accepted(nginx.ask("GET", "/sendmassmail"))  # and without it, here
    lines(alpha).wait()
    assert len(lines(beta)()) == 1


@pytest.mark.parametrize("path", ["/beta", "/params", "/unbuffered"])
def test_bodies_of_any_size_arrive_whole_on_the_other_node(
    nginx: Nginx, alpha: RunningNode, beta: RunningNode, path: str
) -> None:
    bodies = [b"a few bytes", WHOLE[:200_000], WHOLE, b""]
    for body in bodies:
        accepted(nginx.ask("POST", path, body))
    ran = given(lines(beta).wait(len(bodies)))
    for body in bodies:
        assert sum(is_whole(task, body) for task in ran) == 1
    assert lines(alpha)() == []
    eventually(lambda: alpha.status()["outbox"] == {}, "nothing waits on alpha")
    assert not list(alpha.spool.glob("dead/*"))


def test_all_is_a_copy_for_each_node_with_workers(nginx: Nginx, alpha: RunningNode, beta: RunningNode) -> None:
    for body in (b"", b"small", WHOLE):
        answer = nginx.ask("POST", "/chosen?node=all", body)
        accepted(answer)
        assert copies(answer) == 2
    for node in (alpha, beta):
        ran = given(lines(node).wait(3))
        assert sorted(task["length"] for task in ran) == [0, 5, len(WHOLE)]
        assert all(is_whole(task, WHOLE) for task in ran if task["length"] > 5)


def test_any_runs_on_one_of_them(nginx: Nginx, alpha: RunningNode, beta: RunningNode) -> None:
    for _ in range(10):
        accepted(nginx.ask("GET", "/chosen?node=any"))
    eventually(lambda: len(lines(alpha)()) + len(lines(beta)()) == 10, "all have run")


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_task_for_a_name_that_nobody_knows_is_accepted_and_waits(nginx: Nginx, alpha: RunningNode, beta: RunningNode) -> None:
    for body in (b"", WHOLE):
        accepted(nginx.ask("POST", "/chosen?node=gamma", body))
    assert alpha.status()["outbox"] == {"gamma": 2}
    assert lines(alpha)() == lines(beta)() == []
    # Until a node with that name comes.
    beta.stop()
    gamma = RunningNode(beta.directory, "gamma")
    gamma.port = beta.port
    try:
        gamma.start(app=APP)
        assert sorted(task["length"] for task in given(lines(gamma).wait(2))) == [0, len(WHOLE)]
    finally:
        gamma.clean_up()


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_task_for_a_node_that_was_killed_waits_and_runs_once_when_it_is_back(
    nginx: Nginx, alpha: RunningNode, beta: RunningNode
) -> None:
    accepted(nginx.ask("GET", "/beta"))
    lines(beta).wait()
    eventually(lambda: beta.status()["total"] == 0, "beta has noted its end: it does not run again after the kill")
    beta.kill9()
    for _ in range(5):
        accepted(nginx.ask("POST", "/beta", os.urandom(10)))
    assert alpha.status()["outbox"] == {"beta": 5}
    beta.start(app=APP)
    lines(beta).wait(6)
    eventually(lambda: alpha.status()["outbox"] == {}, "nothing waits on alpha")
    assert len(lines(beta)()) == 6


@pytest.mark.on_disk("a task without a destination may run on either node")
def test_a_destination_that_is_none_is_refused_with_400(nginx: Nginx, alpha: RunningNode) -> None:
    status, _, content = nginx.ask("GET", "/chosen?node=../evil")
    assert status == 400, content
    accepted(nginx.ask("GET", "/chosen?node="))  # empty is here
    lines(alpha).wait()
