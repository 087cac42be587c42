"""`pause` and `resume`: tasks are stored and do not start; others do; a restart changes nothing."""

import json
import shutil
from typing import Any

from support import RunningNode, eventually

import spoolnode
from spoolnode import spool

APP = """
from spoolnode import spool

@spool(name="mail")
def mail(n): print("mail", n)

@spool(name="pay")
def pay(n): print("pay", n)
"""


@spool(name="mail")
def mail(n: int) -> None: ...


@spool(name="pay")
def pay(n: int) -> None: ...


FUNCTIONS = {"mail": mail, "pay": pay}


def call(node: RunningNode, function: str, n: int) -> None:
    FUNCTIONS[function].options(via=node.via).spool(n)


def listed(node: RunningNode) -> list[tuple[Any, Any]]:
    done = node.command("ls", "--json")
    assert done.returncode == 0, done.stderr
    return [(row["function"], "paused" if row["paused"] else row["state"]) for row in json.loads(done.stdout)]


def paused(node: RunningNode, *args: str) -> str:
    done = node.command(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_paused_function_waits_over_restarts_and_others_run(node: RunningNode) -> None:
    node.start(app=APP)
    assert paused(node, "pause", "mail") == "paused: mail"
    call(node, "mail", 1)
    call(node, "pay", 2)
    node.wait_for_log("print", text="pay 2")
    assert listed(node) == [("mail", "paused")]
    assert node.status()["pauses"]["functions"] == ["mail"]
    assert "paused       mail" in node.command("status").stdout
    assert node.stop() == 0
    assert listed(node) == [("mail", "paused")], "the file tells it without a node, too"
    node.start(app=APP)
    call(node, "mail", 3)
    call(node, "pay", 4)
    node.wait_for_log("print", text="pay 4")
    eventually(lambda: listed(node) == [("mail", "paused")] * 2, "the file was looked into")
    assert not node.lines("print", text="mail 1")
    assert paused(node, "resume", "mail") == "paused: nothing"
    for n in (1, 3):
        node.wait_for_log("print", text=f"mail {n}")
    done = [line for line in node.log if line.get("text") == "mail 1"]
    assert len(done) == 1


def test_everything_waits_while_everything_is_paused(node: RunningNode) -> None:
    node.start(app=APP)
    assert json.loads(paused(node, "pause", "--json")) == {"everything": True, "functions": []}
    spoolnode.send_to_spooler({"n": "1"}, via=node.via)
    call(node, "mail", 1)
    assert paused(node, "pause", "mail") == "paused: everything (mail also by name)"
    assert [state for _, state in listed(node)] == ["paused", "paused"]
    assert paused(node, "resume") == "paused: nothing"
    node.wait_for_log("print", text="mail 1")


def test_a_file_of_a_paused_function_from_elsewhere_is_not_run(node: RunningNode) -> None:
    node.start()
    call(node, "mail", 7)
    assert node.command("settle").returncode == 0
    (file,) = node.spool.glob("uwsgi_spoolfile_on_*")
    kept = node.directory / file.name
    shutil.move(file, kept)
    assert node.stop() == 0
    node.start(app=APP)
    paused(node, "pause", "mail")
    shutil.copy(kept, node.spool / "uwsgi_spoolfile_on_elsewhere")
    call(node, "pay", 1)
    node.wait_for_log("print", text="pay 1")
    eventually(lambda: ("mail", "paused") in listed(node), "it waits")
    assert node.status()["failed"] == 0
    paused(node, "resume")
    node.wait_for_log("print", text="mail 7")


def test_without_a_node_nothing_can_be_paused(node: RunningNode) -> None:
    node.start()
    node.stop()
    done = node.command("pause")
    assert done.returncode == 1
    assert "no node runs on the spool" in done.stderr
