"""The Python code, commands and options in README.md and docs/ do what these pages say. Docker's part is in tests/docker."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from documents import FOR_USERS, blocks, commands, lines_to_type, page, table
from support import PATIENCE, RunningNode, command, environment

from spoolnode.cli import main

VARIES = {r"\b[0-9a-f]{12}_\d+_\d+\b": "ID", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "TIME", r"\d+(\.\d+)? s\b": "SECONDS"}
"""Texts that differ each time."""


def python(code: str, node: RunningNode) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=node.directory, env=environment(SPOOLNODE_VIA=node.via),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def type_line(line: str, node: RunningNode) -> str:
    """The output of a line of README's, typed beside this node into a shell with the `python` and `spoolnode` under test."""
    words = shlex.split(line)
    if words[0] == "spoolnode":
        done = node.command(*words[1:])
    else:
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=node.directory, env=environment(SPOOLNODE_VIA=node.via),
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def without_what_varies(text: str) -> str:
    for pattern, name in VARIES.items():
        text = re.sub(pattern, name, text)
    return re.sub(" +", " ", text).strip()


def test_first_task_of_readme_prints_what_is_shown(node: RunningNode) -> None:
    (tasks,) = blocks("README.md", "Five lines of Python", "python")
    (node.directory / "tasks.py").write_text(tasks.text)
    join, send = lines_to_type("README.md", "Five lines of Python")
    identity, line = [block.text for block in blocks("README.md", "Five lines of Python", "text")]
    assert shlex.split(join)[:2] == ["spoolnode", "join"]
    node.start(*shlex.split(join)[2:])
    assert without_what_varies(type_line(send, node)) == without_what_varies(identity) == "ID"
    shown = re.search(r"print id=(\S+) node=\S+ stream=(\w+) text=(.*)$", line)
    assert shown
    assert shown[1] == identity
    printed = node.wait_for_log("print")
    assert [printed["stream"], f'"{printed["text"]}"'] == [shown[2], shown[3]]


def test_task_for_a_node_that_is_down_waits_as_readme_shows(node: RunningNode) -> None:
    (tasks,) = blocks("README.md", "Five lines of Python", "python")
    (node.directory / "tasks.py").write_text(tasks.text)
    *joins, send, look = lines_to_type("README.md", "Several machines")
    assert all(line.startswith("spoolnode join --name ") for line in joins)
    node.start()
    type_line(send, node)
    (shown,) = blocks("README.md", "Several machines", "text")
    waiting, rest = type_line(look, node).split("\n")[:2], shown.text.split("\n")
    assert [without_what_varies(line) for line in waiting] == [without_what_varies(line) for line in rest]


def test_python_of_the_first_steps_runs(node: RunningNode) -> None:
    module, client = [block.text for block in blocks("docs/python-api.md", "Spooled functions", "python")]
    (dictionary,) = blocks("docs/python-api.md", "Dictionaries", "python")
    (timers,) = blocks("docs/python-api.md", "Timers", "python")
    (shared,) = blocks("docs/python-api.md", "Timers that run once in a cluster", "python")
    (node.directory / "mailer.py").write_text(
        module.replace("    ...", "    print('mail', number, to)") + f"\n{timers.text}\n{shared.text}\n"
    )
    node.start("-w", "mailer")
    python(client, node)
    python(dictionary.text, node)
    node.wait_for_log("print", text="mail 1 ['ada@example.org']")
    assert node.status()["accepted"] >= 3, "and perhaps a timer was due"


def test_python_that_names_other_nodes_runs(node: RunningNode) -> None:
    node.start()
    (sends,) = blocks("docs/cluster.md", "Addressing a task", "python")
    assert len(sends.text.split("\n")) == 4
    python(f"from spoolnode import send_to_spooler\n{sends.text}", node)
    *_, install = blocks("docs/uwsgi.md", "Its web processes", "python")
    python(f"{install.text}\nimport uwsgi, uwsgidecorators", node)


def given_up(node: RunningNode) -> str:
    """The id of a task that has just been given up: `os.getenv` cannot be called with a task."""
    identity = node.command("send", "a=b").stdout.strip()
    node.wait_for_log("dead", id=identity)
    return identity


def waiting(node: RunningNode) -> str:
    """The id of a task that waits for its time."""
    return node.command("send", "a=b", "--at", "+1h").stdout.strip()


