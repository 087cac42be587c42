"""The event loop does not wait for a disk: the calls that its thread still makes itself stand here, with their reasons.

A real node does everything that it can, under the watch of `loopwatch`, and with a guard on its disk (`GuardedDisk`).
"""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import RunningNode, eventually, whole_lines
from talk import connect, exchange, read_answers, request
from watch import NOTES, status, tasks, wait_for_note

from spoolnode.client.control import ask
from spoolnode.protocol.names import NODE

ALLOWED = {
    # While it runs.
    "node.spool.inbox.Inbox._look": "one lstat of a name that the kernel has just told us of, so it is in memory; asked at the"
    " very moment when the spool hears of it, because an older answer would bring back a task that has ended since",
    "node.spool.inbox.Inbox._adopt": "the same for a name that a scan has just read",
    "node.spool.files.SpoolFiles.accepted_at": "one lstat of the oldest ready file, when it comes to the head of its queue",
    "node.spool.journal.Journal.is_finished": "after the death of a worker, a look at the few tasks that it had, just written:"
    " nothing may go to another worker before that is known",
    "node.ingress.listener.Listener.listen_again": "a socket is bound: at the start, and when its name was removed; no file",
    "node.control.http.Control.listen_again": "the same for the control socket",
    "node.work.process.WorkerProcess._execute": "a worker is started: the call returns when the kernel has loaded the"
    " interpreter, which is in memory, because this process runs it too",
    # At the start: the loop has not turned since, or it makes sockets.
    "node.control.http.Control.start": "at the start: the control socket is made",
    "node.reload.watch_source": "at the start: the package for `--reload` is imported",
    # At the end: nothing more is taken in.
    "node.ingress.listener.Listener.close": "at the end: the names of sockets are removed",
    "node.control.http.Control.stop": "at the end: the same for the control socket",
    "node.ingress.upload.Upload.abort": "at the end: the threads of uploads are gone, and half a body is removed",
    "node.node.Node.run": "at the end: `instance` and the locks go, when all threads are gone",
}
"""The innermost function named here that led to a call, and why its thread may be the loop's."""

APP = (
    NOTES
    + """
def spooler(env):
    note(env["do"], env.get("n", ""))
    if env["do"] == "dies":
        os._exit(3)
    if env["do"] == "fails":
        raise ValueError("always")
    if env["do"] == "waits":
        wait("open")
        note("waited", env.get("n", ""))

uwsgi.spooler = spooler
"""
)
LARGE = b"x" * 300_000


class WatchedNode(RunningNode):
    """A node whose event loop is watched."""

    def command_line(self, args: list[str]) -> list[str]:
        """As the base class says."""
        return [sys.executable, str(Path(__file__).with_name("loopwatch.py")), *args[3:]]

    @property
    def seen(self) -> list[dict[str, Any]]:
        """The notes of the watch."""
        return [json.loads(line) for line in whole_lines(self.directory / "seen")]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[WatchedNode, RunningNode]]:
    """A watched node, and another one to send to; neither is started."""
    (tmp_path / "beta").mkdir()
    nodes = WatchedNode(tmp_path, "alpha"), RunningNode(tmp_path / "beta", "beta")
    yield nodes
    for node in nodes:
        node.clean_up()


def send(node: RunningNode, *many: dict[str, Any], to: str = "") -> None:
    extra = [(NODE, to.encode())] if to else []
    with connect(("127.0.0.1", node.port)) as sock:
        sock.sendall(b"".join(request(task, extended=True, extra=extra) for task in many))
        assert all(modifier2 == 1 for _, modifier2, _ in read_answers(sock, len(many)))


def run_tasks(node: RunningNode) -> None:
    """Tasks of all kinds come in, run, fail, and take their worker with them."""
    for n in range(5):
        assert exchange(("127.0.0.1", node.port), request({"do": "plain", "n": str(n)}))
    send(node, *({"do": "runs", "n": str(n)} for n in range(300)))
    wait_for_note(node, "runs 299")
    send(node, {"do": "fails"}, {"do": "large", "body": LARGE}, {"do": "first", "priority": "3"})
    node.wait_for_log("dead")
    for note in ("large ", "first "):
        wait_for_note(node, note)
    send(node, {"do": "dies", "n": "1"}, *({"do": "after", "n": str(n)} for n in range(20)))
    wait_for_note(node, "after 19")
    node.wait_for_log("worker_died")


