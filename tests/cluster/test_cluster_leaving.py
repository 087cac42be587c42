"""Nodes leave: with a goodbye, drained, or for ever; their tasks are chosen again. And two nodes come with one id."""

import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from nodes import TELLING, TOLD, Cluster, HostNode, at, copy_spool
from parties import FakeNode, Party, status_of
from support import RunningNode, eventually
from talk import connect

from spoolnode import send_to_spooler
from spoolnode.cluster.timing import USUAL
from spoolnode.protocol.spoolfile import parse


@pytest.mark.slow
def test_goodbye_is_heard_and_any_avoids_who_leaves(cluster: Cluster) -> None:
    cluster.timing = TELLING
    alpha, beta, gamma = cluster.start("alpha", "beta", "gamma")
    gate = cluster.gate("beta")
    held = cluster.send(beta, 1, beta.name, gate=str(gate))
    eventually(lambda: beta.status()["running"] == 1, "beta works")
    for node in (alpha, gamma):  # who knows it only by its pings is not told goodbye, and hears it with the next ping
        eventually(partial(_knows_by_mdns, node, beta), f"{node.name} has heard beta's announcement")
    _ask_to_stop(beta)
    stopping = beta.wait_for_log("stopping")
    for node in (alpha, gamma):
        leaving = node.wait_for_log("peer_leaving", id=beta.id)
        assert at(leaving) - at(stopping) < TOLD
    numbers = cluster.send(alpha, 200, "any")
    cluster.wait_until_done(numbers)
    where = cluster.where(numbers)
    assert {place for places in where.values() for place in places} == {"alpha", "gamma"}
    gate.touch()
    assert beta.wait() == 0
    cluster.wait_until_done(held)
    cluster.wait_until_empty()
    cluster.check()


@pytest.mark.slow
def test_what_was_chosen_for_a_node_that_dies_before_anything_was_sent_runs_elsewhere(cluster: Cluster) -> None:
    alpha, beta, _ = cluster.start("alpha", "beta", "gamma")
    cluster.hosts.cut(beta.host)
    numbers = cluster.send(alpha, 200, "any")
    addressed = cluster.send(alpha, 5, beta.name)
    chosen = alpha.status()["outbox"].get(beta.id, 0)
    assert chosen > 10, "beta was thought to be up"
    beta.kill9()
    cluster.hosts.heal(beta.host)
    cluster.wait_until_done(numbers)
    assert {place for places in cluster.where(numbers).values() for place in places} == {"alpha", "gamma"}
    eventually(lambda: sum(line["tasks"] for line in alpha.lines("chosen_again", destination=beta.id)) >= chosen, "it is said")
    again = alpha.lines("chosen_again", destination=beta.id)
    assert sum(line["tasks"] for line in again) == chosen
    assert {line["name"] for line in again} == {"beta"}
    assert {place.split()[0] for line in again for place in line["chosen"].split(", ")} <= {"this", "gamma"}
    # What has run elsewhere leaves this disk when its answer is here.
    eventually(lambda: alpha.status()["outbox"] == {beta.name: 5}, "what was addressed to beta stays, and nothing else")
    beta.restart()
    cluster.wait_until_done(addressed)
    cluster.wait_until_empty()
    assert cluster.check().run_again == 0


def test_drain_asks_peers_how_they_are_now(tmp_path: Path) -> None:
    beta = FakeNode(status_of("bbbbbbbbbbbb", "beta", workers=0))
    alpha = Party(tmp_path / "alpha", "alpha")
    alpha.timing = USUAL  # else it would know without asking
    try:
        alpha.start("--discover", f"static://{beta.address}", "--drain-on-stop", "--grace", "30")
        alpha.wait_for_log("peer_up", name="beta")
        assert send_to_spooler({"n": "1"}, via=alpha.via)
        beta.status["workers"] = 1  # they have started meanwhile
        _ask_to_stop(alpha)
        eventually(lambda: len(beta.tasks) == 1, "it is sent to beta")
    finally:
        alpha.kill9()  # it would wait for the answer
        alpha.clean_up()
        beta.close()


