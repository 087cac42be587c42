"""Operators of one node at another: over mutual TLS they see and do there what they may here, if that node trusts them; in every
other case they get nothing, and both nodes say why.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parties import Authorities, FakeNode, Make, Party, connection, hello, say, server_context, status_of, understood
from support import PATIENCE, eventually
from talk import read_answers

from spoolnode import send_many, send_to_spooler
from spoolnode.node.control.routes import Route, description, table
from spoolnode.protocol.operate import Operation, OperationReader

pytestmark = pytest.mark.slow

NO_HANDLERS: Any = type("NoHandlers", (), {"__getattr__": lambda self, name: name})()
TOKEN = "a-token-of-alpha-only"
DEAD_OF_BETA = Operation("GET", "/dead", "", "mallory").encode()


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Makes certificates."""
    return Authorities(tmp_path_factory.mktemp("authorities"))


def requested(connection: http.client.HTTPConnection, method: str, path: str, **headers: str) -> tuple[int, Any]:
    """Status and content of an answer of the API."""
    connection.request(method, f"/api/v1{path}", headers=headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def asked(node: Party, method: str, path: str) -> tuple[int, Any]:
    """The same, through the control socket of a node."""
    connection = http.client.HTTPConnection("node", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(node.spool / "control.sock"))
    try:
        return requested(connection, method, path)
    finally:
        connection.close()


def done(node: Party, method: str, path: str) -> Any:
    """The content of a good answer."""
    status, content = asked(node, method, path)
    assert status == 200, content
    return content


def row_of_beta(alpha: Party) -> dict[str, Any]:
    """Beta, as alpha sees it, once it has answered there."""
    return eventually(lambda: next((row for row in alpha.peers() if row["name"] == "beta"), None), "alpha knows beta")


def met(alpha: Party, *, is_open: bool) -> None:
    """Returns when beta is up at alpha."""
    eventually(lambda: (row := row_of_beta(alpha))["state"] == "up" and row["open"] is is_open, f"beta is up, open: {is_open}")


@pytest.fixture(scope="module")
def beta(tmp_path_factory: pytest.TempPathFactory, authorities: Authorities) -> Iterator[Party]:
    """A node that trusts operators of alpha. For all tests of this module that leave it as it is."""
    node = Party(tmp_path_factory.mktemp("nodes") / "beta", "beta")
    node.join("--trust-operators-of", "alpha", "--max-attempts", "1", "--http", "127.0.0.1:0", made=authorities.issue("beta"))
    yield node
    node.clean_up()


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory, beta: Party, authorities: Authorities) -> Iterator[Party]:
    """A node that knows beta, likewise."""
    token = authorities.directory / "token"
    token.write_text(TOKEN)
    http_options = ["--http", "127.0.0.1:0", "--http-token-file", str(token)]
    node = Party(tmp_path_factory.mktemp("nodes") / "alpha", "alpha")
    node.join("--discover", f"static://{beta.via}", *http_options, made=authorities.issue("alpha"))
    met(node, is_open=True)
    yield node
    node.clean_up()


@pytest.fixture
def dead(beta: Party) -> Iterator[list[str]]:
    """The ids of two tasks that have died on beta of a KeyError, one after the other."""
    ids = []
    for _ in range(2):
        ids.append(send_to_spooler({"without": "n"}, via=beta.via))
        beta.wait_for_log("dead", id=ids[-1])
    yield ids
    done(beta, "DELETE", "/dead")


def test_what_another_node_shows_is_what_it_shows_itself(alpha: Party, beta: Party, dead: list[str]) -> None:
    from jsonschema import Draft202012Validator

    routes: list[Route] = table(*[NO_HANDLERS] * 5)
    for route in routes:
        if route.method == "GET" and route.travels and route.path not in ("/tasks/{id}", "/forget"):
            answer = done(alpha, "GET", f"/nodes/beta{route.path}")
            content = description()["paths"][route.path]["get"]["responses"]["200"]["content"]["application/json"]
            Draft202012Validator({**content["schema"], "components": description()["components"]}).validate(answer)
    assert done(alpha, "GET", "/nodes/beta/node")["id"] == beta.id
    listed = done(alpha, "GET", f"/nodes/{beta.id}/tasks?state=dead")
    assert listed == done(beta, "GET", "/tasks?state=dead")
    assert {row["id"] for row in listed["items"]} == set(dead)
    told = done(alpha, "GET", f"/nodes/beta/tasks/{dead[0]}")
    assert told == done(beta, "GET", f"/tasks/{dead[0]}")
    assert [step["event"] for step in told["story"]] == ["accepted", "attempt", "dead"]
    assert "without" in json.dumps(told), "its arguments are there"


