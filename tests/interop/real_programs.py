"""The real nginx, uWSGI and web servers, each in processes of their own, ended by pid; and ten lines of socket code.

Nothing sleeps for a fixed time and no port is fixed: uWSGI chooses its own, nginx gets a free one, and another if that
was taken meanwhile.
"""

import grp
import http.client
import json
import os
import pwd
import shlex
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from programs import Program, free_port
from support import PATIENCE, environment, eventually, need, whole_lines

NGINX = "/usr/sbin/nginx"
UWSGI = Path(sys.executable).with_name("uwsgi")
LISTENS = {"uvicorn": "--uds {}", "gunicorn": "--graceful-timeout 1 --timeout 120 --bind unix:{}", "flask": "--host unix://{}"}
"""How each server is told to listen on a unix socket; and gunicorn, not to kill a process that a busy machine lets wait."""
STORED = bytes.fromhex("ff000001")
REFUSED = bytes.fromhex("ff000000")

LINES = """
import os


def write_line(*words):
    "One line, whole, whatever process writes it."
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.txt")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    os.close(descriptor)

"""
"""The head of every application here: whatever it does, it writes as a line beside itself."""


class Lines:
    """The lines that an application has written so far."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lines.txt"

    def __call__(self) -> list[str]:
        return whole_lines(self._path)

    def wait(self, count: int = 1, begin: str = "") -> list[str]:
        """The lines that begin so, once there are that many."""

        def found() -> list[str]:
            return [line for line in self() if line.startswith(begin)]

        try:
            eventually(lambda: len(found()) >= count, f"{count} lines {begin!r}", PATIENCE + count / 10)
        except AssertionError as error:
            raise AssertionError(f"{error}; there are {self()[-20:]}") from None
        return found()

    def clear(self) -> None:
        """Forgets them."""
        self._path.unlink(missing_ok=True)


class Uwsgi(Program):
    """A real uWSGI server. `-w` finds modules in its directory."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "uwsgi")
        self.port = 0

    def start(self, *options: str) -> Self:
        """Starts it on a port that it chooses; returns when it serves."""
        # Told to end while it starts, it waits for its worker as long as this says: a minute by default.
        mercy = ["--worker-reload-mercy", "5"]
        command = [need(UWSGI), "-M", "-p", "1", "--die-on-term", *mercy, "-s", "127.0.0.1:0", *options]
        if sys.prefix != sys.base_prefix:
            command += ["-H", sys.prefix]
        self.run(command, PYTHONDONTWRITEBYTECODE="1")
        self.wait_for_output("spawned uWSGI worker 1")
        self.port = int(self.output.partition("bound to TCP address 127.0.0.1:")[2].split()[0])
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def call(self, **query: str) -> str:
        """The answer of its WSGI application to a request with these variables."""
        variables = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_PROTOCOL": "HTTP/1.0", **query}
        answer = exchange(self.address, packet([(k.encode(), v.encode()) for k, v in variables.items()], modifier1=0))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 200 " in head, (answer, self.output[-3000:])
        return body.decode()


def lines_of_uwsgi(place: Path, app: str, enough: Callable[[list[str]], bool], *options: str) -> list[str]:
    """The lines that an application writes under a real uWSGI, once they are enough.

    It is only what we are compared with, and has been seen to leave one out on a machine with a load of 20; so it may start three
    times, each in a directory of its own.
    """
    for attempt in ("1", "2", "3"):
        directory = place / attempt
        directory.mkdir()
        (directory / "app.py").write_text(app)
        program = Uwsgi(directory)
        try:
            program.start("-Q", "spool", "-w", "app", *options)
            with suppress(AssertionError):
                eventually(lambda where=directory: enough(Lines(where)()), "enough lines", patience=40)  # type: ignore[misc]  # bound now
                return Lines(directory)()
        finally:
            program.end()
    raise AssertionError(f"uWSGI has not written enough lines, three times: {Lines(directory)()}")


