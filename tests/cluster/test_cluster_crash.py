"""kill -9 of sender and receiver at any moment, with tasks on their way in both directions: none is lost, none is taken twice.

PYTEST_CRASH_SEED repeats the dice of a run (not its timing); PYTEST_CLUSTER_KILLS sets how often each of the two is killed:
many more times in CI (`make disasters`).
"""

import os
import random
import threading
import time

import pytest
from crowd import Crowd
from nodes import Cluster, HostNode
from support import eventually

KILLS = int(os.environ.get("PYTEST_CLUSTER_KILLS", "10"))
"""Of each node."""
TASKS_A_KILL = 150
DELAYS = 0.1, 0.8
"""Earliest and latest moment of a kill after the node is up, in seconds."""
CLIENTS = 8


class Killer(threading.Thread):
    """Kills one node again and again, and starts it again each time."""

    def __init__(self, node: HostNode, crowd: Crowd, rng: random.Random) -> None:
        super().__init__()
        self.problem = ""
        self.forwarded = 0
        self.repeats = 0
        self._node = node
        self._crowd = crowd
        self._rng = rng

    def run(self) -> None:
        try:
            for _ in range(KILLS):
                self._crowd.allow(TASKS_A_KILL)
                time.sleep(self._rng.uniform(*DELAYS))
                self.count()
                self._node.kill9()
                self._node.restart()
        except AssertionError as error:
            self.problem = f"{self._node.name}: {error}"

    def count(self) -> None:
        """The node's counts since its start."""
        status = self._node.status()
        self.forwarded += status["forwarded"]
        self.repeats += status["repeats"]


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("PYTEST_CRASH_SEED") or random.randrange(1 << 32))
    print(f"PYTEST_CRASH_SEED={chosen}")  # noqa: T201  # pytest shows it when the test fails
    return chosen


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_acknowledged_runs_where_it_should_and_only_what_ran_runs_again(
    cluster: Cluster, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(seed)
    began = time.monotonic()
    nodes = cluster.start("alpha", "beta")
    places = [place for node in nodes for place in (node.name, node.id, node.address)]
    with Crowd([node.via for node in nodes], CLIENTS, rng, ["sync"], places) as crowd:
        cluster.ledger = crowd.ledger
        killers = [Killer(node, crowd, random.Random(rng.random())) for node in nodes]
        for killer in killers:
            killer.start()
        for killer in killers:
            killer.join()
        assert not [killer.problem for killer in killers if killer.problem]
        eventually(lambda: crowd.problems or crowd.ledger.settled == crowd.quota, "every task has an answer")
    assert not crowd.problems
    healed = time.monotonic()
    for node in nodes:
        eventually(lambda node=node: not node.outbox(), f"nothing waits in {node.name} for the other one")
    arrived = time.monotonic() - healed
    cluster.wait_until_done()
    cluster.wait_until_empty()
    for killer in killers:
        killer.count()
    for node in nodes:
        assert node.stop() == 0
    summary = cluster.check()
    with capsys.disabled():
        print(  # noqa: T201  # the figures of a run belong into the log of CI
            f"\n  {2 * KILLS} kills of two nodes in {time.monotonic() - began:.0f} s (seed {seed}): {summary}; "
            f"{sum(killer.forwarded for killer in killers)} went over the network, {sum(killer.repeats for killer in killers)} "
            f"were sent again and known there; all had arrived {arrived:.1f} s after the last start"
        )
    assert summary.acknowledged > KILLS * TASKS_A_KILL, "too many connections broke for this to prove anything"
