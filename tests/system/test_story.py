"""The story of a task can be read after its end, and nothing that happens to its database reaches the spool."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import RunningNode, eventually
from watch import NOTES, Gate, wait_for_note

import spoolnode
from spoolnode.client.control import ControlError, ask

APP = (
    NOTES
    + """
def spooler(env):
    note(env["n"])
    if env["n"] == "fails":
        raise ValueError("no such customer")
    if env["n"] == "waits":
        wait("door")
        note("waited")

uwsgi.spooler = spooler
"""
)


def send(node: RunningNode, n: str) -> str:
    """The id of a new task."""
    return spoolnode.send_to_spooler({"n": n}, via=node.via)


def story(node: RunningNode, identity: str) -> list[dict[str, Any]]:
    """Its steps; empty if the node knows none."""
    if not node.is_running:
        done = node.command("show", identity, "--json")
        return list(json.loads(done.stdout)["story"]) if done.returncode == 0 else []
    try:
        return list(ask(str(node.spool), "GET", f"/tasks/{identity}")["story"])
    except ControlError:
        return []


def events(node: RunningNode, identity: str) -> list[str]:
    """The same without the details."""
    return [step["event"] for step in story(node, identity)]


def ended(node: RunningNode, identity: str) -> None:
    """Returns when the story of a task has its end."""
    eventually(lambda: events(node, identity)[-1:] == ["done"], "the story has its end")


def test_the_story_of_a_task_is_shown_after_its_end_with_and_without_a_node(node: RunningNode) -> None:
    node.start(app=APP)
    identity = send(node, "1")
    ended(node, identity)
    accepted, done = story(node, identity)
    assert (accepted["from"], accepted["node"]) == ("127.0.0.1", "testnode")
    assert 0 <= done["seconds"] < 60
    node.stop()
    assert story(node, identity) == [accepted, done]
    shown = node.command("show", identity).stdout
    clock = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    steps = rf"^story +{clock}  testnode  accepted from 127\.0\.0\.1\n +{clock}  testnode  done \d+\.\d s$"
    assert re.search(steps, shown, re.MULTILINE), shown


def test_each_attempt_is_told_with_its_error_and_traceback_until_the_task_is_dead(node: RunningNode) -> None:
    node.start("--max-attempts", "2", "--retry-base", "0.01", app=APP)
    identity = send(node, "fails")
    eventually(lambda: events(node, identity) == ["accepted", "attempt", "attempt", "dead"], "all that happened is told")
    _, first, second, _ = story(node, identity)
    assert (first["attempt"], first["outcome"], second["attempt"]) == (1, "failed", 2)
    for line in (node.wait_for_log("retry"), node.wait_for_log("dead")):
        assert (line["id"], line["origin_id"], line["node"], line["function"]) == (identity, identity, "testnode", "")
    assert first["reason"].startswith("ValueError: no such customer\n")
    assert "in spooler" in first["reason"]
    shown = node.command("show", identity).stdout.splitlines()
    assert sum(line.endswith(" s ValueError: no such customer") and "  testnode  attempt " in line for line in shown) == 2


def test_a_story_goes_on_after_kill_9(node: RunningNode) -> None:
    node.start()
    identity = send(node, "1")
    assert events(node, identity) == ["accepted"]
    node.kill9()
    assert events(node, identity) == ["accepted"], "it can be read without a node, too"
    node.start(app=APP)
    ended(node, identity)
    assert events(node, identity) == ["accepted", "done"]


def test_without_history_there_is_no_database_and_no_story(node: RunningNode) -> None:
    node.start("--history", "0", app=APP)
    identity = send(node, "1")
    wait_for_note(node, "1")
    assert story(node, identity) == []
    assert not (node.spool / "story.db").exists()


def overwrite(database: Path) -> None:
    """Damages it where it lies."""
    with database.open("r+b") as file:
        file.write(os.urandom(1 << 16))


def cut(database: Path) -> None:
    """Cuts off all files of the database."""
    for path in database.parent.glob("story.db*"):
        os.truncate(path, 0)


def remove(database: Path) -> None:
    """Removes all files of the database."""
    for path in database.parent.glob("story.db*"):
        path.unlink()


def make_directory(database: Path) -> None:
    """Puts something else in its place."""
    remove(database)
    database.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("harm", [overwrite, cut, remove, make_directory])
@pytest.mark.parametrize("running", [True, False])
def test_whatever_becomes_of_the_database_the_spool_goes_on_and_new_stories_are_kept(
    node: RunningNode, harm: Any, running: bool
) -> None:
    node.start(app=APP)
    ended(node, send(node, "before"))
    if not running:
        node.stop()
    harm(node.spool / "story.db")
    if not running:
        node.start(app=APP)
    for n in range(20):
        send(node, str(n))
    for n in range(20):
        wait_for_note(node, str(n))
    eventually(lambda: story_of_new(node), "new stories are kept")
    assert node.status()["history_dropped"] == 0
    node.stop()
    assert len(node.lines("history_began_again")) <= 1


def story_of_new(node: RunningNode) -> bool:
    """Sends a task, and says whether its story is told soon."""
    identity = send(node, "new")
    return events(node, identity)[:1] == ["accepted"]


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """Makes a file read-only for a while, also for root."""
    if os.geteuid():
        path.chmod(0o400)
        yield
        path.chmod(0o600)
        return
    mount = ["mount", "-o"]
    if subprocess.run([*mount, "bind", str(path), str(path)], check=False).returncode:
        pytest.skip("root cannot mount here")
    try:
        subprocess.run([*mount, "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["story.db", "story.db-wal"])
def test_while_the_database_is_read_only_tasks_run_the_log_says_so_once_and_the_story_catches_up(
    node: RunningNode, name: str
) -> None:
    node.start(app=APP)
    ended(node, send(node, "before"))
    node.kill9()  # SQLite's log stays beside the database
    with read_only(node.spool / name):
        node.start(app=APP)
        identities = [send(node, str(n)) for n in range(20)]
        for n in range(20):
            wait_for_note(node, str(n))
        node.wait_for_log("history_stopped")
        assert [events(node, identity) for identity in identities] == [[]] * 20
    node.wait_for_log("history_goes_on")
    assert len(node.lines("history_stopped")) == 1
    assert [events(node, identity) for identity in identities] == [["accepted", "done"]] * 20
    assert node.status()["history_dropped"] == 0


@pytest.fixture
def small_disk(node: RunningNode) -> Iterator[RunningNode]:
    """A node whose spool lies on a file system of 20 MiB."""
    node.spool.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=750", "spoolnode-test", str(node.spool)], check=False)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield node
    node.clean_up()
    subprocess.run(["umount", "--lazy", str(node.spool)], check=True)


def fill(disk: Path) -> Path:
    """Fills a disk. Returns the file that does it."""
    filler = disk / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return filler


@pytest.mark.slow
def test_on_a_full_disk_tasks_run_on_the_log_says_so_once_and_the_story_catches_up(
    small_disk: RunningNode, gate: Callable[[str], Gate]
) -> None:
    node = small_disk.start("--min-free", "1M", app=APP)
    identity = send(node, "waits")
    wait_for_note(node, "waits")
    filler = fill(node.spool)
    gate("door").open()
    wait_for_note(node, "waited")
    node.wait_for_log("history_stopped")
    filler.unlink()
    node.wait_for_log("history_goes_on")
    assert len(node.lines("history_stopped")) == 1
    assert events(node, identity) == ["accepted", "done"]
    assert node.status()["history_dropped"] == 0
