"""Real nodes for tests: the command in a process of its own, on a free port, its log read as it is written.

    def test_something(node):
        node.start("--workers", "2", app=APP)
        spoolnode.send_to_spooler({"a": "b"}, via=node.via)
        node.wait_for_log("print", text="ran")

Nothing here sleeps for a fixed time: everything waits for a condition, and fails with the node's log when its time is up.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest
from forking import Forked, ForkServer

import spoolnode
from spoolnode.client.control import ask

PATIENCE = 120.0
"""Seconds after which something that should have happened counts as failed, on a busy machine too."""

SETTINGS: dict[str, str] = {}
"""Environment variables that each node starts with: none, or those of a store (see behind_store.py)."""

SENDING = {"SPOOLNODE_SEND_TIMEOUT": f"{PATIENCE:g}"}
"""The environment of all that sends: the five seconds after which a send fails are too few for a busy disk."""

SHARED = "SHARED_BY_TESTS"
"""The environment variable with a directory for what is made once for all processes of a test session (see conftest.py)."""


def new_directory() -> Path:
    """A new directory with a short name, in memory if there is room: on a busy disk, to make and remove files takes longer than
    most tests."""
    return Path(tempfile.mkdtemp(prefix=f"sn-{os.getpid()}-", dir=_place()))


def remove_abandoned() -> None:
    """Removes such directories of processes that were killed."""
    for path in Path(_place()).glob("sn-*-*"):
        number = path.name.split("-")[1]
        if number.isdecimal() and not Path("/proc", number).exists():
            shutil.rmtree(path, ignore_errors=True)


def _place() -> str:
    memory = "/dev/shm"
    has_room = os.path.isdir(memory) and shutil.disk_usage(memory).free > 2 << 30
    return memory if has_room else tempfile.gettempdir()


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child process: this spoolnode on its path, without the developer's own SPOOLNODE_* settings.

    It trusts no public authority of the system: to read their certificates, which aiohttp does for its client, is a fifth of all
    that a node does to start.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLNODE_")}
    path = str(Path(spoolnode.__file__).parents[1])
    rest = kept.get("PYTHONPATH")
    no_authorities = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    return {**kept, **SENDING, **no_authorities, "PYTHONPATH": f"{path}:{rest}" if rest else path, **changes}


def command(*args: str, cwd: Path | None = None, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs `spoolnode ARGS` and returns how it ended; `changes` are environment variables."""
    around, line = environment(PYTHONDONTWRITEBYTECODE="1", **changes), ["-m", "spoolnode", *args]
    if fork_server().fits(around):
        return fork_server().run(line, cwd or Path.cwd(), around, stdin, PATIENCE * 2)
    return subprocess.run(
        [sys.executable, *line], cwd=cwd, input=stdin, env=around, capture_output=True, text=True, timeout=PATIENCE * 2,
        check=False,
    )  # fmt: skip


