"""A limited function has at most so many tasks at once, and at most so many starts in any span of its time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.node.outcome import Limit
from spoolnode.node.spool.functions import Functions
from spoolnode.node.spool.limits import Limits
from spoolnode.node.spool.throttle import MANY, Throttle


def test_at_most_so_many_run_at_once() -> None:
    limits = Limits()
    limits.declare({2: Limit(2)})
    assert limits.allowance(2, 0.0) == 2
    limits.start(2, 2, 0.0)
    assert limits.allowance(2, 1e9) == 0
    limits.end(2)
    assert limits.allowance(2, 0.0) == 1
    assert limits.opens_in(0.0) is None, "no time opens it"


def test_at_most_so_many_start_within_a_time() -> None:
    limits = Limits()
    limits.declare({2: Limit(starts=3, seconds=60.0)})
    limits.start(2, 2, 100.0)
    limits.end(2)
    assert limits.allowance(2, 110.0) == 1
    limits.start(2, 1, 110.0)
    assert (limits.allowance(2, 120.0), limits.opens_in(120.0)) == (0, 40.0)
    assert limits.allowance(2, 160.0) == 2
    assert limits.opens_in(160.0) is None


def test_a_task_that_did_not_start_counts_for_nothing() -> None:
    limits = Limits()
    limits.declare({2: Limit(1, 1, 60.0)})
    limits.start(2, 1, 0.0)
    limits.undo(2)
    assert limits.allowance(2, 0.0) == 1


def test_a_function_is_told_with_the_limits_that_it_has() -> None:
    functions = Functions()
    throttle = Throttle(functions, lambda: 0.0)
    throttle.limit({"mail": Limit(2), "pay": Limit(starts=30, seconds=60.0)})
    throttle.start(functions.note("mail"), 1)
    assert throttle.limits() == {"mail": {"running": 1, "at_once": 2}, "pay": {"running": 0, "starts_per_second": 0.5}}


def test_a_new_application_has_its_own_limits_and_what_runs_goes_on_to_count() -> None:
    limits = Limits()
    limits.declare({2: Limit(2), 3: Limit(starts=5, seconds=10.0)})
    limits.start(2, 2, 0.0)
    limits.start(3, 4, 0.0)
    limits.declare({2: Limit(3), 3: Limit(starts=4, seconds=10.0)})
    assert limits.allowance(2, 1.0) == 1
    assert limits.allowance(3, 1.0) == 0
    limits.declare({})
    assert (2 in limits, len(limits)) == (False, 0)
    limits.end(2)
    limits.end(2)
    limits.declare({2: Limit(1)})
    assert limits.allowance(2, 1.0) == 1


@given(st.lists(st.floats(0.0, 20.0), max_size=60), st.integers(1, 5), st.floats(1.0, 10.0))
def test_in_no_span_of_its_time_do_more_start(waits: list[float], starts: int, seconds: float) -> None:
    limits = Limits()
    limits.declare({2: Limit(starts=starts, seconds=seconds)})
    now, started = 0.0, []
    for wait in waits:
        now += wait
        if limits.allowance(2, now):
            limits.start(2, 1, now)
            started.append(now)
        else:
            opens = limits.opens_in(now)
            assert opens is not None
            assert opens <= seconds + 1e-6
    for first, last in zip(started, started[starts:], strict=False):
        assert last - first >= seconds - 1e-6


def test_throttle_holds_back_what_is_paused_whatever_its_limit() -> None:
    now = 0.0
    functions = Functions()
    throttle = Throttle(functions, lambda: now)
    mail, pay = functions.number(b"mail"), functions.number(b"pay")
    assert throttle.is_open
    throttle.limit({"mail": Limit(1)})
    assert (throttle.allowance(mail), throttle.allowance(pay), throttle.governed) == (1, MANY, ["mail"])
    throttle.pause(frozenset({"mail"}), everything=False)
    assert (throttle.allowance(mail), throttle.may_move(mail)) == (0, 0)
    throttle.pause(frozenset(), everything=False)
    assert throttle.may_move(mail) == MANY, "another node has limits of its own"
    assert throttle.start(mail, 1)
    assert not throttle.start(pay, 1)
    assert throttle.allowance(mail) == 0
    throttle.end(mail, ran=True)
    assert throttle.allowance(mail) == 1


@pytest.mark.parametrize("limit", [Limit(1), Limit(starts=1, seconds=5.0)])
def test_a_limit_that_is_gone_holds_nothing_back(limit: Limit) -> None:
    functions = Functions()
    throttle = Throttle(functions, lambda: 0.0)
    throttle.limit({"mail": limit})
    throttle.start(functions.note("mail"), 1)
    throttle.limit({})
    assert throttle.is_open
    assert throttle.opens_in() is None
