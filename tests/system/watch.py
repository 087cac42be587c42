"""For tests of a running node: its tasks, its processes, the notes of its application."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from support import RunningNode, eventually, whole_lines

from spoolnode.client.control import ask

NOTES = '''
import os, signal, sys, time
from spoolnode import uwsgi

HERE = os.getcwd()

def note(*words):
    """One line in the test's file, in one write."""
    descriptor = os.open(HERE + "/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)

def is_open(gate):
    return os.path.exists(HERE + "/gate." + gate)

def wait(gate):
    """Returns when the test has opened the gate."""
    while not is_open(gate):
        time.sleep(0.005)
'''
"""The beginning of a test's application."""


class Gate:
    """A file for which an application waits."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        """Lets it go on."""
        self._path.touch()


def notes(node: RunningNode) -> list[str]:
    """The notes of the application so far."""
    return whole_lines(node.directory / "notes")


def count(node: RunningNode, note: str) -> int:
    """How often the application wrote this note."""
    return Counter(notes(node))[note]


def wait_for_note(node: RunningNode, note: str, times: int = 1) -> None:
    """Returns when the application has written this note so often."""
    eventually(lambda: count(node, note) >= times, f"{note!r} {times} times; there is {Counter(notes(node))}")


def wait_for_notes(node: RunningNode, wanted: list[str]) -> None:
    """Returns when the application has written each of these."""
    eventually(lambda: not set(wanted) - set(notes(node)), f"{len(wanted)} notes like {wanted[0]!r}")


def status(node: RunningNode) -> dict[str, Any]:
    """The node in numbers, and its links by their destinations."""
    return node.status()


def tasks(node: RunningNode, state: str = "running,waiting,later") -> list[dict[str, Any]]:
    """The tasks of the node, as `ls` has them."""
    found: list[dict[str, Any]] = ask(str(node.spool), "GET", f"/tasks?limit=100000&state={state}")["items"]
    return found


def wait_until_idle(node: RunningNode) -> None:
    """Returns when nothing is left to do. One look may miss a task that goes from one state to another meanwhile."""
    eventually(lambda: all(status(node)["total"] == 0 and not tasks(node) for _ in range(2)), "nothing is left")


def dead(node: RunningNode) -> list[dict[str, Any]]:
    """The tasks that were given up, each with all that `show` tells of it; also of a node that does not run."""
    if node.is_running:
        return [ask(str(node.spool), "GET", f"/tasks/{row['id']}") for row in tasks(node, "dead")]
    rows = json.loads(node.command("dead", "ls", "--json").stdout)
    return [json.loads(node.command("show", row["id"], "--json").stdout) for row in rows]


def spool_files(node: RunningNode) -> list[str]:
    """The names of the files of waiting tasks at the top of the spool."""
    return sorted(name for name in os.listdir(node.spool) if name.startswith("uwsgi_spoolfile_on_"))


def workers(node: RunningNode) -> list[int]:
    """The process ids of the workers that are up."""
    pids: list[int] = status(node)["worker_pids"]
    return pids


def resident(pid: int) -> int:
    """The memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
