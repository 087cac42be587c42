"""The promises between disks, under every fault that a seed can think of. See the package.

These are few seeds, for each change. CI runs many: `make disasters`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

from .plants import FOUND_AT, PLANTS, TIMER_PLANTS
from .run import failures_of
from .scale import measure
from .store_plants import STORE_PLANTS

LIMIT = 3600
"""Seconds, for a machine that has much else to do: a quiet one needs ten of them."""
SEEDS = 100
SHARE = 25
"""Seeds of one test: several tests at once use all cores."""
TIMER_SEEDS = 24
"""They take twice as long."""
TIMER_SHARE = 12
PLANT_SEEDS = {"tasks": 2000, "timers": 200, "store": 2000}
"""Among so many seeds each planted mistake is found more than once, most of them in the first hundred; one is enough."""
JOBS = os.cpu_count() or 1


def shares(seeds: int, share: int) -> pytest.MarkDecorator:
    """A test for each so many of these seeds."""
    firsts = range(0, seeds, share)
    return pytest.mark.parametrize("first", firsts, ids=[f"seeds {first} to {first + share - 1}" for first in firsts])


def story_of(seed: int) -> str:
    """The output of `make simulate`."""
    env = environment(PYTHONHASHSEED="0")
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env["PYTHONPATH"]])
    command = [sys.executable, "-m", "simulation", str(seed)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=LIMIT).stdout


def assert_none_fails(first: int, share: int, kind: str) -> None:
    """In those seeds no promise is broken."""
    failures = failures_of(first, first + share, "", 1, kind=kind)
    of = "" if kind == "tasks" else f" ARGS='--of {kind}'"
    shown = "\n".join(f"make simulate SEED={seed}{of}    {reason}" for seed, reason in failures[:20])
    assert not failures, f"{len(failures)} of {share} seeds fail; replay one:\n{shown}"


def assert_found(plant: str, kind: str) -> None:
    """The simulation finds that mistake."""
    at = FOUND_AT.get(plant, 0)
    found = failures_of(at, at + 1, plant, 1, kind=kind)
    assert found or failures_of(0, PLANT_SEEDS[kind], plant, JOBS, stop_at_first=True, kind=kind)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@shares(SEEDS, SHARE)
def test_whatever_fails_no_task_is_lost_or_taken_twice_and_all_run_when_the_faults_stop(first: int) -> None:
    assert_none_fails(first, SHARE, "tasks")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_mistake_is_found(plant: str) -> None:
    assert_found(plant, "tasks")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@shares(TIMER_SEEDS, TIMER_SHARE)
def test_whatever_fails_no_due_time_of_a_timer_is_missed_and_two_nodes_run_one_only_when_that_is_told(first: int) -> None:
    assert_none_fails(first, TIMER_SHARE, "timers")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("plant", sorted(TIMER_PLANTS))
def test_a_mistake_about_timers_is_found(plant: str) -> None:
    assert_found(plant, "timers")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@shares(SEEDS, SHARE)
def test_whatever_fails_no_task_of_a_store_is_lost_and_one_runs_twice_only_if_its_lease_had_to_run_out(first: int) -> None:
    assert_none_fails(first, SHARE, "store")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("plant", sorted(STORE_PLANTS))
def test_a_mistake_about_a_store_is_found(plant: str) -> None:
    assert_found(plant, "store")


@pytest.mark.parametrize("seed", [7, 18])
def test_the_same_seed_is_the_same_story_to_the_last_step(seed: int) -> None:
    first, second = story_of(seed), story_of(seed)
    assert "all promises kept" in first
    assert first == second


@pytest.mark.slow
def test_fifty_nodes_ping_each_other_once_in_five_seconds_and_notice_who_crashes_and_returns() -> None:
    result = measure(50, observers=10, seconds=30)
    assert 49 / 6 < result.pings < 49 / 4
    assert result.memory < 50 * 5000
    assert result.noticed_refused < 10
    assert result.noticed_silent < 30
    assert result.returned < 5
