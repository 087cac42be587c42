"""A Docker engine for one test module: in a network namespace without a route out, with all that it keeps in memory.

It pulls nothing, binds no port of this machine, and knows nothing of an engine that runs here already.
"""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from stand_in import Layer
from support import eventually

PROGRAMS = ("dockerd", "containerd", "docker", "iptables", "ip", "nsenter", "curl", "nginx")
COMPOSE = ("docker-compose", "docker compose")
"""As people have it: a program of its own, or a plug-in."""


def require() -> None:
    """Skips the tests on a laptop where one is not root or has no Docker; in CI that is a failure."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if not find_compose():
        missing.append("docker-compose")
    if os.geteuid():
        missing.insert(0, "root")
    if missing and os.environ.get("CI"):
        pytest.fail(f"CI needs {', '.join(missing)}")
    if missing:
        pytest.skip(f"a Docker engine of its own needs {', '.join(missing)}")


def find_compose() -> str:
    """The command to type for `docker-compose`; empty if there is none."""
    for command in COMPOSE:
        first = command.split()[0]
        if shutil.which(first) and not subprocess.run([*command.split(), "version"], capture_output=True, check=False).returncode:
            return command
    return ""


class Engine:
    """dockerd with its containerd and containers. `stop()` leaves nothing of it."""

    def __init__(self) -> None:
        # containerd takes no two marks side by side in a name, and none at its end: mkdtemp's names may have that.
        self.namespace = f"sn-docker-{secrets.token_hex(8)}"
        self.directory = Path(tempfile.gettempdir()) / self.namespace
        self.directory.mkdir(mode=0o700)
        self._compose = find_compose()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Returns when it answers."""
        # About 300 MB, gone with one call; on a disk thousands of files of images must be synced, and removed again.
        _run("mount", "-t", "tmpfs", "-o", "size=1g,mode=755", self.namespace, str(self.directory))
        _run("ip", "netns", "add", self.namespace)
        _run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        place = self.directory
        command = ["dockerd", "--data-root", f"{place}/data", "--exec-root", f"{place}/run", "-p", f"{place}/pid"]
        # A containerd of this machine, if one runs, is used; then what is ours lies in a namespace of its own there.
        command += ["--containerd-namespace", self.namespace, "--containerd-plugins-namespace", f"{self.namespace}-plugins"]
        # Its control groups have a parent of its own, so that they can be told from others and removed.
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{self.namespace}"]
        with (place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*self._entering(), *command, "-H", self._address],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait_for(lambda: self._try("docker", "version").returncode == 0, "the engine answers")
        return self

    def make_image(self, name: str, fill: Callable[[Layer], None], *changes: str) -> None:
        """An image of one layer; the changes are lines of a Dockerfile."""
        file = self.directory / "layer.tar"
        with tarfile.open(file, "w") as tar:
            fill(Layer(tar))
        self.docker("import", *(word for change in changes for word in ("--change", change)), str(file), name)
        file.unlink()

    def type(self, line: str, cwd: Path, **changes: str) -> subprocess.CompletedProcess[str]:
        """Runs this line in a shell on the machine with the engine."""
        typed = line.replace(COMPOSE[0], self._compose)
        return self._try("sh", "-c", typed, cwd=cwd, **changes)

    def docker(self, *args: str) -> str:
        """Runs `docker ARGS`, and returns its output."""
        done = self._try("docker", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self) -> None:
        """Ends the engine, and its containers with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = Path(line.split()[1])
            if mounted.is_relative_to(self.directory):
                _run("umount", "-l", str(mounted))
        self.directory.rmdir()
        for group in Path("/sys/fs/cgroup").glob(f"**/{self.namespace}"):
            group.rmdir()
        if Path(f"/run/netns/{self.namespace}").exists():
            _run("ip", "netns", "del", self.namespace)

    @property
    def log(self) -> str:
        """The last that it said."""
        return (self.directory / "log").read_text(errors="replace")[-5000:]

    @property
    def _address(self) -> str:
        return f"unix://{self.directory}/docker.sock"

    def _entering(self) -> list[str]:
        # Not `ip netns exec`: it mounts /sys again, and hides the cgroups that the runtime needs.
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def _environment(self, **changes: str) -> dict[str, str]:
        """Without what would change Python: Debian's docker-compose is written in it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COMPOSE_", "DOCKER_"))}
        return {**kept, "DOCKER_HOST": self._address, **changes}

    def _try(self, *command: str, cwd: Path | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._entering(), *command], cwd=cwd, env=self._environment(**changes),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        def found() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"the engine ended before {what}:\n{self.log}"
            return condition()

        try:
            eventually(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
