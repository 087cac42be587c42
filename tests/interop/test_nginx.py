"""A real nginx in front of a node: the three lines of uWSGI's manual are enough, and every refusal says why."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from real_programs import LINES, NGINX, Lines, Nginx
from support import RunningNode, eventually, need

from spoolnode.protocol.names import is_task_id

APP = (
    LINES
    + """
import hashlib
import json
import time
from spoolnode import uwsgi

def spooler(env):
    body = env.pop("body", b"")
    sha256 = hashlib.sha256(body).hexdigest()
    write_line(json.dumps({"env": env, "length": len(body), "sha256": sha256}))
    while "wait_for" in env and not os.path.exists(env["wait_for"]):
        time.sleep(0.01)

uwsgi.spooler = spooler
"""
)

# The block of the manual's page, as it stands there but for the address.
MANUAL = """
location /sendmassmail {
    uwsgi_pass ADDRESS;
    uwsgi_modifier1 17;
    uwsgi_param ToGroup customers;
}
"""
WITH_PARAMS = """
location /params {
    include /etc/nginx/uwsgi_params;
    uwsgi_pass ADDRESS;
    uwsgi_modifier1 17;
}
"""


def block(path: str, *lines: str) -> str:
    """The manual's block with further lines."""
    return MANUAL.replace("/sendmassmail", path).replace("}", "\n".join([*lines, "}"]))


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, node: RunningNode, place: Path) -> str:
    """The address to which nginx passes requests; the node with the application above listens there."""
    need(NGINX)
    path = f"{place}/node.sock"
    node.start("--listen", "127.0.0.1:0", "--listen", path, "--chmod-socket", "666", app=APP)
    return node.via if request.param == "tcp" else f"unix:{path}"


@pytest.fixture
def tasks(node: RunningNode) -> Lines:
    """The tasks that the application got."""
    return Lines(node.directory)


def start(nginx: Nginx, address: str, *locations: str) -> None:
    nginx.start("".join(locations).replace("ADDRESS", address))


