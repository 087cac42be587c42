"""Files, or the spool directory, are removed under a running node: it then refuses tasks, or has those that it acknowledges."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import RunningNode, command, eventually

import spoolnode


def send(node: RunningNode, n: int) -> bool:
    """Whether the task was acknowledged."""
    try:
        spoolnode.send_to_spooler({"n": n}, via=node.via)
    except spoolnode.Refused:
        return False
    return True


def done(node: RunningNode, *args: str) -> str:
    """The JSON that a command prints."""
    ended = node.command(*args, "--json")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def waiting(node: RunningNode) -> set[int]:
    """The tasks that the node finds when it starts again."""
    node.start()
    rows = json.loads(node.command("ls", "--limit", "0", "--json").stdout)
    shown = [json.loads(done(node, "show", row["id"])) for row in rows]
    return {task["variables"]["n"] for task in shown}


def remove(path: Path) -> None:
    """`rm -rf`, again while the node writes a file into a directory that is being emptied."""
    eventually(lambda: subprocess.run(["rm", "-rf", path], capture_output=True, check=False).returncode == 0, f"rm -rf {path}")


def clear(spool: Path) -> None:
    """`rm -rf spool/*`."""
    for path in list(spool.iterdir()):
        remove(path)


@pytest.mark.parametrize("how", [clear, lambda spool: remove(spool / "incoming"), lambda spool: remove(spool / "tmp")])
def test_what_is_acknowledged_after_its_files_were_removed_survives_a_kill(
    node: RunningNode, how: Callable[[Path], None]
) -> None:
    node.start()
    assert send(node, 0)
    how(node.spool)
    acknowledged = {n for n in range(1, 6) if send(node, n)}
    assert acknowledged
    eventually((node.spool / "tmp").exists)
    eventually((node.spool / "incoming").exists)
    acknowledged |= {n for n in range(6, 9) if send(node, n)}
    assert {6, 7, 8} <= acknowledged
    node.kill9()
    assert acknowledged <= waiting(node)


def test_a_node_whose_files_were_removed_makes_what_it_needs_anew_and_keeps_its_name(node: RunningNode) -> None:
    node.start()
    own = {name: (node.spool / name).read_text() for name in ("node.id", "node.key")}
    clear(node.spool)
    node.wait_for_log("made_anew")
    eventually(lambda: node.command("status").returncode == 0, "it answers")
    assert {name: (node.spool / name).read_text() for name in own} == own
    assert (node.spool / "node.key").stat().st_mode & 0o077 == 0
    assert node.status()["pid"] == node.pid
    eventually((node.spool / "spool.sock").exists)
    eventually((node.spool / "links").exists)


def test_a_second_node_does_not_start_on_a_directory_whose_lock_was_removed(node: RunningNode) -> None:
    node.start()
    (node.spool / "lock").unlink()
    second = command("join", "--spool", str(node.spool), "--listen", "127.0.0.1:0", "--discover", "none")
    assert second.returncode == 2
    assert "another node" in second.stderr
    assert "belongs to one node" in second.stderr


def test_a_node_whose_directory_was_moved_away_refuses_until_it_is_back(node: RunningNode) -> None:
    node.start()
    assert send(node, 0)
    away = node.spool.with_name("away")
    node.spool.rename(away)
    assert not send(node, 1)
    node.wait_for_log("spool_lost")
    assert not send(node, 2)
    away.rename(node.spool)
    node.wait_for_log("spool_back")
    assert send(node, 3)
    node.kill9()
    assert waiting(node) == {0, 3}


def test_a_node_whose_directory_was_replaced_acknowledges_nothing_that_is_not_at_its_path(node: RunningNode) -> None:
    node.start()
    assert send(node, 0)
    node.spool.rename(node.spool.with_name("away"))
    node.spool.mkdir()
    acknowledged = {n for n in range(1, 10) if send(node, n)}
    node.wait_for_log("spool_lost")
    assert not send(node, 11)
    node.kill9()
    assert acknowledged <= waiting(node)


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_whatever_lies_where_the_lock_should_the_node_starts_and_touches_no_other_file(node: RunningNode, kind: str) -> None:
    precious = node.directory / "precious"
    precious.write_text("precious")
    node.spool.mkdir()
    lock = node.spool / "lock"
    {"link": lambda: lock.symlink_to(precious), "directory": lock.mkdir, "fifo": lambda: os.mkfifo(lock)}[kind]()
    node.start()
    assert precious.read_text() == "precious"
    assert lock.is_file()
    assert not lock.is_symlink()


@pytest.mark.parametrize("name", ["tmp", "incoming", "outbox", "dead", "corrupt", "arriving"])
def test_a_directory_of_the_spool_that_is_a_link_is_refused_and_what_it_leads_to_is_not_touched(
    node: RunningNode, name: str
) -> None:
    elsewhere = node.directory / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("precious")
    node.spool.mkdir()
    (node.spool / name).symlink_to(elsewhere)
    refused = command("join", "--spool", str(node.spool), "--listen", "127.0.0.1:0", "--discover", "none")
    assert refused.returncode == 2
    assert f"{name} is a symbolic link" in refused.stderr
    assert (elsewhere / "file").read_text() == "precious"


def test_the_spool_directory_itself_may_be_reached_through_a_link(node: RunningNode) -> None:
    elsewhere = node.directory / "elsewhere"
    elsewhere.mkdir()
    node.spool.symlink_to(elsewhere)
    node.start()
    assert send(node, 1)
    spoolnode.send_to_spooler({"n": 2, "body": b"large" * 100_000}, via=node.via)
    node.kill9()
    assert waiting(node) == {1, 2}


def test_a_priority_that_is_a_link_leads_no_task_out_of_the_spool(node: RunningNode) -> None:
    elsewhere = node.directory / "elsewhere"
    elsewhere.mkdir()
    node.spool.mkdir()
    (node.spool / "5").symlink_to(elsewhere)
    node.start()
    spoolnode.send_to_spooler({"n": 1, "priority": 5}, via=node.via)
    eventually(lambda: [path for path in node.spool.iterdir() if path.name.startswith("uwsgi_spoolfile_on_")])
    assert not list(elsewhere.iterdir())
