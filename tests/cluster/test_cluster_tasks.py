"""Five nodes on five hosts find each other, and a task runs exactly where it should."""

import pytest
from nodes import TELLING, TOLD, Cluster, at

NAMES = ["alpha", "beta", "gamma", "delta", "epsilon"]


@pytest.mark.slow
def test_task_sent_on_each_node_to_each_by_name_id_or_address_runs_there_and_once(cluster: Cluster) -> None:
    cluster.timing = TELLING
    *running, newcomer = [cluster.add(name) for name in NAMES]
    for node in running:
        node.launch("--tag", f"is-{node.name}")
    for node in running:
        node.wait_until_ready()
    for node in running:
        node.wait_for_peers(*(other for other in running if other is not node))
    ready = newcomer.restart("--tag", f"is-{newcomer.name}").wait_for_log("ready")
    newcomer.wait_for_peers(*running)
    for node in running:
        node.wait_for_peers(newcomer)
    seen = [newcomer.wait_for_log("peer_up", id=node.id) for node in running]
    seen += [node.wait_for_log("peer_up", id=newcomer.id) for node in running]
    assert max(map(at, seen)) - at(ready) < TOLD

    expected = {}
    for via in cluster.nodes:
        for to in cluster.nodes:
            numbers = cluster.send(via, 8, to.name, to.id, to.address, f"tag:is-{to.name}")
            expected.update({number: [to.name] for number in numbers})
    cluster.wait_until_done()
    cluster.wait_until_empty()
    assert cluster.where(expected) == expected
    cluster.check()
