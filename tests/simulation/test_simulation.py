"""The promises between disks, under every fault that a seed can think of. See the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import environment

from .plants import FOUND_AT, PLANTS, TIMER_PLANTS
from .run import failures_of
from .scale import measure

LIMIT = 3600
"""Seconds, for a machine that has much else to do: a quiet one needs 30 of them, or 100."""
SEEDS = 2000
JOBS = os.cpu_count() or 1
TIMER_SEEDS = 200
"""They take four times as long."""
PLANT_SEEDS = 2000
"""Among so many seeds each planted mistake is found more than once, most of them in the first hundred; one is enough."""


def story_of(seed: int) -> str:
    """The output of `make simulate`."""
    env = environment(PYTHONHASHSEED="0")
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), env["PYTHONPATH"]])
    command = [sys.executable, "-m", "simulation", str(seed)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60).stdout


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_whatever_fails_no_task_is_lost_or_taken_twice_and_all_run_when_the_faults_stop() -> None:
    failures = failures_of(0, SEEDS, "", JOBS)
    shown = "\n".join(f"make simulate SEED={seed}    {reason}" for seed, reason in sorted(failures)[:20])
    assert not failures, f"{len(failures)} of {SEEDS} seeds fail; replay one:\n{shown}"


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_mistake_is_found(plant: str) -> None:
    found = plant in FOUND_AT and failures_of(FOUND_AT[plant], FOUND_AT[plant] + 1, plant, 1)
    assert found or failures_of(0, PLANT_SEEDS, plant, JOBS, stop_at_first=True)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
def test_whatever_fails_no_due_time_of_a_timer_is_missed_and_two_nodes_run_one_only_when_that_is_told() -> None:
    failures = failures_of(0, TIMER_SEEDS, "", JOBS, kind="timers")
    shown = "\n".join(f"python -m simulation --of timers {seed}    {reason}" for seed, reason in sorted(failures)[:20])
    assert not failures, f"{len(failures)} of {TIMER_SEEDS} seeds fail; replay one:\n{shown}"


@pytest.mark.slow
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("plant", sorted(TIMER_PLANTS))
def test_a_mistake_about_timers_is_found(plant: str) -> None:
    assert failures_of(0, TIMER_SEEDS, plant, JOBS, stop_at_first=True, kind="timers")


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
