"""Overflow and drain: how many waiting tasks a node gives to which peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.cluster.peer_status import Load, Status
from spoolnode.cluster.sharing import MOST_HOPS, START_AT, may_be_shared, offers, spread

LOADS = st.builds(Load, st.integers(0, 100_000), st.integers(0, 64), st.just(0.0) | st.floats(0.001, 10_000.0))
PEERS = st.dictionaries(st.sampled_from("bcdefgh"), LOADS)
WORKING = st.builds(Load, st.integers(0, 10_000), st.integers(1, 9))
BUSY = Load(1000, 4, 10.0)
IDLE = Load(0, 4, 10.0)


def test_the_excess_goes_to_the_idle_ones_up_to_what_they_do_in_that_time() -> None:
    assert offers(BUSY, {"b": IDLE}, 10.0, 1000) == {"b": 100}
    assert offers(BUSY, {"b": IDLE, "c": Load(30, 4, 10.0)}, 10.0, 1000) == {"b": 100, "c": 70}
    assert offers(Load(200, 4, 10.0), {"b": IDLE, "c": IDLE}, 10.0, 200) == {"b": 50, "c": 50}


@pytest.mark.parametrize(
    ("own", "peer", "why"),
    [
        (Load(100, 4, 10.0), IDLE, "it does that in time"),
        (Load(124, 4, 10.0), IDLE, "not for a few tasks"),
        (Load(4, 4, 0.001), IDLE, "they all run already"),
        (BUSY, Load(51, 4, 10.0), "the peer is not idle"),
        (BUSY, Load(0, 0, 0.0), "the peer has no workers"),
        (BUSY, Load(0, 4, 0.01), "the peer would not end one in time"),
    ],
)
def test_nothing_is_offered(own: Load, peer: Load, why: str) -> None:
    assert offers(own, {"b": peer}, 10.0, own.tasks) == {}, why


def test_a_peer_of_unknown_pace_gets_one_task_for_each_worker() -> None:
    assert offers(BUSY, {"b": Load(0, 3, 0.0)}, 10.0, 1000) == {"b": 3}


def test_long_tasks_are_shared_before_the_first_has_ended() -> None:
    assert offers(Load(20, 4, 0.0), {"b": Load(0, 4, 0.0)}, 10.0, 16) == {"b": 4}


def test_a_task_is_shared_three_times_at_most() -> None:
    assert [may_be_shared(hops) for hops in range(5)] == [True, True, True, False, False]
    assert MOST_HOPS == 3


@given(LOADS, PEERS, st.floats(0.1, 3600.0), st.integers(0, 100_000))
def test_an_offer_is_never_more_than_the_excess_nor_than_there_is_room(
    own: Load, peers: dict[str, Load], seconds: float, movable: int
) -> None:
    shares = offers(own, peers, seconds, movable)
    assert sum(shares.values()) <= min(movable, max(own.tasks - own.within(seconds), 0))
    for node_id, count in shares.items():
        assert count > 0
        assert peers[node_id].tasks + count <= peers[node_id].within(seconds)
        assert peers[node_id].tasks < own.tasks


@given(LOADS, PEERS, st.floats(0.1, 3600.0))
def test_nobody_gives_on_what_it_was_given(own: Load, peers: dict[str, Load], seconds: float) -> None:
    shares = offers(own, peers, seconds, own.tasks)
    for node_id, count in shares.items():
        given_to = Load(peers[node_id].tasks + count, peers[node_id].workers, peers[node_id].pace)
        rest = {**peers, "own": Load(own.tasks - sum(shares.values()), own.workers, own.pace)}
        del rest[node_id]
        assert offers(given_to, rest, seconds, given_to.tasks) == {}
    assert START_AT > 1.0


@given(st.lists(LOADS, min_size=2, max_size=6), st.floats(1.0, 60.0))
def test_offers_come_to_rest(loads: list[Load], seconds: float) -> None:
    """Without new tasks, and with true reports, every node stops offering after a few rounds."""
    nodes = {str(number): load for number, load in enumerate(loads)}
    for _ in range(30):
        moved = 0
        for name, own in nodes.items():
            others = {other: load for other, load in nodes.items() if other != name}
            for other, count in offers(own, others, seconds, own.tasks).items():
                own.tasks -= count
                nodes[other].tasks += count
                moved += count
        if not moved:
            return
    raise AssertionError(f"still moving tasks: {nodes}")


# -- drain --


@given(st.integers(0, 100_000), PEERS)
def test_everything_is_handed_over_to_those_that_work(count: int, peers: dict[str, Load]) -> None:
    shares = spread(count, peers)
    workers = {node_id for node_id, load in peers.items() if load.workers}
    assert sum(shares.values()) == (count if workers else 0)
    assert set(shares) <= workers
    assert all(share > 0 for share in shares.values())


@given(st.integers(0, 100_000), st.dictionaries(st.sampled_from("bcdef"), WORKING, min_size=1))
def test_those_that_get_tasks_end_at_the_same_time_and_the_others_later(count: int, peers: dict[str, Load]) -> None:
    shares = spread(count, peers)
    ends = {node_id: (load.tasks + shares.get(node_id, 0)) / load.workers for node_id, load in peers.items()}
    latest = max((ends[node_id] for node_id in shares), default=0.0)
    for node_id, end in ends.items():
        assert end >= latest - 2.0 / peers[node_id].workers - 1.0, (ends, shares)


def test_a_quick_peer_gets_more_and_one_of_unknown_pace_is_taken_for_average() -> None:
    assert spread(300, {"slow": Load(0, 4, 10.0), "quick": Load(0, 4, 20.0)}) == {"slow": 100, "quick": 200}
    assert spread(300, {"known": Load(0, 4, 10.0), "new": Load(0, 8, 0.0)}) == {"known": 100, "new": 200}
    assert spread(5, {}) == {}
    assert spread(5, {"forwards": Load(0, 0, 0.0)}) == {}


def test_a_load_is_what_is_reported_and_what_is_on_its_way() -> None:
    assert Load.of(Status(waiting=3, running=2, workers=4, pace=1.5), queued=7) == Load(12, 4, 1.5)
