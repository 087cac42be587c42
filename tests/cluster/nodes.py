"""Real nodes on hosts of their own: `spoolnode join` in a network namespace each, found by real multicast, with one history.

    def test_something(cluster):
        alpha, beta = cluster.start("alpha", "beta")
        numbers = cluster.send(alpha, 10, "beta")
        cluster.wait_until_done()
        assert cluster.where(numbers) == {"beta"}
        cluster.check()

Clients talk to a node through the unix socket in its spool: files are the same on all hosts.
"""

import itertools
import os
import secrets
import shutil
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from history import Killed, Ledger, Summary, check, read_lines
from netns import Hosts
from quick import timed
from support import PATIENCE, RunningNode, eventually
from talk import connect, read_answers, request

from spoolnode.cluster.timing import USUAL
from spoolnode.protocol.names import NODE
from spoolnode.protocol.packet import ANSWER

PORT = 3031
TELLING = replace(USUAL, silence=60.0, stale=120.0)
"""With it a node hears news only if it is told: its next ping is far away."""
TOLD = 20.0
"""Seconds for news that is told, on a busy machine too: with `TELLING` a ping would find it out after 48 s, and the next
announcement comes after 30 s."""
AT_ONCE = 200
"""Requests that a client sends before it reads the answers."""
TICKS = os.sysconf("SC_CLK_TCK")

APP = """
import os, time, zlib
from spoolnode import uwsgi

WORKER = f"{os.getppid()}.{os.getpid()}.{os.urandom(4).hex()}"
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def note(what, task):
    os.write(HISTORY, f"{what} {task} {WORKER} main\\n".encode())

def spooler(env):
    note("start", int(env["n"]))
    if zlib.crc32(env.get("body", b"")) != int(env["sum"]):
        note("bad", int(env["n"]))
    while env.get("gate") and not os.path.exists(env["gate"]):
        time.sleep(0.005)
    time.sleep(float(env.get("takes", 0)))
    note("end", int(env["n"]))

uwsgi.spooler = spooler
"""


class HostNode(RunningNode):
    """A node on a host of its own. Its address is that of the host."""

    def __init__(self, cluster: "Cluster", host: int, name: str) -> None:
        super().__init__(cluster.directory / name, name)
        self.directory.mkdir()
        self.host = host
        self.pids: set[int] = set()
        """Of all its starts."""
        self._cluster = cluster

    def launch(self, *args: str) -> Self:
        """Starts it without waiting. It finds the others by mDNS, and logs no single tasks, unless the options say otherwise."""
        found = [] if "--discover" in args else ["--discover", "mdns"]
        listen = [] if "--listen" in args else ["--listen", self.address]
        ours = [*listen, "--allow", "10.77.0.0/16", "--cluster", self._cluster.name, *found, "--log-level", "info"]
        self.start(*ours, *self._cluster.options, *args, app=APP, wait=False, HISTORY=str(self._cluster.history.path))
        self.pids.add(self.pid)
        return self

    def restart(self, *args: str) -> Self:
        """Starts it, and waits until it is ready."""
        return self.launch(*args).wait_until_ready()

    def command_line(self, args: list[str]) -> list[str]:
        """As the base class says."""
        return timed(args, self._cluster.timing)

    @property
    def network(self) -> str:
        """As the base class says."""
        return self._cluster.hosts.namespace_file(self.host)

    def in_network(self, line: list[str]) -> list[str]:
        """As the base class says."""
        return self._cluster.hosts.command(self.host, line)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{self._cluster.hosts.address(self.host)}:{PORT}"

    @property
    def via(self) -> str:
        """Where clients send to."""
        return str(self.spool / "spool.sock")

    @property
    def id(self) -> str:
        """The node's id."""
        return (self.spool / "node.id").read_text().strip()

    def outbox(self) -> int:
        """How many tasks wait in it for others."""
        return sum(self.status()["outbox"].values())

    def wait_for_peers(self, *others: "HostNode") -> None:
        """Returns when it has seen each of these up, since its own start."""
        for other in others:
            self.wait_for_log("peer_up", since=self._seen, id=other.id)

    def kill9(self) -> None:
        """As the base class says; noted, so that a task which ran may run again."""
        self._cluster.killed.nodes.add(self.pid)
        super().kill9()

    def cpu_seconds(self) -> float:
        """The CPU time of the node's own process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class History:
    """The file in which all applications write; see tests/system/history.py."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self._at = 0
        self._ends: Counter[int] = Counter()
        self._lock = threading.Lock()

    def ended(self) -> Counter[int]:
        """How often each task has ended so far. Reads only what is new: it is asked all the time."""
        with self._lock, open(self.path, "rb") as file:
            file.seek(self._at)
            text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._at += len(whole)
            for line in whole.splitlines():
                what, task, _ = line.split(b" ", 2)
                self._ends[int(task)] += what == b"end"
            return self._ends

    def runs(self) -> Iterator[tuple[int, int]]:
        """Each start: the task, and the pid of its node."""
        for line in read_lines(self.path.read_text()):
            if line.what == "start":
                yield line.task, int(line.worker.split(".")[0])


