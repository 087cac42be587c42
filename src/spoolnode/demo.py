"""`spoolnode demo`: a real node, a few tasks, what becomes of them. For a newcomer, in a few seconds.

Every step checks what it shows; the first thing that is not as promised ends the demo with a sentence.
"""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

import spoolnode
from spoolnode import client, demo_app
from spoolnode.protocol.answer import STORED
from spoolnode.protocol.errors import SpoolnodeError
from spoolnode.protocol.packet import SPOOL_REQUEST, encode_variables, packet

PATIENCE = 10.0
"""Seconds that any one thing may take."""
MANY = 200
"""Tasks that are under way when the node is killed."""


class BrokenPromise(SpoolnodeError):
    """Something was not as this demo promised."""


class DemoNode:
    """A node in a directory, in a process of its own; its log is read and kept."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.via = "127.0.0.1:0"
        self.log: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it; returns when it is ready."""
        listen, seen = self.via, len(self.log)
        line = ["join", "--spool", "spool", "--listen", listen, "--app", "spoolnode.demo_app", "--name", "demo"]
        line += ["--discover", "none", "--retry-base", "0.2"]
        _say_command(line)
        self._process = subprocess.Popen(
            _command([*line, "--log-format", "json"]), cwd=self.directory, env=_environment(), stderr=subprocess.PIPE, text=True
        )
        reader = threading.Thread(target=self._read_log, args=(self._process,), daemon=True)
        reader.start()
        process = self._process
        wait_for(lambda: self.said("ready", seen) or process.poll() is not None, "the node is ready")
        ready = self.said("ready", seen)
        if not ready:
            raise BrokenPromise(f"the node did not start: {self.log[-3:]}")
        self.via = ready[0]["listen"][0]

    def said(self, action: str, since: int = 0) -> list[dict[str, Any]]:
        """The lines of its log about an action."""
        return [line for line in self.log[since:] if line.get("action") == action]

    def end(self, number: signal.Signals) -> int:
        """Sends a signal; the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(PATIENCE)
        self._process = None
        return status

    def _read_log(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None  # noqa: S101 - for the type checker
        with process.stderr:
            for line in process.stderr:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"action": "", "text": line.rstrip()})


def run() -> None:
    """The whole demo. Raises `SpoolnodeError` when something is not as promised."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spoolnode-demo-") as directory:
        node = DemoNode(Path(directory))
        try:
            _show(node)
        finally:
            client.close()
            node.end(signal.SIGKILL)
    click.echo(f"\nAll as promised, in {time.monotonic() - started:.1f} s.")


def _show(node: DemoNode) -> None:
    step("A node starts: a listener, a spool directory, a worker with an application (spoolnode/demo_app.py)")
    node.start()
    tell(f"it listens on {node.via}")
    for show in (_python, _command_line, _raw, _later, _failure, _crash, _status):
        show(node)
    step("The node stops (SIGTERM)")
    if node.end(signal.SIGTERM) != 0:
        raise BrokenPromise("the node did not stop with status 0")
    tell("running tasks may end, waiting ones stay in the spool for the next start")


def _python(node: DemoNode) -> None:
    step("From Python: a dict, and a call of a function with @spool")
    tell('send_to_spooler({"name": "Ada", "visits": 3})')
    identity = spoolnode.send_to_spooler({"name": "Ada", "visits": 3}, via=node.via)
    tell(f"-> {identity}: on the node's disk, fsynced, before this call returned")
    tell('mail.spool(1, to=["ada@example.org"])')
    demo_app.mail.options(via=node.via).spool(1, to=["ada@example.org"])
    shows(node, "hello Ada, 4 visits", "mail 1 to ada@example.org")


def _command_line(node: DemoNode) -> None:
    step("From the command line")
    line = ["send", "name=Bob", "--via", node.via]
    _say_command(line)
    tell(f"-> {_output(line, node)}")
    shows(node, "hello Bob")


def _raw(node: DemoNode) -> None:
    step("From anything that has a socket: one packet of uWSGI's protocol, as nginx sends it")
    request = packet(SPOOL_REQUEST, encode_variables([(b"name", b"Carol")]))
    host, _, port = node.via.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connected:
        connected.sendall(request)
        answer = connected.recv(16)
    tell(f"sent    {request.hex(' ')}   (17 = spool this; {len(request) - 4} bytes; name = Carol)")
    tell(f"answer  {answer.hex(' ')}   (stored)")
    if answer != STORED:
        raise BrokenPromise(f"the answer should be {STORED.hex(' ')}")
    shows(node, "hello Carol")