def given(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def accepted(answer: tuple[int, dict[str, str], bytes]) -> str:
    """The id in a 202."""
    status, headers, content = answer
    assert status == 202, content
    assert headers["Content-Type"] == "application/json"
    identity: str = json.loads(content)["id"]
    assert identity == headers["X-Spool-Id"]
    assert is_task_id(identity)
    return identity


def refused(answer: tuple[int, dict[str, str], bytes], status: int, reason: str) -> dict[str, str]:
    """The headers of a refusal."""
    found, headers, content = answer
    assert found == status, content
    assert reason in json.loads(content)["error"]
    assert "X-Spool-Id" not in headers
    return headers


def pieces_of(data: bytes, size: int = 50_000) -> Iterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


def is_whole(task: dict[str, Any], body: bytes) -> bool:
    return bool(task["length"] == len(body) and task["sha256"] == hashlib.sha256(body).hexdigest())


def test_three_lines_of_the_manual_enqueue(nginx: Nginx, address: str, tasks: Lines, node: RunningNode) -> None:
    start(nginx, address, MANUAL)
    identity = accepted(nginx.ask("GET", "/sendmassmail"))
    (task,) = given(tasks.wait())
    assert task["env"]["ToGroup"] == "customers"
    assert task["env"]["spooler_task_name"].endswith(identity)
    assert task["length"] == 0
    node.wait_for_log("done", id=identity)
    # Every method, any path below, and a client that speaks HTTP/1.0 with a Host.
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        accepted(nginx.ask(method, "/sendmassmail/any?thing=1"))
    status, headers, content = nginx.ask("HEAD", "/sendmassmail")
    assert (status, content) == (202, b"")
    assert headers["X-Spool-Id"]
    assert all(task["env"]["ToGroup"] == "customers" for task in given(tasks.wait(6)))


SECRET = {"Cookie": "session=abc", "Authorization": "Basic eDp5", "Proxy-Authorization": "Basic eDp5", "X-Api-Key": "k"}


def test_secrets_of_visitors_are_not_stored(nginx: Nginx, address: str, tasks: Lines, node: RunningNode) -> None:
    start(nginx, address, MANUAL, WITH_PARAMS)
    for path in ("/sendmassmail", "/params"):
        accepted(nginx.ask("POST", path, b"hello", **{**SECRET, "X-Request-Id": "7"}))
    for task in given(tasks.wait(2)):
        assert task["env"]["HTTP_X_REQUEST_ID"] == "7"
        assert not {"HTTP_COOKIE", "HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_API_KEY"} & set(task["env"])
        assert task["length"] == 5
    stored = b"".join(path.read_bytes() for path in node.spool.rglob("*") if path.is_file())
    assert b"session=abc" not in stored
    assert b"eDp5" not in stored


def test_a_header_that_the_operator_names_is_stored(nginx: Nginx, node: RunningNode, tasks: Lines) -> None:
    need(NGINX)
    node.start("--keep-header", "Cookie", "--keep-header", "X-Api-Key", app=APP)
    start(nginx, node.via, MANUAL)
    accepted(nginx.ask("GET", "/sendmassmail", **SECRET))
    (task,) = given(tasks.wait())
    assert (task["env"]["HTTP_COOKIE"], task["env"]["HTTP_X_API_KEY"]) == ("session=abc", "k")
    assert "HTTP_AUTHORIZATION" not in task["env"]


@pytest.mark.parametrize("mistake", ["no modifier", "proxy_pass", "args"])
def test_a_mistake_in_the_block_is_answered_with_what_to_change(nginx: Nginx, node: RunningNode, mistake: str) -> None:
    need(NGINX)
    node.start()
    blocks = {
        "no modifier": (WITH_PARAMS.replace("uwsgi_modifier1 17;", ""), 400, "add `uwsgi_modifier1 17;`"),
        "proxy_pass": ("location /params {\n proxy_pass http://ADDRESS;\n}\n", 400, "use `uwsgi_pass` instead"),
        "args": (WITH_PARAMS.replace("}", "    uwsgi_param args $args;\n}"), 403, "`uwsgi_param query $args;`"),
    }
    location, status, reason = blocks[mistake]
    start(nginx, node.via, location)
    refused(nginx.ask("GET", "/params?x=1"), status, reason)
    refused(nginx.ask("POST", "/params", b"x" * 300_000), status, reason)


def test_body_of_three_megabytes_arrives_whole(nginx: Nginx, address: str, tasks: Lines) -> None:
    start(nginx, address, MANUAL, block("/unbuffered", "uwsgi_request_buffering off;"), WITH_PARAMS)
    body = random.Random(17).randbytes(3_000_000)
    for path in ("/sendmassmail", "/unbuffered", "/params"):
        accepted(nginx.ask("POST", path, body))
    assert all(is_whole(task, body) for task in given(tasks.wait(3)))


def test_chunked_body_arrives_whole_with_uwsgi_params(nginx: Nginx, address: str, tasks: Lines) -> None:
    # nginx counts the body and tells its length in CONTENT_LENGTH; unbuffered it gathers chunks nevertheless.
    unbuffered = WITH_PARAMS.replace("/params", "/off").replace("}", "uwsgi_request_buffering off; }")
    start(nginx, address, WITH_PARAMS, unbuffered)
    large, small = random.Random(17).randbytes(3_000_000), b"a few bytes"
    for path in ("/params", "/off"):
        for body in (large, small):
            accepted(nginx.ask("POST", path, pieces_of(body)))
    lengths = Counter(task["length"] for task in given(tasks.wait(4)))
    assert lengths == {len(large): 2, len(small): 2}
    assert all(is_whole(task, large) or is_whole(task, small) for task in given(tasks()))


def test_chunked_body_without_its_length_is_refused_with_411(nginx: Nginx, address: str, node: RunningNode) -> None:
    # With the three lines alone nginx sends the header `Transfer-Encoding`, the decoded body, and no length.
    start(nginx, address, MANUAL)
    for body in (b"a few bytes", random.Random(17).randbytes(3_000_000)):
        refused(nginx.ask("POST", "/sendmassmail", pieces_of(body)), 411, "uwsgi_param CONTENT_LENGTH $content_length;")
    assert node.status()["accepted"] == 0


def test_empty_bodies_are_no_bodies(nginx: Nginx, address: str, tasks: Lines) -> None:
    start(nginx, address, MANUAL, WITH_PARAMS)
    accepted(nginx.ask("POST", "/sendmassmail", b""))
    accepted(nginx.ask("POST", "/params", b""))
    accepted(nginx.ask("GET", "/params"))
    accepted(nginx.ask("POST", "/params", iter([])))  # chunked, and nothing in it
    assert [task["length"] for task in given(tasks.wait(4))] == [0] * 4


def test_parallel_clients_that_keep_their_connections_lose_nothing(nginx: Nginx, address: str, tasks: Lines) -> None:
    start(nginx, address, MANUAL)

    def posts(client_number: int) -> list[str]:
        client = nginx.client()
        identities = []
        for number in range(20):
            client.request("POST", "/sendmassmail", f"{client_number}.{number}".encode())
            answer = client.getresponse()
            identities.append(accepted((answer.status, dict(answer.getheaders()), answer.read())))
        client.close()
        return identities

    with ThreadPoolExecutor(10) as threads:
        identities = [identity for found in threads.map(posts, range(10)) for identity in found]
    assert len(set(identities)) == 200
    ran = given(tasks.wait(200))
    names = Counter(task["env"]["spooler_task_name"].removeprefix("uwsgi_spoolfile_on_") for task in ran)
    assert names == Counter(identities)
    bodies = {hashlib.sha256(f"{c}.{n}".encode()).hexdigest() for c in range(10) for n in range(20)}
    assert {task["sha256"] for task in ran} == bodies


@pytest.mark.on_disk("a task for another node waits in the store, and not in the outbox")
@pytest.mark.parametrize("address", ["tcp"], indirect=True)
def test_nginx_alone_names_the_node_the_time_and_the_priority(
    nginx: Nginx, address: str, tasks: Lines, node: RunningNode
) -> None:
    start(
        nginx, address,
        block("/here", "uwsgi_param spool_node testnode;"),
        block("/elsewhere", "uwsgi_param spool_node alpha;"),
        block("/first", "uwsgi_param priority 3;"),
        block("/later", "uwsgi_param at $arg_at;"),
    )  # fmt: skip
    accepted(nginx.ask("POST", "/here", b"x"))
    tasks.wait()
    identity = accepted(nginx.ask("POST", "/elsewhere", b"x"))
    waiting = json.loads(node.command("ls", "--outbox", "--json").stdout)
    assert [(task["id"], task["destination"]) for task in waiting] == [(identity, "alpha")]
    accepted(nginx.ask("GET", "/first"))
    assert given(tasks.wait(2))[1]["env"]["priority"] == "3"
    accepted(nginx.ask("GET", "/later?at=4000000000"))
    assert node.status()["later"] == 1
    accepted(nginx.ask("GET", "/later"))  # `at` is empty: at once
    tasks.wait(3)


@pytest.mark.parametrize("address", ["tcp"], indirect=True)
def test_refusals_come_with_their_status_and_reason(nginx: Nginx, address: str, node: RunningNode) -> None:
    pickled = ("uwsgi_param ud_spool_func f;", "uwsgi_param args x;")
    start(
        nginx, address,
        block("/priority", "uwsgi_param priority ../evil;"),
        block("/at", "uwsgi_param at tomorrow;"),
        block("/spooler", "uwsgi_param spooler /var/spool/other;"),
        block("/node", "uwsgi_param spool_node ../evil;"),
        block("/reserved", "uwsgi_param spool_origin me;"),
        block("/pickled", *pickled),
    )  # fmt: skip
    for body in (b"", b"with a body" * 100_000):
        refused(
            nginx.ask("POST", "/priority", body), 400, "`priority` is '../evil'; it must be a whole number from 0 to 9999999999"
        )
        refused(nginx.ask("POST", "/at", body), 400, "`at` is 'tomorrow'")
        refused(nginx.ask("POST", "/spooler", body), 400, "`spooler` is '/var/spool/other'")
        refused(nginx.ask("POST", "/node", body), 400, "`spool_node` is '../evil'")
        refused(nginx.ask("POST", "/reserved", body), 403, "`spool_origin` is reserved")
        refused(nginx.ask("POST", "/pickled", body), 403, "pickled arguments")
    assert node.status()["accepted"] == 0
    assert not list(node.spool.glob("**/*evil*"))


def test_pickled_arguments_are_refused_also_by_unix_socket(nginx: Nginx, address: str, node: RunningNode) -> None:
    # The local user may send them, but a client of nginx is not the local user.
    start(nginx, address, block("/pickled", "uwsgi_param ud_spool_func f;", "uwsgi_param args x;"))
    refused(nginx.ask("POST", "/pickled", b"x"), 403, "pickled arguments")
    assert node.status()["accepted"] == 0


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_body_over_the_limit_is_refused_while_nginx_sends_it(nginx: Nginx, node: RunningNode, buffering: str) -> None:
    need(NGINX)
    node.start("--max-body", "1M", app=APP)
    start(nginx, node.via, block("/sendmassmail", f"uwsgi_request_buffering {buffering};"))
    answer = nginx.ask("POST", "/sendmassmail", bytes(3_000_000)) if buffering == "on" else slow_post(nginx, 3_000_000)
    refused(answer, 413, "--max-body")
    accepted(nginx.ask("POST", "/sendmassmail", bytes(1 << 20)))
    eventually(lambda: node.status()["connections"] == 0, "refused connections end")
    eventually(lambda: not list(node.spool.glob("tmp/*upload*")), "nothing of what was refused is left")


def slow_post(nginx: Nginx, length: int) -> tuple[int, dict[str, str], bytes]:
    """Announces a body, sends the tenth of it, and waits for the answer before it sends the rest."""
    client = nginx.client()
    client.putrequest("POST", "/sendmassmail")
    client.putheader("Content-Length", str(length))
    client.endheaders(bytes(length // 10))
    answer = client.getresponse()
    content = answer.read()
    client.close()
    return answer.status, dict(answer.getheaders()), content


def test_full_disk_is_507_and_says_when_to_try_again(nginx: Nginx, node: RunningNode) -> None:
    need(NGINX)
    node.start("--min-free", str(10**17))
    start(nginx, node.via, MANUAL)
    for body in (b"", b"some", bytes(3_000_000)):
        headers = refused(nginx.ask("POST", "/sendmassmail", body), 507, "--min-free")
        assert headers["Retry-After"] == "5"


def test_a_stopping_node_takes_tasks_that_run_after_its_next_start(nginx: Nginx, node: RunningNode, tasks: Lines) -> None:
    need(NGINX)
    node.start(app=APP)
    start(
        nginx, node.via,
        block("/sendmassmail", "uwsgi_request_buffering off;"), block("/long", "uwsgi_param wait_for $arg_file;"),
    )  # fmt: skip
    go_on = node.directory / "go_on"
    accepted(nginx.ask("GET", f"/long?file={go_on}"))
    tasks.wait()
    eventually(lambda: node.status()["connections"] == 0, "that connection has ended")
    client = nginx.client()
    client.putrequest("POST", "/sendmassmail")
    client.putheader("Content-Length", "2000")
    client.endheaders(bytes(1000))
    eventually(lambda: node.status()["connections"] == 1, "the node has the connection with the first half")
    os.kill(node.pid, signal.SIGTERM)
    node.wait_for_log("stopping")
    client.send(bytes(1000))
    answer = client.getresponse()
    accepted((answer.status, dict(answer.getheaders()), answer.read()))
    client.close()
    go_on.touch()
    assert node.wait() == 0
    node.start(app=APP)
    eventually(lambda: node.status()["done"] == 1, "it runs")


def test_nginx_goes_to_the_next_node_when_one_is_down(
    nginx: Nginx, node: RunningNode, other_node: RunningNode, tasks: Lines
) -> None:
    need(NGINX)
    node.start(app=APP)
    other_node.start()
    nginx.start(
        MANUAL.replace("ADDRESS", "nodes"),
        http=f"upstream nodes {{ server {other_node.via}; server {node.via}; }}",
    )
    other_node.stop()
    for number in range(1, 5):
        accepted(nginx.ask("POST", "/sendmassmail", b"x"))
        tasks.wait(number)


def test_body_of_a_client_that_goes_away_is_nothing(nginx: Nginx, node: RunningNode) -> None:
    need(NGINX)
    node.start()
    start(nginx, node.via, block("/sendmassmail", "uwsgi_request_buffering off;"))
    for sent in (100, 600_000):
        with socket.create_connection(("127.0.0.1", nginx.port)) as sock:
            head = "POST /sendmassmail HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
            sock.sendall(head.encode() + bytes(sent))
            eventually(lambda: node.status()["connections"] == 1, "the node has the first half")
        eventually(lambda: node.status()["connections"] == 0, "it notices")
    assert node.status()["total"] == 0
    eventually(lambda: not list(node.spool.glob("tmp/*upload*")), "nothing is left behind")


def test_http2_bodies_arrive_whole_or_are_refused(nginx: Nginx, address: str, node: RunningNode, tasks: Lines) -> None:
    # HTTP/2 has neither chunks nor the need for a length.
    curl = need("curl")
    nginx.start((MANUAL + WITH_PARAMS).replace("ADDRESS", address), server=f"listen unix:{nginx.directory}/h2 http2;")
    body = random.Random(17).randbytes(300_000)

    def post(path: str, *how: str) -> str:
        options = ["-s", "--http2-prior-knowledge", "--unix-socket", f"{nginx.directory}/h2", "-w", " %{http_code}"]
        done = subprocess.run([curl, *options, *how, f"http://a{path}"], input=body, capture_output=True, check=True)
        return done.stdout.decode().split()[-1]

    assert post("/sendmassmail", "--data-binary", "@-") == "202"
    assert post("/params", "-X", "POST", "-T", "-") == "202"
    assert post("/sendmassmail", "-X", "POST", "-T", "-") == "411"
    assert [is_whole(task, body) for task in given(tasks.wait(2))] == [True, True]
    assert node.status()["accepted"] == 2
