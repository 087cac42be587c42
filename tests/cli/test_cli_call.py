"""`call`: a function of `@spool` from a shell."""

import json
from typing import Any

import pytest
from support import RunningNode, command

APP = """
from spoolnode import current_task, spool

@spool(timeout=60, priority=7)
def mail(number, to=(), *, urgent=False):
    print("mail", number, to, urgent)

@spool
async def later(when: str):
    print("later", when)

for number in range(2):
    mail.spool("at the import")
"""


@pytest.fixture
def running(node: RunningNode) -> RunningNode:
    return node.start(app=APP)


def waiting(node: RunningNode, identity: str) -> dict[str, Any]:
    """The variables of a task that waits."""
    task: dict[str, Any] = json.loads(node.command("show", identity, "--json").stdout)
    return task


def test_values_are_json_where_they_parse_and_text_elsewhere(running: RunningNode) -> None:
    done = running.command("call", "app:mail", "1", 'to=["ada@example.org"]', "urgent=true")
    assert done.returncode == 0, done.stderr
    running.wait_for_log("print", id=done.stdout.strip(), text="mail 1 ['ada@example.org'] True")
    running.command("call", "app:mail", "one", "to=ada", "urgent=null")
    running.wait_for_log("print", text="mail one ada None")
    running.command("call", "app:mail", '"a=b"', "--", "-1")
    running.wait_for_log("print", text="mail a=b -1 False")
    running.command("call", "app:later", "2026-11-28")
    running.wait_for_log("print", text="later 2026-11-28")


def test_options_are_those_of_send(node: RunningNode) -> None:
    node.start()
    done = node.command(
        "call", "tasks:mail", "--at", "+1h", "--priority", "5", "--timeout", "2500ms", "--node", "testnode", "--json",
        "--key", "k", "--max-attempts", "7",
    )  # fmt: skip
    task = waiting(node, json.loads(done.stdout)["id"])
    assert task["priority"] == 5
    assert task["spool_func"] == "tasks:mail"
    assert (task["spool_timeout"], task["spool_key"], task["spool_retry"]) == ("2.500000", "k", "7,,")


def test_the_application_checks_the_arguments_and_gives_the_options_of_the_function(node: RunningNode) -> None:
    node.start()
    (node.directory / "app.py").write_text(APP)
    done = node.command("call", "--app", "app", "app:mail", "1", "--timeout", "5")
    task = waiting(node, done.stdout.strip())
    assert task["priority"] == 7
    assert task["spool_timeout"] == "5.000000"
    for words, said in (
        (["app:mail"], "missing a required argument: 'number'; nothing was sent"),
        (["app:mail", "1", "too=2"], "got an unexpected keyword argument 'too'; nothing was sent"),
        (["app:male"], "has no function 'app:male'; it has app:later, app:mail; nothing was sent"),
    ):
        wrong = node.command("call", "--app", "app.py", *words)
        assert (wrong.returncode, said in wrong.stderr) == (1, True), wrong.stderr
    assert node.status()["accepted"] == 1  # nothing that the module spools when it is imported


def test_functions_are_listed_with_their_parameters(node: RunningNode) -> None:
    (node.directory / "app.py").write_text(APP)
    done = node.command("call", "--list", "app")
    assert done.stdout == "app:later(when: str)\napp:mail(number, to=(), *, urgent=False)\n"
    listed = json.loads(node.command("call", "--list", "app.py", "--json").stdout)
    assert listed[0] == {"function": "app:later", "parameters": "(when: str)"}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "name a function like tasks:mail, or an application with --list"),
        (["f", "--list", "app"], 2, "--list only lists"),
        (["f", "a=1", "2"], 2, "'2' has no name, and comes after arguments with names"),
        (["f", "a=1", "a=2"], 2, "'a' is given twice"),
        (["f", "--priority", "high"], 2, "priority"),
        (["f", "--at", "soon"], 2, "is not a time"),
        (["f", "--node", "no such name"], 1, "node="),
        (["f", "--app", "nothing_here"], 2, "there is no module 'nothing_here'"),
        (["f", "--via", "127.0.0.1:1"], 1, "nothing was stored"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: list[str], status: int, said: str) -> None:
    done = command("call", *words)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