def _later(node: DemoNode) -> None:
    step("Not before a time: one second from now")
    due = time.time() + 1
    line = ["send", "name=Dan", "--at", f"{due:.3f}", "--via", node.via]
    _say_command(line)
    _output(line, node)
    shows(node, "hello Dan")
    late = (node.directory / demo_app.RAN).stat().st_mtime - due
    if late < -0.05:
        raise BrokenPromise(f"it ran {-late:.3f} s too early")
    tell(f"it ran {max(late, 0) * 1000:.0f} ms after its time")


def _failure(node: DemoNode) -> None:
    step("A task that fails is run again, after a pause that grows; after --max-attempts it is kept in dead/")
    demo_app.stumble.options(via=node.via).spool()
    shows(node, "stumbled, and got up")
    retries = wait_for(lambda: node.said("retry"), "the node logs the retry")
    tell(f"the node's log: retry, attempts={retries[0]['attempts']}, reason={retries[0]['reason'].splitlines()[0]!r}")


def _crash(node: DemoNode) -> None:
    step(f"kill -9, while {MANY} tasks are under way")
    counting = demo_app.count.options(via=node.via)
    for number in range(MANY):
        counting.spool(number)
    wait_for(lambda: len(_counted(node)) >= MANY // 8, "some of them have run")
    node.end(signal.SIGKILL)
    before = len(_counted(node))
    tell(f"{MANY} were acknowledged, about {before} have run; now the node and its worker are gone. It starts again:")
    if before >= MANY:
        raise BrokenPromise("they had all run before the kill: this machine is too quick for the demo")
    node.start()
    wait_for(lambda: len(set(_counted(node))) == MANY, f"all {MANY} have run")
    twice = len(_counted(node)) - MANY
    tell(f"all {MANY} have run, none is lost; {twice} ran twice: at most the one that was running is run again")
    if twice > 1:
        raise BrokenPromise(f"{twice} tasks ran twice, and only one can have been running")


def _status(node: DemoNode) -> None:
    step("How the node is")
    line = ["status", "--spool", "spool"]
    _say_command(line)
    for text in _output(line, node).splitlines():
        tell(f"  {text}")


# --- telling and waiting ---

_steps = 0


def step(title: str) -> None:
    """The heading of the next step."""
    global _steps  # noqa: PLW0603 - one demo a process
    _steps += 1
    click.echo(click.style(f"\n{_steps}. {title}", bold=True))


def tell(text: str) -> None:
    """A line under the heading."""
    click.echo(f"   {text}")


def shows(node: DemoNode, *lines: str) -> None:
    """Waits for lines of the application, and shows them."""
    for line in lines:
        wait_for(partial(_has_run, node, line), f"the application writes {line!r}")
        tell(click.style(f"the application ran: {line}", fg="green"))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`. Raises `BrokenPromise` when there is none in time."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BrokenPromise(f"this did not happen in {PATIENCE:g} s: {what}")
        time.sleep(0.01)
    return value


def _ran(node: DemoNode) -> list[str]:
    try:
        return (node.directory / demo_app.RAN).read_text().splitlines()
    except FileNotFoundError:
        return []


def _has_run(node: DemoNode, line: str) -> bool:
    return line in _ran(node)


def _counted(node: DemoNode) -> list[str]:
    return [line for line in _ran(node) if line.startswith("count ")]


def _say_command(line: list[str]) -> None:
    tell(click.style(f"$ spoolnode {shlex.join(line)}", fg="cyan"))


def _output(line: list[str], node: DemoNode) -> str:
    done = subprocess.run(
        _command(line), cwd=node.directory, env=_environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if done.returncode:
        raise BrokenPromise(f"`spoolnode {shlex.join(line)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _command(line: list[str]) -> list[str]:
    return [sys.executable, "-m", "spoolnode", *line]


def _environment() -> dict[str, str]:
    """This spoolnode, wherever it lies, and none of the settings of the person who watches."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLNODE_")}
    home = str(Path(spoolnode.__file__).resolve().parents[1])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
