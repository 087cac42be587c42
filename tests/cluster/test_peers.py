"""The table of peers: each input in each state, identities, when pings are due, the messages for an operator."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolnode.cluster import index, liveness
from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.giving import Giving
from spoolnode.cluster.known import MOST, Known
from spoolnode.cluster.liveness import Failure, PeerState
from spoolnode.cluster.peer import Peer
from spoolnode.cluster.peer_status import Status
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.timing import USUAL
from spoolnode.node.roster import MOST_TIMERS, LastRun, is_key
from spoolnode.protocol.hello import PROTOCOL
from spoolnode.protocol.names import is_node_name

UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED = PeerState
ME = Identity("aaaaaaaaaaaa", "alpha", "main", ("10.0.0.1:3031",), tls=False)
BETA, GAMMA = "bbbbbbbbbbbb", "cccccccccccc"
AT = "10.0.0.2:3031"
ELSEWHERE = "10.0.0.3:3031"


def status(node_id: str = BETA, **changes: Any) -> dict[str, Any]:
    """That node's answer to a ping."""
    said = {"id": node_id, "name": "beta", "cluster": "main", "protocol": PROTOCOL, "instance": node_id[:4], "version": "1"}
    return {**said, "workers": 2, "waiting": 0, "running": 0, "accepting": True, "draining": False, **changes}


def mdns(node_id: str = BETA, *addresses: str, name: str = "beta") -> Candidate:
    return Candidate("mdns", node_id, node_id, name, addresses or (AT,))


def static(address: str = AT) -> Candidate:
    return Candidate(f"static://{address}", address, "", "", (address,))