@pytest.mark.slow
def test_drained_node_hands_over_what_waits_and_keeps_what_was_addressed_to_it(cluster: Cluster) -> None:
    alpha, beta, gamma = cluster.start("alpha", "beta", "gamma", options=["--drain-on-stop"])
    gate = cluster.gate("beta")
    running = cluster.send(beta, 1, beta.name, gate=str(gate))
    eventually(lambda: beta.status()["running"] == 1, "beta works")
    free = cluster.send(beta, 300) + cluster.send(beta, 5, body=300_000)
    later = cluster.send(beta, 5, at=time.time() + 3600)
    addressed = cluster.send(beta, 20, beta.name) + cluster.send(alpha, 20, beta.name, beta.id)
    eventually(lambda: beta.status()["total"] == 351, "all is at beta")
    _ask_to_stop(beta)
    eventually(lambda: not _listens(beta), "beta starts no more tasks: it does that when it has closed its admission")
    assert cluster.history.ended().keys().isdisjoint({*free, *addressed})
    gate.touch()
    assert beta.wait() == 0
    drained = beta.wait_for_log("drained")
    assert drained["left"] == 40
    cluster.wait_until_done(running + free)
    where = cluster.where(free)
    assert {place for places in where.values() for place in places} == {"alpha", "gamma"}
    assert sum(node.status()["later"] for node in (alpha, gamma)) == 5, "what is not due does not run because it moves"
    beta.restart()
    cluster.wait_until_done(addressed)
    assert {place for places in cluster.where(addressed).values() for place in places} == {"beta"}
    assert cluster.check(kept=later).run_again == 0


@pytest.mark.slow
def test_copied_spool_directory_is_told_in_one_line_and_nothing_is_lost(cluster: Cluster) -> None:
    alpha, gamma = cluster.start("alpha", "gamma")
    cluster.send(alpha, 50, gamma.name)
    cluster.send(gamma, 50, alpha.name)
    cluster.wait_until_done()
    cluster.wait_until_empty()
    alpha.stop()
    copy = cluster.add("copy")
    copy_spool(alpha, copy)
    alpha.restart()
    copy.restart()
    assert copy.id == alpha.id
    said = [node.wait_for_log("id_twice") for node in (alpha, copy)]
    for node in (alpha, copy, alpha, copy):
        cluster.send(node, 50, gamma.name)
    cluster.send(gamma, 50, alpha.name)

    def lost() -> set[int]:
        given_up = set().union(*map(_dead, cluster.nodes))
        return {number for number in cluster.ledger.acknowledged if not cluster.history.ended()[number]} - given_up

    eventually(lambda: not lost(), "each task has run or lies in dead/")
    for node, line in zip((alpha, copy), said, strict=True):
        assert node.lines("id_twice") == [line]
        assert alpha.id in line["reason"]
    given_up = set().union(*map(_dead, cluster.nodes))
    cluster.check(kept=given_up)


def _dead(node: HostNode) -> set[int]:
    """The tasks that a node gave up, as they lie on its disk."""
    files = [parse(path.read_bytes()) for path in (node.spool / "dead").iterdir()]
    return {int(dict(file.variables)[b"n"]) for file in files}


def _listens(node: HostNode) -> bool:
    try:
        connect(node.via).close()
    except OSError:
        return False
    return True


def _ask_to_stop(node: RunningNode) -> None:
    """Without waiting for its end."""
    os.kill(node.pid, signal.SIGTERM)
    node.wait_for_log("stopping")


def _knows_by_mdns(node: HostNode, other: HostNode) -> bool:
    peers = json.loads(node.command("peers", "--json").stdout)
    return any(peer["id"] == other.id and "mdns" in peer["sources"] for peer in peers)
