"""Moves work between nodes: a node with too much offers the excess (`--share`), one that ends hands over the rest. Pure."""

import math
from collections.abc import Mapping

from spoolnode.cluster.peer_status import Load

MOST_HOPS = 3
"""A task is shared at most this many times. Then it stays where it is, however much waits there."""
START_AT = 1.25
"""A node offers if more than this many times its limit waits, and then all above the limit: not a few tasks each second."""
IDLE_BELOW = 0.5
"""A peer is offered tasks if it has less to do than this part of its own limit."""


def may_be_shared(hops: int) -> bool:
    """Whether a task that was forwarded this many times may be shared again."""
    return hops < MOST_HOPS


def offers(own: Load, peers: Mapping[str, Load], seconds: float, movable: int) -> dict[str, int]:
    """The number of waiting tasks that go to each peer now.

    A node's limit is its work for `seconds`. A node with more gives away the excess. A peer is filled up to its limit and never
    above, so it need not pass on tasks that it was given.

    Args:
        own: the load of this node.
        peers: the loads of peers that may be chosen to run tasks, with the tasks on their way to them.
        seconds: the setting `--share`.
        movable: how many of the waiting tasks may move (not addressed to this node, not shared too often).
    """
    limit = own.within(seconds)
    if own.tasks <= limit * START_AT or own.tasks <= own.workers:
        return {}
    excess = min(own.tasks - max(limit, own.workers), movable)
    room = {}
    for node_id, peer in peers.items():
        most = peer.within(seconds)
        if peer.tasks < own.tasks and peer.tasks <= most * IDLE_BELOW and most > peer.tasks:
            room[node_id] = most - peer.tasks
    return _up_to(excess, room)


def spread(count: int, peers: Mapping[str, Load]) -> dict[str, int]:
    """Shares `count` tasks so that all peers finish at about the same time; peers that run none get none."""
    speeds = _speeds({node_id: load for node_id, load in peers.items() if load.workers > 0})
    if not speeds or count <= 0:
        return {}
    level = _level(count, [(peers[node_id].tasks, speed) for node_id, speed in speeds.items()])
    wanted = {node_id: max(level * speed - peers[node_id].tasks, 0.0) for node_id, speed in speeds.items()}
    return _round(count, wanted)


def _speeds(peers: Mapping[str, Load]) -> dict[str, float]:
    """The speed of each: its pace, or, if unknown, that of its workers at the mean pace of the others' workers."""
    known = [load for load in peers.values() if load.pace > 0]
    each = sum(load.pace for load in known) / sum(load.workers for load in known) if known else 1.0
    return {node_id: load.pace or load.workers * each for node_id, load in peers.items()}


def _level(count: int, loads: list[tuple[int, float]]) -> float:
    """The time at which all finish if `count` tasks fill up those that would finish sooner."""
    loads = sorted(loads, key=lambda load: load[0] / load[1])
    tasks, speed = float(count), 0.0
    for index, (has, quick) in enumerate(loads):
        tasks += has
        speed += quick
        level = tasks / speed
        if index + 1 == len(loads) or level <= loads[index + 1][0] / loads[index + 1][1]:
            return level
    return 0.0


def _round(count: int, wanted: Mapping[str, float]) -> dict[str, int]:
    """Whole tasks, `count` together; peers with the largest remainders get the rest."""
    shares = {node_id: math.floor(share) for node_id, share in wanted.items()}
    left = count - sum(shares.values())
    by_rest = sorted(wanted, key=lambda node_id: (shares[node_id] - wanted[node_id], node_id))
    for index in range(left):
        shares[by_rest[index % len(by_rest)]] += 1
    return {node_id: share for node_id, share in shares.items() if share > 0}


def _up_to(count: int, room: Mapping[str, int]) -> dict[str, int]:
    """`count` tasks shared in proportion to the room."""
    total = sum(room.values())
    if count >= total:
        return dict(room)
    # Rounding never exceeds the room: a share is less than its room, so the next whole number is not above it.
    return _round(count, {node_id: count * part / total for node_id, part in room.items()}) if count > 0 else {}
