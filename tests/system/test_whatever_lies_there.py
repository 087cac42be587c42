"""Whatever lies in the spool directory, the node starts, runs what it can read, and keeps and reports the rest."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from support import RunningNode, eventually
from talk import connect, read_answers, request
from watch import NOTES, Gate, notes, wait_for_note

import spoolnode
from spoolnode.client.control import ask
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
def spooler(env):
    wait("begin")
    note("runs", env["n"])

uwsgi.spooler = spooler
"""
)


def content(n: int) -> bytes:
    """A spool file."""
    return head(encode_variables([(b"n", str(n).encode())]))


def a_socket(path: Path) -> None:
    """One whose process is gone."""
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.getcwd()
        os.chdir(path.parent)  # for the name of a socket has 107 bytes
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


ODD_NAMES = [
    b"",
    b"\xff\xfe",
    b"a\nb",
    b"\x1b[2J",
    b"x@5",
    b"x@99999999999999999999",
    b"-rf",
    b"l" * 236,
    b" a b ",
    b"%2e%2e%2f",
    b"..x",
]
JUNK = [b"", b"\x11", b"\x11\xff\x00\x00abc", os.urandom(300), content(1)[:-1], content(1)]


def litter(directory: Path) -> None:
    """Files, directories, pipes and sockets of any name and content."""
    place = os.fsencode(directory)
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(place, b"uwsgi_spoolfile_on_" + name), "wb") as file:
            file.write(JUNK[number % len(JUNK)])
    for number, data in enumerate(JUNK):
        (directory / f"uwsgi_spoolfile_on_junk{number}").write_bytes(data)
    (directory / "uwsgi_spoolfile_on_directory").mkdir()
    os.mkfifo(directory / "uwsgi_spoolfile_on_pipe")
    a_socket(directory / "uwsgi_spoolfile_on_socket")
    (directory / "uwsgi_spoolfile_on_link").symlink_to("/etc/hostname")
    (directory / "other").write_bytes(b"other")


def runs_a_task(node: RunningNode) -> None:
    """It takes one more task and runs it."""
    identity = spoolnode.send_to_spooler({"n": "last"}, via=node.via)
    node.wait_for_log("done", id=identity)
    assert not node.lines("mistake")
    assert not node.lines("housekeeping_failed")


def test_the_node_starts_and_runs_tasks_whatever_lies_in_its_directories(node: RunningNode, gate: Gates) -> None:
    for where in ("", "5", "arriving", "outbox", "outbox/beta", "outbox/a\nb", "dead", "corrupt", "tmp", "incoming"):
        directory = node.spool / where
        directory.mkdir(parents=True, exist_ok=True)
        litter(directory)
    gate("begin").open()
    node.start(app=APP)
    runs_a_task(node)
    for words in (["ls"], ["ls", "--outbox"], ["dead", "ls"], ["status"]):
        shown = node.command(*words)
        assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("kind", ["empty", "junk", "directory", "pipe", "socket"])
def test_the_node_starts_whatever_lies_where_its_own_files_should(node: RunningNode, gate: Gates, kind: str) -> None:
    node.spool.mkdir()
    for name in ("taken", "links", "timers", "control.sock", "spool.sock", "lock"):
        path = node.spool / name
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            a_socket(path)
        else:
            path.write_bytes(b"" if kind == "empty" else os.urandom(100))
    gate("begin").open()
    node.start(app=APP)
    runs_a_task(node)


def test_what_lies_where_a_directory_should_is_moved_aside_and_kept(node: RunningNode, gate: Gates) -> None:
    names = ["incoming", "outbox", "arriving", "dead", "corrupt", "tmp"]
    node.spool.mkdir()
    for name in names:
        (node.spool / name).write_bytes(name.encode())
    gate("begin").open()
    node.start(app=APP)
    runs_a_task(node)
    assert {(node.spool / line["corrupt"]).read_text() for line in node.lines("quarantined")} == set(names)


def test_numeric_directories_that_nest_700_deep_are_watched_and_searched(node: RunningNode, gate: Gates) -> None:
    gate("begin").open()
    node.start(app=APP)
    deep = node.spool.joinpath(*["1"] * 700)
    deep.mkdir(parents=True)
    runs_a_task(node)
    node.stop()
    (deep / "uwsgi_spoolfile_on_deep").write_bytes(content(7))
    node.start(app=APP)
    wait_for_note(node, "runs 7")


def fill_a_batch(node: RunningNode) -> None:
    """A hundred tasks of 1 kB, more than are settled, all at once: a batch takes no more after a second."""
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"".join(request({"n": n, "filler": "x" * 1000}, extended=True) for n in range(100)))
        assert [modifier2 for _, modifier2, _ in read_answers(sock, 100)] == [1] * 100


