"""`doctor` finds what is wrong and says what to do."""

import fcntl
import json
import os
import socket
from pathlib import Path

import pytest
from support import RunningNode, command

from spoolnode.doctor.finding import FAIL, OK, WARN, Finding
from spoolnode.doctor.machine import listen, lock_holder, node
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
    for path in ("high", "5", "dead", "corrupt"):
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
    assert "is valid for another" in found["testnode"]["certificate"][1]
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
