"""A node starts, stops and takes new code, and no task is lost or run twice for it."""

import os
import random
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import RunningNode, eventually
from talk import connect, exchange, read_all, read_answers, request
from watch import NOTES, Gate, count, notes, status, tasks, wait_for_note, wait_until_idle, workers

import spoolnode
from spoolnode.protocol.answer import STORED
from spoolnode.protocol.packet import SPOOL_REQUEST, encode_variables, packet

Gates = Callable[[str], Gate]

APP = (
    NOTES
    + """
VERSION = "one"

def spooler(env):
    note("starts", env["n"], VERSION)
    if "for" in env:
        wait(env["for"])
    note("ends", env["n"])

uwsgi.spooler = spooler
"""
)


def enqueue(node: RunningNode, *numbers: int, **more: str) -> None:
    """Sends tasks with these numbers."""
    for number in numbers:
        spoolnode.send_to_spooler({"n": number, **more}, via=node.via)


def waiting(node: RunningNode) -> dict[str, int]:
    """The attempts of each waiting task; starts the node without an application to look."""
    node.start()
    found = {task["id"]: task["attempts"] for task in tasks(node)}
    node.stop()
    return found


def test_sigterm_lets_what_runs_end_and_keeps_what_waits(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    enqueue(node, *range(2, 12))
    os.kill(node.pid, signal.SIGTERM)
    node.wait_for_log("stopping")
    gate("end").open()
    assert node.wait() == 0
    assert notes(node) == ["starts 1 one", "ends 1"]
    assert list(waiting(node).values()) == [0] * 10
    node.start(app=APP)
    wait_until_idle(node)
    assert Counter(notes(node)) == Counter(["starts 1 one", "ends 1"] + [f"{word} {n}{rest}" for n in range(2, 12)
                                            for word, rest in (("starts", " one"), ("ends", ""))])  # fmt: skip


def test_what_was_with_a_worker_keeps_its_order_over_a_stop(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    enqueue(node, *range(100))
    eventually(lambda: len(notes(node)) == 200, "quick ones")
    with connect(("127.0.0.1", node.port)) as sock:
        many: list[dict[str, Any]] = [{"n": 100, "for": "end"}, *[{"n": n} for n in range(101, 150)]]
        sock.sendall(b"".join(request(task, extended=True) for task in many))
        assert len(read_answers(sock, 50)) == 50
    wait_for_note(node, "starts 100 one")
    os.kill(node.pid, signal.SIGTERM)
    node.wait_for_log("stopping")
    gate("end").open()
    assert node.wait() == 0
    node.start(app=APP)
    wait_until_idle(node)
    starts = [line.split()[1] for line in notes(node) if line.startswith("starts")]
    assert starts == [str(n) for n in range(150)]


def test_files_that_were_just_written_run_in_their_order_after_a_start(node: RunningNode) -> None:
    node.spool.mkdir()
    numbers = list(range(100, 200))
    random.Random(7).shuffle(numbers)  # a directory lists them in some other order anyway
    moment = time.time()
    for number in numbers:
        path = node.spool / f"uwsgi_spoolfile_on_elsewhere_{number}"
        path.write_bytes(packet(SPOOL_REQUEST, encode_variables([(b"n", b"%d" % number)])))
        os.utime(path, (moment, moment))
    node.start(app=APP)
    wait_until_idle(node)
    starts = [line.split()[1] for line in notes(node) if line.startswith("starts")]
    assert starts == [str(n) for n in range(100, 200)]


def test_a_second_sigterm_ends_at_once_and_nothing_is_counted(node: RunningNode) -> None:
    node.start("--grace", "1h", app=APP)
    enqueue(node, 1, **{"for": "never"})
    wait_for_note(node, "starts 1 one")
    enqueue(node, 2, 3)
    os.kill(node.pid, signal.SIGTERM)
    node.wait_for_log("stopping")
    os.kill(node.pid, signal.SIGTERM)
    assert node.wait() == 0, "long before the hour is over"
    assert list(waiting(node).values()) == [0, 0, 0]


def test_what_does_not_end_within_the_grace_is_put_back_and_not_counted(node: RunningNode) -> None:
    node.start("--grace", "0.3", app=APP)
    enqueue(node, 1, **{"for": "never"})
    wait_for_note(node, "starts 1 one")
    assert node.stop() == 0
    assert list(waiting(node).values()) == [0]


def test_a_stopping_node_takes_in_tasks_until_what_runs_has_ended(node: RunningNode, gate: Gates) -> None:
    node.start(app=APP)
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(request({"n": "2"}, extended=True))
        assert read_answers(sock, 1)[0][1] == 1
        os.kill(node.pid, signal.SIGTERM)
        node.wait_for_log("stopping")
        sock.sendall(request({"n": "3"}, extended=True))
        assert read_answers(sock, 1)[0][1] == 1
        assert exchange(("127.0.0.1", node.port), request({"n": "4"})) == STORED
        gate("end").open()
        assert read_all(sock) == b""
    assert node.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", node.port))
    assert notes(node) == ["starts 1 one", "ends 1"], "no new task runs"
    assert list(waiting(node).values()) == [0] * 3


def test_a_request_that_has_begun_when_the_node_stops_may_end(node: RunningNode) -> None:
    node.start()
    data = request({"n": "1"})
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(data[:5])
        eventually(lambda: status(node)["connections"] == 1, "it has been accepted")
        os.kill(node.pid, signal.SIGTERM)
        node.wait_for_log("stopping")
        sock.sendall(data[5:])
        assert read_all(sock) == STORED
    assert node.wait() == 0
    assert len(waiting(node)) == 1


def test_a_stop_in_the_middle_of_a_large_body_leaves_nothing_behind(node: RunningNode) -> None:
    node.start()
    data = request({"n": "1", "body": bytes(8 << 20)}, extended=True)
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(data[: len(data) // 2])
        eventually(lambda: list((node.spool / "tmp").iterdir()), "the upload has begun")
        assert node.stop() == 0
        read_all(sock)
    assert not node.noise, "no traceback of an upload that cannot go on"
    node.start()
    assert not list((node.spool / "tmp").glob("upload*"))
    assert status(node)["total"] == 0


def test_sigterm_while_the_application_loads_ends_the_node(node: RunningNode) -> None:
    node.start("--grace", "1h", app=NOTES + "note('loads')\nwait('never')\n", wait=False)
    wait_for_note(node, "loads")
    os.kill(node.pid, signal.SIGTERM)
    assert node.wait() == 0
    assert not node.noise


def test_a_reload_takes_new_code_and_what_runs_ends_once(node: RunningNode, gate: Gates) -> None:
    node.start("--workers", "2", app=APP)
    old = set(workers(node))
    enqueue(node, 1, **{"for": "end"})
    wait_for_note(node, "starts 1 one")
    (node.directory / "app.py").write_text(APP.replace('"one"', '"two"'))
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    enqueue(node, 2)
    wait_for_note(node, "ends 2")
    gate("end").open()
    wait_until_idle(node)
    assert sorted(notes(node)) == ["ends 1", "ends 2", "starts 1 one", "starts 2 two"]
    eventually(lambda: len(set(workers(node)) - old) == 2, "two new workers")
    node.stop()
    assert not node.lines("worker_died")


def test_new_code_that_does_not_load_keeps_the_old_workers_and_says_so(node: RunningNode) -> None:
    node.start("--workers", "2", app=APP)
    old = workers(node)
    (node.directory / "app.py").write_text("this is no Python")
    os.kill(node.pid, signal.SIGHUP)
    line = node.wait_for_log("reload_failed")
    assert "SyntaxError" in line["reason"]
    assert workers(node) == old
    enqueue(node, 1)
    wait_for_note(node, "starts 1 one")
    (node.directory / "app.py").write_text(APP.replace('"one"', '"two"'))
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    enqueue(node, 2)
    wait_for_note(node, "starts 2 two")


def test_many_reloads_under_load_lose_nothing_and_run_nothing_twice(node: RunningNode) -> None:
    node.start("--workers", "2", app=APP)
    for start in range(0, 500, 100):
        enqueue(node, *range(start, start + 100))
        os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")
    wait_until_idle(node)
    assert {count(node, f"ends {n}") for n in range(500)} == {1}
    node.stop()
    assert not node.lines("retry")


@pytest.mark.parametrize("workers_wanted", ["1", "3"])
def test_an_import_error_stops_the_start_with_the_traceback(node: RunningNode, workers_wanted: str) -> None:
    node.start("--workers", workers_wanted, app=NOTES + "note('loads')\nimport no_such_module\n", wait=False)
    assert node.wait() == 1
    said = "".join(node.noise)
    assert "ModuleNotFoundError: No module named 'no_such_module'" in said
    assert 'app.py", line' in said
    assert said.count("Traceback") == 1, said
    assert "Error: the application 'app.py' does not load" in said
    assert len(notes(node)) <= int(workers_wanted), "no worker was started again"


def test_an_application_with_nothing_to_run_is_refused(node: RunningNode) -> None:
    node.start(app="x = 1\n", wait=False)
    assert node.wait() == 2
    assert "has nothing to run" in "".join(node.noise)


def test_a_node_without_an_application_accepts_and_keeps_and_says_so(node: RunningNode) -> None:
    node.start()
    (ready,) = node.lines("ready")
    assert "accepted and kept" in ready["app"]
    enqueue(node, 1, 2)
    assert status(node)["waiting"] == 2
    node.kill9()
    node.start(app=APP)
    wait_for_note(node, "ends 2")
    wait_until_idle(node)


def test_two_nodes_on_one_directory_are_refused(node: RunningNode, tmp_path: Path) -> None:
    node.start()
    other = RunningNode(tmp_path)
    try:
        other.start(wait=False)
        assert other.wait() == 2
        assert f"another node (pid {node.pid}) runs on" in "".join(other.noise)
        assert "Traceback" not in "".join(other.noise)
    finally:
        other.clean_up()
    enqueue(node, 1)


def test_a_spool_that_is_a_file_is_one_sentence(node: RunningNode) -> None:
    node.spool.write_text("mine")
    node.start(wait=False)
    assert node.wait() == 2
    assert f"Error: --spool: {node.spool} is a file, not a directory\n" in "".join(node.noise)
    assert f"{node.spool} is a file, not a directory" in node.command("status").stderr
    assert node.spool.read_text() == "mine"


def test_a_web_application_that_gets_no_tasks_is_one_warning(node: RunningNode) -> None:
    web = "def application(environ, start_response): pass\n"
    (node.directory / "web.py").write_text(f"{web}from spoolnode import spool\n@spool\ndef job(): pass\n")
    node.start("--app", "web:application", "--workers", "2")
    node.stop()
    (line,) = node.lines("app_warning")
    assert line["level"] == "warning"
    assert "'application' gets no tasks, because it cannot be called with a task" in line["reason"]
    assert not node.lines("print")


def test_a_port_that_is_taken_is_one_sentence(node: RunningNode) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        node.start("--listen", address, wait=False)
        assert node.wait() == 2
    remedy = "stop it, or give this node another address with -s"
    assert f"cannot listen on {address}: another program listens there; {remedy}\n" in "".join(node.noise)
    assert "Traceback" not in "".join(node.noise)


def test_a_stale_unix_socket_is_replaced_and_a_live_one_is_refused(node: RunningNode, tmp_path: Path) -> None:
    place = str(tmp_path / "in.sock")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(place)
    node.start("--listen", place)
    assert exchange(place, request({"n": "1"})) == STORED
    (tmp_path / "second").mkdir()
    other = RunningNode(tmp_path / "second")
    try:
        other.start("--listen", place, wait=False)
        assert other.wait() == 2
        assert f"cannot listen on {place}: another program listens there; stop it" in "".join(other.noise)
    finally:
        other.clean_up()
    assert exchange(place, request({"n": "2"})) == STORED
    assert node.stop() == 0
    assert not os.path.exists(place)


def test_a_live_unix_socket_that_does_not_accept_is_refused_too(node: RunningNode, tmp_path: Path) -> None:
    place = str(tmp_path / "in.sock")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiter:
        busy.bind(place)
        busy.listen(0)
        waiter.connect(place)  # its queue is full now
        node.start("--listen", place, wait=False)
        assert node.wait() == 2


def test_a_file_that_is_no_socket_is_never_removed(node: RunningNode, tmp_path: Path) -> None:
    place = tmp_path / "in.sock"
    place.write_text("precious")
    node.start("--listen", str(place), wait=False)
    assert node.wait() == 2
    assert place.read_text() == "precious"


def test_all_addresses_take_tasks(node: RunningNode, tmp_path: Path) -> None:
    place = str(tmp_path / "in.sock")
    node.start("--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--listen", place, app=APP)
    (ready,) = node.lines("ready")
    four, six, unix = ready["listen"]
    assert exchange(("127.0.0.1", int(four.rpartition(":")[2])), request({"n": "4"})) == STORED
    assert six.startswith("[::1]:")
    assert exchange(("::1", int(six.rpartition(":")[2])), request({"n": "6"})) == STORED
    assert exchange(unix, request({"n": "0"})) == STORED
    assert exchange(str(node.spool / "spool.sock"), request({"n": "1"})) == STORED
    for n in (4, 6, 0, 1):
        wait_for_note(node, f"ends {n}")


def test_the_directory_of_a_stopped_node_can_be_copied(node: RunningNode) -> None:
    node.start()
    spoolnode.send_to_spooler({"n": "1", "at": int(time.time()) + 3600}, via=node.via)
    node.stop()
    shutil.copytree(node.spool, node.directory / "copy")  # which a socket would end
