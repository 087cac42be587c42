"""People and other programs work on the spool directory while the node runs: it notices at once, and loses nothing."""

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inotify_simple import INotify, flags
from support import RunningNode, eventually
from watch import NOTES, Gate, count, notes, spool_files, status, tasks, wait_for_note, wait_until_idle

import spoolnode
from spoolnode.protocol.packet import encode_variables
from spoolnode.protocol.spoolfile import head

Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
def spooler(env):
    size = [len(env["body"])] if "body" in env else []
    clock = [round(time.time(), 4)] if "clock" in env else []
    note("runs", env["n"], *size, *clock)
    if "for" in env:
        wait(env["for"])

uwsgi.spooler = spooler
"""
)


def content(n: str, body: bytes = b"", **more: str) -> bytes:
    """The bytes of a spool file."""
    return head(encode_variables([(b"n", n.encode()), *((k.encode(), v.encode()) for k, v in more.items())])) + body


def name(n: str) -> str:
    """The name that a uWSGI server might have given it."""
    return f"uwsgi_spoolfile_on_elsewhere_4711_{n}_0_1764000000_000000"


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Makes spool files beside the spool, for `mv` and `cp`."""
    beside = tmp_path / "beside"
    beside.mkdir()

    def make(n: str, body: bytes = b"", **more: str) -> Path:
        path = beside / name(n)
        path.write_bytes(content(n, body, **more))
        return path

    return make


@pytest.fixture
def busy(node: RunningNode, gate: Gates) -> Gate:
    """A running node whose only worker waits until the gate is opened."""
    node.start(app=APP)
    closed = gate("busy")
    spoolnode.send_to_spooler({"n": "busy", "for": "busy"}, via=node.via)
    wait_for_note(node, "runs busy")
    return closed


def runs(node: RunningNode) -> list[str]:
    """The tasks that ran, in order."""
    return [line.split()[1] for line in notes(node) if line != "runs busy"]


@pytest.mark.parametrize("command", ["cp", "cp -p", "mv", "install"])
def test_a_file_put_here_by_a_command_runs_at_once_and_is_removed(
    node: RunningNode, made: Callable[..., Path], command: str
) -> None:
    node.start(app=APP)
    subprocess.run([*command.split(), str(made("1", b"x" * 100_000)), str(node.spool)], check=True)
    eventually(lambda: count(node, "runs 1 100000"), "it ran")
    wait_until_idle(node)
    eventually(lambda: not spool_files(node), "it is gone")
    assert len(notes(node)) == 1


