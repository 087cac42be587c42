"""A running task says how far it is, and everyone who looks sees it, even when its node was killed meanwhile."""

import json
from collections.abc import Callable

from support import RunningNode, eventually
from watch import NOTES, Gate, tasks, wait_for_note

import spoolnode

APP = (
    NOTES
    + """
from spoolnode import current_task

def spooler(env):
    if current_task().attempt == 1:
        for page in range(5):
            current_task().progress(page / 10, f"page {page} of 10")
    note("said")
    wait("door")

uwsgi.spooler = spooler
"""
)


def test_a_task_shows_how_far_it_is(node: RunningNode, gate: Callable[[str], Gate]) -> None:
    node.start(app=APP)
    identity = spoolnode.send_to_spooler({"n": "1"}, via=node.via)
    wait_for_note(node, "said")
    eventually(lambda: [task.get("progress_text") for task in tasks(node)] == ["page 4 of 10"], "its last word is told")
    assert f"{identity} 40%: page 4 of 10" in node.command("status").stdout
    (row,) = json.loads(node.command("ls", "--json").stdout)
    assert (row["state"], row["progress"]) == ("running", 0.4)
    shown = json.loads(node.command("show", identity, "--json").stdout)
    assert (shown["progress"], shown["story"][-1]["progress_text"]) == (0.4, "page 4 of 10")
    node.kill9()
    shown = json.loads(node.command("show", identity, "--json").stdout)
    assert [step["event"] for step in shown["story"]] == ["accepted", "progress"]
    node.start(app=APP)
    gate("door").open()
    eventually(lambda: node.status()["done"] == 1, "it runs again")
    assert "40%" not in node.command("status").stdout
