"""A link is a machine of five states: each input in each state is a listed transition, or the caller erred and hears so."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolnode.cluster import link as links
from spoolnode.cluster.link import Fate, Link, LinkState, Sent, WrongState, fate_of
from spoolnode.cluster.timing import USUAL
from spoolnode.protocol.errors import Reason, Refused

NOW = 1000.0
BUSY = Refused(Reason.BUSY, "this node is stopping")
FORBIDDEN = Refused(Reason.FORBIDDEN, "no")


class Highest(random.Random):
    """Chance at its longest."""

    def random(self) -> float:
        """The largest that `random` gives."""
        return 1.0 - 2.0**-53


def sent(number: int = 1, size: int = 100) -> Sent:
    """A task under way."""
    return Sent("batch", 5, number * 64, number, size)


def idle() -> Link:
    return Link(random.Random(1), USUAL)


def waiting() -> Link:
    link = connecting()
    link.failed(NOW, "nothing listens")
    link.retry_at = NOW + 1.0
    return link


def connecting() -> Link:
    link = idle()
    link.begin(NOW)
    return link


def greeting() -> Link:
    link = connecting()
    link.connected(NOW)
    return link


def opened() -> Link:
    link = greeting()
    link.greeted(NOW)
    return link


def in_flight() -> Link:
    link = opened()
    link.sent(sent(), NOW)
    return link


SITUATIONS: dict[str, Callable[[], Link]] = {
    "idle": idle, "waiting": waiting, "connecting": connecting, "greeting": greeting, "open": opened, "in_flight": in_flight,
}  # fmt: skip

INPUTS: dict[str, Callable[[Link], object]] = {
    "begin": lambda link: link.begin(NOW),
    "begin later": lambda link: link.begin(NOW + 1.0),
    "connected": lambda link: link.connected(NOW),
    "greeted": lambda link: link.greeted(NOW),
    "sent": lambda link: link.sent(sent(2), NOW),
    "stored": lambda link: link.answered(None, NOW),
    "refused": lambda link: link.answered(BUSY, NOW),
    "rest": lambda link: link.rest(),
    "pause": lambda link: link.pause(NOW),
    "failed": lambda link: link.failed(NOW, "it broke"),
    "untrusted": lambda link: link.failed(NOW, "who?", untrusted=True),
    "nudge": lambda link: link.nudge(NOW),
    "progress": lambda link: link.progress(NOW),
}

WRONG = "wrong"
TRANSITIONS = {
    "idle": {"begin": "connecting", "begin later": "connecting", "nudge": "idle", "progress": "idle"},
    "waiting": {"begin later": "connecting", "nudge": "waiting", "progress": "waiting"},
    "connecting": {
        "connected": "greeting", "failed": "waiting", "untrusted": "waiting", "nudge": "connecting", "progress": "connecting",
    },
    "greeting": {
        "greeted": "open", "failed": "waiting", "untrusted": "waiting", "nudge": "greeting", "progress": "greeting",
    },
    "open": {
        "sent": "open", "rest": "idle", "pause": "waiting", "failed": "waiting", "untrusted": "waiting", "nudge": "open",
        "progress": "open",
    },
    "in_flight": {
        "sent": "open", "stored": "open", "refused": "open", "failed": "waiting", "untrusted": "waiting", "nudge": "open",
        "progress": "open",
    },
}  # fmt: skip
"""The transitions; all others are errors of the caller. `in_flight` is open with a task under way."""


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("said", INPUTS)
def test_each_input_in_each_state_is_a_listed_transition_or_the_callers_error(situation: str, said: str) -> None:
    link = SITUATIONS[situation]()
    before = link.state
    expected = TRANSITIONS[situation].get(said, WRONG)
    if expected == WRONG:
        with pytest.raises(WrongState, match="cannot be"):
            INPUTS[said](link)
        assert link.state is before
    else:
        INPUTS[said](link)
        assert link.state is LinkState(expected)


def test_an_error_of_the_caller_loses_no_task() -> None:
    for said in ("begin", "connected", "greeted", "rest", "pause"):
        link = in_flight()
        with pytest.raises(WrongState):
            INPUTS[said](link)
        assert list(link.flight) == [sent()]
        assert link.state is LinkState.OPEN


@given(st.lists(st.sampled_from(sorted(INPUTS)), max_size=40))
def test_whatever_happens_in_whatever_order_every_task_under_way_is_accounted_for(steps: list[str]) -> None:
    link = idle()
    out: list[Sent] = []
    for number, step in enumerate(steps):
        now = NOW + number * 100.0
        try:
            if step == "sent":
                link.sent(sent(number), now)
                out.append(sent(number))
            elif step in ("stored", "refused"):
                assert link.answered(None if step == "stored" else BUSY, now)[0] == out.pop(0)
            elif step in ("failed", "untrusted"):
                assert link.failed(now, "", untrusted=step == "untrusted") == out
                out = []
            else:
                INPUTS[step](link)
        except WrongState:
            continue
        assert list(link.flight) == out
        assert link.flight_bytes == sum(item.size for item in out)
        assert not link.flight or link.state is LinkState.OPEN


# -- what an answer means --


def test_no_refusal_is_taken() -> None:
    assert fate_of(None) is Fate.TAKEN


@pytest.mark.parametrize("reason", list(Reason))
def test_busy_and_full_are_for_a_while_and_every_other_reason_is_for_ever(reason: Reason) -> None:
    later = reason in (Reason.BUSY, Reason.FULL)
    assert fate_of(Refused(reason, "")) is (Fate.LATER if later else Fate.NEVER)


def test_answers_are_to_the_tasks_in_the_order_in_which_they_were_sent() -> None:
    link = opened()
    for number in (1, 2, 3):
        link.sent(sent(number), NOW)
    assert link.answered(None, NOW) == (sent(1), Fate.TAKEN)
    assert link.answered(FORBIDDEN, NOW) == (sent(2), Fate.NEVER)
    assert link.answered(BUSY, NOW) == (sent(3), Fate.LATER)


def test_after_later_nothing_more_is_sent_and_the_link_pauses_when_all_is_answered() -> None:
    link = opened()
    link.sent(sent(1), NOW)
    link.sent(sent(2), NOW)
    link.answered(BUSY, NOW)
    assert link.closing
    assert not link.room()
    link.answered(None, NOW)
    link.pause(NOW)
    assert link.state is LinkState.WAITING
    assert link.reason == BUSY.text
    assert link.failures == 1
    assert not link.may_begin(NOW) or link.retry_at <= NOW


def test_a_link_that_was_asked_to_slow_down_sends_again_when_it_is_greeted_anew() -> None:
    link = opened()
    link.sent(sent(), NOW)
    link.answered(BUSY, NOW)
    link.pause(NOW)
    link.begin(link.retry_at)
    link.connected(NOW)
    link.greeted(NOW)
    assert not link.closing
    assert link.room() == links.WINDOW


def test_what_will_never_be_taken_does_not_slow_the_link_down() -> None:
    link = in_flight()
    link.answered(FORBIDDEN, NOW)
    assert not link.closing
    assert link.room() == links.WINDOW


def test_what_will_never_be_taken_makes_no_longer_backoff_for_what_waits_behind_it() -> None:
    # A node ends the connection after such a task: a hundred of them are a hundred connections.
    link = in_flight()
    link.failures = 6
    link.answered(FORBIDDEN, NOW)
    link.failed(NOW, "the other side closed the connection")
    assert link.retry_at - NOW <= USUAL.first_retry


# -- the window --


def test_there_is_room_for_a_window_of_tasks_and_none_without_a_connection() -> None:
    for make in (idle, waiting, connecting, greeting):
        assert not make().room()
    link = opened()
    assert link.room() == links.WINDOW
    for number in range(links.WINDOW):
        link.sent(sent(number, size=1), NOW)
    assert link.room() == 0
    link.answered(None, NOW)
    assert link.room() == 1


def test_bytes_fill_the_window_too_and_a_task_larger_than_it_is_sent_alone() -> None:
    link = opened()
    link.sent(sent(1, size=links.WINDOW_BYTES + 1), NOW)
    assert not link.room()
    link.answered(None, NOW)
    assert link.room() == links.WINDOW
    assert link.flight_bytes == 0


# -- backoff --


def test_the_backoff_doubles_up_to_a_minute_and_never_beyond() -> None:
    link = Link(Highest(), USUAL)
    bounds = []
    for _ in range(40):
        link.begin(link.retry_at)
        link.failed(NOW, "nothing listens")
        bounds.append(round(link.retry_at - NOW, 6))
    assert bounds[:7] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]
    assert set(bounds[7:]) == {60.0}


@given(st.integers(0, 2**32), st.integers(1, 2000))
def test_every_backoff_is_drawn_from_0_to_its_bound(seed: int, failures: int) -> None:
    link = Link(random.Random(seed), USUAL)
    link.failures = failures - 1
    link.begin(NOW)
    link.failed(NOW, "")
    assert 0 <= link.retry_at - NOW <= min(60.0, 2.0 ** min(failures - 1, 10))


def test_links_that_broke_together_do_not_all_come_back_together() -> None:
    pauses = set()
    for seed in range(20):
        link = Link(random.Random(seed), USUAL)
        link.begin(NOW)
        link.failed(NOW, "")
        pauses.add(round(link.retry_at, 3))
    assert len(pauses) > 15


def test_one_task_taken_begins_the_backoff_anew_and_a_handshake_alone_does_not() -> None:
    link = waiting()
    link.failures = 7
    link.begin(NOW + 60)
    link.connected(NOW)
    link.greeted(NOW)
    assert link.failures == 7, "a peer that greets and takes nothing is not well"
    link.sent(sent(), NOW)
    link.answered(None, NOW)
    assert link.failures == 0


def test_a_failure_of_trust_waits_a_minute_whatever_the_backoff() -> None:
    link = connecting()
    link.failed(NOW, "its certificate has expired", untrusted=True)
    assert link.retry_at == NOW + USUAL.distrust
    assert not link.may_begin(NOW + USUAL.distrust - 0.001)
    assert link.may_begin(NOW + USUAL.distrust)


def test_a_sign_of_life_ends_the_waiting_and_most_of_the_backoff() -> None:
    link = waiting()
    link.failures, link.retry_at = 9, NOW + 60
    link.nudge(NOW)
    assert link.may_begin(NOW)
    assert link.failures == 1
    link.begin(NOW)
    link.failed(NOW, "")
    assert link.retry_at - NOW <= 2.0


# -- doubt --


def test_what_was_sent_and_not_answered_is_in_doubt_oldest_first() -> None:
    link = opened()
    for number in (1, 2, 3):
        link.sent(sent(number), NOW)
    link.answered(None, NOW)
    assert link.failed(NOW, "it broke") == [sent(2), sent(3)]
    assert not link.flight
    assert link.flight_bytes == 0


def test_a_link_with_tasks_under_way_neither_rests_nor_pauses() -> None:
    with pytest.raises(WrongState, match="tasks are under way"):
        in_flight().rest()
    with pytest.raises(WrongState, match="tasks are under way"):
        in_flight().pause(NOW)


def test_an_answer_to_nothing_is_an_error() -> None:
    with pytest.raises(WrongState, match="nothing is under way"):
        opened().answered(None, NOW)


# -- silence --


def test_a_link_is_stuck_when_something_is_owed_and_nothing_came_for_too_long() -> None:
    late = NOW + USUAL.answer + 0.001
    assert not opened().is_stuck(late), "nothing is owed"
    assert not idle().is_stuck(late)
    assert not connecting().is_stuck(late), "that is for who connects to limit"
    assert greeting().is_stuck(late)
    assert in_flight().is_stuck(late)
    assert not in_flight().is_stuck(NOW + USUAL.answer)


def test_answers_and_progress_keep_a_link_from_being_stuck() -> None:
    link = in_flight()
    link.sent(sent(2), NOW)
    link.answered(None, NOW + 9)
    assert not link.is_stuck(NOW + 18)
    link.progress(NOW + 18)
    assert not link.is_stuck(NOW + 27)
    assert link.is_stuck(NOW + 29)


def test_time_without_work_does_not_count_as_silence() -> None:
    link = opened()
    link.sent(sent(), NOW + 100)
    assert not link.is_stuck(NOW + 100 + USUAL.answer)


def test_a_link_says_how_it_is() -> None:
    assert repr(opened()) == "<link open, 0 tasks under way>"
    link = in_flight()
    link.answered(BUSY, NOW)
    assert repr(link) == "<link open, 0 tasks under way, closing>"
    assert repr(waiting()) == "<link waiting, 0 tasks under way, failed 1x: nothing listens>"
