"""Without TLS: an id belongs to the node that proved its key with it first. Another node that says it takes nothing from that
node, neither the numbers of its tasks nor the tasks that wait for it.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from parties import FakeNode, Make, Party, hello, say, say_as, status_of, task
from support import eventually

from spoolnode import send_to_spooler
from spoolnode.protocol.keys import NodeKey
from spoolnode.protocol.packet import decode_variables

pytestmark = pytest.mark.slow

MALLORYS = NodeKey(b"mallory's own secret of 32 bytes")
AHEAD = 200
"""Numbers that are used up in another node's name: more than that node sends in a test."""


def enqueue(node: Party, to: str, *numbers: str) -> None:
    for n in numbers:
        assert send_to_spooler({"n": n}, node=to, via=node.via)


def next_number(node: Party) -> int:
    """A sequence number of a node, as any peer hears it; its next ones follow."""
    other = FakeNode(status_of("f" * 12, "other"))
    enqueue(node, other.address, "told")
    told = eventually(lambda: other.tasks, "a task comes")[0]
    other.close()
    return int(dict(decode_variables(told[4:]))[b"spool_seq"])


def used_up(after: int) -> list[bytes]:
    """Tasks with the numbers that follow."""
    return [task("forged", spool_seq=str(number)) for number in range(after + 1, after + AHEAD)]


def pair(party: Make) -> tuple[Party, Party]:
    """Alpha and beta, that know each other; where beta is alpha was told."""
    beta = party("beta").join()
    alpha = party("alpha").join("--discover", f"static://{beta.via}")
    beta.wait_for_log("peer_up", id=alpha.id)
    alpha.wait_for_log("peer_up", id=beta.id)
    enqueue(alpha, "beta", "first")
    beta.wait_until_ran("first")
    return alpha, beta


def wait_until_noted(node: Party, identity: str) -> None:
    """Returns when a node will know that id after a crash."""
    known = node.spool / "known"
    eventually(lambda: known.exists() and identity in str(known.read_bytes()), f"{node.name} has noted {identity}")


def again(alpha: Party, beta: Party) -> None:
    """Both are killed and started again, where they were."""
    wait_until_noted(alpha, beta.id)
    wait_until_noted(beta, alpha.id)
    for node in (alpha, beta):
        node.kill_at_rest()
    beta.join()
    alpha.join("--discover", f"static://{beta.via}")


Forge = Callable[[Party, bytes, list[bytes]], list[str]]


def without_a_key(node: Party, said: bytes, packets: list[bytes]) -> list[str]:
    return say(node, None, said, *packets)


def with_another_key(node: Party, said: bytes, packets: list[bytes]) -> list[str]:
    return say_as(node, MALLORYS, said, *packets)


@pytest.mark.parametrize("forge", [without_a_key, with_another_key])
def test_who_says_the_id_of_a_known_node_is_refused_also_after_a_restart_and_all_tasks_of_that_node_run_once(
    party: Make, forge: Forge
) -> None:
    alpha, beta = pair(party)
    numbers = used_up(next_number(alpha))
    said = hello(id=alpha.id, name="alpha", low_watermark=1 << 40)
    for restart in (False, True):
        if restart:
            again(alpha, beta)
        (answer,) = forge(beta, said, numbers)
        assert answer.startswith(f"FORBIDDEN: the id {alpha.id} belongs to a node with another key")
        assert f"spoolnode accept alpha {alpha.id}" in answer
        beta.wait_for_log("refused", why="forbidden", reason=alpha.id)
        before = len(beta.ran)
        enqueue(alpha, "beta", *(f"real{before + number}" for number in range(20)))
        eventually(lambda before=before: len(beta.ran) == before + 20, "all that alpha sends runs")
    assert len(set(beta.ran)) == 41
    assert alpha.dead() == beta.dead() == []


@pytest.mark.parametrize("forge", [without_a_key, with_another_key])
def test_who_says_the_id_of_a_node_that_is_not_known_yet_uses_up_no_number_of_that_node(party: Make, forge: Forge) -> None:
    beta = party("beta").join()
    alpha = party("alpha").join()
    heard = forge(beta, hello(id=alpha.id, name="alpha", to=beta.via), used_up(next_number(alpha)))
    assert heard.count("pong") < 3
    eventually(lambda: beta.ran.count("forged") == AHEAD - 1, "it is a client like any other")
    enqueue(alpha, beta.via, *(f"real{number}" for number in range(20)))
    eventually(lambda: len(set(beta.ran)) == 21, "all that alpha sends runs")
    beta.kill_at_rest()
    beta.join()
    enqueue(alpha, beta.via, *(f"more{number}" for number in range(20)))
    eventually(lambda: len(set(beta.ran)) == 41, "also after a crash")
    assert len(beta.ran) == 40 + AHEAD - 1
    assert alpha.dead() == beta.dead() == []


