"""`send` stores a task in a node's spool."""

import json
import os
import re
import sys
from typing import Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.completing import files
from spoolnode.cli.options import json_option, node_address, sending_options
from spoolnode.node.duration import read_duration

_OPTIONS = ("at", "priority")
"""Variables that must be given as the option of that name."""


@click.command("send")
@click.argument("pairs", nargs=-1, metavar="KEY=VALUE...")
@click.option("-j", "--json-value", "typed", multiple=True, metavar="KEY=JSON", help="A non-text value; may be repeated.")
@click.option("--body", metavar="FILE", shell_complete=files, help="Data of any size; - is standard input.")
@sending_options
@json_option
def send_command(
    pairs: tuple[str, ...], typed: tuple[str, ...], node: str | None, timeout: float | None, max_attempts: int | None,
    via: str | None, send_timeout: float | None, as_json: bool, **special: Any,
) -> None:  # fmt: skip
    """Stores a task and prints its id.

    When it returns, the task is safe: on that node's disk, or in the store of a node with --store. With --node it waits there,
    if need be, until the other node has it; `all` makes a copy for each node that is up and runs tasks, and the id is that of
    the first.

    Exit status 1: nothing was stored. 3: no answer came, so it may or may not have been stored.

    \b
    Examples:
      spoolnode send ToGroup=customers
      spoolnode send file=a.mov -j width=1280 --at +5m --timeout 1h --body a.mov
      spoolnode send refresh=cache --node all
    """
    tell_stored(node, *_send(_task(pairs, typed, special), node, timeout, max_attempts, via, send_timeout), as_json=as_json)


def tell_stored(node: str | None, identity: str, copies: int, note: str, *, as_json: bool) -> None:
    """Prints what became of a task that was sent to a destination."""
    from spoolnode.cli.printing import print_json

    if as_json:
        noted = {"note": note} if note else {}
        print_json({"id": identity or None, **({"copies": copies} if node == "all" or not copies else {}), **noted})
    elif identity:
        click.echo(identity)
        if not copies:
            click.echo("not stored: a task with the same key waits already", err=True)
        elif node == "all":
            click.echo("1 copy was stored" if copies == 1 else f"{copies} copies were stored, one for each node", err=True)
    else:
        click.echo("stored; this is a uWSGI server, which does not tell an id", err=True)
    if note and not as_json:
        click.echo(note, err=True)


def _send(
    task: dict[str, Any],
    node: str | None,
    timeout: float | None,
    max_attempts: int | None,
    via: str | None,
    send_timeout: float | None,
) -> tuple[str, int, str]:
    """The id, the number of copies that were stored, and the node's note."""
    from spoolnode import client, wire
    from spoolnode.protocol import names

    extra = []
    if max_attempts is not None:
        most = f"{max_attempts},,".encode()
        _as_usage("--max-attempts", lambda: names.read_retry(most))
        extra.append((names.RETRY, most))
    if timeout is not None:
        limit = f"{timeout:.6f}".encode()
        _as_usage("--timeout", lambda: names.read_timeout(limit))
        extra.append((names.TIMEOUT, limit))
    return client.send_copies(node_address(via), wire.task_message(task, node, extra), wire.send_timeout(send_timeout))


def check_priority(text: str) -> None:
    """Raises `click.BadParameter` unless this is a priority."""
    from spoolnode.protocol import names

    if not text:
        raise click.BadParameter(f"it is empty; it must be {names.RIGHT_PRIORITY}", param_hint="--priority")
    _as_usage("--priority", lambda: names.read_priority(os.fsencode(text)))


def _as_usage(option: str, check: Any) -> None:
    from spoolnode.protocol.errors import Refused

    try:
        check()
    except Refused as refusal:
        raise click.BadParameter(refusal.text, param_hint=option) from None


def _task(pairs: tuple[str, ...], typed: tuple[str, ...], special: dict[str, Any]) -> dict[str, Any]:
    if not pairs and not typed and special["body"] is None:
        raise click.UsageError("the task is empty; give it at least one KEY=VALUE, --json-value or --body")
    task: dict[str, Any] = {}
    for pair in pairs:
        name, text = _split(pair, "KEY=VALUE", task)
        task[name] = text
    for pair in typed:
        name, text = _split(pair, "--json-value", task)
        try:
            task[name] = json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"the value of {name!r} is not JSON: {error}", param_hint="--json-value") from None
    if special["at"] is not None:
        import time

        task["at"] = read_time(special["at"], time.time())
    if special["priority"] is not None:
        check_priority(special["priority"])
        task["priority"] = special["priority"]
    if special["key"] is not None:
        from spoolnode.protocol import names

        key = os.fsencode(special["key"])
        _as_usage("--key", lambda: names.read_key(key))
        task["spool_key"] = key
    if special["body"] is not None:
        task["body"] = _read_body(special["body"])
    return task


def _split(pair: str, what: str, task: dict[str, Any]) -> tuple[str, str]:
    """The name and the value in an argument. A name may come once, and not if it has an option."""
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{pair!r} is not a name and a value; write it as name=value", param_hint=what)
    if name in _OPTIONS:
        raise click.BadParameter(f"{name!r} has an option of its own: use --{name}", param_hint=what)
    if name in task:
        raise click.BadParameter(f"{name!r} is given twice", param_hint=what)
    return name, value


def _read_body(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CommandFailure(f"the body {os.fspath(path)!r} cannot be read: {error.strerror}; nothing was sent") from error


def read_time(text: str, now: float) -> float:
    """Seconds since 1970, from Unix seconds, ISO 8601, or `+` and a length of time from `now` on."""
    from datetime import datetime

    try:
        if text.startswith("+"):
            return now + read_duration(text[1:])
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and not re.fullmatch(r"[0-9]{8}", text):
            return float(text)
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is not a time; write Unix seconds, ISO 8601 like 2026-01-31T08:00, or +90, +5m, +2h, +1d from now on",
            param_hint="--at",
        ) from None
