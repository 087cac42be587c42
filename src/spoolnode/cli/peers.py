"""`peers` shows the other nodes, as this one sees them."""

import json
import time
from typing import Any

import click

from spoolnode.cli.options import json_option, spool_option

WATCH_SECONDS = 1.0
NOBODY = "no other node is known"


@click.command("peers")
@click.option("--watch", is_flag=True, help="Again each second, until Ctrl-C; with --json one line each time.")
@spool_option
@json_option
def peers_command(watch: bool, spool: str, as_json: bool) -> None:
    """Shows the other nodes, as a node sees them.

    Each with its state and since when, its load (tasks for each worker), how many tasks wait here for it (OUTBOX), the round
    trip of a ping, how it was discovered, and why it could not be reached last.

    up: it answers. suspect: it did not answer once or twice. down: it does not answer. leaving: it drains or said goodbye.
    rejected: it could not prove who it is, or must not be talked to. unknown: it has not been reached yet.
    """
    from spoolnode.cli.directory import root_of
    from spoolnode.cli.output import print_json
    from spoolnode.control_client import ask

    root = root_of(spool)
    if watch:
        _watch(root, as_json)
        return
    rows = ask(root, "GET", "/peers")
    if as_json:
        print_json(rows)
    else:
        _print(rows)


def _watch(root: str, as_json: bool) -> None:
    from spoolnode.control_client import ask

    try:
        while True:
            rows = ask(root, "GET", "/peers")
            if as_json:
                click.echo(json.dumps(rows, ensure_ascii=False))
            else:
                click.clear()
                _print(rows)
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        pass  # that is how it is ended


def _print(rows: list[dict[str, Any]]) -> None:
    from spoolnode.cli.output import print_table

    print_table(list(_COLUMNS), [[column(row) for column in _COLUMNS.values()] for row in rows], NOBODY)


def _since(row: dict[str, Any]) -> str:
    from spoolnode.cli.output import ago

    return ago(row["since"], units=1)


def _sources(row: dict[str, Any]) -> str:
    """Only their kinds: a source may name a hundred addresses."""
    return ", ".join(dict.fromkeys(source.partition(":")[0].partition("?")[0] for source in row["sources"])) or "itself"


# What a column shows, by its title. A narrow terminal has no room for the last ones.
_COLUMNS = {
    "name": lambda row: row["name"] or "-",
    "state": lambda row: row["state"],
    "for": _since,
    "address": lambda row: row["address"],
    "load": lambda row: row["load"],
    "outbox": lambda row: row["outbox"],
    "reason": lambda row: row["reason"],
    "round trip": lambda row: f"{row['rtt'] * 1000:.1f} ms" if row["rtt"] else "",
    "id": lambda row: row["id"],
    "found by": _sources,
}