def test_what_is_done_on_another_node_is_done_there_and_its_log_says_by_whom(alpha: Party, beta: Party, dead: list[str]) -> None:
    assert done(alpha, "POST", "/nodes/beta/dead/retry?error=KeyError&limit=1") == {
        "ready": 1,
        "left": 1,
        "next": None,
        "missing": "",
    }
    beta.wait_for_log("asked", what="POST /api/v1/dead/retry?error=KeyError&limit=1", by=" on alpha")
    alpha.wait_for_log("asked", what="POST /api/v1/nodes/beta/dead/retry?error=KeyError&limit=1", by="uid ")
    beta.wait_for_log("dead", id=dead[0], count=2)
    assert done(alpha, "POST", f"/nodes/beta/tasks/{dead[1]}/retry")["ready"] is True
    beta.wait_for_log("dead", id=dead[1], count=2)
    assert done(alpha, "DELETE", f"/nodes/beta/tasks/{dead[0]}")["removed"] is True
    waiting = send_to_spooler({"n": "1", "at": "4000000000"}, via=beta.via)
    assert done(alpha, "POST", f"/nodes/beta/tasks/{waiting}/cancel")["outcome"] == "cancelled"
    assert " on alpha" in json.dumps(done(beta, "GET", f"/tasks/{waiting}")["story"])
    assert done(alpha, "POST", "/nodes/beta/pause?function=x%3Ay%20z")["functions"] == ["x:y z"]
    assert done(beta, "GET", "/pauses")["functions"] == ["x:y z"]
    assert done(alpha, "POST", "/nodes/beta/resume")["functions"] == []


def test_a_list_of_many_packets_comes_whole_and_one_that_is_too_large_says_so(alpha: Party, beta: Party) -> None:
    sent = send_many([{"n": str(n), "at": "4000000000"} for n in range(1000)], via=beta.via, send_timeout=PATIENCE)
    listed = done(alpha, "GET", "/nodes/beta/tasks?state=later&limit=100000")
    assert len(json.dumps(listed)) > 3 * 65536, "it takes several packets"
    assert sorted(row["id"] for row in listed["items"]) == sorted(sent)
    for _ in range(15):
        send_many([{"n": str(n), "at": "4000000000"} for n in range(1000)], via=beta.via, send_timeout=PATIENCE)
    status, problem = asked(alpha, "GET", "/nodes/beta/tasks?state=later&limit=100000")
    assert (status, "`limit` asks for less" in problem["detail"]) == (400, True)


def test_what_beta_declines_is_a_problem_of_alpha_too(alpha: Party) -> None:
    for method, path, status in (
        ("GET", "/nodes/gamma/tasks", 404), ("GET", "/nodes/beta/nothing", 404), ("POST", "/nodes/beta/node", 405),
        ("GET", "/nodes/beta/tasks/0123456789ab_1_80", 404), ("GET", "/nodes/beta/tasks?limit=0", 400),
        ("GET", "/nodes/beta/tasks?x=1", 400),
    ):  # fmt: skip
        got, problem = asked(alpha, method, path)
        assert (got, problem["status"]) == (status, status), (path, problem)


def test_some_things_are_passed_on_by_no_node(alpha: Party) -> None:
    for method, path in (("GET", "/events"), ("POST", "/web-links"), ("GET", "/nodes/alpha/tasks")):
        status, problem = asked(alpha, method, f"/nodes/beta{path}")
        assert (status, problem["detail"]) == (404, f"operators of other nodes find no '{path}' here")