def eventually(condition: Callable[[], Any], what: str = "the condition", patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; an AssertionError that names `what` when there is none in time.

    A condition that takes long, such as one that runs a command, is asked less often: what it waits for needs the processor, too.
    """
    asked = time.monotonic()
    deadline = asked + patience
    while not (value := condition()):
        answered = time.monotonic()
        assert answered < deadline, f"not in {patience:g} s: {what}"
        time.sleep(max(0.01, answered - asked))
        asked = time.monotonic()
    return value


def need(program: str | Path) -> str:
    """The path of a program; without it the test is skipped on a laptop and fails in CI."""
    found = shutil.which(program)
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(f"CI needs {program}")
    pytest.skip(f"there is no {program}")


def whole_lines(path: Path) -> list[str]:
    """The whole lines in a file that another process writes: a line without its end is still being written."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


Process = subprocess.Popen[str] | Forked


@cache
def fork_server() -> ForkServer:
    """That of this test process."""
    server = ForkServer(environment(PYTHONDONTWRITEBYTECODE="1"))
    atexit.register(server.close)
    return server


HAND_OVER = """
import fcntl, os, sys
split = sys.argv.index("--")
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1:split]]
for place, descriptor in enumerate(high, 3):
    os.dup2(descriptor, place)
    os.close(descriptor)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(["test"] * len(high)))
os.execv(sys.argv[split + 1], sys.argv[split + 1:])
"""
"""Becomes a command with some descriptors from 3 on, as sd_listen_fds(3) says."""


class RunningNode:
    """One node with its spool in `directory / "spool"`; it can be ended and started again on the same spool."""

    def __init__(self, directory: Path, name: str = "testnode") -> None:
        self.directory = directory
        self.name = name
        self.spool = directory / "spool"
        self.log: list[dict[str, Any]] = []
        """The lines of its log, of all starts together."""
        self.handed_over: list[socket.socket] = []
        """Listening sockets that each start gets from us, as from an init system."""
        self.noise: list[str] = []
        """Its lines on standard error that are not lines of the log."""
        self.port = 0
        self._kept: socket.socket | None = None
        self._process: Process | None = None
        self._reader: threading.Thread | None = None

    def start(self, *args: str, app: str = "", wait: bool = True, **changes: str) -> Self:
        """Starts it and waits until it is ready.

        Args:
            args: further options of `spoolnode join`; the log is JSON with a line for each task unless they say otherwise.
            app: the source of an application; it becomes app.py in the directory, and the node runs it.
            wait: return only when it is ready; otherwise see `wait_until_ready`.
            changes: environment variables.
        """
        assert self._process is None, "it runs already"
        options = ["--name", self.name, "--log-format", "json", "--log-level", "debug"]
        if "-Q" not in args:
            options += ["--spool", str(self.spool)]
        if not self.handed_over and "-s" not in args and "--listen" not in args and "--socket" not in args:
            self._keep_a_port()
            options += ["--listen", f"127.0.0.1:{self.port}"]
        if "--http" not in args:
            options += ["--http", "none"]
        if "--discover" not in args:
            options += ["--discover", "none"]
        if app:
            (self.directory / "app.py").write_text(app)
            options += ["--app", "app.py"]
        self._seen = len(self.log)
        self._process = self._started(
            ["join", *options, *args], environment(PYTHONDONTWRITEBYTECODE="1", **{**SETTINGS, **changes})
        )
        self._reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        self._reader.start()
        return self.wait_until_ready() if wait else self

    def _started(self, args: list[str], around: dict[str, str]) -> Process:
        line = self.command_line([sys.executable, "-m", "spoolnode", *args])
        if line[0] == sys.executable and not self.handed_over and fork_server().fits(around):
            return fork_server().start(line[1:], self.directory, around, self.network)
        return subprocess.Popen(
            self.in_network(line), cwd=self.directory, env=around, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            pass_fds=[sock.fileno() for sock in self.handed_over],
        )  # fmt: skip

    def command_line(self, args: list[str]) -> list[str]:
        """The command that runs `args` on this node's machine."""
        return (
            [sys.executable, "-c", HAND_OVER, *(str(sock.fileno()) for sock in self.handed_over), "--", *args]
            if self.handed_over
            else args
        )

    @property
    def network(self) -> str:
        """The path of its network namespace; empty if it has none of its own."""
        return ""

    def in_network(self, line: list[str]) -> list[str]:
        """The command that runs this one there."""
        return line

    def wait_until_ready(self) -> Self:
        """Returns when the node says that it is ready."""
        ready = self.wait_for_log("ready", since=self._seen)
        tcp = [address for address in ready["listen"] if not address.startswith("/")]
        self.port = int(tcp[0].rpartition(":")[2]) if tcp else 0
        return self

    @property
    def via(self) -> str:
        """The address to send tasks to."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the node itself."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def status(self) -> dict[str, Any]:
        """The node in numbers, and its links by their destinations, without the price of a command."""
        links = {row["destination"]: row for row in ask(str(self.spool), "GET", "/links")["items"]}
        return {**ask(str(self.spool), "GET", "/node"), "links": links}

    def command(self, *args: str, stdin: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs `spoolnode ARGS` for this node: SPOOLNODE_SPOOL and SPOOLNODE_VIA say which one is meant."""
        settings = {"SPOOLNODE_SPOOL": str(self.spool), "SPOOLNODE_VIA": self.via, **changes}
        return command(*args, cwd=self.directory, stdin=stdin, **settings)

    def lines(self, action: str, since: int = 0, **details: Any) -> list[dict[str, Any]]:
        """The lines of the log with that action and those details; a str need only be contained."""
        return [line for line in self.log[since:] if line.get("action") == action and _has(line, details)]

    def wait_for_log(self, action: str, since: int = 0, count: int = 1, **details: Any) -> dict[str, Any]:
        """The `count`-th such line, once it is there."""

        def found() -> dict[str, Any] | None:
            more_may_come = self._more_may_come()
            lines = self.lines(action, since, **details)
            if len(lines) >= count:
                return lines[count - 1]
            assert more_may_come, f"the node ended before it logged {action} {details}:\n{self._said()}"
            return None

        try:
            return eventually(found, f"{action} {details}")  # type: ignore[no-any-return] # of the log
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._said()}") from None

    def _more_may_come(self) -> bool:
        """Whether its log is not over: what it wrote just before its end may still be on the way."""
        return self.is_running or (self._reader is not None and self._reader.is_alive())

    def stop(self) -> int:
        """SIGTERM, as an init system does; the exit status."""
        return self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """SIGKILL: no chance to tidy up. The workers die with their node."""
        self._end(signal.SIGKILL)

    def wait(self) -> int:
        """The exit status, once it has ended by itself."""
        assert self._process is not None
        assert self._reader is not None
        status = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._process = None
        return status

    def clean_up(self) -> None:
        """Leaves no process behind."""
        if self._process is not None:
            self.kill9()
        if self._kept is not None:
            self._kept.close()

    def _keep_a_port(self) -> None:
        """Chooses a port that stays free while the node is down: a socket bound to it, but not listening, keeps others away."""
        if not self.port:
            self._kept = socket.socket()
            self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._kept.bind(("127.0.0.1", 0))
            self.port = self._kept.getsockname()[1]

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)
        return self.wait()

    def _read_log(self, process: Process) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.noise.append(line)

    def _said(self) -> str:
        return "".join(self.noise) + "\n".join(map(str, self.log[-40:]))


def _has(line: dict[str, Any], details: dict[str, Any]) -> bool:
    for name, value in details.items():
        found = line.get(name)
        if found != value and not (isinstance(value, str) and isinstance(found, str) and value in found):
            return False
    return True
