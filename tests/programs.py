"""Programs of others in processes of their own, for tests: started, waited for, ended by pid."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import PATIENCE, eventually


class Program:
    """A process whose output goes to a file."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self._log = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """Everything it has said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def run(self, command: list[str], pass_fds: Sequence[int] = (), **changes: str) -> None:
        """Starts it. It gets these descriptors besides the standard ones."""
        assert self.process is None, "it runs already"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.directory, env={**os.environ, **changes},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=pass_fds,
            )  # fmt: skip

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value of `condition`; fails with what the program said when it ends before."""

        def found() -> Any:
            value = condition()
            assert value or self.is_running, f"it ended before {what}:\n{self.output}"
            return value

        try:
            return eventually(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output[-5000:]}") from None

    def wait_for_output(self, text: str) -> None:
        """Returns when it has said so."""
        self.wait_for(lambda: text in self.output, repr(text))

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, and does not wait."""
        assert self.process, "it does not run"
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it; by force when it does not want to."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
