"""What a node does for each task that it puts into the store does not grow with the number of nodes that it knows."""

import json
from pathlib import Path

from subjects import InPostgres
from support import whole_lines
from talk import exchange, request
from test_cost_of_requests import CountedNode

PING = b"\x64\0\0\0"


def test_a_task_that_any_node_may_run_is_compared_with_none(tmp_path: Path, in_postgres: InPostgres) -> None:
    counted = tmp_path / "counted"
    node = CountedNode(tmp_path)
    try:
        node.start("--store", in_postgres.url, "--log-level", "info", COUNTED=str(counted))
        address = "127.0.0.1", node.port
        for data in (request({"n": "1"}), request({"n": "2"}, extra=[(b"spool_node", b"any")]), PING):
            assert exchange(address, data)[-1] == 1
        (calls,) = map(json.loads, whole_lines(counted))
        assert calls["node/ingress/shared.py: Sharing.share"] == 2
        assert not any("Cluster.is_apart" in function or "Destinations.meant" in function for function in calls)
    finally:
        node.clean_up()
