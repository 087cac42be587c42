"""The pure decisions: when to retry, how many tasks a worker gets, which timers are due; and the small tables behind them."""

import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.cron import following, matches
from spoolnode.node.outcome import Ending, Outcome, Timer
from spoolnode.node.schedule import Schedule
from spoolnode.node.spool.retry import NextRun, RetryPolicy
from spoolnode.node.work.balance import MAX_WINDOW, Pace, View, plan, room, to_relieve
from spoolnode.node.work.messages import MAX_CHUNK
from spoolnode.node.work.slots import Running, Slots
from spoolnode.protocol import names
from spoolnode.protocol.packet import encode_variables

# -- retry --


@given(st.integers(0, 1000), st.integers(0, 255), st.integers(0, 10))
def test_a_pause_is_never_zero_never_longer_than_the_longest_and_doubles(attempts: int, limit: int, seed: int) -> None:
    policy = RetryPolicy(max_attempts=limit, base=0.5, longest=100.0)
    pause = policy.pause(attempts, random.Random(seed))
    bound = min(100.0, 0.5 * 2.0 ** (max(attempts, 1) - 1))
    assert bound / 2 <= pause <= bound
    assert policy.gives_up(attempts) == (limit != 0 and attempts >= limit)


NODES = RetryPolicy(max_attempts=20, base=1.0, longest=3600.0)


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        (b"5,2,600", RetryPolicy(5, 2.0, 600.0)),
        (b"0,,", RetryPolicy(0, 1.0, 3600.0)),
        (b",0.5,", RetryPolicy(20, 0.5, 3600.0)),
        (b",,9", RetryPolicy(20, 1.0, 9.0)),
        (b"five,,", NODES),
    ],
)
def test_a_task_is_tried_as_it_says_and_otherwise_as_its_node_does(said: bytes, policy: RetryPolicy) -> None:
    assert NODES.of_task(encode_variables([(b"a", b"b"), (names.RETRY, said)])) == policy


@pytest.mark.parametrize("block", [b"", encode_variables([(b"a", b"the text spool_retry")]), b"\xff\xffspool_retry"])
def test_a_task_that_says_nothing_is_tried_as_its_node_does(block: bytes) -> None:
    assert NODES.of_task(block) == NODES


TASKS = RetryPolicy(max_attempts=3, base=10.0, longest=100.0)


class Longest(random.Random):
    """Each pause is the longest possible."""

    def random(self) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("outcome", "attempts", "rounds", "turn"),
    [
        (Outcome(Ending.FAILED), 2, 0, NextRun(2, 20.0)),
        (Outcome(Ending.IGNORED), 2, 0, NextRun(2, 20.0)),
        (Outcome(Ending.RETRY_AFTER, delay=7.0), 2, 0, NextRun(2, 7.0)),
        (Outcome(Ending.FAILED), 3, 0, NextRun(3, None)),
        (Outcome(Ending.IGNORED), 3, 0, NextRun(3, None)),
        (Outcome(Ending.RETRY_AFTER, delay=7.0), 3, 0, NextRun(3, None)),
        (Outcome(Ending.GIVE_UP), 1, 0, NextRun(1, None)),
        (Outcome(Ending.CANCELLED), 1, 0, NextRun(1, None)),
        (Outcome(Ending.RETRY_UNCOUNTED, delay=7.0), 3, 0, NextRun(2, 7.0)),
        (Outcome(Ending.RETRY_UNCOUNTED, delay=7.0), 0, 0, NextRun(0, 7.0)),
        (Outcome(Ending.AGAIN, delay=7.0), 3, 0, NextRun(0, 7.0)),
        (Outcome(Ending.RETRY, delay=7.0), 3, 1, NextRun(0, 1.0)),
        (Outcome(Ending.RETRY, delay=7.0), 3, 3, NextRun(0, 4.0)),
        (Outcome(Ending.RETRY, delay=7.0), 3, 4, NextRun(0, 7.0)),
    ],
)
def test_each_ending_leads_to_another_run_or_to_the_end(outcome: Outcome, attempts: int, rounds: int, turn: NextRun) -> None:
    assert NODES.after(outcome, attempts, rounds, lambda: TASKS, Longest()) == turn


# -- dispatch --


@st.composite
def views(draw: st.DrawFn) -> View:
    concurrency = draw(st.integers(1, 64))
    asynchronous = draw(st.integers(0, concurrency))
    held = asynchronous + draw(st.integers(0, 1500))
    return View(held, draw(st.integers(1, MAX_WINDOW)), asynchronous, concurrency, draw(st.booleans()))


