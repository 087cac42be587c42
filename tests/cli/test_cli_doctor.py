"""`doctor` finds what is wrong and says what to do."""

import fcntl
import json
import os
import socket
from pathlib import Path

import pytest
from support import RunningNode, command, eventually

from spoolnode.client.control import ask
from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.doctor.machine import listen, lock_holder, node, of_peers, of_reach
from spoolnode.doctor.spool_directory import file_system_type, free_space
from spoolnode.node.disk.layout import Layout


def examine(*args: str, cwd: Path, status: int = 0) -> dict[str, tuple[str, str]]:
    done = command("doctor", "-s", "127.0.0.1:0", "--json", *args, cwd=cwd)
    assert done.returncode == status, done.stdout + done.stderr
    return {row["check"]: (row["state"], row["text"]) for row in json.loads(done.stdout)}


def test_directory_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    found = examine(cwd=tmp_path)
    assert found["spool directory"][0] == OK
    assert "fsync" not in found
    assert not list(tmp_path.iterdir())


def test_spool_of_a_running_node_is_well(node: RunningNode) -> None:
    node.start()
    done = node.command("doctor", "-s", node.via, "--json")
    found = {row["check"]: (row["state"], row["text"]) for row in json.loads(done.stdout)}
    assert done.returncode == 0
    assert found["node"][0] == OK
    assert f"pid {node.pid}" in found["node"][1]
    assert found[f"address {node.via}"] == (OK, "the node that runs here listens on it")
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = f"127.0.0.1:{server.getsockname()[1]}"
    rows = json.loads(node.command("doctor", "-s", other, "--json").stdout)
    elsewhere = {row["check"]: (row["state"], row["text"]) for row in rows}[f"address {other}"]
    assert elsewhere[0] == WARN, "it is free, but no client finds anybody there"
    assert f"the node that runs here is on {node.via}" in elsewhere[1]
    assert {"file system", "fsync", "free space", "dead", "corrupt", "inotify", "versions"} <= set(found)
    assert not list((node.spool / "tmp").iterdir())


