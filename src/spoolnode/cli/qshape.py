"""`qshape`: how old the tasks are that wait, in a table: shows what is stuck, and since when."""

from typing import Any

import click

from spoolnode.cli import CommandFailure
from spoolnode.cli.options import json_option, spool_option


@click.command("qshape")
@click.option(
    "--by", type=click.Choice(["function", "node"]), default="function", show_default=True, help="What each row is about."
)
@spool_option
@json_option
def qshape_command(by: str, spool: str, as_json: bool) -> None:
    """Counts waiting tasks by age, as Postfix' qshape does.

    A row for each function or, with --by node, for each node that tasks wait for; the first one is TOTAL. It works with or
    without a running node.

    T: all tasks that wait, here, for another node, or in the common store. 1: those accepted less than a minute ago; 2: of
    the others, those less than two minutes ago; and so on, each column twice as old. 512+: those that are older than the
    last. LATER: those of T that wait for their time or for another attempt.

    A queue that keeps up has its tasks on the left. A bulge that moves to the right was a burst; a row that grows at its right
    end is stuck. A terminal leaves out columns without tasks.

    \b
    Examples:
      spoolnode qshape
      spoolnode qshape --by node
      spoolnode qshape --json --spool /var/lib/spoolnode/spool
    """
    from spoolnode.cli.directory import open_directory
    from spoolnode.cli.printing import print_json

    counted = open_directory(spool).ages(by)
    if as_json:
        print_json(counted)
    else:
        _print(counted, by)
    if counted["missing"]:
        raise CommandFailure(counted["missing"])


def _print(counted: dict[str, Any], by: str) -> None:
    from spoolnode.cli.printing import print_table

    rows = [("TOTAL", counted["total"]), *_by_name(counted["items"])]
    cells = [(name, row["tasks"], *row["ages"], row["later"]) for name, row in rows] if counted["items"] else []
    print_table([by, "t", *_columns(counted["bounds_seconds"]), "later"], cells, "no task waits")
    if counted["groups"] > len(counted["items"]):
        click.echo(f"only the largest {len(counted['items'])} of {counted['groups']} rows are shown", err=True)
    if counted["more_in_store"]:
        click.echo("of the common store, the first 10,000 tasks that are ready, and that are due later, are counted", err=True)


def _by_name(items: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """A row for each function or node, the largest first. Tasks wait for a node under its name, and those of any or tag:X under
    its id: for people these are one row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for item in items:
        row = rows.setdefault(_name(item), {"tasks": 0, "later": 0, "ages": [0] * len(item["ages"])})
        row["tasks"] += item["tasks"]
        row["later"] += item["later"]
        row["ages"] = [count + more for count, more in zip(row["ages"], item["ages"], strict=True)]
    return sorted(rows.items(), key=lambda named: -named[1]["tasks"])


def _name(row: dict[str, Any]) -> str:
    """A function or a node for people."""
    if "function" in row:
        return row["function"] or "-"
    return "(this node)" if row["destination"] is None else str(row["name"] or row["destination"])


def _columns(bounds: list[float]) -> list[str]:
    """The bounds in minutes."""
    minutes = [f"{seconds / 60:g}" for seconds in bounds]
    return [*minutes, f"{minutes[-1]}+"]
