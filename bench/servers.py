"""The contestants: started on loopback with a free port, ended by pid."""

import contextlib
import glob
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import proc
from load import BenchError

APPS = Path(__file__).with_name("apps")
PING, PONG = b"\x64\x00\x00\x00", b"\x64\x00\x00\x01"
STATUS = b"\x64\x00\x00\x01"
"""A ping in the extended dialect: its answer has a node's status."""

UWSGI = ["--master", "--die-on-term", "--disable-logging", "--spooler-quiet", "--pythonpath", str(APPS)]
"""The best options for uWSGI: no line in the log for a request or a task."""


def find_uwsgi() -> list[str]:
    """The command of the real uWSGI: beside this Python, or on PATH; empty if it is not installed."""
    beside = Path(sys.executable).with_name("uwsgi")
    found = str(beside) if beside.exists() else shutil.which("uwsgi")
    return [found] if found else []


def find_node() -> list[str]:
    """The command of spoolnode: beside this Python, or as a module of it; empty if it is not installed."""
    beside = Path(sys.executable).with_name("spoolnode")
    if beside.exists():
        return [str(beside)]
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec("spoolnode.__main__"):
            return [sys.executable, "-m", "spoolnode"]
    return []


def find_brokers() -> dict[str, list[str]]:
    """The commands of the brokers that are installed, for the comparison with a hop."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    found = {name: shutil.which(name, path=path) for name in ("nats-server", "beanstalkd", "redis-server")}
    wheel = Path(sys.executable).with_name("nats-server")  # newer than Debian's: it syncs, and can keep a common store
    found["nats"] = str(wheel) if wheel.exists() else None
    found["postgres"] = max(glob.glob("/usr/lib/postgresql/*/bin/postgres"), default=None)
    beside = Path(sys.prefix) / "bench" / "bin" / "python"  # an environment of its own: `make bench` makes it
    found["dramatiq"] = os.environ.get("BENCH_DRAMATIQ") or (str(beside) if beside.exists() else None)
    found["procrastinate"] = found["dramatiq"] if beside.with_name("procrastinate").exists() else None
    commands = {name: [command] for name, command in found.items() if command}
    if "postgres" in commands and not os.geteuid():  # it refuses root
        commands["postgres"] = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *commands["postgres"]]
    return commands


def free_port() -> int:
    """A free port, below those that the kernel gives to the clients of a run."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise BenchError("no free port on 127.0.0.1")


def ping(port: int) -> bool:
    """Whether a uwsgi ping is answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(PING)
            return connection.recv(4) == PONG
    except OSError:
        return False


def status(port: int) -> dict[str, Any]:
    """The status of a node, over its own port."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(STATUS)
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[1:3], "little"):
            more = connection.recv(65536)
            if not more:
                raise OSError("the node closed the connection instead of telling its status")
            answer += more
    content: dict[str, Any] = msgpack.unpackb(answer[4:])
    return content


