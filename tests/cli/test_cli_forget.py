"""`forget`, with real nodes: one that is killed for good, what waits for it, and what it may have."""

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support import RunningNode, eventually

import spoolnode
from spoolnode.client.control import ask

Node = Callable[[str], RunningNode]


def items(node: RunningNode, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(str(node.spool), "GET", path)["items"]
    return found


def send(node: RunningNode, name: str, to: str) -> str:
    return spoolnode.send_to_spooler({"name": name}, to, via=node.via)


def wait_for_state(node: RunningNode, state: str) -> None:
    eventually(
        lambda: [row["state"] for row in items(node, "/nodes") if row["name"] in ("", "beta")] == [state], f"it is {state}"
    )


def lose(alpha: RunningNode, beta: RunningNode, options: tuple[str, ...], app: str) -> tuple[str, list[str]]:
    """The id of a task that a beta may have which is gone for good, and of two that it has not got."""
    beta.start(app=app)
    alpha.start(*options, app=app)
    wait_for_state(alpha, "up")
    send(alpha, "before", "beta")
    beta.wait_for_log("print", text="ran before")
    os.kill(beta.pid, signal.SIGSTOP)
    doubtful = send(alpha, "doubtful", "beta")
    eventually(lambda: [row["attempts"] for row in items(alpha, "/tasks?state=outbox")] == [1], "it is sent")
    beta.kill9()
    wait_for_state(alpha, "down")
    eventually(lambda: [row["in_doubt"] for row in items(alpha, "/links")] == [1], "it has come back from the link")
    return doubtful, [send(alpha, name, "beta") for name in ("one", "two")]


def reasons(node: RunningNode) -> dict[str, str]:
    """The reason of each dead task."""
    return {row["id"]: row["reason"] for row in items(node, "/tasks?state=dead")}


def test_tasks_of_a_forgotten_node_are_dead_and_say_whether_it_may_have_them_also_after_a_restart(make: Node, app: str) -> None:
    alpha, beta = make("alpha"), make("beta")
    beta.start(app=app)
    beta.stop()
    doubtful, unsent = lose(alpha, beta, ("--discover", f"static://{beta.via}"), app)
    done = alpha.command("forget", "beta")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("beta (")
    assert done.stdout.rstrip().endswith("is forgotten; 3 tasks went to dead/, 1 of them perhaps delivered")
    assert f"static://{beta.via} still names it" in done.stderr
    told = {
        doubtful: "not delivered to beta: the node was forgotten, and may have the task",
        **dict.fromkeys(unsent, "not delivered to beta: the node was forgotten"),
    }
    assert reasons(alpha) == told
    assert (items(alpha, "/nodes"), items(alpha, "/links")) == ([], [])
    (there,) = (row["id"] for row in items(alpha, "/tasks?state=ended") if row["end"] == "forwarded")
    with pytest.raises(spoolnode.ResultMissing, match=r"it went to beta, and that node .* is not known here any more"):
        spoolnode.result(there, timeout=600, via=alpha.via)
    alpha.kill9()
    alpha.start(app=app)
    assert (reasons(alpha), items(alpha, "/links")) == (told, [])
    again = alpha.command("forget", "beta")
    assert (again.returncode, again.stderr) == (1, "Error: no node beta is known here, and no task waits for it\n")


@pytest.mark.parametrize("in_doubt", ["dead", "moved"])
def test_tasks_of_a_forgotten_node_run_elsewhere_but_in_doubt_only_if_that_is_asked_for(
    in_doubt: str, make: Node, app: str
) -> None:
    alpha, beta, gamma = make("alpha"), make("beta"), make("gamma")
    gamma.start(app=app)
    beta.start(app=app)
    beta.stop()
    doubtful, _ = lose(alpha, beta, ("--discover", f"static://{beta.via},{gamma.via}"), app)
    refused = alpha.command("forget", "beta", "--move-to", "delta")
    assert (refused.returncode, "no such node is known here" in refused.stderr) == (1, True)
    flags = ["--move-in-doubt"] if in_doubt == "moved" else []
    done = alpha.command("forget", "beta", "--move-to", "gamma", "--json", *flags)
    assert done.returncode == 0, done.stderr
    counts = {name: json.loads(done.stdout)[name] for name in ("unsent", "in_doubt", "moved", "dead", "left")}
    moved = 3 if flags else 2
    assert counts == {"unsent": 2, "in_doubt": 1, "moved": moved, "dead": 3 - moved, "left": 0}
    gamma.wait_for_log("print", text="ran one")
    gamma.wait_for_log("print", text="ran two")
    if flags:
        gamma.wait_for_log("print", text="ran doubtful")
    assert list(reasons(alpha)) == ([] if flags else [doubtful])
    assert gamma.stop() == 0
    assert len(gamma.lines("print", text="ran ")) == moved, "each once"


def test_tasks_of_a_node_that_is_not_even_listed_any_more_are_moved_here(make: Node, app: str) -> None:
    alpha = make("alpha").start("--discover", "none", app=app)
    send(alpha, "for it", "beta")
    done = alpha.command("forget", "beta", "--move-to", "alpha")
    assert (done.returncode, done.stdout) == (0, "beta is forgotten; 1 task went to alpha, 0 tasks went to dead/\n")
    alpha.wait_for_log("print", text="ran for it")


def test_a_node_that_is_up_or_is_none_is_not_forgotten(make: Node, app: str) -> None:
    alpha, beta = make("alpha"), make("beta")
    beta.start(app=app)
    alpha.start("--discover", f"static://{beta.via}", app=app)
    wait_for_state(alpha, "up")
    for node, why in (
        ("beta", "beta is up; only a node that is down can be forgotten"),
        (beta.status()["id"], "beta is up; only a node that is down can be forgotten"),
        ("alpha", "alpha is this node itself"),
        ("tag:gpu", "'tag:gpu' is not a node: name it by its name, its id or its address"),
        ("gamma", "no node gamma is known here, and no task waits for it"),
    ):
        done = alpha.command("forget", node)
        assert (done.returncode, done.stderr) == (1, f"Error: {why}\n")
    assert alpha.command("forget", "beta", "--move-in-doubt").returncode == 2
    assert [row["name"] for row in items(alpha, "/nodes")] == ["beta"]
