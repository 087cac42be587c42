"""A peer is a machine of six states: where each input leads from each of them, its counts, and its next ping."""

from itertools import product

import pytest

from spoolnode.cluster.liveness import STRIKES, TRANSITIONS, Ask, Failure, Liveness, PeerState, Seen, seen_by_link, seen_by_ping

UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED = PeerState
NOW = 1000.0

WAYS: dict[PeerState, list[Seen]] = {
    UNKNOWN: [],
    UP: [Seen.ANSWERED],
    SUSPECT: [Seen.ANSWERED, Seen.SILENT],
    DOWN: [Seen.REFUSED],
    LEAVING: [Seen.DRAINING],
    REJECTED: [Seen.UNTRUSTED],
}
"""The inputs that lead to each state."""


def peer_in(state: PeerState) -> Liveness:
    peer = Liveness(NOW - 100)
    for seen in WAYS[state]:
        peer.see(seen, NOW - 50, "before")
    assert peer.state is state
    return peer


PLAN = {
    "-": Ask.AS_PLANNED,
    "now": Ask.AT_ONCE,
    "now!": Ask.REGARDLESS,
    "silent": Ask.WHEN_SILENT,
    "backoff": Ask.WITH_BACKOFF,
    "pause": Ask.AFTER_PAUSE,
    "long": Ask.AFTER_LONG_PAUSE,
}

LEADS = {
    # in the state       unknown         up              suspect         down              leaving          rejected
    Seen.ANSWERED: "     up silent     | up silent     | up silent     | up silent       | up silent      | up silent",
    Seen.DRAINING: "     leaving silent| leaving silent| leaving silent| leaving silent  | leaving silent | leaving silent",
    Seen.TAKEN: "        up now!       | up -          | up now!       | up now!         | leaving -      | up now!",
    Seen.SILENT: "       suspect now   | suspect now   | suspect now   | down backoff    | down backoff   | down backoff",
    Seen.REFUSED: "      down backoff  | down backoff  | down backoff  | down backoff    | down backoff   | down backoff",
    Seen.LINK_BROKE: "   suspect now   | suspect now   | suspect now   | down -          | leaving now    | rejected -",
    Seen.LINK_REFUSED: " down backoff  | down backoff  | down backoff  | down -          | down backoff   | down backoff",
    Seen.UNTRUSTED: "    rejected long | rejected long | rejected long | rejected long   | rejected long  | rejected long",
    Seen.DISPUTED: "     rejected pause| rejected pause| rejected pause| rejected pause  | rejected pause | rejected pause",
    Seen.OUTSIDE: "      rejected -    | rejected -    | rejected -    | rejected -      | rejected -     | rejected -",
    Seen.GOODBYE: "      leaving now   | leaving now   | leaving now   | down -          | leaving now    | rejected -",
    Seen.NAMED: "        unknown now   | up now        | suspect now   | down now        | leaving now    | rejected now",
    Seen.NAMED_AGAIN: "  unknown now   | up -          | suspect now   | down now        | leaving now    | rejected now",
    Seen.HEARD: "        unknown now   | up now        | suspect now   | down now        | leaving now    | rejected now",
}


def leads(seen: Seen, state: PeerState) -> tuple[PeerState, Ask]:
    """The table, as the code has it."""
    target, plan = LEADS[seen].split("|")[list(PeerState).index(state)].split()
    return PeerState(target), PLAN[plan]


@pytest.mark.parametrize(("seen", "state"), list(product(Seen, PeerState)))
def test_each_input_in_each_state_leads_to_one_state_and_one_plan(seen: Seen, state: PeerState) -> None:
    peer = peer_in(state)
    was = peer.since
    target, plan = leads(seen, state)
    assert peer.see(seen, NOW) is plan
    assert peer.state is target
    assert peer.since == (was if target is state else NOW)


