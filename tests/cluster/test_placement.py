"""Where a task goes: which nodes may be chosen, how evenly, and which choices are made again."""

import random
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.peer_status import Status
from spoolnode.cluster.placement import HERE, Placement

ME = Identity("aaaaaaaaaaaa", "alpha", "main", ("10.0.0.1:3031",), tls=False)
BETA, GAMMA, DELTA = "bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd"
IDLE = Status(workers=4, accepting=True)
NO_WORKERS = replace(IDLE, workers=0)


def placement(own: Status | None, seed: int = 0, **peers: Status) -> Placement:
    """A placement that was told of those peers (all up) at time 0."""
    made = Placement(ME, random.Random(seed))
    if own:
        made.reported(HERE, own, 0.0)
    for node_id, status in peers.items():
        made.reported(node_id, status, 0.0)
    return made


def choices(made: Placement, destination: str, count: int, now: float = 0.0) -> Counter[str]:
    return Counter(place for _ in range(count) for place in made.choose(destination, now))


# -- who --


@pytest.mark.parametrize("destination", ["alpha", ME.id, "10.0.0.1:3031", ""])
def test_what_names_this_node_is_here(destination: str) -> None:
    assert placement(IDLE).choose(destination, 0.0) == [HERE]


@pytest.mark.parametrize("destination", ["beta", BETA, "10.0.0.2:3031", "[::1]:3031"])
def test_what_names_another_node_stays_as_it_is_known_or_not(destination: str) -> None:
    assert placement(IDLE).choose(destination, 0.0) == [destination]


def test_an_address_that_turned_out_to_be_this_node_is_here() -> None:
    made = placement(IDLE)
    made.is_also("localhost:3031")
    assert made.choose("localhost:3031", 0.0) == [HERE]


UNFIT = {
    "draining": replace(IDLE, draining=True),
    "full": replace(IDLE, accepting=False),
    "without workers": NO_WORKERS,
    "a real uWSGI": Status(),
}


@pytest.mark.parametrize("why", UNFIT)
def test_any_never_goes_to_a_node_that_would_not_run_it(why: str) -> None:
    made = placement(IDLE, beta=UNFIT[why], gamma=IDLE)
    assert set(choices(made, "any", 200)) == {HERE, "gamma"}
    assert choices(placement(UNFIT[why], beta=IDLE), "any", 20) == {"beta": 20}


def test_a_peer_that_is_up_no_more_is_not_chosen_until_it_reports_again() -> None:
    made = placement(NO_WORKERS, beta=IDLE, gamma=IDLE)
    made.unavailable("beta")
    assert choices(made, "any", 50) == {"gamma": 50}
    made.reported("beta", IDLE, 1.0)
    assert "beta" in choices(made, "any", 50)
    made.retain(["gamma"])
    assert set(choices(made, "any", 50)) == {"gamma"}


def test_any_stays_here_when_nobody_may_be_chosen() -> None:
    assert placement(None).choose("any", 0.0) == [HERE]
    assert placement(NO_WORKERS, beta=UNFIT["full"]).choose("any", 0.0) == [HERE]


def test_a_tag_goes_to_those_that_have_it() -> None:
    gpu = replace(IDLE, tags=frozenset({"gpu", "big"}))
    made = placement(IDLE, beta=gpu, gamma=gpu, delta=IDLE)
    assert set(choices(made, "tag:gpu", 100)) == {"beta", "gamma"}
    assert set(choices(placement(gpu, beta=gpu), "tag:gpu", 100)) == {HERE, "beta"}


def test_a_tag_of_which_nobody_is_alive_waits_for_one_that_is_known() -> None:
    gpu = replace(IDLE, tags=frozenset({"gpu"}))
    made = placement(IDLE, beta=gpu)
    made.unavailable("beta")
    assert made.choose("tag:gpu", 0.0) == ["beta"]
    made.retain([])
    assert made.choose("tag:gpu", 0.0) == ["tag:gpu"]
    made.reported("gamma", gpu, 1.0)
    assert made.choose("tag:gpu", 1.0) == ["gamma"]


def test_all_is_everybody_alive_that_runs_tasks_and_this_node() -> None:
    made = placement(IDLE, beta=IDLE, gamma=NO_WORKERS, delta=UNFIT["full"], epsilon=UNFIT["draining"], zeta=IDLE)
    made.unavailable("zeta")
    assert sorted(made.choose("all", 0.0)) == [HERE, "beta"]


def test_all_is_this_node_when_nobody_runs_tasks() -> None:
    assert placement(NO_WORKERS, beta=NO_WORKERS).choose("all", 0.0) == [HERE]


# -- how evenly --


