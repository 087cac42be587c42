"""Parties to a cluster with certificates: real nodes, and clients that say whatever a test wants, with whatever certificate."""

import contextlib
import itertools
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quick import QUICK, timed
from support import RunningNode, eventually, whole_lines
from talk import connect, read_answers

from spoolnode import send_to_spooler
from spoolnode.client.control import ask
from spoolnode.cluster.introduction import Introduction
from spoolnode.protocol.answer import REFUSED, read_answer, read_status, status_pong
from spoolnode.protocol.errors import Refused
from spoolnode.protocol.hello import PROTOCOL, Hello, encode, read_hello
from spoolnode.protocol.keys import NONCE_SIZE, NodeKey
from spoolnode.protocol.packet import EXTENDED, PLAIN, SPOOL_REQUEST, encode_variables, packet

if TYPE_CHECKING:
    from spoolnode.cluster.authority import Issued

APP = """
import os
from spoolnode import uwsgi

RAN = os.open(os.environ["RAN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def spooler(env):
    os.write(RAN, f"{env['n']} {len(env.get('body', b''))}\\n".encode())

uwsgi.spooler = spooler
"""
MALLORY = "666666666666"
NUMBER = (1 << 40) + 1
"""A sequence number."""


class Party(RunningNode):
    """A real node; `ran` is what its application was given."""

    def __init__(self, directory: Path, name: str) -> None:
        directory.mkdir()
        super().__init__(directory, name)

    def join(self, *args: str, made: "Issued | None" = None) -> "Party":
        """Starts it, with a certificate if there is one."""
        tls: list[str] = []
        if made is not None:
            tls = ["--tls-cert", str(made.certificate), "--tls-key", str(made.key), "--tls-ca", str(made.authority)]
        self.start(*tls, *args, app=APP, RAN=str(self.directory / "ran"))
        return self

    timing = QUICK
    """Of its next start."""

    def command_line(self, args: list[str]) -> list[str]:
        """As the base class says, with its timing."""
        return timed(args, self.timing)

    @property
    def id(self) -> str:
        """The node's id."""
        return (self.spool / "node.id").read_text().strip()

    @property
    def ran(self) -> list[str]:
        """The numbers of the tasks that ran here, in order."""
        path = self.directory / "ran"
        return [line.split()[0] for line in whole_lines(path)]

    def wait_until_ran(self, *numbers: str) -> None:
        """Returns when these, and no others, have run here, once each."""
        eventually(lambda: sorted(self.ran) == sorted(numbers), f"{numbers} run on {self.name}; ran {self.ran}; {self.log[-5:]}")

    def kill_at_rest(self) -> None:
        """SIGKILL, once it has noted the end of all that ran: none of it runs again."""
        eventually(lambda: self.status()["total"] == 0, f"{self.name} is at rest")
        self.kill9()

    def peers(self) -> list[dict[str, Any]]:
        """The rows of `spoolnode peers`."""
        rows: list[dict[str, Any]] = ask(str(self.spool), "GET", "/nodes")["items"]
        return rows

    def dead(self) -> list[str]:
        """The files in dead/."""
        return sorted(path.name for path in (self.spool / "dead").iterdir())

    def is_well(self) -> None:
        """Fails when it does not take and run a task now, or has erred."""
        number = f"well{len(self.ran)}"
        assert send_to_spooler({"n": number}, via=self.via)
        eventually(lambda: number in self.ran, f"{self.name} runs tasks")
        assert [line for line in self.log if line["action"] in ("mistake", "housekeeping_failed", "move_failed")] == []
        assert not list((self.spool / "corrupt").iterdir())


class Authorities:
    """Certificates: `issue("alpha", days=-1, of="other")`. Each authority is made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._serial = itertools.count()

    def issue(self, name: str, days: int = 30, of: str = "ca") -> "Issued":
        """Another certificate."""
        from spoolnode.cluster import authority as ca

        if not (self.directory / of).exists():
            ca.init(self.directory / of)
        return ca.issue(self.directory / of, name, days, self.directory / f"out{next(self._serial)}")

    def context(self, made: "Issued | None") -> ssl.SSLContext:
        """A client that takes any server, and shows what it is given."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if made is not None:
            context.load_cert_chain(made.certificate, made.key)
        return context