def test_a_file_that_is_written_slowly_runs_when_it_is_whole(node: RunningNode) -> None:
    node.start(app=APP)
    data = content("1", b"x" * 50_000)
    with open(node.spool / name("1"), "wb", buffering=0) as file:
        for start in range(0, len(data), len(data) // 7):
            file.write(data[start : start + len(data) // 7])
            # Something else comes and goes meanwhile, so the node has had every occasion to look at the file.
            identity = spoolnode.send_to_spooler({"n": f"between{start}"}, via=node.via)
            node.wait_for_log("done", id=identity)
    wait_for_note(node, "runs 1 50000")
    wait_until_idle(node)
    assert [note for note in notes(node) if note.startswith("runs 1")] == ["runs 1 50000"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds uWSGI's lock of a file from another process: a record lock of ours would be no obstacle to us."""
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        descriptor = os.open(path, os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        yield pid
    finally:
        os.write(go[1], b"x")
        os.waitpid(pid, 0)
        for descriptor in (*ready, *go):
            os.close(descriptor)


def test_a_file_that_uwsgi_still_holds_locked_waits_without_a_loop_and_runs_when_it_is_free(
    node: RunningNode, made: Callable[..., Path]
) -> None:
    node.start(app=APP)
    path = made("1")
    with locked(path), INotify() as watch:
        watch.add_watch(str(path), flags.OPEN)
        path.rename(node.spool / name("1"))
        eventually(lambda: watch.read(timeout=0), "the node has looked at it")
        opened, until = 1, time.monotonic() + 2.5
        while (rest := until - time.monotonic()) > 0:
            opened += len(watch.read(timeout=int(rest * 1000)))
        assert opened <= 6, "about once a second"
        assert notes(node) == []
    eventually(lambda: count(node, "runs 1"), "it ran")
    node.stop()
    assert not node.lines("retry"), "waiting for a lock is no attempt"
    assert not node.lines("quarantined")


def test_a_uwsgi_that_writes_under_its_lock_is_never_disturbed(node: RunningNode) -> None:
    node.start(app=APP)
    data = content("1", b"x" * 1000)
    path = node.spool / name("1")
    with open(path, "wb", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(data[:4])
        for n in range(5):
            spoolnode.send_to_spooler({"n": f"between{n}"}, via=node.via)
            wait_for_note(node, f"runs between{n}")
        file.write(data[4:])
    wait_for_note(node, "runs 1 1000")
    wait_until_idle(node)
    assert sum(line.startswith("runs 1") for line in notes(node)) == 1


def when_it_ran(node: RunningNode, n: str) -> float:
    """The clock when this task started."""

    def found() -> float:
        return next((float(line.split()[2]) for line in notes(node) if line.startswith(f"runs {n} ")), 0.0)

    return float(eventually(found, f"{n} ran"))


@pytest.mark.parametrize("way", ["put there with its time", "dated afterwards"])
def test_a_file_with_a_time_to_come_runs_exactly_then(node: RunningNode, made: Callable[..., Path], way: str) -> None:
    node.start(app=APP)
    eventually(lambda: status(node)["uptime_seconds"] > 2, "the node is quiet")
    path = made("1", clock="yes")
    due = time.time() + 2.7
    if way == "dated afterwards":
        os.utime(path, (time.time() + 3600,) * 2)
    else:
        os.utime(path, (due, due))
    path = path.rename(node.spool / name("1"))
    if way == "dated afterwards":
        eventually(lambda: status(node)["later"] == 1, "it waits for its time")
        os.utime(path, (due, due))
    ran = when_it_ran(node, "1")
    assert -0.001 <= ran - due < 15  # the next scan comes 30 s after the start: at least 20 s later


def test_touch_hurries_a_task_and_delays_another(node: RunningNode, made: Callable[..., Path]) -> None:
    node.start(app=APP)
    path = made("1")
    os.utime(path, (time.time() + 3600,) * 2)
    path = path.rename(node.spool / name("1"))
    eventually(lambda: status(node)["later"] == 1, "it waits for its time")
    subprocess.run(["touch", str(path)], check=True)
    eventually(lambda: count(node, "runs 1"), "it ran")


def test_touch_delays_a_task_that_is_already_with_a_worker(node: RunningNode, busy: Gate, made: Callable[..., Path]) -> None:
    for n in range(3):
        path = made(str(n)).rename(node.spool / name(str(n)))
    eventually(lambda: status(node)["total"] == 4, "all are noticed")
    subprocess.run(["touch", "-d", "+1 hour", str(path)], check=True)
    busy.open()
    eventually(lambda: status(node)["total"] == 1, "the others ran")
    assert sorted(runs(node)) == ["0", "1"]
    assert status(node)["later"] == 1


def test_a_removed_file_does_not_run(node: RunningNode, busy: Gate, made: Callable[..., Path]) -> None:
    for n in range(5):
        made(str(n)).rename(node.spool / name(str(n)))
    eventually(lambda: status(node)["total"] == 6, "all are noticed")
    for n in (0, 2, 4):
        (node.spool / name(str(n))).unlink()
    busy.open()
    wait_until_idle(node)
    assert runs(node) == ["1", "3"]


def test_a_file_moved_to_a_priority_runs_first_and_one_moved_out_does_not_run(
    node: RunningNode, busy: Gate, made: Callable[..., Path], tmp_path: Path
) -> None:
    for n in range(6):
        path = made(str(n))
        os.utime(path, (1_700_000_000 + n,) * 2)
        path.rename(node.spool / name(str(n)))
    eventually(lambda: status(node)["total"] == 7, "all are noticed")
    found = status(node)["found"]
    (node.spool / "7").mkdir()
    (node.spool / name("5")).rename(node.spool / "7" / name("5"))
    (node.spool / name("0")).rename(tmp_path / "beside" / name("0"))

    def noticed() -> bool:
        now = status(node)  # what the node knows; `ls` tells what lies on disk
        return (now["total"], now["found"]) == (6, found + 1)

    eventually(noticed, "the moves are noticed, both")
    busy.open()
    wait_until_idle(node)
    ran = runs(node)
    assert sorted(ran) == ["1", "2", "3", "4", "5"]
    assert ran.index("5") <= 1, "at most one that was with the worker already came before it"


def test_priorities_order_files_and_requests_alike_and_no_priority_is_last(
    node: RunningNode, busy: Gate, made: Callable[..., Path]
) -> None:
    for directory in ("2", "10"):
        (node.spool / directory).mkdir()
    spoolnode.send_to_spooler({"n": "warm"}, via=node.via)  # the worker may hold one already
    spoolnode.send_to_spooler({"n": "none"}, via=node.via)
    spoolnode.send_to_spooler({"n": "p9", "priority": 9}, via=node.via)
    made("file2").rename(node.spool / "2" / name("file2"))
    made("file10").rename(node.spool / "10" / name("file10"))
    spoolnode.send_to_spooler({"n": "p3", "priority": 3}, via=node.via)
    spoolnode.send_to_spooler({"n": "large1", "priority": 1, "body": b"x" * 300_000}, via=node.via)
    # A file in a directory that is as new as itself is left alone until it is surely whole.
    eventually(lambda: (status(node)["total"], status(node)["later"]) == (8, 0), "all are noticed")
    busy.open()
    wait_until_idle(node)
    ran = [n for n in runs(node) if n != "warm"]
    assert ran == ["large1", "file2", "p3", "p9", "file10", "none"]


def test_ls_shows_one_file_for_each_waiting_task_of_a_quiet_node(node: RunningNode) -> None:
    node.start()
    sent = [spoolnode.send_to_spooler({"n": str(n)}, via=node.via) for n in range(20)]
    late = spoolnode.send_to_spooler({"n": "late", "at": time.time() + 3600}, via=node.via)
    wanted = sorted(f"uwsgi_spoolfile_on_{identity}" for identity in [*sent, late])
    eventually(lambda: spool_files(node) == wanted, "each has its file")
    eventually(lambda: {task["where"] for task in tasks(node)} == set(wanted), "none of them is in a batch")
    assert (node.spool / f"uwsgi_spoolfile_on_{late}").stat().st_mtime > time.time() + 3500
    assert status(node)["total"] == 21
    (node.spool / wanted[0]).unlink()
    eventually(lambda: status(node)["total"] == 20, "rm is noticed")


@pytest.mark.parametrize(
    ("what", "data", "old"),
    [
        ("garbage variables", b"\x11\x06\x00\x00\xff\xffabcd", False),
        ("variables that run past their end", b"\x11\x08\x00\x00\x01\x00a\x63\x00bcd", False),
        ("a header that announces more than there is", b"\x11\xff\x00\x00\x01\x00a\x01\x00b", True),
        ("three bytes", b"\x11\x00\x00", True),
        ("nothing", b"", True),
    ],
)
def test_a_file_that_cannot_be_read_is_kept_aside_and_never_deleted(
    node: RunningNode, tmp_path: Path, what: str, data: bytes, old: bool
) -> None:
    node.start(app=APP)
    path = tmp_path / name("bad")
    path.write_bytes(data)
    if old:
        os.utime(path, (time.time() - 120,) * 2)
    path.rename(node.spool / name("bad"))
    node.wait_for_log("quarantined", file=name("bad"))
    assert (node.spool / "corrupt" / name("bad")).read_bytes() == data
    assert not spool_files(node)
    spoolnode.send_to_spooler({"n": "next"}, via=node.via)
    wait_for_note(node, "runs next")
    assert status(node)["corrupt"] == 1


def test_a_file_cut_short_a_moment_ago_is_given_time(node: RunningNode, tmp_path: Path) -> None:
    node.start(app=APP)
    data = content("1", b"body")
    path = tmp_path / name("1")
    path.write_bytes(data[:7])
    path = path.rename(node.spool / name("1"))
    spoolnode.send_to_spooler({"n": "next"}, via=node.via)
    wait_for_note(node, "runs next")
    with open(path, "ab") as file:
        file.write(data[7:])
    eventually(lambda: count(node, "runs 1 4"), "it ran whole")
    node.stop()
    assert not node.lines("quarantined")


def test_links_and_directories_of_that_name_are_left_alone(node: RunningNode, tmp_path: Path) -> None:
    node.start(app=APP)
    secret = tmp_path / "secret"
    secret.write_bytes(content("secret"))
    (node.spool / name("link")).symlink_to(secret)
    (node.spool / name("directory")).mkdir()
    os.mkfifo(node.spool / name("pipe"))
    spoolnode.send_to_spooler({"n": "next"}, via=node.via)
    wait_for_note(node, "runs next")
    wait_for_node_to_look(node)
    assert secret.read_bytes() == content("secret")
    assert notes(node) == ["runs next"]
    assert node.is_running


def wait_for_node_to_look(node: RunningNode) -> None:
    """Returns when the node has heard of everything that is in its directory now: events come in order."""
    path = node.spool / name("last")
    path.write_bytes(content("last"))
    eventually(lambda: not path.exists(), "the last file ran")
    (node.directory / "notes").write_text("".join(f"{line}\n" for line in notes(node) if line != "runs last"))


def test_files_put_here_while_the_node_was_down_run_when_it_starts(node: RunningNode, made: Callable[..., Path]) -> None:
    node.start()
    node.stop()
    for n in range(3):
        path = made(str(n)).rename(node.spool / name(str(n)))
        os.utime(path, (1_700_000_000 + n,) * 2)
    node.start(app=APP)
    wait_until_idle(node)
    assert runs(node) == ["0", "1", "2"]


def test_a_file_that_comes_while_the_application_is_loaded_runs_as_soon_as_it_is(
    node: RunningNode, gate: Gates, made: Callable[..., Path]
) -> None:
    """Not when the directory is listed again, which takes half a minute."""
    loads = gate("loads")
    node.start(app=APP + 'note("loads")\nwait("loads")\n', wait=False)
    wait_for_note(node, "loads")
    made("1").rename(node.spool / name("1"))
    (node.spool / "5").mkdir()
    made("2").rename(node.spool / "5" / name("2"))
    loads.open()
    eventually(lambda: count(node, "runs 1") and count(node, "runs 2"), "both ran", patience=20)


def test_a_thousand_files_moved_in_at_once_each_run_once(node: RunningNode, made: Callable[..., Path]) -> None:
    node.start("--workers", "2", app=APP)
    for n in range(1000):
        made(str(n)).rename(node.spool / name(str(n)))
    eventually(lambda: len(notes(node)) >= 1000, "all ran")
    wait_until_idle(node)
    assert sorted(map(int, runs(node))) == list(range(1000))


def test_tasks_with_a_time_are_woken_exactly_then(node: RunningNode) -> None:
    node.start(app=APP)
    sent = {}
    for number in range(20):
        sent[f"now{number}"] = time.time()
        spoolnode.send_to_spooler({"n": f"now{number}", "clock": "yes"}, via=node.via)
    usual = quick_quarter([when_it_ran(node, n) - at for n, at in sent.items()])
    begin = time.time() + 0.8
    due = {str(n): round(begin + n * 0.05, 6) for n in range(50)}
    ready = {}
    for n, at in due.items():
        spoolnode.send_to_spooler({"n": n, "at": at, "clock": "yes"}, via=node.via)
        ready[n] = max(at, time.time())  # on a busy machine some are sent when they are due
    assert min(when_it_ran(node, n) - at for n, at in due.items()) >= -0.001, "never before"
    # Of rounds that come once a second it would be 0.25 s, and on a busy machine a task that is due at once takes long, too.
    delay = quick_quarter([when_it_ran(node, n) - ready[n] for n in due])
    assert delay < 0.2 + usual, "not at the next round of something"
    assert not [row for row in tasks(node) if row["state"] == "later"]


def quick_quarter(delays: list[float]) -> float:
    """The longest of the shortest quarter: a busy machine makes many wait."""
    return sorted(delays)[len(delays) // 4]