def test_equal_nodes_get_equal_shares() -> None:
    made = placement(NO_WORKERS, **{f"n{number}": IDLE for number in range(5)})
    shares = choices(made, "any", 10_000)
    assert all(1600 <= share <= 2400 for share in shares.values())
    assert len(shares) == 5


def test_a_node_with_twice_the_workers_gets_about_twice_the_tasks() -> None:
    made = placement(NO_WORKERS, small=replace(IDLE, workers=4), large=replace(IDLE, workers=8))
    shares = choices(made, "any", 9_000)
    assert 2700 <= shares["small"] <= 3300


def test_a_quick_node_gets_more_than_a_slow_one() -> None:
    made = placement(NO_WORKERS, slow=replace(IDLE, pace=100.0), quick=replace(IDLE, pace=900.0))
    shares = choices(made, "any", 10_000)
    assert 800 <= shares["slow"] <= 1200


def test_a_loaded_node_gets_nothing_as_long_as_the_others_have_less() -> None:
    made = placement(replace(IDLE, waiting=5000), beta=IDLE, gamma=IDLE)
    assert choices(made, "any", 1000)[HERE] == 0
    assert choices(made, "any", 14_000)[HERE] > 0, "until it is as good as they are"


def test_an_idle_node_is_chosen_before_a_busy_one_however_slow_it_seemed() -> None:
    made = placement(NO_WORKERS, idle=replace(IDLE, running=1, pace=0.01), busy=replace(IDLE, waiting=100, pace=1000.0))
    assert made.choose("any", 0.0) == ["idle"]


def test_what_a_node_has_probably_done_since_its_report_counts() -> None:
    made = placement(NO_WORKERS, long_ago=replace(IDLE, waiting=1000, pace=100.0))
    made.reported("just now", replace(IDLE, waiting=500, pace=100.0), 9.0)
    assert made.choose("any", 9.0) == ["long_ago"]


def test_a_report_replaces_what_was_guessed_but_not_what_waits_in_the_outbox() -> None:
    made = placement(NO_WORKERS, beta=IDLE, gamma=IDLE)
    made.placed("beta", 1000)
    assert choices(made, "any", 500) == {"gamma": 500}
    made.reported("beta", IDLE, 1.0, queued=10)
    made.reported("gamma", IDLE, 1.0, queued=500)
    assert choices(made, "any", 400, 1.0) == {"beta": 400}


def test_many_nodes_that_choose_by_the_same_reports_do_not_choose_the_same_node() -> None:
    together: Counter[str] = Counter()
    for seed in range(20):
        reports = {f"n{number}": replace(IDLE, running=number % 4) for number in range(20)}
        together += choices(placement(NO_WORKERS, seed, **reports), "any", 100)
    assert max(together.values()) < 3 * 2000 / 20


@given(
    st.dictionaries(
        st.sampled_from([HERE, BETA, GAMMA, DELTA]),
        st.builds(
            Status,
            workers=st.integers(0, 8),
            waiting=st.integers(0, 1 << 62),
            pace=st.floats(0.0, 1e6),
            accepting=st.booleans(),
            draining=st.booleans(),
            tags=st.frozensets(st.sampled_from("xy")),
        ),
    ),
    st.sets(st.sampled_from([BETA, GAMMA, DELTA])),
    st.integers(0, 10),
)
def test_a_choice_is_always_a_node_that_may_be_chosen(reports: dict[str, Status], away: set[str], seed: int) -> None:
    made = placement(None, seed, **reports)
    for node_id in away:
        made.unavailable(node_id)
    fit = {node_id for node_id, status in reports.items() if status.works and node_id not in away}
    for destination, may in (("any", fit), ("tag:x", {node_id for node_id in fit if "x" in reports[node_id].tags})):
        for now in (0.0, 5.0):
            (place,) = made.choose(destination, now)
            if may:
                assert place in may
            elif destination == "any":
                assert place == HERE
            else:
                assert place == destination or "x" in reports[place].tags


# -- how quickly --


@pytest.mark.parametrize("destination", ["any", "tag:gpu", "beta"])
def test_a_choice_among_fifty_takes_ten_microseconds_of_cpu_at_most(destination: str) -> None:
    gpu = replace(IDLE, pace=100.0, tags=frozenset({"gpu"}))
    made = placement(gpu, **{f"n{number}": gpu for number in range(50)})
    best = min(_seconds(made, destination) for _ in range(10))
    assert best / 1000 < 10e-6


def _seconds(made: Placement, destination: str) -> float:
    begin = time.process_time()
    for _ in range(1000):
        made.choose(destination, 1.0)
    return time.process_time() - begin