@given(st.lists(views(), max_size=8), st.integers(0, 5000))
def test_a_plan_never_gives_out_more_than_waits_nor_more_than_there_is_room_for(pool: list[View], waiting: int) -> None:
    shares = plan(pool, waiting)
    assert sum(count for _, count in shares) <= waiting
    assert len({index for index, _ in shares}) == len(shares)
    for index, count in shares:
        view = pool[index]
        assert 1 <= count <= min(room(view), MAX_CHUNK)
        assert not view.stalled
        assert view.held - view.asynchronous + count <= view.window
    if waiting and any(room(view) for view in pool):
        assert shares


@given(st.integers(1, 8), st.integers(1, 4000))
def test_idle_workers_get_even_shares(workers: int, waiting: int) -> None:
    shares = [count for _, count in plan([View(0, MAX_WINDOW, 0, 64, stalled=False)] * workers, waiting)]
    assert sum(shares) == min(waiting, workers * MAX_CHUNK)
    assert max(shares) - min(shares) <= 1


def test_the_emptiest_is_served_first() -> None:
    pool = [View(10, 100, 0, 1, stalled=False), View(0, 100, 0, 1, stalled=False)]
    assert plan(pool, 1) == [(1, 1)]


def test_a_worker_with_every_async_place_taken_gets_nothing() -> None:
    assert room(View(4, 100, 4, 4, stalled=False)) == 0
    assert room(View(3, 100, 3, 4, stalled=False)) == 1


@given(st.lists(views(), max_size=8), st.integers(0, 3))
def test_only_a_stalled_worker_that_holds_more_is_relieved_and_only_for_an_idle_one(pool: list[View], waiting: int) -> None:
    relieved = to_relieve(pool, waiting)
    if waiting or not any(view.held == 0 for view in pool):
        assert relieved == []
    for index in relieved:
        assert pool[index].stalled
        assert pool[index].held - pool[index].asynchronous > 1


@given(st.lists(st.tuples(st.integers(0, 600), st.floats(0, 10)), max_size=40))
def test_a_window_at_most_doubles_and_stays_in_its_bounds(reports: list[tuple[int, float]]) -> None:
    pace = Pace()
    for tasks, seconds in reports:
        before = pace.window
        pace.observe(tasks, seconds)
        assert 1 <= pace.window <= min(MAX_WINDOW, before * 2)


def test_quick_tasks_open_the_window_and_a_slow_one_closes_it() -> None:
    pace = Pace()
    for _ in range(12):
        pace.observe(100, 0.001)
    assert pace.window == MAX_WINDOW
    pace.observe(1, 1.0)
    assert pace.window == 1


# -- schedule --


