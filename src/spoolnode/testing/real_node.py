"""A real node for one test: the command in a process of its own. Its port is one that the system chooses."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spoolnode.client.control import ask
from spoolnode.node.disk.layout import Layout

PATIENCE = 60.0
"""Seconds that anything may take, on a busy machine too."""


class RealNode:
    """A node in a directory. Its log is read as it is written."""

    def __init__(self, directory: Path, options: Sequence[str], home: Path) -> None:
        """
        Args:
            directory: gets the spool.
            home: its working directory, that of the application.
            options: those of `spoolnode join`. Without others the node is alone, a failed attempt of a task is the last, and
                a task that runs has a second at the end.
        """
        self.spool = directory / "spool"
        self.log: list[dict[str, Any]] = []
        """Its log, a dictionary for each line: `action` says what the line tells, `print` for what a task printed."""
        self._options = options
        self._home = home
        self._begun = 0
        """Lines of the log before the last start."""
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<RealNode on {self.spool}, {'running' if self._process else 'stopped'}>"

    def start(self, *more: str) -> None:
        """Starts it, again too, and returns when it is ready. `more`: further options of `spoolnode join`.

        Raises:
            AssertionError: it did not start; its log says why.
        """
        self._begun = len(self.log)
        line = [
            "join",
            "--name",
            "test",
            "--spool",
            str(self.spool),
            "--listen",
            "127.0.0.1:0",
            "--discover",
            "none",
            "--http",
            "none",
        ]
        line += ["--log-format", "json", "--log-level", "debug", "--max-attempts", "1", "--grace", "1", *self._options, *more]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spoolnode", *line], cwd=self._home, env=_environment(), stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._wait(lambda: self._said("ready"), PATIENCE, "the node is ready")

    @property
    def via(self) -> str:
        """The address to send tasks to: its unix socket, which stays the same when it starts again."""
        return Layout(str(self.spool)).socket

    def status(self) -> dict[str, Any]:
        """Its numbers, as `spoolnode status --json` shows them."""
        status: dict[str, Any] = ask(str(self.spool), "GET", "/node")
        return status

    def wait_idle(self, timeout: float = PATIENCE) -> None:
        """Returns when all tasks have ended and `log` tells of each.

        Raises:
            AssertionError: a task was given up, or tasks still wait or run after `timeout` seconds.
        """
        self._wait(self._is_idle, timeout, "all tasks have ended")

    def stop(self) -> None:
        """Stops it. Tasks that run may end; the others stay on its disk."""
        if self._process is None or self._reader is None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process = None

    def _is_idle(self) -> bool:
        status = self.status()
        dead = self._said("dead")
        if len(dead) < status["given_up"] + status["cancelled"] or len(self._said("done")) < status["done"]:
            return False  # the log comes a moment later, and a test may want to read it
        if dead:
            raise AssertionError(f"the task {dead[-1]['id']} was given up: {dead[-1]['reason']}")
        return not status["total"] and not status["outbox_total"]

    def _said(self, action: str) -> list[dict[str, Any]]:
        """The lines about something since the last start."""
        return [line for line in self.log[self._begun :] if line.get("action") == action]

    def _wait(self, condition: Callable[[], Any], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                last = "\n".join(json.dumps(line) for line in self.log[-20:])
                why = "the node has ended" if ended else f"not within {seconds:g} s"
                raise AssertionError(f"{why}: {what}; the end of its log:\n{last}")
            time.sleep(0.01)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        with process.stderr or open(os.devnull) as lines:
            for line in lines:
                try:
                    self.log.append(json.loads(line))
                except ValueError:
                    self.log.append({"action": "", "text": line.rstrip()})


def _environment() -> dict[str, str]:
    """That of the test, with its modules, but without settings of another node."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPOOLNODE_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
