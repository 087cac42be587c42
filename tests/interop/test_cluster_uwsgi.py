"""A real uWSGI server in the cluster: as a destination it takes tasks one a connection, and as a sender it names nodes."""

import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from programs import free_port
from real_programs import LINES, UWSGI, Lines, Uwsgi
from support import PATIENCE, RunningNode, eventually, need

from spoolnode import send_to_spooler, spool
from spoolnode.client.control import ask

pytestmark = pytest.mark.slow

SERVER = (
    LINES
    + """
import json
import uwsgi


def text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def spooler(env):
    task = {text(key): text(value) for key, value in env.items()}
    task.pop("spooler_task_name")
    write_line(json.dumps(sorted(task.items())))
    return uwsgi.SPOOL_OK


uwsgi.spooler = spooler


def application(environ, start_response):
    start_response("200 OK", [])
    return [b"here"]
"""
)

NODE = (
    LINES
    + """
from spoolnode import uwsgi


def spooler(env):
    write_line(env["n"], env.get("spooler_task_name", "")[:19], len(env.get("body", b"")))


uwsgi.spooler = spooler
"""
)


@pytest.fixture
def server(place: Path) -> Iterator[Uwsgi]:
    """A uWSGI server in a directory of its own, not started yet."""
    directory = place / "server"
    directory.mkdir()
    (directory / "server.py").write_text(SERVER)
    program = Uwsgi(directory)
    yield program
    program.end()


@pytest.fixture
def beta(place: Path) -> Iterator[RunningNode]:
    """The second node, not started yet."""
    (place / "beta").mkdir()
    running = RunningNode(place / "beta", "beta")
    yield running
    running.clean_up()


def spooling(server: Uwsgi, *options: str) -> str:
    """Starts it with a spooler; its address."""
    (server.directory / "spool").mkdir(exist_ok=True)
    server.start("-w", "server", "--spooler", str(server.directory / "spool"), "--spooler-frequency", "1", *options)
    return f"127.0.0.1:{server.port}"


def again(server: Uwsgi, address: str) -> None:
    """Starts it once more, with a spooler, and has it listen there too."""
    server.start("-w", "server", "--spooler", str(server.directory / "spool"), "--spooler-frequency", "1", "-s", address)


@spool
def add(a: int, b: int) -> None:
    """Called on a node; a uWSGI server knows nothing of it."""


def outbox(node: RunningNode) -> dict[str, int]:
    """The tasks that wait there for others."""
    status: dict[str, Any] = ask(str(node.spool), "GET", "/node")
    sizes: dict[str, int] = status["outbox"]
    return sizes


def link_failure(node: RunningNode, to: str) -> str:
    """Why the link to a destination failed first."""
    return str(node.wait_for_log("link_failed", destination=to)["reason"])


# -- as a destination --


def test_tasks_for_a_real_uwsgi_run_there_as_it_would_get_them_from_its_own_client(node: RunningNode, server: Uwsgi) -> None:
    to = spooling(server)
    node.start()
    for number in range(40):
        assert send_to_spooler({"n": str(number), "Name": "Serena"}, node=to, via=node.via)
    ran = Lines(server.directory).wait(40)
    assert sorted(ran) == sorted(f'[["Name", "Serena"], ["n", "{number}"]]' for number in range(40))
    eventually(lambda: outbox(node) == {}, "nothing waits")
    assert ask(str(node.spool), "GET", "/node")["forwarded"] == 40
    assert len(Lines(server.directory)()) == 40


@pytest.mark.on_disk("a task that is not due yet waits in the store")
def test_priority_and_time_are_the_servers_own_business(node: RunningNode, server: Uwsgi) -> None:
    to = spooling(server, "--spooler-ordered")
    node.start()
    assert send_to_spooler({"n": "1", "priority": "3"}, node=to, via=node.via)
    assert send_to_spooler({"n": "2", "at": "4000000000"}, node=to, via=node.via)
    Lines(server.directory).wait(1, '[["n", "1"], ["priority", "3"]]')
    eventually(lambda: outbox(node) == {}, "nothing waits")
    left = eventually(lambda: list((server.directory / "spool").glob("uwsgi_spoolfile*")), "it waits there")
    assert [path.stat().st_mtime for path in left] == [4_000_000_000]


