"""Addresses of more than one place: several nodes in turn, and a spool directory that takes tasks while its node is down."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from smallnode import Hangup, SmallNode, StartNode
from support import PATIENCE, RunningNode, command, environment, eventually

from spoolnode import (
    Reason,
    Refused,
    Unanswered,
    Unreachable,
    asend_many,
    asend_to_spooler,
    client,
    send_many,
    send_to_spooler,
    spool,
    wire,
)
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout, is_spool_file
from spoolnode.protocol import answer, spoolfile

Send = Callable[..., str]


def send_in_loop(*args: Any, **options: Any) -> str:
    return asyncio.run(asend_to_spooler(*args, **options))


both = pytest.mark.parametrize("send", [send_to_spooler, send_in_loop], ids=["sync", "async"])


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def files_in(root: Path) -> list[str]:
    """Every file in a directory and below, whatever its name, but not the node's own."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# --- several addresses ---


@both
def test_second_address_is_tried_when_nobody_listens_at_the_first(start_node: StartNode, tmp_path: Path, send: Send) -> None:
    node = start_node()
    assert send({"a": "b"}, via=f"unix:{tmp_path}/gone.sock, {node.address}") == "small_1_1"


@both
def test_first_address_gets_the_tasks_while_it_listens(start_node: StartNode, send: Send) -> None:
    first, second = start_node(unix=True), start_node()
    for _ in range(3):
        send({"a": "b"}, via=f"unix:{first.address},{second.address}")
    assert (len(first.tasks), len(second.tasks)) == (3, 0)


@both
def test_task_that_may_have_been_stored_is_not_sent_to_the_next_address(start_node: StartNode, send: Send) -> None:
    def hang_up(number: int, node: SmallNode) -> None:
        raise Hangup

    first, second = start_node(hang_up), start_node()
    with pytest.raises(Unanswered):
        send({"a": "b"}, via=f"{first.address},{second.address}")
    assert not second.tasks


@both
def test_node_that_takes_nothing_is_passed_over_but_what_is_wrong_with_the_task_is_said(
    start_node: StartNode, tmp_path: Path, send: Send
) -> None:
    first = start_node(lambda *_: answer.refused(Refused(reason, "because")), unix=True)
    second = start_node()
    via = f"unix:{first.address},{second.address}"
    for number, reason in enumerate((Reason.BUSY, Reason.FULL), 1):  # noqa: B007  # `first` says it
        assert send({"a": "b"}, via=via) == f"small_1_{number}"
    for reason in (Reason.MALFORMED, Reason.FORBIDDEN, Reason.TOO_LARGE):
        with pytest.raises(Refused, match="because") as caught:
            send({"a": "b"}, via=via)
        assert caught.value.reason is reason
    assert len(second.tasks) == 2
    reason = Reason.BUSY
    with pytest.raises(Refused, match=f"{first.address},.*: refused the task: because; nothing was stored"):
        send({"a": "b"}, via=f"unix:{first.address},{closed_port()}")


@both
def test_address_that_hangs_leaves_time_for_the_next(start_node: StartNode, send: Send) -> None:
    node = start_node()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert send({"a": "b"}, via=f"{silent_address},{node.address}", send_timeout=4) == "small_1_1"


@both
def test_error_names_every_address_that_was_tried(tmp_path: Path, send: Send) -> None:
    first, second = f"unix:{tmp_path}/gone.sock", closed_port()
    with pytest.raises(Unreachable, match=f"{first}: cannot connect: No such file.*{second}: cannot connect: Connection refused"):
        send({"a": "b"}, via=f"{first},{second}")


@pytest.mark.parametrize("via", ["a.sock,", "eager:,127.0.0.1:3031", "dir:", "dir:spool", "dir:/a,dir:b"])
def test_list_with_a_wrong_address_is_refused(via: str) -> None:
    with pytest.raises(BadConfig):
        send_to_spooler({"a": "b"}, via=via)


def test_several_addresses_may_be_asked_which_node_answers(node: RunningNode, tmp_path: Path) -> None:
    node.start()
    done = command("ping", f"unix:{tmp_path}/gone.sock,{node.via}")
    assert (done.returncode, "node testnode" in done.stdout) == (0, True), done.stderr


def send_many_in_loop(*args: Any, **options: Any) -> list[str]:
    return asyncio.run(asend_many(*args, **options))


@pytest.mark.parametrize("send_together", [send_many, send_many_in_loop], ids=["sync", "async"])
def test_of_many_tasks_those_that_are_certainly_not_stored_go_to_the_next_place(
    start_node: StartNode, tmp_path: Path, send_together: Callable[..., list[str]]
) -> None:
    def take_half(number: int, node: SmallNode) -> bytes | None:
        return answer.refused(Refused(Reason.BUSY, "not now")) if number > 5 else None

    node = start_node(take_half, unix=True)
    tasks = [{"n": str(number)} for number in range(10)]
    ids = send_together(tasks, via=f"unix:{tmp_path}/gone.sock,unix:{node.address},dir:{tmp_path}")
    assert ids[:5] == [f"small_1_{number}" for number in range(1, 6)]
    assert files_in(tmp_path) == sorted(f"uwsgi_spoolfile_on_{identity}" for identity in ids[5:])
    written = [spoolfile.parse((tmp_path / f"uwsgi_spoolfile_on_{identity}").read_bytes()) for identity in ids[5:]]
    assert [dict(file.variables)[b"n"] for file in written] == [b"5", b"6", b"7", b"8", b"9"]


