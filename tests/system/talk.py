"""For tests of the listener and of crashes: requests as bytes, and sockets without a client library."""

import contextlib
import random
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from spoolnode.protocol.answer import Answer, AnswerReader
from spoolnode.protocol.packet import EXTENDED, PLAIN, SPOOL_REQUEST, encode_variables, packet
from spoolnode.protocol.values import encode_task

Address = tuple[str, int] | str

PATIENCE = 60.0
"""Seconds without a byte after which a node counts as hanging."""


def request(task: Mapping[str, Any], *, extended: bool = False, extra: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The bytes of one request, its body included."""
    encoded = encode_task(task, extra)
    return packet(SPOOL_REQUEST, encoded.block, EXTENDED if extended else PLAIN) + encoded.body


def raw_request(*variables: tuple[bytes, bytes], extended: bool = False) -> bytes:
    """A request with variables that no client of ours would send."""
    return packet(SPOOL_REQUEST, encode_variables(variables), EXTENDED if extended else PLAIN)


def connect(address: Address, patience: float = PATIENCE, source: str = "", *, small_window: bool = False) -> socket.socket:
    """A connected socket with a time limit on each call; with a small window the kernel keeps little unread."""
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
        if source:
            sock.bind((source, 0))
    if small_window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(patience)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def exchange(address: Address, data: bytes, patience: float = PATIENCE) -> bytes:
    """Sends bytes and returns everything that comes back until the node closes."""
    with connect(address, patience) as sock:
        # It may have refused already; its answer is still there to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side closes; a reset is an end too."""
    pieces = []
    try:
        while piece := sock.recv(65536):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def read_answers(sock: socket.socket, count: int) -> list[Answer]:
    """The next `count` answers of the extended dialect; fewer when the node closes first."""
    reader = AnswerReader()
    answers: list[Answer] = []
    while len(answers) < count and (data := sock.recv(65536)):
        answers += reader.answers(data)
    return answers


def quiet_port(rng: random.Random) -> int:
    """A free port that the kernel does not give away: it lies below the range for outgoing connections.

    For nodes that are down at times. On a port of that range a client may connect to itself meanwhile (both ends of a
    TCP connection to a port where nothing listens may be the same socket), and the node finds its port taken.
    """
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        low = int(file.read().split()[0])
    while True:
        port = rng.randrange(max(1024, low // 2), low)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
