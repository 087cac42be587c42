"""A deploy loses no enqueue: senders notice nothing of a restart, a reload, or new code of the node itself."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, Self

import pytest
from support import PATIENCE, RunningNode, command, eventually
from talk import exchange, request
from watch import NOTES, Gate, notes, wait_for_note, wait_for_notes

import spoolnode
from spoolnode import client
from spoolnode.protocol.answer import STORED

Gates = Callable[[str], Gate]
EVERY = 0.05
"""Seconds between two tasks of a sender."""

APP = (
    NOTES
    + """
def spooler(env):
    note("starts", env["n"])
    if "for" in env:
        wait(env["for"])

uwsgi.spooler = spooler
"""
)


class Sender:
    """Sends a task every 50 ms from a thread of its own, until the block ends."""

    def __init__(self, name: str, send: Callable[[dict[str, Any]], object]) -> None:
        self.sent: list[str] = []
        self.errors: list[Exception] = []
        self.longest = 0.0
        self._name = name
        self._send = send
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait_for(self, more: int) -> None:
        """Returns when so many more tasks were stored."""
        before = len(self.sent)
        eventually(lambda: len(self.sent) >= before + more or self.errors, f"{more} more tasks from {self._name}")

    def _run(self) -> None:
        number = 0
        while not self._over.wait(EVERY):
            number += 1
            began = monotonic()
            try:
                self._send({"n": f"{self._name}{number}"})
            except Exception as error:  # noqa: BLE001  # each counts
                self.errors.append(error)
            else:
                self.sent.append(f"starts {self._name}{number}")
            self.longest = max(self.longest, monotonic() - began)


@pytest.fixture
def handed(node: RunningNode, tmp_path: Path) -> Iterator[RunningNode]:
    """A node that gets its sockets from us: a TCP port, and the path of a unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "handed.sock"))
        unix.listen()
        node.handed_over = [tcp, unix]
        yield node
        client.close()


@pytest.fixture
def senders(handed: RunningNode) -> list[Sender]:
    """Our client, which keeps its connection, and one that connects for each task, as nginx does."""
    tcp, unix = (sock.getsockname() for sock in handed.handed_over)

    def plain(task: dict[str, Any]) -> None:
        assert exchange(unix, request(task)) == STORED

    via = f"{tcp[0]}:{tcp[1]}"
    # The limit is that of a machine on which a start takes long; a person waits for less.
    ours = Sender("ours", lambda task: spoolnode.send_to_spooler(task, via=via, send_timeout=PATIENCE))
    return [ours, Sender("plain", plain)]


def more_from(senders: list[Sender], count: int) -> None:
    for sender in senders:
        sender.wait_for(count)


def new_version(directory: Path) -> dict[str, str]:
    """A copy of spoolnode with another version; the environment that runs it."""
    package = Path(spoolnode.__file__).parent
    shutil.copytree(package, directory / "new" / "spoolnode")
    version = directory / "new" / "spoolnode" / "protocol" / "version.py"
    version.write_text(version.read_text().replace(spoolnode.__version__, "99.0.0"))
    return {"PYTHONPATH": str(directory / "new")}


@pytest.mark.parametrize("code", ["the same", "a new version"])
def test_restart_with_a_long_task_under_way_costs_senders_nothing(
    handed: RunningNode, senders: list[Sender], gate: Gates, tmp_path: Path, code: str
) -> None:
    changes = new_version(tmp_path) if code == "a new version" else {}
    handed.start("--grace", "1h", app=APP)
    spoolnode.send_to_spooler({"n": "long", "for": "end"}, via=handed.via)
    wait_for_note(handed, "starts long")
    with senders[0], senders[1]:
        more_from(senders, 3)
        os.kill(handed.pid, signal.SIGTERM)
        handed.wait_for_log("stopping")
        more_from(senders, 20)  # as long as the task takes
        gate("end").open()
        assert handed.wait() == 0
        handed.start("--grace", "1h", "--app", "app.py", **changes)
        more_from(senders, 10)
    assert [sender.errors for sender in senders] == [[], []]
    if changes:
        assert "spoolnode 99.0.0" in command("ping", handed.via).stdout
    wait_for_notes(handed, [note for sender in senders for note in sender.sent])
    everything = notes(handed)
    assert len(everything) == len(set(everything)), "and none runs twice"