class Table(PeerTable):
    """A table that writes down what it tells."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.changes: list[tuple[str, PeerState, PeerState]] = []
        self.warnings: list[tuple[str, dict[str, Any]]] = []
        me, rng = options.pop("me", ME), random.Random(seed)
        super().__init__(me, rng, USUAL, changed=self._note, warn=self._warned, instance="ours", **options)
        self.resolve = self.destinations.resolve

    def _note(self, peer: Peer, old: PeerState, new: PeerState) -> None:
        self.changes.append((peer.id, old, new))

    def _warned(self, action: str, **details: Any) -> None:
        self.warnings.append((action, details))

    def only(self) -> Peer:
        (peer,) = self
        return peer

    def ping(self, peer: Peer, now: float) -> Peer:
        """Lets the next ping of that peer begin, which must be due by then."""
        due = self.due(now)
        assert peer in due
        return peer

    def pause(self, now: float) -> float:
        """Seconds until the next ping, if there were nothing else."""
        when = self.next_due()
        assert when is not None
        return max(when - now, 0.0)


NOW = 1000.0


def peer_in(state: PeerState) -> Table:
    """A table with one peer in that state at `NOW`; its last ping ended some time ago."""
    table = Table()
    table.found(mdns(), NOW - 200)
    peer = table.only()
    before: dict[PeerState, list[Failure | dict[str, Any]]] = {
        UNKNOWN: [],
        UP: [status()],
        SUSPECT: [status(), Failure.TIMEOUT],
        DOWN: [status(), Failure.REFUSED],
        LEAVING: [status(draining=True)],
        REJECTED: [Failure.UNTRUSTED],
    }
    now = NOW - 100
    for end in before[state]:
        table.ping(peer, now)
        if isinstance(end, Failure):
            table.failed(peer, end, now)
        else:
            table.answered(peer, end, 0.001, now, address=AT)
        now += 10
    assert peer.state is state
    table.changes.clear()
    return table


def _ping_ends(end: Failure | dict[str, Any]) -> Callable[[Table, Peer], None]:
    def feed(table: Table, peer: Peer) -> None:
        table.ping(peer, NOW)
        if isinstance(end, Failure):
            table.failed(peer, end, NOW, "why")
        else:
            table.answered(peer, end, 0.001, NOW, address=AT)

    return feed


INPUTS: dict[str, Callable[[Table, Peer], None]] = {
    "ping answered": _ping_ends(status()),
    "ping answered: draining": _ping_ends(status(draining=True)),
    "ping answered: other cluster": _ping_ends(status(cluster="other")),
    "ping refused": _ping_ends(Failure.REFUSED),
    "ping timed out": _ping_ends(Failure.TIMEOUT),
    "ping broke": _ping_ends(Failure.OTHER),
    "ping untrusted": _ping_ends(Failure.UNTRUSTED),
    "link answered": lambda table, peer: void(table.answered(BETA, status(), 0.001, NOW)),
    "link refused": lambda table, peer: table.failed(BETA, Failure.REFUSED, NOW),
    "link timed out": lambda table, peer: table.failed(BETA, Failure.TIMEOUT, NOW),
    "link untrusted": lambda table, peer: table.failed(BETA, Failure.UNTRUSTED, NOW),
    "exchanged": lambda table, peer: table.exchanged(BETA, NOW),
    "heard": lambda table, peer: table.heard(BETA, "beta", NOW),
    "found again": lambda table, peer: table.found(mdns(), NOW),
    "found elsewhere": lambda table, peer: table.found(mdns(BETA, ELSEWHERE), NOW),
    "gone": lambda table, peer: table.gone("mdns", BETA, NOW),
    "goodbye": lambda table, peer: table.leaving("mdns", BETA, NOW),
}

#                                   UNKNOWN   UP        SUSPECT   DOWN      LEAVING   REJECTED
TRANSITIONS: dict[str, list[PeerState]] = {
    "ping answered": [UP, UP, UP, UP, UP, UP],
    "ping answered: draining": [LEAVING, LEAVING, LEAVING, LEAVING, LEAVING, LEAVING],
    "ping answered: other cluster": [REJECTED, REJECTED, REJECTED, REJECTED, REJECTED, REJECTED],
    "ping refused": [DOWN, DOWN, DOWN, DOWN, DOWN, DOWN],
    "ping timed out": [SUSPECT, SUSPECT, SUSPECT, DOWN, DOWN, DOWN],
    "ping broke": [SUSPECT, SUSPECT, SUSPECT, DOWN, DOWN, DOWN],
    "ping untrusted": [REJECTED, REJECTED, REJECTED, REJECTED, REJECTED, REJECTED],
    "link answered": [UP, UP, UP, UP, UP, UP],
    "link refused": [DOWN, DOWN, DOWN, DOWN, DOWN, DOWN],
    "link timed out": [SUSPECT, SUSPECT, SUSPECT, DOWN, LEAVING, REJECTED],
    "link untrusted": [REJECTED, REJECTED, REJECTED, REJECTED, REJECTED, REJECTED],
    "exchanged": [UP, UP, UP, UP, LEAVING, UP],
    "heard": [UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED],
    "found again": [UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED],
    "found elsewhere": [UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED],
    "gone": [UNKNOWN, UP, SUSPECT, DOWN, LEAVING, REJECTED],
    "goodbye": [LEAVING, LEAVING, LEAVING, DOWN, LEAVING, REJECTED],
}


def void(result: object) -> None:
    del result


@pytest.mark.parametrize("state", list(PeerState))
@pytest.mark.parametrize("what", INPUTS)
def test_each_input_in_each_state_leads_where_the_table_says(what: str, state: PeerState) -> None:
    table = peer_in(state)
    peer = table.only()
    INPUTS[what](table, peer)
    expected = TRANSITIONS[what][list(PeerState).index(state)]
    assert peer.state is expected
    assert table.changes == ([(BETA, state, expected)] if expected is not state else [])
    assert (peer.liveness.since == NOW) == (expected is not state)
    if expected is UP and state is not UP:
        assert (peer.liveness.strikes, peer.liveness.misses, peer.reason) == (0, 0, "")
    assert table.next_due() is not None, "whoever is known is pinged again some time"


@pytest.mark.parametrize("state", [UNKNOWN, UP, SUSPECT, DOWN, LEAVING])
@pytest.mark.parametrize("what", ["heard", "found elsewhere"])
def test_news_of_a_peer_are_followed_up_at_once(what: str, state: PeerState) -> None:
    table = peer_in(state)
    table.next_due()
    INPUTS[what](table, table.only())
    assert table.only() in table.due(NOW)


@pytest.mark.parametrize("what", ["heard", "found again", "found elsewhere", "goodbye", "link timed out"])
def test_a_rejected_peer_is_not_asked_again_within_a_minute_whatever_is_said(what: str) -> None:
    table = peer_in(UNKNOWN)
    table.failed(table.ping(table.only(), NOW), Failure.UNTRUSTED, NOW)
    INPUTS[what](table, table.only())
    assert table.due(NOW + 59.9) == []
    assert table.due(NOW + 60.1) == [table.only()]
    assert table.only().liveness.rejections == 1


def test_three_pings_without_an_answer_are_down_and_one_that_answers_wipes_the_strikes() -> None:
    table = peer_in(UP)
    peer, now = table.only(), NOW
    for expected in (SUSPECT, SUSPECT):
        table.ping(peer, now)
        now += 2
        table.failed(peer, Failure.TIMEOUT, now)
        assert peer.state is expected
    table.ping(peer, now)
    table.answered(peer, status(), 0.001, now)
    assert peer.state is UP
    now += 6
    for expected in (SUSPECT, SUSPECT, DOWN):
        table.ping(peer, now)
        now += 2
        table.failed(peer, Failure.TIMEOUT, now)
        assert peer.state is expected


def test_links_that_break_together_are_one_strike() -> None:
    table = peer_in(UP)
    for _ in range(5):
        table.failed(BETA, Failure.OTHER, NOW)
    assert (table.only().state, table.only().liveness.strikes) == (SUSPECT, 1)


def test_a_peer_that_is_up_is_pinged_after_five_seconds_of_silence_only() -> None:
    table = peer_in(UP)
    peer = table.ping(table.only(), NOW)
    table.answered(peer, status(), 0.001, NOW)
    assert 4.0 <= table.pause(NOW) <= 6.0
    table.exchanged(BETA, NOW + 3.9)
    assert table.due(NOW + 6.0) == []
    assert 0.0 < table.pause(NOW + 6.0) <= 3.9
    for step in range(20):  # its status gets old while tasks flow; placement needs a new one
        table.exchanged(BETA, NOW + 4 + step / 4)
    assert table.due(NOW + 10.1) == [peer]


def test_a_peer_that_is_down_is_tried_after_pauses_that_grow_to_a_minute() -> None:
    longest = [0.0] * 9
    for seed in range(200):
        table = Table(seed)
        table.found(mdns(), 0.0)
        peer, now = table.only(), 0.0
        for attempt in range(9):
            table.ping(peer, now)
            table.failed(peer, Failure.REFUSED, now)
            pause = table.pause(now)
            longest[attempt] = max(longest[attempt], pause)
            now += pause
    for attempt, bound in enumerate([1, 2, 4, 8, 16, 32, 60, 60, 60]):
        assert bound * 0.9 < longest[attempt] <= bound


def test_a_link_that_is_refused_makes_the_pauses_no_longer_and_a_connection_that_comes_in_makes_them_short_again() -> None:
    table = peer_in(DOWN)
    peer, planned = table.only(), table.next_due()
    for _ in range(10):
        table.failed(BETA, Failure.REFUSED, NOW)
    assert table.next_due() == planned
    now = NOW
    for _ in range(10):
        table.failed(table.ping(peer, now), Failure.REFUSED, now)
        now += 60
    table.heard(BETA, "beta", now)
    table.failed(table.ping(peer, now), Failure.REFUSED, now)
    assert table.pause(now) <= 1.0


def test_a_return_is_noticed_at_once_even_if_the_announcement_comes_during_a_ping() -> None:
    table = peer_in(DOWN)
    peer = table.ping(table.only(), NOW)
    table.found(mdns(), NOW + 1)
    assert table.due(NOW + 1) == []
    table.failed(peer, Failure.TIMEOUT, NOW + 2)
    assert table.due(NOW + 2) == [peer]


def test_a_forged_goodbye_costs_one_ping() -> None:
    table = peer_in(UP)
    table.leaving("mdns", BETA, NOW)
    assert table.only().state is LEAVING
    table.answered(table.ping(table.only(), NOW), status(), 0.001, NOW)
    assert table.only().state is UP
    table.leaving("mdns", BETA, NOW + 0.1)
    assert table.due(NOW + 0.1) == [], "a flood of goodbyes is no flood of pings"
    assert table.due(NOW + USUAL.gap) == [table.only()]


# -- who is who --


def test_two_sources_of_one_id_are_one_peer() -> None:
    table = Table()
    table.found(mdns(), NOW)
    table.found(Candidate("file:///x", "k", BETA, "", (ELSEWHERE,)), NOW)
    assert table.only().addresses == (AT, ELSEWHERE)
    assert table.only().sources == ["file:///x", "mdns"]
    assert table.due(NOW) == [table.only()]


def test_an_address_becomes_a_node_when_it_answers() -> None:
    table = Table()
    table.found(static(), NOW)
    (peer,) = table.due(NOW)
    assert table.answered(peer, status(), 0.001, NOW) is peer
    assert (peer.id, peer.name) == (BETA, "beta")
    assert table.resolve(BETA) == table.resolve("beta") == (BETA, "beta", (AT,), UP)


def test_an_address_that_turns_out_to_be_a_known_node_is_merged_with_it() -> None:
    table = Table()
    table.found(mdns(BETA, ELSEWHERE), NOW)
    table.found(static(), NOW)
    known, alone = table.get(BETA), next(peer for peer in table if not peer.id)
    assert known
    assert set(table.due(NOW)) == {known, alone}
    assert table.answered(alone, status(), 0.001, NOW, address=AT) is known
    assert table.only() is known
    assert known.addresses == (AT, ELSEWHERE)
    assert known.sources == ["mdns", f"static://{AT}"]
    assert known.state is UP
    assert table.due(NOW + 3600) == [], "its own ping is in flight still"
    table.failed(known, Failure.OTHER, NOW + 3600)
    assert table.due(NOW + 3601) == [known]
    table.failed(alone, Failure.OTHER, NOW + 3602)
    assert known.liveness.strikes == 2, "a late result of the one that was merged counts for the one that is left"


def test_the_same_candidate_said_again_makes_no_second_peer() -> None:
    table = Table()
    for _ in range(3):
        table.found(static(), NOW)
        table.found(mdns(BETA, ELSEWHERE), NOW)
    assert len(table) == 2


def test_another_node_at_a_static_address_takes_the_static_candidate_along() -> None:
    table = Table()
    table.found(static(), NOW)
    table.answered(table.ping(table.only(), NOW), status(), 0.001, NOW, address=AT)
    beta = table.only()
    table.answered(table.ping(beta, NOW + 6), status(GAMMA, name="gamma"), 0.001, NOW + 6, address=AT)
    gamma = table.get(GAMMA)
    assert gamma
    assert (gamma.state, gamma.sources, gamma.addresses) == (UP, [f"static://{AT}"], (AT,))
    assert (beta.state, beta.sources) == (DOWN, [])
    assert GAMMA in beta.reason


def test_a_real_uwsgi_is_up_without_an_id_and_takes_the_place_of_a_node_that_was_there() -> None:
    table = Table()
    table.found(static(), NOW)
    table.answered(table.ping(table.only(), NOW), {}, 0.001, NOW)
    assert (table.only().state, table.only().id) == (UP, "")
    table.found(mdns(), NOW)
    for step in range(1, 6):
        now = NOW + 100 * step
        for peer in table.due(now):
            table.answered(peer, {}, 0.001, now, address=AT)
    assert len(table) == 2, "no new peer for each answer"


def claim(table: Table, node_id: str, address: str, now: float = NOW, **changes: Any) -> Peer:
    """A node with that id answers at that address, as a link sees it."""
    peer = table.answered(address, status(node_id, **changes), 0.001, now, address=address)
    assert peer
    return peer


def test_a_name_stays_with_the_node_that_proved_it_first_whoever_else_claims_it() -> None:
    table = Table()
    claim(table, BETA, AT)
    assert claim(table, GAMMA, ELSEWHERE).state is REJECTED
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)
    table.failed(BETA, Failure.REFUSED, NOW)
    assert claim(table, GAMMA, ELSEWHERE, NOW + 100).state is REJECTED, "also when it is down"
    assert table.resolve("beta") == (BETA, "beta", (AT,), DOWN)
    ((action, details),) = table.warnings
    assert action == "name_twice"
    assert f"belongs to the node {BETA} at {AT}" in details["reason"]
    assert f"spoolnode accept beta {GAMMA}" in details["reason"]
    assert table.rows(NOW)[1]["reason"] == details["reason"]


def test_of_two_that_claim_a_name_that_nobody_has_neither_gets_anything_until_the_operator_decides() -> None:
    table = Table()
    table.found(mdns(BETA, AT), NOW)
    table.found(mdns(GAMMA, ELSEWHERE), NOW)
    for _ in range(2):
        for node_id, address in ((GAMMA, ELSEWHERE), (BETA, AT)):
            assert claim(table, node_id, address).state is REJECTED
            assert table.resolve("beta") is None
    assert "is claimed by several nodes" in table.destinations.why_not("beta")
    table.accept("beta", BETA, NOW)
    assert claim(table, GAMMA, ELSEWHERE).state is REJECTED
    assert claim(table, BETA, AT).state is UP
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)


def test_a_name_that_was_only_announced_by_another_is_free_when_nobody_is_there() -> None:
    table = Table()
    table.found(mdns(BETA, AT), NOW)
    table.found(mdns(GAMMA, ELSEWHERE), NOW)
    assert claim(table, GAMMA, ELSEWHERE).state is REJECTED
    table.failed(AT, Failure.REFUSED, NOW)
    assert claim(table, GAMMA, ELSEWHERE, NOW + 10).state is UP
    assert table.resolve("beta") == (GAMMA, "beta", (ELSEWHERE,), UP)


def test_two_that_claim_a_name_may_also_be_given_names_of_their_own() -> None:
    table = Table()
    table.found(mdns(BETA, AT), NOW)
    table.found(mdns(GAMMA, ELSEWHERE), NOW)
    claim(table, GAMMA, ELSEWHERE)
    claim(table, BETA, AT)
    assert claim(table, GAMMA, ELSEWHERE, name="gamma").state is UP
    assert claim(table, BETA, AT).state is UP
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)
    assert table.resolve("gamma") == (GAMMA, "gamma", (ELSEWHERE,), UP)


def test_a_node_that_is_called_otherwise_now_still_gets_what_is_for_its_old_name() -> None:
    table = Table()
    claim(table, BETA, AT)
    claim(table, BETA, AT, name="new")
    assert table.resolve("new") == table.resolve("beta") == (BETA, "new", (AT,), UP)
    assert table.destinations.answers_to("beta", BETA)
    assert claim(table, GAMMA, ELSEWHERE).state is UP, "it has given the old name up: another one may have it"
    assert table.resolve("beta") == (GAMMA, "beta", (ELSEWHERE,), UP)


def test_a_new_disk_in_the_old_machine_takes_the_name_over() -> None:
    table = Table()
    claim(table, BETA, AT)
    assert claim(table, GAMMA, AT).state is UP
    assert table.resolve("beta") == (GAMMA, "beta", (AT,), UP)
    assert actions(table) == []


def test_a_new_disk_in_the_machine_of_a_node_with_a_key_takes_the_name_over_when_the_operator_says_so() -> None:
    table = Table()
    claim(table, BETA, AT, key="1" * 32)
    assert claim(table, GAMMA, AT, key="2" * 32).state is REJECTED
    assert table.resolve("beta") != (GAMMA, "beta", (AT,), UP)
    table.accept("beta", GAMMA, NOW + 1)
    assert claim(table, GAMMA, AT, NOW + 100, key="2" * 32).state is UP
    assert table.resolve("beta") == (GAMMA, "beta", (AT,), UP)


def test_an_id_belongs_to_the_key_that_was_proved_first_over_a_restart_too_until_the_operator_says_otherwise() -> None:
    before = Table()
    claim(before, BETA, AT, key="1" * 32)
    claim(before, BETA, AT, key="2" * 32)
    known = Known.decode(before.known.encode())
    assert known.key(BETA) == "1" * 32
    table = Table(known=known)
    version = known.version
    table.accept("beta", BETA, NOW)
    assert known.version > version
    claim(table, BETA, AT, key="2" * 32)
    assert known.key(BETA) == "2" * 32


def test_keys_do_not_count_where_certificates_do_and_what_is_remembered_of_them_is_bounded() -> None:
    table = Table(giving=Giving(certified=True))
    claim(table, BETA, AT, key="1" * 32)
    assert table.known.key(BETA) == ""
    known = Known()
    known.prove(BETA, "beta", AT, alive=set(), certified=False, key="1" * 32)
    for count in range(MOST):
        known.prove(f"{count:012x}", f"n{count}", AT, alive=set(), certified=False, key="2" * 32)
        if count == MOST // 2:
            known.prove(BETA, "beta", AT, alive=set(), certified=False, key="1" * 32)
    assert known.key(BETA), "it was seen more lately than the first of them"
    assert not known.key(f"{0:012x}")
    assert len(known._keys) == MOST


def test_a_certificate_for_the_name_takes_it_over_from_a_node_that_is_down_and_not_from_one_that_is_there() -> None:
    table = Table(giving=Giving(certified=True))
    claim(table, BETA, AT)
    assert claim(table, GAMMA, ELSEWHERE).state is REJECTED
    table.failed(BETA, Failure.REFUSED, NOW)
    assert claim(table, GAMMA, ELSEWHERE, NOW + 100).state is UP


def test_that_a_node_has_no_common_store_is_known_after_a_restart_too_until_it_says_otherwise() -> None:
    before = Table()
    claim(before, BETA, AT)  # as of a node without one
    known = Known.decode(before.known.encode())
    assert [known.is_apart(destination) for destination in (BETA, "beta", AT, ELSEWHERE, "gamma")] == [True] * 3 + [False] * 2
    version = known.version
    known.heard(BETA, shares=False)
    assert known.version == version
    known.heard(BETA, shares=True)
    assert (known.version, known.is_apart("beta")) == (version + 1, False)
    known.heard(BETA, shares=False)
    known.forget(BETA)
    assert not known.is_apart(BETA)


def test_names_stick_over_a_restart() -> None:
    before = Table()
    claim(before, BETA, AT)
    table = Table(known=Known.decode(before.known.encode()))
    assert claim(table, GAMMA, ELSEWHERE).state is REJECTED
    assert table.resolve("beta") is None
    assert table.destinations.why_not("beta") == f"the node {BETA}, which has the name 'beta', has not been found"
    claim(table, BETA, "10.0.0.9:3031")
    assert table.resolve("beta") == (BETA, "beta", ("10.0.0.9:3031",), UP), "the same node, at a new address"


# -- to whom tasks are given --


def inside(address: str) -> bool:
    return address == AT


def test_an_announcement_from_outside_is_no_peer_and_the_row_says_why() -> None:
    table = Table(giving=Giving(may=inside))
    table.found(mdns(GAMMA, ELSEWHERE), NOW)
    assert table.due(NOW + 100) == []
    (row,) = table.rows(NOW)
    assert (row["state"], row["address"]) == ("rejected", ELSEWHERE)
    assert row["reason"].startswith(f"{ELSEWHERE} is outside of --allow, so no task is given to it: allow its network")
    assert actions(table) == ["outside_allow"]
    target = table.resolve("beta")
    assert not target or not target.addresses
    assert claim(table, BETA, AT).state is UP, "it keeps nobody from its name"


def test_what_a_peer_says_of_itself_leads_to_no_address_outside() -> None:
    table = Table(giving=Giving(may=inside))
    table.heard(BETA, "beta", NOW, (ELSEWHERE, AT, "host.example:3031"))
    assert table.only().addresses == (AT,)


@pytest.mark.parametrize("source", ["static://a", "dns://a", "dns+srv://a", "file:///a"])
def test_an_address_that_the_operator_names_is_a_peer_wherever_it_is(source: str) -> None:
    table = Table(giving=Giving(may=inside))
    table.found(Candidate(source, "key", "", "", (ELSEWHERE,)), NOW)
    peer = table.ping(table.only(), NOW)
    assert table.answered(peer, status(GAMMA), 0.001, NOW, address=ELSEWHERE)
    table.found(mdns(GAMMA, ELSEWHERE), NOW)
    assert table.resolve("beta") == (GAMMA, "beta", (ELSEWHERE,), UP)
    table.gone(source, "key", NOW)
    assert table.resolve("beta") == (GAMMA, "beta", (ELSEWHERE,), UP), "as long as it lives"


def test_an_announcement_gives_a_name_to_no_other_address_than_the_one_that_the_operator_named() -> None:
    table = Table(giving=Giving(may=lambda _address: False))
    table.found(static(AT), NOW)
    table.found(mdns(BETA, ELSEWHERE), NOW)
    claim(table, BETA, AT)
    target = table.resolve("beta")
    assert target
    assert target.addresses == (AT,)


def test_who_answers_where_only_a_task_led_is_no_peer() -> None:
    table = Table(giving=Giving(may=inside))
    assert table.answered(ELSEWHERE, status(GAMMA), 0.001, NOW) is None
    assert len(table) == 0
    foreign = table.answered(ELSEWHERE, status(GAMMA, cluster="other"), 0.001, NOW)
    assert foreign
    assert foreign.state is REJECTED
    assert len(table) == 0


def test_the_process_that_is_reached_keeps_its_id_from_a_copy_as_long_as_it_answers() -> None:
    table = Table()
    claim(table, BETA, AT, instance="first")
    table.found(static(ELSEWHERE), NOW)
    rows = {peer.id: peer for peer in table.due(NOW)}
    assert table.answered(rows[""], status(BETA, instance="copy"), 0.001, NOW, address=ELSEWHERE) is None
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)
    assert actions(table) == []
    for peer in table.due(NOW + 1):  # it is asked at once
        table.answered(peer, status(BETA, instance="first"), 0.001, NOW + 1, address=AT)
    assert actions(table) == ["id_twice"]


def test_a_node_that_has_moved_to_another_named_address_is_found_there() -> None:
    table = Table()
    claim(table, BETA, AT, instance="first")
    table.found(static(ELSEWHERE), NOW)
    for now in (NOW, NOW + 1, NOW + 10):
        for peer in table.due(now):
            if peer.id:
                table.failed(peer, Failure.REFUSED, now)
            else:
                table.answered(peer, status(BETA, instance="second"), 0.001, now, address=ELSEWHERE)
    target = table.resolve("beta")
    assert target
    assert (target.id, target.addresses[0], target.state) == (BETA, ELSEWHERE, UP)
    assert actions(table) == []


def test_what_is_known_of_a_destination() -> None:
    table = peer_in(REJECTED)
    assert table.resolve(AT) == (BETA, "beta", (AT,), REJECTED)
    assert table.resolve("beta") == (BETA, "beta", (AT,), REJECTED)
    assert table.resolve("far.example:3031") == ("", "", ("far.example:3031",), UNKNOWN)
    assert table.resolve("[::1]:3031") == ("", "", ("[::1]:3031",), UNKNOWN)
    for nobody in ("nobody", GAMMA, "tag:gpu"):
        assert table.resolve(nobody) is None


def test_no_announcement_leads_away_from_an_address_that_answers() -> None:
    table = peer_in(UP)
    table.found(mdns(BETA, ELSEWHERE), NOW)
    assert table.only().addresses == (AT, ELSEWHERE)
    table.failed(table.ping(table.only(), NOW), Failure.TIMEOUT, NOW)
    assert table.only().addresses == (ELSEWHERE, AT), "it moved"


def test_where_it_answered_goes_first_as_long_as_somebody_names_it() -> None:
    table = Table()
    table.found(mdns(BETA, AT, ELSEWHERE), NOW)
    table.answered(table.ping(table.only(), NOW), status(), 0.001, NOW, address=ELSEWHERE)
    table.failed(BETA, Failure.REFUSED, NOW)
    assert table.only().addresses == (ELSEWHERE, AT)


def test_what_names_an_id_stays_with_that_id_whoever_answers_there() -> None:
    table = peer_in(UP)
    table.answered(table.ping(table.only(), NOW), status(GAMMA, name="gamma"), 0.001, NOW, address=AT)
    beta, gamma = table.get(BETA), table.get(GAMMA)
    assert beta
    assert gamma
    assert (beta.state, beta.sources, gamma.state, gamma.sources) == (DOWN, ["mdns"], UP, [])
    assert table.resolve(AT) == (GAMMA, "gamma", (AT,), UP)


def test_this_node_is_recognised_under_an_address_it_did_not_know_for_its_own() -> None:
    table = Table()
    table.found(static("localhost:3031"), NOW)
    said = status(ME.id, name=ME.name, instance="ours")
    assert table.answered(table.ping(table.only(), NOW), said, 0.001, NOW) is None
    assert len(table) == 0
    table.found(static("localhost:3031"), NOW)
    assert len(table) == 0
    assert all(map(table.is_here, ["localhost:3031", "10.0.0.1:3031", "alpha", ME.id]))
    assert not table.is_here("beta")
    assert table.warnings == []


def test_a_peer_that_nobody_names_is_forgotten_a_quarter_of_an_hour_after_it_went_down() -> None:
    table = peer_in(UP)
    table.gone("mdns", BETA, NOW)
    peer = table.only()
    now = NOW
    while now < NOW + 3600:  # it answers: it stays
        for one in table.due(now):
            table.answered(one, status(), 0.001, now)
        now += 1
    assert table.only() is peer
    assert peer.addresses == (AT,)
    down_at = now
    while len(table) and now < down_at + 7200:
        for one in table.due(now):
            table.failed(one, Failure.REFUSED, now)
        now += 1
    assert 900 <= now - down_at <= 900 + 120
    assert table.resolve(BETA) is None


def test_a_peer_that_a_source_names_is_never_forgotten() -> None:
    table = Table()
    table.found(static(), 0.0)
    for now in range(0, 86400, 10):
        for one in table.due(now):
            table.failed(one, Failure.REFUSED, now)
    assert table.only().state is DOWN


def test_a_flood_of_made_up_announcements_pushes_out_nobody_who_answered_or_was_configured() -> None:
    table = peer_in(UP)
    table.found(static(ELSEWHERE), NOW)
    for number in range(index.MOST_PEERS + 500):
        table.found(mdns(f"{number:012x}", f"10.9.0.1:{number + 1}", name=f"n{number}"), NOW + number / 1000)
    assert len(table) == index.MOST_PEERS
    assert table.get(BETA)
    assert [peer for peer in table if peer.sources == [f"static://{ELSEWHERE}"]]
    many = [Candidate("mdns", f"k{number}", BETA, "beta", (AT,)) for number in range(100)]
    for candidate in many:
        table.found(candidate, NOW)
    assert len(table.get(BETA).candidates) <= index.MOST_CANDIDATES  # type: ignore[union-attr] # asserted above


def test_a_node_that_nobody_named_is_known_when_it_says_where_it_is() -> None:
    table = Table()
    table.heard(BETA, "beta", NOW)
    assert len(table) == 0
    table.heard(BETA, "beta", NOW, (AT,))
    assert table.due(NOW) == [table.only()]
    assert table.resolve("beta") == (BETA, "beta", (AT,), UNKNOWN)


@pytest.mark.parametrize(("instance", "is_pinged"), [("bbbb", False), ("other", True), ("", True)])
def test_hearing_a_process_that_we_reach_is_no_reason_to_ping_it(instance: str, is_pinged: bool) -> None:
    table = peer_in(UP)
    if due := table.due(NOW):
        table.answered(due[0], status(), 0.001, NOW)
    table.heard(BETA, "beta", NOW + 1, (AT,), instance)
    assert bool(table.due(NOW + 1)) == is_pinged


# -- who says that it is a node that answers elsewhere --


def held() -> Table:
    """A table with beta, which is up where it proved who it is."""
    table = Table()
    claim(table, BETA, AT)
    return table


def introduce(table: Table, now: float) -> Peer:
    """A party calls under a fresh id, and answers the ping with what beta tells all."""
    table.heard(GAMMA, "mallory", now, (ELSEWHERE,), "fresh")
    for peer in table.due(now):
        if peer.id == GAMMA:
            table.answered(peer, status(BETA, waiting=7), 0.001, now, address=ELSEWHERE)
    mallory = table.get(GAMMA)
    assert mallory
    return mallory


@pytest.mark.parametrize("goodbye", [False, True])
@pytest.mark.parametrize("instance", [BETA[:4], "other"])
def test_nobody_takes_the_place_of_a_node_that_answers_by_repeating_its_id(goodbye: bool, instance: str) -> None:
    table = held()
    table.found(mdns(), NOW)
    if goodbye:
        table.leaving("mdns", BETA, NOW)  # which anybody can say
    table.heard(GAMMA, "mallory", NOW + 1, (ELSEWHERE,), "fresh")
    mallory = table.get(GAMMA)
    assert mallory
    assert mallory in table.due(NOW + 1)
    assert table.answered(mallory, status(BETA, instance=instance, waiting=7), 0.001, NOW + 1, address=ELSEWHERE) is None
    target = table.resolve("beta")
    assert target
    assert (target.id, target.addresses) == (BETA, (AT,))
    beta = table.get(BETA)
    assert beta
    assert beta.status
    assert beta.status.waiting == 0
    assert (mallory.state, mallory.reason) == (
        REJECTED,
        f"{ELSEWHERE} says that it has the id {BETA} of the node 'beta', which answers at {AT}, so it gets nothing",
    )
    assert ("id_claimed", {"id": BETA, "address": ELSEWHERE, "reason": mallory.reason}) in table.warnings
    assert table.next_due() is not None, "whether beta still answers is asked"


def test_a_claim_on_an_id_is_told_once_however_often_it_is_made() -> None:
    table = held()
    for now in (NOW + 1, NOW + 20, NOW + 40):
        introduce(table, now)
    assert actions(table) == ["id_claimed"]


def test_who_claims_an_id_takes_it_over_when_its_holder_does_not_answer_any_more() -> None:
    table = held()
    introduce(table, NOW + 1)
    table.failed(BETA, Failure.REFUSED, NOW + 2)
    introduce(table, NOW + 10)
    target = table.resolve("beta")
    assert target
    assert (target.id, target.addresses[0], target.state) == (BETA, ELSEWHERE, UP)


def test_what_a_link_finds_at_another_address_does_not_move_a_node_that_answers() -> None:
    table = held()
    assert table.answered(ELSEWHERE, status(BETA), 0.001, NOW) is None
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)
    assert table.resolve(ELSEWHERE) == ("", "", (ELSEWHERE,), UNKNOWN), "tasks for that address still go there"
    table.found(mdns(BETA, ELSEWHERE), NOW)
    table.answered(ELSEWHERE, status(BETA), 0.001, NOW)
    table.failed(ELSEWHERE, Failure.REFUSED, NOW)
    target = table.resolve("beta")
    assert target
    assert (target.addresses[0], target.state) == (AT, UP)


def test_another_address_that_the_operator_named_is_one_more_of_the_node_that_answers() -> None:
    table = held()
    table.found(static(ELSEWHERE), NOW)
    (row,) = (peer for peer in table.due(NOW) if not peer.id)
    table.answered(row, status(BETA), 0.001, NOW, address=ELSEWHERE)
    assert table.only().addresses == (AT, ELSEWHERE)


def test_a_call_leads_elsewhere_only_when_a_node_does_not_answer_where_it_was() -> None:
    table = held()
    table.heard(BETA, "beta", NOW + 1, (ELSEWHERE,), "bbbb")
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)
    assert not table.is_reached(BETA, "bbbb", "10.0.0.3")
    table.heard(BETA, "beta", NOW + 1, (ELSEWHERE,), "new")
    table.failed(table.ping(table.only(), NOW + 1), Failure.TIMEOUT, NOW + 2)
    assert ELSEWHERE in table.only().addresses, "what was said then counts now"
    table.answered(table.ping(table.only(), NOW + 3), status(BETA, instance="new"), 0.001, NOW + 3, address=ELSEWHERE)
    target = table.resolve("beta")
    assert target
    assert (target.addresses[0], target.state) == (ELSEWHERE, UP)


def test_with_certificates_a_node_moves_to_where_it_answers() -> None:
    table = Table(giving=Giving(certified=True))
    claim(table, BETA, AT)
    introduce(table, NOW + 1)
    target = table.resolve("beta")
    assert target
    assert (target.addresses[0], actions(table)) == (ELSEWHERE, [])


def test_an_address_that_a_link_reached_is_a_peer() -> None:
    table = Table()
    table.failed(AT, Failure.REFUSED, NOW)
    assert len(table) == 0
    table.answered(AT, status(), 0.001, NOW)
    assert table.resolve("beta") == (BETA, "beta", (AT,), UP)


# -- what an operator is told --


def actions(table: Table) -> list[str]:
    return [action for action, _ in table.warnings]


def test_a_copy_of_this_nodes_spool_directory_is_told_once_and_not_talked_to() -> None:
    table = Table()
    table.found(mdns(ME.id, AT), NOW)
    for step in range(3):
        peer = table.ping(table.only(), NOW + 100 * step)
        assert table.answered(peer, status(ME.id, instance="theirs"), 0.001, NOW + 100 * step) is None
    assert table.only().state is REJECTED
    ((action, details),) = table.warnings
    assert action == "id_twice"
    assert AT in details["reason"]
    assert "copy" in details["reason"]


def test_a_name_that_two_nodes_use_is_told_once() -> None:
    table = Table()
    for node_id, address in ((BETA, AT), (GAMMA, ELSEWHERE)):
        table.answered(address, status(node_id), 0.001, NOW, address=address)
    for step in range(3):
        for peer in table.due(NOW + 100 * step):
            table.answered(peer, status(peer.id), 0.001, NOW + 100 * step)
    assert actions(table) == ["name_twice"]
    assert table.warnings[0][1]["ids"] == [BETA, GAMMA]


def test_this_nodes_name_at_another_node_is_told() -> None:
    table = peer_in(UP)
    table.answered(BETA, status(name="alpha"), 0.001, NOW)
    ((action, details),) = table.warnings
    assert action == "name_twice"
    assert "peers that know the other one send nothing here" in details["reason"]


@pytest.mark.parametrize(
    ("own", "turned_out", "shown"),
    [
        (["127.0.0.1:3031", "10.0.0.7:3031"], [], "10.0.0.7:3031"),
        (["127.0.0.1:3031"], ["10.0.0.7:3031"], "10.0.0.7:3031"),
        (["[::1]:3031"], [], "[::1]:3031"),
        ([], [], "no address (this one)"),
    ],
)
def test_a_node_whose_name_is_used_shows_the_address_that_others_use(own: list[str], turned_out: list[str], shown: str) -> None:
    table = Table(me=ME._replace(addresses=tuple(own)))
    for address in turned_out:
        table.answered(address, status(ME.id, instance="ours"), 0.001, NOW)
    claim(table, BETA, AT, name="alpha")
    assert f"this node, {ME.id} at {shown}, and the node {BETA} at {AT} are" in table.warnings[0][1]["reason"]


@pytest.mark.parametrize(("theirs", "told"), [(0.0, 0), (4.9, 0), (-4.9, 0), (5.2, 1), (-5.2, 1)])
def test_a_clock_that_is_far_off_is_told_once_and_again_after_it_was_right(theirs: float, told: int) -> None:
    table = peer_in(UP)
    wall, rtt = 1.7e9, 4.0
    for right in (False, False, True, False):
        answer = status(time=wall - rtt / 2 + (0.0 if right else theirs))
        table.answered(BETA, answer, rtt, NOW, wall=wall)
    assert actions(table) == ["clock_off"] * (2 * told)
    assert table.rows(NOW)[0]["clock"] == theirs


def test_another_protocol_and_another_cluster_are_told_once_and_not_talked_to() -> None:
    for change, action in ({"protocol": PROTOCOL + 1}, "other_protocol"), ({"cluster": "other"}, "other_cluster"):
        table = peer_in(UP)
        for _ in range(3):
            table.answered(BETA, status(**change), 0.001, NOW)  # type: ignore[arg-type] # an int or a str, as it comes
        assert actions(table) == [action]
        assert table.only().state is REJECTED
        assert table.warnings[0][1]["reason"] == table.only().reason


ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text() | st.integers())


@given(st.dictionaries(st.sampled_from([*status(), "tags", "pace", "time", "app", "timers", "reaches_you"]), ANYTHING))
def test_no_answer_of_a_peer_breaks_the_table(said: dict[str, Any]) -> None:
    table = Table()
    table.found(static(), NOW)
    table.answered(table.ping(table.only(), NOW), said, 0.001, NOW, wall=1.7e9)
    for row in table.rows(NOW):
        assert 0 <= row["workers"] <= 1 << 62


@given(st.dictionaries(st.text() | st.just("0" * 16), ANYTHING | st.lists(ANYTHING, min_size=2, max_size=2)))
def test_what_a_peer_says_of_timers_is_small_and_of_the_right_form(said: dict[str, Any]) -> None:
    for key, run in Status.read({"timers": said}).timers.items():
        assert is_key(key)
        assert 0 <= run.due < 1e12
        assert run.by == "" or is_node_name(run.by)


@given(st.dictionaries(st.sampled_from(["state", "address", "reason"]), ANYTHING) | ANYTHING)
def test_what_a_peer_says_of_how_it_reaches_this_node_is_text_or_nothing(said: object) -> None:
    reach = Status.read({"reaches_you": said}).reaches
    assert reach is None or (reach.state and all(isinstance(part, str) and len(part) <= 200 for part in reach))


def test_a_peer_cannot_fill_the_memory_with_timers() -> None:
    said = {f"{number:016x}": [1.7e9, "beta"] for number in range(10_000)}
    timers = Status.read({"timers": said}).timers
    assert len(timers) == MOST_TIMERS
    assert timers["0" * 16] == LastRun(1.7e9, "beta")


def test_the_rows_say_what_people_ask_for() -> None:
    table = peer_in(UP)
    table.answered(BETA, status(waiting=3, running=1, tags=["gpu"]), 0.002, NOW)
    (row,) = table.rows(NOW + 1)
    who = {"name": "beta", "id": BETA, "address": AT, "state": "up", "sources": ["mdns"], "version": "1", "since": 101.0}
    work = {"load": 2.0, "waiting": 3, "workers": 2, "tags": ["gpu"]}
    assert row == {**row, **who, **work, "rtt": 0.002, "strikes": 0, "rejections": 0, "reason": ""}


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (UNKNOWN, f"<peer beta {BETA} at {AT}, unknown>"),
        (UP, f"<peer beta {BETA} at {AT}, up>"),
        (DOWN, f"<peer beta {BETA} at {AT}, down: refused>"),
    ],
)
def test_a_peer_says_who_and_where_and_how_it_is(state: PeerState, shown: str) -> None:
    assert repr(peer_in(state).only()) == shown


def test_a_peer_of_which_only_the_address_is_known_says_so() -> None:
    table = Table()
    table.found(static(), NOW)
    assert repr(table.only()) == f"<peer of unknown id at {AT}, unknown>"


def test_the_table_says_how_many_peers_are_in_each_state() -> None:
    table = peer_in(UP)
    assert repr(Table()) == "<peers of alpha: none>"
    table.found(static(ELSEWHERE), NOW)
    assert repr(table) == "<peers of alpha: 1 unknown, 1 up>"


# -- properties --

ADDRESSES = [f"10.0.0.{number}:3031" for number in range(2, 6)]
IDS = [ME.id, BETA, GAMMA]
KINDS = ["ping ends"] * 4 + ["found", "found address", "gone", "goodbye", "heard", "exchanged", "link answers", "link fails"]
EVENTS = st.tuples(
    st.sampled_from(KINDS),
    st.sampled_from(IDS),
    st.sampled_from(ADDRESSES),
    st.sampled_from([None, *Failure]),
    st.floats(0.0, 8.0),
)


class Story:
    """Feeds a table with anything, and looks whether it keeps its promises."""

    def __init__(self, seed: int) -> None:
        self.table, self.now = Table(seed), NOW
        self.in_flight: list[Peer] = []

    def step(self, what: str, node_id: str, address: str, failure: Failure | None, pause: float) -> None:
        self.now += pause
        self.start_pings()
        self.feed(what, node_id, address, failure)
        self.start_pings()
        self.check()

    def start_pings(self) -> None:
        for peer in self.table.due(self.now):
            assert all(resolved(other) is not peer for other in self.in_flight), "two pings in flight for one peer"
            assert peer.addresses
            self.in_flight.append(peer)

    def feed(self, what: str, node_id: str, address: str, failure: Failure | None) -> None:
        table, now = self.table, self.now
        answer = status(node_id, name=node_id[:3], draining=len(self.in_flight) == 2)
        match what:
            case "ping ends" if self.in_flight:
                peer = self.in_flight.pop(0)
                if failure:
                    table.failed(peer, failure, now)
                else:
                    table.answered(peer, answer, 0.01, now, address=peer.addresses[0] if peer.addresses else "")
            case "found":
                table.found(mdns(node_id, address), now)
            case "found address":
                table.found(static(address), now)
            case "gone":
                table.gone("mdns", node_id, now)
            case "goodbye":
                table.leaving("mdns", node_id, now)
            case "heard":
                table.heard(node_id, "", now, (address,) if failure else ())
            case "exchanged":
                table.exchanged(address if failure else node_id, now)
            case "link answers":
                table.answered(address, answer, 0.01, now)
            case "link fails":
                table.failed(address, failure or Failure.OTHER, now)

    def check(self) -> None:
        ids = [peer.id for peer in self.table if peer.id]
        assert len(ids) == len(set(ids))
        assert ME.id not in ids
        for peer in self.table:
            assert self.table.get(peer.id) is (peer if peer.id else None)
            assert peer.liveness.strikes < liveness.STRIKES
            assert peer.pings.in_flight == sum(resolved(other) is peer for other in self.in_flight)
            if peer.addresses and not peer.pings.in_flight:
                assert peer.pings.next_at is not None, "nobody is left without a next ping"
                assert peer.pings.next_at <= self.now + 60.0
                if peer.state in (UP, SUSPECT, LEAVING, UNKNOWN):
                    assert peer.pings.next_at <= self.now + 7.0, "a live peer is due within 7 s"
        idle = [peer for peer in self.table if peer.addresses and not peer.pings.in_flight]
        timers = [peer.pings.next_at for peer in idle if peer.pings.next_at is not None]
        assert self.table.next_due() == min(timers, default=None)


def resolved(peer: Peer) -> Peer:
    while peer.absorbed_by:
        peer = peer.absorbed_by
    return peer


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=60), st.integers(0, 3))
def test_whatever_happens_one_ping_at_a_time_and_nobody_is_left_out(events: list[tuple[Any, ...]], seed: int) -> None:
    story = Story(seed)
    for event in events:
        story.step(*event)


def test_long_random_stories_keep_the_promises_and_the_timers_do_not_pile_up() -> None:
    rng = random.Random(7)
    for seed in range(20):
        story = Story(seed)
        for _ in range(1000):
            what = rng.choice(KINDS)
            failure = rng.choice([None, None, *Failure])
            story.step(what, rng.choice(IDS), rng.choice(ADDRESSES), failure, rng.choice([0.0, 0.01, 1.0, 6.0]))
        assert len(story.table._queue._timers) < 500
