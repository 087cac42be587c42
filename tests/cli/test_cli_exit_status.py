"""The exit status of every command: what docs/api.md promises to scripts."""

import re

import click
import pytest
from click.testing import CliRunner, Result
from documents import section, table
from test_cli_examples import COMMANDS

from spoolnode.cli import main

ID = "0123456789ab_1795860935051479_80"
MEANINGS = {row[0]: row[1] for row in table(section("docs/api.md", "Exit status"))}
OWN = {"doctor", "demo", "join", "config", "store pull"}
"""They take a spool directory that does not exist: they make it, or say that they would."""
MORE = {"store push": ["--store", "postgresql://h/d"]}
"""Options that a command cannot do without."""
ON_A_SPOOL = [name for name, made in COMMANDS.items() if any(each.name == "spool" for each in made.params) and name not in OWN]


def ended(*line: str) -> Result:
    return CliRunner().invoke(main, line, prog_name="spoolnode")


def arguments(command: click.Command) -> list[str]:
    """One for each that the command takes."""
    return [ID for each in command.params if isinstance(each, click.Argument)]


def test_the_page_has_each_status_and_the_commands_to_which_it_means_more() -> None:
    assert list(MEANINGS) == ["0", "1", "2", "3"]
    named = {word for text in MEANINGS.values() for word in re.findall(r"`(\w+(?: check)?)(?: ID)?`", text)}
    assert named <= {*COMMANDS}
    special = {name for name, made in COMMANDS.items() if "Exit status" in (made.help or "")}
    assert special <= named, "what a help says of it, the page says too"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_wrong_option_ends_every_command_with_2(name: str) -> None:
    done = ended(*name.split(), "--no-such-option")
    assert (done.exit_code, "No such option" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ON_A_SPOOL)
def test_a_spool_that_does_not_exist_ends_every_command_with_1_and_a_sentence(name: str) -> None:
    done = ended(*name.split(), *arguments(COMMANDS[name]), *MORE.get(name, ()), "--spool", "/nowhere")
    assert (done.exit_code, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*/nowhere.*\n", done.stderr), done.stderr


def test_the_commands_that_look_at_a_spool_are_among_them() -> None:
    assert {"status", "ls", "qshape", "show", "peers", "dead ls", "dead retry", "cancel", "tail", "top", "forget"} < {*ON_A_SPOOL}