@pytest.mark.slow
def test_each_command_does_what_its_line_says(node: RunningNode) -> None:
    """In their order, on a node with a task; with the id of that task, or of one that is dead, where ID stands."""
    node.start("-w", "os:getenv", "--max-attempts", "1")
    identity = ""
    typed = [row[0].strip("`") for row in table(page("docs/operations.md")) if row[0].startswith("`spoolnode ")]
    assert len(typed) > 10
    go_on = ("tail", "top")  # until the reader ends them; tests/cli has them
    for words in [shlex.split(line)[1:] for line in typed if line.split()[1] not in go_on]:
        if words[-1] == "ID":
            words[-1] = identity if words[0] in ("show", "rm") else waiting(node) if words[0] == "cancel" else given_up(node)
        sure = ["--yes"] if "--all" in words else []  # it asks, and there is no terminal here
        done = node.command(*words, *sure)
        assert done.returncode == 0 or words[0] == "doctor", f"spoolnode {' '.join(words)}: {done.stderr}"
        identity = done.stdout.strip() if words[0] == "send" else identity
    assert identity


def test_what_commands_show_has_the_lines_and_columns_of_the_page(node: RunningNode) -> None:
    node.start("-w", "os:getenv", "--max-attempts", "1")
    given_up(node)
    node.command("send", "Name=Serena", "--at", "+5m")
    shown = [block.text for block in blocks("docs/operations.md", "Looking and repairing", "text")]
    status, *listings = [type_line(line, node) for line in lines_to_type("docs/operations.md", "Looking and repairing")]
    label = re.compile(r"^(\w+(?: \w+)*)  ", flags=re.M)
    assert label.findall(status) == label.findall(shown[0])
    (shown_by_doctor,) = blocks("docs/operations.md", "Checking a machine", "text")
    finding = re.compile(r"^\w+ +([a-z ]+)(?: 127[\d.:]+)?:", flags=re.M)
    assert finding.findall(node.command("doctor").stdout) == [*finding.findall(shown_by_doctor.text), "versions"]
    assert [text.split("\n")[0].split() for text in listings] == [text.split("\n")[0].split() for text in shown[1:]]


def test_certificates_are_made_as_the_lines_say(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    lines = [words for words in commands("docs/tls.md") if words[0] == "ca"]
    assert [words[1] for words in lines] == ["init", "issue", "issue", "show", "revoke"]
    for words in lines:
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, f"spoolnode {' '.join(words)}: {done.stderr}"
    assert (tmp_path / "ca" / "ca.crl").exists()


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    """The output of `spoolnode WORDS` in a directory with a uwsgi.ini; in this process, because it is needed many times."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("SPOOLNODE_")]:
        monkeypatch.delenv(variable)
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nsocket = 127.0.0.1:3031\nspooler = spool\nmodule = mysite.wsgi\n")

    def run(words: list[str]) -> str:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"spoolnode {' '.join(words)}: {done.output}"
        return done.output

    return run


def test_each_join_has_settings_that_are_valid(said: Callable[[list[str]], str]) -> None:
    Path("node.toml").write_text(said(["config", "--ini", "uwsgi.ini"]))
    joins = [words[1:] for name in FOR_USERS for words in commands(name) if words[0] in ("join", "config")]
    # Those within a sentence or a table.
    joins += [shlex.split(words) for name in FOR_USERS for words in re.findall(r"`spoolnode join (-[^`]+)`", page(name))]
    assert len(joins) >= 15
    for words in joins:
        said(["config", *[word for word in words if word not in ("-A", "10")]])


def test_every_option_that_is_named_exists(said: Callable[[list[str]], str]) -> None:
    text = "\n".join(page(name) for name in FOR_USERS if name not in ("docs/docker.md", "docs/speed.md"))
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![a-z*-])", text))
    subcommands = (
        "join",
        "send",
        "call",
        "peers",
        "ls",
        "reload",
        "doctor",
        "drain",
        "stop",
        "ca init",
        "forget",
        "dead ls",
        "dead retry",
        "store check",
        "store ls",
        "store move",
        "store pull",
        "store retry",
    )
    known = " ".join(said([*name.split(), "--help"]) for name in subcommands)
    of_others = {"--spooler", "--spooler-external", "--spooler-ordered", "--stats"}  # uWSGI
    of_others |= {"--preload", "--threads", "--worker-class"}  # web servers
    of_others |= {
        "--now",
        "--unix-socket",
        "--autoscale",
        "--run-syncdb",
        "--with-scheduler",
    }  # systemd, curl, Celery, Django, RQ
    of_others |= {"--dry-run", "--from-file", "--from-literal", "--replicas"}  # kubectl
    of_others |= {"--build-arg"}  # docker
    of_others |= {"--system", "--user-group", "--version"}  # useradd, python3
    of_others |= {"--image", "--only"}  # the bench
    missing = {option for option in options - of_others if not re.search(rf"{option}(?![a-z-])", known)}
    assert not missing
    assert len(options) > 50
