"""Real nodes that find each other in a real PostgreSQL, with nothing but --discover store."""

import json

from joined import Commune
from subjects import InPostgres
from support import RunningNode, eventually

from spoolnode.client.control import ask

DISCOVER = ("--discover", "store")


def seen(node: RunningNode) -> dict[str, tuple[str, list[str]]]:
    """The peers of a node by name: state, sources."""
    return {row["name"]: (row["state"], row["sources"]) for row in json.loads(node.command("peers", "--json").stdout)}


def test_nodes_find_each_other_and_one_that_stops_takes_its_entry_away(commune: Commune, in_postgres: InPostgres) -> None:
    alpha, beta = commune.start("alpha", *DISCOVER), commune.start("beta", *DISCOVER)
    eventually(lambda: seen(alpha).get("beta") == ("up", ["store"]), "alpha has found beta")
    eventually(lambda: seen(beta).get("alpha") == ("up", ["store"]), "beta has found alpha")

    def entries() -> int:
        ((number,),) = in_postgres.server.sql("SELECT count(*) FROM spoolnode.node", in_postgres.database)
        return int(number)

    assert entries() == 2
    commune.wait_for(commune.send(alpha, 2, "all"))
    assert beta.stop() == 0
    assert entries() == 1
    alpha.kill9()
    assert entries() == 1, "one that dies leaves it until it expires"


def test_a_task_for_a_name_that_no_node_has_waits_and_its_sender_is_told(commune: Commune) -> None:
    alpha, beta = commune.start("alpha", *DISCOVER), commune.start("beta", *DISCOVER)
    eventually(lambda: "beta" in seen(alpha), "alpha has found beta")
    told = "the destination 'mial1' is unknown: no node with the id or name mial1 is known; the task waits for it"
    done = alpha.command("send", "n=1", "--node", "mial1")
    assert (done.returncode, told in done.stderr) == (0, True)
    alpha.wait_for_log("unknown_destination", destination="mial1")
    assert alpha.command("send", "n=2", "--node", "beta").stderr == ""
    beta.stop()
    commune.start("gamma")  # it does not look for others
    assert commune.nodes["gamma"].command("send", "n=3", "--node", "mial1").stderr == ""


def test_two_nodes_of_one_name_are_warned_of(commune: Commune) -> None:
    alpha = commune.start("alpha", *DISCOVER)
    commune.start("beta", *DISCOVER, "--name", "alpha")

    def warned() -> list[str]:
        rows = ask(str(alpha.spool), "GET", "/warnings")["items"]
        return [row["text"] for row in rows if row["kind"] == "same_name"]

    (told,) = eventually(warned, "it is told")
    assert "is named alpha, as this node is" in told
