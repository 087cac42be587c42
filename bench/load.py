"""The load generator in C: compiled once for each run; its output is read back."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


class BenchError(Exception):
    """A measurement failed; the text says why."""


@dataclass(frozen=True)
class Load:
    """The result of the generator."""

    tasks: int
    seconds: float
    ok: int
    refused: int
    errors: int
    p50_us: float
    p99_us: float
    client_cpu_s: float

    @property
    def rate(self) -> float:
        """Acknowledged tasks a second."""
        return self.ok / self.seconds


class Generator:
    """The compiled load generator."""

    def __init__(self, directory: Path) -> None:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if not compiler:
            raise BenchError("no C compiler found (cc, gcc or $CC): the load generator cannot be built")
        self._program = directory / "load"
        source = Path(__file__).with_name("load.c")
        subprocess.run([compiler, "-O2", "-Wall", "-o", str(self._program), str(source)], check=True)

    def plain(self, port: int, *, clients: int, seconds: float) -> Load:
        """One connection a task."""
        return self._run("plain", port, clients, seconds, 0, limit=seconds + 30)

    def extended(self, port: int, *, connections: int, window: int, seconds: float = 0, tasks: int = 0, node: str = "") -> Load:
        """Pipelines over connections that stay open, for so many seconds or tasks; for `node`, if it is named."""
        limit = seconds + 30 if seconds else 60 + tasks / 2000
        more = [node] if node else []
        return self._run("extended", port, connections, seconds, tasks, window, *more, limit=limit)

    def broker(self, kind: str, port: int, *, connections: int, window: int, seconds: float) -> Load:
        """Pipelines the same tasks into a broker: `nats` or `beanstalk`."""
        return self._run(kind, port, connections, seconds, 0, window, limit=seconds + 30)

    def fill(self, directory: Path, tasks: int) -> Load:
        """Writes files as a uWSGI server would have left them."""
        return self._run("fill", directory, tasks, limit=60 + tasks / 1000)

    def _run(self, *arguments: object, limit: float) -> Load:
        command = [str(self._program), *map(str, arguments)]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"`load {' '.join(command[1:])}` was not done after {limit:.0f} s") from error
        load = Load(**json.loads(done.stdout))
        if load.errors or load.refused or not load.ok:
            raise BenchError(f"`load {' '.join(command[1:])}`: {load}")
        return load
