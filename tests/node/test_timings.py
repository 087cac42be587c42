"""How long tasks waited and ran is counted once for each, in the bucket where it lies, under the function that it was for."""

from array import array

import pytest
from hands import Hands, run
from hypothesis import given
from hypothesis import strategies as st
from linked import task

from spoolnode.node.control.function_hours import FunctionHours, quantile, together
from spoolnode.node.outcome import Ending
from spoolnode.node.spool.functions import Functions
from spoolnode.node.spool.tasks import Batch, OutboxFiles
from spoolnode.node.spool.timings import (
    AGAIN,
    BOUNDS,
    CANCELLED,
    DEAD,
    DONE,
    FAILED,
    MOST_FUNCTIONS,
    NO_FUNCTION,
    OTHER,
    Histogram,
    Timings,
)


def of(*functions: bytes | None) -> tuple[Timings, Batch, "array[int]"]:
    """A batch with a task for each of these functions."""
    known, batch = Functions(), Batch(1)
    refs = array("I", range(64, 64 + 8 * len(functions), 8))
    for ref, function in zip(refs, functions, strict=True):
        batch.functions.note(ref, known.number(function))
    return Timings(known), batch, refs


def counted(timings: Timings) -> dict[str, int]:
    """How many tasks ended well, by function."""
    return {name: sum(found.ran[DONE].counts) for name, found in timings.told().items()}


@given(st.lists(st.one_of(st.floats(0.0, 1e5), st.sampled_from(BOUNDS)), min_size=1, max_size=60))
def test_each_value_lies_in_the_first_bucket_that_it_is_not_above(values: list[float]) -> None:
    together, alone = Histogram(), Histogram()
    together.add_all(values)
    for value in values:
        alone.add(value)
    assert together.counts == alone.counts
    assert together.total == pytest.approx(sum(values))  # not exactly: from Python 3.12 on `sum` rounds once, at the end
    assert alone.total == pytest.approx(sum(values))
    below = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert [sum(together.counts[: index + 1]) for index in range(len(BOUNDS))] == below
    assert sum(together.counts) == len(values)


@pytest.mark.parametrize("functions", [[b"a"] * 5, [b"a", b"b"] * 3, [b"a", b"a", b"b", b"", b"a"]])
def test_tasks_of_several_functions_that_end_together_are_told_apart(functions: list[bytes]) -> None:
    timings, batch, refs = of(*functions)
    seconds = array("f", [0.25 * (index + 1) for index in range(len(functions))])
    timings.done(batch, refs, seconds, 2.0)
    told = timings.told()
    for name in set(functions):
        found = told[name.decode() or NO_FUNCTION]
        assert found.ran[DONE].total == sum(each for each, function in zip(seconds, functions, strict=True) if function == name)
        assert (sum(found.waited.counts), found.waited.total) == (functions.count(name), 2.0 * functions.count(name))


def test_function_that_is_not_known_counts_with_the_others() -> None:
    timings, batch, refs = of(None)
    timings.done(batch, refs, [1.0], -1.0)
    timings.done(OutboxFiles(), ["uwsgi_spoolfile_on_a_1"], [1.0], -1.0)
    assert counted(timings) == {OTHER: 2}


def test_names_that_clients_make_up_take_no_more_than_so_much() -> None:
    timings, batch, refs = of(*(b"f%d" % number for number in range(2 * MOST_FUNCTIONS)))
    timings.done(batch, refs, [1.0] * len(refs), -1.0)
    told = counted(timings)
    assert len(told) == MOST_FUNCTIONS + 1
    assert told[OTHER] == MOST_FUNCTIONS
    assert all(told[f"f{number}"] == 1 for number in range(MOST_FUNCTIONS))


def test_run_of_unknown_length_is_in_no_histogram_and_counts_in_the_hour_of_its_function() -> None:
    timings, batch, refs = of(b"a")
    timings.ended(batch, refs[0], DEAD, -1.0, "")
    timings.ended(batch, refs[0], DEAD, 2.0, "")
    hours = FunctionHours()
    hours.sample(0.0, dict)
    assert together(hours.series(1.0, timings.told())["a"]).dead == 2
    assert sum(timings.told()["a"].ran[DEAD].counts) == 1


def test_what_is_told_does_not_change_afterwards() -> None:
    timings, batch, refs = of(b"a")
    timings.done(batch, refs, [1.0], 1.0)
    told = timings.told()["a"]
    timings.done(batch, refs, [1.0], 1.0)
    assert (told.ran[DONE].total, told.waited.total) == (1.0, 1.0)


def outcomes(hands: Hands) -> dict[str, float]:
    """The time of the runs of the one function, by outcome."""
    (found,) = hands.station.spool.timings.told().values()
    return {outcome: histogram.total for outcome, histogram in found.ran.items()}


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Ending.DONE, DONE), (Ending.FAILED, FAILED), (Ending.IGNORED, FAILED), (Ending.RETRY_AFTER, FAILED),
        (Ending.RETRY, AGAIN), (Ending.RETRY_UNCOUNTED, AGAIN), (Ending.AGAIN, AGAIN),
        (Ending.GIVE_UP, DEAD), (Ending.CANCELLED, CANCELLED),
    ],
)  # fmt: skip
def test_each_end_of_a_run_is_one_of_five_outcomes(monkeypatch: pytest.MonkeyPatch, verdict: Ending, outcome: str) -> None:
    async def story(hands: Hands) -> None:
        await hands.load()
        hands.station.admit(task(1, spool_func="mail"), link=None)
        await hands.station.rest()
        hands.pool.dispatch()
        await hands.turn()
        hands.workers[0].fail(0, verdict.value, "", 60.0, seconds=2.0, waited=0.5)
        await hands.station.rest()
        assert outcomes(hands) == {outcome: 2.0}
        assert hands.station.spool.timings.told()["mail"].waited.total == 0.5

    run(monkeypatch, story)


def test_the_last_hour_of_a_function_has_its_runs_minute_by_minute() -> None:
    timings, batch, refs = of(b"a", b"a", b"b")
    hours = FunctionHours()
    hours.sample(0.0, timings.told)
    timings.done(batch, refs, [0.3, 0.3, 2.0], 0.02)
    hours.sample(61.0, timings.told)
    timings.ended(batch, refs[0], DEAD, 8.0, "")
    series = hours.series(130.0, timings.told())
    assert series.keys() == {"a", "b"}
    assert [runs and (runs.done, runs.dead) for runs in series["a"][-3:]] == [(2, 0), None, (0, 1)]
    hour = together(series["a"])
    assert (hour.done, hour.failed, hour.again, hour.dead) == (2, 0, 0, 1)
    assert (sum(hour.ran), sum(hour.waited)) == (3, 2)
    hours.sample(122.0, timings.told)
    assert hours.series(122.0 + 3600, timings.told()) == {}, "nothing ended in the last hour"


def test_a_quantile_lies_in_the_bucket_where_that_value_is() -> None:
    histogram = Histogram()
    assert quantile(histogram.counts, 0.5) is None
    histogram.add(0.2, 90)
    histogram.add(40.0, 10)
    middle, late = quantile(histogram.counts, 0.5), quantile(histogram.counts, 0.95)
    assert middle is not None
    assert late is not None
    assert 0.1 < middle <= 0.5
    assert 30.0 < late <= 60.0
    assert quantile(histogram.counts, 1.0) == 60.0
    histogram.add(1e6, 1000)
    assert quantile(histogram.counts, 0.95) == BOUNDS[-1], "or more"
