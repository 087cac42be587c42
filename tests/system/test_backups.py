"""Copies of a spool directory: what a copy of a running node holds, and what an old one that is restored does once more."""

import os
import shutil
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from support import RunningNode, eventually
from watch import Gate, notes

from spoolnode import send_to_spooler

APP = """
import os, time
from spoolnode import current_task, uwsgi

def spooler(env):
    with open("notes", "a") as notes:
        notes.write(f"{env['n']} {current_task().origin_id}\\n")
    while "gate" in env and not os.path.exists(env["gate"]):
        time.sleep(0.01)

uwsgi.spooler = spooler
"""
"""It notes each run: the number of the task, and the id that its first node gave it."""


def copy(source: Path, target: Path) -> None:
    """All files, as `cp -a` copies them."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])


def snapshot(node: RunningNode, target: Path, pids: Iterable[int]) -> None:
    """A copy of all files as they are at one moment, as a file system makes it: nothing changes meanwhile."""
    stopped = [node.pid, *pids]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        copy(node.spool, target)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def test_a_snapshot_of_a_running_node_has_what_was_acknowledged_and_had_not_ended(
    node: RunningNode, gate: Callable[[str], Gate], tmp_path: Path
) -> None:
    door = gate("door")
    node.start(app=APP)
    for number in range(20):
        send_to_spooler({"n": str(number)}, via=node.via)
    eventually(lambda: node.status()["done"] == 20, "they have ended")
    for number in range(20, 40):
        send_to_spooler({"n": str(number), "gate": "gate.door"}, via=node.via)
    eventually(lambda: len(notes(node)) == 21, "one of the others runs")
    snapshot(node, tmp_path / "snapshot", node.status()["worker_pids"])
    node.kill9()
    (node.directory / "notes").unlink()
    copy(tmp_path / "snapshot", node.spool)
    door.open()
    node.start(app=APP)
    eventually(lambda: len(notes(node)) >= 20, "those that had not ended run")
    node.stop()
    assert sorted(int(line.split()[0]) for line in notes(node)) == list(range(20, 40))


def test_an_old_copy_runs_again_what_has_ended_since_with_the_same_origin_id(node: RunningNode, tmp_path: Path) -> None:
    node.start()
    send_to_spooler({"n": "1"}, via=node.via)
    node.stop()
    copy(node.spool, tmp_path / "old")
    node.start(app=APP)
    eventually(lambda: len(notes(node)) == 1, "it runs")
    send_to_spooler({"n": "2"}, via=node.via)
    eventually(lambda: node.status()["done"] == 2, "the other one, too")
    node.stop()
    copy(tmp_path / "old", node.spool)
    node.start(app=APP)
    eventually(lambda: len(notes(node)) == 3, "the first one runs again")
    third = send_to_spooler({"n": "3"}, via=node.via)
    eventually(lambda: len(notes(node)) == 4, "a new one runs")
    first, second, again, new = notes(node)
    assert again == first
    assert new.split()[1] == third
    assert third not in first + second, "no id is given twice"


def test_an_old_copy_sends_nothing_twice_to_a_node_that_took_it(node: RunningNode, tmp_path: Path) -> None:
    """Nor is a new task taken for one that was sent before: its number is of a later start."""
    (tmp_path / "other").mkdir()
    other = RunningNode(tmp_path / "other", "other")
    try:
        other.start(app=APP)
        address = f"127.0.0.1:{other.port}"
        other.stop()
        node.start()
        send_to_spooler({"n": "1"}, via=node.via, node=address)
        node.stop()
        copy(node.spool, tmp_path / "old")
        other.start(app=APP)
        node.start()
        eventually(lambda: len(notes(other)) == 1, "it is sent")
        eventually(lambda: not node.status()["outbox"], "and the answer came")
        node.stop()
        copy(tmp_path / "old", node.spool)
        node.start()
        send_to_spooler({"n": "2"}, via=node.via, node=address)
        eventually(lambda: len(notes(other)) > 1, "the new one runs there")
        eventually(lambda: not node.status()["outbox"], "all were answered")
        assert [line.split()[0] for line in notes(other)] == ["1", "2"]
    finally:
        other.clean_up()
