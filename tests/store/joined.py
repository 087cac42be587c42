"""Real nodes with a common store, and the history that their tasks write."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from postgres import Postgres
from subjects import InPostgres
from support import PATIENCE, RunningNode, eventually

import spoolnode

APP = """
import os, time, zlib
from spoolnode import uwsgi

HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def note(what, env):
    os.write(HISTORY, f"{what} {env['n']} {os.environ['WHO']}\\n".encode())

def spooler(env):
    note("start", env)
    if "gate" in env:
        while not os.path.exists(env["gate"]):
            time.sleep(0.01)
    if "seconds" in env:
        time.sleep(float(env["seconds"]))
    if "dies" in env and not os.path.exists(env["dies"]):
        open(env["dies"], "w").close()
        os.kill(os.getpid(), 9)
    if "fails" in env:
        raise ValueError(env["fails"])
    if "sum" in env and zlib.crc32(env["body"]) != int(env["sum"]):
        note("bad", env)
    note("end", env)

uwsgi.spooler = spooler
"""


class Commune:
    """Nodes that share the store of one database."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.app = APP
        self.history = directory / "history"
        self.nodes: dict[str, RunningNode] = {}
        self._sent = 0

    def start(
        self, name: str, *args: str, store: bool = True, app: bool = True, wait: bool = True, **variables: str
    ) -> RunningNode:
        """Starts a node of that name, the first time or again."""
        if name not in self.nodes:
            place = self.directory / name
            place.mkdir()
            self.nodes[name] = RunningNode(place, name)
        options = [*(["--store", self.url] if store else []), *(() if "--store-lease" in args else ("--store-lease", "3")), *args]
        return self.nodes[name].start(
            *options,
            app=self.app if app else "",
            wait=wait,
            HISTORY=str(self.history),
            WHO=name,
            PGCONNECT_TIMEOUT="5",
            **variables,
        )

    def send(self, via: RunningNode, count: int, node: str | None = None, **more: Any) -> list[int]:
        """Sends tasks, in one go. Returns their numbers."""
        numbers = list(range(self._sent, self._sent + count))
        self._sent += count
        spoolnode.send_many([{"n": str(number), **more} for number in numbers], node, via=via.via, send_timeout=PATIENCE)
        return numbers

    def lines(self) -> list[tuple[str, int, str]]:
        """What tasks did, in order: what, number, the name of the node."""
        text = self.history.read_text() if self.history.exists() else ""
        return [(what, int(number), who) for what, number, who in (line.split() for line in text.splitlines())]

    def starts(self) -> Counter[int]:
        """How often each task has started."""
        return Counter(number for what, number, _ in self.lines() if what == "start")

    def where(self, numbers: Iterable[int]) -> dict[int, list[str]]:
        """Where each of these tasks has ended."""
        ends: dict[int, list[str]] = {number: [] for number in numbers}
        for what, number, who in self.lines():
            assert what != "bad", f"the body of the task {number} is another one"
            if what == "end" and number in ends:
                ends[number].append(who)
        return ends

    def wait_for(self, numbers: Iterable[int]) -> None:
        """Returns when all these have ended."""
        wanted = list(numbers)
        eventually(lambda: all(self.where(wanted).values()), f"all of {len(wanted)} tasks have ended")

    def wait_for_start(self, number: int, who: str) -> None:
        """Returns when a task has started on that node."""
        eventually(lambda: ("start", number, who) in self.lines(), f"{number} has started on {who}")

    def clean_up(self) -> None:
        """Leaves no process behind."""
        for node in self.nodes.values():
            node.clean_up()


def states(server: Postgres) -> dict[str, int]:
    """How many tasks are in each state."""
    return dict(server.sql("SELECT state, count(*) FROM spoolnode.task GROUP BY state", InPostgres.database))


def cut(server: Postgres, *, away: bool) -> None:
    """Takes the store away from all nodes, or brings it back."""
    server.sql(f"ALTER DATABASE {InPostgres.database} ALLOW_CONNECTIONS {not away}")
    if away:
        server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{InPostgres.database}'")


def wait_until_ended(server: Postgres) -> None:
    """Returns when the store has nothing left but ended tasks."""
    eventually(lambda: set(states(server)) <= {"ended"}, "the store has only ended tasks")


def signal_node(node: RunningNode, number: int) -> None:
    """Sends a signal to the process of a node alone, and not to its workers."""
    os.kill(node.pid, number)


def worker_of(node: RunningNode) -> int:
    """The process id of a worker of a node."""
    found = subprocess.run(["pgrep", "-P", str(node.pid), "-f", "worker_process"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])
