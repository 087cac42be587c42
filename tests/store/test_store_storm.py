"""Three nodes share a store; nodes, workers and servers are killed, stopped and started again, lose their power, their room on
the disk, and their network.

No acknowledged task is lost, and only what ran on a node that was disturbed runs again.

PYTEST_CRASH_SEED repeats the dice of a run (not its timing); PYTEST_STORE_ROUNDS sets how many disturbances there are:
fifty and more in CI (`make disasters`).
"""

import contextlib
import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from crowd import Crowd
from engines import NODES, Engine, NatsEngine, PostgresEngine
from history import Ledger, Line, ended_tasks, read_lines
from joined import signal_node, worker_of
from support import RunningNode, eventually
from talk import quiet_port

ROUNDS = int(os.environ.get("PYTEST_STORE_ROUNDS", "8"))
TASKS_A_ROUND = 40
KINDS = {"kill a node": 30, "kill a worker": 15, "disturb the store": 20, "stop a node": 10, "stop the process of a node": 10}
OF_HOSTS = {"cut a node off": 15}
"""If each node has a machine of its own."""

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
    time.sleep(float(env["takes"]))
    note("end", int(env["n"]))

uwsgi.spooler = spooler
"""


class StormNode(RunningNode):
    """A node, perhaps on a machine of its own."""

    def __init__(self, directory: Path, name: str, network: str) -> None:
        super().__init__(directory, name)
        self._network = network
        directory.mkdir()

    @property
    def network(self) -> str:
        """As the base class says."""
        return self._network

    def in_network(self, line: list[str]) -> list[str]:
        """As the base class says."""
        return ["nsenter", f"--net={self._network}", *line] if self._network else line

    @property
    def address(self) -> str:
        """Where clients send to: a file, which is the same on all machines."""
        return str(self.spool / "spool.sock")


class Storm:
    """The nodes, and whoever disturbs them."""

    def __init__(self, directory: Path, engine: Engine, rng: random.Random) -> None:
        self.history = directory / "history"
        self.history.touch()
        self.disturbed: set[int] = set()
        """The processes of nodes that were killed or stopped, or lost workers."""
        self.done: Counter[str] = Counter()
        self.engine = engine
        self._rng = rng
        networks = [engine.hosts.namespace_file(host) if engine.hosts else "" for host in range(NODES)]
        names = ("alpha", "beta", "gamma")
        self.nodes = [StormNode(directory / name, name, network) for name, network in zip(names, networks, strict=True)]
        for node in self.nodes:
            node.port = quiet_port(rng)

    def start(self, node: RunningNode) -> None:
        """Starts a node, the first time or again."""
        options = ["--listen", f"127.0.0.1:{node.port}", "--store", self.engine.node_url]
        options += ["--store-lease", str(self.engine.lease), "--workers", "2", "--log-level", "info"]
        node.start(*options, "--retry-base", "0.1", "--max-attempts", "0", app=APP, HISTORY=str(self.history))

    def disturb(self) -> None:
        """One disturbance. All nodes are up afterwards."""
        node = self._rng.choice(self.nodes)
        kinds = {**KINDS, **(OF_HOSTS if self.engine.hosts else {})}
        (kind,) = self._rng.choices(list(kinds), list(kinds.values()))
        if kind == "disturb the store":
            self.done[self.engine.disturb(self._rng)] += 1
            return
        self.done[kind] += 1
        if kind == "cut a node off":
            self._cut_off(self.nodes.index(node))
            return
        if kind == "stop a node":
            assert node.stop() == 0
            self.start(node)
            return
        self.disturbed.add(node.pid)
        if kind == "kill a node":
            node.kill9()
            self.start(node)
        elif kind == "kill a worker":
            os.kill(eventually(lambda: _worker(node), "a worker is up"), signal.SIGKILL)
        else:
            signal_node(node, signal.SIGSTOP)
            time.sleep(self.engine.lease + 1)
            signal_node(node, signal.SIGCONT)

    def _cut_off(self, host: int) -> None:
        """For longer than its leases: without its cable, which the machine notices, or by a firewall, which it does not."""
        hosts = self.engine.hosts
        assert hosts
        if self._rng.random() < 0.5:
            hosts.cut(host)
        else:
            hosts.cut_from(host)
            hosts.cut_to(host)
        time.sleep(self.engine.lease + 1)
        hosts.heal(host)

    def excused(self) -> set[int]:
        """The processes of nodes whose tasks may have run elsewhere, too: also of those that were cut off past their leases."""
        found = set(self.disturbed)
        for node in self.nodes:
            pid = 0
            for line in node.log:
                if line.get("action") == "ready":
                    pid = line["pid"]
                elif line.get("action") in ("leases_lapsed", "lease_lost", "leases_left"):
                    found.add(pid)
        return found


def _worker(node: RunningNode) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError, ChildProcessError):
        return worker_of(node)
    return 0


def faults(lines: list[Line], ledger: Ledger, excused: set[int]) -> list[str]:
    """All in the history that breaks a promise."""
    starts: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        if line.what == "start":
            starts[line.task].append(line)
    found = [f"task {task} was acknowledged and is lost" for task in sorted(ledger.acknowledged.keys() - ended_tasks(lines))]
    found += [f"task {task} was refused and ran" for task in sorted(ledger.refused & starts.keys())]
    found += [f"task {line.task} arrived damaged" for line in lines if line.what == "bad"]
    for task, of_task in starts.items():
        again = [line.worker for line in of_task[:-1] if int(line.worker.split(".")[0]) not in excused]
        found += [f"task {task} ran again after {worker}, whose node nobody disturbed" for worker in again]
    return found


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("PYTEST_CRASH_SEED") or random.randrange(1 << 32))
    print(f"PYTEST_CRASH_SEED={chosen}")  # noqa: T201  # pytest shows it when the test fails
    return chosen


@pytest.fixture(params=[PostgresEngine, NatsEngine], ids=["postgresql", "nats"])
def engine(request: pytest.FixtureRequest, place: Path) -> Iterator[Engine]:
    engine: Engine = request.param(place)
    yield engine
    engine.end()


@pytest.fixture
def storm(tmp_path: Path, engine: Engine, seed: int) -> Iterator[Storm]:
    storm = Storm(tmp_path, engine, random.Random(seed))
    yield storm
    for node in storm.nodes:
        node.clean_up()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0 and not os.environ.get("CI"), reason="needs root: disks in images")
def test_what_the_store_acknowledged_runs_and_only_what_ran_on_a_disturbed_node_runs_again(
    storm: Storm, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    for node in storm.nodes:
        storm.start(node)
    addresses = [node.address for node in storm.nodes]
    with Crowd(addresses, 6, random.Random(seed), ["sync"], ["any", "any", "alpha", "beta"]) as crowd:
        ledger = crowd.ledger
        for _ in range(ROUNDS):
            crowd.allow(TASKS_A_ROUND)
            eventually(lambda: crowd.problems or ledger.settled >= crowd.quota - TASKS_A_ROUND / 2, "the clients go on")
            storm.disturb()
        eventually(lambda: crowd.problems or ledger.settled == crowd.quota, "every task has an answer")
    assert not crowd.problems
    eventually(lambda: ledger.acknowledged.keys() <= ended_tasks(read_lines(storm.history.read_text())), "all has run")
    eventually(lambda: not storm.engine.unfinished(), "the store knows that")
    for node in storm.nodes:
        assert node.stop() == 0
    lines = read_lines(storm.history.read_text())
    again = sum(count > 1 for count in Counter(line.task for line in lines if line.what == "start").values())
    with capsys.disabled():
        print(  # noqa: T201  # the figures of a run belong into the log of CI
            f"\n  {dict(storm.done)} in {time.monotonic() - began:.0f} s (seed {seed}): {len(ledger.acknowledged)} acknowledged, "
            f"{len(ledger.unknown)} unknown, {again} ran again"
        )
    assert faults(lines, ledger, storm.excused()) == [], f"seed {seed}"
    assert not [line for node in storm.nodes for line in (*node.lines("mistake"), *node.lines("housekeeping_failed"))]
    assert len(ledger.acknowledged) > ROUNDS * TASKS_A_ROUND * 0.6, "too many connections broke for this to prove anything"