class WebServer(Program):
    """A server of web applications, in Python, on a unix socket."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "server")
        self.socket = directory / "web.sock"

    def start(self, line: str, first: str, method: str = "GET", **changes: str) -> None:
        """Starts a server; returns when it answers its first request.

        Args:
            line: as it is typed into a shell, without an address.
            first: the path of the request.
            method: that of the request.
            changes: environment variables.
        """
        program, *options = shlex.split(line)
        command = [sys.executable, "-m", program, *options, *LISTENS[program].format(self.socket).split()]
        self.run(command, **environment(PYTHONDONTWRITEBYTECODE="1", **changes))
        self.wait_for(lambda: self.socket.exists() and self.ask(first, method), "an answer")

    def ask(self, path: str, method: str = "GET") -> Any:
        """The answer to one request, decoded; None while nothing listens."""
        connection = http.client.HTTPConnection("web")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(PATIENCE)
            connection.sock.connect(str(self.socket))
            connection.request(method, path)
            response = connection.getresponse()
            assert response.status == 200, self.output
            return json.loads(response.read())
        except ConnectionRefusedError:
            return None
        except ConnectionResetError:
            raise AssertionError(self.output) from None
        finally:
            connection.close()


class Nginx(Program):
    """A real nginx; its workers run as the user `nobody` if we are root, as they would in production."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "nginx")
        self.port = 0

    def start(self, locations: str, *, server: str = "", http: str = "") -> Self:
        """Serves these locations; `server` and `http` are further lines of those blocks."""
        need(NGINX)
        directory = self.directory
        names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{name}_temp_path {directory}/{name};\n" for name in names)
        for _ in range(5):
            self.port = free_port()
            (directory / "nginx.conf").write_text(
                f"daemon off; pid {directory}/nginx.pid; worker_processes 1; error_log stderr;\n{as_user()}"
                f"events {{ worker_connections 512; }}\nhttp {{ access_log off; client_max_body_size 0; {http}\n"
                f"{places} server {{ listen 127.0.0.1:{self.port}; {server}\n{locations}\n}} }}\n"
            )
            if self.serve([NGINX, "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]):
                return self
        pytest.fail(f"nginx did not start:\n{self.output}")

    def serve(self, command: list[str]) -> bool:
        """Starts it and waits until it listens; False if another process has its port."""
        self.run(command)
        self.wait_for(lambda: self._listens() or not self.is_running, "it listens")
        if self.is_running:
            return True
        assert "Address already in use" in self.output, self.output
        self.end()
        return False

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self) -> http.client.HTTPConnection:
        """A connection to it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own: status, headers, body. An iterable body is sent in chunks."""
        client = self.client()
        try:
            client.request(method, path, body, headers)
            answer = client.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            client.close()


def as_user() -> str:
    """The line of a configuration that names the user of nginx's workers, when we may choose."""
    if os.geteuid():
        return ""
    return f"user nobody {grp.getgrgid(pwd.getpwnam('nobody').pw_gid).gr_name};\n"


def packet(variables: Iterable[tuple[bytes, bytes]], modifier1: int = 17, modifier2: int = 0) -> bytes:
    """A uwsgi packet, made from the page "The uwsgi Protocol" alone."""
    block = b"".join(struct.pack("<H", len(text)) + text for item in variables for text in item)
    return struct.pack("<BHB", modifier1, len(block), modifier2) + block


def exchange(
    address: tuple[str, int] | str, data: bytes, *, half_close: bool = False, piece: int = 0, patience: float = PATIENCE
) -> bytes:
    """Sends these bytes and returns everything that comes back until the server closes.

    Args:
        half_close: say that nothing more will come.
        piece: send so many bytes at a time, each in a segment of its own; 0: all at once.
    """
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
        for start in range(0, len(data), piece or max(len(data), 1)):
            sock.sendall(data[start : start + (piece or len(data))])
        if half_close:
            with suppress(OSError):  # it has closed already; what it said is read all the same
                sock.shutdown(socket.SHUT_WR)
        answer = b""
        while received := sock.recv(65536):
            answer += received
        return answer