def test_without_a_session_on_alpha_nothing_of_beta_is_shown_or_done(alpha: Party, beta: Party) -> None:
    before = len(beta.lines("asked"))
    host, _, port = alpha.lines("ready")[-1]["http"].rpartition(":")
    for method, path in (("GET", "/nodes/beta/node"), ("GET", "/nodes/beta/dead"), ("POST", "/nodes/beta/pause")):
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        status, problem = requested(connection, method, path)
        assert (status, "needs a session" in problem["detail"]) == (401, True)
        connection.close()
    assert beta.lines("asked")[before:] == []
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    status, _ = requested(connection, "POST", "/nodes/beta/pause", Authorization=f"Bearer {TOKEN}")
    connection.close()
    assert status == 200
    beta.wait_for_log("asked", what="POST /api/v1/pause", by="token from 127.0.0.1 on alpha")
    done(beta, "POST", "/resume")


# -- who gets nothing --


def declined(alpha: Party, status: int, *reason: str) -> None:
    """Beta shows and does nothing; the problem says why, and where beta's own page is."""
    for method, path in (("GET", "/nodes/beta/dead"), ("POST", "/nodes/beta/dead/retry")):
        got, problem = asked(alpha, method, path)
        assert got == status, problem
        assert any(each in problem["detail"] for each in reason), problem
        assert problem["page"] == row_of_beta(alpha)["page"]


def join(party: Make, authorities: Authorities, beta: Party, *args: str, name: str = "gamma") -> Party:
    """Another node with a certificate, which knows beta."""
    return party(name).join("--discover", f"static://{beta.via}", *args, made=authorities.issue(name))


def test_operators_of_a_node_that_is_not_named_get_nothing(
    party: Make, authorities: Authorities, beta: Party, dead: list[str]
) -> None:
    before = len(beta.lines("asked"))
    gamma = join(party, authorities, beta)
    met(gamma, is_open=False)
    declined(gamma, 403, "operators of gamma may not see or change anything here: --trust-operators-of gamma would let them")
    beta.wait_for_log("refused", why="forbidden", reason="operators of gamma")
    assert row_of_beta(gamma)["page"].startswith("http://127.0.0.1:")
    assert len(beta.dead()) == len(dead)
    assert beta.lines("asked")[before:] == []


def test_without_being_told_to_a_node_trusts_no_operators_of_others_and_all_means_each_node(
    party: Make, authorities: Authorities
) -> None:
    beta = party("beta").join(made=authorities.issue("beta"))
    gamma = join(party, authorities, beta)
    met(gamma, is_open=False)
    declined(gamma, 403, "operators of gamma may not")
    beta.stop()
    beta.join("--trust-operators-of", "all", "-s", beta.via, made=authorities.issue("beta"))
    met(gamma, is_open=True)
    assert done(gamma, "POST", "/nodes/beta/drain")["draining"] is True
    eventually(lambda: not beta.is_running, "it has stopped")
    status, problem = asked(gamma, "GET", "/nodes/beta/node")
    assert (status, problem["detail"].partition(":")[0]) == (502, "beta cannot be asked, and nothing was done")


def test_without_tls_a_node_has_nothing_passed_on(party: Make) -> None:
    beta = party("beta").join("--http", "127.0.0.1:0")
    alpha = party("alpha").join("--discover", f"static://{beta.via}")
    met(alpha, is_open=False)
    declined(alpha, 403, "contents and actions of beta are open only on its own page: this node has no certificate")


def test_a_node_whose_certificate_beta_does_not_take_gets_nothing(party: Make, authorities: Authorities, beta: Party) -> None:
    other = authorities.issue("alpha", of="other")
    both = authorities.directory / "both.crt"
    both.write_text(Path(other.authority).read_text() + (authorities.directory / "ca" / "ca.crt").read_text())
    uri = authorities.directory / "peers.json"
    uri.write_text(json.dumps([{"targets": [beta.via], "labels": {"id": beta.id, "name": "beta"}}]))
    alpha = party("alpha").join("--discover", f"file://{uri}", "--tls-ca", str(both), made=other)
    eventually(lambda: asked(alpha, "GET", "/nodes/beta/dead")[0] != 404, "alpha has read of beta")
    declined(alpha, 403, "its certificate is not accepted", "does not accept", "not accepted")
    beta.wait_for_log("handshake_failed", reason="its certificate is not accepted")