@pytest.mark.parametrize(("seen", "state"), list(product(Seen, PeerState)))
def test_what_is_counted_of_each_input_in_each_state(seen: Seen, state: PeerState) -> None:
    peer = peer_in(state)
    before = (peer.strikes, peer.misses, peer.rejections)
    strikes, misses, rejections = before
    peer.see(seen, NOW)
    target, plan = leads(seen, state)
    if plan in (Ask.WHEN_SILENT, Ask.REGARDLESS):
        assert (peer.strikes, peer.misses, peer.rejections) == (0, 0, rejections)
    elif plan is Ask.WITH_BACKOFF:
        assert (peer.strikes, peer.misses, peer.rejections) == (0, misses + 1, rejections)
    elif plan in (Ask.AFTER_PAUSE, Ask.AFTER_LONG_PAUSE):
        assert (peer.strikes, peer.misses, peer.rejections) == (0, misses, rejections + 1)
    elif target is SUSPECT and (seen is Seen.SILENT or state is not SUSPECT):
        assert (peer.strikes, peer.misses, peer.rejections) == (strikes + 1, misses, rejections)
    else:
        assert (peer.strikes, peer.misses, peer.rejections) == (strikes, 0 if seen is Seen.HEARD else misses, rejections)


@pytest.mark.parametrize("seen", [Seen.NAMED, Seen.NAMED_AGAIN, Seen.HEARD, Seen.GOODBYE])
@pytest.mark.parametrize("state", PeerState)
def test_what_others_say_makes_no_peer_up_or_down(seen: Seen, state: PeerState) -> None:
    peer = peer_in(state)
    peer.see(seen, NOW)
    assert peer.state in (state, LEAVING)


@pytest.mark.parametrize("state", [UNKNOWN, UP])
def test_a_peer_is_down_with_the_third_strike_in_a_row(state: PeerState) -> None:
    peer = peer_in(state)
    asked = [peer.see(Seen.SILENT, NOW) for _ in range(STRIKES)]
    assert asked == [Ask.AT_ONCE, Ask.AT_ONCE, Ask.WITH_BACKOFF]
    assert peer.state is DOWN


def test_links_that_break_together_are_one_strike_and_the_pings_after_them_count_on() -> None:
    peer = peer_in(UP)
    for _ in range(5):
        peer.see(Seen.LINK_BROKE, NOW)
    assert (peer.state, peer.strikes) == (SUSPECT, 1)
    peer.see(Seen.SILENT, NOW)
    assert peer.state is SUSPECT
    peer.see(Seen.SILENT, NOW)
    assert peer.state is DOWN


def test_an_answer_wipes_the_strikes_and_the_reason() -> None:
    peer = peer_in(UP)
    for _ in range(STRIKES - 1):
        peer.see(Seen.SILENT, NOW, "no answer")
    peer.see(Seen.ANSWERED, NOW)
    assert (peer.state, peer.strikes, peer.reason) == (UP, 0, "")


def test_the_reason_is_the_last_failure_even_when_it_changes_nothing() -> None:
    peer = peer_in(DOWN)
    peer.see(Seen.LINK_REFUSED, NOW, "connection refused")
    assert (peer.state, peer.reason) == (DOWN, "connection refused")
    peer.see(Seen.NAMED, NOW)
    assert peer.reason == "connection refused"


def test_each_failure_of_a_ping_and_of_a_link_is_an_input() -> None:
    assert [seen_by_ping(failure) for failure in Failure] == [Seen.REFUSED, Seen.SILENT, Seen.SILENT, Seen.UNTRUSTED]
    of_links = [Seen.LINK_REFUSED, Seen.LINK_BROKE, Seen.LINK_BROKE, Seen.UNTRUSTED]
    assert [seen_by_link(failure) for failure in Failure] == of_links


def test_the_table_has_each_input_in_each_state() -> None:
    assert set(TRANSITIONS) == set(Seen)
    assert {len(steps) for steps in TRANSITIONS.values()} == {len(PeerState)}