# --- a spool directory ---

APP = """
from spoolnode import spool
from spoolnode import uwsgi

@spool
def mail(number, to):
    print("mail", number, to)

def plain(task):
    print("plain", task["name"], len(task.get("body", b"")))

uwsgi.spooler = plain
"""


@both
def test_node_that_listens_gets_the_task_itself(node: RunningNode, send: Send) -> None:
    node.start()
    identity = send({"name": "a"}, via=f"dir:{node.spool}")
    assert identity.startswith(f"{node.status()['id']}_")
    client.close()


def test_tasks_of_every_kind_wait_in_the_directory_while_the_node_is_down_and_then_run(node: RunningNode) -> None:
    node.start(app=APP)
    node.stop()
    via = f"dir:{node.spool}"
    ids = [
        send_to_spooler({"name": "first", "priority": 3}, via=via),
        send_in_loop({"name": "large", "body": bytes(300_000)}, via=via),
        node.command("send", "name=typed", "-j", "n=1", SPOOLNODE_VIA=via).stdout.strip(),
        subprocess.run(
            [sys.executable, "-c", "import app; print(app.mail.spool(1, to=('a', 2)))"],
            cwd=node.directory, env=environment(SPOOLNODE_VIA=via, PYTHONDONTWRITEBYTECODE="1"),
            check=True, timeout=PATIENCE, capture_output=True, text=True,
        ).stdout.strip(),
        subprocess.run(
            [sys.executable, "-c", "import asyncio, app; print(asyncio.run(app.mail.options(priority=2).aspool(2, to=[])))"],
            cwd=node.directory, env=environment(SPOOLNODE_VIA=via, PYTHONDONTWRITEBYTECODE="1"),
            check=True, timeout=PATIENCE, capture_output=True, text=True,
        ).stdout.strip(),
    ]  # fmt: skip
    places = ["3/", "", "", "", "2/"]
    assert all(
        (node.spool / f"{place}uwsgi_spoolfile_on_{identity}").is_file() for place, identity in zip(places, ids, strict=True)
    )
    assert not files_in(node.spool / "tmp")
    node.start("--app", "app.py")
    printed = ["plain first 0", "plain large 300000", "plain typed 0", "mail 1 ('a', 2)", "mail 2 []"]
    for identity, text in zip(ids, printed, strict=True):
        node.wait_for_log("print", id=identity, text=text)
    eventually(lambda: node.status()["done"] == len(ids), "all are done")


def test_task_for_later_waits_for_its_time(node: RunningNode) -> None:
    node.spool.mkdir()
    identity = send_to_spooler({"name": "late", "at": 4_000_000_000}, via=f"dir:{node.spool}")
    node.start(app=APP)
    status = node.status()
    assert (status["later"], status["waiting"]) == (1, 0)
    assert node.command("show", identity).returncode == 0


def test_node_that_runs_finds_at_once_what_is_written_beside_it(node: RunningNode) -> None:
    """As when its socket cannot be used, which belongs to its owner alone."""
    node.start(app=APP)
    (node.spool / "spool.sock").unlink()
    identity = send_to_spooler({"name": "beside"}, via=f"dir:{node.spool}")
    node.wait_for_log("print", id=identity)