def test_of_a_batch_that_is_cut_while_its_tasks_wait_the_whole_ones_run_and_it_is_kept(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    fill_a_batch(node)
    (batch,) = (path for path in (node.spool / "incoming").iterdir())
    os.truncate(batch, 60_000)
    gate("begin").open()
    eventually(lambda: node.status()["total"] == 0)
    ran = [int(line.split()[1]) for line in notes(node)]
    assert ran == list(range(len(ran)))
    assert 40 < len(ran) < 60
    node.wait_for_log("quarantined")
    eventually(lambda: os.listdir(node.spool / "corrupt"), "the batch is kept")
    runs_a_task(node)


def test_a_batch_that_was_cut_while_no_node_ran_is_kept_and_the_whole_tasks_run(node: RunningNode, gate: Gates) -> None:
    node.start()
    fill_a_batch(node)
    node.kill9()
    (batch,) = (path for path in (node.spool / "incoming").iterdir())
    assert batch.stat().st_size > 100_000
    os.truncate(batch, 60_000)
    gate("begin").open()
    node.start(app=APP)
    eventually(lambda: node.status()["total"] == 0)
    assert 40 < len(notes(node)) < 60
    node.wait_for_log("quarantined", reason="cut short")
    (kept,) = (node.spool / "corrupt").iterdir()
    assert kept.stat().st_size == 60_000


def test_what_a_list_shows_can_be_named_whatever_it_is_called(node: RunningNode) -> None:
    node.start()
    for directory in ("", "5", "dead"):
        (node.spool / directory).mkdir(exist_ok=True)
        for number, name in enumerate(ODD_NAMES):
            own = name + directory.encode()[:1] if len(name) < 236 else directory.encode()[:1] + name[1:]
            with open(os.path.join(os.fsencode(node.spool), directory.encode(), b"uwsgi_spoolfile_on_" + own), "wb") as file:
                file.write(content(number))
    eventually(lambda: node.status()["total"] == 2 * len(ODD_NAMES))
    spool = str(node.spool)
    for state, times in (("waiting", 2), ("dead", 1)):
        rows = ask(spool, "GET", f"/tasks?state={state}&limit=100000")["items"]
        assert len(rows) == len({row["id"] for row in rows}) == times * len(ODD_NAMES)
        for row in rows:
            assert row["id"].isascii()
            assert row["id"].isprintable()
            assert "n" in ask(spool, "GET", f"/tasks/{quote(row['id'])}")["variables"]
    for row in ask(spool, "GET", "/tasks?state=dead&limit=100000")["items"]:
        ask(spool, "POST", f"/tasks/{quote(row['id'])}/retry")
    rows = ask(spool, "GET", "/tasks?limit=100000")["items"]
    assert len(rows) == 3 * len(ODD_NAMES)
    for row in rows:
        ask(spool, "DELETE", f"/tasks/{quote(row['id'])}")
    eventually(lambda: node.status()["total"] == 0)


def test_files_far_too_large_are_put_aside_with_the_reason(node: RunningNode, gate: Gates) -> None:
    names = ["taken", "links", "known", "timers", "instance", "incoming/1795855211059422.batch", "uwsgi_spoolfile_on_huge"]
    (node.spool / "incoming").mkdir(parents=True)
    for name in names:
        with (node.spool / name).open("wb") as file:
            file.truncate(1 << 40)
    gate("begin").open()
    node.start(app=APP)
    runs_a_task(node)
    node.wait_for_log("quarantined", count=4, reason=str(1 << 40))
    aside = {line["file"] for line in node.lines("quarantined", reason=str(1 << 40))}
    assert aside == {"taken", "links", "known", "timers", "incoming/1795855211059422.batch"}


@pytest.mark.parametrize("name", ["node.id", "node.key"])
@pytest.mark.parametrize("kind", ["directory", "pipe", "huge", "junk", "empty"])
def test_a_node_id_or_key_that_is_none_is_one_sentence(node: RunningNode, kind: str, name: str) -> None:
    node.spool.mkdir()
    (node.spool / "node.id").write_text("0123456789ab\n")
    path = node.spool / name
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\x00" * 50 if kind == "junk" else b"")
        os.truncate(path, 1 << 40 if kind == "huge" else path.stat().st_size)
    node.start(wait=False)
    assert node.wait() == 2
    (sentence,) = node.noise
    assert f"{path} " in sentence
    assert f"{12 if name == 'node.id' else 64} hexadecimal digits" in sentence


def test_id_and_key_are_made_once_and_together_and_an_old_directory_gets_its_key(node: RunningNode) -> None:
    own = [node.spool / "node.id", node.spool / "node.key"]

    def started() -> list[str]:
        node.start()
        assert node.stop() == 0
        assert own[1].stat().st_mode & 0o777 == 0o600
        return [path.read_text() for path in own]

    first = started()
    assert started() == first
    own[1].unlink()
    second = started()
    assert second[0] == first[0]
    assert second[1] != first[1]
    own[0].unlink()  # as people do who make another node of a copy
    third = started()
    assert not {*third} & {*second}


def bound_by_modes(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The modes of files count for it, also where root runs the tests."""
    if os.geteuid() == 0:
        without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        monkeypatch.setattr(node, "command_line", lambda args: [*without, *args])


@pytest.mark.parametrize("name", ["incoming", "outbox", "arriving", "dead", "tmp"])
def test_a_directory_closed_to_the_node_is_one_sentence(node: RunningNode, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    bound_by_modes(node, monkeypatch)
    node.spool.mkdir()
    (node.spool / name).mkdir(mode=0)
    node.start(wait=False)
    assert node.wait() == 1
    (node.spool / name).chmod(0o700)
    (sentence,) = node.noise
    assert str(node.spool / name) in sentence
    assert "must be allowed to read and write it" in sentence


def test_a_node_runs_when_corrupt_is_closed_to_it(node: RunningNode, gate: Gates, monkeypatch: pytest.MonkeyPatch) -> None:
    bound_by_modes(node, monkeypatch)
    node.spool.mkdir()
    (node.spool / "corrupt").mkdir(mode=0)
    gate("begin").open()
    node.start(app=APP)
    runs_a_task(node)
    assert node.status()["corrupt"] == 0
    node.wait_for_log("not_scanned", directory="corrupt")
    node.stop()
    (node.spool / "corrupt").chmod(0o700)