@pytest.mark.on_disk("what is given up is dead in the store, and not on the disk")
def test_a_task_with_a_body_is_not_sent_to_a_server_that_would_drop_it(node: RunningNode, server: Uwsgi) -> None:
    to = spooling(server)
    node.start()
    assert send_to_spooler({"n": "1", "body": b"small"}, node=to, via=node.via)
    assert send_to_spooler({"n": "2", "body": os.urandom(300_000)}, node=to, via=node.via)
    assert send_to_spooler({"n": "3"}, node=to, via=node.via)
    Lines(server.directory).wait(1, '[["n", "3"]]')
    for _ in range(2):
        node.wait_for_log("dead", destination=to, reason="it has a body, which a uWSGI server would drop")
    eventually(lambda: len(list((node.spool / "dead").iterdir())) == 2, "both are kept, with the reason")
    eventually(lambda: outbox(node) == {}, "nothing waits")
    assert len(Lines(server.directory)()) == 1
    for path in (node.spool / "dead").iterdir():
        assert b"a uWSGI server would drop" in path.read_bytes()


@pytest.mark.on_disk("a task for another node waits in the store, and not in the outbox")
def test_a_server_without_a_spooler_refuses_and_the_task_waits_for_one_with_it(node: RunningNode, server: Uwsgi) -> None:
    server.start("-w", "server", "--socket-timeout", "5")
    to = f"127.0.0.1:{server.port}"
    node.start()
    assert send_to_spooler({"n": "1"}, node=to, via=node.via)
    assert "is its spooler on" in node.wait_for_log("link_paused", destination=to)["reason"]
    assert outbox(node) == {to: 1}
    assert not list((node.spool / "dead").iterdir())
    server.end()
    (server.directory / "spool").mkdir()
    again(server, to)
    node.command("flush", to)
    Lines(server.directory).wait(1, '[["n", "1"]]')
    eventually(lambda: outbox(node) == {}, "nothing waits")


@pytest.mark.on_disk("a task for another node waits in the store, and not in the outbox")
def test_a_server_that_is_down_gets_its_tasks_when_it_is_back(node: RunningNode, server: Uwsgi) -> None:
    to = spooling(server)
    node.start()
    server.end()
    for number in range(3):
        assert send_to_spooler({"n": str(number)}, node=to, via=node.via)
    assert "nothing listens" in link_failure(node, to)
    assert outbox(node) == {to: 3}
    again(server, to)
    node.command("flush", to)
    Lines(server.directory).wait(3)
    eventually(lambda: outbox(node) == {}, "nothing waits")


@pytest.mark.on_disk("what is given up is dead in the store, and not on the disk")
def test_a_task_with_values_that_are_no_text_is_not_sent_to_a_server_that_cannot_read_them(
    node: RunningNode, server: Uwsgi
) -> None:
    to = spooling(server)
    node.start()
    assert send_to_spooler({"n": "1", "count": 5}, node=to, via=node.via)
    assert add.options(node=to, via=node.via).spool(1, b=2)
    assert send_to_spooler({"n": "2"}, node=to, via=node.via)
    reason = "it has values that are not text, which a uWSGI server cannot read"
    for place in range(2):
        node.wait_for_log("dead", destination=to, reason=reason, count=place + 1)
    Lines(server.directory).wait(1, '[["n", "2"]]')
    eventually(lambda: len(list((node.spool / "dead").iterdir())) == 2, "both are kept, with the reason")
    assert all(reason.encode() in path.read_bytes() for path in (node.spool / "dead").iterdir())
    eventually(lambda: outbox(node) == {}, "nothing waits")
    assert len(Lines(server.directory)()) == 1
    assert ask(str(node.spool), "GET", "/node")["forwarded"] == 1