def hello(**changes: Any) -> bytes:
    """The hello of a node called mallory."""
    said = {"id": MALLORY, "name": "mallory", "cluster": "default", "to": "beta", "instance": "x", "low_watermark": 1}
    return encode(Hello(**{**said, **changes}))


def say_as(node: RunningNode, key: NodeKey, said: bytes, *packets: bytes) -> list[str]:
    """The same without TLS, from a party that says this hello and proves its key."""
    introduction = Introduction(read_hello(said[4:]), key, secrets.token_hex(NONCE_SIZE))
    asked = read_hello(said[4:])
    heard: list[str] = []
    with connection(node, None) as sock:
        sock.sendall(introduction.packet(asked.to, asked.low_watermark))
        answers = read_answers(sock, 1)
        heard.append(understood(*answers[0]))
        if heard == ["pong"]:
            introduction.hear(read_status(answers[0][2]))
            for each in (introduction.packet(asked.to, asked.low_watermark), *packets):
                sock.sendall(each)
                heard += [understood(*answer) for answer in read_answers(sock, 1)]
    return heard


def task(n: str, *, extended: bool = True, **variables: str) -> bytes:
    """A task as a link carries it, or as it never should."""
    said = {"n": n, "spool_seq": str(NUMBER), **variables}
    block = encode_variables([(key.encode(), value.encode()) for key, value in said.items() if value])
    return packet(SPOOL_REQUEST, block, EXTENDED if extended else PLAIN)


@contextmanager
def connection(node: RunningNode, context: ssl.SSLContext | None) -> Iterator[socket.socket]:
    """A connection to a node, over TLS with a context."""
    with connect(("127.0.0.1", node.port)) as plain:
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain) as wrapped:
            yield wrapped


def say(node: RunningNode, context: ssl.SSLContext | None, *packets: bytes) -> list[str]:
    """Says these one after the other, each after the answer to the one before. Returns the answers: `pong`, an id, a reason.

    The list is shorter if the node ends the connection.
    """
    heard: list[str] = []
    try:
        with connection(node, context) as sock:
            for each in packets:
                sock.sendall(each)
                answers = read_answers(sock, 1)
                if not answers:
                    break
                heard.append(understood(*answers[0]))
    except (ConnectionError, ssl.SSLError) as error:
        heard.append(type(error).__name__)
    return heard


def understood(modifier1: int, modifier2: int, block: bytes) -> str:
    """An answer in a word."""
    if modifier1 == 100:
        return "pong"
    try:
        return read_answer(modifier2, block)
    except Refused as refusal:
        return f"{refusal.reason.name}: {refusal.text}"


class FakeNode:
    """Listens and answers each hello with a status of the test's choice; `got` is all that was said to it."""

    def __init__(self, status: dict[str, Any], context: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.status = status
        self.got: list[bytes] = []
        self.connections = 0
        self._context = context
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    @property
    def tasks(self) -> list[bytes]:
        """The tasks that were said to it."""
        return [data for data in self.got if data[:1] == b"\x11"]

    def close(self) -> None:
        """Listens no more, and ends its connections."""
        self._server.shutdown(socket.SHUT_RDWR)
        for sock in self._open:
            with contextlib.suppress(OSError):  # it has ended already
                sock.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, plain: socket.socket) -> None:
        with plain:
            plain.settimeout(30)
            try:
                sock = self._context.wrap_socket(plain, server_side=True) if self._context is not None else plain
                with sock:
                    while head := _exactly(sock, 4):
                        if head[0] == 22:
                            sock.recv(65536)
                            sock.sendall(REFUSED * 2)  # a TLS client hears that this is not TLS
                            return
                        data = head + _exactly(sock, int.from_bytes(head[1:3], "little"))
                        self.got.append(data)
                        if data[0] == 100:
                            sock.sendall(status_pong(self.status))
            except OSError:
                return  # it was not for us


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            return b""
        data += piece
    return data


def status_of(node_id: str, name: str, **changes: Any) -> dict[str, Any]:
    """The status of a node with that id and name."""
    return {
        "id": node_id, "name": name, "cluster": "default", "protocol": PROTOCOL, "version": "1", "instance": node_id, "tags": [],
        "workers": 1, "waiting": 0, "running": 0, "pace": 0.0, "draining": False, "accepting": True, **changes,
    }  # fmt: skip


def server_context(made: "Issued") -> ssl.SSLContext:
    """The server's context of a node with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    context.load_verify_locations(made.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


Make = Callable[[str], Party]
