"""The network breaks while tasks are on their way, and heals: all arrive, none twice."""

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from crowd import Crowd
from netns import Hosts
from nodes import PORT, TELLING, TOLD, Cluster, HostNode, at
from quick import QUICK
from support import eventually

from spoolnode.cluster.timing import USUAL

SHORT = replace(QUICK, answer=3.0)
"""A link over a cut network ends so soon. One that only waits for a busy machine may end, too; then it is opened again."""
PATIENT = replace(USUAL, pong=60.0, connect=60.0, answer=60.0)
"""However long a busy machine takes for a few hundred tasks, an interruption of that length is short."""

Cut = Callable[[Hosts, int], None]


def cable(hosts: Hosts, host: int) -> None:
    hosts.cut(host)


def one_way(hosts: Hosts, host: int) -> None:
    hosts.cut_from(host)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [cable, one_way])
def test_cut_in_mid_stream_loses_nothing_and_doubles_nothing(cluster: Cluster, cut: Cut) -> None:
    """Tasks go both ways, so a one-way cut loses the tasks of one direction and the answers of the other."""
    nodes = alpha, beta = cluster.start("alpha", "beta")
    with Crowd([node.via for node in nodes], 8, random.Random(), ["sync"], [alpha.name, beta.name]) as crowd:
        cluster.ledger = crowd.ledger
        crowd.allow(1000)
        eventually(lambda: len(cluster.history.ended()) > 200, "tasks flow")
        cut(cluster.hosts, beta.host)
        crowd.allow(1000)
        for node in nodes:
            node.wait_for_log("link_failed")
        eventually(
            lambda: crowd.problems or crowd.ledger.settled == crowd.quota, "every task has an answer: nobody waits for others"
        )
        waiting = [node.outbox() for node in nodes]
        assert min(waiting) > 100
        cluster.hosts.heal(beta.host)
        crowd.allow(100)
        cluster.wait_until_done()
        eventually(lambda: crowd.problems or crowd.ledger.settled == crowd.quota, "every task has an answer")
    assert not crowd.problems
    cluster.wait_until_done()
    cluster.wait_until_empty()
    summary = cluster.check()
    assert summary.run_again == 0


@pytest.mark.slow
def test_short_interruption_breaks_no_link(cluster: Cluster) -> None:
    cluster.timing = PATIENT
    alpha, beta = cluster.start("alpha", "beta")
    for _ in range(3):
        cluster.send(alpha, 100, beta.name, takes="0.001")
        cluster.hosts.cut(beta.host)
        cluster.send(alpha, 100, beta.name, takes="0.001")
        cluster.send(beta, 100, alpha.name, takes="0.001")
        cluster.hosts.heal(beta.host)
        cluster.wait_until_done()
    cluster.wait_until_empty()
    assert not alpha.lines("link_failed")
    assert not alpha.lines("peer_down")
    cluster.check()


@pytest.mark.slow
def test_node_that_returns_with_another_address_gets_what_waits_for_it(cluster: Cluster) -> None:
    cluster.timing = TELLING
    alpha, beta = cluster.start("alpha", "beta")
    old = beta.address
    beta.stop()
    numbers = cluster.send(alpha, 100, beta.name, beta.id)
    eventually(lambda: alpha.lines("peer_down", id=beta.id) or alpha.lines("peer_left", id=beta.id), "beta is gone")
    cluster.hosts.move(beta.host, "10.77.9.9")
    ready = beta.restart().wait_for_log("ready", count=2)
    cluster.wait_until_done()
    up = alpha.wait_for_log("peer_up", id=beta.id, address=f"10.77.9.9:{PORT}")
    assert at(up) - at(ready) < TOLD
    later = cluster.send(alpha, 10, old)
    eventually(lambda: alpha.status()["outbox"] == {old: 10}, "nobody else is meant by an address")
    assert {place for places in cluster.where(numbers).values() for place in places} == {"beta"}
    cluster.check(kept=later)


@pytest.mark.slow
def test_node_whose_address_changes_while_it_runs_is_reached_there(cluster: Cluster) -> None:
    cluster.timing = SHORT
    alpha, beta = cluster.start("alpha", "beta", options=["--listen", f"0.0.0.0:{PORT}"])
    cluster.send(alpha, 10, beta.name)
    cluster.wait_until_done()
    cluster.hosts.move(beta.host, "10.77.9.9")
    cluster.send(alpha, 100, beta.name, beta.id)
    cluster.send(beta, 100, alpha.name)
    cluster.wait_until_done()
    cluster.wait_until_empty()
    cluster.check()


@pytest.mark.slow
def test_doctor_says_that_a_peer_does_not_reach_this_node_though_this_node_reaches_it(cluster: Cluster) -> None:
    alpha, beta = cluster.start("alpha", "beta")

    def reached(node: HostNode) -> list[str]:
        rows = json.loads(node.command("doctor", "-s", node.address, "--json", SPOOLNODE_ALLOW="10.77.0.0/16").stdout)
        return [row["state"] for row in rows if row["check"] == "reached" and "not told" not in row["text"]]

    eventually(lambda: [reached(node) for node in (alpha, beta)] == [["ok"], ["ok"]], "each has heard from the other")
    cluster.hosts.shut(alpha.host, PORT)
    eventually(lambda: [reached(node) for node in (alpha, beta)] == [["warn"], []], "beta has told alpha")
    eventually(lambda: alpha.status()["peers"] == {"up": 1}, "alpha reaches beta")
