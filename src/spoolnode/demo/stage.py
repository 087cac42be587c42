"""The stage of the demo: it starts nodes, waits for the expected events, and tells them."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

import spoolnode
from spoolnode.demo import sample
from spoolnode.protocol.errors import SpoolnodeError

STAGE_SECONDS = 60.0
"""Seconds that any one thing may take, also on a slow and busy machine: the demo concludes nothing from speed."""


class BrokenPromise(SpoolnodeError):
    """Something was not as this demo promised."""


class DemoNode:
    """A node in a directory of its own, in a process of its own; its log is read and kept."""

    def __init__(self, directory: Path, name: str, cluster: str = "") -> None:
        self.directory = directory / name
        self.directory.mkdir()
        self.name = name
        self._cluster = cluster
        """Empty: it is not in a cluster."""
        self.via = "127.0.0.1:0"
        self.log: list[dict[str, Any]] = []
        self._process: subprocess.Popen[str] | None = None

    def __repr__(self) -> str:
        return f"<DemoNode {self.name} at {self.via}, {'running' if self._process else 'stopped'}>"

    def start(self) -> None:
        """Starts it; returns when it is ready."""
        listen, seen = self.via, len(self.log)
        line = ["join", "--spool", "spool", "--listen", listen, "--app", "spoolnode.demo.sample", "--name", self.name]
        line += ["--cluster", self._cluster] if self._cluster else ["--discover", "none"]
        line += ["--retry-base", "0.2"]
        say_command(line)
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
        """Sends a signal, and returns the exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(number)
        status = self._process.wait(STAGE_SECONDS)
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


_steps = 0


def step(title: str) -> None:
    """Prints the heading of the next step."""
    global _steps  # noqa: PLW0603 - one demo a process
    _steps += 1
    click.echo(click.style(f"\n{_steps}. {title}", bold=True))


def narrate(text: str) -> None:
    """Prints a line under the heading."""
    click.echo(f"   {text}")


def shows(node: DemoNode, *lines: str) -> None:
    """Waits for lines of the application, and shows them."""
    for line in lines:
        wait_for(partial(has_run, node, line), f"the application writes {line!r}")
        narrate(click.style(f"the application ran: {line}", fg="green"))


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`. Raises `BrokenPromise` if there is none in time."""
    deadline = time.monotonic() + STAGE_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise BrokenPromise(f"this did not happen in {STAGE_SECONDS:g} s: {what}")
        time.sleep(0.01)
    return value


def ran(node: DemoNode) -> list[str]:
    """The text that its application has written."""
    try:
        return (node.directory / sample.RAN).read_text().splitlines()
    except FileNotFoundError:
        return []


def has_run(node: DemoNode, line: str) -> bool:
    return line in ran(node)


def counted(node: DemoNode) -> list[str]:
    """The numbers that its application has counted."""
    return [line for line in ran(node) if line.startswith("count ")]


@contextlib.contextmanager
def held(node: DemoNode, number: int) -> Iterator[None]:
    """Keeps its application from getting beyond the task with this number."""
    hold = node.directory / sample.HOLD
    hold.write_text(str(number))
    try:
        yield
    finally:
        hold.unlink()


def all_counted(node: DemoNode, many: int) -> None:
    """Waits until its application has counted this far, and checks what ran twice."""
    wait_for(lambda: len(set(counted(node))) == many, f"all {many} have run")
    twice = len(counted(node)) - many
    narrate(f"all {many} have run, none is lost; {twice} ran twice: at most the one that was running is run again")
    if twice > 1:
        raise BrokenPromise(f"{twice} tasks ran twice, and only one can have been running")


def say_command(line: list[str]) -> None:
    """Shows a command."""
    narrate(click.style(f"$ spoolnode {shlex.join(line)}", fg="cyan"))


def output(line: list[str], node: DemoNode) -> str:
    """Runs a command, and returns its output. Raises `BrokenPromise` if it fails."""
    done = subprocess.run(
        _command(line), cwd=node.directory, env=_environment(), capture_output=True, text=True, timeout=STAGE_SECONDS, check=False
    )
    if done.returncode:
        raise BrokenPromise(f"`spoolnode {shlex.join(line)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip()


def _command(line: list[str]) -> list[str]:
    return [sys.executable, "-m", "spoolnode", *line]


def _environment() -> dict[str, str]:
    """An environment with this spoolnode, and without settings of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLNODE_")}
    home = str(Path(spoolnode.__file__).resolve().parents[1])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}
