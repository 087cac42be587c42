"""Completion: what each shell offers, in real shells, and that neither a silent node nor a wrong line reaches the prompt."""

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from urllib.parse import urlencode

import pytest
from support import PATIENCE, RunningNode, command, environment, eventually, need

from spoolnode.cli import _COMMANDS
from spoolnode.cli.completing import MOST_TASKS
from spoolnode.client.control import ask
from spoolnode.protocol import spoolfile
from spoolnode.protocol.packet import encode_variables

APP = """
from spoolnode import spool

@spool
def mail(number):
    raise ValueError("no such customer")

@spool
def pay(number): ...
"""


@pytest.fixture
def busy(node: RunningNode) -> RunningNode:
    """A node with a tag, a dead call of `app:mail`, and a task that waits for another node."""
    node.start("--max-attempts", "1", "--tag", "gpu", app=APP)
    assert node.command("call", "app:mail", "1").returncode == 0
    assert node.command("send", "a=b", "--node", "gone").returncode == 0
    node.wait_for_log("dead")
    eventually(lambda: node.status()["outbox"], "the task for another node")
    return node


def asked(line: str, spool: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """What the command answers to our script of bash for a line with the cursor at its end."""
    asking = {"_SPOOLNODE_COMPLETE": "bash_complete", "COMP_LINE": line, "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}
    return command(**{**asking, "SPOOLNODE_SPOOL": str(spool), **changes})


def offered(line: str, spool: Path) -> list[str]:
    """The words, without their kinds."""
    done = asked(line, spool)
    assert (done.returncode, done.stderr) == (0, "")
    return [word.removeprefix("plain,") for word in done.stdout.splitlines() if word]


def ids(node: RunningNode, *args: str) -> list[str]:
    return [line.split()[0] for line in node.command("ls", *args).stdout.splitlines()[1:]]


def offers(line: str, spool: Path, *words: str) -> None:
    """Waits until these words are offered: a busy node may be silent for too long, and Tab is typed again."""
    eventually(lambda: offered(line, spool) == list(words), f"{words} are offered for {line!r}")


def test_commands_and_options_are_offered(tmp_path: Path) -> None:
    assert offered("spoolnode ", tmp_path) == list(_COMMANDS)
    assert offered("spoolnode dead ", tmp_path) == ["ls", "retry", "rm"]
    assert offered("spoolnode dead ls --by ", tmp_path) == ["kind", "function", "reason"]
    assert offered("spoolnode qshape --by ", tmp_path) == ["function", "node"]
    assert "--touch-reload" in offered("spoolnode join --t", tmp_path)


def test_ids_and_names_are_offered_while_the_node_runs(busy: RunningNode) -> None:
    (dead,), (waiting,) = ids(busy, "--dead"), ids(busy, "--outbox")
    offers("spoolnode dead retry ", busy.spool, dead)
    offers(f"spoolnode dead rm {dead[:-3]}", busy.spool, dead)
    offers("spoolnode rm ", busy.spool, dead, waiting)
    offers("spoolnode cancel ", busy.spool, waiting)
    offers("spoolnode dead ls --function ", busy.spool, "app:mail")
    offers("spoolnode tail ap", busy.spool, "app:mail")
    offers("spoolnode send --node ", busy.spool, busy.name, "any", "all", "tag:gpu")
    offers("spoolnode flush ", busy.spool, "gone")
    offers("spoolnode ping ", busy.spool, busy.via)
    assert busy.command("pause", "app:pay").returncode == 0
    offers("spoolnode resume ", busy.spool, "app:pay")


def test_ids_are_offered_without_a_node(busy: RunningNode) -> None:
    (dead,) = ids(busy, "--dead")
    assert busy.stop() == 0
    offers(f"spoolnode dead retry -Q {busy.spool} {dead[:14]}", Path("/elsewhere"), dead)
    offers("spoolnode dead ls --function ", busy.spool, "app:mail")


def test_of_many_dead_tasks_the_last_ones_are_offered(tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    identities = [f"0123456789ab_{1_790_000_000_000_000 + number}_80" for number in range(MOST_TASKS + 50)]
    for identity in reversed(identities):
        block = encode_variables([(b"spool_func", b"app:mail")])
        (tmp_path / "dead" / f"uwsgi_spoolfile_on_{identity}").write_bytes(spoolfile.head(block))
    (tmp_path / "dead" / "uwsgi_spoolfile_on_web1_4711_1_1790000000").write_bytes(spoolfile.head(b""))
    offers("spoolnode dead retry ", tmp_path, *identities[: -MOST_TASKS - 1 : -1])
    offers("spoolnode show ", tmp_path, *identities[: -MOST_TASKS - 1 : -1])


def test_bash_gets_the_rest_of_a_word_that_it_breaks(busy: RunningNode) -> None:
    offers("spoolnode dead ls --function app:ma", busy.spool, "mail")
    offers("spoolnode dead ls --function=app:ma", busy.spool, "mail")
    offers("spoolnode dead ls --function=ap", busy.spool, "app:mail")
    line = "spoolnode dead ls --function app:ma"
    eventually(lambda: asked(line, busy.spool, COMP_WORDBREAKS=" ").stdout == "plain,app:mail\n", "the whole word")


def test_paths_are_left_to_the_shell(tmp_path: Path) -> None:
    assert asked("spoolnode ls --spool ", tmp_path).stdout == "dir,\n"
    assert asked("spoolnode join --tls-cert ", tmp_path).stdout == "file,\n"
    assert asked("spoolnode ca show ", tmp_path).stdout == "file,\n"


def test_a_name_that_a_shell_would_run_is_not_offered(node: RunningNode) -> None:
    node.start()
    for name in ("$(halt)", "a;halt", "`halt`", "a b", "-x", "a\nb", "a>b", "fine:one"):
        ask(str(node.spool), "POST", f"/pause?{urlencode({'function': name})}")
    offers("spoolnode resume ", node.spool, "fine:one")


@pytest.mark.parametrize(
    "line",
    [
        "spoolnode rm ", "spoolnode jion ", "spoolnode ls --nothing ", "spoolnode join -Q a -Q b ",
        "spoolnode dead ls --limit x --function ", 'spoolnode rm "', "spoolnode ls --spool /etc/passwd --limit ",
        "spoolnode forget ", "spoolnode join --name=", "spoolnode resume a b c ",
    ],
)  # fmt: skip
def test_where_nothing_fits_nothing_is_said(line: str, tmp_path: Path) -> None:
    assert offered(line, tmp_path / "absent") == []


def test_a_directory_that_is_closed_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file")
    assert offered("spoolnode rm ", tmp_path / "spool") == []


def test_a_silent_node_does_not_hang_the_shell(busy: RunningNode) -> None:
    os.kill(busy.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert offered("spoolnode rm ", busy.spool) == []
        assert offered("spoolnode send --node ", busy.spool) == []
        assert time.monotonic() - began < 30.0, "a command would wait for 60 s, or for a day"
    finally:
        os.kill(busy.pid, signal.SIGCONT)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_its_shell_reads(shell: str) -> None:
    script = command("completion", shell)
    assert (script.returncode, script.stderr) == (0, "")
    done = subprocess.run([need(shell), "-n"], input=script.stdout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_a_wrong_command_line() -> None:
    done = command("completion", "tcsh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr


class Terminal:
    """A shell on a terminal, which types and reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def type_until(self, text: str, pattern: str) -> None:
        """Types it in an empty line, again and again, until there is a text that fits."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.type(f"\x15{text}")
            if self._reads(pattern, seconds=2.0):
                return
            assert time.monotonic() < deadline, f"no {pattern!r} on the terminal:\n{self._seen}"

    def wait_for(self, pattern: str) -> None:
        assert self._reads(pattern, PATIENCE), f"no {pattern!r} on the terminal:\n{self._seen}"

    def _reads(self, pattern: str, seconds: float) -> bool:
        """Whether a text that fits comes."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self._seen) and (left := deadline - time.monotonic()) > 0:
            if select([self._descriptor], [], [], left)[0]:
                self._seen += os.read(self._descriptor, 65536).decode(errors="replace")
        return re.search(pattern, self._seen) is not None


@contextmanager
def on_a_terminal(line: list[str], cwd: Path, **changes: str) -> Iterator[Terminal]:
    here, there = pty.openpty()
    shell = subprocess.Popen(
        line, stdin=there, stdout=there, stderr=there, cwd=cwd, start_new_session=True, env=environment(TERM="dumb", **changes)
    )  # fmt: skip
    try:
        yield Terminal(here)
    finally:
        shell.kill()
        shell.wait(PATIENCE)
        os.close(here)
        os.close(there)


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "bind 'set bell-style none'; PS1='ok> '; "),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -D -u; PS1='ok> '; "),
}
"""How each is started without the settings of a user, and what it is told before the script."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with `spoolnode`."""
    program = tmp_path / "bin" / "spoolnode"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m spoolnode "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("shell", list(SHELLS))
def test_a_real_shell_completes_with_the_tab_key(shell: str, busy: RunningNode, path: str) -> None:
    (dead,) = ids(busy, "--dead")
    line, settings = SHELLS[shell]
    need(shell)
    with on_a_terminal(line, busy.directory, PATH=path, SPOOLNODE_SPOOL=str(busy.spool)) as terminal:
        terminal.type(f'{settings}eval "$(spoolnode completion {shell})"; echo re""ady\n')
        terminal.wait_for("ready[\r\n]")
        terminal.type_until("spoolnode dead retry \t", re.escape(dead))
        terminal.type_until("spoolnode dead ls --function app:m\t --js\t\n", '"function": "app:mail"')


def test_a_real_fish_completes(busy: RunningNode, path: str) -> None:
    (dead,) = ids(busy, "--dead")

    def completed(line: str) -> list[str]:
        script = f"spoolnode completion fish | source; complete -C {shlex.quote(line)}"
        done = subprocess.run(
            [need("fish"), "--no-config", "-c", script], capture_output=True, text=True, check=True, cwd=busy.directory,
            env=environment(PATH=path, SPOOLNODE_SPOOL=str(busy.spool)), timeout=PATIENCE,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    eventually(lambda: completed("spoolnode dead retry ") == [f"{dead}\tdead app:mail"], "the id")
    eventually(lambda: completed("spoolnode dead ls --function app:m") == ["app:mail\t1 dead"], "the function")
    assert completed("spoolnode jion ") == []