def test_application_of_uwsgi_in_a_web_process_spools_while_the_node_is_down(node: RunningNode) -> None:
    node.start(app=APP)
    node.stop()
    program = (
        "import spoolnode.compat; spoolnode.compat.install()\n"
        "import uwsgi\nprint(uwsgi.spool({b'name': b'a', b'priority': b'4'}).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(SPOOLNODE_SPOOL=str(node.spool)), capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    path = Path(done.stdout.strip())
    assert (path.parent, path.is_file()) == (node.spool / "4", True)
    node.start("--app", "app.py")
    node.wait_for_log("print", text="plain a 0")


@both
def test_stopping_node_refuses_and_the_task_waits_in_its_directory(tmp_path: Path, send: Send) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(Layout(str(tmp_path)).socket)
    listener.listen()
    node = SmallNode(listener, lambda *_: answer.refused(Refused(Reason.BUSY, "this node is stopping")))
    identity = send({"a": "b"}, via=f"dir:{tmp_path}")
    client.close()
    node.stop()
    assert (tmp_path / f"uwsgi_spoolfile_on_{identity}").is_file()


def test_full_disk_of_the_node_is_not_filled_further(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(Layout(str(tmp_path)).socket)
    listener.listen()
    node = SmallNode(listener, lambda *_: answer.refused(Refused(Reason.FULL, "the disk is full")))
    with pytest.raises(Refused, match="the disk is full"):
        send_to_spooler({"a": "b"}, via=f"dir:{tmp_path}")
    client.close()
    node.stop()
    assert files_in(tmp_path) == []


def test_file_is_as_uwsgi_and_a_node_write_it(tmp_path: Path) -> None:
    identity = send_to_spooler({"a": "b", "at": 1, "body": b"xyz"}, via=f"dir:{tmp_path}")
    [name] = files_in(tmp_path)
    path = tmp_path / name
    assert is_spool_file(name)
    assert name == f"uwsgi_spoolfile_on_{identity}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    task = spoolfile.parse(path.read_bytes())
    assert (task.state, task.attempts, task.body) == (spoolfile.WAITING, 0, b"xyz")
    assert (b"a", b"b") in task.variables


def test_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=rf"dir:{tmp_path}/none: the directory cannot be written: No such file.*nothing was"):
        send_to_spooler({"a": "b"}, via=f"dir:{tmp_path}/none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("node_name", ["beta", "any", "all", "tag:gpu", "10.0.0.7:3031"])
def test_task_for_another_node_is_refused_because_only_a_node_can_send_it(tmp_path: Path, node_name: str) -> None:
    with pytest.raises(Refused, match=f"it is for '{node_name}', only a node can send it there.*nothing was stored"):
        send_to_spooler({"a": "b"}, node=node_name, via=f"dir:{tmp_path}")
    assert files_in(tmp_path) == []


def test_task_for_another_spool_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    send_to_spooler({"a": "b", "spooler": f"{tmp_path}/link"}, via=f"dir:{tmp_path}")
    with pytest.raises(Refused, match="another directory"):
        send_to_spooler({"a": "b", "spooler": "/elsewhere"}, via=f"dir:{tmp_path}")


def test_node_that_sweeps_unfinished_files_at_its_start_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    rename, swept = RealDisk.rename, []

    def swept_just_before(disk: RealDisk, source: str, target: str) -> None:
        if not swept:
            os.unlink(source)
            swept.append(source)
        rename(disk, source, target)

    monkeypatch.setattr(RealDisk, "rename", swept_just_before)
    identity = send_to_spooler({"a": "b"}, via=f"dir:{tmp_path}")
    assert swept[0].startswith(f"{tmp_path}/tmp/")
    assert files_in(tmp_path) == [f"uwsgi_spoolfile_on_{identity}"]


def test_disk_that_fails_leaves_nothing_behind_and_says_whether_it_may_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RealDisk, "write", fail)
        with pytest.raises(Unreachable, match="No space left on device; nothing was stored"):
            send_to_spooler({"a": "b"}, via=f"dir:{tmp_path}")
    assert files_in(tmp_path) == []
    monkeypatch.setattr(RealDisk, "sync_directory", fail)
    with pytest.raises(Unanswered, match="may or may not have been stored"):
        send_to_spooler({"a": "b"}, via=f"dir:{tmp_path}")
    assert len(files_in(tmp_path)) == 1


def test_threads_and_forks_never_share_a_name(tmp_path: Path) -> None:
    via = f"dir:{tmp_path}"
    threads = [threading.Thread(target=lambda: [send_to_spooler({"a": "b"}, via=via) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files_in(tmp_path)) == 80


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("who", ["root", "another user of its group"])
def test_file_in_the_spool_of_another_user_can_be_read_and_removed_by_that_user(tmp_path: Path, who: str) -> None:
    owner, writer, group = 61001, 61002, 61003
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    spooldir = tmp_path / "spool"
    spooldir.mkdir()
    os.chown(spooldir, owner, group)
    spooldir.chmod(0o2770)
    program = (
        f"import os, spoolnode; spoolnode.send_to_spooler({{'a': 'b'}}, via='dir:{tmp_path}')  # all modules are loaded as root\n"
        f"{who != 'root'} and (os.setgroups([{group}]), os.setgid({writer}), os.setuid({writer}))\n"
        f"print(spoolnode.send_to_spooler({{'a': 'b', 'priority': 5}}, via='dir:{spooldir}'))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path = spooldir / "5" / f"uwsgi_spoolfile_on_{done.stdout.strip()}"
    reader = (
        f"import os; os.setgroups([]); os.setgid({group}); os.setuid({owner}); open('{path}', 'r+b').read(); os.unlink('{path}')"
    )
    subprocess.run([sys.executable, "-c", reader], check=True, timeout=PATIENCE)
    assert not path.exists()


def test_address_of_a_directory_asks_its_own_socket_first() -> None:
    address = wire.resolve("dir:/var/spool/spoolnode")
    assert (address.targets, address.spool) == (("/var/spool/spoolnode/spool.sock",), "/var/spool/spoolnode")


def test_call_goes_to_the_directory_that_options_name(tmp_path: Path) -> None:
    @spool(name="app:mail")
    def mail(number: int) -> None: ...

    mail.options(via=f"dir:{tmp_path}").spool(1)
    assert len(files_in(tmp_path)) == 1