@pytest.fixture
def berlin() -> Iterator[None]:
    """A zone whose clocks are changed."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


ANY = -1


@pytest.mark.parametrize(
    ("cron", "when", "fits"),
    [
        ((ANY, ANY, ANY, ANY, ANY), "2026-03-05 10:07", True),
        ((7, 10, 5, 3, ANY), "2026-03-05 10:07", True),
        ((8, ANY, ANY, ANY, ANY), "2026-03-05 10:07", False),
        ((-7, ANY, ANY, ANY, ANY), "2026-03-05 10:07", True),
        ((-5, ANY, ANY, ANY, ANY), "2026-03-05 10:07", False),
        ((ANY, ANY, ANY, ANY, 4), "2026-03-05 10:07", True),  # a Thursday
        ((ANY, ANY, ANY, ANY, 0), "2026-03-08 10:07", True),
        ((ANY, ANY, ANY, ANY, 7), "2026-03-08 10:07", True),
        ((ANY, ANY, 1, ANY, 4), "2026-03-05 10:07", True),
        ((ANY, ANY, 5, ANY, 1), "2026-03-05 10:07", True),
        ((ANY, ANY, 1, ANY, 1), "2026-03-05 10:07", False),
        ((ANY, ANY, 5, 4, ANY), "2026-03-05 10:07", False),
    ],
)
def test_a_cron_entry_names_its_minutes(cron: tuple[int, int, int, int, int], when: str, fits: bool) -> None:
    assert matches(cron, datetime.strptime(when, "%Y-%m-%d %H:%M")) is fits  # noqa: DTZ007 # cron speaks of local time


@given(
    st.tuples(st.integers(-30, 59), st.integers(-12, 23), st.integers(-15, 28), st.integers(-6, 12), st.just(ANY)),
    st.floats(1.7e9, 1.8e9),
)
def test_the_next_time_is_later_and_fits_and_none_was_passed_over(cron: tuple[int, int, int, int, int], now: float) -> None:
    cron = (cron[0] or 0, cron[1], cron[2] or ANY, cron[3] or ANY, ANY)
    when = following(Timer("t", 0.0, cron), now)
    assert when > now
    assert matches(cron, datetime.fromtimestamp(when))  # noqa: DTZ006 # cron speaks of local time
    minute = when - 60
    for _ in range(200):
        if minute <= now:
            break
        assert not matches(cron, datetime.fromtimestamp(minute))  # noqa: DTZ006 # cron speaks of local time
        minute -= 60


def test_the_29th_of_february_comes_and_the_30th_never() -> None:
    after = datetime(2025, 3, 1, tzinfo=UTC).timestamp()
    found = datetime.fromtimestamp(following(Timer("t", 0.0, (0, 12, 29, 2, ANY)), after), tz=UTC)
    assert (found.year, found.month, found.day) == (2028, 2, 29)
    assert following(Timer("t", 0.0, (0, 0, 30, 2, ANY)), after) == float("inf")


@pytest.mark.usefixtures("berlin")
def test_the_hour_that_comes_twice_is_no_storm_and_the_one_that_is_missing_no_loss() -> None:
    every = Timer("t", 0.0, (ANY, ANY, ANY, ANY, ANY))
    for day in (datetime(2026, 10, 25, tzinfo=UTC), datetime(2026, 3, 29, tzinfo=UTC)):
        now = day.timestamp()
        for _ in range(300):
            assert following(every, now) == now + 60
            now += 60


def local(text: str, fold: int = 0) -> float:
    """Seconds since 1970 at a local time."""
    return datetime.fromisoformat(text).replace(fold=fold).timestamp()


def both(numbers: tuple[int, int, int, int, int], expression: str) -> list[Timer]:
    """One entry in each syntax: in local time, and in a zone with the same changes of the clock."""
    given = [Timer("t", 0.0, numbers), Timer("t", 0.0, (ANY,) * 5, expression=expression)]
    return [*given, *(timer._replace(zone="Europe/Berlin") for timer in given)]


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("nightly", both((30, 2, ANY, ANY, ANY), "30 2 * * *"))
def test_a_cron_entry_of_a_skipped_hour_runs_when_that_is_over_and_in_an_hour_that_comes_twice_once(nightly: Timer) -> None:
    spring = following(nightly, local("2027-03-27 12:00"))
    assert spring == local("2027-03-28 03:00")
    assert following(nightly, spring) == local("2027-03-29 02:30")
    autumn = following(nightly, local("2026-10-24 12:00"))
    assert autumn == local("2026-10-25 02:30")
    assert following(nightly, autumn) == local("2026-10-26 02:30")
    assert following(nightly, local("2026-10-25 02:10", fold=1)) == local("2026-10-26 02:30")


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("often", both((-30, 2, ANY, ANY, ANY), "*/30 2 * * *"))
def test_a_cron_entry_without_a_fixed_minute_goes_by_the_new_time(often: Timer) -> None:
    assert following(often, local("2027-03-27 12:00")) == local("2027-03-29 02:00")
    assert following(often, local("2026-10-25 02:30")) == local("2026-10-25 02:00", fold=1)


@pytest.mark.parametrize("entry", [Timer("t", 0.0, (0, 3, ANY, ANY, ANY)), Timer("t", 0.0, (ANY,) * 5, 0, "0 3 * * *")])
def test_a_zone_is_that_of_the_entry_whatever_the_machine_has(entry: Timer) -> None:
    noon = datetime(2026, 6, 10, 12, tzinfo=UTC).timestamp()
    assert following(entry._replace(zone="Europe/Rome"), noon) == datetime(2026, 6, 11, 1, tzinfo=UTC).timestamp()
    assert following(entry._replace(zone="Asia/Tokyo"), noon) == datetime(2026, 6, 10, 18, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("expression", "due"),
    [
        ("*/15 9-17 * * mon-fri", "2026-06-12 17:45"),
        ("0 0 1,15 * *", "2026-06-15 00:00"),
        ("0 0 13 * fri", "2026-06-13 00:00"),  # either is enough, as in cron(5)
        ("0 12 L * *", "2026-06-30 12:00"),
        ("0 9 * * mon#2", "2026-07-13 09:00"),
        ("0 12 29 2 *", "2028-02-29 12:00"),
    ],
)
def test_an_expression_has_the_syntax_of_crontab(expression: str, due: str) -> None:
    friday = local("2026-06-12 17:30")
    assert following(Timer("t", 0.0, (ANY,) * 5, expression=expression), friday) == local(due)


def schedule_of(*timers: Timer, monotonic: float, wall: float) -> Schedule:
    schedule = Schedule(monotonic, wall)
    schedule.replace(list(timers), monotonic, wall)
    return schedule


EVERY_10, EVERY_25 = Timer("a", 10.0, (ANY,) * 5), Timer("b", 25.0, (ANY,) * 5)


def test_timers_are_due_once_a_period_and_what_was_missed_is_not_made_up_for() -> None:
    schedule = schedule_of(EVERY_10, EVERY_25, monotonic=100.0, wall=0.0)
    assert schedule.wait(100.0, 0.0) == 10.0
    assert schedule.due(109.9, 0.0) == []
    assert schedule.due(110.0, 0.0) == [EVERY_10]
    assert schedule.due(201.0, 0.0) == [EVERY_10, EVERY_25]
    assert schedule.due(201.0, 0.0) == []
    assert schedule.wait(201.0, 0.0) == 9.0  # the beat is kept
    assert Schedule(0.0, 0.0).wait(0.0, 0.0) is None


@pytest.mark.parametrize("step", [-86400.0, -3600.0, 3600.0, 86400.0])
def test_a_period_does_not_care_what_the_wall_clock_says(step: float) -> None:
    schedule = schedule_of(EVERY_10, monotonic=100.0, wall=1e9)
    assert schedule.wait(105.0, 1e9 + 5 + step) == 5.0
    assert schedule.due(110.0, 1e9 + 10 + step) == [EVERY_10]
    assert schedule.wait(110.0, 1e9 + 10 + step) == 10.0


def test_timer_with_a_number_of_times_ends_after_them() -> None:
    twice = EVERY_10._replace(times=2)
    schedule = schedule_of(twice, monotonic=100.0, wall=0.0)
    assert [schedule.due(now, 0.0) for now in (110.0, 120.0, 130.0, 1e6)] == [[twice], [twice], [], []]


def test_timers_that_a_reload_keeps_go_on_as_they_were() -> None:
    schedule = schedule_of(EVERY_25, monotonic=100.0, wall=0.0)
    schedule.replace([EVERY_10, EVERY_25], 120.0, 20.0)
    assert schedule.timers == [EVERY_10, EVERY_25]
    assert schedule.due(125.0, 25.0) == [EVERY_25]
    schedule.replace([EVERY_10], 126.0, 26.0)
    assert schedule.due(1000.0, 900.0) == [EVERY_10]


NUMBERS = (Timer("c", 0.0, (30, 2, ANY, ANY, ANY)), Timer("d", 0.0, (ANY,) * 5))
EXPRESSIONS = tuple(Timer("e", 0.0, (ANY,) * 5, expression=text) for text in ("30 2 * * *", "* * * * *"))


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("entries", [NUMBERS, EXPRESSIONS])
def test_cron_entries_when_the_clock_is_set_as_in_cron(entries: tuple[Timer, Timer]) -> None:
    nightly, minutely = entries
    half_past_two = local("2026-06-10 02:30")
    schedule = schedule_of(nightly, minutely, monotonic=0.0, wall=half_past_two - 600)
    assert schedule.due(600.0, half_past_two) == [nightly, minutely]
    # Back by an hour: a nightly timer does not run again, the other goes by the new time.
    assert schedule.due(601.0, half_past_two - 3600) == []
    assert schedule.wait(601.0, half_past_two - 3600) == 60.0
    assert schedule.due(601.0 + 3600, half_past_two) == [minutely]
    # Forward by two hours over the time of tomorrow: it runs at once.
    before = half_past_two + 86400 - 3600
    assert schedule.due(601.0 + 86400, before) == [minutely]
    assert schedule.due(602.0 + 86400, before + 7200) == [nightly, minutely]
    # A correction of a wrong clock: nothing is made up for, and nothing waits for the old time.
    assert schedule.due(603.0 + 86400, before + 50 * 86400) == []
    assert schedule.due(604.0 + 86400, half_past_two - 365 * 86400 - 60) == []
    assert schedule.due(664.0 + 86400, half_past_two - 365 * 86400) == [nightly, minutely]


# -- slots --


def test_a_slot_tells_another_mapping_what_runs() -> None:
    slots = Slots.create(3)
    other = Slots(os.dup(slots.descriptor), 3)
    assert (other.main(), other.running()) == (None, [])
    slots.begin(0, 7, 3, 1.5, 2.5)
    slots.begin(2, 8, 0, 1.0, 0.0)
    assert other.main() == Running(7, 3, 1.5, 2.5)
    assert other.running() == [Running(7, 3, 1.5, 2.5), Running(8, 0, 1.0, 0.0)]
    slots.end(0)
    assert other.main() is None
    assert other.running() == [Running(8, 0, 1.0, 0.0)]
    slots.close()
    other.close()
