"""What README.md says to type does what it says: its Python, its commands, its options. Docker's part is in tests/docker."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, RunningNode, command, environment

README = (Path(__file__).parents[2] / "README.md").read_text()


def section(title: str) -> str:
    """The text below a heading."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def blocks(title: str) -> list[str]:
    """The indented blocks of a section, as they would be typed."""
    found = re.findall(r"(?:^    .*\n|^\n)+", section(title), flags=re.M)
    return ["\n".join(line[4:] for line in block.split("\n")).strip("\n") for block in found if block.strip()]


def commands(title: str, program: str = "spoolnode") -> list[list[str]]:
    """The commands in these blocks, their comments taken away."""
    lines = [line for block in blocks(title) for line in block.split("\n") if line.startswith(f"{program} ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def python(code: str, node: RunningNode) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=node.directory, env=environment(SPOOLNODE_VIA=node.via),
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_python_of_the_first_steps_runs(node: RunningNode) -> None:
    (block,) = blocks("In Python")
    module, _, client = block.partition("# anywhere on this machine\n")
    (node.directory / "mailer.py").write_text(module.replace("    ...", "    print('mail', number, to)"))
    node.start("-w", "mailer")
    python(client, node)
    node.wait_for_log("print", text="mail 1 ['ada@example.org']")
    assert node.status()["accepted"] == 3


def test_python_that_names_other_nodes_runs(node: RunningNode) -> None:
    node.start()
    lines = [line for block in blocks("Several machines") for line in block.split("\n") if line.startswith("send_to_spooler(")]
    assert len(lines) == 4
    python("\n".join(["from spoolnode import send_to_spooler", *lines]), node)
    python("import spoolnode.compat; spoolnode.compat.install()\nimport uwsgi, uwsgidecorators", node)


def test_each_command_does_what_its_line_says(node: RunningNode) -> None:
    """In their order, on a node with a task; with the id of that task where ID stands."""
    node.start("-w", "os:getenv")
    identity = ""
    for words in [*commands("From the command line"), ["rm", "ID"]]:
        done = node.command(*[identity if word == "ID" else word for word in words])
        assert done.returncode == 0 or words[0] == "doctor", f"spoolnode {' '.join(words)}: {done.stderr}"
        identity = done.stdout.strip() if words[0] == "send" else identity
    assert identity


def test_certificates_are_made_as_the_lines_say(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    lines = [words for words in commands("Several machines") if words[0] == "ca"]
    assert [words[1] for words in lines] == ["init", "issue", "issue", "show", "revoke"]
    for words in lines:
        done = command(*words, cwd=tmp_path)
        assert done.returncode == 0, f"spoolnode {' '.join(words)}: {done.stderr}"
    assert (tmp_path / "ca" / "ca.crl").exists()


def test_each_join_has_settings_that_are_valid(tmp_path: Path) -> None:
    titles = ("The page of the uWSGI manual, as it stands", "Several machines", "Coming from the uWSGI Spooler")
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nsocket = 127.0.0.1:3031\nspooler = spool\nmodule = mysite.wsgi\n")
    joins = [words[1:] for title in titles for words in commands(title) if words[0] == "join"]
    joins += [shlex.split(words) for words in re.findall(r"`spoolnode join (-[^`]+)`", README)]  # those within a sentence
    assert len(joins) >= 8
    for words in joins:
        done = command("config", *[word for word in words if word not in ("-A", "10")], cwd=tmp_path)
        assert done.returncode == 0, f"spoolnode join {' '.join(words)}: {done.stderr}"


def test_every_option_that_is_named_exists() -> None:
    without_docker = README.replace(section("Three nodes with Docker"), "").replace(section("Speed"), "")
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![a-z*-])", without_docker))
    subcommands = ("join", "send", "peers", "ls", "reload", "doctor", "drain", "stop", "ca init")
    known = " ".join(command(*name.split(), "--help").stdout for name in subcommands)
    uwsgis = {"--spooler", "--spooler-external", "--spooler-ordered"}
    missing = {option for option in options - uwsgis if not re.search(rf"{option}(?![a-z-])", known)}
    assert not missing
    assert len(options) > 30
