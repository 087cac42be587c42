"""Quick starts, played as a newcomer reads them: each block is typed into a terminal, and what the page shows must come.

The reader begins in a folder that has only the checkout of spoolnode. "In a second terminal" opens one there, in which nothing is
set up. A program that goes on keeps its terminal. Nothing else is needed beforehand, so these pages have no stage directions.
"""

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from documents import ROOT, Block
from netns import Hosts
from playing import IDENTITY, without_what_varies
from support import PATIENCE, environment, eventually

NUMBERS = ("first", "second", "third")
LONGEST = 4 * PATIENCE
"""Seconds for a line that makes an environment, on a busy machine."""
GOES_ON = r"\[info +\] ready |Application startup complete|Running on |spawned uWSGI worker 1"
"""What a server says that is up."""
LISTENS = {"nginx ": 8080}
"""The servers that say nothing, by their line, and the port that they listen on."""
REAL_PYTHON3 = """#!/bin/sh
# The real one. A new environment sees the packages of the test, so that pip, without a network, finds what it needs.
{python} "$@" || exit
if [ "$1 $2" = "-m venv" ]; then echo {packages} >"$3"/lib/{version}/site-packages/of_the_test.pth; fi
"""
QUICK_PYTHON3 = """#!/bin/sh
# In place of a new environment, that of the test: it has what pip would install.
if [ "$1 $2" = "-m venv" ]; then ln -s {environment} "$3"; else {python} "$@"; fi
"""


class Terminal:
    """A shell, and what it has shown."""

    def __init__(self, command: list[str], directory: Path, log: Path, around: dict[str, str]) -> None:
        self._log = log
        self._count = 0
        with log.open("wb") as output:
            # What starts a test in the background may ignore Ctrl-C, and so would the programs.
            self._shell = subprocess.Popen(
                ["env", "--default-signal=INT", *command], cwd=directory, env=around, text=True,
                stdin=subprocess.PIPE, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def directory(self) -> Path:
        """Where the shell is."""
        return Path(os.readlink(f"/proc/{self._shell.pid}/cwd"))

    @property
    def output(self) -> str:
        """What it shows below the line that was typed last."""
        return self._shown().partition(f"\n</{self._count} ")[0]

    @property
    def is_busy(self) -> bool:
        """Whether the line that was typed last goes on."""
        return self._count > 0 and not re.search(rf"\n</{self._count} \d+>\n", self._shown())

    def type(self, line: str) -> None:
        """Types a line, which must not fail if it ends; see `check`."""
        assert not self.is_busy, f"{line!r} cannot be typed: what runs there goes on:\n{self.output}"
        self._count += 1
        assert self._shell.stdin
        begin, end = f"echo; echo '<{self._count}>'", f'status=$?; echo; echo "</{self._count} $status>"'
        self._shell.stdin.write(f"{begin}\n{line}\n{end}\n")
        self._shell.stdin.flush()

    def check(self) -> None:
        """Fails if the last line has ended badly."""
        assert self.is_busy or f"\n</{self._count} 0>\n" in self._shown(), self._shown()

    def interrupt(self) -> None:
        """Ctrl-C."""
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGINT)
        eventually(lambda: not self.is_busy, "it ends with Ctrl-C")

    def close(self) -> None:
        """Ends what runs in it."""
        if self.is_busy:
            self.interrupt()
        assert self._shell.stdin
        self._shell.stdin.close()
        self._shell.wait(PATIENCE)

    def _shown(self) -> str:
        return self._log.read_text(errors="replace").rpartition(f"\n<{self._count}>\n")[2]


