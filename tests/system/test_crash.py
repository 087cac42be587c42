"""kill -9 at any moment, of any process, again and again: acknowledged tasks run, and only running ones run twice.

PYTEST_CRASH_SEED repeats the dice of a run (not its timing); PYTEST_CRASH_KILLS sets how many kills each mode takes: CI has
many more (`make disasters`).
"""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
from crowd import Crowd
from history import Killed, check, ended_tasks, read_lines
from support import RunningNode, eventually
from talk import Address, quiet_port

KILLS = int(os.environ.get("PYTEST_CRASH_KILLS", "15"))
"""In each of the two modes."""
TASKS_A_KILL = 116
MOST_DELAY = 0.12
"""The latest moment of a kill after the clients were let loose, in seconds."""

APP = """
import asyncio, os, time, zlib
from spoolnode import uwsgi

WORKER = f"{os.getppid()}.{os.getpid()}.{os.urandom(4).hex()}"
HISTORY = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def note(what, task, lane):
    os.write(HISTORY, f"{what} {task} {WORKER} {lane}\\n".encode())

def begin(env, lane):
    note("start", int(env["n"]), lane)
    if zlib.crc32(env.get("body", b"")) != int(env["sum"]):
        note("bad", int(env["n"]), lane)

def spooler(env):
    if env["kind"] == "async":
        return wait(env)
    begin(env, "main")
    time.sleep(float(env["takes"]))
    note("end", int(env["n"]), "main")

async def wait(env):
    begin(env, "async")
    await asyncio.sleep(10 * float(env["takes"]))
    note("end", int(env["n"]), "async")

uwsgi.spooler = spooler
note("up", 0, "-")
"""


class Storm:
    """A node, a crowd that feeds it, and a killer."""

    def __init__(self, node: RunningNode, rng: random.Random, *options: str) -> None:
        self.node = node
        self.killed = Killed()
        self.starts: list[float] = []
        """How long each start took that was let through to its end, in seconds."""
        self._rng = rng
        self._history = node.directory / "history"
        self._history.touch()
        node.port = quiet_port(rng)
        self._unix = node.directory / "in.sock"
        self._options = [
            "--listen", f"127.0.0.1:{node.port}", "--listen", str(self._unix), "--log-level", "info",
            "--max-attempts", "0", "--retry-base", "0.05", "--retry-max", "0.2", *options,
        ]  # fmt: skip

    @property
    def addresses(self) -> list[Address]:
        """Where the clients send to."""
        return [("127.0.0.1", self.node.port), str(self._unix)]

    def start(self, *, wait: bool) -> None:
        """Starts the node."""
        began = time.monotonic()
        self.node.start(*self._options, app=APP, wait=wait, HISTORY=str(self._history))
        if wait:
            self.starts.append(time.monotonic() - began)

    def text(self) -> str:
        """The history so far."""
        return self._history.read_text()

    def kill(self) -> None:
        """Kills something; the node is up afterwards, or on its way."""
        what = self._rng.choices(["worker", "node", "all", "node that starts"], [70, 14, 11, 5])[0]
        if what == "worker":
            self._kill_workers(1)
            return
        self.killed.nodes.add(self.node.pid)
        if what == "all":
            self._kill_workers(99)
        self.node.kill9()
        if what == "node that starts":
            self.start(wait=False)
            self.killed.nodes.add(self.node.pid)
            time.sleep(self._rng.random())
            self.node.kill9()
        self.start(wait=True)

    def _kill_workers(self, count: int) -> None:
        workers: list[int] = eventually(self._workers, "a worker is up")
        self._rng.shuffle(workers)
        for pid in workers[:count]:
            self.killed.workers.add(pid)
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself since we looked
                os.kill(pid, signal.SIGKILL)

    def _workers(self) -> list[int]:
        """The workers that have loaded the application: the death of one before that is tested elsewhere."""
        up = {int(pid) for pid in re.findall(r"^up 0 \d+\.(\d+)\.", self.text(), re.MULTILINE)}  # the whole file: often asked
        children = Path(f"/proc/{self.node.pid}/task/{self.node.pid}/children").read_text()
        return [int(pid) for pid in children.split() if int(pid) in up]


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("PYTEST_CRASH_SEED") or random.randrange(1 << 32))
    print(f"PYTEST_CRASH_SEED={chosen}")  # noqa: T201  # pytest shows it when the test fails
    return chosen


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("workers", "kinds"),
    [
        pytest.param(2, ["sync"], id="two workers"),
        pytest.param(3, ["sync", "async"], id="three workers and async tasks"),
    ],
)
def test_what_was_acknowledged_runs_and_only_what_ran_runs_again(
    node: RunningNode, seed: int, workers: int, kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    storm = Storm(node, rng, "--workers", str(workers))
    began = time.monotonic()
    storm.start(wait=True)
    with Crowd(storm.addresses, 8, rng, kinds) as crowd:
        ledger = crowd.ledger
        for _ in range(KILLS):
            crowd.allow(TASKS_A_KILL)
            time.sleep(rng.random() * MOST_DELAY)
            storm.kill()
            eventually(lambda: crowd.problems or ledger.settled >= crowd.quota - TASKS_A_KILL, "the clients go on")
            assert node.is_running, node.noise
        eventually(lambda: crowd.problems or ledger.settled == crowd.quota, "every task has an answer")
    assert not crowd.problems
    eventually(lambda: ledger.acknowledged.keys() <= ended_tasks(read_lines(storm.text())) or None, "all has run", 120)
    eventually(lambda: node.status()["total"] == 0, "nothing is left on disk")
    assert node.stop() == 0
    summary, problems = check(read_lines(storm.text()), ledger, storm.killed, set())
    with capsys.disabled():
        print(  # noqa: T201  # the figures of a run belong into the log of CI
            f"\n  {KILLS} kills with {workers} workers in {time.monotonic() - began:.0f} s (seed {seed}): {summary}; "
            f"{len(storm.starts)} starts, median {sorted(storm.starts)[len(storm.starts) // 2]:.2f} s"
        )
    assert problems == [], f"seed {seed}"
    assert summary.acknowledged > KILLS * TASKS_A_KILL * 0.6, "too many connections broke for this to prove anything"
    assert not list((node.spool / "dead").iterdir())
    assert not list((node.spool / "corrupt").iterdir())
