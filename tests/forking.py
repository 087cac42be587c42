"""Starts nodes in a fraction of the time: a server imports once what a node imports, and forks for each start.

A child takes the arguments, the environment, the directory and the standard descriptors that it is given, closes all others, and
then does what Python does with these arguments. It is a process like any other; only its command line in /proc is the server's.

The server is a process of the test process that needs it. When that has gone, it kills all that it has started.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

IMPORTED = (
    "spoolnode.node.node", "spoolnode.cluster.cluster", "spoolnode.cluster.store.joined", "spoolnode.client.control",
    "spoolnode.cli.join", "spoolnode.cli.look", "spoolnode.cli.change", "spoolnode.cli.dead", "spoolnode.cli.send",
    "zeroconf.asyncio", "uvloop", "rich.table", "http.client", "encodings.idna",
)  # fmt: skip
"""Loaded before the forks."""
EARLY = "spoolnode.cli.early"
"""What the command line does first of all depends on its arguments: each child does it again."""
SERVER = "import sys; sys.path.append(sys.argv[2]); from forking import main; main(int(sys.argv[1]))"
GONE = "the server that forks nodes has ended"
MOST = 1 << 17
"""Bytes of a request."""
NUMBER = 8
"""Bytes of a number on the pipe from the server: first the process id, then the status as `waitpid` has it."""

CLONE_NEWNET = 0x40000000
"""setns(2): it is a network namespace."""

Request = tuple[list[str], str, dict[str, str], str]
"""The arguments, the directory and the environment of a process, and the path of its network namespace if it has its own."""


class Forked:
    """A process that the server has forked; as `subprocess.Popen`."""

    def __init__(self, life: int, stderr: IO[str]) -> None:
        self.pid = _read(life)
        self.stderr = stderr
        self._life = life
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float) -> int:
        """Its exit status, once it has ended. Raises `subprocess.TimeoutExpired`."""
        if (status := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _look(self, seconds: float) -> int | None:
        if self._status is None and select.select([self._life], [], [], seconds)[0]:
            self._status = os.waitstatus_to_exitcode(_read(self._life))
            os.close(self._life)
        return self._status


class ForkServer:
    """The server, as its test process sees it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._interpreter = _of_interpreter(environment)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER, str(theirs.fileno()), str(Path(__file__).parent)],
                cwd="/", env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def close(self) -> None:
        """Ends it, and all that it has started."""
        self._requests.close()
        self._process.wait()

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether the interpreter itself, and what is loaded into it, is the same in this environment."""
        return _of_interpreter(environment) == self._interpreter

    def start(self, args: Sequence[str], cwd: Path, environment: Mapping[str, str], network: str = "") -> Forked:
        """`python ARGS`, with our standard output and a pipe for its standard error, in that network namespace."""
        errors, their_errors = os.pipe()
        with open(os.devnull, "rb") as nothing, open(their_errors, "wb") as theirs:
            life = self._fork((list(args), str(cwd), dict(environment), network), [nothing.fileno(), 1, theirs.fileno()])
        return Forked(life, open(errors))  # the caller closes it, as that of a `Popen`

    def run(
        self, args: Sequence[str], cwd: Path, environment: Mapping[str, str], stdin: str, timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """`python ARGS`, from its start to its end. Raises `subprocess.TimeoutExpired`."""
        with TemporaryFile("w+") as given, TemporaryFile("w+") as output, TemporaryFile("w+") as errors:
            given.write(stdin)
            given.seek(0)
            standard = [given.fileno(), output.fileno(), errors.fileno()]
            process = Forked(self._fork((list(args), str(cwd), dict(environment), ""), standard), errors)
            try:
                status = process.wait(timeout)
            finally:
                process.send_signal(signal.SIGKILL)
            output.seek(0)
            errors.seek(0)
            return subprocess.CompletedProcess(args, status, output.read(), errors.read())

    def _fork(self, request: Request, standard: Sequence[int]) -> int:
        """Starts a process with these descriptors. Returns the pipe that tells of it."""
        life, theirs = os.pipe()
        socket.send_fds(self._requests, [json.dumps(request).encode()], [theirs, *standard])
        os.close(theirs)
        return life


def _of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LD_"))}


def main(descriptor: int) -> None:
    """The server, and then each of its children."""
    for name in IMPORTED:
        __import__(name)
    importlib.import_module("inotify_simple").INotify().close()  # the first one starts a program to find the C library
    gc.freeze()  # a child that looks for garbage does not touch, and so copy, what was imported before
    request = _serve(socket.socket(fileno=descriptor))
    if request is not None:
        _become(*request)


def _serve(requests: socket.socket) -> Request | None:
    """Serves the test process until that has gone: None. In a child: its request."""
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([requests, *children], [], [])[0]:
            if ready is not requests:
                _tell_end(ready, *children.pop(ready))
                continue
            said, descriptors, _, _ = socket.recv_fds(requests, MOST, 4)
            if not said:
                for pidfd in children:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return None
            if (pid := os.fork()) == 0:
                _take(descriptors[1:])
                args, cwd, environment, network = json.loads(said)
                return args, cwd, environment, network
            children[os.pidfd_open(pid)] = pid, descriptors[0]
            _write(descriptors[0], pid)
            for given in descriptors[1:]:
                os.close(given)


def _tell_end(pidfd: int, pid: int, life: int) -> None:
    os.close(pidfd)
    _write(life, os.waitpid(pid, 0)[1])
    os.close(life)


def _take(standard: Sequence[int]) -> None:
    """Makes these the standard descriptors, and closes all others."""
    for number, given in enumerate(standard):
        os.dup2(given, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _become(args: list[str], cwd: str, environment: dict[str, str], network: str) -> None:
    """Goes on as `python ARGS`: `-m spoolnode ...`, or a script with its own arguments."""
    if network:
        _enter(network)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    try:
        _run(args, cwd)
    except SystemExit as end:
        _leave(end.code)
        raise
    _leave(0)


def _enter(network: str) -> None:
    """From here on this process, which has one thread, is in that network namespace. Python itself can do so from 3.12 on."""
    kernel = ctypes.CDLL(None, use_errno=True)
    with open(network, "rb") as namespace:
        if kernel.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the namespace {network} cannot be entered")


def _run(args: list[str], cwd: str) -> None:
    if args[:2] == ["-m", "spoolnode"]:
        sys.argv[1:], sys.path[0] = args[2:], cwd
        run = partial(runpy.run_module, "spoolnode", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = args, os.path.dirname(args[0])
        run = partial(runpy.run_path, args[0])
    importlib.reload(sys.modules[EARLY])
    run(run_name="__main__")


def _leave(status: object) -> None:
    """Ends the process as Python does, but leaves its memory to the kernel: to take down module after module, and copy each page
    for that, costs more than most commands. Returns if Python has something to say of this end.
    """
    if not isinstance(status, int | None):
        return
    threading._shutdown()  # type: ignore[attr-defined]  # what Python itself calls: waits for threads
    atexit._run_exitfuncs()  # as above
    gc.collect()  # what Python would say of it, it says now
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            return
    os._exit((status or 0) & 0xFF)


def _read(pipe: int) -> int:
    number = os.read(pipe, NUMBER)
    assert number, GONE
    return int.from_bytes(number, "little")


def _write(pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test does not wait for it any more
        os.write(pipe, number.to_bytes(NUMBER, "little"))
