"""Tasks that wait for a node: for one that is dead, whose disk is full, or that is slow. They wait in the sender's outbox."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from nodes import TELLING, TOLD, Cluster, HostNode, at
from support import eventually

MIB = 1 << 20


@pytest.mark.slow
def test_ten_thousand_tasks_for_a_dead_node_cost_no_cpu_and_leave_soon_after_its_return(cluster: Cluster) -> None:
    cluster.timing = TELLING
    alpha, beta = cluster.start("alpha", "beta")
    beta.kill9()
    numbers = cluster.send(alpha, 10_000, beta.name)
    eventually(lambda: _is_idle(alpha), "alpha has put everything in its place")
    assert alpha.outbox() == 10_000
    before, start = alpha.cpu_seconds(), time.monotonic()
    eventually(lambda: time.monotonic() > start + 3, "three seconds have passed")
    used = alpha.cpu_seconds() - before
    assert used < 0.5, f"{used:.2f} s of CPU in 3 s of waiting"
    ready = beta.restart().wait_for_log("ready", count=2)
    eventually(cluster.history.ended, "the first has run")
    assert time.time() - at(ready) < TOLD
    cluster.wait_until_done(numbers)
    cluster.wait_until_empty()
    assert cluster.check().run_again == 0


def _is_idle(node: HostNode) -> bool:
    """Whether it used next to nothing of a half second."""
    before, start = node.cpu_seconds(), time.monotonic()
    eventually(lambda: time.monotonic() > start + 0.5, "half a second has passed")
    return node.cpu_seconds() - before < 0.03


@pytest.fixture
def small_disk(cluster: Cluster) -> Iterator[HostNode]:
    """A node named beta whose spool lies on a file system of its own, of 70 MiB; not started yet."""
    node = cluster.add("beta")
    node.spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m,mode=750", "spoolnode-test", str(node.spool)], check=True)
    yield node
    node.clean_up()
    subprocess.run(["umount", "--lazy", str(node.spool)], check=True)


@pytest.mark.slow
def test_tasks_for_a_node_with_a_full_disk_wait_at_their_sender_and_arrive_when_there_is_room(
    cluster: Cluster, small_disk: HostNode
) -> None:
    beta = small_disk.restart("--min-free", str(32 * MIB))
    alpha = cluster.start("alpha")[0]
    alpha.wait_for_peers(beta)
    cluster.send(alpha, 50, beta.name)
    cluster.wait_until_done()
    filler = beta.spool / "filler"
    filler.write_bytes(bytes(45 * MIB))
    beta.wait_for_log("disk_low")
    small, large = cluster.send(alpha, 50, beta.name), cluster.send(alpha, 3, beta.name, body=MIB)
    eventually(lambda: "--min-free" in alpha.status()["links"][beta.name]["reason"], "alpha tells why they wait")
    assert alpha.outbox() == 53
    assert beta.status()["refused"]["full"] > 0
    assert not cluster.history.ended().keys() & {*small, *large}
    filler.unlink()
    beta.wait_for_log("disk_ok")
    cluster.wait_until_done()
    cluster.wait_until_empty()
    assert cluster.check().run_again == 0


@pytest.mark.slow
def test_slow_node_delays_no_task_for_a_quick_one(cluster: Cluster) -> None:
    cluster.timing = replace(TELLING, answer=120.0)  # so that its link is given up by the kernel alone, after 15 s
    alpha, quick, slow = cluster.start("alpha", "quick", "slow")
    cluster.send(alpha, 100, quick.name, slow.name)
    cluster.wait_until_done()
    os.kill(slow.pid, signal.SIGSTOP)
    held = cluster.send(alpha, 30, slow.name, body=MIB)  # more than the buffers of a connection take
    delays = []
    for _ in range(20):
        began = time.monotonic()
        numbers = cluster.send(alpha, 40, slow.name, quick.name)
        cluster.wait_until_done([number for number in numbers if number % 2 == 1])
        delays.append(time.monotonic() - began)
    assert not cluster.history.ended().keys() & {*held}
    assert max(delays) < 12, "one that waited for the slow node would wait until its link is given up"
    os.kill(slow.pid, signal.SIGCONT)
    cluster.wait_until_done()
    cluster.wait_until_empty()
    assert cluster.check().run_again == 0
