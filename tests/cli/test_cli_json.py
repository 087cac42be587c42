"""What each command prints with `--json` has the shape that docs/json-reference.md gives, which is made from openapi.json."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner
from json_reference import PAGE, written
from postgres import Postgres, short_place
from support import RunningNode, command

from spoolnode.cli import main
from spoolnode.node.control.routes import description

APP = """
from spoolnode import spool, timer

@spool
def pay():
    raise ValueError("no such customer")

@timer(3600)
def hourly():
    pass
"""
LINES = [
    "send a=b --at +1h",
    "send a=b --at +1h --key k",
    "send a=b --at +1h --key k",
    "send a=b --node nowhere",
    "send a=b --node all --at +1h",
    "call app:pay --max-attempts 1",
    "call --list app.py",
    "tail LAST",
    "status",
    "status --cluster",
    "peers",
    "ls",
    "ls --outbox",
    "ls --retrying",
    "ls --ended",
    "qshape",
    "qshape --by node",
    "timers",
    "show LAST",
    "dead ls",
    "dead ls --by function",
    "retry FIRST nothing_1_2",
    "cancel LAST nothing_1_2",
    "dead retry LAST",
    "dead retry --function app:pay -y",
    "dead rm nothing_1_2",
    "dead rm --all -y",
    "rm FIRST nothing_1_2",
    "ping",
    "flush",
    "pause app:pay",
    "resume",
    "forget nowhere -y",
    "web",
    "config",
    "doctor -s VIA",
    "store check --migrate",
    "store push --spool other",
    "store ls",
    "store retry nothing_1_2",
    "store retry --all -y",
    "store move --from nowhere --to any",
    "store rm nothing_1_2",
    "store pull --spool other",
    "ca show ca/ca.crt",
    "settle",
    "drain",
]
"""Typed in this order, with the ids of the first task and of the last one that was called."""


def with_json(group: click.Group = main, above: str = "") -> Iterator[str]:
    """The commands that have `--json`."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from with_json(command, f"{above}{name} ")
            elif command is not None and any("--json" in parameter.opts for parameter in command.params):
                yield above + name


def command_of(line: str) -> str:
    return max((name for name in with_json() if f"{line} ".startswith(f"{name} ")), key=len)


def check(name: str, printed: Any) -> None:
    """Compares what a command printed with the file."""
    from jsonschema import Draft202012Validator

    file = description()
    schema = _extended(file["x-commands"][name], file["components"]["schemas"])
    Draft202012Validator({**schema, "components": file["components"], "paths": file["paths"]}).validate(printed)


def _extended(schema: dict[str, Any], objects: dict[str, Any]) -> dict[str, Any]:
    """A schema with the fields of the object that it extends."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_extended(each, objects) for each in schema["anyOf"]]}
    base = objects.get(schema.get("x-extends", "").rpartition("/")[2], {})
    merged = {
        key: {**base[key], **schema[key]} if key == "properties" else base[key] + schema[key]
        for key in ("properties", "required")
        if base
    }
    return {**base, **schema, **merged}


@pytest.fixture
def store() -> Iterator[Postgres]:
    """A server for `spoolnode store`."""
    with short_place() as place:
        server = Postgres(place)
        try:
            yield server.start()
        finally:
            server.end()


def test_each_command_prints_what_the_reference_says(node: RunningNode, store: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    node.start("--workers", "1", "--http", "127.0.0.1:0", app=APP)
    (node.directory / "other").mkdir()
    assert node.command("send", "a=b", "--via", f"dir:{node.directory / 'other'}").returncode == 0
    monkeypatch.setenv("SPOOLNODE_STORE", store.url())
    assert node.command("ca", "init", "ca").returncode == 0
    monkeypatch.chdir(node.directory)
    monkeypatch.setenv("SPOOLNODE_SPOOL", str(node.spool))
    monkeypatch.setenv("SPOOLNODE_VIA", node.via)
    ids = {"FIRST": "", "LAST": "", "VIA": node.via}
    for line in LINES:
        words = [ids.get(word, word) for word in shlex.split(line)]
        # An application is imported in a process of its own.
        done = (
            command(*words, "--json", cwd=node.directory) if "--list" in words else CliRunner().invoke(main, [*words, "--json"])
        )
        text = done.stdout
        assert text, f"{line}: {done.stderr}"
        for document in text.splitlines() if words[0] == "tail" else [text]:
            check(command_of(line), json.loads(document))
        if words[0] in ("send", "call") and "--list" not in words:
            ids["LAST"] = json.loads(text)["id"]
            ids["FIRST"] = ids["FIRST"] or ids["LAST"]
    node.wait()
    assert {command_of(line) for line in LINES} == set(with_json())


def test_the_reference_is_made_from_the_file() -> None:
    assert PAGE.read_text(encoding="utf-8") == written(), "run `python tests/json_reference.py`"
    assert set(description()["x-commands"]) == set(with_json())
