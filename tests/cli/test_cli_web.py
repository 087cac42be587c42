"""`--http` of a real node: strangers and their pages learn nothing of tasks and change nothing; sessions and tokens may."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import RunningNode, eventually

import spoolnode
from spoolnode.node.config import DEFAULT_HTTP
from spoolnode.node.control.routes import ACTIONS, CONTENTS, NUMBERS, OWNER, PREFIX, description

SECRET = "s3cret-of-a-customer"
TOKEN = "correct-horse-battery-staple"
APP = f"""
from spoolnode import spool

@spool(name="web.mail")
def mail(**_):
    raise ValueError("{SECRET} in an error")
"""


@spoolnode.spool(name="web.mail")
def mail(**_: str) -> None: ...


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes


class Browser:
    """Sends requests as they are asked for, to a node's HTTP port."""

    def __init__(self, node: RunningNode) -> None:
        self.host = node.lines("ready")[-1]["http"]

    def __call__(self, method: str, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        for name, value in {"Host": self.host, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return Answer(answer.status, answer.headers, body)

    @property
    def origin(self) -> str:
        return f"http://{self.host}"


def logged_in(node: RunningNode, browser: Browser) -> str:
    """The cookie of a new session."""
    done = node.command("web")
    assert done.returncode == 0, done.stderr
    link = done.stdout.strip()
    assert link.startswith(browser.origin)
    answer = browser("GET", link.removeprefix(browser.origin))
    assert (answer.status, answer.headers["Location"].startswith("/")) == (303, True)
    return str(answer.headers["Set-Cookie"])


def paths(*needs: str) -> list[tuple[str, str]]:
    """Methods and paths of the API that need one of these, with ids filled in."""
    found = description()["paths"]
    return [
        (method.upper(), PREFIX + path.format(id="0123456789ab_1_80", node="beta", path="tasks"))
        for path, methods in found.items()
        for method, said in methods.items()
        if said["x-needs"] in needs
    ]


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return str(path)


@pytest.fixture
def open_node(node: RunningNode, token_file: str) -> RunningNode:
    """It has a dead task and a waiting one, both with a secret, and a token."""
    node.start("--http", "127.0.0.1:0", "--http-token-file", token_file, "--max-attempts", "1", app=APP)
    mail.options(via=node.via).spool(name=SECRET)
    spoolnode.send_to_spooler({"name": SECRET, "at": "4000000000"}, via=node.via)
    eventually(lambda: node.status()["dead"] == 1, "it has died")
    return node


def test_without_a_session_there_are_numbers_and_no_contents_in_any_byte(open_node: RunningNode) -> None:
    browser = Browser(open_node)
    identity = json.loads(open_node.command("ls", "--json").stdout)[0]["id"]
    for method, path in paths(NUMBERS):
        answer = browser(method, path)
        assert answer.status == (409 if path == f"{PREFIX}/forget" else 200), path  # it was not told which node
        assert SECRET.encode() not in answer.body + bytes(answer.headers), path
        assert identity.encode() not in answer.body, path
    for method, path in [
        *paths(CONTENTS, ACTIONS),
        ("GET", f"{PREFIX}/tasks/{identity}"),
        ("DELETE", f"{PREFIX}/tasks/{identity}"),
    ]:
        answer = browser(method, path, Origin=browser.origin)
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (method, path)
        assert SECRET.encode() not in answer.body + bytes(answer.headers)
    for method, path in paths(OWNER):
        assert browser(method, path, Origin=browser.origin, Authorization=f"Bearer {TOKEN}").status == 404, "only on the socket"
    assert SECRET.encode() not in browser("GET", "/metrics").body
    assert open_node.status()["total"] == 1, "nothing was changed"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9031", "127.0.0.1.evil.example", "", "192.0.2.1"])
def test_a_foreign_host_is_403_whoever_asks(open_node: RunningNode, host: str) -> None:
    browser = Browser(open_node)
    for path in (f"{PREFIX}/node", f"{PREFIX}/tasks", "/login?code=x", "/"):
        answer = browser("GET", path, Host=host, Authorization=f"Bearer {TOKEN}")
        assert answer.status == 403, path
        assert SECRET.encode() not in answer.body
    assert browser("GET", "/metrics", Host=host or "web1").status == 200, "Prometheus asks under any name"
    assert browser("GET", "/livez", Host=host or "web1").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example", ""])
def test_a_page_of_a_stranger_gets_403_also_with_the_session(open_node: RunningNode, origin: str) -> None:
    browser = Browser(open_node)
    cookie = logged_in(open_node, browser).partition(";")[0]
    for method, path in (("GET", f"{PREFIX}/node"), ("GET", f"{PREFIX}/tasks"), ("POST", f"{PREFIX}/pause")):
        answer = browser(method, path, Cookie=cookie, Origin=origin)
        assert answer.status == 403, path
        assert SECRET.encode() not in answer.body
    assert browser("POST", f"{PREFIX}/pause", Cookie=cookie).status == 403, "an action without an Origin"
    assert not open_node.status()["pauses"]["everything"]


def test_a_link_works_once_and_its_session_may_look_and_act_until_the_node_ends(open_node: RunningNode, token_file: str) -> None:
    browser = Browser(open_node)
    link = json.loads(open_node.command("web", "--json").stdout)
    assert link["expires_in_seconds"] > 0
    path = link["url"].removeprefix(browser.origin)
    given = browser("GET", path).headers["Set-Cookie"]
    again = browser("GET", path)
    assert (again.status, again.headers["Set-Cookie"]) == (403, None)
    attributes = {part.strip().partition("=")[0].lower() for part in given.split(";")[1:]}
    assert {"httponly", "samesite", "max-age", "path"} <= attributes
    assert "SameSite=Strict" in given
    cookie = given.partition(";")[0]
    answer = browser("GET", f"{PREFIX}/tasks?state=dead", Cookie=cookie)
    assert json.loads(answer.body)["items"][0]["reason"] == f"ValueError: {SECRET} in an error"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert browser("DELETE", f"{PREFIX}/dead", Cookie=cookie, Origin=browser.origin).status == 200
    said = open_node.wait_for_log("asked", what=f"DELETE {PREFIX}/dead")
    assert said["by"].startswith("session ")
    assert said["by"].endswith(" from 127.0.0.1")
    assert cookie.partition("=")[2] not in "".join(map(str, open_node.log)), "no secret is in the log"
    assert browser("GET", f"{PREFIX}/tasks", Cookie=f"{cookie[:-1]}{'a' if cookie[-1] != 'a' else 'b'}").status == 401
    assert open_node.stop() == 0
    open_node.start("--http", "127.0.0.1:0", "--http-token-file", token_file)
    browser = Browser(open_node)
    assert browser("GET", f"{PREFIX}/tasks", Cookie=cookie).status == 401


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Bearer {TOKEN.upper()}", f"Basic {TOKEN}", TOKEN,
        "Bearer \xff",
    ],
)  # fmt: skip
def test_a_wrong_token_opens_nothing(open_node: RunningNode, authorization: str) -> None:
    browser = Browser(open_node)
    answer = browser("GET", f"{PREFIX}/tasks", Authorization=authorization)
    assert answer.status == 401
    assert SECRET.encode() not in answer.body