def accepts(port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


class Server:
    """A running contestant."""

    def __init__(self, command: Sequence[str], port: int, log: Path, environment: dict[str, str]) -> None:
        self.port = port
        self.log = log
        ours = ("SPOOLNODE_", "UWSGI_", "BENCH_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(APPS), kept.get("PYTHONPATH")]))
        with log.open("ab") as file:
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=log.parent,
                env=kept | environment,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The pid of the master, or of the node."""
        return self._process.pid

    def wait_ready(self, limit: float = 30, *, broker: bool = False) -> float:
        """Waits until a ping is answered (a broker: a connection is accepted). Returns the seconds since the start."""
        while not (accepts if broker else ping)(self.port):
            self.check(limit)
            time.sleep(0.002)
        return time.monotonic() - self.started

    def check(self, limit: float) -> None:
        """Raises BenchError when it has ended, or is older than `limit` seconds."""
        age = time.monotonic() - self.started
        if (status := self._process.poll()) is not None:
            raise BenchError(f"the server ended with status {status}; its log: {self.last_words()}")
        if age > limit:
            raise BenchError(f"the server took more than {limit:.0f} s; its log: {self.last_words()}")

    def wait_end(self, limit: float) -> None:
        """Returns when it has ended by itself, well. Raises BenchError."""
        try:
            status = self._process.wait(limit)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"it took more than {limit:.0f} s; its log: {self.last_words()}") from error
        if status:
            raise BenchError(f"it ended with status {status}; its log: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-600:].strip() or "(empty)"

    def stop(self, limit: float = 30) -> None:
        """Stops it in the ordinary way, and kills what is left after `limit` seconds."""
        family = proc.tree(self.pid)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit)
        self._kill(family)

    def crash(self) -> None:
        """kill -9 of all its processes."""
        self._kill(proc.tree(self.pid))

    def _kill(self, family: list[proc.Process]) -> None:
        for process in family:
            if proc.is_alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        self._process.wait()


class Contestants:
    """Starts servers; `directory` is the temporary directory of the run."""

    def __init__(self, directory: Path, uwsgi: list[str], node: list[str], brokers: dict[str, list[str]]) -> None:
        self.directory = directory
        self._uwsgi = uwsgi
        self._node = node
        self._brokers = brokers
        self._names = iter(range(1_000_000))

    def path(self, name: str) -> Path:
        """A new name below the temporary directory."""
        return self.directory / f"{next(self._names)}-{name}"

    @contextlib.contextmanager
    def uwsgi(self, spool: Path, *options: str, app: str = "", environment: dict[str, str] | None = None) -> Iterator[Server]:
        """A uWSGI server. With an `app` it has one spooler process; without, it enqueues only (`spooler-external`)."""
        spool.mkdir(exist_ok=True)
        port = free_port()
        backlog = min(1024, int(Path("/proc/sys/net/core/somaxconn").read_text()))  # holds all clients
        command = [*self._uwsgi, *UWSGI, "--socket", f"127.0.0.1:{port}", "--listen", str(backlog), *options]
        if app:
            command += ["--spooler", str(spool), "--spooler-frequency", "1", "--spooler-import", app]
        else:
            command += ["--spooler-external", str(spool)]
        with self._running(command, port, environment) as server:
            yield server

    @contextlib.contextmanager
    def node(
        self, spool: Path, *options: str, app: str = "", environment: dict[str, str] | None = None, port: int = 0,
        discover: str = "none",
    ) -> Iterator[Server]:  # fmt: skip
        """A spoolnode node. With an `app` it has one worker; without, it enqueues only."""
        port = port or free_port()
        command = [*self._node, "join", "--spool", str(spool), "--listen", f"127.0.0.1:{port}", "--discover", discover, *options]
        if app:
            command += ["--app", app, "--workers", "1"]
        with self._running(command, port, environment) as server:
            yield server

    @contextlib.contextmanager
    def broker(self, name: str, *options: str, port: int = 0, environment: dict[str, str] | None = None) -> Iterator[Server]:
        """A broker, or a worker of one; its options name the port."""
        with self._running([*self._brokers[name], *options], port, environment) as server:
            yield server

    @contextlib.contextmanager
    def postgres(self, *options: str) -> Iterator[Server]:
        """A PostgreSQL on a free port."""
        port = free_port()
        with self.broker("postgres", *options, "-p", str(port), port=port) as server:
            yield server

    def command(self, name: str) -> list[str]:
        """How a contestant is started."""
        return self._node if name == "ours" else self._brokers[name]

    def certificates(self, *names: str) -> dict[str, list[str]]:
        """The options with which nodes with these names trust each other."""
        directory = self.path("ca")
        for arguments in (["init", str(directory)], *(["issue", name, "--dir", str(directory)] for name in names)):
            done = subprocess.run([*self._node, "ca", *arguments], capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchError(f"spoolnode ca {' '.join(arguments)}: {done.stderr.strip()}")
        return {
            name: [f"--tls-cert={directory / name}.crt", f"--tls-key={directory / name}.key", f"--tls-ca={directory / 'ca.crt'}"]
            for name in names
        }

    @contextlib.contextmanager
    def _running(self, command: list[str], port: int, environment: dict[str, str] | None) -> Iterator[Server]:
        server = Server(command, port, self.path("log"), environment or {})
        try:
            yield server
        except BaseException:  # also Ctrl-C, in the code within
            server.crash()
            raise
        server.stop()