def test_what_lies_in_the_directory_is_explained(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    for path in ("high", "5", "dead", "corrupt", "results", "pulled"):
        (spool / path).mkdir(parents=True)
    (spool / "dead" / "uwsgi_spoolfile_on_x").touch()
    (spool / "corrupt" / "x").touch()
    found = examine(cwd=tmp_path)
    assert found["priorities"][0] == WARN
    assert "tasks below high never run" in found["priorities"][1]
    assert (found["dead"][0], found["corrupt"][0]) == (WARN, WARN)


def test_lines_for_people(tmp_path: Path) -> None:
    done = command("doctor", "-s", "127.0.0.1:0", cwd=tmp_path)
    assert done.returncode == 0
    assert all(line.split()[0] in (OK, WARN, FAIL) for line in done.stdout.splitlines())


def test_too_little_room_fails(tmp_path: Path) -> None:
    assert free_space(str(tmp_path), 1 << 60).state == FAIL
    assert free_space(str(tmp_path), 0).state == OK


def test_taken_addresses_fail(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "spool"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listen(f"127.0.0.1:{port}", layout).state == FAIL
    assert listen(f"127.0.0.1:{port}", layout).state == OK
    path = str(tmp_path / "x.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert listen(path, layout) == Finding(f"address {path}", FAIL, "another program listens on it")
    assert listen(path, layout).state == OK
    (tmp_path / "file").touch()
    assert listen(str(tmp_path / "file"), layout).state in (OK, FAIL)
    assert listen(str(tmp_path / "nowhere" / "x.sock"), layout).state == FAIL


def test_process_that_holds_the_spool_and_does_not_answer_fails(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    assert lock_holder(layout) == ""
    with open(layout.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        assert node(layout).state == FAIL
        assert "process 4711 holds the spool" in node(layout).text
    assert node(layout).state == OK


def test_file_system_types_are_known() -> None:
    assert file_system_type("/proc") == "proc"
    assert file_system_type("/")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_of_others_fails(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o500)
    assert examine(cwd=tmp_path, status=1)["spool directory"][0] == FAIL


def test_certificate_and_peers_are_looked_at(node: RunningNode, tmp_path: Path) -> None:
    for line in (["init"], ["issue", "testnode"]):
        assert command("ca", *line, cwd=tmp_path).returncode == 0
    (directory,) = [path.parent for path in tmp_path.rglob("testnode.crt")]
    trusted = {"SPOOLNODE_TLS_CERT": "testnode.crt", "SPOOLNODE_TLS_KEY": "testnode.key", "SPOOLNODE_TLS_CA": "ca.crt"}
    paths = {name: str(directory / file) for name, file in trusted.items()}
    node.start("127.0.0.1:1", **paths)
    found = {}
    for name in ("testnode", "another"):
        done = node.command("doctor", "-s", node.via, "--json", SPOOLNODE_NAME=name, **paths)
        found[name] = {row["check"]: (row["state"], row["text"]) for row in json.loads(done.stdout)}
    assert found["testnode"]["certificate"][0] == OK
    assert "testnode.crt is of testnode, until 20" in found["testnode"]["certificate"][1]
    assert found["another"]["certificate"][0] == FAIL
    assert found["testnode"]["peers"][0] == WARN
    assert "1 " in found["testnode"]["peers"][1]


def test_what_an_application_uses_of_uwsgi_is_listed_without_running_it(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    for name, lines in {
        "app.py": (
            "from uwsgidecorators import *", "import uwsgi, pkg.one", "raise SystemExit('it was run')",
            "@mulefunc", "def f(): ...", "@spool", "def g(env): uwsgi.cache_get('x'); uwsgi.nothing()",
        ),
        "pkg/__init__.py": (),
        "pkg/one.py": ("from uwsgidecorators import mule, spool", "import uwsgi as u", "u.mule_msg(b'x')", "from . import two"),
        "pkg/two.py": ("import uwsgi", "uwsgi.chunked_read()", "uwsgi.spool({})", "uwsgi.cache_get('y')", "uwsgi.hook = None"),
        "other.py": ("import uwsgi", "uwsgi.alarm()"),
    }.items():  # fmt: skip
        (tmp_path / name).write_text("\n".join(lines))
    found = examine("--app", "app:g", cwd=tmp_path)
    assert found.pop("uWSGI's modules") == (OK, "app uses 2 names of uWSGI's modules that work here, and 6 that do not")
    listed = {check: text for check, (state, text) in found.items() if state == WARN and "uwsgi" in check}
    assert {check: text.partition(": ")[0].removeprefix("used in ") for check, text in listed.items()} == {
        "uwsgi.cache_get": "app.py:7, pkg/two.py:4", "uwsgi.mule_msg": "pkg/one.py:3", "uwsgi.nothing": "app.py:7",
        "uwsgi.chunked_read": "pkg/two.py:2", "uwsgidecorators.mule": "pkg/one.py:1", "uwsgidecorators.mulefunc": "app.py:4",
    }  # fmt: skip
    assert "a node has no uWSGI cache" in listed["uwsgi.cache_get"]


def test_application_that_is_not_there_or_no_python_is_a_fault(tmp_path: Path) -> None:
    assert examine("-w", "nothere", cwd=tmp_path, status=1)["uWSGI's modules"][0] == FAIL
    (tmp_path / "app.py").write_text("def :\n")
    state, text = examine("-w", "app.py", cwd=tmp_path, status=1)["uWSGI's modules"]
    assert (state, "app.py, line 1: " in text) == (FAIL, True)


def test_application_without_uwsgi_uses_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from spoolnode import spool\n@spool\ndef f(): ...\n")
    assert examine("-w", "app.py", cwd=tmp_path)["uWSGI's modules"] == (OK, "app.py uses none of uWSGI's modules")


# -- nginx --

NGINX = """
# what people write
events {}
http {
    upstream nodes { server 127.0.0.1:3031; server 127.0.0.1:3032; }
    uwsgi_read_timeout 2s;
    server {
        client_max_body_size 2g;
        location / { uwsgi_pass unix:/run/web.sock; include more.conf; }
        location /web { uwsgi_pass 127.0.0.1:3031; uwsgi_param A "b;c}"; }
        location /none { uwsgi_pass unix:/run/other.sock; uwsgi_modifier1 17; uwsgi_read_timeout 1m; }
        location /two {
            uwsgi_pass nodes; uwsgi_modifier1 17; uwsgi_next_upstream error non_idempotent;
            uwsgi_param spool_nod beta; uwsgi_pass_request_body off; uwsgi_cache zone;
        }
    }
}
"""


def nginx_findings(tmp_path: Path, text: str, *args: str, status: int) -> list[tuple[str, str]]:
    (tmp_path / "nginx.conf").write_text(text)
    (tmp_path / "more.conf").write_text("location /more { uwsgi_pass 127.0.0.1:3031; uwsgi_modifier1 17; uwsgi_param A b; }\n")
    done = command("doctor", "--json", "--nginx", "nginx.conf", *args, cwd=tmp_path)
    assert done.returncode == status, done.stdout + done.stderr
    return [(row["state"], row["text"]) for row in json.loads(done.stdout) if row["check"] == "nginx"]


def test_what_in_a_configuration_of_nginx_does_not_work_is_told_with_its_line_and_a_remedy(tmp_path: Path) -> None:
    found = nginx_findings(tmp_path, NGINX, "-s", "127.0.0.1:3031", status=1)
    short = "uwsgi_read_timeout is 2 s: on a busy disk the visitor gets 504 for a task that is stored; write 60s"
    large = "client_max_body_size is 2g, and the node refuses bodies over 1073741824 bytes: raise --max-body"
    twice = "sends a task to a second node when the first does not answer in time"
    told = {
        (state, text.split(": ", 1)[0], text.split(": ", 1)[1].partition(",")[0].partition(":")[0]) for state, text in found[:-1]
    }
    assert told == {
        (WARN, "more.conf:1", large.partition(",")[0]), (WARN, "more.conf:1", short.partition(":")[0]),
        (FAIL, "nginx.conf:10", "uwsgi_modifier1 is 0"),
        (WARN, "nginx.conf:10", large.partition(",")[0]), (WARN, "nginx.conf:10", short.partition(":")[0]),
        (FAIL, "nginx.conf:11", "no socket of this node is at /run/other.sock; it listens on 127.0.0.1"),
        (FAIL, "nginx.conf:11", "it has no uwsgi_param"), (WARN, "nginx.conf:11", large.partition(",")[0]),
        (FAIL, "nginx.conf:13", "uwsgi_param spool_nod is refused (403)"),
        (WARN, "nginx.conf:13", "uwsgi_pass_request_body is off"), (WARN, "nginx.conf:13", large.partition(",")[0]),
        (WARN, "nginx.conf:13", short.partition(":")[0]),
        (FAIL, "nginx.conf:13", f"uwsgi_next_upstream non_idempotent {twice}"),
        (FAIL, "nginx.conf:13", "uwsgi_cache answers without asking the node"),
    }  # fmt: skip
    assert (WARN, f"nginx.conf:10: {short}") in found
    assert (WARN, f"nginx.conf:10: {large}") in found
    assert found[-1] == (OK, "nginx.conf sends tasks from 4 places")


def test_our_own_example_for_nginx_is_well(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "examples" / "nginx.conf").read_text()
    assert nginx_findings(tmp_path, text, "-s", "127.0.0.1:3031", status=0) == [(OK, "nginx.conf sends tasks from 1 place")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http { server {", "nginx.conf, line 1: server has no }"),
        ("events {} }", "nginx.conf has a } too many"),
        ("a 'b", "nginx.conf, line 1: a quote has no end"),
        ("user www-data", "nginx.conf, line 1: user has no ;"),
        ("include nginx.conf;", "nginx.conf includes itself"),
    ],
)
def test_a_configuration_that_nginx_would_not_take_is_a_sentence(text: str, why: str, tmp_path: Path) -> None:
    ((state, said),) = nginx_findings(tmp_path, text, status=1)
    assert state == FAIL
    assert why in said


def test_a_configuration_without_tasks_says_what_to_write(tmp_path: Path) -> None:
    ((state, text),) = nginx_findings(tmp_path, "events {}", "-s", "127.0.0.1:3031", status=0)
    assert (state, "write uwsgi_pass 127.0.0.1:3031; and uwsgi_modifier1 17; in a location" in text) == (WARN, True)


# -- functions --

HIDDEN = """
import uwsgi
from uwsgidecorators import spool as old_spool
from spoolnode import spool
import spoolnode as s

@spool
def good(): ...

good = good.options(priority=1)

@s.spool(name="a.name")
def one(): ...

@spool(name="a.name")
def two(): ...

def make():
    @spool
    def inner(): ...
    return inner

@spool
def shadowed(): ...

shadowed = None

@old_spool
def legacy(env): ...

uwsgi.spooler = lambda env: -2

if __name__ == "__main__":
    @spool
    def scripted(): ...
"""


def test_functions_that_no_worker_finds_are_told_without_running_the_application(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(HIDDEN)
    done = command("doctor", "-s", "127.0.0.1:0", "--json", "--app", "app.py", cwd=tmp_path)
    rows = [row for row in json.loads(done.stdout) if row["check"] == "functions"]
    told = {row["text"] for row in rows if row["state"] == WARN}
    assert {text.partition(", so ")[0] for text in told} == {
        "app.py:20: inner is made when make is called",
        "app.py:24: line 26 gives the name shadowed to something else",
        "app.py:35: scripted is only there when the file runs as a script",
        "a.name is the name of 2 functions, app.py:13, app.py:16: give each a name of its own, or the tasks of one run the other",
        "app.py:31 sets uwsgi.spooler, and app.py:29 uses uwsgidecorators, whose import sets it too: set yours before that "
        "import, or the tasks of those functions go to yours",
    }  # fmt: skip
    assert [row["text"] for row in rows if row["state"] == OK] == ["5 functions of tasks"]


# -- peers --


def test_a_peer_that_is_not_seen_is_named_with_the_reason_and_a_remedy(node: RunningNode) -> None:
    node.start("--discover", "static://127.0.0.1:1")
    eventually(lambda: [row["state"] for row in ask(str(node.spool), "GET", "/nodes")["items"]] == ["down"], "it is down")
    done = node.command("doctor", "-s", node.via, "--json")
    found = {row["check"]: (row["state"], row["text"]) for row in json.loads(done.stdout)}
    assert found["peers"] == (WARN, "1 down")
    state, text = found["peer 127.0.0.1:1"]
    assert state == WARN
    assert text.startswith("down at 127.0.0.1:1: ")
    assert "does it listen there" in text


def test_what_others_are_told_are_the_addresses_of_the_node_that_runs_whatever_the_settings_are(node: RunningNode) -> None:
    node.start()
    found = {row["check"]: row["text"] for row in json.loads(node.command("doctor", "--json").stdout)}
    assert node.via != "127.0.0.1:3031"
    assert found["announced"].startswith(f"no other machine reaches {node.via}: ")


def test_the_announced_address_is_tried(node: RunningNode) -> None:
    node.start()
    for address, state in ((node.via, OK), ("127.0.0.1:1", WARN)):
        done = node.command("doctor", "-s", node.via, "--json", SPOOLNODE_ADVERTISE=address)
        found = {row["check"]: (row["state"], row["text"]) for row in json.loads(done.stdout)}
        assert found["announced"][0] == state
        assert found["announced"][1].startswith(f"others are told {address}, ")
    assert found["descriptors"][0] in (OK, WARN)


@pytest.mark.parametrize(("ahead", "words"), [(7.25, "7.2 s ahead of"), (-90.0, "90.0 s behind")])
def test_a_clock_that_is_off_is_told(ahead: float, words: str) -> None:
    peer = {"name": "beta", "id": "0123456789ab", "address": "10.0.0.2:3031", "state": "up", "reason": ""}
    counted, off = of_peers([{**peer, "clock_ahead_seconds": ahead}])
    assert (counted.state, off.check, off.state) == (OK, "peer beta", WARN)
    assert f"its clock is {words} this node's" in off.text
    assert len([*of_peers([{**peer, "clock_ahead_seconds": told} for told in (None, 0.01, -0.5)])]) == 1


def test_peers_that_do_not_reach_this_node_are_named_and_those_that_say_nothing_counted() -> None:
    def row(name: str, state: str, reaches: str, reason: str = "") -> dict[str, object]:
        reach = {"state": reaches, "address": "10.0.0.1:3031", "reason": reason} if reaches else None
        return {"name": name, "address": f"{name}:3031", "state": state, "reaches_us": reach}

    rows = [
        row("beta", "up", "up"), row("gamma", "up", "down", "it did not answer"), row("delta", "leaving", "leaving"),
        row("older", "up", ""), row("new", "up", "unknown"), row("gone", "down", ""),
    ]  # fmt: skip
    well, lost, silent = of_reach(rows)
    assert well == Finding("reached", OK, "peers that reach 10.0.0.1:3031: 2")
    assert lost.state == WARN
    assert "reaches gamma, but gamma does not reach it: this node is down there, at 10.0.0.1:3031: it did not answer" in lost.text
    assert (silent.state, silent.text.partition(":")[0]) == (OK, "not told by 2 of 5 peers that answer")
    assert not [*of_reach([])]
