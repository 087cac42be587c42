"""The way of a request into a batch does not grow: the calls of our functions for each are counted, and the number is held.

On a noisy machine a few per cent of a rate are invisible; a count is exact.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from support import RunningNode, whole_lines
from talk import exchange, request

PING = b"\x64\0\0\0"
REQUESTS = 100
"""Soon over: two seconds after the first one the node begins to look after what waits."""
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
        for data in (request({"n": "first"}), PING, *[request({"n": "next"})] * REQUESTS, PING):
            assert exchange(address, data)[-1] == 1
    finally:
        node.clean_up()
    before, after = (Counter(json.loads(line)) for line in whole_lines(counted))
    # Rounded: the clock calls others, less often, and the end of the last commit may come after the ping.
    each = {function: round(times / REQUESTS) for function, times in (after - before).items() if ANY_TIMES not in function}
    assert sum(each.values()) <= HELD, "\n".join(f"{times} {function}" for function, times in each.items() if times)