def test_what_no_node_with_a_certificate_asks_for_is_refused_and_logged(
    authorities: Authorities, alpha: Party, beta: Party, dead: list[str]
) -> None:
    needed = "FORBIDDEN: what tasks contain, and actions, are open only to nodes with a certificate (mutual TLS) that said hello"
    assert say(beta, None, DEAD_OF_BETA) == [needed], "a program without a certificate"
    beta.wait_for_log("refused", why="forbidden", reason="mutual TLS")
    mallory, as_alpha = (authorities.context(authorities.issue(name)) for name in ("mallory", "alpha"))
    assert say(beta, mallory, DEAD_OF_BETA) == [needed], "a node that has not said hello"
    of_mallory = [answer for answer in say(beta, mallory, hello(), DEAD_OF_BETA) if answer != "pong"]
    assert [answer.partition(" may not")[0] for answer in of_mallory] == ["FORBIDDEN: operators of mallory"]
    staging = say(beta, as_alpha, hello(name="alpha", cluster="staging"), DEAD_OF_BETA)
    assert "belongs to the cluster 'default'" in staging[0], "a node of another cluster with the right name"
    with connection(beta, as_alpha) as sock:
        sock.sendall(hello(id=alpha.id, name="alpha"))
        assert understood(*read_answers(sock, 1)[0]) == "pong"
        sock.sendall(DEAD_OF_BETA)
        answer = OperationReader().add(read_answers(sock, 1)[0])
    assert answer is not None
    assert (answer.status, json.loads(answer.body)["tasks"]) == (200, len(dead)), "this is how it would be asked"


def test_a_client_certificate_that_is_not_a_nodes_opens_nothing(authorities: Authorities, beta: Party) -> None:
    ca, out = authorities.directory / "ca", authorities.directory / "person"
    out.mkdir()
    for line in (
        "openssl req -newkey rsa:2048 -nodes -keyout {out}/ada.key -out {out}/ada.csr -subj /CN=alpha",
        "openssl x509 -req -in {out}/ada.csr -CA {ca}/ca.crt -CAkey {ca}/ca.key -CAcreateserial -out {out}/ada.crt -days 2",
    ):
        subprocess.run(line.format(ca=ca, out=out).split(), check=True, capture_output=True)
    context = authorities.context(None)
    context.load_cert_chain(out / "ada.crt", out / "ada.key")
    assert "pong" not in say(beta, context, hello(name="alpha"), DEAD_OF_BETA)
    beta.wait_for_log("handshake_failed", reason="its certificate")


def test_another_node_with_the_address_and_the_id_of_beta_hears_nothing(party: Make, authorities: Authorities) -> None:
    beta = party("beta").join("--trust-operators-of", "alpha", made=authorities.issue("beta"))
    alpha = party("alpha").join("--discover", f"static://{beta.via}", made=authorities.issue("alpha"))
    met(alpha, is_open=True)
    beta.kill9()
    port = int(beta.via.rpartition(":")[2])
    mallory = FakeNode(status_of(beta.id, "mallory"), server_context(authorities.issue("mallory")), port)
    status, problem = asked(alpha, "POST", "/nodes/beta/pause?function=shop:pay")
    assert status in (403, 502), problem
    assert not any(b"shop:pay" in said for said in mallory.got)
    mallory.close()


def test_a_revoked_node_gets_nothing_more(party: Make, authorities: Authorities) -> None:
    from spoolnode.cluster import authority as ca

    crl = authorities.directory / "mine" / "ca.crl"
    made = authorities.issue("beta", of="mine")
    ca.revoke(authorities.directory / "mine")
    beta = party("beta").join("--trust-operators-of", "all", "--tls-crl", str(crl), made=made)
    alpha = party("alpha").join("--discover", f"static://{beta.via}", made=authorities.issue("alpha", of="mine"))
    met(alpha, is_open=True)
    assert done(alpha, "GET", "/nodes/beta/dead")["tasks"] == 0
    ca.revoke(authorities.directory / "mine", "alpha")
    os.kill(beta.pid, signal.SIGHUP)
    beta.wait_for_log("tls_reloaded", revoked=1)
    status, problem = asked(alpha, "GET", "/nodes/beta/dead")
    assert (status, "revoked" in problem["detail"]) == (403, True), problem
    beta.wait_for_log("handshake_failed", reason="revoked")