def drop_files(node: RunningNode) -> None:
    """Files are put into the spool, and a directory with some."""
    data = request({"do": "dropped"})
    (node.spool / "uwsgi_spoolfile_on_dropped").write_bytes(data)
    wait_for_note(node, "dropped ")
    (node.directory / "7" / "8").mkdir(parents=True)
    (node.directory / "7" / "8" / "uwsgi_spoolfile_on_deep").write_bytes(data)
    (node.directory / "7").rename(node.spool / "7")
    wait_for_note(node, "dropped ", 2)


def send_on(node: RunningNode, other: RunningNode) -> None:
    """Tasks go to another node."""
    node.wait_for_log("peer_up")
    send(node, {"do": "sent"}, {"do": "sent", "body": LARGE}, to=other.name)
    eventually(lambda: status(node)["forwarded"] == 2, "both are with the other node")


def operate(node: RunningNode) -> None:
    """Does the work of an operator."""
    later = str(int(time.time()) + 3600)
    send(node, {"do": "later", "at": later}, {"do": "later", "at": later})
    first, second = (row["id"] for row in tasks(node) if row["state"] == "later")
    ask(str(node.spool), "GET", f"/tasks/{first}")
    ask(str(node.spool), "DELETE", f"/tasks/{first}")
    ask(str(node.spool), "POST", "/settle")
    ask(str(node.spool), "POST", f"/tasks/{second}/retry")
    wait_for_note(node, "later ")
    ask(str(node.spool), "POST", "/dead/retry")
    node.wait_for_log("dead", count=2)
    with urllib.request.urlopen(f"http://{node.lines('ready')[0]['http']}/metrics") as response:
        assert b"spoolnode" in response.read()
    node.command("peers")
    os.kill(node.pid, signal.SIGHUP)
    node.wait_for_log("reloaded")


def remove_sockets(node: RunningNode) -> None:
    """Cleans up too much."""
    for name in ("control.sock", "spool.sock", "taken"):
        with contextlib.suppress(FileNotFoundError):
            (node.spool / name).unlink()
    node.wait_for_log("made_anew")
    eventually(lambda: (node.spool / "control.sock").exists() and (node.spool / "spool.sock").exists(), "the sockets are there")


@pytest.mark.slow
def test_the_loop_leaves_the_disk_to_threads_but_for_what_is_named_here(pair: tuple[WatchedNode, RunningNode]) -> None:
    node, other = pair
    other.start(app=APP)
    touched = node.directory / "touched"
    touched.touch()
    options = ["--workers", "2", "--max-attempts", "1", "--http", "127.0.0.1:0", "--touch-reload", str(touched), "--reload"]
    node.start(*options, "--discover", f"static://127.0.0.1:{other.port}", app=APP, SEEN=str(node.directory / "seen"))
    run_tasks(node)
    drop_files(node)
    send_on(node, other)
    operate(node)
    remove_sockets(node)
    send(node, {"do": "waits", "n": "1"}, *({"do": "runs", "n": f"late {n}"} for n in range(50)))
    with connect(("127.0.0.1", node.port)) as half:
        half.sendall(request({"do": "half", "body": 10 * LARGE}, extended=True)[:-10])
        eventually(lambda: list((node.spool / "tmp").glob("upload.*")), "half of it is there")
        (node.directory / "gate.open").touch()
        assert node.stop() == 0, "".join(node.noise)
    assert not node.lines("mistake") + node.lines("housekeeping_failed")
    reasons = [next((name for name in one["functions"] if name in ALLOWED), "") for one in node.seen]
    assert not [one for one, reason in zip(node.seen, reasons, strict=True) if not reason], "the loop's thread itself does these"
    assert set(reasons) == set(ALLOWED), "all of these are needed"