def test_variables_that_only_nodes_understand_stay_behind(node: RunningNode, server: Uwsgi) -> None:
    to = spooling(server)
    node.start()
    assert send_to_spooler({"n": "1"}, node=to, via=node.via)
    (line,) = Lines(server.directory).wait()
    for ours in ("spool_node", "spool_values", "spool_seq", "spool_id", "spool_origin", "spool_hops", "spool_body", "spool_to"):
        assert ours not in line


@pytest.mark.on_disk("a task for another node waits in the store, and not in the outbox")
def test_a_task_that_the_server_cuts_off_stays_and_is_not_counted_as_sent(node: RunningNode, server: Uwsgi) -> None:
    # A block over the server's -b (4096): it closes the connection and says nothing.
    to = spooling(server)
    node.start()
    assert send_to_spooler({"n": "1", "long": "x" * 10_000}, node=to, via=node.via)
    assert link_failure(node, to)
    eventually(lambda: outbox(node) == {to: 1}, "it waits")
    assert ask(str(node.spool), "GET", "/node")["forwarded"] == 0
    assert Lines(server.directory)() == []
    # The operator sees it and can remove it.
    (path,) = eventually(lambda: list((node.spool / "outbox" / to).glob("uwsgi_spoolfile*")), "it has a file")
    identity = path.name.removeprefix("uwsgi_spoolfile_on_").partition("@")[0]

    def removed() -> bool:
        node.command("rm", identity)
        return outbox(node) == {}

    eventually(removed, "it is removed, between two attempts")


# -- as a sender --


@pytest.mark.on_disk("a task for another node goes through the store, and is not handed on")
@pytest.mark.parametrize("destination", ["beta", "its address", "nobody"])
def test_requests_that_a_real_uwsgi_passes_on_run_on_the_node_that_it_names(
    node: RunningNode, beta: RunningNode, server: Uwsgi, destination: str
) -> None:
    # uWSGI's own HTTP server in front of a node, as its manual has it for `--http-to`: three options enqueue.
    need(UWSGI)
    beta.start(app=NODE)
    node.start("--discover", f"static://{beta.via}", app=NODE)
    node.wait_for_log("peer_up", name="beta")
    to = beta.via if destination == "its address" else destination
    port = free_port()
    server.start(
        "--http", f"127.0.0.1:{port}", "--http-to", node.via, "--http-modifier1", "17",
        "--http-var", f"spool_node={to}", "--http-var", "n=7",
    )  # fmt: skip
    client = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    client.request("POST", "/", b"five!")
    answer = client.getresponse()
    identity = json.loads(answer.read())["id"]
    client.close()
    assert answer.status == 202
    if destination == "nobody":
        assert outbox(node) == {"nobody": 1}
        return
    (line,) = Lines(beta.directory).wait(1)
    assert line.split()[::2] == ["7", "5"]
    node.wait_for_log("forwarded", id=identity)
    assert Lines(node.directory)() == []


def test_a_file_that_a_real_uwsgi_put_into_our_directory_runs_here_whatever_it_names(node: RunningNode, server: Uwsgi) -> None:
    # A directory is this node's: a program that writes a file there has chosen already.
    (server.directory / "enqueue.py").write_text(
        "import uwsgi\n"
        "uwsgi.send_to_spooler({b'n': b'1', b'spool_node': b'elsewhere'})\n"
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n"
    )
    node.start(app=NODE)
    need(UWSGI)
    server.start("-w", "enqueue", "--spooler-external", str(node.spool), "--lazy-apps")
    (line,) = Lines(node.directory).wait()
    assert line.split()[0] == "1"
    assert outbox(node) == {}
