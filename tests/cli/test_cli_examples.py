"""The examples in `--help`: every command has some, and each is a line that its command takes."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support import PATIENCE, RunningNode, environment

from spoolnode.cli import main

EXAMPLES = re.compile("\n\b\nExamples:\n((?:  [^ \n].*\n?)+)$")
ALONE = {"demo"}
"""Commands that take nothing: one example is all there is."""
RUN = ("completion", "config", "send", "call", "status", "peers", "ls", "qshape", "timers", "dead ls", "pause", "resume", "flush")
"""These are run beside a node; of the others, and of lines that name another spool, only the words are read."""

APPLICATION = """
from spoolnode import spool

@spool
def mail(number, to): ...

@spool
def report(day): ...
"""
PROGRAM = f"""#!{sys.executable}
import os, sys
import click
from spoolnode.cli import main

args = sys.argv[1:]
if args[0] == "join":
    args[0] = "config"  # it takes the same settings, and ends
is_run = " ".join(args).startswith({RUN!r}) and not {{"--spool", "--watch"}} & {{*args}}
if is_run:
    main(args, prog_name="spoolnode")
group, name, *args = main, *args
with click.Context(main) as context:
    while isinstance(command := group.get_command(context, name), click.Group):
        group, name, *args = command, *args
    command.make_context(name, args, parent=context).close()
print("74ba73fab663_1795859211165932_80")
"""
"""Stands in for `spoolnode`: runs a command that ends and harms nothing, and reads the words of any other."""


def commands(group: click.Group = main, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its name, also those below others."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield f"{above}{name}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{above}{name} ")


COMMANDS = dict(commands())


def examples(command: click.Command) -> list[str]:
    found = EXAMPLES.search(inspect.cleandoc(command.help or ""))
    return [line.strip() for line in found[1].splitlines()] if found else []


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_has_examples_of_itself_at_the_end_of_its_help(name: str) -> None:
    lines = examples(COMMANDS[name])
    assert 1 <= len(lines) <= 4
    assert len(lines) > 1 or name in ALONE
    assert any(f"spoolnode {name}" in line for line in lines)
    assert (COMMANDS[name].help or "").count("Examples:") == 1


@pytest.fixture
def place(node: RunningNode) -> Path:
    """Where a reader may be who types them: with an application, a node, and the files that they name."""
    home = node.directory
    (home / "tasks.py").write_text(APPLICATION)
    (home / "uwsgi.ini").write_text("[uwsgi]\nspooler = spool\n")
    (home / "a.mov").write_bytes(b"frames")
    (home / ".config/fish/completions").mkdir(parents=True)
    program = home / "bin" / "spoolnode"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    node.start("--tag", "gpu", app="import tasks")
    return home


@pytest.mark.timeout(1200)  # sixty interpreters, one after another
def test_each_example_is_a_line_that_its_command_takes(place: Path, node: RunningNode) -> None:
    lines = dict.fromkeys(line for name, command in COMMANDS.items() for line in examples(command))
    in_order = sorted(lines, key=lambda line: "--config" in line)  # first the line that writes the file
    script = "\n".join(f"( {line} ) || echo >&2 {shlex.quote('  ^ ' + line)}" for line in in_order)
    done = subprocess.run(
        ["bash", "-c", script], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=PATIENCE * 8,
        env=environment(
            HOME=str(place), PATH=f"{place / 'bin'}:{os.environ['PATH']}", SPOOLNODE_VIA=node.via, SPOOLNODE_SPOOL=str(node.spool)
        ),
        check=False,
    )  # fmt: skip
    assert "  ^ " not in done.stderr, done.stderr
    assert (done.returncode, len(in_order) > 60) == (0, True), done.stderr


def test_a_line_that_its_command_does_not_take_is_found(place: Path) -> None:
    for line in (
        "spoolnode ls --dead --limit many",
        "spoolnode config --timeout soon",
        "spoolnode forget",
        "spoolnode dead list",
    ):
        done = subprocess.run(
            ["bash", "-c", line], cwd=place, env=environment(PATH=f"{place / 'bin'}:{os.environ['PATH']}"), check=False
        )  # fmt: skip
        assert done.returncode, line
