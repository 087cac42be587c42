"""Clients see the same from a real uWSGI server and from us: each exchange is held against both servers."""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from real_programs import REFUSED, STORED, Uwsgi, exchange, packet
from support import RunningNode, eventually

from spoolnode import Refused, send_to_spooler
from spoolnode.node.disk.disk import RealDisk
from spoolnode.node.disk.layout import Layout
from spoolnode.node.spool import inspect
from spoolnode.node.spool.store import Store
from spoolnode.protocol.answer import read_answer
from spoolnode.protocol.spoolfile import SpoolFile, parse

TASK = [(b"Name", b"Serena"), (b"System", b"Linux"), (b"Tizio", b"\xff\x00")]
REQUEST = packet(TASK)
PONG = bytes.fromhex("64000001")
MEGABYTE = 1 << 20


class Server(NamedTuple):
    """One of the two."""

    address: tuple[str, int]
    spool: Path
    real: bool

    def stored(self) -> list[SpoolFile]:
        """The tasks; ours may still lie in a batch, in the same format."""
        if self.real:
            return [parse(path.read_bytes()) for path in self.files()]
        store = Store(RealDisk(), Layout(str(self.spool)), (self.spool / "node.id").read_text().strip(), False)
        tasks = [inspect.find_place(store, info.id) for info in inspect.waiting_tasks(store, 0.0)]
        return [inspect.read_file(store, task[1]) for task in tasks if task is not None]

    def files(self) -> list[Path]:
        """The spool files."""
        return [*self.spool.glob("uwsgi_spoolfile_on_*"), *self.spool.glob("[0-9]*/uwsgi_spoolfile_on_*")]


@pytest.fixture(params=["uWSGI", "spoolnode"])
def server(request: pytest.FixtureRequest, node: RunningNode, uwsgi: Uwsgi) -> Iterator[Server]:
    """A server that keeps what it is sent."""
    node.spool.mkdir()
    if request.param == "uWSGI":
        uwsgi.start("--spooler-external", str(node.spool), "-b", "8192")
        yield Server(uwsgi.address, node.spool, real=True)
    else:
        node.start("-b", "8192")
        yield Server(("127.0.0.1", node.port), node.spool, real=False)


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_stored_is_exactly_four_bytes_and_the_end(server: Server) -> None:
    assert exchange(server.address, REQUEST) == STORED
    assert exchange(server.address, REQUEST, half_close=True) == STORED
    assert exchange(server.address, REQUEST, piece=1) == STORED
    assert exchange(server.address, REQUEST, piece=3, half_close=True) == STORED
    assert exchange(server.address, packet([(b"empty", b"")])) == STORED
    # As large as -b allows.
    assert exchange(server.address, packet([(b"k", bytes(8192 - 5))])) == STORED
    files = server.stored()
    assert len(files) == 6
    assert [file.variables for file in files].count(TASK) == 4
    assert all(file.attempts == 0 and file.body == b"" for file in files)


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_what_follows_the_packet_is_ignored(server: Server) -> None:
    for after in (REQUEST, b"x", packet([(b"a", b"b")], modifier1=0), b"\x16\x03\x01"):
        assert exchange(server.address, REQUEST + after) == STORED
    with contextlib.suppress(ConnectionError):  # both close while unwanted bytes are on their way
        assert exchange(server.address, REQUEST + bytes(100_000)) == STORED
    assert [file.variables for file in server.stored()] == [TASK] * 5


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_second_packet_later_on_the_connection_is_not_answered(server: Server) -> None:
    with socket.create_connection(server.address, timeout=30) as sock:
        sock.sendall(REQUEST)
        assert sock.recv(4, socket.MSG_WAITALL) == STORED
        try:
            sock.sendall(REQUEST)
            assert sock.recv(4) == b""
        except ConnectionError:
            pass
    assert [file.variables for file in server.stored()] == [TASK]


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_modifier2_is_ignored_and_stored_as_zero(server: Server) -> None:
    others = [0, 2, 3, 17, 100, 255]
    for modifier2 in others:
        assert exchange(server.address, packet(TASK, modifier2=modifier2)) == STORED
    assert server.stored() == [SpoolFile(17, 0, TASK, b"")] * len(others)


def test_modifier2_1_is_our_own_dialect_which_the_real_one_takes_for_its_own(server: Server) -> None:
    with socket.create_connection(server.address, timeout=30) as sock:
        sock.sendall(packet(TASK, modifier2=1))
        answer = sock.recv(4, socket.MSG_WAITALL)
        if server.real:
            assert answer == STORED
            assert sock.recv(1) == b""
        else:
            assert (answer[0], answer[3]) == (255, 1)
            assert b"spool_id" in sock.recv(int.from_bytes(answer[1:3], "little"), socket.MSG_WAITALL)
            sock.sendall(packet(TASK, modifier2=1))
            assert sock.recv(1) == b"\xff"  # and the connection stays


