"""The times of the cluster fit together, and the formulas beside them are true."""

import random

import pytest
from quick import QUICK

from spoolnode.cluster import dial, lookup
from spoolnode.cluster.candidate import Candidate, Identity
from spoolnode.cluster.liveness import STRIKES, Failure, PeerState
from spoolnode.cluster.peers import PeerTable
from spoolnode.cluster.timing import USUAL, Timing
from spoolnode.protocol.hello import PROTOCOL

TIMINGS = pytest.mark.parametrize("timing", [USUAL, QUICK], ids=["usual", "quick"])
PEERS = 20


class Segment:
    """A node and its peers, which all answer at once until they are silent."""

    def __init__(self, timing: Timing, seed: int) -> None:
        self.timing = timing
        self.table = PeerTable(Identity("a" * 12, "alpha", "main", (), tls=False), random.Random(seed), timing)
        self.now = 0.0
        self.pings = 0
        self.is_silent = False
        for number in range(PEERS):
            address = f"10.0.0.{number}:3031"
            self.table.found(Candidate("mdns", str(number), f"{number:012x}", f"n{number}", (address,)), 0.0)
        self.step()

    def step(self) -> None:
        """The pings that are due now. Without an answer each takes as long as it may; the first has a connection already."""
        for peer in self.table.due(self.now):
            self.pings += 1
            said = {"id": peer.id, "name": f"n{int(peer.id, 16)}", "cluster": "main", "protocol": PROTOCOL}
            if self.is_silent:
                ends = self.now + (self.timing.connect if peer.liveness.strikes else self.timing.pong)
                self.table.failed(peer, Failure.TIMEOUT, ends)
            else:
                self.table.answered(peer, said, 0.001, self.now, address=peer.addresses[0])

    def run(self, seconds: float) -> None:
        """Lets that time pass."""
        end = self.now + seconds
        while (due := self.table.next_due()) is not None and due <= end:
            self.now = max(due, self.now)
            self.step()
        self.now = end


@TIMINGS
def test_a_node_sends_n_divided_by_silence_pings_a_second(timing: Timing) -> None:
    segment = Segment(timing, 1)
    before = segment.pings
    segment.run(200 * timing.silence)
    assert segment.pings - before == pytest.approx(PEERS * 200, rel=0.02)


@TIMINGS
@pytest.mark.parametrize("seed", range(20))
def test_a_machine_that_is_silent_is_down_after_a_silence_and_three_strikes(timing: Timing, seed: int) -> None:
    segment = Segment(timing, seed)
    segment.run(100 * timing.silence)
    segment.is_silent = True
    latest = 1.2 * timing.silence + timing.pong + (STRIKES - 1) * timing.connect
    segment.run(latest)
    assert {peer.state for peer in segment.table} == {PeerState.DOWN}
    assert max(peer.liveness.since for peer in segment.table) <= segment.now


def test_usually_it_takes_fourteen_seconds_at_most() -> None:
    assert 1.2 * USUAL.silence + USUAL.pong + (STRIKES - 1) * USUAL.connect == pytest.approx(14.0)


@TIMINGS
def test_this_node_gives_a_link_up_before_the_kernel_does(timing: Timing) -> None:
    assert timing.answer * 1000 < dial.UNACKNOWLEDGED_MS


@TIMINGS
def test_a_silent_name_server_is_told_from_a_silent_machine(timing: Timing) -> None:
    assert timing.connect > lookup.LIMIT


@TIMINGS
def test_no_flood_of_announcements_keeps_the_pings_of_a_peer_from_coming_in_time(timing: Timing) -> None:
    assert timing.gap < timing.silence * 0.8
    assert timing.silence < timing.stale


def test_quick_timing_gives_an_answer_as_much_time_as_ever() -> None:
    assert (QUICK.pong, QUICK.connect, QUICK.answer) == (USUAL.pong, USUAL.connect, USUAL.answer)