def test_the_right_token_opens_contents_and_actions_and_the_log_says_so(open_node: RunningNode) -> None:
    browser = Browser(open_node)
    answer = browser("GET", f"{PREFIX}/tasks?state=later", Authorization=f"Bearer {TOKEN}")
    (task,) = json.loads(answer.body)["items"]
    shown = browser("GET", f"{PREFIX}/tasks/{task['id']}", Authorization=f"Bearer {TOKEN}")
    assert json.loads(shown.body)["variables"]["name"] == SECRET
    assert browser("DELETE", f"{PREFIX}/tasks/{task['id']}", Authorization=f"bearer {TOKEN}").status == 200
    assert open_node.wait_for_log("asked", what=f"DELETE {PREFIX}/tasks/{task['id']}")["by"] == "token from 127.0.0.1"
    open_node.command("pause")
    assert open_node.wait_for_log("asked", what=f"POST {PREFIX}/pause")["by"].startswith("uid ")


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("short", "a token has at least 16 visible characters"),
        ("two words of a token", "nothing else is in the file"),
        (None, "cannot be read"),
    ],
)
def test_a_token_that_can_be_guessed_or_read_by_mistake_is_an_error_of_the_settings(
    node: RunningNode, token: str | None, sentence: str
) -> None:
    path = node.directory / "token"
    if token is not None:
        path.write_text(token)
    done = node.command("join", "-s", "127.0.0.1:0", "--http-token-file", str(path))
    assert done.returncode == 2
    assert sentence in done.stderr


def test_without_a_token_file_no_token_opens_anything(node: RunningNode) -> None:
    node.start("--http", "127.0.0.1:0")
    browser = Browser(node)
    for authorization in ("Bearer", "Bearer ", "Bearer x"):
        assert browser("GET", f"{PREFIX}/tasks", Authorization=authorization).status == 401


def test_a_default_port_that_is_taken_warns_and_the_node_runs(node: RunningNode) -> None:
    with socket.socket() as taken:
        while not starts_without_port(node, taken):
            node.stop()
        assert DEFAULT_HTTP in node.wait_for_log("http_not_served", level="warning")["reason"]
        done = node.command("web")
        assert done.returncode == 1
        assert "this node does not listen for browsers" in done.stderr
        assert node.command("send", "a=b").returncode == 0


def starts_without_port(node: RunningNode, taken: socket.socket) -> bool:
    """Starts it where its default port is taken. Another program that had the port may just have given it up: then False."""
    host, _, port = DEFAULT_HTTP.partition(":")
    try:
        taken.bind((host, int(port)))
        taken.listen()
    except OSError:
        pass  # another program has it: just as well
    node.start("--http", DEFAULT_HTTP)
    return "http" not in node.lines("ready")[-1]


def test_beyond_loopback_the_networks_that_may_look_are_named(node: RunningNode) -> None:
    done = node.command("join", "-s", "127.0.0.1:0", "--http", "0.0.0.0:0")
    assert done.returncode == 2
    assert "name the networks that may read it with --http-allow CIDR" in done.stderr
    done = node.command("join", "-s", "127.0.0.1:0", "--http-allow", "10.0.0.0/99")
    assert done.returncode == 2
    assert "--http-allow: " in done.stderr
    node.start("--http", "0.0.0.0:0", "--http-allow", "192.0.2.0/24", "--http-name", "tasks.example.org")
    browser = Browser(node)
    browser.host = f"127.0.0.1:{browser.host.rpartition(':')[2]}"
    assert browser("GET", f"{PREFIX}/node", Host="tasks.example.org").status == 200
    assert browser("GET", f"{PREFIX}/node", Host="evil.example").status == 403
