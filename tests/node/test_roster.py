"""Timers of the whole cluster: which node runs a due time, what is made up for, and what nodes believe of each other."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.outcome import Timer
from spoolnode.node.roster import (
    AHEAD,
    LATE,
    PATIENCE,
    Colleague,
    Due,
    LastRun,
    Roster,
    is_key,
    key_of,
    next_due,
    passed,
    place_in_line,
)
from spoolnode.node.timekeeper import LONGEST_WAIT

NEVER = (-1,) * 5
MINUTELY = Timer("app:tick", 60.0, NEVER, task=b"t")
NIGHTLY = Timer("app:report", 0.0, NEVER, expression="0 3 * * *", zone="Europe/Rome", task=b"t")
EIGHT = datetime(2026, 6, 10, 8, tzinfo=UTC).timestamp()
"""A whole minute; 10:00 in Rome."""
DAY = 86400.0
THREE = datetime(2026, 6, 11, 1, tzinfo=UTC).timestamp()
"""03:00 in Rome, on the next day."""
SETTLING = 15.0


@dataclass
class Member:
    """One node of a cluster in one thread, with clocks that the test moves."""

    id: str
    runs: dict[str, LastRun] = field(default_factory=dict)
    monotonic: float = 1000.0
    wall: float = EIGHT + 1
    ran: list[float] = field(default_factory=list)
    settling: float = SETTLING

    def start(self, *timers: Timer) -> "Member":
        """A start with the timers of its application."""
        self.roster = Roster(self.id, self.runs, self.settling)
        self.roster.replace(timers or [MINUTELY], self.monotonic, self.wall)
        return self

    def passes(self, seconds: float, step: float = 0.0, *, asleep: bool = False) -> "Member":
        """Time passes; the wall clock is set, too. It looks now and then, stores nothing, and hears nothing of the others."""
        while seconds > LONGEST_WAIT and not asleep:
            seconds -= LONGEST_WAIT
            self.passes(LONGEST_WAIT)
            self.roster.due(self.monotonic, self.wall, [])
        self.monotonic += seconds
        self.wall += seconds + step
        return self

    def look(self, others: Iterable[Colleague] = ()) -> list[float]:
        """Runs what is its turn, and returns that."""
        found = self.roster.due(self.monotonic, self.wall, list(others))
        for due in found:
            self.roster.ran(due, self.id)
        self.ran += [due.when for due in found]
        return [due.when for due in found]

    def as_seen(self, *, works: bool = True) -> Colleague:
        """It, as another node sees it."""
        return Colleague(self.id, works, self.roster.told())


def in_line(*timers: Timer) -> tuple[Member, Member, Member]:
    """Three nodes that have started and waited, in the order of the line of the first timer."""
    ids = sorted("abc", key=lambda own: place_in_line(key_of((timers or (MINUTELY,))[0]), own, {*"abc"} - {own}))
    first, second, third = (Member(own).start(*timers) for own in ids)
    for member in (first, second, third):
        member.passes(SETTLING)
    return first, second, third


# -- due times --


@given(st.integers(1, 10**6), st.floats(0, 2e9))
def test_periods_are_counted_from_1970_so_that_all_nodes_have_the_same(seconds: int, after: float) -> None:
    when = next_due(Timer("t", float(seconds), NEVER), after)
    assert when % seconds == 0
    assert after < when <= after + seconds


@given(st.floats(0, 5e4), st.sampled_from([MINUTELY, MINUTELY._replace(seconds=7.0), NIGHTLY]))
def test_what_is_late_counts_as_one_the_latest_and_the_rest_is_all_there(gap: float, timer: Timer) -> None:
    now = THREE + 4321.5
    after = now - gap
    every = []
    when = next_due(timer, after)
    while when <= now:
        every.append(when)
        when = next_due(timer, when)
    old = [due for due in every if due <= now - LATE]
    assert passed(timer, after, now) == old[-1:] + [due for due in every if due > now - LATE]


def test_a_year_of_minutes_is_passed_over_at_once() -> None:
    january = Timer("t", 0.0, NEVER, expression="* * * jan *", zone="UTC")
    november = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
    assert passed(january, november - 365 * DAY, november) == [datetime(2026, 1, 31, 23, 59, tzinfo=UTC).timestamp()]


def test_a_day_that_never_comes_is_never_due() -> None:
    never = Timer("t", 0.0, (0, 0, 30, 2, -1), task=b"t")
    member = Member("a", settling=0.0).start(never).passes(1000 * DAY, asleep=True)
    assert (member.look(), member.roster.wait(member.wall)) == ([], math.inf)


# -- whose turn it is --


def test_all_nodes_reckon_the_same_line_and_a_node_that_goes_moves_only_its_own_timers() -> None:
    ids = [f"{number:012x}" for number in range(10)]
    keys = [key_of(MINUTELY._replace(name=f"app:f{number}")) for number in range(200)]

    def first(key: str, among: list[str]) -> str:
        (one,) = [own for own in among if place_in_line(key, own, {*among} - {own}) == 0]
        return one

    before = {key: first(key, ids) for key in keys}
    after = {key: first(key, ids[1:]) for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == ids[0]}
    assert set(before.values()) == set(ids), "each node has some"


def test_the_first_in_the_line_runs_a_due_time_and_the_others_hear_of_it() -> None:
    first, second, third = in_line()
    due = EIGHT + 60
    for member in (first, second, third):
        member.passes(due - member.wall)
    assert second.look([first.as_seen(), third.as_seen()]) == []
    assert first.look([second.as_seen(), third.as_seen()]) == [due]
    second.passes(10)
    assert second.look([first.as_seen(), third.as_seen()]) == []
    assert second.roster.runs[key_of(MINUTELY)] == LastRun(due, first.id)
    third.passes(10)
    assert third.look([second.as_seen()]) == [], "it is told by the second, although it cannot reach the first"


def test_the_next_in_line_takes_over_at_once_what_a_dead_node_has_not_run() -> None:
    first, second, third = in_line()
    for member in (second, third):
        member.passes(EIGHT + 61 - member.wall)
        others = [other.as_seen() for other in (first, second, third) if other is not member]
        assert member.look(others) == []
        member.passes(10)
    gone = first.as_seen(works=False)
    assert third.look([gone, second.as_seen()]) == []
    assert second.look([gone, third.as_seen()]) == [EIGHT + 60]


def test_a_node_that_is_up_and_runs_nothing_is_passed_over_after_a_while() -> None:
    first, second, third = in_line()
    for member in (second, third):
        member.passes(EIGHT + 60 - member.wall)
        member.look([first.as_seen()])
        member.passes(PATIENCE - 1)
    assert second.look([first.as_seen(), third.as_seen()]) == []
    assert second.passes(1).look([first.as_seen(), third.as_seen()]) == [EIGHT + 60]
    assert third.passes(1).look([first.as_seen(), second.as_seen()]) == []


def test_a_node_that_has_run_something_in_its_turn_leaves_the_rest_to_the_first_when_that_is_back() -> None:
    often = MINUTELY._replace(seconds=5.0)
    first, second, _ = in_line(often)
    for _ in range(20):
        second.passes(5)
        assert second.look([first.as_seen(works=False)])
    for _ in range(5):
        second.passes(5)
        assert second.look([first.as_seen()]) == []


def test_news_begins_the_patience_anew_for_what_is_due_after_it() -> None:
    often = MINUTELY._replace(seconds=5.0)
    first, second, _ = in_line(often)
    assert second.look([first.as_seen()]) == []
    for _ in range(40):
        first.passes(second.wall - first.wall).look()
        assert second.look([first.as_seen()]) == []
        second.passes(6.0)  # as often as it is told


def test_nodes_without_the_timer_have_no_place_in_the_line() -> None:
    first, second, _ = in_line()
    first.start(NIGHTLY)  # a reload without it
    second.passes(EIGHT + 60 - second.wall)
    assert second.look([first.as_seen()]) == [EIGHT + 60]


def test_a_timer_that_is_new_waits_until_the_others_are_known() -> None:
    member = Member("a", wall=THREE - 62, settling=0.0).start()
    assert member.passes(57).look() == [THREE - 60]
    member.roster.settling = SETTLING
    member.roster.replace([MINUTELY, NIGHTLY], member.monotonic, member.wall)
    assert member.passes(5).look() == [THREE], "one that was there before"
    assert member.passes(9).look() == []
    assert member.passes(1).look() == [THREE], "late, but not missed"


def test_what_cannot_be_stored_stays_due() -> None:
    member = Member("a", settling=0.0).start().passes(100)
    key = key_of(MINUTELY)
    for _ in range(3):
        assert member.roster.due(member.monotonic, member.wall, []) == [Due(key, MINUTELY, EIGHT + 60)]
        assert member.roster.wait(member.wall) < 0
    assert member.look() == [EIGHT + 60]
    assert member.roster.wait(member.wall) > 0


# -- starts --


def test_a_restart_neither_repeats_nor_misses() -> None:
    member = Member("a").start().passes(100)
    assert member.look() == [EIGHT + 60]
    again = Member("a", dict(member.roster.runs), member.monotonic, member.wall).start()
    assert again.passes(40).look() == [EIGHT + 120], "due while the node was starting"


def test_what_was_missed_is_run_once_with_catch_up_and_not_at_all_without() -> None:
    for timer, runs in ((NIGHTLY, []), (NIGHTLY._replace(catch_up=True), [THREE + 2 * DAY])):
        member = Member("a", {key_of(timer): LastRun(THREE - DAY, "b")}, wall=THREE + 2 * DAY + 7200).start(timer)
        assert member.look() == []
        assert member.passes(SETTLING).look() == runs
        assert member.passes(20).look() == []
        member.passes(THREE + 3 * DAY - 30 - member.wall, asleep=True).look()
        assert member.passes(30).look() == [THREE + 3 * DAY]


def test_catching_up_waits_until_the_others_have_told_what_they_have_run() -> None:
    timer = NIGHTLY._replace(catch_up=True)
    other = Member("b", {key_of(timer): LastRun(THREE, "b")}, wall=THREE + 7200).start(timer)
    member = Member("a", {key_of(timer): LastRun(THREE - DAY, "a")}, wall=THREE + 7200).start(timer).passes(SETTLING)
    assert member.look([other.as_seen()]) == []
    assert member.roster.runs[key_of(timer)] == LastRun(THREE, "b")


def test_a_timer_that_was_never_there_has_missed_nothing() -> None:
    timer = NIGHTLY._replace(catch_up=True)
    member = Member("a", wall=THREE + 7200).start(timer)
    assert member.passes(SETTLING).look() == []
    later = Member("a", dict(member.roster.runs), wall=THREE + DAY + 7200).start(timer)
    assert later.passes(SETTLING).look() == [THREE + DAY], "it has been there since"
    assert member.as_seen().runs == {key_of(timer): LastRun(0.0, "")}, "nothing was run, so nothing is told as run"


def test_a_timer_that_the_application_has_no_longer_is_forgotten() -> None:
    member = Member("a").start(MINUTELY, NIGHTLY)
    member.roster.replace([NIGHTLY], member.monotonic, member.wall)
    assert set(member.roster.runs) == {key_of(NIGHTLY)}


# -- clocks --


def test_a_clock_that_is_set_back_repeats_nothing_at_a_fixed_hour_and_goes_on_with_the_rest() -> None:
    member = Member("a", wall=THREE - 30, settling=0.0).start(MINUTELY, NIGHTLY)
    assert member.passes(31).look() == [THREE, THREE]
    member.passes(1, step=-3600)
    assert member.look() == []
    assert member.passes(60).look() == [THREE - 3600 + 60]
    member.passes(THREE - member.wall)
    assert member.look() == [THREE - 60, THREE], "only the minutes"
    member.passes(1, step=-4 * 3600)  # a correction
    assert member.look() == []
    member.passes(THREE - member.wall)
    assert member.look().count(THREE) == 2


def test_a_clock_that_is_set_forward_runs_what_it_skips_once() -> None:
    member = Member("a", wall=THREE - 3590, settling=0.0).start(MINUTELY, NIGHTLY)
    member.look()
    after = member.passes(1, step=7200).wall
    assert member.look() == [after - after % 60 - 60, after - after % 60, THREE], "that of the last minute is not late"
    assert member.passes(10).look() == []
    assert member.passes(1, step=2 * DAY).look() == [], "a correction of a wrong clock"


@pytest.mark.parametrize(("seconds", "step"), [(1, 300.0), (300, 0.0)])
def test_a_machine_that_was_asleep_hears_first_what_others_have_run(seconds: float, step: float) -> None:
    first, second, _ = in_line()
    first.look()
    first.passes(seconds, step, asleep=True)
    assert first.look([second.as_seen()]) == []
    second.passes(first.wall - second.wall - 60).look()
    first.passes(SETTLING)
    assert first.look([second.as_seen(works=False)]) == [EIGHT + 300], "all but this was run by the second"


def test_a_node_that_could_not_store_waits_for_news_before_it_tries_again() -> None:
    first, second, _ = in_line()
    first.passes(EIGHT + 60 - first.wall)
    (due,) = first.roster.due(first.monotonic, first.wall, [])
    first.roster.wait_for_news(due.key, first.monotonic)
    assert first.passes(SETTLING - 1).look([second.as_seen()]) == []
    assert first.passes(1).look([second.as_seen()]) == [EIGHT + 60]


def test_after_a_start_with_a_clock_that_was_set_back_it_goes_on() -> None:
    runs = {key_of(MINUTELY): LastRun(EIGHT + 10 * DAY, "a"), key_of(NIGHTLY): LastRun(THREE + 10 * DAY, "a")}
    member = Member("a", runs, settling=0.0).start(MINUTELY, NIGHTLY)
    member.look()
    assert member.passes(60).look() == [EIGHT + 60]
    assert THREE in member.passes(THREE - member.wall).look()


@pytest.mark.parametrize(("timer", "ahead"), [(MINUTELY, AHEAD), (NIGHTLY, 3 * 3600.0)])
def test_a_run_far_ahead_of_the_clock_is_not_believed(timer: Timer, ahead: float) -> None:
    member = Member("a", settling=0.0).start(timer)
    member.look([Colleague("b", True, {key_of(timer): LastRun(member.wall + ahead + 1, "b")})])
    assert not member.roster.runs[key_of(timer)].by
    member.look([Colleague("b", True, {key_of(timer): LastRun(member.wall + ahead, "b")})])
    assert member.roster.runs[key_of(timer)].by == "b"


# -- names --


def test_a_key_is_that_of_the_function_and_its_times() -> None:
    assert is_key(key_of(NIGHTLY))
    assert key_of(NIGHTLY) == key_of(NIGHTLY._replace(task=b"other options", catch_up=True))
    others = (NIGHTLY._replace(zone=""), NIGHTLY._replace(name="app:other"), NIGHTLY._replace(expression="0 4 * * *"), MINUTELY)
    assert len({key_of(timer) for timer in (NIGHTLY, *others)}) == 5
    assert not any(map(is_key, ("", "x" * 16, "A" * 16, "0" * 17, 7, None)))
