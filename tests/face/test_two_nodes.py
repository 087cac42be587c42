"""Spooled functions that run on another node."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE, RunningNode, environment, eventually

from spoolnode import asend_to_spooler, client, send_to_spooler
from spoolnode.protocol import names
from spoolnode.wire import resolve, task_message

APP = """
from spoolnode import spool, uwsgi

@spool(node="beta")
def far(n):
    print("far", n)

@spool
def near(n):
    print("near", n)

@spool(node="beta", max_attempts=2, retry_base=0.01)
def fails():
    raise ValueError("no")

def plain(task):
    print("plain", task["n"])

uwsgi.spooler = plain
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RunningNode, RunningNode]]:
    """alpha and beta, with the same application."""
    nodes = []
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
        nodes.append(RunningNode(tmp_path / name, name))
    alpha, beta = nodes
    beta.start(app=APP)
    alpha.start("--discover", f"static://{beta.via}", app=APP)
    eventually(lambda: alpha.status()["peers"] == {"up": 1}, "alpha sees beta")
    yield alpha, beta
    client.close()
    for node in nodes:
        node.clean_up()


def spool(via: RunningNode, calls: str) -> None:
    """Has another process spool calls of functions of the application."""
    around = environment(SPOOLNODE_VIA=via.via, PYTHONDONTWRITEBYTECODE="1")
    subprocess.run([sys.executable, "-c", f"import app; {calls}"], cwd=via.directory, env=around, check=True, timeout=PATIENCE)


def test_spooled_functions_run_on_the_node_that_decorator_or_call_names(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    spool(alpha, "app.far.spool(1); app.near.options(node='beta').spool(2); app.far.options(node='alpha').spool(3)")
    for node, text in ((beta, "far 1"), (beta, "near 2"), (alpha, "far 3")):
        node.wait_for_log("print", text=text)
    assert {line["text"] for line in beta.lines("print")} == {"far 1", "near 2"}


@pytest.mark.on_disk("it waits for any node of the store")
def test_a_spooled_function_that_names_no_node_runs_where_it_was_sent(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    spool(alpha, "app.near.spool(1)")
    alpha.wait_for_log("print", text="near 1")
    assert not beta.lines("print")


def test_sending_to_all_returns_the_id_of_the_first_copy(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    first = send_to_spooler({"n": 1}, node="all", via=alpha.via)
    second = asyncio.run(asend_to_spooler({"n": 2}, node="all", via=alpha.via))
    for identity in (first, second):
        assert isinstance(identity, str)
        assert identity.startswith(f"{alpha.status()['id']}_")
    for number in (1, 2):
        for node in pair:
            node.wait_for_log("print", text=f"plain {number}")
    assert len(beta.lines("print")) == 2


def test_a_task_is_tried_on_another_node_as_often_as_its_function_says(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    spool(alpha, "app.fails.spool()")
    assert beta.wait_for_log("dead")["attempts"] == 2


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
def test_a_duplicate_that_is_handed_on_is_found_on_the_node_that_runs_it(pair: tuple[RunningNode, RunningNode]) -> None:
    alpha, beta = pair
    assert beta.command("pause").returncode == 0
    first, second = (client.send(resolve(alpha.via), task_message({"n": n}, "beta", [(names.KEY, b"k")]), 5.0) for n in (1, 2))
    assert first != second, "alpha does not compare what it does not run"
    eventually(lambda: beta.status()["duplicates"] == 1, "beta has both")
    eventually(lambda: "merged" in alpha.command("show", second).stdout, "alpha has heard")
    shown = alpha.command("show", second).stdout
    assert all(step in shown for step in ("alpha  forwarded to beta", "beta  accepted from alpha"))
    waiting = beta.lines("accepted", origin_id=first)[0]["id"]
    assert f"merged into {waiting}, which waited" in shown
    assert beta.command("resume").returncode == 0
    beta.wait_for_log("print", text="plain 1")
    eventually(lambda: beta.status()["done"] == 1, "it has ended")
    assert not beta.lines("print", text="plain 2")
