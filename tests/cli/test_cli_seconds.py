"""Lengths of time: every option and setting that takes one takes it with a unit, and says in one sentence if it is wrong.

The options are found in the parser itself, so one that is added is tried too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from support import command
from test_cli_examples import COMMANDS

from spoolnode.cli.options import duration, time_limit
from spoolnode.cli.settings import SETTINGS, gather
from spoolnode.node.badconfig import BadConfig
from spoolnode.node.duration import RIGHT

RUBBISH = ["5x", "soon", "1h30m", "-1", "1e3", "inf", ""]
ONCE = "join"
"""`config` has the same settings: it is enough to try one of them."""


def options() -> Iterator[tuple[str, click.Option]]:
    """Every option of every command."""
    for name, made in COMMANDS.items():
        with click.Context(made) as context:
            for option in made.get_params(context):
                if isinstance(option, click.Option):
                    yield name, option


def is_length(option: click.Option) -> bool:
    return option.metavar == "SEC"


LENGTHS = {f"{name} {option.opts[-1]}": (name, option) for name, option in options() if is_length(option)}
SECONDS = [name for name, item in SETTINGS.items() if item.metadata["metavar"] == "SEC"]
TRIED = [key for key, (name, _) in LENGTHS.items() if name != "config"]


def read(option: click.Option, text: str) -> Any:
    """The value that an option makes of a text."""
    with click.Context(click.Command("any")) as context:
        return option.type_cast_value(context, text)


def test_the_parser_has_options_of_each_kind() -> None:
    assert {"send --timeout", "call --send-timeout", "cancel --grace", "reload --wait", "ping --wait"} < {*LENGTHS}
    assert {"dead ls --since", "dead retry --since", "dead rm --since"} < {*LENGTHS}
    assert {f"{ONCE} --{name.replace('_', '-')}" for name in SECONDS} < {*LENGTHS}


def test_every_option_that_speaks_of_seconds_or_takes_a_fraction_is_a_length_of_time() -> None:
    for name, option in options():
        is_number = isinstance(option.type, click.types.FloatParamType)
        is_about_time = (
            re.search(r"\bseconds\b", option.help or "", re.IGNORECASE) and not option.is_flag and option.metavar != "TIME"
        )
        assert is_length(option) or not (is_about_time or is_number), f"{name} {option.opts}"
    for name, item in SETTINGS.items():
        assert (item.type in (float, "float")) == (name in SECONDS), name


@pytest.mark.parametrize("key", TRIED)
def test_every_option_takes_a_length_of_time_with_its_unit(key: str) -> None:
    _, option = LENGTHS[key]
    assert option.type.func in (duration, time_limit)  # type: ignore[attr-defined] # of a function as a type
    read_as = {text: read(option, text) for text in ("90", "1.5", "500ms", "30s", "5m", "2h", "1d")}
    assert read_as == {"90": 90, "1.5": 1.5, "500ms": 0.5, "30s": 30, "5m": 300, "2h": 7200, "1d": 86400}


@pytest.mark.parametrize("name", SECONDS)
def test_help_shows_the_default_of_a_setting_as_people_type_it(name: str) -> None:
    option = LENGTHS[f"{ONCE} --{name.replace('_', '-')}"][1]
    shown = (option.help or "").rpartition("[default: ")[2].rstrip("]")
    assert read(option, shown) == SETTINGS[name].default
    assert len(shown.rstrip("smhd")) <= 2, "5d, not 432000"


@pytest.mark.parametrize("key", TRIED)
def test_every_option_says_in_one_sentence_what_it_takes(key: str) -> None:
    for text in RUBBISH:
        with pytest.raises(click.BadParameter) as caught:
            read(LENGTHS[key][1], text)
        assert caught.value.message == f"{text!r} is not a length of time: write {RIGHT}"


@pytest.mark.parametrize("name", SECONDS)
def test_every_setting_takes_a_unit_in_the_environment_and_in_the_file(name: str, tmp_path: Path) -> None:
    file, variable = tmp_path / "node.toml", f"SPOOLNODE_{name.upper()}"
    file.write_text(f'{name} = "5m"\n')
    assert getattr(gather({}, {variable: "2h"}).config, name) == 7200
    assert getattr(gather({}, {}, str(file)).config, name) == 300
    file.write_text(f'{name} = "soon"\n')
    wrong = [({variable: "5x"}, None, f"{variable} is '5x'"), ({}, str(file), f"{file}: {name} is 'soon'")]
    for environment, named, where in wrong:
        with pytest.raises(BadConfig) as caught:
            gather({}, environment, named)
        assert str(caught.value) == f"{where}; it must be {RIGHT}"


@pytest.mark.parametrize(
    "line",
    ["send a=b --timeout 5x", "call f --send-timeout 5x", "cancel 1_2_3 --grace 5x", "dead ls --since 5x", "join --hold 5x"],
)
def test_a_length_that_is_none_ends_a_command_with_2_and_names_the_option(line: str, tmp_path: Path) -> None:
    done = command(*line.split(), cwd=tmp_path)
    option = line.split()[-2]
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: Invalid value for '{option}': '5x' is not a length of time: write {RIGHT}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "text"), [("send", "+5x"), ("call", "5m")])
def test_an_earliest_start_that_is_no_time_is_one_sentence(name: str, text: str, tmp_path: Path) -> None:
    done = command(name, "a=b" if name == "send" else "f", "--at", text, cwd=tmp_path)
    right = "Unix seconds, ISO 8601 like 2026-01-31T08:00, or +90, +5m, +2h, +1d from now on"
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: Invalid value for --at: {text!r} is not a time; write {right}"
