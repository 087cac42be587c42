"""Parties that are not the nodes that they claim to be, or say what a peer may not: a real node refuses them, loses nothing,
runs nothing of theirs, counts them, says why, and goes on.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from parties import (
    MALLORY,
    NUMBER,
    Authorities,
    FakeNode,
    Make,
    Party,
    connection,
    hello,
    say,
    server_context,
    status_of,
    task,
    understood,
)  # fmt: skip
from support import eventually
from talk import read_answers
from zeroconf import Zeroconf

from spoolnode import send_to_spooler
from spoolnode.cluster.candidate import Identity
from spoolnode.cluster.discovery.announcement import service_info
from spoolnode.protocol.packet import EXTENDED, SPOOL_REQUEST, encode_variables, packet

pytestmark = pytest.mark.slow


@pytest.fixture
def authorities(tmp_path: Path) -> Authorities:
    """Makes certificates."""
    return Authorities(tmp_path)


@pytest.fixture
def beta(party: Make, authorities: Authorities) -> Party:
    """A node with a certificate, that runs."""
    return party("beta").join(made=authorities.issue("beta"))


def refused(node: Party, reason: str, *, why: str = "forbidden") -> None:
    """The refusal was counted and logged; nothing of it was stored or run; the node is well."""
    node.wait_for_log("refused", why=why, reason=reason)
    status = node.status()
    assert status["refused"].get(why, 0) >= 1
    assert status["total"] == 0
    assert node.ran == []
    assert node.dead() == []
    node.is_well()


def shut_out(node: Party, reason: str) -> None:
    """The handshake failed, which was logged; nothing was stored or run; the node is well."""
    node.wait_for_log("handshake_failed", reason=reason)
    assert node.status()["accepted"] == 0
    assert node.ran == []
    node.is_well()


# -- who gets no connection --


def test_no_certificate(beta: Party, authorities: Authorities) -> None:
    assert "pong" not in say(beta, authorities.context(None), hello(), task("1"))
    shut_out(beta, "did not return a certificate")


def test_certificate_of_another_authority(beta: Party, authorities: Authorities) -> None:
    other = authorities.issue("mallory", of="other")
    assert "pong" not in say(beta, authorities.context(other), hello(), task("1"))
    shut_out(beta, "its certificate is not accepted")


def test_expired_certificate(beta: Party, authorities: Authorities) -> None:
    expired = authorities.issue("mallory", days=-1)
    assert "pong" not in say(beta, authorities.context(expired), hello(), task("1"))
    shut_out(beta, "certificate has expired")


# -- parties that claim to be another node --


def test_plain_link_on_a_node_with_certificates(beta: Party) -> None:
    (answer,) = say(beta, None, hello(), task("1"))
    assert answer.startswith("FORBIDDEN: this node takes links with TLS only")
    refused(beta, "TLS only")


def test_certificate_of_another_name(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("alpha"))
    (answer,) = say(beta, context, hello(name="gamma"), task("1"))
    assert "is for the node 'alpha', and you say that you are 'gamma'" in answer
    refused(beta, "'gamma'")


def test_certificate_of_another_name_that_says_to_be_this_very_node(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("alpha"))
    (answer,) = say(beta, context, hello(name="beta", id=beta.id), task("1"))
    assert "you say that you are 'beta'" in answer
    refused(beta, "'beta'")


def test_forged_origin_the_id_of_another_certified_node(beta: Party, authorities: Authorities) -> None:
    alpha = authorities.context(authorities.issue("alpha"))
    mallory = authorities.context(authorities.issue("mallory"))
    assert say(beta, alpha, hello(id="aaaaaaaaaaaa", name="alpha")) == ["pong"]
    # With a low watermark that would make everything that alpha sends an old packet.
    (answer,) = say(beta, mallory, hello(id="aaaaaaaaaaaa", low_watermark=1 << 62), task("1"))
    assert "the id aaaaaaaaaaaa belongs to the node 'alpha'" in answer
    refused(beta, "belongs to the node 'alpha'")
    before = len(beta.ran)
    assert say(beta, alpha, hello(id="aaaaaaaaaaaa", name="alpha"), task("2"))[0] == "pong"
    eventually(lambda: beta.ran[before:] == ["2"], "what alpha sends is taken")


def test_another_identity_on_an_open_link(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    answers = say(beta, context, hello(), hello(id="aaaaaaaaaaaa"), task("1"))
    assert answers[0] == "pong"
    assert answers[1:] == [f"FORBIDDEN: this connection is that of node {MALLORY} (mallory)"]
    refused(beta, "this connection is that of node")


def test_another_cluster(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    (answer,) = say(beta, context, hello(cluster="staging"), task("1"))
    assert "belongs to the cluster 'default', not to 'staging'" in answer
    refused(beta, "'staging'")


def test_another_version_of_the_protocol(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    (answer,) = say(beta, context, hello(protocol=2), task("1"))
    assert answer.startswith("CONFLICT: you speak version 2")
    refused(beta, "version 2", why="conflict")


# -- what a peer may not say --


NOT_FOR_PEERS: list[tuple[dict[str, str], str]] = [
    ({"spool_origin": "aaaaaaaaaaaa"}, "FORBIDDEN: the variable `spool_origin` is reserved"),
    ({"spool_attempts": "9"}, "FORBIDDEN: the variable `spool_attempts` is reserved"),
    ({"spool_id": "../../evil"}, "MALFORMED: `spool_id` is '../../evil'"),
    ({"spool_to": "../evil"}, "MALFORMED: `spool_to` is '../evil'"),
    ({"spool_node": "../evil"}, "MALFORMED: `spool_node` is '../evil'"),
    ({"priority": "../evil"}, "MALFORMED: `priority` is '../evil'"),
    ({"args": "cos\nsystem\n"}, "FORBIDDEN: pickled arguments"),
    ({"ud_spool_func": "f", "kwargs": "cos\nsystem\n"}, "FORBIDDEN: pickled arguments"),
    ({"spool_seq": "../1"}, "MALFORMED: `spool_seq`"),
    ({"spool_seq": "0"}, "MALFORMED: `spool_seq`"),
    ({"spool_seq": ""}, "MALFORMED: a task came over a link without its number"),
    ({"spool_hops": "-1"}, "MALFORMED: `spool_hops`"),
    ({"spooler": "/etc"}, "MALFORMED: `spooler` is '/etc'"),
]


def test_a_peer_can_neither_forge_nor_choose_paths_nor_send_pickle(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    for variables, answer in NOT_FOR_PEERS:
        heard = say(beta, context, hello(), task("1", **variables))
        assert heard[0] == "pong"
        assert heard[1].startswith(answer), (variables, heard)
    assert not list(beta.directory.parent.rglob("*evil*"))
    assert sum(beta.status()["refused"].values()) == len(NOT_FOR_PEERS)
    beta.wait_for_log("refused", why="forbidden")
    beta.wait_for_log("refused", why="malformed")
    assert beta.status()["total"] == 0
    assert beta.ran == []
    # The same peer, with the same number, saying what it may, is still welcome.
    assert len(say(beta, context, hello(), task("2"))) == 2
    beta.wait_until_ran("2")
    beta.is_well()


def test_a_peer_that_is_only_pinging_is_a_client_like_any_other(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    heard = say(beta, context, hello(to=""), task("1"))
    assert heard[0] == "pong"
    assert heard[1].startswith("FORBIDDEN: the variable `spool_seq` is reserved")
    refused(beta, "`spool_seq` is reserved")


def test_a_watermark_that_no_number_reaches_is_refused_and_poisons_no_file(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    (answer,) = say(beta, context, hello(low_watermark=(1 << 64) + 5))
    assert "spool_floor" in answer
    refused(beta, "spool_floor", why="malformed")


def test_variables_that_leave_no_room_for_their_sender_are_refused(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    room = 65535 - len(task("1", filler="x")) + 4 + 1
    heard = say(beta, context, hello(), task("1", filler="x" * room))
    assert heard[1].startswith("TOO_LARGE: the variables take 65535 bytes"), heard
    refused(beta, "the variables take", why="too_large")


# -- old packets --


def test_replay_of_a_taken_number_is_answered_stored_and_not_run_again_also_after_a_crash(
    beta: Party, authorities: Authorities
) -> None:
    context = authorities.context(authorities.issue("mallory"))
    assert len(say(beta, context, hello(), task("1"))) == 2
    beta.wait_until_ran("1")
    assert say(beta, context, hello(), task("1")) == ["pong", "known"]
    beta.kill_at_rest()
    beta.join(*_again(beta, authorities))
    assert say(beta, context, hello(), task("1")) == ["pong", "known"]
    assert beta.status()["repeats"] == 1
    beta.is_well()
    assert beta.ran.count("1") == 1


def _again(node: Party, authorities: Authorities) -> list[str]:
    made = authorities.issue(node.name)
    return ["--tls-cert", str(made.certificate), "--tls-key", str(made.key), "--tls-ca", str(made.authority)]


def test_replay_below_the_watermark_is_a_conflict(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    assert len(say(beta, context, hello(), task("1"))) == 2
    beta.wait_until_ran("1")
    assert say(beta, context, hello(low_watermark=NUMBER + 5)) == ["pong"]
    for _ in range(2):  # a low watermark that was said before does not come back
        heard = say(beta, context, hello(low_watermark=1), task("1"))
        assert heard[1].startswith(f"CONFLICT: the number {NUMBER} is below"), heard
    beta.wait_for_log("refused", why="conflict")
    beta.is_well()
    assert beta.ran.count("1") == 1


def test_a_watermark_said_in_the_name_of_another_node_keeps_out_nothing_of_that_node(party: Make) -> None:
    beta = party("beta").join()
    alpha = party("alpha").join("--discover", f"static://{beta.via}")
    beta.wait_for_log("peer_up", id=alpha.id)
    enqueue(alpha, "1", "beta")
    beta.wait_until_ran("1")
    forged = hello(id=alpha.id, name="alpha", low_watermark=int(time.time()) << 32)
    (answer,) = say(beta, None, forged, hello(id=alpha.id, name="alpha", low_watermark=NUMBER))
    assert answer.startswith(f"FORBIDDEN: the id {alpha.id} belongs to a node with another key")
    enqueue(alpha, "2", "beta")
    beta.wait_until_ran("1", "2")
    assert alpha.dead() == []


def test_a_pipelined_repeat_runs_once(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    with connection(beta, context) as sock:
        sock.sendall(hello() + task("1") * 5 + task("2", spool_seq=str(NUMBER + 1)))
        answers = [understood(*answer) for answer in read_answers(sock, 7)]
    assert answers[0] == "pong"
    eventually(lambda: beta.status()["total"] == 0, "all has run")
    assert beta.ran.count("1") == 1
    assert beta.ran.count("2") <= 1
    beta.is_well()


def test_a_large_body_that_breaks_off_is_nothing_and_may_come_again(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    body = os.urandom(3 << 20)
    head = task("1", spool_body=str(len(body)))
    with connection(beta, context) as sock:
        sock.sendall(hello() + head + body[:-1])
        assert understood(*read_answers(sock, 1)[0]) == "pong"
        eventually(lambda: list(beta.spool.glob("tmp/*upload*")), "the body is being written")
    eventually(lambda: not list(beta.spool.glob("tmp/*upload*")), "nothing is left of it")
    assert beta.ran == []
    assert len(say(beta, context, hello(), head + body)) == 2
    beta.wait_until_ran("1")
    assert say(beta, context, hello(), head + body) == ["pong", "known"]
    assert beta.ran == ["1"]
    beta.is_well()


# -- impostors in another node's place --


def discover(path: Path, *named: tuple[str, str, str]) -> str:
    """A file source that names nodes: id, name, address."""
    rows = []
    for node_id, name, address in named:
        labels = {key: value for key, value in (("id", node_id), ("name", name)) if value}
        rows.append({"targets": [address], "labels": labels})
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(rows))
    fresh.replace(path)
    return f"file://{path}"


def enqueue(node: Party, n: str, to: str, body: bytes = b"") -> None:
    """A task on one node for another."""
    assert send_to_spooler({"n": n, **({"body": body} if body else {})}, node=to, via=node.via)


def waits(node: Party, to: str, count: int = 1) -> None:
    """Those tasks wait, and nothing was given up."""
    assert node.status()["outbox"] == {to: count}
    assert node.dead() == []
    assert node.status()["forwarded"] == 0


@pytest.mark.parametrize("who", ["another authority", "another name", "no certificate"])
def test_an_impostor_at_the_address_that_a_source_names_hears_nothing_and_the_task_waits_for_the_real_one(
    tmp_path: Path, party: Make, authorities: Authorities, who: str
) -> None:
    context = {
        "another authority": lambda: server_context(authorities.issue("beta", of="other")),
        "another name": lambda: server_context(authorities.issue("gamma")),
        "no certificate": lambda: None,
    }[who]()
    impostor = FakeNode(status_of("bbbbbbbbbbbb", "beta"), context)
    uri = discover(tmp_path / "peers.json", ("bbbbbbbbbbbb", "beta", impostor.address))
    alpha = party("alpha").join("--discover", uri, made=authorities.issue("alpha"))
    enqueue(alpha, "1", "beta")
    alpha.wait_for_log("peer_rejected")
    alpha.command("flush", "beta")
    rejected = eventually(lambda: [row for row in alpha.peers() if row["state"] == "rejected"], "it is rejected")
    assert rejected[0]["reason"]
    assert impostor.tasks == []
    waits(alpha, "beta")
    alpha.is_well()
    impostor.close()
    # The real one appears where the source says so now.
    beta = party("beta").join(made=authorities.issue("beta"))
    discover(tmp_path / "peers.json", (beta.id, "beta", beta.via))
    beta.wait_until_ran("1")
    eventually(lambda: alpha.status()["outbox"] == {}, "it has left alpha")


def test_an_impostor_of_our_own_authority_cannot_take_the_id_of_another_node(
    tmp_path: Path, party: Make, authorities: Authorities
) -> None:
    beta = party("beta").join(made=authorities.issue("beta"))
    uri = discover(tmp_path / "peers.json", ("", "", beta.via))
    alpha = party("alpha").join("--discover", uri, made=authorities.issue("alpha"))
    alpha.wait_for_log("peer_up", id=beta.id)
    beta.stop()
    eventually(lambda: alpha.lines("peer_down", id=beta.id) or alpha.lines("peer_left", id=beta.id), "beta is gone")
    gamma = FakeNode(status_of(beta.id, "gamma"), server_context(authorities.issue("gamma")))
    enqueue(alpha, "1", beta.id)
    discover(tmp_path / "peers.json", ("", "", gamma.address))
    eventually(lambda: [row for row in alpha.peers() if "belongs to the node 'beta'" in row["reason"]], "it is rejected")
    assert gamma.tasks == []
    waits(alpha, beta.id)
    gamma.close()


def test_a_name_that_another_node_answers_to_gets_nothing_and_the_reason_is_seen(party: Make, tmp_path: Path) -> None:
    # Without certificates: the node that is there says which one it is, and that is compared.
    gamma = FakeNode(status_of("cccccccccccc", "gamma"))
    uri = discover(tmp_path / "peers.json", ("bbbbbbbbbbbb", "beta", gamma.address))
    alpha = party("alpha").join("--discover", uri)
    enqueue(alpha, "1", "beta")
    enqueue(alpha, "2", "bbbbbbbbbbbb")
    alpha.wait_for_log("peer_up", name="gamma")
    alpha.command("flush", "beta")
    eventually(lambda: [row for row in alpha.peers() if row["name"] == "beta" and "cccccccccccc" in row["reason"]], "the reason")
    assert gamma.tasks == []
    assert alpha.status()["outbox"] == {"beta": 1, "bbbbbbbbbbbb": 1}
    alpha.is_well()
    gamma.close()


def test_another_node_at_an_address_that_was_asked_for_is_what_was_asked_for(party: Make) -> None:
    gamma = party("gamma").join()
    alpha = party("alpha").join()
    enqueue(alpha, "1", gamma.via)
    gamma.wait_until_ran("1")


def test_an_answer_of_another_cluster_or_another_version_gets_nothing(party: Make) -> None:
    for status, words in (
        (status_of("bbbbbbbbbbbb", "beta", cluster="staging"), "'staging'"),
        (status_of("bbbbbbbbbbbb", "beta", protocol=2), "version 2"),
    ):
        other = FakeNode(status)
        alpha = party("alpha").join("--discover", f"static://{other.address}")
        enqueue(alpha, "1", "beta")
        enqueue(alpha, "2", other.address)
        eventually(lambda alpha=alpha, words=words: [row for row in alpha.peers() if words in row["reason"]], words)
        alpha.command("flush", other.address)
        alpha.is_well()
        assert other.tasks == []
        assert sum(alpha.status()["outbox"].values()) == 2
        other.close()
        alpha.clean_up()


# -- this node under another address --


def test_a_destination_that_turns_out_to_be_this_node_runs_here(party: Make) -> None:
    alpha = party("alpha").join("--listen", "0.0.0.0:0", "--allow", "127.0.0.0/8")
    to = f"127.0.0.2:{alpha.port}"
    enqueue(alpha, "1", to)
    alpha.wait_until_ran("1")
    alpha.wait_for_log("claimed", destination=to)
    enqueue(alpha, "2", to, b"large" * 100_000)
    alpha.wait_until_ran("1", "2")
    assert alpha.status()["outbox"] == {}
    assert alpha.status()["forwarded"] == 0
    alpha.is_well()


def test_a_destination_that_turns_out_to_be_this_node_runs_here_with_certificates_too(
    party: Make, authorities: Authorities
) -> None:
    alpha = party("alpha").join("--listen", "0.0.0.0:0", made=authorities.issue("alpha"))
    enqueue(alpha, "1", f"127.0.0.2:{alpha.port}")
    alpha.wait_until_ran("1")


# -- two nodes that trust each other --


def pair(party: Make, authorities: Authorities) -> tuple[Party, Party]:
    """Two nodes with certificates that know each other."""
    alpha = party("alpha").join(made=authorities.issue("alpha"))
    beta = party("beta").join("--discover", f"static://{alpha.via}", made=authorities.issue("beta"))
    alpha.wait_for_log("peer_up", id=beta.id)
    beta.wait_for_log("peer_up", id=alpha.id)
    return alpha, beta


def test_two_nodes_with_certificates_send_each_other_small_and_large_tasks(party: Make, authorities: Authorities) -> None:
    alpha, beta = pair(party, authorities)
    for number in range(20):
        enqueue(alpha, f"a{number}", "beta", b"x" * (number % 2 * 100))
        enqueue(beta, f"b{number}", alpha.id)
    enqueue(alpha, "large", beta.via, os.urandom(3_000_000))
    enqueue(beta, "large", "alpha", os.urandom(3_000_000))
    beta.wait_until_ran(*(f"a{number}" for number in range(20)), "large")
    alpha.wait_until_ran(*(f"b{number}" for number in range(20)), "large")
    eventually(lambda: not alpha.status()["outbox"] and not beta.status()["outbox"], "both outboxes are empty")


def test_renewed_certificate_is_in_force_after_sighup_and_links_go_on(party: Make, authorities: Authorities) -> None:
    first = authorities.issue("beta")
    alpha = party("alpha").join(made=authorities.issue("alpha"))
    beta = party("beta").join("--discover", f"static://{alpha.via}", made=first)
    alpha.wait_for_log("peer_up", id=beta.id)
    second = authorities.issue("beta", days=90)
    shutil.copy(second.certificate, first.certificate)
    shutil.copy(second.key, first.key)
    os.kill(beta.pid, signal.SIGHUP)
    beta.wait_for_log("tls_reloaded")
    enqueue(alpha, "1", "beta")
    beta.wait_until_ran("1")
    with connection(beta, authorities.context(authorities.issue("mallory"))) as sock:
        assert sock.getpeercert(True) == _der(second.certificate)  # type: ignore[attr-defined] # it is an SSLSocket


def test_a_node_whose_certificate_is_taken_back_gets_and_gives_nothing_from_sighup_on(
    party: Make, authorities: Authorities
) -> None:
    from spoolnode.cluster import authority as ca

    made = {name: authorities.issue(name) for name in ("alpha", "beta")}
    lists = ca.revoke(made["alpha"].authority.parent).revoked
    alpha = party("alpha").join("--tls-crl", str(lists), made=made["alpha"])
    beta = party("beta").join("--discover", f"static://{alpha.via}", made=made["beta"])
    alpha.wait_for_log("peer_up", id=beta.id)
    enqueue(alpha, "1", "beta")
    enqueue(beta, "2", "alpha")
    beta.wait_until_ran("1")
    alpha.wait_until_ran("2")
    ca.revoke(made["alpha"].authority.parent, "beta")
    os.kill(alpha.pid, signal.SIGHUP)
    alpha.wait_for_log("link_closed", peer="beta")
    enqueue(alpha, "3", "beta")
    enqueue(beta, "4", "alpha")
    eventually(lambda: "revoked" in alpha.status()["links"]["beta"]["reason"], "the sender says why")
    eventually(lambda: "revoked" in beta.status()["links"]["alpha"]["reason"], "the revoked one hears why")
    assert (beta.ran, alpha.ran) == (["1"], ["2"])


def _der(path: Path) -> bytes:
    from ssl import PEM_cert_to_DER_cert

    return PEM_cert_to_DER_cert(path.read_text())


def test_authority_is_replaced_with_a_bundle_and_no_task_is_lost_on_the_way(party: Make, authorities: Authorities) -> None:
    made = {name: authorities.issue(name) for name in ("alpha", "beta")}
    new = {name: authorities.issue(name, of="new") for name in made}
    bundles = {name: authorities.directory / f"{name}.bundle" for name in made}
    for bundle in bundles.values():
        shutil.copy(made["alpha"].authority, bundle)
    alpha = party("alpha").join(made=made["alpha"]._replace(authority=bundles["alpha"]))
    beta = party("beta").join("--discover", f"static://{alpha.via}", made=made["beta"]._replace(authority=bundles["beta"]))
    alpha.wait_for_log("peer_up", id=beta.id)
    expected: list[str] = []

    def step(node: Party) -> None:
        before = len(node.lines("tls_reloaded"))
        os.kill(node.pid, signal.SIGHUP)
        node.wait_for_log("tls_reloaded", count=before + 1)
        expected.append(str(len(expected)))
        enqueue(alpha, expected[-1], "beta")
        enqueue(beta, expected[-1], "alpha")

    both = Path(made["alpha"].authority).read_text() + Path(new["alpha"].authority).read_text()
    for node in (alpha, beta):  # first all nodes trust both, then each gets another certificate, then the old one goes
        bundles[node.name].write_text(both)
        step(node)
    for node in (alpha, beta):
        shutil.copy(new[node.name].certificate, made[node.name].certificate)
        shutil.copy(new[node.name].key, made[node.name].key)
        step(node)
    for node in (alpha, beta):
        shutil.copy(new[node.name].authority, bundles[node.name])
        step(node)
    for node in (alpha, beta):
        node.wait_until_ran(*expected)
    old = authorities.context(authorities.issue("mallory"))
    assert "pong" not in say(beta, old, hello(), task("evil"))


def test_unknown_packet_is_refused_as_everywhere(beta: Party, authorities: Authorities) -> None:
    context = authorities.context(authorities.issue("mallory"))
    code: Any = packet(22, encode_variables([(b"n", b"1")]), EXTENDED)
    assert code[0] != SPOOL_REQUEST
    heard = say(beta, context, hello(), code)
    assert heard[0] == "pong"
    beta.wait_for_log("refused")
    beta.is_well()


def test_a_forged_announcement_leads_to_an_impostor_that_hears_nothing(
    tmp_path: Path, party: Make, authorities: Authorities
) -> None:
    """Anybody on the segment can say by mDNS that beta is at its own address."""
    cluster = f"forged-{os.getpid()}"
    impostor = FakeNode(status_of("bbbbbbbbbbbb", "beta"), server_context(authorities.issue("beta", of="other")))
    alpha = party("alpha").join("--discover", "mdns", "--cluster", cluster, made=authorities.issue("alpha"))
    lie = Identity("bbbbbbbbbbbb", "beta", cluster, (impostor.address,), tls=True)
    zeroconf = Zeroconf(interfaces=["127.0.0.1"])
    try:
        info = service_info(lie, "00000000", int(impostor.address.rpartition(":")[2]), ["127.0.0.1"])
        zeroconf.register_service(info, cooperating_responders=True)
        enqueue(alpha, "1", "beta")
        alpha.wait_for_log("peer_rejected", name="beta")
        assert [row["sources"] for row in alpha.peers() if row["name"] == "beta"] == [["mdns"]]
        alpha.command("flush", "beta")
    finally:
        zeroconf.close()
    assert impostor.tasks == []
    waits(alpha, "beta")
    alpha.is_well()
    impostor.close()