def test_who_shows_a_key_that_he_has_not_is_refused(party: Make) -> None:
    beta = party("beta").join()
    alpha = party("alpha").join()
    said = hello(id=alpha.id, name="alpha", public=alpha_public(alpha), nonce="0" * 32)
    assert say(beta, None, said, task("1"))[1].startswith("FORBIDDEN: the variable `spool_seq` is reserved")
    (answer,) = say(beta, None, hello(id=alpha.id, name="alpha", public=alpha_public(alpha), nonce="0" * 32, proof="0" * 64))
    assert answer == f"FORBIDDEN: you show a key of the node {alpha.id} that you do not have"
    beta.is_well()


def alpha_public(alpha: Party) -> str:
    return NodeKey(bytes.fromhex((alpha.spool / "node.key").read_text())).public


@pytest.mark.parametrize("who", ["its id", "its id and another key", "its name"])
def test_an_impostor_at_the_address_of_a_node_that_is_gone_gets_nothing_also_after_a_restart(party: Make, who: str) -> None:
    alpha, beta = pair(party)
    port, identity = beta.port, beta.id
    wait_until_noted(alpha, identity)
    beta.kill9()
    if who == "its id and another key":
        mallory = party("beta")
        mallory.spool.mkdir()
        (mallory.spool / "node.id").write_text(f"{identity}\n")
        mallory.join("--listen", f"127.0.0.1:{port}")
    else:
        fake = FakeNode(status_of(identity if who == "its id" else "e" * 12, "beta"), port=port)
    alpha.kill9()
    alpha.join("--discover", f"static://127.0.0.1:{port}")
    enqueue(alpha, "beta", "secret1")
    enqueue(alpha, identity, "secret2")
    remedy = f"spoolnode accept beta {'e' * 12 if who == 'its name' else identity}"
    eventually(lambda: [row for row in alpha.peers() if row["state"] == "rejected" and remedy in row["reason"]], remedy)
    alpha.command("flush", "beta")
    alpha.is_well()
    assert alpha.status()["outbox"] == {"beta": 1, identity: 1}
    if who == "its id and another key":
        assert mallory.ran == []
        mallory.kill9()
    else:
        assert fake.tasks == []
        fake.close()
    beta.join("--discover", f"static://{alpha.via}")
    eventually(lambda: {"secret1", "secret2"} <= set(beta.ran), "it gets all when it is back")


@pytest.mark.parametrize("kept", ["node.id", "nothing"])
def test_accept_lets_a_node_back_in_whose_directory_was_made_anew(party: Make, kept: str) -> None:
    alpha, beta = pair(party)
    port, identity = beta.port, beta.id
    beta.stop()
    new = party("beta")
    if kept == "node.id":
        new.spool.mkdir()
        (new.spool / "node.id").write_text(f"{identity}\n")
    new.join("--listen", f"127.0.0.1:{port}", "--discover", f"static://{alpha.via}")
    enqueue(alpha, "beta", "1")
    enqueue(new, "alpha", "2")
    eventually(lambda: [row for row in alpha.peers() if "accept beta" in row["reason"]], "alpha says what to do")
    assert new.ran == []
    alpha.command("accept", "beta", new.id)
    new.wait_until_ran("1")
    new.command("flush", "alpha")
    alpha.wait_until_ran("2")
    assert alpha.dead() == new.dead() == []


def test_a_directory_that_is_copied_back_from_a_backup_with_its_key_needs_nobody(party: Make, tmp_path: Path) -> None:
    alpha, beta = pair(party)
    beta.stop()
    port = beta.port
    backup = party("beta")
    beta.spool.rename(backup.spool)
    backup.join("--listen", f"127.0.0.1:{port}", "--discover", f"static://{alpha.via}")
    enqueue(alpha, "beta", "1")
    enqueue(backup, "alpha", "2")
    backup.wait_until_ran("1")
    alpha.wait_until_ran("2")