class Reader:
    """A newcomer with a folder, who does what the blocks of a page say, in their order.

    Args:
        is_literal: with a virtual environment and a pip of its own; else those two lines are only checked, as they take long.
    """

    def __init__(self, folder: Path, hosts: Hosts, *, is_literal: bool) -> None:
        self._home = folder / "home"
        self._hosts = hosts
        self._is_literal = is_literal
        self._terminals: list[Terminal] = []
        self._here = 0
        self._identity = "ID"
        self._home.mkdir()
        (self._home / "spoolnode").symlink_to(ROOT)
        self._tools = folder / "tools"
        self._tools.mkdir()
        python3 = (REAL_PYTHON3 if is_literal else QUICK_PYTHON3).format(
            python=sys.executable, environment=sys.prefix, packages=sysconfig.get_path("purelib"),
            version=f"python{sysconfig.get_python_version()}",
        )  # fmt: skip
        (self._tools / "python3").write_text(python3)
        (self._tools / "python3").chmod(0o755)

    def close(self) -> None:
        """Ends everything, the last first."""
        for terminal in reversed(self._terminals):
            terminal.close()

    def read(self, block: Block) -> None:
        """Does what the block says. An AssertionError tells what would stop a newcomer."""
        sentence = block.above.rpartition("\n\n")[2]
        self._here = next((at for at, name in enumerate(NUMBERS) if f"{name} terminal" in sentence), self._here)
        if self._here == len(self._terminals):
            self._open()
        if "terminal press Ctrl-C" in sentence:
            self._terminals[self._here].interrupt()
        if block.language == "sh":
            for line in block.text.replace("\\\n", "").split("\n"):
                self._type(re.sub(rf"{IDENTITY}|\bID\b", self._identity, line))
        elif block.language == "text":
            self._look(block.text)
        else:
            self._edit(block, adds="at the end of" in sentence)

    def _open(self) -> None:
        log = self._tools / f"terminal_{self._here}.log"
        around = environment(SPOOLNODE_LOG_FORMAT="text", NO_COLOR="1", PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0")
        if self._is_literal:
            del around["PYTHONPATH"]  # what was installed is meant
        around["PATH"] = f"{self._tools}:{around['PATH']}:/usr/sbin:/sbin:{Path(sys.executable).parent}"
        self._terminals.append(Terminal(self._hosts.command(0, ["bash", "--norc"]), self._home, log, around))

    def _type(self, line: str) -> None:
        if line.startswith("pip install ") and not self._is_literal:
            for package in line.split()[2:]:
                assert package.strip("'").startswith("../spoolnode") or importlib.metadata.version(package)
            return
        terminal = self._terminals[self._here]
        terminal.type(line)
        done = f"{line} ends, or says that it is up"
        eventually(lambda: not terminal.is_busy or self._goes_on(line, terminal), done, LONGEST)
        terminal.check()
        self._identity = (re.findall(IDENTITY, terminal.output) or [self._identity])[-1]

    def _goes_on(self, line: str, terminal: Terminal) -> bool:
        for program, port in LISTENS.items():
            if line.startswith(program):
                asks = self._hosts.command(0, ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"])
                return subprocess.run(asks, capture_output=True, check=False).returncode == 0
        return bool(re.search(GOES_ON, terminal.output))

    def _look(self, shown: str) -> None:
        terminal = self._terminals[self._here]
        expected = _without_what_varies(shown).split("\n")

        def comes() -> bool:
            rest = iter(_without_what_varies(terminal.output).split("\n"))
            return all(any(_is_shown(line.strip(), there.strip()) for there in rest) for line in expected)

        try:
            eventually(comes, "the output of the page")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{shown}\n-- is not in --\n{terminal.output}") from None

    def _edit(self, block: Block, *, adds: bool) -> None:
        assert block.file, f"the page does not say which file this is:\n{block.text}"
        directory = next(terminal.directory for terminal in self._terminals if terminal.directory != self._home)
        path = directory / block.file
        assert path.parent.is_dir(), f"there is no folder {path.parent}"
        path.write_text(f"{path.read_text() if adds else ''}\n{block.text}\n")


def _without_what_varies(text: str) -> str:
    return re.sub(r"\bnode=\S+", "node=NAME", without_what_varies(text))


def _is_shown(line: str, there: str) -> bool:
    """Whether the page's line is this one; "..." stands for anything."""
    return bool(re.fullmatch(".*".join(map(re.escape, line.split("..."))), there))