class Cluster:
    """Nodes that find each other, with the acknowledgements of clients and the places where tasks ran."""

    def __init__(self, directory: Path, hosts: Hosts) -> None:
        self.directory = directory
        self.hosts = hosts
        self.name = f"test-{secrets.token_hex(4)}"
        self.options = ["--retry-base", "0.05", "--retry-max", "0.2", "--max-attempts", "0"]
        self.timing = USUAL
        """Of nodes that are started from now on."""
        self.nodes: list[HostNode] = []
        self.history = History(directory / "history")
        self.ledger = Ledger()
        self.killed = Killed()
        self._numbers = itertools.count(1_000_000)

    # -- nodes --

    def add(self, name: str) -> HostNode:
        """A node on the next host, not started yet."""
        self.nodes.append(HostNode(self, len(self.nodes), name))
        return self.nodes[-1]

    def start(self, *names: str, options: Iterable[str] = ()) -> list[HostNode]:
        """New nodes, all ready; each knows all others."""
        nodes = [self.add(name) for name in names]
        for node in nodes:
            node.launch(*options)
        for node in nodes:
            node.wait_until_ready()
        for node in nodes:
            node.wait_for_peers(*(other for other in nodes if other is not node))
        return nodes

    def clean_up(self) -> None:
        """Leaves no process behind."""
        for node in self.nodes:
            node.clean_up()

    # -- tasks --

    def send(
        self, via: HostNode, count: int, *to: str, body: int = 0, extra: Iterable[tuple[bytes, bytes]] = (), **more: Any
    ) -> list[int]:
        """Enqueues tasks through a node, for these destinations in turn; their numbers, when all are acknowledged."""
        numbers = list(itertools.islice(self._numbers, count))
        content = secrets.token_bytes(body)
        task: dict[str, Any] = {"sum": str(zlib.crc32(content)), **({"body": content} if body else {}), **more}
        with connect(via.via) as sock:
            for first in range(0, count, AT_ONCE):
                some = numbers[first : first + AT_ONCE]
                self.ledger.sent.update(some)
                for number in some:
                    place = [(NODE, to[number % len(to)].encode())] if to else []
                    sock.sendall(request({"n": str(number), **task}, extended=True, extra=[*place, *extra]))
                answers = read_answers(sock, len(some))
                assert [answer[:2] for answer in answers] == [(ANSWER, 1)] * len(some), answers
                self.ledger.acknowledged.update(dict.fromkeys(some, 0.0))
        return numbers

    def gate(self, name: str) -> Path:
        """A file for which tasks wait that carry its path as `gate`; `touch` opens it."""
        return self.directory / f"gate.{name}"

    def wait_until_done(self, numbers: Iterable[int] = (), patience: float = PATIENCE) -> None:
        """Returns when these tasks (default: all that were acknowledged) have run."""
        wanted = set(numbers) or self.ledger.acknowledged.keys()

        def missing() -> set[int]:
            return wanted - {task for task, times in self.history.ended().items() if times}

        try:
            eventually(lambda: not missing(), "all has run", patience)
        except AssertionError:
            raise AssertionError(f"{len(missing())} of {len(wanted)} tasks have not run: {self._said()}") from None

    def where(self, numbers: Iterable[int]) -> dict[int, list[str]]:
        """The names of the nodes on which each of these tasks ran."""
        places: dict[int, list[str]] = {number: [] for number in numbers}
        names = {pid: node.name for node in self.nodes for pid in node.pids}
        for task, pid in self.history.runs():
            if task in places:
                places[task].append(names[pid])
        return places

    def wait_until_empty(self) -> None:
        """Returns when nothing waits, runs or is on its way on any node that is up."""
        for node in self.nodes:
            if node.is_running:
                eventually(lambda node=node: not node.status()["total"] + node.outbox(), f"{node.name} is empty")

    def check(self, kept: Iterable[int] = ()) -> Summary:
        """Fails when something is lost or ran twice that must not. After everything has come to rest."""
        summary, problems = check(read_lines(self.history.path.read_text()), self.ledger, self.killed, set(kept))
        assert problems == []
        for node in self.nodes:
            assert node.noise == [], node.name
            mistakes = [line for line in node.log if line["action"] in ("mistake", "housekeeping_failed")]
            assert mistakes == [], node.name
            assert kept or not list((node.spool / "dead").iterdir()), f"{node.name} gave up"
            assert not list((node.spool / "corrupt").iterdir()), node.name
        return summary

    def _said(self) -> str:
        said = []
        for node in self.nodes:
            waiting = f"total {node.status()['total']}, outbox {node.status()['outbox']}" if node.is_running else "not running"
            said += [f"\n{node.name} ({waiting})", *map(str, node.log[-12:]), *node.noise[-5:]]
        return "\n".join(said)


def at(line: dict[str, Any]) -> float:
    """When a line was logged, in seconds since 1970."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def copy_spool(source: HostNode, target: HostNode) -> None:
    """Does what a careless copy of a machine's disk does."""
    shutil.copytree(source.spool, target.spool, ignore=lambda _path, names: [name for name in names if name.endswith(".sock")])
