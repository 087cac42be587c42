"""A stranger on the same network segment gets nothing, whatever it announces."""

import pytest
from nodes import PORT, Cluster
from support import eventually

OUTSIDE = "192.0.2.66"


@pytest.mark.slow
def test_a_node_outside_of_the_allowed_networks_is_seen_and_gets_no_task(cluster: Cluster) -> None:
    alpha, _ = cluster.start("alpha", "beta")
    mallory = cluster.add("mallory")
    cluster.hosts.add_address(mallory.host, OUTSIDE)
    mallory.launch("--listen", f"{OUTSIDE}:{PORT}", "--tag", "gpu", "--workers", "4").wait_until_ready()
    line = alpha.wait_for_log("outside_allow", id=mallory.id)
    assert f"{OUTSIDE}:{PORT} is outside of --allow, so no task is given to it" in line["reason"]
    anybody = cluster.send(alpha, 40, "any", "all")
    named = cluster.send(alpha, 6, "mallory", mallory.id, "tag:gpu")
    cluster.wait_until_done(anybody)
    eventually(
        lambda: {name for places in cluster.where(anybody).values() for name in places} == {"alpha", "beta"}, "both run some"
    )
    eventually(lambda: alpha.outbox() == len(named), "what the others took has left the outbox")
    for to in (mallory.id, "mallory"):
        eventually(lambda to=to: "outside of --allow" in alpha.status()["links"][to]["reason"], "it is said why they wait")
    cluster.wait_until_done(cluster.send(alpha, 1, "beta"))
    assert all(not places for places in cluster.where(named).values())
