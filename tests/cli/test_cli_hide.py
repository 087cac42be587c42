"""`--hide`: a secret among the arguments of a task is in no output, and in its spool file as it was."""

import json

import pytest
from support import RunningNode, eventually

import spoolnode
from spoolnode.node.control.hidden import MARK

SECRET = "s3cret-of-a-customer"
APP = """
from spoolnode import spool

@spool(name="hide.pay", max_attempts=1)
def pay(*_, **__):
    raise ValueError("declined")
"""


@spoolnode.spool(name="hide.pay", max_attempts=1)
def pay(*_: object, **__: object) -> None: ...


def dead(node: RunningNode, *options: str) -> str:
    """The id of a dead task with secrets, on a node that runs."""
    node.start("--http", "127.0.0.1:0", *options, app=APP)
    pay.options(via=node.via).spool(3, user="me", db_password=SECRET, card={"token": SECRET, "iban": SECRET})
    eventually(lambda: node.status()["dead"] == 1, "it is dead")
    (row,) = json.loads(node.command("dead", "ls", "--json").stdout)
    return str(row["id"])


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_show_hides_it_with_and_without_a_node_and_the_file_keeps_it(node: RunningNode, as_json: list[str]) -> None:
    identity = dead(node, "--hide", "password", "--hide", "token", "--hide", "iban")
    for is_running in (True, False):
        done = node.command("show", identity, *as_json, SPOOLNODE_HIDE="password,token,iban")
        assert done.returncode == 0, done.stderr
        assert SECRET not in done.stdout
        assert MARK in done.stdout.replace(r"\u2022", "•")
        assert "me" in done.stdout
        if is_running:
            node.stop()
    (file,) = (node.spool / "dead").glob("uwsgi_spoolfile_*")
    assert file.read_bytes().count(SECRET.encode()) == 3


def test_none_shows_all(node: RunningNode) -> None:
    identity = dead(node, "--hide", "none")
    assert node.command("show", identity).stdout.count(SECRET) == 3
