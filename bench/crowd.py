"""The cost of waiting: an idle node among ten, and a node with many tasks for a dead peer."""

import contextlib
import os
import time

import proc
from drain import wait_loaded
from hop import CONNECTIONS, WINDOW, arrivals
from pair import BETA, pair
from plan import Bench, say, wait_for
from report import Row, Target, compare
from servers import status

NODES = 10
SETTLE_SECONDS = 5.0
"""Seconds until the nodes have found each other for good, and announced themselves as often as mDNS wants."""


def crowd(bench: Bench) -> list[Row]:
    """Ten nodes with a worker each that found each other by mDNS, on loopback only."""
    if "ours" not in bench.sides:
        return []
    say("ours, ten nodes")
    seconds = bench.plan.watch_seconds
    with contextlib.ExitStack() as stack:
        nodes, stamps = [], []
        for number in range(NODES):
            stamp = bench.servers.path("stamp")
            options = ["--name", f"node{number}", "--cluster", f"bench-{os.getpid()}"]
            node = bench.servers.node(
                bench.servers.path("spool"), *options, app="noop:noop", environment={"BENCH_STAMP": str(stamp)}, discover="mdns"
            )
            nodes.append(stack.enter_context(node))
            stamps.append(stamp)
        for node, stamp in zip(nodes, stamps, strict=True):
            node.wait_ready(60)
            wait_loaded(node, stamp)
        for node in nodes:
            wait_for(lambda: _up(node.port) == NODES - 1, node, "the ten nodes have not found each other", 60)  # noqa: B023  # called within this turn
        time.sleep(SETTLE_SECONDS)
        before = [proc.tree_cpu_seconds(node.pid) for node in nodes]
        time.sleep(seconds)
        used = [(proc.tree_cpu_seconds(node.pid) - cpu) / seconds * 100 for node, cpu in zip(nodes, before, strict=True)]
        memory = [proc.tree_memory_mb(node.pid) for node in nodes]
    what = f"idle, one of {NODES} found by mDNS, with a worker"
    return [
        compare("crowd", f"{what}: CPU, {seconds:g} s", "% of a core", used, target=Target("most", 0.5), beside=""),
        compare(
            "crowd", f"{what}: RSS of node and worker", "MB", [rss for rss, _ in memory], beside="", target=Target("most", 90)
        ),
        compare("crowd", f"{what}: PSS of node and worker", "MB", [pss for _, pss in memory], beside=""),
    ]


def _up(port: int) -> int:
    return int(status(port)["peers"].get("up", 0))


def dead_peer(bench: Bench) -> list[Row]:
    """Many tasks wait for a peer that was killed; then it comes back."""
    if "ours" not in bench.sides:
        return []
    say("ours, a dead peer")
    tasks, seconds = bench.plan.dead_tasks, bench.plan.watch_seconds / 2
    with pair(bench) as two:
        two.beta.crash()
        two.stop_beta()
        bench.load.extended(two.alpha.port, connections=CONNECTIONS, window=WINDOW, tasks=tasks, node=BETA)
        time.sleep(2.0)  # batches are closed and looked at
        cpu, begin, rss = proc.tree_cpu_seconds(two.alpha.pid), time.monotonic(), proc.tree_memory_mb(two.alpha.pid)[0]
        time.sleep(seconds)
        used = (proc.tree_cpu_seconds(two.alpha.pid) - cpu) / (time.monotonic() - begin) * 100
        grown = proc.tree_memory_mb(two.alpha.pid)[0] - rss
        beta = two.start_beta()
        beta.wait_ready()
        ready = time.monotonic()
        seen = list(arrivals(two, tasks))
    first = next(when for when, count in seen if count) - ready
    what, little = f"{tasks:,} tasks wait for a dead peer", Target("most", 1)
    return [
        compare("dead peer", f"{what}: CPU of the node, {seconds:g} s", "% of a core", [used], target=little, beside=""),
        compare("dead peer", f"{what}: RSS", "MB", [rss], beside=""),
        compare("dead peer", "  grown meanwhile, with each retry", "MB", [grown], target=Target("most", 2), beside=""),
        compare("dead peer", "  from the peer's first answer to the first task on its disk", "s", [max(first, 0.0)],
                target=Target("most", 2), beside=""),
        compare("dead peer", "  and to the last", "s", [seen[-1][0] - ready], beside=""),
    ]  # fmt: skip