def test_ping_is_answered(server: Server) -> None:
    assert exchange(server.address, bytes.fromhex("64000000")) == PONG
    assert exchange(server.address, bytes.fromhex("64000000"), piece=1, half_close=True) == PONG
    assert exchange(server.address, bytes.fromhex("64000002")) == PONG


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_spooler_names_the_directory(server: Server) -> None:
    real = os.path.realpath(server.spool).encode()
    assert exchange(server.address, packet([*TASK, (b"spooler", real)])) == STORED
    assert exchange(server.address, packet([*TASK, (b"spooler", b"")])) == STORED
    for other in (real + b"/", b"/nowhere", b"spool", b"0"):
        assert exchange(server.address, packet([*TASK, (b"spooler", other)])) == REFUSED, other
    assert len(server.stored()) == 2


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_last_of_repeated_special_variables_wins(server: Server) -> None:
    later = [(b"spooler", b"/nowhere"), (b"priority", b"3"), (b"a", b"1"), (b"spooler", b""), (b"priority", b"7")]
    assert exchange(server.address, packet(later)) == STORED
    assert [file.variables for file in server.stored()] == [later]
    (path,) = eventually(server.files, "a spool file")  # ours appears when the batch is settled
    assert path.parent.name == "7"


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_priority_is_a_directory_and_at_its_file_time(server: Server) -> None:
    at = 4_000_000_000
    for time in (b"%d" % at, b"%d.0" % at):
        task = [*TASK, (b"priority", b"12"), (b"at", time)]
        assert exchange(server.address, packet(task)) == STORED
    assert [dict(file.variables)[b"priority"] for file in server.stored()] == [b"12"] * 2
    eventually(lambda: len(server.files()) == 2, "two spool files")
    paths = list(server.spool.glob("12/uwsgi_spoolfile_on_*"))
    assert [path.stat().st_mtime for path in paths] == [at, at]


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_packet_that_ends_too_soon_is_not_answered(server: Server) -> None:
    for fragment in (b"", b"\x11", REQUEST[:3], REQUEST[:4], REQUEST[:-1]):
        assert exchange(server.address, fragment, half_close=True) == b""
    assert exchange(server.address, REQUEST) == STORED  # it lives, and took nothing before
    assert len(server.stored()) == 1


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_where_the_real_one_says_nothing_or_lies_we_refuse(server: Server) -> None:
    too_large = packet([(b"k", bytes(8192 - 4))])
    truth = {
        "a block larger than -b": (too_large, b"", REFUSED),
        "an empty packet": (packet([]), STORED, REFUSED),
        "variables that run past their block": (b"\x11\x05\x00\x00\x09\x00abc", STORED, REFUSED),
        "a name without a character": (packet([(b"", b"v")]), STORED, REFUSED),
        "a priority that leaves the directory": (packet([(b"priority", b"../evil")]), STORED, REFUSED),
        "a priority that is never looked for": (packet([(b"priority", b"high")]), STORED, REFUSED),
        "a time that is none": (packet([(b"at", b"tomorrow")]), STORED, REFUSED),
    }
    for what, (request, real, ours) in truth.items():
        try:
            answer = exchange(server.address, request, half_close=True)
        except ConnectionResetError:
            answer = b""
        assert answer == (real if server.real else ours), what
    if not server.real:
        assert server.stored() == []
        assert not list(server.spool.parent.glob("**/*evil*"))


@pytest.mark.on_disk("it reads the tasks from the disk")
def test_body_after_a_plain_packet_is_kept_by_us(server: Server) -> None:
    for size in (3, 5 * MEGABYTE):
        body = os.urandom(size)
        request = packet([(b"size", b"%d" % size), (b"CONTENT_LENGTH", b"%d" % size)])
        try:
            answer = exchange(server.address, request + body)
        except ConnectionError:
            answer = STORED
            assert server.real
        assert answer == STORED
        (file,) = [file for file in server.stored() if dict(file.variables)[b"size"] == b"%d" % size]
        assert file.body == (b"" if server.real else body)  # dropped, while it says "stored"


def test_variables_of_a_web_request_travel_in_both_dialects(node: RunningNode) -> None:
    # Only who speaks the plain dialect is a web server; our client, and a node that passes a task on, read packets.
    node.start()
    web = {"REQUEST_METHOD": "POST", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "a"}
    assert send_to_spooler(web, via=node.via)
    assert send_to_spooler({**web, "body": b"x" * 200_000}, via=node.via)
    with socket.create_connection(("127.0.0.1", node.port), 30) as sock:
        sock.sendall(packet([(b"HTTP_HOST", b"a"), (b"spool_origin", b"x")], modifier2=1))
        _, size, modifier2 = struct.unpack("<BHB", sock.recv(4, socket.MSG_WAITALL))
        block = sock.recv(size, socket.MSG_WAITALL)
    with pytest.raises(Refused, match="reserved"):
        read_answer(modifier2, block)
    answer = exchange(("127.0.0.1", node.port), packet([(b"HTTP_HOST", b"a")]))
    assert answer.startswith(b"HTTP/1.1 202 ")