def test_reload_costs_senders_nothing(handed: RunningNode, senders: list[Sender], gate: Gates) -> None:
    handed.start(app=APP)
    spoolnode.send_to_spooler({"n": "long", "for": "end"}, via=handed.via)
    wait_for_note(handed, "starts long")
    with senders[0], senders[1]:
        more_from(senders, 3)
        os.kill(handed.pid, signal.SIGHUP)
        handed.wait_for_log("reloaded")
        more_from(senders, 10)
        gate("end").open()
    assert [sender.errors for sender in senders] == [[], []]
    wait_for_notes(handed, [note for sender in senders for note in sender.sent])


def test_sender_that_names_the_directory_notices_no_restart_without_handed_over_sockets(node: RunningNode, gate: Gates) -> None:
    node.start("--grace", "1h", app=APP)
    spoolnode.send_to_spooler({"n": "long", "for": "end"}, via=node.via)
    wait_for_note(node, "starts long")
    via = f"dir:{node.spool}"
    with Sender("beside", lambda task: spoolnode.send_to_spooler(task, via=via, send_timeout=PATIENCE)) as sender:
        sender.wait_for(3)
        os.kill(node.pid, signal.SIGTERM)
        node.wait_for_log("stopping")
        sender.wait_for(3)
        gate("end").open()
        assert node.wait() == 0
        sender.wait_for(3)
        node.start("--app", "app.py")
        sender.wait_for(3)
    assert sender.errors == []
    wait_for_notes(node, sender.sent)
    client.close()


def test_handed_over_sockets_take_the_place_of_listen_and_stay_open_behind_the_node(handed: RunningNode) -> None:
    handed.start("--listen", "127.0.0.1:1")
    tcp, unix = (sock.getsockname() for sock in handed.handed_over)
    assert handed.lines("ready")[-1]["listen"] == [f"{tcp[0]}:{tcp[1]}", unix]
    assert exchange(unix, request({"n": "1"})) == STORED
    assert handed.stop() == 0
    assert Path(unix).is_socket()
    with socket.create_connection(tcp) as waits:
        waits.sendall(request({"n": "2"}))
        handed.start()
        assert waits.recv(100) == STORED
    assert handed.status()["total"] == 2


def test_workers_and_tasks_see_nothing_of_handed_over_sockets(handed: RunningNode) -> None:
    app = NOTES + (
        "def spooler(env):\n"
        "    note(*sorted(name for name in os.environ if name.startswith('LISTEN_')), 'end of list')\n"
        "    paths = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]\n"
        "    links = [os.readlink(path) for path in paths if os.path.islink(path)]\n"
        "    note(*[link for link in links if link in env['inodes']], 'end of sockets')\n"
        "uwsgi.spooler = spooler\n"
    )
    handed.start(app=app)
    inodes = [os.readlink(f"/proc/self/fd/{sock.fileno()}") for sock in handed.handed_over]
    spoolnode.send_to_spooler({"inodes": inodes}, via=handed.via)
    wait_for_notes(handed, ["end of list", "end of sockets"])


@pytest.mark.parametrize("kind", ["not listening", "datagrams", "public"])
def test_handed_over_socket_that_cannot_serve_is_refused_with_its_name(node: RunningNode, kind: str) -> None:
    with socket.socket(type=socket.SOCK_DGRAM if kind == "datagrams" else socket.SOCK_STREAM) as sock:
        sock.bind(("0.0.0.0" if kind == "public" else "127.0.0.1", 0))  # it is refused
        if kind == "public":
            sock.listen()
        node.handed_over = [sock]
        node.start(wait=False)
        assert node.wait() == 2
    said = "".join(node.noise)
    assert ("reachable from other machines" if kind == "public" else "(test) from LISTEN_FDS is of another kind") in said
