"""The way of a request into a batch does not grow: the calls of our functions for each are counted, and the number is held.

On a noisy machine a few per cent of a rate are invisible; a count is exact.
"""

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

from support import RunningNode, whole_lines
from talk import exchange, request

PING = b"\x64\0\0\0"
REQUESTS = 20
"""In a round."""
ROUNDS = 10
"""Of each function the cheapest counts: on a slow machine the node looks after what waits between the requests of most rounds."""
HELD = 55
"""Calls for a request alone on its connection that asks for nothing special, and for its commit. Goes down, never up."""

ANY_TIMES = ": GroupCommit._start"
"""It is called once or twice for a request, as the next one comes before or after the end of its commit on the loop."""


class CountedNode(RunningNode):
    """A node under `callcount`."""

    def command_line(self, args: list[str]) -> list[str]:
        """As the base class says."""
        return [sys.executable, str(Path(__file__).with_name("callcount.py")), *args[3:]]


def test_a_plain_request_passes_no_more_functions_than_it_did(tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    node = CountedNode(tmp_path)
    try:
        # Without stories and lines in the log for each task: only the way to the disk and back.
        node.start("--history", "0", "--log-level", "info", COUNTED=str(counted))
        address = "127.0.0.1", node.port
        round_ = [*[request({"n": "next"})] * REQUESTS, PING]
        for data in (request({"n": "first"}), PING, *round_ * ROUNDS):
            assert exchange(address, data)[-1] == 1
    finally:
        node.clean_up()
    counts = [Counter(json.loads(line)) for line in whole_lines(counted)]
    assert len(counts) == 1 + ROUNDS
    rounds = [calls_of_one(after - before) for before, after in pairwise(counts)]
    each = {function: min(calls.get(function, 0) for calls in rounds) for function in set[str]().union(*rounds)}
    assert sum(each.values()) <= HELD, "\n".join(f"{times} {function}" for function, times in each.items())


def calls_of_one(round_: Counter[str]) -> dict[str, int]:
    """How often each function was called for one request. Rounded: the clock calls some, and a commit may end after the ping."""
    each = {function: round(times / REQUESTS) for function, times in round_.items() if ANY_TIMES not in function}
    return {function: times for function, times in each.items() if times}
